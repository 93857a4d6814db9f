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

/// Judges one storage network. `out` are NICs that are explained already, `deaf` those of which it is known that they
/// receive nothing; they still can be heard, until their kernels want to know again where a peer lives (ARP) and hear no
/// answer.
pub(super) fn judge(
    view: &View<'_>,
    network: &StorageNetwork,
    cables: &[Connection],
    out: &BTreeSet<NicId>,
    deaf: &BTreeSet<NicId>,
    diagnosis: &mut Diagnosis,
) {
    let mut judge = Judge::new(view, network, cables, out);
    let all = judge.nodes();
    let is_deaf = |node: &&NodeName| deaf.contains(&((*node).clone(), network.adapter.clone()));
    let deaf: Vec<&NodeName> = all.iter().copied().filter(is_deaf).collect();
    judge.forget(&judge.between(&all, &deaf));
    judge.forget(&judge.between(&deaf, &all));
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
    /// None is alive, and some waver: the next reports decide.
    Wavering,
    /// None is alive, and nobody knows of some of them.
    Unknown,
    /// There are none.
    Nothing,
}

struct Judge<'a> {
    view: &'a View<'a>,
    network: &'a StorageNetwork,
    cables: &'a [Connection],
    /// Nodes whose NIC on this network looks well. Where one switch serves both zones (wiring D), all are in the first: nothing
    /// but that switch lies between them.
    zones: Vec<(&'a ZoneName, Vec<&'a NodeName>)>,
    /// Paths that a loss explains already.
    explained: BTreeSet<Path<'a>>,
}

/// Whether all NICs of a storage network are on one switch when all is well.
fn one_switch(cables: &[Connection], network: &StorageNetwork) -> bool {
    let of_network = |cable: &&Connection| cable.zone.is_some() && cable.adapter == network.adapter;
    let switches: BTreeSet<&ChassisId> =
        cables.iter().filter(of_network).map(|cable| &cable.switch).collect();
    switches.len() == 1
}

/// All zones' nodes in the first.
fn as_one<'a>(zones: Vec<(&'a ZoneName, Vec<&'a NodeName>)>) -> Vec<(&'a ZoneName, Vec<&'a NodeName>)> {
    let first = zones.first().map(|(zone, _)| *zone);
    let nodes: Vec<&NodeName> = zones.into_iter().flat_map(|(_, nodes)| nodes).collect();
    first.map(|zone| (zone, nodes)).into_iter().collect()
}

