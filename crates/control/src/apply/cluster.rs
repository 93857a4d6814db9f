//! Commands about the cluster: nodes, drives, voters, operations, and forced quorum.

use super::{vm, volume};
use crate::command::{ClusterCommand, Event, Rejected};
use crate::leaving;
use crate::slow;
use crate::state::{
    Base, Doubt, Drive, Health, LegState, Node, Overridden, Override, Phase, Spec, State, Volume, Voters,
};
use crate::transition::{self, LegCause, VolumeCause};
use model::{
    BootId, DriveId, Epoch, ExtentTable, LedgerIncarnation, LegId, MapSequence, NodeId, NodeName,
    PowerCycles, Provision, VolumeId, ZoneName,
};
use std::collections::{BTreeMap, BTreeSet};

/// Applies a command about the cluster. On an error the state may be half changed: the caller gives a copy.
pub(super) fn apply(state: &mut State, command: &ClusterCommand) -> Result<Vec<Event>, Rejected> {
    use ClusterCommand as C;
    let adds = matches!(
        command,
        C::AddNode { .. } | C::ReplaceNode { .. } | C::AddDrive { .. } | C::CreateVolume { .. }
    );
    if state.dissolved && adds {
        return Err(Rejected::Dissolved);
    }
    match command {
        C::SetSpec { from_generation, cluster } => {
            let present = state.spec.as_ref().map_or(0, |spec| spec.generation);
            if present != *from_generation {
                return Err(Rejected::OtherGeneration { present });
            }
            state.spec = Some(Spec { generation: present + 1, cluster: cluster.clone() });
        }
        C::SetSettings(settings) => state.settings = *settings,
        C::SetRebuildRate(rate) if rate.is_sound() => state.settings.rebuild = *rate,
        C::SetRebuildRate(rate) => return Err(Rejected::RebuildRate(*rate)),
        C::AddNode { name, zone } => return add_node(state, name, zone.as_ref()),
        C::RemoveNode(id) => remove_node(state, *id)?,
        C::NodesLeave { nodes } => leaving::leave(state, nodes)?,
        C::ReplaceNode { lost } => return replace_node(state, *lost),
        C::Register { node, was, boot, drives } => register(state, *node, (*was, *boot), drives)?,
        C::AddDrive { .. } => return add_drive(state, command),
        C::RetireDrive(id) => drive_mut(state, *id)?.retired = true,
        C::DriveSlow(id) => return drive_slow(state, *id),
        C::DriveLost(id) => return drive_lost(state, *id),
        C::ReadmitDrive(id) => readmit_drive(state, *id)?,
        C::ReplaceDrive { drive, with } => {
            drive_mut(state, *drive)?.retired = true;
            let mut events = volume::replace_drive(state, *drive, *with)?;
            events.push(Event::Changed);
            return Ok(events);
        }
        C::RemoveDrive(id) => remove_drive(state, *id)?,
        C::Freed { drive, volume, leg } => return freed(state, *drive, *volume, *leg),
        C::CreateVolume { .. } => return create_volume(state, command),
        C::ChangeVoters(to) => change_voters(state, to)?,
        C::VotersSettled => {
            let Voters::Changing { to, .. } = &state.voters else { return Err(Rejected::VotersAreSettled) };
            state.voters = Voters::Settled(to.clone());
        }
        C::Begin(subject, operation) => {
            if let Some(running) = state.operations.get(subject) {
                return Err(Rejected::Busy(running.what.clone()));
            }
            state.operations.insert(*subject, operation.clone());
        }
        C::End(subject) => {
            state.operations.remove(subject).ok_or(Rejected::NotBusy)?;
        }
        C::ForceQuorum { incarnation, voters, by, loses } => {
            return force_quorum(state, *incarnation, voters, (by, loses));
        }
        C::Dissolve { nodes } => dissolve(state, nodes)?,
    }
    Ok(vec![Event::Changed])
}

fn add_node(state: &mut State, name: &NodeName, zone: Option<&ZoneName>) -> Result<Vec<Event>, Rejected> {
    if state.nodes.values().any(|node| node.name == *name) {
        return Err(Rejected::NameTaken);
    }
    state.minted.node = state.minted.node.next();
    let (name, zone) = (name.clone(), zone.cloned());
    let node = Node { name, zone, boot: None, ledger: state.incarnation, leaving: false };
    state.nodes.insert(state.minted.node, node);
    Ok(vec![Event::NodeAdded(state.minted.node)])
}

