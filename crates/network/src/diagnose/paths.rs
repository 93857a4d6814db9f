//! What dead paths say about NICs that look well, one storage network at a time.

use super::evidence::{PathState, View, nic_lost, nic_one_way};
use super::loss::{Blocked, Diagnosis, Direction, Loss, Lost, RoomEnd, Seen, Way};
use super::{NicId, cable_of, nic_of, zones};
use crate::lldp::ChassisId;
use crate::wiring::Connection;
use model::{NodeName, StorageNetwork, ZoneName};
use std::collections::BTreeSet;

/// Names the switches that dead paths alone convict, and returns the NICs on them. `out` are NICs that can't be blamed on
/// their switch: they are explained already, or unplugged, or elsewhere.
pub(super) fn lost_switches(
    view: &View<'_>,
    network: &StorageNetwork,
    cables: &[Connection],
    out: &BTreeSet<NicId>,
    diagnosis: &mut Diagnosis,
) -> BTreeSet<NicId> {
    let lost = Judge::new(view, network, cables, out).switches(diagnosis);
    cables.iter().filter(|cable| lost.contains(&&cable.switch)).map(nic_of).collect()
}

/// Judges one storage network. `out` are NICs that are explained already.
pub(super) fn judge(
    view: &View<'_>,
    network: &StorageNetwork,
    cables: &[Connection],
    out: &BTreeSet<NicId>,
    diagnosis: &mut Diagnosis,
) {
    let mut judge = Judge::new(view, network, cables, out);
    judge.nics(diagnosis);
    judge.room_link(diagnosis);
    judge.rest(diagnosis);
}

/// Who sends, who should hear it.
type Path<'a> = (&'a NodeName, &'a NodeName);

/// What several paths say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Together {
    AllDead,
    SomeAlive,
    /// None is alive, and nobody knows of some of them.
    Unknown,
    /// There are none.
    Nothing,
}

struct Judge<'a> {
    view: &'a View<'a>,
    network: &'a StorageNetwork,
    cables: &'a [Connection],
    /// Nodes whose NIC on this network looks well.
    zones: Vec<(&'a ZoneName, Vec<&'a NodeName>)>,
    /// Paths that a loss explains already.
    explained: BTreeSet<Path<'a>>,
}

impl<'a> Judge<'a> {
    fn new(
        view: &'a View<'a>,
        network: &'a StorageNetwork,
        cables: &'a [Connection],
        out: &BTreeSet<NicId>,
    ) -> Self {
        let usable = |node: &&NodeName| {
            let nic = ((*node).clone(), network.adapter.clone());
            !out.contains(&nic) && cable_of(cables, node, &network.adapter).is_some() && !view.is_silent(node)
        };
        let zones = zones(view.known_good)
            .into_iter()
            .map(|(zone, nodes)| (zone, nodes.into_iter().filter(usable).collect()))
            .collect();
        Self { view, network, cables, zones, explained: BTreeSet::new() }
    }

    fn state(&self, (from, to): Path<'a>) -> PathState {
        self.view.path(from, to, self.network.index)
    }

    fn together(&self, paths: &[Path<'a>]) -> Together {
        let states: Vec<PathState> = paths.iter().map(|path| self.state(*path)).collect();
        if states.is_empty() {
            Together::Nothing
        } else if states.contains(&PathState::Alive) {
            Together::SomeAlive
        } else if states.contains(&PathState::Unknown) {
            Together::Unknown
        } else {
            Together::AllDead
        }
    }

    fn nodes(&self) -> Vec<&'a NodeName> {
        self.zones.iter().flat_map(|(_, nodes)| nodes.iter().copied()).collect()
    }

