//! A node as owner of a volume: from control's words to steps in nvme-fabrics, device-mapper and md.
//!
//! Purpose: [`assemble`], [`let_go`], [`release`], [`repoint`], [`rebuild`], [`stop_rebuild`], [`admit`], [`extend`], [`take`], [`shut`], [`give_up`], [`stop`], [`disconnect`] compute the steps from
//! what the kernel has ([`Seen`]); [`look`] says it in control's words.
//!
//! ```text
//!   tr-volume-V            what users open, made by `admit`: linear; of a thin volume more (`top`)
//!        │
//!   md_trV_L_N             raid1, external metadata, bitmap on every leg
//!    │         │
//!  tr-gate-…  tr-gate-…    a gate to each leg: multipath, bio-based, queues when it has no path
//!    │         │
//!  tr-way-…   tr-way-…     linear: leads the gate to where the leg is given out; its table changes, a gate's never (`kernel/gate.rs`)
//!    │         │
//!  tr-leg-…   nvmeXn1      the own leg: its local device; another's: the NVMe multipath head over both storage networks
//! ```
//!
//! Invariants (design notes, rules 2, 3, 7, 8, 9): an array is started from in-sync legs only, after their maps are durable and they
//! have been made equal; no gate is told to fail except by [`let_go`], [`stop_rebuild`], [`give_up`] and [`stop`]; a leg that is added is marked
//! on every leg before, and again after it has its slot; md is not answered while a leg that was not named has failed.
//!
//! On failure: a step's error is the executor's, and the order is given again. [`Refused`]: not as things are.

mod seen;
mod top;

pub use seen::{
    Array, Connection, Gate, Member, Seen, Way, found, is_settled, look, no_longer_sound, to_bounce,
    to_connect, without_path,
};
pub use top::{Layout, Queue, Thin, admit, extend, shut, take};