fn readmit_drive(state: &mut State, id: DriveId) -> Result<(), Rejected> {
    let Drive { serial, node, .. } = drive_mut(state, id)?.clone();
    if state.leaves(node) {
        return Err(Rejected::Leaves(node));
    }
    if state.drive_of(&serial).is_some_and(|(present, _)| present != id) {
        return Err(Rejected::NameTaken);
    }
    let drive = drive_mut(state, id)?;
    (drive.health, drive.retired) = (Health::Good, false);
    Ok(())
}

fn remove_drive(state: &mut State, id: DriveId) -> Result<(), Rejected> {
    // What is leaving may still be written to: nothing else may come to lie there before. On one that is lost nothing ever does.
    let drive = drive_mut(state, id)?;
    let leaving = !drive.is_lost() && !drive.leaving.is_empty();
    let holds = |volume: &Volume| volume.legs.values().any(|leg| leg.drive == id);
    if leaving || state.volumes.values().any(holds) {
        return Err(Rejected::InUse);
    }
    state.drives.remove(&id);
    Ok(())
}

/// What its drives hold is nobody's from then on. Slabs of legs that are leaving may still be written to.
fn dissolve(state: &mut State, nodes: &BTreeSet<NodeId>) -> Result<(), Rejected> {
    if !state.nodes.keys().eq(nodes) {
        return Err(Rejected::OtherNodes);
    }
    let lets_go = |drive: &Drive| drive.is_lost() || drive.leaving.is_empty();
    if !state.drives.values().all(lets_go) || !state.volumes.is_empty() || !state.vms.all.is_empty() {
        return Err(Rejected::InUse);
    }
    state.drives.clear();
    state.dissolved = true;
    Ok(())
}

/// Keeps an override; the oldest goes when there are too many.
pub(super) fn record(state: &mut State, overridden: Override) {
    if state.overrides.len() == State::OVERRIDES_MAX {
        state.overrides.remove(0);
    }
    state.overrides.push(overridden);
}

fn add_drive(state: &mut State, command: &ClusterCommand) -> Result<Vec<Event>, Rejected> {
    let ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles } = command else {
        return Ok(Vec::new());
    };
    let host = state.nodes.get(node).ok_or(Rejected::NoSuchNode(*node))?;
    if host.zone.is_none() {
        return Err(Rejected::CannotOwn(*node));
    }
    if host.leaving {
        return Err(Rejected::Leaves(*node));
    }
    if state.drive_of(serial).is_some() {
        return Err(Rejected::NameTaken);
    }
    state.minted.drive = state.minted.drive.next();
    let drive = Drive {
        node: *node,
        serial: serial.clone(),
        size_bytes: *size_bytes,
        cache: *cache,
        power_cycles: Some(*power_cycles),
        retired: false,
        health: Health::Good,
        leaving: Vec::new(),
    };
    state.drives.insert(state.minted.drive, drive);
    Ok(vec![Event::DriveAdded(state.minted.drive)])
}

/// What is known may be worse, or the same.
fn drive_slow(state: &mut State, id: DriveId) -> Result<Vec<Event>, Rejected> {
    if let Some(other) = slow::slow_in_rack(state, id) {
        return Err(Rejected::SlowInRack(other));
    }
    let drive = drive_mut(state, id)?;
    if drive.health != Health::Good {
        return Err(Rejected::DriveRetired(id));
    }
    (drive.health, drive.retired) = (Health::Slow, true);
    Ok(vec![Event::DriveSlow(id)])
}

/// It is in no run from then on: whoever has something of it from its node is cut off, and confirmations that were made count no more. Nothing there counts from then
/// on, of a closed volume neither: of two that are lost one after the other the second may have the last good copy.
fn drive_lost(state: &mut State, id: DriveId) -> Result<Vec<Event>, Rejected> {
    let mut events = vec![Event::DriveLost(id)];
    for (volume_id, volume) in &mut state.volumes {
        let is_closed = volume.phase == Phase::Closed;
        let on_it: Vec<LegId> =
            volume.legs.iter().filter(|(_, leg)| leg.drive == id).map(|(leg, _)| *leg).collect();
        for leg in on_it {
            let is_last = volume.is_last_in_sync(leg);
            let Some(found) = volume.legs.get_mut(&leg) else { continue };
            match found.state {
                // An override decides first, from what there is.
                _ if volume.phase == Phase::Offline => return Err(Rejected::InUse),
                LegState::InSync if is_last => return Err(Rejected::NoInSyncLegLeft),
                LegState::InSync | LegState::Rebuilding { .. } if !is_closed => return Err(Rejected::InUse),
                LegState::InSync | LegState::Rebuilding { .. } => {
                    let to = LegState::Stale { base: Base::Scratch, back: false };
                    events.push(volume::leg_goes((*volume_id, leg), found, LegCause::Lost, to)?);
                }
                LegState::Stale { .. } | LegState::Suspect { .. } => {}
            }
        }
    }
    let drive = drive_mut(state, id)?;
    (drive.health, drive.retired, drive.power_cycles) = (Health::Lost, true, None);
    Ok(events)
}

