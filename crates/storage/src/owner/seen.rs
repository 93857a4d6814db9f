//! What the kernel has of a volume on the node that owns it, and what that means in control's words.

use super::Thin;
use crate::name::GivenLeg;
use control::command::LegRef;
use control::moment::Moment;
use control::owner::{Gate as HeldGate, Held, LegLook, Look, Rebuild, Standing, Up};
use control::rebuild::Progress;
use model::{Epoch, Incarnation, LegId, MapSequence, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the kernel has of one volume on this node as its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The gates of this volume, by leg.
    pub gates: BTreeMap<LegId, Gate>,
    /// The array.
    pub array: Option<Array>,
    /// How much users can open, bytes; `None`: nothing.
    pub top: Option<u64>,
    /// What there is of a thin volume.
    pub thin: Thin,
    /// Connections to legs of this volume.
    pub connections: BTreeMap<GivenLeg, Vec<Connection>>,
}

impl Seen {
    /// Whether what a gate leads to is there: of this node, or with a connection that lives.
    pub(super) fn is_reachable(&self, gate: &Gate) -> bool {
        let live = |to| self.connections.get(&to).is_some_and(|all| all.iter().any(|one| one.live));
        gate.to.is_some_and(|to| gate.local || live(to))
    }
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Of which epoch.
    pub epoch: Epoch,
    /// Where it leads; `None`: to something that is gone.
    pub to: Option<GivenLeg>,
    /// Whether that is a device of this node.
    pub local: bool,
    /// Whether it has a path, by its own word.
    pub path: bool,
    /// Whether it queues when it has none.
    pub queues: bool,
}

impl Gate {
    /// Whether it is the way. One that was told to fail is of a leg that was let go, and nobody's way.
    pub(super) fn leads(&self, way: Way) -> bool {
        self.queues && self.way() == Some(way)
    }

    /// The way that it is; `None`: it leads to something that is gone.
    pub fn way(&self) -> Option<Way> {
        Some(Way { given: self.to?, epoch: self.epoch, local: self.local })
    }
}

/// An NVMe controller of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its number.
    pub controller: u32,
    /// Where it leads to.
    pub address: IpAddr,
    /// Whether it is alive.
    pub live: bool,
}

/// An array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Of which epoch.
    pub epoch: Epoch,
    /// `array_state`, as md has it.
    pub state: String,
    /// `sync_action`, as md has it; empty while there is none.
    pub action: String,
    /// Whether a copy waits before its first chunk.
    pub held: bool,
    /// How many legs it has room for.
    pub room: u32,
    /// Its legs.
    pub members: BTreeMap<LegId, Member>,
}

/// A leg in an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its place; `None`: it has none.
    pub slot: Option<u32>,
    /// The words of its `state`.
    pub words: BTreeSet<String>,
}

impl Member {
    pub(super) fn has(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    pub(super) fn failed(&self) -> bool {
        self.has("faulty") || self.has("write_error") || self.has("blocked")
    }
}

/// How a leg is reached: by a gate, always. Its device has the gate's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// What the gate leads to.
    pub given: GivenLeg,
    /// Of which epoch it is.
    pub epoch: Epoch,
    /// Whether that is a device of this node; else it is another's, over NVMe.
    pub local: bool,
}

/// Short, since plans are full of them.
impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = if self.local { "own " } else { "" };
        write!(f, "{whose}gate of {} to {}", self.epoch, self.given)
    }
}

impl Way {
    /// Which leg that is.
    pub fn leg(&self) -> LegId {
        self.given.leg.1
    }

    /// The gate's name, which has no incarnation.
    pub fn device(&self) -> String {
        crate::name::gate(self.given.leg, self.epoch)
    }
}

/// `Look`, in control's words. Legs that control names and that are not here are out.
pub fn look(seen: &Seen) -> Look {
    let Some(array) = &seen.array else { return Look::default() };
    let look = |member: &Member| match member.slot {
        _ if member.failed() => LegLook::Failed,
        Some(_) => LegLook::Fine,
        None => LegLook::Out,
    };
    let legs = array.members.iter().map(|(leg, member)| (*leg, look(member))).collect();
    Look { waits: matches!(array.state.as_str(), "write-pending" | "blocked"), legs }
}