/// What is wrong with a NIC as far as other NICs can tell.
struct NicWay<'a> {
    node: &'a NodeName,
    what: Lost,
    mute: bool,
    deaf: bool,
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
            !out.contains(&nic)
                && cable_of(cables, node, &network.adapter).is_some()
                && !view.may_be_gone(node)
        };
        let zones = zones(view.known_good)
            .into_iter()
            .map(|(zone, nodes)| (zone, nodes.into_iter().filter(usable).collect::<Vec<_>>()))
            .collect();
        let zones = if one_switch(cables, network) { as_one(zones) } else { zones };
        Self { view, network, cables, zones, explained: BTreeSet::new() }
    }

    fn state(&self, (from, to): Path<'_>) -> PathState {
        self.view.path(from, to, self.network.index)
    }

    fn together(&self, paths: &[Path<'a>]) -> Together {
        let states: Vec<PathState> = paths.iter().map(|path| self.state(*path)).collect();
        if states.is_empty() {
            Together::Nothing
        } else if states.contains(&PathState::Alive) {
            Together::SomeAlive
        } else if states.contains(&PathState::Wavering) {
            Together::Wavering
        } else if states.contains(&PathState::Unknown) {
            Together::Unknown
        } else {
            Together::AllDead
        }
    }

    /// Whether any of these has been alive for a while.
    fn any_steady(&self, paths: &[Path<'a>]) -> bool {
        paths.iter().any(|(from, to)| self.view.is_steady(from, to, self.network.index))
    }

    /// Whether a node hears anybody on this network.
    fn hears(&self, node: &NodeName) -> bool {
        self.nodes().into_iter().any(|from| self.state((from, node)) == PathState::Alive)
    }

    /// Whether anybody hears a node on this network.
    fn is_heard(&self, node: &NodeName) -> bool {
        self.nodes().into_iter().any(|to| self.state((node, to)) == PathState::Alive)
    }

    fn nodes(&self) -> Vec<&'a NodeName> {
        self.zones.iter().flat_map(|(_, nodes)| nodes.iter().copied()).collect()
    }

    /// Paths from one set of nodes to another that nothing explains yet.
    fn between(&self, from: &[&'a NodeName], to: &[&'a NodeName]) -> Vec<Path<'a>> {
        let all = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        all.filter(|path| path.0 != path.1 && !self.explained.contains(path)).collect()
    }

    fn lose(&self, what: Lost, paths: &[Path<'a>], could_also_be: Vec<String>, diagnosis: &mut Diagnosis) {
        let evidence: Vec<Seen> =
            paths.iter().filter_map(|(from, to)| self.view.seen(from, to, self.network.index)).collect();
        diagnosis.losses.push(Loss { what, evidence, could_also_be });
    }

    /// These paths are explained, as far as they are dead.
    fn forget(&mut self, paths: &[Path<'a>]) {
        let dead = paths.iter().copied().filter(|path| matches!(self.state(*path), PathState::Dead(_)));
        self.explained.extend(dead.collect::<Vec<_>>());
    }

    /// A zone whose NICs all look well and reach nobody at all: what they share is the switch. It takes two nodes to say
    /// so: one alone may have a bad cable. Where nobody is beyond the switch, it takes three: of two, either may have one.
    fn switches(&self, diagnosis: &mut Diagnosis) -> Vec<&'a ChassisId> {
        let mut lost = Vec::new();
        let all = self.nodes();
        for (_, nodes) in &self.zones {
            let cables = nodes.iter().filter_map(|node| cable_of(self.cables, node, &self.network.adapter));
            let cables: Vec<&Connection> = cables.collect();
            let Some(cable) = cables.first().copied() else { continue };
            let inside = self.between(nodes, nodes);
            let mut touching = self.between(nodes, &all);
            touching.extend(self.between(&all, nodes).into_iter().filter(|path| !inside.contains(path)));
            // Without a second node there is no path inside.
            let dead =
                self.together(&inside) == Together::AllDead && self.together(&touching) == Together::AllDead;
            let enough = self.zones.len() > 1 || nodes.len() > 2;
            if dead && enough && cables.iter().all(|other| other.switch == cable.switch) {
                let what = Lost::Switch { switch: cable.switch.clone(), name: cable.switch_name.clone() };
                self.lose(what, &touching, Vec::new(), diagnosis);
                lost.push(&cable.switch);
            }
        }
        lost
    }

    /// A NIC that nobody hears, or that hears nobody, the other nodes of its own zone included.
    ///
    /// All are judged before any of them explains a path: a loss of one direction explains that direction only.
    fn nics(&mut self, diagnosis: &mut Diagnosis) {
        let zones = self.zones.clone();
        let nodes = zones.iter().flat_map(|(_, nodes)| nodes.iter().map(move |node| (*node, nodes)));
        let lost: Vec<NicWay<'a>> = nodes.filter_map(|(node, zone)| self.nic(node, zone)).collect();
        let all = self.nodes();
        for NicWay { node, what, mute, deaf } in lost {
            let (send, receive) = (self.between(&[node], &all), self.between(&all, &[node]));
            let evidence: Vec<Path<'a>> = send.iter().chain(&receive).copied().collect();
            self.lose(what, &evidence, Vec::new(), diagnosis);
            if mute {
                self.forget(&send);
            }
            if deaf {
                self.forget(&receive);
                self.forget(&send);
            }
        }
    }

    fn nic(&self, node: &'a NodeName, zone: &[&'a NodeName]) -> Option<NicWay<'a>> {
        let all = self.nodes();
        let cable = cable_of(self.cables, node, &self.network.adapter)?;
        let mates: Vec<&NodeName> = zone.iter().copied().filter(|mate| *mate != node).collect();
        // Who hears nobody can't convict a sender, and whom nobody hears no receiver.
        let ears: Vec<&NodeName> = all.iter().copied().filter(|to| *to != node && self.hears(to)).collect();
        let mouths: Vec<&NodeName> =
            all.iter().copied().filter(|from| *from != node && self.is_heard(from)).collect();
        // It isn't what lies between the rooms, if a mate is concerned, or if a mate's frames get through there.
        let alive = |path: Path<'_>| self.state(path) == PathState::Alive;
        let near_ear = |to: &&NodeName| mates.contains(to) || mates.iter().any(|mate| alive((mate, to)));
        let near_mouth =
            |from: &&NodeName| mates.contains(from) || mates.iter().any(|mate| alive((from, mate)));
        let mute =
            ears.iter().any(near_ear) && self.together(&self.between(&[node], &ears)) == Together::AllDead;
        let deaf = mouths.iter().any(near_mouth)
            && self.together(&self.between(&mouths, &[node])) == Together::AllDead;
        let what = match (mute, deaf) {
            (true, true) => nic_lost(cable),
            (true, false) if self.any_steady(&self.between(&all, &[node])) => nic_one_way(cable, Way::Send),
            (false, true) if self.any_steady(&self.between(&[node], &all)) => {
                nic_one_way(cable, Way::Receive)
            }
            _ => return None,
        };
        Some(NicWay { node, what, mute, deaf })
    }

    /// All that crosses between the zones is dead, one way or both.
    fn room_link(&mut self, diagnosis: &mut Diagnosis) {
        let zones = self.zones.clone();
        let [(a, in_a), (b, in_b)] = zones.as_slice() else { return };
        let (there, back) = (self.between(in_a, in_b), self.between(in_b, in_a));
        // As long as a zone may be falling silent within itself, too, it may be its switch.
        if [in_a, in_b].iter().any(|zone| self.together(&self.between(zone, zone)) == Together::Wavering) {
            return;
        }
        let (a, b) = (*a, *b);
        let direction = match (self.together(&there), self.together(&back)) {
            (Together::AllDead, Together::AllDead) => Direction::Both,
            (Together::AllDead, Together::SomeAlive) if self.any_steady(&back) => {
                Direction::OneWay { from: a.clone(), to: b.clone() }
            }
            (Together::SomeAlive, Together::AllDead) if self.any_steady(&there) => {
                Direction::OneWay { from: b.clone(), to: a.clone() }
            }
            (Together::AllDead, Together::Unknown | Together::Nothing) => {
                Direction::AtLeast { from: a.clone(), to: b.clone() }
            }
            (Together::Unknown | Together::Nothing, Together::AllDead) => {
                Direction::AtLeast { from: b.clone(), to: a.clone() }
            }
            (one, other) => {
                self.untold(&[(one, a, b), (other, b, a)], diagnosis);
                return;
            }
        };
        let could_also_be = self.look_alikes(in_a, in_b, &direction);
        let ends = [self.end(a), self.end(b)];
        let paths: Vec<Path<'a>> = there.into_iter().chain(back).collect();
        let what = Lost::RoomLink { network: self.network.index, ends, direction };
        self.lose(what, &paths, could_also_be, diagnosis);
        self.forget(&paths);
    }

    /// What between the zones can't be told, because nobody reports who could.
    fn untold(&self, ways: &[(Together, &ZoneName, &ZoneName)], diagnosis: &mut Diagnosis) {
        let nobody = self.zones.iter().any(|(_, nodes)| nodes.is_empty());
        let gone = |zone: &ZoneName| {
            let left: Vec<&NodeName> = zones(self.view.known_good)
                .into_iter()
                .filter(|(name, _)| *name == zone)
                .flat_map(|(_, nodes)| nodes)
                .collect();
            left.into_iter().any(|node| self.view.may_be_gone(node) && !self.view.is_silent(node))
        };
        for (state, from, to) in ways {
            let doubtful = *state == Together::Nothing && nobody && (gone(from) || gone(to));
            if *state == Together::Unknown || doubtful {
                let what =
                    format!("whether zone {to} hears zone {from} on storage network {}", self.network.index);
                let why = format!("no node of zone {to} that should hear it has reported lately");
                diagnosis.blocked.push(Blocked { what, why });
            }
        }
    }

    /// With one NIC in a zone, its cable looks like the link between the rooms; and so does the switch of a zone in which
    /// nobody is seen to hear another.
    fn look_alikes(
        &self,
        in_a: &[&'a NodeName],
        in_b: &[&'a NodeName],
        direction: &Direction,
    ) -> Vec<String> {
        let one_way = matches!(direction, Direction::OneWay { .. });
        let which = if one_way { "one direction of the cable" } else { "the cable" };
        let mut words = Vec::new();
        for nodes in [in_a, in_b] {
            let Some(first) = nodes.first() else { continue };
            let Some(cable) = cable_of(self.cables, first, &self.network.adapter) else { continue };
            if nodes.len() == 1 {
                words.push(format!("{which} of {} {}, which still has carrier", cable.node, cable.adapter));
            }
            if !one_way && self.together(&self.between(nodes, nodes)) != Together::SomeAlive {
                words.push(format!("switch {}, whose ports are still up", cable.switch));
            }
        }
        words
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

    /// Dead paths that nothing explains, once none wavers that may belong to the same loss. Of those whose other direction came
    /// back a moment ago, nobody knows yet.
    fn rest(&self, diagnosis: &mut Diagnosis) {
        let all = self.nodes();
        let rest = self.between(&all, &all);
        let dead = |path: &&Path<'a>| matches!(self.state(**path), PathState::Dead(_));
        let wavering = rest.iter().filter(|path| self.state(**path) == PathState::Wavering).count();
        if wavering > 0 && rest.iter().any(|path| dead(&path)) {
            let what = format!("what is lost on storage network {}", self.network.index);
            let why = format!("some of its paths are dead, and it is not certain yet of {wavering} others");
            diagnosis.blocked.push(Blocked { what, why });
            return;
        }
        let back = |path: &&Path<'a>| {
            let reverse = (path.1, path.0);
            self.state(reverse) == PathState::Alive && !self.any_steady(&[reverse])
        };
        let (coming, dead): (Vec<&Path<'a>>, Vec<&Path<'a>>) = rest.iter().filter(dead).partition(back);
        if let Some((from, to)) = coming.first() {
            let what = format!(
                "whether what {from} sends to {to} on storage network {} is lost",
                self.network.index
            );
            let why = "the other direction came back a moment ago".to_owned();
            diagnosis.blocked.push(Blocked { what, why });
        }
        for path in dead {
            let (from, to) = (path.0.clone(), path.1.clone());
            let what = Lost::Path { network: self.network.index, from, to };
            self.lose(what, &[*path], Vec::new(), diagnosis);
        }
    }
}
