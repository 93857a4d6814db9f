//! Commands about one volume.
//!
//! An [`Edit`] holds a copy of the volume; it takes the original's place when the whole command has gone through. A leg's
//! state and a volume's phase change only by [`Edit::go`] and [`Edit::enter`], which look into the table.

mod close;
mod grow;
mod map;

use crate::bug::{Bug, Bugs};
use crate::command::{Event, LegRef, Rejected, VolumeCommand};
use crate::pool;
use crate::retire;
use crate::state::{
    Base, Cache, Doubt, Drive, Health, Leaving, Leg, LegState, Overridden, Override, Phase, Run, State,
    Volume,
};
use crate::transition::{self, LegCause, VolumeCause};
use model::{BootId, DriveId, Epoch, Incarnation, LegId, MapSequence, Mirror, NodeId, VolumeId};
use std::collections::BTreeMap;

/// Applies a command about a volume.
pub(super) fn apply(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    command: &VolumeCommand,
    bugs: Bugs,
) -> Result<Vec<Event>, Rejected> {
    let volume = state.volumes.get(&id).ok_or(Rejected::NoSuchVolume(id))?.clone();
    if epoch != volume.epoch {
        return Err(Rejected::Superseded { present: volume.epoch });
    }
    if *command == VolumeCommand::Delete {
        return delete(state, id, &volume, bugs);
    }
    let mut edit = Edit::new(state, id, volume, bugs);
    edit.command(command)?;
    edit.settle_growth();
    let Edit { volume, mut events, overridden, removed, erred, .. } = edit;
    let epoch = volume.epoch;
    if let Some(overridden) = overridden {
        super::cluster::record(state, overridden);
    }
    state.volumes.insert(id, volume);
    for (leg_id, leg) in removed {
        leave(state, (id, epoch), leg_id, leg, bugs);
    }
    if let Some((drive, found)) = erred.and_then(|id| Some((id, state.drives.get_mut(&id)?))) {
        (found.health, found.retired) = (Health::Erred, true);
        events.push(Event::DriveErred(drive));
    }
    if events.is_empty() {
        events.push(Event::Changed);
    }
    Ok(events)
}

/// Changes the state of a leg, if the table has it.
pub(super) fn leg_goes(
    (volume, id): (VolumeId, LegId),
    leg: &mut Leg,
    cause: LegCause,
    to: LegState,
) -> Result<Event, Rejected> {
    transition::leg(leg.state, cause, to)?;
    let named = LegRef { id, incarnation: leg.incarnation };
    let event = Event::Leg(volume, named, leg.state.kind(), cause, to.kind());
    leg.state = to;
    Ok(event)
}

/// Whoever has the leg may still have it: its slabs are nobody's until its target has fenced it.
fn leave(state: &mut State, (volume, epoch): (VolumeId, Epoch), id: LegId, leg: Leg, bugs: Bugs) {
    if let Some(drive) = state.drives.get_mut(&leg.drive).filter(|_| !bugs.has(Bug::FreeAtOnce)) {
        let Leg { incarnation, extents, .. } = leg;
        drive.leaving.push(Leaving { volume, leg: id, epoch, incarnation, extents });
    }
}

fn delete(state: &mut State, id: VolumeId, volume: &Volume, bugs: Bugs) -> Result<Vec<Event>, Rejected> {
    if !matches!(volume.phase, Phase::Closed | Phase::Offline) {
        return Err(Rejected::wrong_phase(&volume.phase));
    }
    state.volumes.remove(&id);
    for (leg_id, leg) in &volume.legs {
        leave(state, (id, volume.epoch), *leg_id, leg.clone(), bugs);
    }
    Ok(vec![Event::VolumeDeleted(id)])
}

/// Every leg of every volume on a drive is to be moved to another.
pub(super) fn replace_drive(
    state: &mut State,
    drive: DriveId,
    with: DriveId,
) -> Result<Vec<Event>, Rejected> {
    let on_it = |volume: &Volume| {
        let legs = volume.legs.iter().filter(|(_, leg)| leg.drive == drive);
        legs.map(|(id, leg)| LegRef { id: *id, incarnation: leg.incarnation }).collect::<Vec<_>>()
    };
    let moves: Vec<_> = state.volumes.iter().map(|(id, volume)| (*id, volume.epoch, on_it(volume))).collect();
    let mut events = Vec::new();
    for (id, epoch, legs) in moves {
        for leg in legs {
            let command = VolumeCommand::MoveLeg { leg, to: with };
            events.extend(apply(state, id, epoch, &command, Bugs::default())?);
        }
    }
    Ok(events)
}