/// One of these legs, which were in sync, that has failed or is out by now.
pub fn no_longer_sound(seen: &Seen, sound: &BTreeSet<LegId>) -> Option<LegId> {
    let member = |leg: &LegId| seen.array.as_ref().and_then(|array| array.members.get(leg));
    let still = |leg: &&LegId| member(leg).is_some_and(|member| member.has("in_sync") && !member.failed());
    sound.iter().find(|leg| !still(leg)).copied()
}

/// Which gates have no path: by their own word, or, to another node, since none of their connections lives.
pub fn without_path(seen: &Seen) -> BTreeSet<LegId> {
    let lost = |gate: &Gate| !gate.path || !seen.is_reachable(gate);
    seen.gates.iter().filter(|(_, gate)| lost(gate)).map(|(leg, _)| *leg).collect()
}

/// Which legs' gates have given their path up, and could have it again: the leg can be reached, or is this node's own. First its
/// target has to shut what was before, and wait until nothing of it is in flight (the bounce, docs/volumes.md).
pub fn to_bounce(seen: &Seen) -> BTreeMap<LegId, GivenLeg> {
    let lost = |gate: &Gate| gate.queues && !gate.path && seen.is_reachable(gate);
    seen.gates
        .iter()
        .filter(|(_, gate)| lost(gate))
        .filter_map(|(leg, gate)| Some((*leg, gate.to?)))
        .collect()
}

/// Which legs of other nodes can be reached, and over more networks than they are connected through: the kernel makes a connection again that it has had, and never one that
/// could not be made at first. `nodes`: where the ledger has the legs. `addresses`: theirs, on each storage network.
pub fn to_connect(
    seen: &Seen,
    nodes: &BTreeMap<LegId, NodeId>,
    addresses: &BTreeMap<NodeId, BTreeMap<u16, IpAddr>>,
) -> Vec<(GivenLeg, NodeId)> {
    let lacks = |given: GivenLeg, node: NodeId| {
        let there = seen.connections.get(&given).map_or(&[][..], Vec::as_slice);
        let known = addresses.get(&node).into_iter().flat_map(BTreeMap::values);
        known.into_iter().any(|address| there.iter().all(|one| one.address != *address))
    };
    let whole = |gate: &Gate| gate.queues && gate.path && !gate.local && seen.is_reachable(gate);
    let gates = seen.gates.iter().filter(|(_, gate)| whole(gate));
    let legs = gates.filter_map(|(leg, gate)| Some((gate.to?, *nodes.get(leg)?)));
    legs.filter(|(given, node)| lacks(*given, *node)).collect()
}

/// Whether nothing is under way and nothing is wrong: whatever ends that, the kernel tells of by itself when something is written, through
/// md's attributes or an event of a gate.
pub fn is_settled(seen: &Seen) -> bool {
    let Some(array) = &seen.array else { return false };
    let at_rest =
        matches!(array.state.as_str(), "active" | "active-idle" | "clean") && array.action == "idle";
    let whole = |(leg, member): (&LegId, &Member)| {
        let gate = seen.gates.get(leg).is_some_and(|gate| gate.epoch == array.epoch && gate.queues);
        gate && member.slot.is_some() && member.has("in_sync") && !member.failed()
    };
    at_rest
        && seen.top.is_some()
        && seen.has_places()
        && without_path(seen).is_empty()
        && array.members.iter().all(whole)
}