use crate::leg::{Geometry, Sizes};
use crate::name::GivenLeg;
use control::owner::Assembly;
use control::state::{Base, RebuildRate};
use control::target::Key;
use model::{Epoch, Incarnation, LegId, MapSequence, NodeId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// A step. `Array` names are (volume, epoch) of the order that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Connect to a leg through every storage network; one path is enough to go on. Bounds how long each may stall.
    Connect(GivenLeg, NodeId),
    /// Let go of all connections to a leg.
    Disconnect(GivenLeg),
    /// Make the gate to a leg, of that many bytes.
    MakeGate(Way, u64),
    /// Let a gate lead to the leg as it is given out now, once nothing is in flight to where it led; what it queues goes there.
    TurnGate(Way, u64),
    /// Let a gate fail what it queues and what comes.
    FailGate(LegId, Epoch),
    /// Take a gate's path away: it queues.
    FailPath(LegId, Epoch),
    /// Take a gate of that many bytes off its device, once nothing is in flight through it: it queues until it is turned.
    EmptyGate(LegId, Epoch, u64),
    /// Remove a gate.
    RemoveGate(LegId, Epoch),
    /// Read the bitmaps and maps of these legs, make the union and the new maps durable on all, make the legs equal.
    Prepare(Prepare),
    /// Make an array without anything.
    NewArray,
    /// Write an attribute of the array (`/sys/block/NAME/md/…`).
    Set(&'static str, String),
    /// Give the array a leg.
    Add(Way),
    /// Write an attribute of a leg in the array.
    SetMember(Way, &'static str, String),
    /// The agent's own first write, and the answer that md wants for it.
    FirstWrite,
    /// Wait until nothing is copied.
    AwaitIdle,
    /// Read what the leg has missed and its own bitmap, and mark it on the array's legs and on the leg itself, with its maps.
    Mark(Way, Base),
    /// Mark it once more, on every leg: md has not written what others have marked onto a leg that was not in it.
    MarkAgain(Way),
    /// Give the array so many places, while nothing is in flight in it; fails if that does not come about soon.
    AddPlace(u32),
    /// Fails if the leg is already in sync by itself.
    CheckNotInSync(Way),
    /// Let the copy that begins next wait before its first chunk.
    HoldCopy,
    /// Wait until what md had begun before the copy has ended. Fails if one of these legs, which were in sync when that was planned, has failed since or is out.
    AwaitQuiet(BTreeSet<LegId>),
    /// Answer md, unless a leg other than these has failed.
    Answer(BTreeSet<LegId>),
    /// Take a leg out, as soon as md has nothing in flight to it.
    Remove(Way),
    /// Make what of a thin volume of so many bytes has no place: reads of it give zeros, writes fail and are counted.
    MakeHole(u64),
    /// Make the way from what users see of a thin volume to the places on the array, and to the hole.
    MakeRoute(Layout),
    /// Make the queue above it, in which writes without a place wait.
    MakeQueue,
    /// Let users in.
    MakeTop(Layout),
    /// Have another route ready.
    LoadRoute(Layout),
    /// Have more ready for the users who are in.
    LoadTop(Layout),
    /// Take the route that is ready, once what is in flight through the old one has ended.
    SwapRoute,
    /// Let users have what is ready, once what they have in flight has ended; what comes meanwhile waits. Fails if that does not come about soon. Without anything
    /// ready it does nothing.
    SwapTop,
    /// Let what waits for a place go on, if it has one.
    ReinstateQueue,
    /// Let what waits for a place fail, and what comes.
    FailQueue,
    /// Nobody can open it any more; fails while somebody has it open.
    RemoveTop,
    /// Remove the queue.
    RemoveQueue,
    /// Remove the route.
    RemoveRoute,
    /// Remove the hole.
    RemoveHole,
    /// Stop the array, and wait until it is gone.
    Clear,
}

/// What [`Step::Prepare`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The legs that take part.
    pub ways: BTreeSet<Way>,
    /// The sequence that the ledger knows to be durable.
    pub known: MapSequence,
    /// The sequence of the new maps.
    pub sequence: MapSequence,
    /// Whose maps are kept.
    pub stale: BTreeSet<LegId>,
    /// Whether legs are copied where they may differ.
    pub make_equal: bool,
}

/// Not as things are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no array of that epoch here.
    #[error("there is no array of {0} in epoch {1} here")]
    NoArray(VolumeId, Epoch),
    /// An array grows only while nothing fails and nothing waits in it.
    #[error("a place more for {0} waits until every leg of the array has a path and none has failed")]
    NotWhole(LegId),
    /// What failed on another leg is still held.
    #[error("the rebuild of {0} waits until no leg of the array has failed")]
    OtherFailed(LegId),
    /// An earlier run gave the leg its place, and nobody knows whether what was written before has ended well.
    #[error("the rebuild of {0} was begun half-way: it is taken out first")]
    HalfBegun(LegId),
    /// An assembly without legs.
    #[error("an array of no legs was asked for")]
    NoLegs,
    /// Nobody was let in: there is nothing to make longer.
    #[error("users do not have {0} here")]
    NotOpen(VolumeId),
    /// Users are in: an assembly would take it from under them.
    #[error("users have the volume open")]
    Open,
}

/// What is ordered is ordered of this volume by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Which volume.
    pub volume: VolumeId,
    /// This node.
    pub node: NodeId,
    /// The volume's sizes.
    pub geometry: Geometry,
}

impl Site {
    /// Of a volume of these sizes.
    pub fn new(volume: VolumeId, node: NodeId, sizes: Sizes) -> Result<Self, crate::leg::LegError> {
        Ok(Self { volume, node, geometry: Geometry::new(sizes)? })
    }

    fn way(&self, leg: LegId, incarnation: Incarnation, node: NodeId, epoch: Epoch) -> Way {
        let given = GivenLeg { leg: (self.volume, leg), key: Key { epoch, incarnation } };
        Way { given, epoch, local: node == self.node }
    }

    /// Another gate to the leg has gone before.
    fn reach(&self, seen: &Seen, way: Way, node: NodeId) -> Vec<Step> {
        connect(way, node).into_iter().chain(self.gate(seen, way)).collect()
    }