/// A volume that nobody has had yet.
pub(super) fn created(state: &State, volume: Volume, drives: &[DriveId]) -> Result<Volume, Rejected> {
    let needed = volume.mirror.legs();
    let mut edit = Edit::new(state, VolumeId(0), volume, Bugs::default());
    if drives.len() != needed {
        return Err(Rejected::WrongLegCount { needed });
    }
    edit.may_be_given_to(edit.volume.owner)?;
    let slabs = pool::slabs_of(edit.volume.size())?;
    for drive in drives {
        edit.add_leg(*drive, LegState::InSync, None)?;
    }
    state.keeps_reserve(drives.iter().map(|drive| (*drive, slabs)))?;
    Ok(edit.volume)
}

struct Edit<'a> {
    state: &'a State,
    id: VolumeId,
    volume: Volume,
    bugs: Bugs,
    events: Vec<Event>,
    overridden: Option<Override>,
    removed: Vec<(LegId, Leg)>,
    /// A drive that has erred, which was not known before.
    erred: Option<DriveId>,
}

impl<'a> Edit<'a> {
    fn new(state: &'a State, id: VolumeId, volume: Volume, bugs: Bugs) -> Self {
        let (events, removed) = (Vec::new(), Vec::new());
        Self { state, id, volume, bugs, events, overridden: None, removed, erred: None }
    }

    fn command(&mut self, command: &VolumeCommand) -> Result<(), Rejected> {
        use VolumeCommand as C;
        match command {
            C::LegStale(leg) => self.leg_stale(*leg),
            C::LegSpared(leg) => self.leg_spared(*leg),
            C::LegSuspect(leg) => self.leg_suspect(*leg, Doubt::Errored),
            C::Takeover { owner, lease_over } => self.takeover(*owner, *lease_over),
            C::Yielded { node, boot } => self.yielded(*node, *boot),
            C::ConfirmFence { leg, run, errored } => self.confirm(*leg, *run, *errored),
            C::Activate => self.activate(),
            C::Opened { maps } => self.opened(*maps),
            C::MapDurable { maps } => self.map_durable(*maps),
            C::Reexport { leg, run } => self.reexport(*leg, *run),
            C::Kept { leg, run } => self.kept(*leg, *run),
            C::BeginRebuild(leg) => self.begin_rebuild(*leg),
            C::LegInSync { leg, maps } => self.leg_in_sync(*leg, *maps),
            C::Close { flushed } => self.close(flushed),
            C::Open { owner } => self.open(*owner),
            C::HandOver { to, flushed } => self.hand_over(*to, flushed),
            C::Running(node) => self.running(*node),
            C::Override { leg, owner, by, loses } => self.declare_good(*leg, *owner, by, loses),
            C::Grow { size_bytes } => self.grow(*size_bytes),
            C::Map { extents } => self.map(extents),
            C::Laid { leg, run, slabs } => self.laid(*leg, *run, *slabs),
            C::MoveLeg { leg, to } => self.move_leg(*leg, *to),
            C::Widen { drives } => self.widen(drives),
            C::Delete => Err(Rejected::wrong_phase(&self.volume.phase)),
        }
    }

    /// The leg, if it is the one that the sender means.
    fn leg(&self, leg: LegRef) -> Result<&Leg, Rejected> {
        let found = self.volume.legs.get(&leg.id).ok_or(Rejected::NoSuchLeg(leg.id))?;
        if found.incarnation == leg.incarnation {
            Ok(found)
        } else {
            Err(Rejected::OtherIncarnation { present: found.incarnation })
        }
    }

    /// Changes a leg's state, if the table has it.
    fn go(&mut self, id: LegId, cause: LegCause, to: LegState) -> Result<(), Rejected> {
        let leg = self.volume.legs.get_mut(&id).ok_or(Rejected::NoSuchLeg(id))?;
        self.events.push(leg_goes((self.id, id), leg, cause, to)?);
        Ok(())
    }

    /// Changes the phase, if the table has it.
    fn enter(&mut self, cause: VolumeCause, to: Phase) -> Result<(), Rejected> {
        transition::volume(&self.volume.phase, cause, &to)?;
        let (from, to_kind) = (self.volume.phase.kind(), to.kind());
        self.events.push(Event::Volume(self.id, self.volume.epoch, from, cause, to_kind));
        self.volume.phase = to;
        Ok(())
    }