fn drive_mut(state: &mut State, id: DriveId) -> Result<&mut Drive, Rejected> {
    state.drives.get_mut(&id).ok_or(Rejected::NoSuchDrive(id))
}

fn remove_node(state: &mut State, id: NodeId) -> Result<(), Rejected> {
    let owns = |volume: &Volume| volume.owner == id && volume.phase != Phase::Closed;
    let has_drive = state.drives.values().any(|drive| drive.node == id);
    if state.may_vote(id) || has_drive || state.volumes.values().any(owns) || state.vms.is_on(id) {
        return Err(Rejected::InUse);
    }
    state.vms.rooms.remove(&id);
    state.vms.draining.remove(&id);
    state.nodes.remove(&id).map(|_| ()).ok_or(Rejected::NoSuchNode(id))
}

/// Its drives are in no run until the new one has registered: nothing of them is given out, and no confirmation counts. What the lost one had open stays its own until it is
/// taken over: by whoever has a leg in sync and lives, which may be the new one alone. Of a volume that is offline only an override, which names another owner, leads on.
fn replace_node(state: &mut State, lost: NodeId) -> Result<Vec<Event>, Rejected> {
    let old = state.nodes.get(&lost).ok_or(Rejected::NoSuchNode(lost))?;
    if state.is_replaced(lost) {
        return Err(Rejected::NameTaken);
    }
    let new = state.minted.node.next();
    let node = Node { boot: None, ledger: state.incarnation, ..old.clone() };
    state.minted.node = new;
    if let (true, Some(leftover)) = (node.leaving, state.vms.draining.get(&lost).copied()) {
        state.vms.draining.insert(new, leftover);
    }
    state.nodes.insert(new, node);
    for drive in state.drives.values_mut().filter(|drive| drive.node == lost) {
        drive.node = new;
        drive.power_cycles = None;
    }
    Ok(vec![Event::NodeAdded(new)])
}

/// A new run voids what was promised in the last: confirmations of it no longer count, and legs that were given out in it
/// are no longer given out. Both is seen by comparing runs; nothing else needs to change here.
fn register(
    state: &mut State,
    node: NodeId,
    (was, boot): (Option<BootId>, BootId),
    drives: &BTreeMap<DriveId, PowerCycles>,
) -> Result<(), Rejected> {
    let found = state.nodes.get_mut(&node).ok_or(Rejected::NoSuchNode(node))?;
    if found.boot != was && found.boot != Some(boot) {
        return Err(Rejected::OldRegistration);
    }
    found.boot = Some(boot);
    for (id, power_cycles) in drives {
        let drive = drive_mut(state, *id)?;
        if drive.node != node || drive.is_lost() {
            return Err(Rejected::NoSuchDrive(*id));
        }
        if drive.power_cycles.is_some_and(|known| known > *power_cycles) {
            return Err(Rejected::OldRegistration);
        }
        drive.power_cycles = Some(*power_cycles);
    }
    Ok(())
}

fn freed(state: &mut State, drive: DriveId, volume: VolumeId, leg: LegId) -> Result<Vec<Event>, Rejected> {
    let leaving = &mut drive_mut(state, drive)?.leaving;
    let at = leaving.iter().position(|gone| (gone.volume, gone.leg) == (volume, leg));
    leaving.remove(at.ok_or(Rejected::NotLeaving(leg, volume))?);
    Ok(vec![Event::LegFreed(volume, leg)])
}