    fn gate(&self, seen: &Seen, way: Way) -> Option<Step> {
        let there = seen.gates.get(&way.leg()).is_some_and(|gate| gate.leads(way));
        (!there).then(|| Step::MakeGate(way, self.geometry.leg_bytes()))
    }

    /// By which device a leg is in the array: its gate's name says it, whatever it leads to.
    fn member_way(&self, seen: &Seen, array: &Array, leg: LegId) -> Way {
        let gate = seen.gates.get(&leg).and_then(Gate::way);
        gate.unwrap_or_else(|| self.way(leg, Incarnation(0), NodeId(0), array.epoch))
    }

    fn array<'a>(&self, seen: &'a Seen, epoch: Epoch) -> Result<&'a Array, Refused> {
        seen.array.as_ref().filter(|array| array.epoch == epoch).ok_or(Refused::NoArray(self.volume, epoch))
    }
}

fn connect(way: Way, node: NodeId) -> Option<Step> {
    (!way.local).then_some(Step::Connect(way.given, node))
}

/// `Assemble`: from whatever an earlier order or run has left to an array that takes writes, and that nobody can open yet.
pub fn assemble(
    site: &Site,
    seen: &Seen,
    order: &Assembly,
    known: MapSequence,
) -> Result<Vec<Step>, Refused> {
    if order.legs.is_empty() {
        return Err(Refused::NoLegs);
    }
    if seen.top.is_some() {
        return Err(Refused::Open);
    }
    let mut steps = shut(seen);
    let ways: BTreeMap<LegId, Way> = order
        .legs
        .iter()
        .map(|(leg, (incarnation, node))| (*leg, site.way(*leg, *incarnation, *node, order.epoch)))
        .collect();
    if let Some(array) = &seen.array {
        // Nobody was let in, so what waits in it is nobody's.
        let lost = |leg: &&LegId| !ways.contains_key(leg);
        steps.extend(
            seen.gates
                .iter()
                .filter(|(leg, _)| lost(leg))
                .map(|(leg, gate)| Step::FailGate(*leg, gate.epoch)),
        );
        if array.members.values().any(Member::failed) {
            steps.push(Step::Answer(array.members.keys().copied().collect()));
        }
        steps.push(Step::Clear);
    }
    for (leg, gate) in &seen.gates {
        if !ways.get(leg).is_some_and(|way| gate.leads(*way)) {
            steps.push(Step::RemoveGate(*leg, gate.epoch));
        }
    }
    let wanted = |given: &GivenLeg| ways.values().any(|way| way.given == *given && !way.local);
    steps
        .extend(seen.connections.keys().filter(|given| !wanted(given)).map(|given| Step::Disconnect(*given)));
    // First what takes others a while: the own leg may be given out meanwhile.
    steps.extend(ways.iter().filter_map(|(leg, way)| connect(*way, order.legs[leg].1)));
    steps.extend(ways.values().filter_map(|way| site.gate(seen, *way)));
    steps.push(Step::Prepare(Prepare {
        ways: ways.values().copied().collect(),
        known,
        sequence: order.maps,
        stale: order.stale.clone(),
        make_equal: order.make_equal,
    }));
    let room = order.legs.keys().chain(&order.stale).collect::<BTreeSet<_>>().len();
    start(site, &ways, room, &mut steps);
    Ok(steps)
}

/// The recipe: an array of these legs, in this order of steps.
fn start(site: &Site, ways: &BTreeMap<LegId, Way>, room: usize, steps: &mut Vec<Step>) {
    let sizes = site.geometry.sizes();
    let set = |name, value: &str| Step::Set(name, value.to_owned());
    steps.extend([
        Step::NewArray,
        set("metadata_version", "external:twinrack"),
        set("level", "raid1"),
        set("raid_disks", &room.to_string()),
        set("component_size", &(sizes.room_bytes >> 10).to_string()),
    ]);
    for (slot, way) in ways.values().enumerate() {
        steps.extend(add(site, *way));
        steps.push(Step::SetMember(*way, "recovery_start", "none".to_owned()));
        steps.push(Step::SetMember(*way, "slot", slot.to_string()));
    }
    steps.extend([
        set("bitmap/metadata", "external"),
        set("bitmap/chunksize", &sizes.chunk_bytes.to_string()),
        set("bitmap/time_base", "5"),
        set("bitmap/location", &format!("+{}", Geometry::BITMAP_OFFSET_BYTES / 512)),
        set("resync_start", "none"),
        set("array_state", "active"),
        // Starting resets it.
        set("safe_mode_delay", "0"),
    ]);
    steps.extend(pace(RebuildRate::default()));
    steps.push(Step::FirstWrite);
}