    /// The boot of a node that may own a volume.
    fn can_own(&self, node: NodeId) -> Result<BootId, Rejected> {
        let found = self.state.nodes.get(&node).ok_or(Rejected::NoSuchNode(node))?;
        found.boot.filter(|_| found.zone.is_some()).ok_or(Rejected::CannotOwn(node))
    }

    /// The same of one that is chosen: nothing is given to a node that leaves.
    fn may_be_given_to(&self, node: NodeId) -> Result<BootId, Rejected> {
        if self.state.leaves(node) { Err(Rejected::Leaves(node)) } else { self.can_own(node) }
    }

    /// The same of one that takes what somebody has lost: one that leaves may be all that is left, if it has a copy.
    fn may_take(&self, node: NodeId) -> Result<BootId, Rejected> {
        let has_copy = self.volume.legs.values().any(|leg| self.state.node_of(leg) == Some(node));
        if has_copy { self.can_own(node) } else { self.may_be_given_to(node) }
    }

    /// The run that was given is the drive's present one.
    fn is_present(&self, drive: DriveId, run: Run) -> Result<(), Rejected> {
        let registered = self.state.run(drive);
        let counts = registered == Some(run) || self.bugs.has(Bug::AnyRunConfirms);
        if counts { Ok(()) } else { Err(Rejected::OtherRun { registered }) }
    }

    /// Whether a leg that is known from one run may have forgotten something until another.
    fn forgot(&self, leg: &Leg, run: Run) -> bool {
        let volatile = self.state.drives.get(&leg.drive).is_none_or(|drive| drive.cache == Cache::Volatile);
        volatile && leg.run.is_some_and(|known| known != run)
    }

    fn is_activated(&self) -> Result<(), Rejected> {
        self.volume.activated().map(|_| ()).ok_or(Rejected::wrong_phase(&self.volume.phase))
    }

    fn is_open(&self) -> Result<(), Rejected> {
        let open = matches!(self.volume.phase, Phase::Open { .. });
        if open { Ok(()) } else { Err(Rejected::wrong_phase(&self.volume.phase)) }
    }

    fn leg_stale(&mut self, leg: LegRef) -> Result<(), Rejected> {
        self.is_activated()?;
        let state = self.leg(leg)?.state;
        if state == LegState::InSync && self.volume.is_last_in_sync(leg.id) {
            return Err(Rejected::NoInSyncLegLeft);
        }
        let base = if let LegState::Rebuilding { base } = state { base } else { Base::Changes };
        self.go(leg.id, LegCause::Lost, LegState::Stale { base, back: false })
    }

    fn leg_spared(&mut self, leg: LegRef) -> Result<(), Rejected> {
        self.is_open()?;
        let in_sync = self.leg(leg)?.state == LegState::InSync;
        if !in_sync || !retire::spares(self.state, &self.volume, leg.id) {
            return Err(Rejected::NotSpared(leg.id));
        }
        self.leg_stale(leg)
    }

    /// The volume goes offline with its last leg: an error on it was an error for its users, too.
    fn leg_suspect(&mut self, leg: LegRef, why: Doubt) -> Result<(), Rejected> {
        let drive = self.leg(leg)?.drive;
        self.go(leg.id, why.cause(), LegState::Suspect { why })?;
        let is_new = |drive: &Drive| matches!(drive.health, Health::Good | Health::Slow);
        if why == Doubt::Errored && self.state.drives.get(&drive).is_some_and(is_new) {
            self.erred = Some(drive);
        }
        if let Phase::Fencing { confirmed } = &mut self.volume.phase {
            confirmed.remove(&leg.id);
        }
        if self.volume.in_sync().next().is_none() && self.volume.phase != Phase::Offline {
            self.supersede(false)?;
            self.enter(VolumeCause::LastLegSuspect, Phase::Offline)?;
        }
        Ok(())
    }

    fn takeover(&mut self, owner: NodeId, lease_over: bool) -> Result<(), Rejected> {
        self.may_take(owner)?;
        // Only of an open volume there are users.
        if let (Phase::Open { boot }, false) = (&self.volume.phase, lease_over) {
            self.volume.yielding.insert(self.volume.owner, *boot);
        }
        self.supersede(false)?;
        self.begin_epoch(self.volume.epoch.next(), owner);
        self.enter(VolumeCause::Takeover, Phase::Fencing { confirmed: BTreeMap::new() })
    }

