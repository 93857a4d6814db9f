//! Nodes that leave: what it means that the ledger says so, and when one has left.
//!
//! ```text
//!   leaves ──► empty: no virtual machine, no volume, no copy, no drive, no vote ──► it gives back what it has ──► removed
//! ```
//! Purpose: as many nodes of each rack leave in one commit ([`crate::ClusterCommand::NodesLeave`]). From then on nothing new comes to them: their drives are retired, they take no virtual machines, no volume is given to
//! them, and they vote no more as soon as voters have changed ([`crate::voters`]). What is there goes by the means that there are: drains, hand-overs, moves of copies.
//!
//! Invariants: it is never taken back, so that a node which has read that it has left ([`State::has_left`]) knows that for good, whatever it has not read yet: nothing that it lacks is ever given to one that leaves. A rack keeps as many nodes
//! as the volumes' copies need. A volume may still be taken over by a node that leaves and has a copy of it: it may be all that is left.
//!
//! On failure: [`Rejected`], and nothing has changed.

use crate::command::Rejected;
use crate::state::{Node, State, Voters};
use crate::vm::{Leftover, VmRejected};
use model::{NodeId, NodeName, ZoneName};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// Whether the ledger says that a node leaves.
    pub fn leaves(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.leaving)
    }

    /// Those who leave.
    pub fn leaving(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.leaving).map(|(id, node)| (*id, node))
    }

    /// Whether a node that leaves has nothing of the cluster any more, and gets nothing: nobody needs its word, nor what is on its disks.
    pub fn has_left(&self, node: NodeId) -> bool {
        let has_drive = self.drives.values().any(|drive| drive.node == node);
        // One that is closed is opened elsewhere.
        let owns = self.volumes.values().any(|volume| {
            volume.yielding.contains_key(&node)
                || (volume.owner == node && volume.phase != crate::state::Phase::Closed)
        });
        self.leaves(node) && !self.may_vote(node) && !has_drive && !owns && !self.vms.is_on(node)
    }

    /// Whether nobody needs anything of a node of that name, under no id: there is none, or it has left.
    pub fn needs_none_of(&self, name: &NodeName) -> bool {
        self.nodes.iter().all(|(id, node)| node.name != *name || self.has_left(*id))
    }

    /// Whether a node votes, or will when the change that is in flight is done.
    pub fn may_vote(&self, node: NodeId) -> bool {
        match &self.voters {
            Voters::Settled(set) => set.contains(&node),
            Voters::Changing { from, to } => from.contains(&node) || to.contains(&node),
        }
    }

    /// Whether a later node has its name: it has come back under that id.
    pub fn is_replaced(&self, node: NodeId) -> bool {
        let name = self.nodes.get(&node).map(|node| &node.name);
        self.nodes.range(node.next()..).any(|(_, later)| Some(&later.name) == name)
    }
}

/// They leave, as many of each rack, with all that follows from that.
pub(crate) fn leave(state: &mut State, nodes: &BTreeSet<NodeId>) -> Result<(), Rejected> {
    are_as_many_of_each_rack(state, nodes)?;
    if let Some((other, _)) = state.leaving().find(|(id, _)| !nodes.contains(id)) {
        return Err(Rejected::Leaves(other));
    }
    for (zone, stay) in staying(state, nodes) {
        let needs = state.volumes.values().map(|volume| volume.mirror.legs() / 2).max().unwrap_or(1);
        if stay < needs {
            return Err(Rejected::TooFewStay { zone, stay, needs });
        }
    }
    // Nobody is placed there any more, but who is there would wait for what is refused from now on.
    if nodes.iter().any(|id| !state.leaves(*id) && state.vms.is_on(*id)) {
        return Err(Rejected::InUse);
    }
    for id in nodes {
        state.nodes.entry(*id).and_modify(|node| node.leaving = true);
        state.vms.draining.entry(*id).or_insert(Leftover::Stays);
    }
    for drive in state.drives.values_mut().filter(|drive| nodes.contains(&drive.node)) {
        drive.retired = true;
    }
    let mut storage = state.nodes.iter().filter(|(id, node)| node.zone.is_some() && !state.is_replaced(**id));
    if storage.all(|(id, _)| state.vms.draining.contains_key(id)) {
        return Err(VmRejected::NobodyLeft.into());
    }
    Ok(())
}

/// Racks stay of one size, and the witness stays.
fn are_as_many_of_each_rack(state: &State, nodes: &BTreeSet<NodeId>) -> Result<(), Rejected> {
    let mut racks: BTreeMap<&ZoneName, usize> =
        state.nodes.values().filter_map(|node| Some((node.zone.as_ref()?, 0))).collect();
    for id in nodes {
        let found = state.nodes.get(id).filter(|_| !state.is_replaced(*id));
        let zone = found.ok_or(Rejected::NoSuchNode(*id))?.zone.as_ref().ok_or(Rejected::NotOfEachRack)?;
        *racks.entry(zone).or_default() += 1;
    }
    let mut counts = racks.into_values();
    let first = counts.next().unwrap_or(0);
    if first > 0 && counts.all(|count| count == first) { Ok(()) } else { Err(Rejected::NotOfEachRack) }
}