/// How fast md copies, KiB/s: at least, whatever users write meanwhile (md(4), `speed_limit_min`), and at most. Before a rebuild, and while one is under way.
pub fn pace(rate: RebuildRate) -> [Step; 2] {
    let set = |name, mib_s: u32| Step::Set(name, mib_s.saturating_mul(1 << 10).to_string());
    [set("sync_speed_min", rate.min_mib_s), set("sync_speed_max", rate.max_mib_s)]
}

/// A leg as a device of the array, without a place yet.
fn add(site: &Site, way: Way) -> [Step; 4] {
    let set = |name, value: String| Step::SetMember(way, name, value);
    [
        Step::Add(way),
        set("offset", (site.geometry.data_offset_bytes() / 512).to_string()),
        set("size", (site.geometry.sizes().room_bytes >> 10).to_string()),
        // Before `slot`: so md takes it as one that was in the array before, and goes by the bitmap.
        set("state", "insync".to_owned()),
    ]
}

/// `LetGo`: the ledger has said so. The gate is told whatever it looks like: telling it twice is telling it once, and what it looked like may be over by the time.
pub fn let_go(site: &Site, seen: &Seen, epoch: Epoch, leg: LegId) -> Result<Vec<Step>, Refused> {
    let array = site.array(seen, epoch)?;
    let mut steps = Vec::new();
    if seen.gates.contains_key(&leg) {
        steps.push(Step::FailGate(leg, epoch));
    }
    if array.members.get(&leg).is_some_and(|member| !member.has("faulty")) {
        // Where nothing waited, nothing fails by itself.
        steps.push(Step::SetMember(site.member_way(seen, array, leg), "state", "faulty".to_owned()));
    }
    Ok(steps)
}

/// `Release`: md may acknowledge what failed on these legs, and only these. They leave the array, their gates and connections go.
pub fn release(site: &Site, seen: &Seen, epoch: Epoch, legs: &BTreeSet<LegId>) -> Result<Vec<Step>, Refused> {
    let array = site.array(seen, epoch)?;
    let named = || array.members.iter().filter(|(leg, _)| legs.contains(leg));
    let mut steps = Vec::new();
    for (leg, _) in named().filter(|(_, member)| member.has("blocked")) {
        steps.push(Step::SetMember(site.member_way(seen, array, *leg), "state", "-blocked".to_owned()));
    }
    steps.push(Step::Answer(legs.clone()));
    steps.extend(
        named()
            .filter(|(_, member)| member.has("faulty"))
            .flat_map(|(leg, _)| take_out(site, seen, array, *leg)),
    );
    Ok(steps)
}

fn take_out(site: &Site, seen: &Seen, array: &Array, leg: LegId) -> Vec<Step> {
    let mut steps = vec![Step::Remove(site.member_way(seen, array, leg))];
    if let Some(gate) = seen.gates.get(&leg) {
        steps.push(Step::RemoveGate(leg, gate.epoch));
    }
    let its = |given: &&GivenLeg| given.leg.1 == leg;
    steps.extend(seen.connections.keys().filter(its).map(|given| Step::Disconnect(*given)));
    steps
}