    fn yielded(&mut self, node: NodeId, boot: BootId) -> Result<(), Rejected> {
        if self.volume.yielding.get(&node) != Some(&boot) {
            return Err(Rejected::NothingToYield(node));
        }
        self.volume.yielding.remove(&node);
        Ok(())
    }

    fn begin_epoch(&mut self, epoch: Epoch, owner: NodeId) {
        self.volume.epoch = epoch;
        self.volume.owner = owner;
        self.volume.running = None;
    }

    /// Rebuilds end with their epoch. If its owner may still write, what was back must be fenced once more.
    fn supersede(&mut self, stays_back: bool) -> Result<(), Rejected> {
        for (id, state) in self.states() {
            let (base, back) = match state {
                LegState::Rebuilding { base } => (base, stays_back),
                LegState::Stale { base, back: true } if !stays_back => (base, false),
                _ => continue,
            };
            self.go(id, LegCause::Superseded, LegState::Stale { base, back })?;
        }
        Ok(())
    }

    fn states(&self) -> Vec<(LegId, LegState)> {
        self.volume.legs.iter().map(|(id, leg)| (*id, leg.state)).collect()
    }

    fn confirm(&mut self, leg: LegRef, run: Run, errored: bool) -> Result<(), Rejected> {
        let found = self.leg(leg)?;
        self.is_present(found.drive, run)?;
        let forgot = self.forgot(found, run);
        // What its drive had counted before an operator declared it good is among what the operator was told.
        let errored = errored && found.run.is_some();
        if found.state != LegState::InSync {
            return Err(Rejected::LegCannot { state: found.state.kind(), cause: LegCause::Unconfirmed });
        }
        // One that an operator declared good may have been away while the volume grew.
        let laid = self.volume.is_laid(found);
        let Phase::Fencing { confirmed } = &mut self.volume.phase else {
            return Err(Rejected::wrong_phase(&self.volume.phase));
        };
        if !laid {
            return Err(Rejected::NotLaid(leg.id));
        }
        if errored || forgot {
            return self.leg_suspect(leg, if errored { Doubt::Errored } else { Doubt::CacheLost });
        }
        confirmed.insert(leg.id, run);
        Ok(())
    }

    /// Until here the last activated set stands; from here on the confirmed part of it does.
    fn activate(&mut self) -> Result<(), Rejected> {
        let Phase::Fencing { confirmed } = self.volume.phase.clone() else {
            return Err(Rejected::wrong_phase(&self.volume.phase));
        };
        let boot = self.can_own(self.volume.owner)?;
        let mut any = false;
        let in_sync: Vec<(LegId, Leg)> = self.volume.in_sync().map(|(id, leg)| (id, leg.clone())).collect();
        for (id, leg) in in_sync {
            // A confirmation counts only while its run goes on.
            let run = confirmed.get(&id).copied().filter(|run| self.is_present(leg.drive, *run).is_ok());
            if let Some(run) = run {
                any = true;
                let naive = self.bugs.has(Bug::AnyRunConfirms).then(|| self.state.run(leg.drive)).flatten();
                self.volume.legs.entry(id).and_modify(|leg| leg.run = naive.or(Some(run)));
            } else {
                // One that has never been confirmed has never been made.
                let base = if leg.run.is_some() { Base::Changes } else { Base::Scratch };
                self.go(id, LegCause::Unconfirmed, LegState::Stale { base, back: false })?;
            }
        }
        if !any {
            return Err(Rejected::NothingConfirmed);
        }
        self.enter(VolumeCause::Activate, Phase::Opening { boot, make_equal: true })
    }

    fn opened(&mut self, maps: MapSequence) -> Result<(), Rejected> {
        let Phase::Opening { boot, .. } = self.volume.phase else {
            return Err(Rejected::wrong_phase(&self.volume.phase));
        };
        if let Some(node) = self.volume.awaits_yield() {
            return Err(Rejected::MayStillRun(node));
        }
        self.next_maps(maps)?;
        self.volume.yielding.clear();
        self.enter(VolumeCause::Opened, Phase::Open { boot })
    }

    fn map_durable(&mut self, maps: MapSequence) -> Result<(), Rejected> {
        self.is_open()?;
        self.next_maps(maps)
    }

    fn next_maps(&mut self, maps: MapSequence) -> Result<(), Rejected> {
        let present = self.volume.map_sequence;
        if maps != present.next() {
            return Err(Rejected::MapSequence { present });
        }
        self.volume.map_sequence = maps;
        Ok(())
    }

