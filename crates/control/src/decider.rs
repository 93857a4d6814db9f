//! Where the ledger's leader is: when a volume is taken over, by whom, and when its new epoch is activated.
//!
//! Purpose: look at every volume and at who is alive, and propose what leads on. Nothing here is needed for safety: any takeover
//! at any time loses no write (the model check does just that). It is here so that volumes come back soon, and that no
//! virtual machine runs twice: nobody is let in before the former owner's lease is over. A takeover begins a little earlier, when
//! the former owner kills its users in any case: fences and the assembly take that time.
//!
//! Invariants: nothing is proposed before a quorum has confirmed the leadership. A volume is given only to a live node, and only when
//! a live node holds an in-sync leg: otherwise it would lose its epoch for nothing. A leader that has just begun has heard nobody
//! yet, and takes nobody for dead.
//!
//! On failure: what can't be decided is [`Blocked`], with its reason, for operators to read; it is looked at again at every step.

use crate::command::{ClusterCommand, Command, VolumeCommand};
use crate::lease::{Grantor, GrantorEffect, GrantorEvent, HolderTiming};
use crate::moment::Moment;
use crate::retire;
use crate::slow::{self, Reading};
use crate::state::{Phase, State, Volume};
use crate::vm::decide::{Alive, Deciding, Heir};
use crate::voters;
use model::{BootId, DriveId, Epoch, LegId, NodeId, VmId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the decider waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// A node is not alive when nothing came from it for this long.
    pub silent_after: Duration,
    /// Live targets that have not confirmed a fence after this are done without.
    pub fence_max: Duration,
    /// How long before the end of an owner's lease its volumes are taken: as long as holders stop their users before it
    /// ([`crate::lease::HolderTiming::stop_before`]).
    pub head_start: Duration,
    /// A node of which nothing came for this long need not vote. Longer than `silent_after`: a change of voters is no hurry, and
    /// one for a node that is only slow would be for nothing.
    pub votes_after: Duration,
}

impl Default for Timing {
    /// Requests for leases, which show that a node lives, come every 400 ms. A barrier waits for what a drive has in flight: a second is long for flash.
    fn default() -> Self {
        let (silent_after, fence_max) = (Duration::from_secs(1), Duration::from_secs(1));
        let head_start = HolderTiming::default().stop_before;
        Self { silent_after, fence_max, head_start, votes_after: Duration::from_secs(2) }
    }
}

/// What a decider is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but that time has passed or the ledger has changed. At least every 200 ms; every 100 while anything happens.
    Look,
    /// A node's heartbeat came.
    Heard(NodeId),
    /// What a node's drives took lately.
    Measured(NodeId, DriveId, Reading),
    /// About leadership and leases.
    Lease(GrantorEvent),
}

/// What a decider orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// About leadership and leases.
    Lease(GrantorEffect),
    /// Ask the ledger. May be ordered again and again until the ledger has changed; one in flight is enough.
    Propose(Command),
}

/// Why a volume waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Its owner, or a former one, is silent and may still have a lease.
    #[error("{0} is silent, and its lease may not be over")]
    Lease(NodeId),
    /// No live node holds an in-sync leg.
    #[error("no live node holds a leg that is in sync")]
    NoLeg,
    /// A fence is not confirmed yet.
    #[error("fences are not confirmed: {0:?}")]
    Fence(Vec<LegId>),
    /// Its virtual machine is being placed, and it goes there.
    #[error("{0} is being placed")]
    Placing(VmId),
    /// No leg is in sync at all.
    #[error("no leg is in sync: only an operator's override leads on")]
    Offline,
}

/// The leader's decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Decider {
    timing: Timing,
    grantor: Grantor,
    heard: BTreeMap<NodeId, Moment>,
    fencing: BTreeMap<VolumeId, (Epoch, Moment)>,
    slow: slow::Watch,
    vms: Deciding,
}