/// The array that an earlier run of the agent has left, as control has arrays; `None` if there is none that is whole: it is assembled
/// anew. `nodes`: where the ledger has the legs. `maps`: the sequence of the tables on them.
///
/// What the ledger has taken out meanwhile, control sees itself. A leg that is being copied, or has been and was not told of, is being
/// rebuilt.
pub fn found(seen: &Seen, nodes: &BTreeMap<LegId, NodeId>, maps: MapSequence, now: Moment) -> Option<Up> {
    let array = seen.array.as_ref()?;
    matches!(array.state.as_str(), "active" | "write-pending" | "active-idle" | "blocked").then_some(())?;
    let lost = without_path(seen);
    let mut legs = BTreeMap::new();
    let mut rebuild = None;
    for (leg, member) in &array.members {
        let gate = seen.gates.get(leg);
        let incarnation = gate.and_then(|gate| gate.to).map_or(Incarnation(0), |given| given.key.incarnation);
        let way = if lost.contains(leg) { HeldGate::NoPath { since: now } } else { HeldGate::Path };
        let let_go = gate.is_some_and(|gate| !gate.queues);
        let standing = if let_go { Standing::LetGo } else { Standing::In };
        legs.insert(
            *leg,
            Held { incarnation, node: nodes.get(leg).copied().unwrap_or(NodeId(0)), gate: way, standing },
        );
        if !member.has("in_sync") && !member.failed() {
            let leg = LegRef { id: *leg, incarnation };
            rebuild = Some(Rebuild { leg, progress: Progress::begun(now), done: None });
        }
    }
    let (admitted, reach) = (seen.top.is_some(), seen.reach());
    Some(Up { admitted, reach, legs, rebuild, ..Up::bare(array.epoch, maps) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> Seen {
        let epoch = Epoch { ledger: model::LedgerIncarnation(1), number: 2 };
        let leg = LegId(1);
        let given: GivenLeg = "3-1-1.2-1".parse().unwrap();
        let gate = Gate { epoch, to: Some(given), local: true, path: true, queues: true };
        let member = Member { slot: Some(0), words: ["in_sync".to_owned()].into() };
        let members = [(leg, member)].into();
        let (state, action) = ("active".to_owned(), "idle".to_owned());
        let array = Some(Array { epoch, state, action, held: false, room: 1, members });
        Seen { gates: [(leg, gate)].into(), array, top: Some(4096), ..Seen::default() }
    }

    #[test]
    fn nothing_is_settled_while_a_leg_a_gate_or_the_array_is_not_as_in_peace() {
        assert!(is_settled(&settled()));
        let without = |change: fn(&mut Seen)| {
            let mut seen = settled();
            change(&mut seen);
            !is_settled(&seen)
        };
        let all: [fn(&mut Seen); 12] = [
            |seen| seen.array = None,
            |seen| seen.top = None,
            |seen| seen.thin.queue = Some(crate::owner::Queue { path: false, queues: true }),
            |seen| gate(seen).path = false,
            |seen| gate(seen).queues = false,
            |seen| gate(seen).local = false,
            |seen| gate(seen).epoch.number += 1,
            |seen| seen.gates.clear(),
            |seen| array(seen).state = "write-pending".to_owned(),
            |seen| array(seen).action = "recover".to_owned(),
            |seen| member(seen).slot = None,
            |seen| member(seen).words.extend(["write_error".to_owned()]),
        ];
        for (number, change) in all.into_iter().enumerate() {
            assert!(without(change), "change {number}");
        }
    }

    #[test]
    fn a_leg_that_can_be_reached_is_connected_through_every_network_and_another_is_not() {
        let (mut seen, leg) = (settled(), LegId(1));
        let given = gate(&mut seen).to.unwrap();
        gate(&mut seen).local = false;
        let address = |network: u8| IpAddr::from([10, 71, network, 2]);
        let connected =
            |network: u8| Connection { controller: network.into(), address: address(network), live: true };
        let nodes = BTreeMap::from([(leg, NodeId(2))]);
        let addresses = BTreeMap::from([(NodeId(2), BTreeMap::from([(1, address(1)), (2, address(2))]))]);
        let steps = |seen: &Seen| to_connect(seen, &nodes, &addresses);
        assert_eq!(steps(&seen), [], "nothing lives that could be one of two");
        seen.connections.insert(given, vec![connected(1)]);
        let asked = [(given, NodeId(2))];
        assert_eq!(steps(&seen), asked);
        let both = vec![connected(1), Connection { live: false, ..connected(2) }];
        let mut whole = seen.clone();
        whole.connections.insert(given, both);
        assert_eq!(steps(&whole), [], "the kernel makes that one again");
        for change in [
            |gate: &mut Gate| gate.local = true,
            |gate: &mut Gate| gate.path = false,
            |gate: &mut Gate| gate.queues = false,
        ] {
            let mut other = seen.clone();
            change(gate(&mut other));
            assert_eq!(steps(&other), []);
        }
        assert_eq!(to_connect(&seen, &BTreeMap::new(), &addresses), [], "the ledger has no such leg");
    }

    /// The last leg in sync: what a fence does with its gate, and what leads that to the leg as it is given out next.
    #[test]
    fn the_own_legs_gate_is_taken_off_its_device_and_led_to_the_leg_as_it_is_given_out_next() {
        use crate::owner::{Step, repoint, take_off};
        let (volume, node, bytes) = (model::VolumeId(3), NodeId(1), 1 << 20);
        let sizes = crate::leg::Sizes { data_bytes: bytes, room_bytes: bytes, chunk_bytes: 1 << 16 };
        let site = crate::owner::Site::new(volume, node, sizes).unwrap();
        let (mut seen, leg) = (settled(), LegId(1));
        let epoch = gate(&mut seen).epoch;
        let len = site.geometry.leg_bytes();
        assert_eq!(take_off(&site, &seen, epoch, leg), Some(Step::EmptyGate(leg, epoch, len)));
        let other = Epoch { number: 3, ..epoch };
        assert_eq!(take_off(&site, &seen, other, leg), None, "an array of another epoch is stopped");
        let emptied = gate(&mut seen);
        (emptied.to, emptied.local, emptied.path) = (None, false, false);
        assert_eq!(take_off(&site, &seen, epoch, leg), None);
        assert!(to_bounce(&seen).is_empty() && without_path(&seen).contains(&leg));
        let steps = repoint(&site, &seen, epoch, leg, Incarnation(2), node).unwrap();
        let way = Way { given: "3-1-1.2-2".parse().unwrap(), epoch, local: true };
        assert_eq!(steps, [Step::TurnGate(way, len)]);
        // An agent that comes back then finds a leg of an incarnation before all others.
        let up = found(&seen, &[(leg, node)].into(), MapSequence(1), Moment(0)).unwrap();
        assert_eq!(up.legs[&leg].incarnation, Incarnation(0));
    }

    /// Whoever looks at a gate sees what it was then.
    #[test]
    fn a_gate_is_told_to_fail_whatever_it_looks_like() {
        use crate::owner::{Step, let_go};
        let bytes = 1 << 20;
        let sizes = crate::leg::Sizes { data_bytes: bytes, room_bytes: bytes, chunk_bytes: 1 << 16 };
        let site = crate::owner::Site::new(model::VolumeId(3), NodeId(1), sizes).unwrap();
        let (mut seen, leg) = (settled(), LegId(1));
        let epoch = gate(&mut seen).epoch;
        gate(&mut seen).queues = false;
        let fails =
            |seen: &Seen| let_go(&site, seen, epoch, leg).unwrap().contains(&Step::FailGate(leg, epoch));
        assert!(fails(&seen));
        seen.gates.clear();
        assert!(!fails(&seen));
    }

    #[test]
    fn a_rebuilds_pace_is_told_to_md_in_kib() {
        use crate::owner::{Step, pace};
        let rate = control::state::RebuildRate { min_mib_s: 1, max_mib_s: 256 };
        let set = |name, value: &str| Step::Set(name, value.to_owned());
        assert_eq!(pace(rate), [set("sync_speed_min", "1024"), set("sync_speed_max", "262144")]);
    }

    fn gate(seen: &mut Seen) -> &mut Gate {
        seen.gates.get_mut(&LegId(1)).unwrap()
    }

    fn array(seen: &mut Seen) -> &mut Array {
        seen.array.as_mut().unwrap()
    }

    fn member(seen: &mut Seen) -> &mut Member {
        array(seen).members.get_mut(&LegId(1)).unwrap()
    }
}