/// `Repoint`: what the gate queues goes to the leg as it is given out now.
pub fn repoint(
    site: &Site,
    seen: &Seen,
    epoch: Epoch,
    leg: LegId,
    incarnation: Incarnation,
    node: NodeId,
) -> Result<Vec<Step>, Refused> {
    site.array(seen, epoch)?;
    let way = site.way(leg, incarnation, node, epoch);
    let connect = (!way.local).then_some(Step::Connect(way.given, node));
    let mut steps: Vec<Step> = connect.into_iter().collect();
    if seen.gates.get(&leg).is_some_and(|gate| gate.way() == Some(way)) {
        return Ok(steps);
    }
    steps.push(Step::TurnGate(way, site.geometry.leg_bytes()));
    let old = |other: &&GivenLeg| other.leg.1 == leg && **other != way.given;
    steps.extend(seen.connections.keys().filter(old).map(|old| Step::Disconnect(*old)));
    Ok(steps)
}

/// `Rebuild`: bring a leg up to date. When the steps are through, md copies; [`look`] and `sync_action` say how far it is.
///
/// md's copy passes over a chunk that is not marked as one to be copied, and a write that was begun before the leg had its place marks its chunk only when it ends. md quiesces
/// the array before it copies, but that lets pass what has failed on another leg and is held (raid1.c, `freeze_array`): released later, it would be acknowledged, and this leg, in sync
/// by then, would lack it. So the copy is held before its first chunk until md is quiet and none of the legs that were in sync has failed meanwhile; otherwise the rebuild is begun anew.
///
/// An array whose places are all taken gets one more while it is `frozen` (md waits for what is in flight, no longer). It never gets fewer:
/// the place of a leg that was replaced stays empty, and the next one that moves takes it, until the array is made anew.
pub fn rebuild(
    site: &Site,
    seen: &Seen,
    epoch: Epoch,
    (leg, incarnation, node): (LegId, Incarnation, NodeId),
    base: Base,
) -> Result<Vec<Step>, Refused> {
    let array = site.array(seen, epoch)?;
    let way = site.way(leg, incarnation, node, epoch);
    let mut steps = Vec::new();
    let in_sync =
        |(other, member): (&LegId, &Member)| (*other != leg && member.has("in_sync")).then_some(*other);
    let sound: BTreeSet<LegId> = array.members.iter().filter_map(in_sync).collect();
    match array.members.get(&leg) {
        // It is in sync by md, or on its way, and what was written before it had its place has ended.
        Some(member) if member.slot.is_some() && member.has("in_sync") => return Ok(steps),
        Some(member) if member.slot.is_some() && !member.failed() => {
            let copies = array.action.starts_with("recover") && !array.held;
            return if copies { Ok(steps) } else { Err(Refused::HalfBegun(leg)) };
        }
        // Or has begun to.
        Some(_) => {
            steps.push(Step::Set("sync_action", "frozen".to_owned()));
            steps.push(Step::Remove(site.member_way(seen, array, leg)));
        }
        None => steps.push(Step::Set("sync_action", "frozen".to_owned())),
    }
    let taken: BTreeSet<u32> = array.members.values().filter_map(|member| member.slot).collect();
    let slot = (0..array.room).find(|slot| !taken.contains(slot));
    // Nothing may be in flight while the array gets a place more, and without a path it would not end.
    let whole = !array.members.values().any(Member::failed) && without_path(seen).is_empty();
    if slot.is_none() && !whole {
        return Err(Refused::NotWhole(leg));
    }
    if array.members.iter().any(|(other, member)| *other != leg && member.failed()) {
        return Err(Refused::OtherFailed(leg));
    }
    let other = seen.gates.get(&leg).filter(|gate| !gate.leads(way));
    steps.extend(other.map(|gate| Step::RemoveGate(leg, gate.epoch)));
    // What was left when it was let go.
    let old = |other: &&GivenLeg| other.leg.1 == leg && **other != way.given;
    steps.extend(seen.connections.keys().filter(old).map(|old| Step::Disconnect(*old)));
    steps.extend(site.reach(seen, way, node));
    steps.extend([Step::AwaitIdle, Step::HoldCopy]);
    // All places are taken by legs in sync: this one is to replace one of them, which stays until it is in sync, too.
    let grow = slot.is_none().then(|| Step::AddPlace(array.room + 1));
    steps.extend(grow);
    steps.push(Step::Mark(way, base));
    steps.extend(add(site, way));
    steps.extend([
        Step::SetMember(way, "slot", slot.unwrap_or(array.room).to_string()),
        Step::CheckNotInSync(way),
        Step::MarkAgain(way),
        Step::Set("resync_start", "none".to_owned()),
        Step::Set("sync_action", "recover".to_owned()),
        Step::AwaitQuiet(sound),
        Step::Set("sync_max", "max".to_owned()),
    ]);
    Ok(steps)
}