/// How many nodes of each rack are there beside these.
fn staying(state: &State, nodes: &BTreeSet<NodeId>) -> BTreeMap<ZoneName, usize> {
    let mut racks = BTreeMap::new();
    for (id, node) in &state.nodes {
        let Some(zone) = &node.zone else { continue };
        let stays = !nodes.contains(id) && state.is_member(*id) && !state.is_replaced(*id);
        *racks.entry(zone.clone()).or_default() += usize::from(stays);
    }
    racks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ClusterCommand, Command, VolumeCommand as V};
    use crate::state::Cache;
    use crate::testing::{
        VOLUME, cluster, does, hand_over, must, open, refused, register, run, volume, with_volume,
    };
    use crate::vm::VmsCommand;
    use crate::{check, check_step};
    use model::{DriveId, LegId, Mirror, PowerCycles};

    fn named(nodes: &[u32]) -> Command {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        Command::Cluster(ClusterCommand::NodesLeave { nodes })
    }

    fn asked(state: &State, nodes: &[u32]) -> Result<(), Rejected> {
        state.clone().apply(&named(nodes)).map(drop)
    }

    /// Four nodes with a drive each, of which the first two have a volume, and the last two leave; all vote.
    fn two_leave() -> State {
        let mut state = with_volume(4, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        state.voters = Voters::Settled((1..=5).map(NodeId).collect());
        let before = state.clone();
        must(&mut state, &named(&[3, 4]));
        assert_eq!((check(&state), check_step(&before, &state)), (vec![], vec![]));
        state
    }

    #[test]
    fn as_many_of_each_rack_leave_and_enough_stay() {
        let state = cluster(4, 1, &[Cache::Safe]);
        for few in [&[][..], &[3], &[1, 3], &[1, 2, 4], &[4, 5]] {
            assert_eq!(asked(&state, few), Err(Rejected::NotOfEachRack), "{few:?}");
        }
        assert_eq!(asked(&state, &[3, 9]), Err(Rejected::NoSuchNode(NodeId(9))));
        let last = |stay| Rejected::TooFewStay { zone: "zone1".parse().unwrap(), stay, needs: 1 };
        assert_eq!(asked(&state, &[1, 2, 3, 4]), Err(last(0)));
        assert_eq!(asked(&state, &[3, 4]), Ok(()));
        let four_way = with_volume(4, 1, Mirror::FourWay, &[Cache::Safe]);
        let too_few = Rejected::TooFewStay { zone: "zone1".parse().unwrap(), stay: 1, needs: 2 };
        assert_eq!(asked(&four_way, &[3, 4]), Err(too_few));
        let mut drains = state.clone();
        let (nodes, leftover) = ([1, 2].map(NodeId).into(), Leftover::Stays);
        must(&mut drains, &Command::Vms(VmsCommand::Drain { nodes, leftover }));
        assert_eq!(asked(&drains, &[3, 4]), Err(VmRejected::NobodyLeft.into()));
        // Another pair when that has gone; the same again is nothing new.
        let mut larger = cluster(6, 1, &[Cache::Safe]);
        must(&mut larger, &named(&[3, 4]));
        assert_eq!(asked(&larger, &[5, 6]), Err(Rejected::Leaves(NodeId(3))));
        assert_eq!(asked(&larger, &[3, 4]), Ok(()));
    }

    #[test]
    fn one_that_leaves_gets_nothing_new() {
        let mut state = two_leave();
        assert!(state.leaves(NodeId(3)) && state.drives[&DriveId(3)].retired);
        let node = NodeId(3);
        let leaves = Rejected::Leaves(node);
        let (serial, cache, power_cycles) = ("new".parse().unwrap(), Cache::Safe, PowerCycles(0));
        let add = ClusterCommand::AddDrive { node, serial, size_bytes: 1 << 30, cache, power_cycles };
        for command in [
            Command::Cluster(add),
            Command::Cluster(ClusterCommand::ReadmitDrive(DriveId(3))),
            Command::Vms(VmsCommand::EndDrain { nodes: [node].into() }),
        ] {
            assert_eq!(state.clone().apply(&command), Err(leaves.clone()), "{command:?}");
        }
        let to = hand_over(&state, node);
        assert_eq!(refused(&state, to), leaves);
        assert_eq!(refused(&state, V::Takeover { owner: node, lease_over: true }), leaves, "it has no copy");
        let (name, drives) = ("more".parse().unwrap(), vec![DriveId(1), DriveId(2)]);
        let (mirror, provision, size_bytes, owner) = (Mirror::TwoWay, model::Provision::Thin, 1 << 20, node);
        let create = ClusterCommand::CreateVolume { name, mirror, provision, size_bytes, drives, owner };
        assert_eq!(state.apply(&Command::Cluster(create)), Err(leaves));
        // Under a new id, after its disk was lost, it leaves all the same.
        must(&mut state, &Command::Cluster(ClusterCommand::ReplaceNode { lost: node }));
        assert!(state.leaves(NodeId(6)) && state.vms.draining.contains_key(&NodeId(6)));
        assert_eq!(check(&state), []);
    }

    #[test]
    fn one_that_does_not_vote_never_votes_again() {
        let mut state = two_leave();
        let voters = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        must(&mut state, &Command::Cluster(ClusterCommand::ChangeVoters(voters(&[1, 2, 5]))));
        assert!(state.may_vote(NodeId(3)), "until that is done");
        must(&mut state, &Command::Cluster(ClusterCommand::VotersSettled));
        let back = Command::Cluster(ClusterCommand::ChangeVoters(voters(&[1, 2, 3])));
        assert_eq!(state.apply(&back), Err(Rejected::Leaves(NodeId(3))));
        let mut again = state.clone();
        again.voters = Voters::Settled(voters(&[1, 2, 3]));
        assert_eq!(check_step(&state, &again), [crate::Broken::Leaving(NodeId(3))]);
        let mut stays = state.clone();
        stays.nodes.get_mut(&NodeId(3)).unwrap().leaving = false;
        assert_eq!(check_step(&state, &stays), [crate::Broken::Leaving(NodeId(3))]);
    }

    /// All that stays may be dead, and the copy of one that leaves is good.
    #[test]
    fn a_volume_is_taken_over_by_one_that_leaves_and_has_a_copy_and_by_no_other() {
        let mut state = with_volume(4, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        must(&mut state, &named(&[1, 4]));
        let takeover = |owner| V::Takeover { owner: NodeId(owner), lease_over: true };
        assert_eq!(refused(&state, takeover(4)), Rejected::Leaves(NodeId(4)));
        let back = hand_over(&state, NodeId(1));
        does(&mut state.clone(), back);
        does(&mut state, takeover(2));
        does(&mut state, takeover(1));
        // What was taken is activated.
        open(&mut state, &[1, 2]);
        assert_eq!(volume(&state).owner, NodeId(1));
    }

    #[test]
    fn one_has_left_that_has_nothing_and_does_not_vote() {
        let mut state = with_volume(4, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        state.voters = Voters::Settled((1..=5).map(NodeId).collect());
        let one = NodeId(1);
        assert!(!state.has_left(one), "it stays");
        must(&mut state, &named(&[1, 4]));
        let over = hand_over(&state, NodeId(2));
        does(&mut state, over);
        crate::testing::opened(&mut state);
        let leg = crate::testing::leg_ref(&state, 1);
        does(&mut state, V::MoveLeg { leg, to: DriveId(3) });
        let leg = crate::testing::leg_ref(&state, 3);
        does(&mut state, V::Reexport { leg, run: run(NodeId(3), 1, 1) });
        let leg = crate::testing::leg_ref(&state, 3);
        does(&mut state, V::BeginRebuild(leg));
        let maps = volume(&state).map_sequence;
        does(&mut state, V::LegInSync { leg, maps });
        let freed = ClusterCommand::Freed { drive: DriveId(1), volume: VOLUME, leg: LegId(1) };
        must(&mut state, &Command::Cluster(freed));
        assert!(!state.has_left(one), "it has a drive");
        must(&mut state, &Command::Cluster(ClusterCommand::RemoveDrive(DriveId(1))));
        assert!(!state.has_left(one), "it votes");
        let voters = [2, 3, 5].map(NodeId).into();
        must(&mut state, &Command::Cluster(ClusterCommand::ChangeVoters(voters)));
        assert!(!state.has_left(one), "it votes until that is done");
        must(&mut state, &Command::Cluster(ClusterCommand::VotersSettled));
        assert!(state.has_left(one) && !state.has_left(NodeId(4)));
        let boots = register(&state, one, run(one, 2, 2));
        must(&mut state, &boots);
        assert!(state.has_left(one));
        must(&mut state, &Command::Cluster(ClusterCommand::RemoveNode(one)));
        assert_eq!(check(&state), []);
        assert!(!state.vms.draining.contains_key(&one));
    }

    #[test]
    fn a_ledger_from_before_has_nobody_who_leaves() {
        let state = cluster(2, 1, &[Cache::Safe]);
        let mut written = serde_json::to_value(&state).unwrap();
        for node in written["nodes"].as_object_mut().unwrap().values_mut() {
            node.as_object_mut().unwrap().remove("leaving");
        }
        assert_eq!(serde_json::from_value::<State>(written).unwrap(), state);
    }
}