impl Decider {
    /// At the agent's start, on every voter: only the leader's is told that it leads.
    pub fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// Something happened, and the ledger is this now.
    pub fn step(&mut self, now: Moment, ledger: &State, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Look => {
                let looked = self.grantor.step(now, ledger.settings, GrantorEvent::Look);
                effects.extend(looked.into_iter().map(Effect::Lease));
            }
            Event::Heard(node) => drop(self.heard.insert(node, now)),
            Event::Measured(node, drive, reading) => {
                if ledger.drives.get(&drive).is_some_and(|known| known.node == node) {
                    self.slow.see(now, ledger, drive, reading);
                }
            }
            Event::Lease(event) => {
                effects.extend(self.grantor.step(now, ledger.settings, event).into_iter().map(Effect::Lease));
                if event == GrantorEvent::Deposed {
                    self.fencing.clear();
                    self.slow.forget();
                    self.vms.forget();
                }
            }
        }
        if self.grantor.is_confirmed() {
            self.fencing.retain(|id, _| ledger.volumes.contains_key(id));
            let mut vms = std::mem::take(&mut self.vms);
            effects.extend(
                self.with_alive(now, ledger, |alive| vms.decide(alive)).into_iter().map(Effect::Propose),
            );
            self.vms = vms;
            for (id, volume) in &ledger.volumes {
                if let Ok(Some(command)) = self.decide(now, ledger, *id, volume) {
                    effects.push(Effect::Propose(Command::Volume(*id, volume.epoch, command)));
                }
            }
            self.look_after_drives(now, ledger, &mut effects);
        }
        effects
    }

    /// Who is alive, in the words of those who decide about virtual machines.
    fn with_alive<T>(&self, now: Moment, ledger: &State, look: impl FnOnce(&Alive<'_>) -> T) -> T {
        let lost = |node| self.is_lost(now, ledger, node);
        let lease_over = |node| !self.grantor.may_hold(now, ledger.settings, node);
        let (live, young) = (|node| self.is_live(now, node), self.is_young(now));
        look(&Alive { now, ledger, young, live: &live, lost: &lost, lease_over: &lease_over })
    }

    /// Slow drives are said to be, and what is on retired ones goes elsewhere.
    fn look_after_drives(&mut self, now: Moment, ledger: &State, effects: &mut Vec<Effect>) {
        let slow = self.slow.slow(now, ledger).into_iter().map(ClusterCommand::DriveSlow);
        effects.extend(slow.map(|command| Effect::Propose(Command::Cluster(command))));
        let moves = retire::moves(ledger, |node| self.is_live(now, node));
        let about = moves.into_iter().chain(retire::dispensable(ledger));
        let propose = |(id, epoch, command)| Effect::Propose(Command::Volume(id, epoch, command));
        effects.extend(about.map(propose));
    }

    /// Why volumes wait, for operators.
    pub fn blocked(&mut self, now: Moment, ledger: &State) -> Vec<(VolumeId, Blocked)> {
        let volumes = ledger.volumes.iter();
        volumes.filter_map(|(id, volume)| Some((*id, self.decide(now, ledger, *id, volume).err()?))).collect()
    }

    /// The set of voters to change to, by who is alive; `None`: none, or this node does not lead, or not long enough to know.
    pub fn wanted_voters(&self, now: Moment, ledger: &State) -> Option<BTreeSet<NodeId>> {
        let since = self.grantor.since()?;
        let lives = |node: &NodeId| {
            self.heard.get(node).is_some_and(|heard| now < heard.after(self.timing.votes_after))
        };
        let live = ledger.nodes.keys().copied().filter(lives).collect();
        let preferred = ledger.nodes.values().find_map(|node| node.zone.as_ref())?;
        (now >= since.after(self.timing.votes_after)).then(|| voters::wanted(ledger, &live, preferred))?
    }

    fn is_live(&self, now: Moment, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|heard| now < heard.after(self.timing.silent_after))
    }

    /// Whether it is, or this leader is too young to know.
    fn may_be_live(&self, now: Moment, node: NodeId) -> bool {
        self.is_young(now) || self.is_live(now, node)
    }

    fn is_young(&self, now: Moment) -> bool {
        self.grantor.since().is_some_and(|since| now < since.after(self.timing.silent_after))
    }

    /// Whether it is silent, and its users are stopped by when it could be taken for lost.
    fn is_lost(&self, now: Moment, ledger: &State, node: NodeId) -> bool {
        let soon = now.after(self.timing.head_start);
        !self.may_be_live(now, node) && !self.grantor.may_hold(soon, ledger.settings, node)
    }

    fn decide(
        &mut self,
        now: Moment,
        ledger: &State,
        id: VolumeId,
        volume: &Volume,
    ) -> Result<Option<VolumeCommand>, Blocked> {
        if let Some(yielded) = self.yielded(now, ledger, volume) {
            return Ok(Some(yielded));
        }
        match &volume.phase {
            Phase::Closed => Ok(None),
            Phase::Offline => Err(Blocked::Offline),
            Phase::Opening { boot, .. } | Phase::Open { boot } => {
                let present = ledger.nodes.get(&volume.owner).and_then(|node| node.boot);
                // Another boot: the array is gone, and with it whoever used it.
                if present != Some(*boot) {
                    return self.takeover(now, ledger, (id, volume), true).map(Some);
                }
                if self.may_be_live(now, volume.owner) {
                    return volume.awaits_yield().map_or(Ok(None), |node| Err(Blocked::Lease(node)));
                }
                if !self.is_lost(now, ledger, volume.owner) {
                    return Err(Blocked::Lease(volume.owner));
                }
                let lease_over = !self.grantor.may_hold(now, ledger.settings, volume.owner);
                self.takeover(now, ledger, (id, volume), lease_over).map(Some)
            }
            Phase::Fencing { .. } => {
                if !self.may_be_live(now, volume.owner) {
                    // Nobody was let in yet; this says nothing of what it finds should it come late.
                    return self.takeover(now, ledger, (id, volume), false).map(Some);
                }
                let begun = self.fencing.entry(id).or_insert((volume.epoch, now));
                if begun.0 != volume.epoch {
                    *begun = (volume.epoch, now);
                }
                let late = now >= begun.1.after(self.timing.fence_max);
                self.activate(now, ledger, volume, late).map(Some)
            }
        }
    }

    /// A former owner whose lease is over by now, or that has booted anew.
    fn yielded(&self, now: Moment, ledger: &State, volume: &Volume) -> Option<VolumeCommand> {
        // One that has left the ledger may run on: only the end of its lease says that it does not.
        let gone = |(node, boot): &(&NodeId, &BootId)| {
            let present = ledger.nodes.get(node).and_then(|node| node.boot);
            present.is_some_and(|present| present != **boot)
                || !self.grantor.may_hold(now, ledger.settings, **node)
        };
        let (node, boot) = volume.yielding.iter().find(gone)?;
        Some(VolumeCommand::Yielded { node: *node, boot: *boot })
    }

    /// All that live have confirmed, or time is up and one has.
    fn activate(
        &self,
        now: Moment,
        ledger: &State,
        volume: &Volume,
        late: bool,
    ) -> Result<VolumeCommand, Blocked> {
        let Phase::Fencing { confirmed } = &volume.phase else { return Err(Blocked::NoLeg) };
        let (mut counts, mut awaited) = (false, Vec::new());
        for (id, leg) in volume.in_sync() {
            let run = ledger.run(leg.drive);
            if run.is_some() && confirmed.get(&id).copied() == run {
                counts = true;
            } else if ledger.node_of(leg).is_some_and(|node| self.may_be_live(now, node)) {
                awaited.push(id);
            }
        }
        match (counts, awaited.is_empty()) {
            (true, true) => Ok(VolumeCommand::Activate),
            (true, false) if late => Ok(VolumeCommand::Activate),
            (false, true) => Err(Blocked::NoLeg),
            (_, false) => Err(Blocked::Fence(awaited)),
        }
    }

    /// To the node where its virtual machine is to run; else to the first live node that holds an in-sync leg, one that stays in the cluster and another than the present owner's if there is one.
    fn takeover(
        &self,
        now: Moment,
        ledger: &State,
        (id, volume): (VolumeId, &Volume),
        lease_over: bool,
    ) -> Result<VolumeCommand, Blocked> {
        let holders = volume.in_sync().filter_map(|(_, leg)| ledger.node_of(leg));
        let live = holders.filter(|node| self.is_live(now, *node));
        let holder = live
            .min_by_key(|node| (ledger.leaves(*node), *node == volume.owner, *node))
            .ok_or(Blocked::NoLeg)?;
        let owner = match self.with_alive(now, ledger, |alive| self.vms.heir(alive, id)) {
            Heir::Anybody => holder,
            Heir::Node(node) => node,
            Heir::Awaits(vm) => return Err(Blocked::Placing(vm)),
        };
        Ok(VolumeCommand::Takeover { owner, lease_over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Cache;
    use crate::testing::{VOLUME, leg_ref, must, now as command, open, register, run, volume, with_volume};
    use model::Mirror;

    struct Cluster {
        ledger: State,
        decider: Decider,
        live: Vec<NodeId>,
    }

    impl Cluster {
        /// A volume that is open at node 1, and a leader whose quorum has just confirmed it.
        fn new(nodes: u32, mirror: Mirror) -> Self {
            let mut ledger = with_volume(nodes, 1, mirror, &[Cache::Safe]);
            let legs: Vec<u16> = (1..=mirror.legs() as u16).collect();
            open(&mut ledger, &legs);
            let mut decider = Decider::new(Timing::default());
            for event in [GrantorEvent::Leading, GrantorEvent::Confirmed(1)] {
                decider.step(Moment(0), &ledger, Event::Lease(event));
            }
            Self { ledger, decider, live: (1..=nodes).map(NodeId).collect() }
        }

        /// Runs on to a moment; what is proposed then.
        fn until(&mut self, from: u64, to: u64) -> Vec<VolumeCommand> {
            let mut proposed = Vec::new();
            for at in (from..=to).step_by(100) {
                proposed.clear();
                for node in self.live.clone() {
                    self.decider.step(Moment(at), &self.ledger, Event::Heard(node));
                }
                for effect in self.decider.step(Moment(at), &self.ledger, Event::Look) {
                    if let Effect::Propose(Command::Volume(_, _, command)) = effect {
                        proposed.push(command);
                    }
                }
            }
            proposed
        }
    }

    #[test]
    fn a_dead_owners_volume_is_taken_a_second_before_its_lease_is_over_and_opened_after_it() {
        let mut cluster = Cluster::new(4, Mirror::FourWay);
        assert_eq!(cluster.until(0, 2000), []);
        cluster.live.retain(|node| *node != NodeId(1));
        // A lease of the leader before may last until 3150; silence is 1 s old at 3000.
        assert_eq!(cluster.until(2100, 2900), []);
        let takeover = VolumeCommand::Takeover { owner: NodeId(2), lease_over: false };
        let taken = command(&cluster.ledger, takeover.clone());
        assert_eq!(cluster.until(3000, 3000), [takeover]);
        must(&mut cluster.ledger, &taken);
        let yielding = volume(&cluster.ledger).yielding.clone();
        assert_eq!(yielding.into_keys().collect::<Vec<_>>(), [NodeId(1)]);
        assert_eq!(cluster.until(3100, 3100), []);
        let boot = run(NodeId(1), 1, 1).boot;
        assert_eq!(cluster.until(3200, 3200), [VolumeCommand::Yielded { node: NodeId(1), boot }]);
    }

    #[test]
    fn a_silent_owner_keeps_its_volume_while_its_users_are_not_stopped_yet() {
        let mut cluster = Cluster::new(4, Mirror::FourWay);
        let settings = cluster.ledger.settings;
        // Its last request came at 5000: users are stopped at 7000 at the earliest, and the lease ends at 8150 at the latest.
        cluster.until(0, 5000);
        cluster.decider.grantor.step(Moment(5000), settings, GrantorEvent::Asked(NodeId(1), 1));
        cluster.decider.grantor.step(Moment(5010), settings, GrantorEvent::Confirmed(2));
        cluster.live.retain(|node| *node != NodeId(1));
        assert_eq!(cluster.until(5100, 7100), []);
        let blocked = cluster.decider.blocked(Moment(7100), &cluster.ledger);
        assert_eq!(blocked, [(VOLUME, Blocked::Lease(NodeId(1)))]);
        let takeover = VolumeCommand::Takeover { owner: NodeId(2), lease_over: false };
        assert_eq!(cluster.until(7200, 7200), [takeover]);
        let takeover = VolumeCommand::Takeover { owner: NodeId(2), lease_over: true };
        assert_eq!(cluster.until(8200, 8200), [takeover]);
    }

    #[test]
    fn an_owner_that_has_booted_anew_loses_its_volume_at_once_and_may_get_it_back_as_the_last() {
        let mut cluster = Cluster::new(2, Mirror::TwoWay);
        let stale = command(&cluster.ledger, VolumeCommand::LegStale(leg_ref(&cluster.ledger, 2)));
        must(&mut cluster.ledger, &stale);
        let booted = register(&cluster.ledger, NodeId(1), run(NodeId(1), 2, 2));
        must(&mut cluster.ledger, &booted);
        assert_eq!(cluster.until(0, 0), [VolumeCommand::Takeover { owner: NodeId(1), lease_over: true }]);
    }

    /// Nobody else could go on with it, and what it has on its drives is good.
    #[test]
    fn one_that_lost_its_ledger_and_alone_has_what_was_open_there_gets_it_under_its_new_id() {
        let mut cluster = Cluster::new(2, Mirror::TwoWay);
        let stale = command(&cluster.ledger, VolumeCommand::LegStale(leg_ref(&cluster.ledger, 2)));
        must(&mut cluster.ledger, &stale);
        let (lost, new) = (NodeId(1), cluster.ledger.minted.node.next());
        must(&mut cluster.ledger, &Command::Cluster(ClusterCommand::ReplaceNode { lost }));
        cluster.live = vec![NodeId(2)];
        assert_eq!(cluster.until(0, 6000), []);
        let joined = register(&cluster.ledger, new, run(new, 1, 1));
        must(&mut cluster.ledger, &joined);
        cluster.live.push(new);
        let takeover = VolumeCommand::Takeover { owner: new, lease_over: true };
        assert_eq!(cluster.until(6100, 6100), std::slice::from_ref(&takeover));
        let taken = command(&cluster.ledger, takeover);
        must(&mut cluster.ledger, &taken);
        must(&mut cluster.ledger, &Command::Cluster(ClusterCommand::RemoveNode(lost)));
        assert_eq!(crate::check::check(&cluster.ledger), []);
    }

    #[test]
    fn a_node_that_leaves_takes_over_only_what_nobody_else_has() {
        for (live, taker) in [(&[2, 3, 4, 5, 6][..], 4), (&[2, 3, 5, 6], 2)] {
            let mut cluster = Cluster::new(6, Mirror::FourWay);
            let leave = ClusterCommand::NodesLeave { nodes: [2, 3].map(NodeId).into() };
            must(&mut cluster.ledger, &Command::Cluster(leave));
            cluster.until(0, 2000);
            cluster.live = live.iter().copied().map(NodeId).collect();
            let takeover = VolumeCommand::Takeover { owner: NodeId(taker), lease_over: true };
            assert_eq!(cluster.until(2100, 9000), [takeover], "{live:?}");
        }
    }

    #[test]
    fn without_a_live_in_sync_leg_nothing_is_begun() {
        let mut cluster = Cluster::new(2, Mirror::TwoWay);
        let stale = command(&cluster.ledger, VolumeCommand::LegStale(leg_ref(&cluster.ledger, 2)));
        must(&mut cluster.ledger, &stale);
        cluster.live = vec![NodeId(2)];
        assert_eq!(cluster.until(0, 6000), []);
        assert_eq!(cluster.decider.blocked(Moment(6000), &cluster.ledger), [(VOLUME, Blocked::NoLeg)]);
    }

    #[test]
    fn an_epoch_is_activated_when_all_that_live_have_confirmed_or_time_is_up() {
        let mut cluster = Cluster::new(4, Mirror::FourWay);
        cluster.live.retain(|node| *node != NodeId(1));
        assert_eq!(cluster.until(0, 1000), [], "a leader that has just begun takes nobody for dead");
        let takeover =
            command(&cluster.ledger, VolumeCommand::Takeover { owner: NodeId(2), lease_over: true });
        must(&mut cluster.ledger, &takeover);
        assert_eq!(cluster.until(1100, 1100), []);
        for id in [2, 3] {
            let (leg, run) = (leg_ref(&cluster.ledger, id), run(NodeId(id.into()), 1, 1));
            let confirm = VolumeCommand::ConfirmFence { leg, run, errored: false };
            let confirm = command(&cluster.ledger, confirm);
            must(&mut cluster.ledger, &confirm);
        }
        let blocked = cluster.decider.blocked(Moment(1200), &cluster.ledger);
        assert_eq!(blocked, [(VOLUME, Blocked::Fence(vec![LegId(4)]))]);
        assert_eq!(cluster.until(1200, 2000), [], "leg 4's node lives: its barrier is waited for");
        assert_eq!(cluster.until(2100, 2100), [VolumeCommand::Activate]);
        assert!(matches!(volume(&cluster.ledger).phase, Phase::Fencing { .. }));
    }

    #[test]
    fn voters_are_those_who_live_once_a_leader_has_heard_for_long_enough() {
        let mut cluster = Cluster::new(4, Mirror::FourWay);
        let voters = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        cluster.ledger.voters = crate::state::Voters::Settled(voters(&[1, 2, 3, 4, 5]));
        cluster.live = voters(&[1, 2, 3, 4, 5]).into_iter().collect();
        cluster.until(0, 1000);
        // Rack 2 goes.
        cluster.live = voters(&[1, 3, 5]).into_iter().collect();
        cluster.until(1100, 2900);
        assert_eq!(cluster.decider.wanted_voters(Moment(2900), &cluster.ledger), None);
        cluster.until(3000, 3000);
        let wanted = Some(voters(&[1, 3, 5]));
        assert_eq!(cluster.decider.wanted_voters(Moment(3000), &cluster.ledger), wanted);
        cluster.decider.step(Moment(3000), &cluster.ledger, Event::Lease(GrantorEvent::Deposed));
        assert_eq!(cluster.decider.wanted_voters(Moment(3000), &cluster.ledger), None);
    }

    #[test]
    fn whoever_no_longer_leads_proposes_nothing() {
        let mut cluster = Cluster::new(2, Mirror::TwoWay);
        cluster.decider.step(Moment(0), &cluster.ledger, Event::Lease(GrantorEvent::Deposed));
        cluster.live = vec![NodeId(2)];
        assert_eq!(cluster.until(0, 9000), []);
    }
}