    /// Paths from one set of nodes to another that nothing explains yet.
    fn between(&self, from: &[&'a NodeName], to: &[&'a NodeName]) -> Vec<Path<'a>> {
        let all = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        all.filter(|path| path.0 != path.1 && !self.explained.contains(path)).collect()
    }

    fn lose(
        &mut self,
        what: Lost,
        paths: &[Path<'a>],
        could_also_be: Vec<String>,
        diagnosis: &mut Diagnosis,
    ) {
        let evidence: Vec<Seen> =
            paths.iter().filter_map(|(from, to)| self.view.seen(from, to, self.network.index)).collect();
        let dead = paths.iter().filter(|path| matches!(self.state(**path), PathState::Dead(_)));
        let dead: Vec<Path<'a>> = dead.copied().collect();
        self.explained.extend(dead);
        diagnosis.losses.push(Loss { what, evidence, could_also_be });
    }

    /// A zone whose NICs all look well and reach nobody at all: what they share is the switch.
    fn switches(&mut self, diagnosis: &mut Diagnosis) -> Vec<&'a ChassisId> {
        let mut lost = Vec::new();
        let all = self.nodes();
        for (_, nodes) in self.zones.clone() {
            let inside = self.between(&nodes, &nodes);
            let mut touching = self.between(&nodes, &all);
            touching.extend(self.between(&all, &nodes).into_iter().filter(|path| !inside.contains(path)));
            let Some(cable) =
                nodes.first().and_then(|node| cable_of(self.cables, node, &self.network.adapter))
            else {
                continue;
            };
            let one_switch = nodes.iter().all(|node| {
                cable_of(self.cables, node, &self.network.adapter).is_some_and(|c| c.switch == cable.switch)
            });
            // Two nodes that don't hear each other may have one bad cable; that they reach nobody else either decides.
            let dead =
                self.together(&inside) == Together::AllDead && self.together(&touching) == Together::AllDead;
            if dead && one_switch {
                let what = Lost::Switch { switch: cable.switch.clone(), name: cable.switch_name.clone() };
                self.lose(what, &touching, Vec::new(), diagnosis);
                lost.push(&cable.switch);
            }
        }
        lost
    }

    /// A NIC that nobody hears, or that hears nobody, the other nodes of its own zone included.
    fn nics(&mut self, diagnosis: &mut Diagnosis) {
        let all = self.nodes();
        for (_, nodes) in self.zones.clone() {
            for node in nodes.iter().copied() {
                let mates: Vec<&NodeName> = nodes.iter().copied().filter(|mate| *mate != node).collect();
                let (send, receive) = (self.between(&[node], &all), self.between(&all, &[node]));
                let deaf = |judge: &Self, inside: &[Path<'a>], every: &[Path<'a>]| {
                    judge.together(inside) == Together::AllDead && judge.together(every) == Together::AllDead
                };
                let mute = deaf(self, &self.between(&[node], &mates), &send);
                let deaf = deaf(self, &self.between(&mates, &[node]), &receive);
                let Some(cable) = cable_of(self.cables, node, &self.network.adapter) else { continue };
                let others_well = {
                    let rest: Vec<&NodeName> = all.iter().copied().filter(|other| *other != node).collect();
                    self.together(&self.between(&rest, &rest)) == Together::SomeAlive
                };
                let both: Vec<Path<'a>> = send.iter().chain(&receive).copied().collect();
                let what = match (mute, deaf) {
                    (true, true) if others_well => nic_lost(cable),
                    (true, false) if self.together(&receive) == Together::SomeAlive => {
                        nic_one_way(cable, Way::Send)
                    }
                    (false, true) if self.together(&send) == Together::SomeAlive => {
                        nic_one_way(cable, Way::Receive)
                    }
                    _ => continue,
                };
                self.lose(what, &both, Vec::new(), diagnosis);
            }
        }
    }

    /// All that crosses between the zones is dead, one way or both.
    fn room_link(&mut self, diagnosis: &mut Diagnosis) {
        let zones = self.zones.clone();
        let [(a, in_a), (b, in_b)] = zones.as_slice() else { return };
        let (there, back) = (self.between(in_a, in_b), self.between(in_b, in_a));
        let (a, b) = (*a, *b);
        let direction = match (self.together(&there), self.together(&back)) {
            (Together::AllDead, Together::AllDead) => Direction::Both,
            (Together::AllDead, Together::SomeAlive) => Direction::OneWay { from: a.clone(), to: b.clone() },
            (Together::SomeAlive, Together::AllDead) => Direction::OneWay { from: b.clone(), to: a.clone() },
            (Together::AllDead, _) => Direction::AtLeast { from: a.clone(), to: b.clone() },
            (_, Together::AllDead) => Direction::AtLeast { from: b.clone(), to: a.clone() },
            (one, other) => {
                let unknown = [(one, a, b), (other, b, a)];
                for (_, from, to) in unknown.iter().filter(|(state, ..)| *state == Together::Unknown) {
                    let what = format!(
                        "whether zone {to} hears zone {from} on storage network {}",
                        self.network.index
                    );
                    let why = format!("no node of zone {to} that should hear it has reported lately");
                    diagnosis.blocked.push(Blocked { what, why });
                }
                return;
            }
        };
        let could_also_be = self.look_alikes(in_a, in_b, &direction);
        let ends = [self.end(a), self.end(b)];
        let paths: Vec<Path<'a>> = there.into_iter().chain(back).collect();
        let what = Lost::RoomLink { network: self.network.index, ends, direction };
        self.lose(what, &paths, could_also_be, diagnosis);
    }

    /// With one NIC in a zone, its cable looks like the link between the rooms; and so does its switch, both ways.
    fn look_alikes(
        &self,
        in_a: &[&'a NodeName],
        in_b: &[&'a NodeName],
        direction: &Direction,
    ) -> Vec<String> {
        let alone = [in_a, in_b].into_iter().filter_map(|nodes| match nodes {
            [node] => cable_of(self.cables, node, &self.network.adapter),
            _ => None,
        });
        let all = *direction == Direction::Both;
        let which = if all { "the cable" } else { "one direction of the cable" };
        let words = alone.flat_map(|cable| {
            let cable_words = format!("{which} of {} {}, which still has carrier", cable.node, cable.adapter);
            let switch_words = all.then(|| format!("switch {}, whose ports are still up", cable.switch));
            [Some(cable_words), switch_words]
        });
        words.flatten().collect()
    }

    fn end(&self, zone: &ZoneName) -> RoomEnd {
        let here =
            |cable: &&Connection| cable.zone.as_ref() == Some(zone) && cable.adapter == self.network.adapter;
        let cable = self.cables.iter().find(here);
        RoomEnd {
            zone: zone.clone(),
            switch: cable.map(|cable| cable.switch.clone()),
            switch_name: cable.and_then(|cable| cable.switch_name.clone()),
        }
    }

    /// Dead paths that nothing explains.
    fn rest(&mut self, diagnosis: &mut Diagnosis) {
        let all = self.nodes();
        for path in self.between(&all, &all) {
            if matches!(self.state(path), PathState::Dead(_)) {
                let (from, to) = (path.0.clone(), path.1.clone());
                self.lose(
                    Lost::Path { network: self.network.index, from, to },
                    &[path],
                    Vec::new(),
                    diagnosis,
                );
            }
        }
    }
}