    /// The target has fenced the leg; what was sent to it as it was never reaches it as it will be.
    fn reexport(&mut self, leg: LegRef, run: Run) -> Result<(), Rejected> {
        self.is_activated()?;
        let found = self.leg(leg)?.clone();
        if self.state.run(found.drive) != Some(run) {
            return Err(Rejected::OtherRun { registered: self.state.run(found.drive) });
        }
        let anything_in_sync = self.volume.in_sync().next().is_some();
        match found.state {
            LegState::InSync if !self.volume.is_last_in_sync(leg.id) => return Err(Rejected::StillInSync),
            LegState::InSync if self.forgot(&found, run) => return self.leg_suspect(leg, Doubt::CacheLost),
            LegState::InSync => self.go(leg.id, LegCause::Kept, LegState::InSync)?,
            LegState::Stale { back: true, .. } if found.run == Some(run) => {
                return Err(Rejected::AlreadyBack);
            }
            LegState::Stale { base, .. } => {
                // Its map says what it was not given, not what it forgot of what it was given.
                let base = if self.forgot(&found, run) { Base::Scratch } else { base };
                self.go(leg.id, LegCause::Returned, LegState::Stale { base, back: true })?;
            }
            LegState::Suspect { .. } if !anything_in_sync => return Err(Rejected::NothingBetter),
            LegState::Suspect { .. } => {
                self.go(leg.id, LegCause::Returned, LegState::Stale { base: Base::Scratch, back: true })?;
            }
            LegState::Rebuilding { .. } => {
                return Err(Rejected::LegCannot { state: found.state.kind(), cause: LegCause::Returned });
            }
        }
        self.volume.legs.entry(leg.id).and_modify(|leg| {
            leg.incarnation = leg.incarnation.next();
            leg.run = Some(run);
        });
        Ok(())
    }

    /// Nothing of it changes but the run: what was sent to it as it is goes on to reach it.
    fn kept(&mut self, leg: LegRef, run: Run) -> Result<(), Rejected> {
        self.is_activated()?;
        let found = self.leg(leg)?;
        let registered = self.state.run(found.drive);
        if registered != Some(run) {
            return Err(Rejected::OtherRun { registered });
        }
        if found.run == registered || !self.state.stays(&self.volume, (leg.id, found)) {
            return Err(Rejected::NotKept(leg.id));
        }
        self.go(leg.id, LegCause::Stayed, LegState::InSync)?;
        self.volume.legs.entry(leg.id).and_modify(|leg| leg.run = Some(run));
        Ok(())
    }

    fn begin_rebuild(&mut self, leg: LegRef) -> Result<(), Rejected> {
        self.is_open()?;
        let found = self.leg(leg)?;
        let base = match found.state {
            LegState::Stale { base, back: true } if self.state.same_run(found) => base,
            LegState::Stale { .. } => return Err(Rejected::NotBack),
            other => {
                return Err(Rejected::LegCannot { state: other.kind(), cause: LegCause::RebuildBegun });
            }
        };
        self.is_laid(leg)?;
        if let Some(node) = self.state.node_of(found)
            && crate::rebuild::running_on(self.state, node)
                >= usize::from(self.state.settings.rebuilds_per_node_max)
        {
            return Err(Rejected::RebuildLimit(node));
        }
        self.go(leg.id, LegCause::RebuildBegun, LegState::Rebuilding { base })
    }

    fn leg_in_sync(&mut self, leg: LegRef, maps: MapSequence) -> Result<(), Rejected> {
        self.is_open()?;
        let found = self.leg(leg)?;
        if found.state.kind() != transition::LegKind::Rebuilding {
            return Err(Rejected::LegCannot { state: found.state.kind(), cause: LegCause::Rebuilt });
        }
        if !self.state.same_run(found) {
            return Err(Rejected::NotBack);
        }
        if maps != self.volume.map_sequence {
            return Err(Rejected::MapSequence { present: self.volume.map_sequence });
        }
        let replaces = found.replaces;
        self.is_laid(leg)?;
        self.go(leg.id, LegCause::Rebuilt, LegState::InSync)?;
        self.volume.legs.entry(leg.id).and_modify(|leg| (leg.replaces, leg.held_all) = (None, true));
        if let Some(old) = replaces {
            self.remove_leg(old);
        }
        Ok(())
    }