fn create_volume(state: &mut State, command: &ClusterCommand) -> Result<Vec<Event>, Rejected> {
    let ClusterCommand::CreateVolume { name, mirror, provision, size_bytes, drives, owner } = command else {
        return Ok(Vec::new());
    };
    if state.volumes.values().any(|volume| volume.name == *name) {
        return Err(Rejected::NameTaken);
    }
    let volume = Volume {
        name: name.clone(),
        mirror: *mirror,
        provision: *provision,
        size_bytes: *size_bytes,
        growing: None,
        mapped: match provision {
            Provision::Fixed => ExtentTable::default(),
            Provision::Thin => ExtentTable::begun(),
        },
        mapping: BTreeSet::new(),
        forced: false,
        room_bytes: model::Sizes::room_of(*size_bytes),
        epoch: Epoch::first(state.incarnation),
        owner: *owner,
        running: None,
        phase: Phase::Fencing { confirmed: BTreeMap::new() },
        legs: BTreeMap::new(),
        map_sequence: MapSequence(0),
        yielding: BTreeMap::new(),
        leg_minted: LegId(0),
    };
    let volume = volume::created(state, volume, drives)?;
    let id = state.minted.volume.next();
    state.minted.volume = id;
    let legs: Vec<LegId> = volume.legs.keys().copied().collect();
    state.volumes.insert(id, volume);
    let added = legs.into_iter().map(|leg| Event::LegAdded(id, leg));
    Ok([Event::VolumeCreated(id)].into_iter().chain(added).collect())
}

fn is_voter_set(state: &State, voters: &BTreeSet<NodeId>) -> Result<(), Rejected> {
    if let Some(unknown) = voters.iter().find(|id| !state.nodes.contains_key(id)) {
        return Err(Rejected::NoSuchNode(*unknown));
    }
    if voters.len() % 2 == 1 { Ok(()) } else { Err(Rejected::EvenVoters) }
}

fn change_voters(state: &mut State, to: &BTreeSet<NodeId>) -> Result<(), Rejected> {
    is_voter_set(state, to)?;
    if let Some(stranger) = to.iter().find(|id| !state.is_member(**id)) {
        return Err(Rejected::Stranger(*stranger));
    }
    if let Some(leaves) = to.iter().find(|id| state.leaves(**id)) {
        return Err(Rejected::Leaves(*leaves));
    }
    let Voters::Settled(from) = &state.voters else { return Err(Rejected::VotersChanging) };
    state.voters = Voters::Changing { from: from.clone(), to: to.clone() };
    Ok(())
}

/// Also one that leaves may be all that is left, and go on: until it gives back what it has, it has copies.
///
/// What the lost majority had committed is not known: no leg is proven, and whoever was there is a stranger.
fn force_quorum(
    state: &mut State,
    incarnation: LedgerIncarnation,
    voters: &BTreeSet<NodeId>,
    (by, loses): (&str, &str),
) -> Result<Vec<Event>, Rejected> {
    is_voter_set(state, voters)?;
    if incarnation <= state.incarnation {
        return Err(Rejected::NotLater(state.incarnation));
    }
    state.incarnation = incarnation;
    for (_, node) in state.nodes.iter_mut().filter(|(id, _)| voters.contains(id)) {
        node.ledger = state.incarnation;
    }
    state.voters = Voters::Settled(voters.clone());
    state.operations.clear();
    let mut events = Vec::new();
    let ids: Vec<_> = state.volumes.keys().copied().collect();
    for id in ids {
        let Some(volume) = state.volumes.get_mut(&id) else { continue };
        volume.epoch = Epoch::first(state.incarnation);
        volume.running = None;
        // How far it had grown for those that are lost, or what they had mapped, is not known.
        (volume.growing, volume.forced) = (None, true);
        volume.mapping.clear();
        for (leg_id, leg) in &mut volume.legs {
            let (cause, to) = match leg.state {
                LegState::InSync => (LegCause::Unproven, LegState::Suspect { why: Doubt::Unproven }),
                LegState::Suspect { .. } => continue,
                LegState::Stale { .. } | LegState::Rebuilding { .. } => {
                    (LegCause::Superseded, LegState::Stale { base: Base::Scratch, back: false })
                }
            };
            events.push(volume::leg_goes((id, *leg_id), leg, cause, to)?);
        }
        let cause = VolumeCause::ForcedQuorum;
        transition::volume(&volume.phase, cause, &Phase::Offline)?;
        let (from, to) = (volume.phase.kind(), Phase::Offline.kind());
        events.push(Event::Volume(id, volume.epoch, from, cause, to));
        volume.phase = Phase::Offline;
    }
    events.extend(vm::quorum_forced(state)?);
    let what = Overridden::Quorum(state.incarnation);
    record(state, Override { what, by: by.to_owned(), loses: loses.to_owned() });
    events.push(Event::Changed);
    Ok(events)
}