/// `StopRebuild`: the ledger has taken the leg out.
pub fn stop_rebuild(site: &Site, seen: &Seen, epoch: Epoch, leg: LegId) -> Result<Vec<Step>, Refused> {
    let mut steps = let_go(site, seen, epoch, leg)?;
    let array = site.array(seen, epoch)?;
    if array.members.contains_key(&leg) {
        steps.push(Step::Set("sync_action", "frozen".to_owned()));
        steps.push(Step::SetMember(site.member_way(seen, array, leg), "state", "-blocked".to_owned()));
        steps.push(Step::Answer(BTreeSet::from([leg])));
        steps.extend(take_out(site, seen, array, leg));
        steps.push(Step::Set("sync_action", "idle".to_owned()));
    }
    Ok(steps)
}

/// `Stop`, of users who no longer run: what waits for a leg without path fails, so that they can end. md is answered for all legs: there is
/// nobody who hears of an acknowledgement.
pub fn give_up(site: &Site, seen: &Seen) -> Vec<Step> {
    let lost = without_path(seen);
    let lost = || seen.gates.iter().filter(|(leg, _)| lost.contains(leg));
    let mut steps: Vec<Step> = top::give_up(seen).into_iter().collect();
    steps.extend(lost().map(|(leg, gate)| Step::FailGate(*leg, gate.epoch)));
    let Some(array) = &seen.array else { return steps };
    let healthy = |leg: &LegId| array.members.get(leg).is_some_and(|member| !member.has("faulty"));
    for (leg, _) in lost().filter(|(leg, _)| healthy(leg)) {
        let way = site.member_way(seen, array, *leg);
        steps.push(Step::SetMember(way, "state", "faulty".to_owned()));
    }
    for leg in array.members.keys() {
        steps.push(Step::SetMember(site.member_way(seen, array, *leg), "state", "-blocked".to_owned()));
    }
    steps.push(Step::Answer(array.members.keys().copied().collect()));
    steps
}

/// `Stop`: from whatever is there to nothing. From [`shut`] on nobody hears of an acknowledgement, and what waits for a leg
/// without path may fail.
pub fn stop(site: &Site, seen: &Seen) -> Vec<Step> {
    let mut steps = shut(seen);
    // Without an array, too: an assembly may hang in a gate.
    steps.extend(give_up(site, seen));
    steps.extend(seen.array.is_some().then_some(Step::Clear));
    steps.extend(seen.gates.iter().map(|(leg, gate)| Step::RemoveGate(*leg, gate.epoch)));
    steps.extend(disconnect(seen));
    steps
}

/// What is left of a volume without an array and without gates: connections through which nothing can be sent any more.
pub fn disconnect(seen: &Seen) -> Vec<Step> {
    seen.connections.keys().map(|given| Step::Disconnect(*given)).collect()
}

/// What takes the own leg's path away from the array that has it in this epoch: the leg is to be fenced, and the array has to let it
/// go first.
pub fn cut_off(seen: &Seen, epoch: Epoch, leg: LegId) -> Option<Step> {
    let gate = seen.gates.get(&leg).filter(|gate| gate.local && gate.epoch == epoch && gate.path)?;
    Some(Step::FailPath(leg, gate.epoch))
}

/// What takes the own leg's gate off its device, after [`cut_off`]: for the last leg in sync, which the array never lets go. Once it is fenced and given out
/// anew, [`repoint`] leads the gate there.
pub fn take_off(site: &Site, seen: &Seen, epoch: Epoch, leg: LegId) -> Option<Step> {
    let gate = seen.gates.get(&leg).filter(|gate| gate.local && gate.epoch == epoch && gate.queues)?;
    Some(Step::EmptyGate(leg, gate.epoch, site.geometry.leg_bytes()))
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