    fn remove_leg(&mut self, id: LegId) {
        if let Some(leg) = self.volume.legs.remove(&id) {
            self.removed.push((id, leg));
            self.events.push(Event::LegRemoved(self.id, id));
        }
    }

    fn running(&mut self, node: Option<NodeId>) -> Result<(), Rejected> {
        self.is_open()?;
        if let Some(node) = node.filter(|node| *node != self.volume.owner) {
            return Err(Rejected::NotTheOwner(node));
        }
        self.volume.running = node;
        Ok(())
    }

    /// The leg's target still has to confirm the fence under the new epoch.
    fn declare_good(&mut self, leg: LegRef, owner: NodeId, by: &str, loses: &str) -> Result<(), Rejected> {
        let found = self.leg(leg)?;
        if found.replaces.is_some() {
            return Err(Rejected::Moving);
        }
        if !found.held_all {
            return Err(Rejected::NeverHeldAll(leg.id));
        }
        if self.state.is_lost(found.drive) {
            return Err(Rejected::DriveRetired(found.drive));
        }
        self.may_take(owner)?;
        for (id, state) in self.states() {
            if id != leg.id {
                self.go(id, LegCause::SetAside, LegState::Stale { base: Base::Scratch, back: false })?;
            } else if state != LegState::InSync {
                self.go(id, LegCause::Overridden, LegState::InSync)?;
                // What it may have forgotten is among what the operator was told.
                self.volume.legs.entry(id).and_modify(|leg| leg.run = None);
            }
        }
        self.begin_epoch(self.volume.epoch.next(), owner);
        let what = Overridden::Leg(self.id, leg.id);
        self.overridden = Some(Override { what, by: by.to_owned(), loses: loses.to_owned() });
        self.enter(VolumeCause::Override, Phase::Fencing { confirmed: BTreeMap::new() })
    }

    fn move_leg(&mut self, leg: LegRef, to: DriveId) -> Result<(), Rejected> {
        let found = self.leg(leg)?.clone();
        if self.volume.legs.values().any(|other| other.replaces == Some(leg.id)) {
            return Err(Rejected::Moving);
        }
        // A move that has not got there may be turned elsewhere.
        let replaces = found.replaces.or(Some(leg.id));
        if found.replaces.is_some() {
            self.remove_leg(leg.id);
        }
        self.add_leg(to, LegState::Stale { base: Base::Scratch, back: false }, replaces)
    }

    fn widen(&mut self, drives: &[DriveId]) -> Result<(), Rejected> {
        self.is_open()?;
        if self.volume.mirror == Mirror::FourWay {
            return Err(Rejected::IsFourWay);
        }
        if self.volume.legs.values().any(|leg| leg.replaces.is_some()) {
            return Err(Rejected::Moving);
        }
        self.volume.mirror = Mirror::FourWay;
        let needed = self.volume.mirror.legs();
        if self.volume.legs.len() + drives.len() != needed {
            return Err(Rejected::WrongLegCount { needed });
        }
        let slabs = pool::needed(&self.volume, self.volume.array_to_be());
        self.state.keeps_reserve(drives.iter().map(|drive| (*drive, slabs)))?;
        for drive in drives {
            self.add_leg(*drive, LegState::Stale { base: Base::Scratch, back: false }, None)?;
        }
        Ok(())
    }

    fn add_leg(&mut self, drive: DriveId, state: LegState, replaces: Option<LegId>) -> Result<(), Rejected> {
        let found = self.state.drives.get(&drive).ok_or(Rejected::NoSuchDrive(drive))?;
        if found.retired {
            return Err(Rejected::DriveRetired(drive));
        }
        if self.volume.legs.values().any(|leg| leg.drive == drive) {
            return Err(Rejected::DriveInUse(drive));
        }
        pool::slabs_of(self.volume.size())?;
        let slabs = pool::needed(&self.volume, self.volume.array_to_be());
        let extents = self.state.allocate(drive, slabs)?;
        let id = self.volume.leg_minted.next();
        self.volume.leg_minted = id;
        // All of it is filled with zeros when it is made.
        let (to_lay, incarnation) = (0, Incarnation(1));
        let held_all = state == LegState::InSync;
        let leg = Leg { drive, extents, to_lay, incarnation, run: None, state, replaces, held_all };
        self.volume.legs.insert(id, leg);
        self.events.push(Event::LegAdded(self.id, id));
        Ok(())
    }
}
