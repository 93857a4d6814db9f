//! Who votes, and which drives a new volume lies on. Pure.
//!
//! `placement` has the rule for copies (racks first, then nodes, then drives, a drive's worth kept free on each node) and the choice. What it
//! chose is applied to a copy of the ledger, and `placement`'s checker, which shares nothing with the placer, looks at the outcome.
//!
//! Invariants: what [`choose`] gives keeps the rule, and the ledger as it was seen takes it. On failure: [`NoPlace`].

use control::state::{Volume, Voters};
use control::{ClusterCommand, Command, Rejected, State};
use model::{NodeId, NodeName, VolumeId, VolumeName, VolumeSize, ZoneName};
use placement::{Broken, Refused};
use std::collections::{BTreeMap, BTreeSet};

/// A volume has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// There is no room that may be taken.
    #[error(transparent)]
    Room(#[from] Refused),
    /// The ledger would not take it.
    #[error("the ledger would not take it")]
    Rejected(#[from] Rejected),
    /// The copies are not where the shape says.
    #[error("the copies would not be where the shape says")]
    Breach(#[from] Broken),
    /// None of the nodes that were chosen is known.
    #[error("no node that was chosen is known")]
    NoOwner,
}

/// The command that makes a volume, which is opened first in a rack, if it has a copy there.
pub fn choose(
    ledger: &State,
    name: &VolumeName,
    size: VolumeSize,
    rack: Option<&ZoneName>,
) -> Result<ClusterCommand, NoPlace> {
    let id = ledger.minted.volume.next();
    let placed = placement::place(&ledger.pool(), &ledger.placed(), id, size)?;
    let nodes: Vec<NodeId> =
        placed.iter().filter_map(|leg| ledger.drives.get(&leg.drive)).map(|drive| drive.node).collect();
    let in_rack = |node: &&NodeId| ledger.nodes.get(node).and_then(|node| node.zone.as_ref()) == rack;
    let owner = *nodes.iter().find(in_rack).or(nodes.first()).ok_or(NoPlace::NoOwner)?;
    let VolumeSize { mirror, provision, size_bytes, .. } = size;
    let drives = placed.iter().map(|leg| leg.drive).collect();
    let create =
        ClusterCommand::CreateVolume { name: name.clone(), mirror, provision, size_bytes, drives, owner };
    let mut after = ledger.clone();
    after.apply(&Command::Cluster(create.clone()))?;
    breaches(&after, id).into_iter().next().map_or(Ok(create), |broken| Err(broken.into()))
}

/// What of the rule does not hold of a volume that is there; nothing while a leg of it is being moved.
pub fn breaches(ledger: &State, id: VolumeId) -> Vec<Broken> {
    let Some(volume) = ledger.volumes.get(&id) else { return Vec::new() };
    if volume.legs.values().any(|leg| leg.replaces.is_some()) {
        return Vec::new();
    }
    let own: Vec<_> = ledger.placed().into_iter().filter(|leg| leg.volume == id).collect();
    placement::check(&ledger.pool(), &BTreeMap::from([(id, volume.size())]), &own)
}

/// In what a volume that is there is another than the one that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Its size.
    #[error("it has {has_bytes} bytes, {asked_bytes} are asked for")]
    Size {
        /// What it has.
        has_bytes: u64,
        /// What is asked for.
        asked_bytes: u64,
    },
    /// How many copies.
    #[error("it has {has} copies, {asked} are asked for")]
    Mirror {
        /// So many.
        has: usize,
        /// So many are asked for.
        asked: usize,
    },
    /// When its space is given out.
    #[error("one of the two is thin, the other is not")]
    Provision,
    /// Where its copies are.
    #[error("its copies are not where the shape says: {0}")]
    Placement(Broken),
}

/// In what the volume of an id differs from the size that is asked for, and from the rule.
pub fn differences(ledger: &State, (id, volume): (VolumeId, &Volume), asked: VolumeSize) -> Vec<Difference> {
    let has = volume.size();
    let size = Difference::Size { has_bytes: has.size_bytes, asked_bytes: asked.size_bytes };
    let mirror = Difference::Mirror { has: has.mirror.legs(), asked: asked.mirror.legs() };
    let mut all = Vec::new();
    all.extend((has.size_bytes != asked.size_bytes).then_some(size));
    all.extend((has.mirror != asked.mirror).then_some(mirror));
    all.extend((has.provision != asked.provision).then_some(Difference::Provision));
    all.extend(breaches(ledger, id).into_iter().map(Difference::Placement));
    all
}

/// What there is to do about who votes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voting {
    /// Nothing: all vote.
    Settled,
    /// A change is in flight.
    Changing,
    /// These shall.
    Change(BTreeSet<NodeId>),
    /// So many members can't all vote: an even number decides nothing that one fewer does not.
    Even(usize),
}

/// Who votes in a whole cluster that is alive: every node that stays and the witness, each by its last id. With racks of equal size that is an odd number.
pub fn voting(ledger: &State) -> Voting {
    let Voters::Settled(present) = &ledger.voters else { return Voting::Changing };
    // The last id under a name is the present one.
    let last: BTreeMap<&NodeName, NodeId> = ledger
        .nodes
        .iter()
        .filter(|(id, _)| ledger.is_member(**id))
        .map(|(id, node)| (&node.name, *id))
        .collect();
    let all: BTreeSet<NodeId> = last.into_values().filter(|id| !ledger.leaves(*id)).collect();
    match all.len() {
        _ if all == *present => Voting::Settled,
        members if members.is_multiple_of(2) => Voting::Even(members),
        _ => Voting::Change(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::{Cache, Settings};
    use model::{BootId, DriveId, Mirror, PowerCycles, Provision};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn must(ledger: &mut State, command: ClusterCommand) {
        ledger.apply(&Command::Cluster(command)).unwrap();
    }

    /// So many nodes a rack, in turn, each with drives of these sizes; then the witness.
    fn cluster(per_rack: u32, drives: &[u64]) -> State {
        let mut ledger = State::new(Settings::default());
        for number in 1..=2 * per_rack {
            let zone = format!("rack{}", 1 + (number + 1) % 2).parse().unwrap();
            must(
                &mut ledger,
                ClusterCommand::AddNode { name: format!("n{number}").parse().unwrap(), zone: Some(zone) },
            );
            let (node, boot) = (NodeId(number), BootId(u128::from(number)));
            must(&mut ledger, ClusterCommand::Register { node, was: None, boot, drives: BTreeMap::new() });
            for (at, size_bytes) in drives.iter().enumerate() {
                let serial = format!("S{number}-{at}").parse().unwrap();
                let (size_bytes, power_cycles) = (*size_bytes, PowerCycles(0));
                let drive =
                    ClusterCommand::AddDrive { node, serial, size_bytes, cache: Cache::Safe, power_cycles };
                must(&mut ledger, drive);
            }
        }
        must(&mut ledger, ClusterCommand::AddNode { name: "w".parse().unwrap(), zone: None });
        ledger
    }

    fn size(mirror: Mirror, size_bytes: u64) -> VolumeSize {
        VolumeSize::new(mirror, Provision::Fixed, size_bytes)
    }

    fn create(ledger: &mut State, name: &str, size: VolumeSize) -> Result<Vec<DriveId>, NoPlace> {
        let create = choose(ledger, &name.parse().unwrap(), size, None)?;
        must(ledger, create);
        let id = ledger.minted.volume;
        Ok(ledger.volumes[&id].legs.values().map(|leg| leg.drive).collect())
    }

    #[test]
    fn copies_are_over_racks_first_and_where_most_is_free() {
        let mut ledger = cluster(1, &[4 * GIB, 4 * GIB]);
        let two = |size_bytes| size(Mirror::TwoWay, size_bytes);
        assert_eq!(create(&mut ledger, "one", two(GIB)), Ok(vec![DriveId(1), DriveId(3)]));
        assert_eq!(create(&mut ledger, "two", two(GIB / 4)), Ok(vec![DriveId(2), DriveId(4)]));
        let full = create(&mut ledger, "three", two(4 * GIB));
        assert!(matches!(&full, Err(NoPlace::Room(Refused::Racks(racks))) if racks.len() == 2), "{full:?}");
        let four = create(&mut cluster(1, &[GIB]), "four", size(Mirror::FourWay, GIB / 4));
        assert!(matches!(four, Err(NoPlace::Room(_))), "{four:?}");
        let mut nobody = State::new(Settings::default());
        assert_eq!(create(&mut nobody, "none", two(GIB)), Err(NoPlace::Room(Refused::NotTwoRacks(0))));
    }

    #[test]
    fn what_is_kept_free_for_a_drive_that_fails_is_not_taken() {
        let mut ledger = cluster(1, &[GIB, GIB]);
        // 30 slabs a node, 15 of them kept: 14 of data and one of metadata.
        assert!(create(&mut ledger, "large", size(Mirror::TwoWay, (15 * 64) << 20)).is_err());
        assert!(create(&mut ledger, "fits", size(Mirror::TwoWay, (14 * 64) << 20)).is_ok());
        assert!(create(&mut ledger, "more", size(Mirror::TwoWay, 4096)).is_err());
    }

    #[test]
    fn four_copies_are_on_four_nodes_and_none_on_a_retired_drive_or_an_unregistered_node() {
        let mut ledger = cluster(3, &[4 * GIB]);
        must(&mut ledger, ClusterCommand::RetireDrive(DriveId(1)));
        ledger.nodes.get_mut(&NodeId(2)).unwrap().boot = None;
        let four = create(&mut ledger, "four", size(Mirror::FourWay, GIB)).unwrap();
        assert_eq!(four.iter().copied().collect::<BTreeSet<_>>(), [3, 4, 5, 6].map(DriveId).into());
    }

    #[test]
    fn what_differs_is_said() {
        let mut ledger = cluster(2, &[4 * GIB]);
        create(&mut ledger, "one", size(Mirror::TwoWay, GIB)).unwrap();
        let id = ledger.minted.volume;
        let told = |ledger: &State, asked| differences(ledger, (id, &ledger.volumes[&id]), asked);
        assert_eq!(told(&ledger, size(Mirror::TwoWay, GIB)), []);
        assert_eq!(
            told(&ledger, size(Mirror::FourWay, 2 * GIB)),
            [
                Difference::Size { has_bytes: GIB, asked_bytes: 2 * GIB },
                Difference::Mirror { has: 2, asked: 4 },
            ]
        );
        let legs = &mut ledger.volumes.get_mut(&id).unwrap().legs;
        let first = legs.values().next().unwrap().drive;
        // Its other copy, too, is in the rack of the first.
        for leg in legs.values_mut().filter(|leg| leg.drive != first) {
            leg.drive = DriveId(3);
        }
        assert!(matches!(told(&ledger, size(Mirror::TwoWay, GIB))[..], [Difference::Placement(_), ..]));
    }

    #[test]
    fn everybody_votes_and_an_even_number_is_told() {
        let mut ledger = cluster(2, &[]);
        let all: BTreeSet<NodeId> = (1..=5).map(NodeId).collect();
        assert_eq!(voting(&ledger), Voting::Change(all.clone()));
        ledger.voters = Voters::Changing { from: BTreeSet::new(), to: all.clone() };
        assert_eq!(voting(&ledger), Voting::Changing);
        ledger.voters = Voters::Settled(all);
        assert_eq!(voting(&ledger), Voting::Settled);
        must(&mut ledger, ClusterCommand::ReplaceNode { lost: NodeId(2) });
        assert_eq!(voting(&ledger), Voting::Change([1, 3, 4, 5, 6].map(NodeId).into()), "its last id");
        let mut leave = ledger.clone();
        must(&mut leave, ClusterCommand::NodesLeave { nodes: [3, 6].map(NodeId).into() });
        assert_eq!(voting(&leave), Voting::Change([1, 4, 5].map(NodeId).into()), "who stays");
        ledger.nodes.remove(&NodeId(5));
        assert_eq!(voting(&ledger), Voting::Even(4));
    }

    proptest! {
        #[test]
        fn what_is_chosen_keeps_the_rule_and_the_reserve(
            per_rack in 1u32..=4, drives in prop::collection::vec(GIB / 4..4 * GIB, 1..4),
            volumes in prop::collection::vec((any::<bool>(), 1u64..GIB / 4096), 1..12),
        ) {
            let mut ledger = cluster(per_rack, &drives);
            for (number, (four, blocks)) in volumes.into_iter().enumerate() {
                let mirror = if four { Mirror::FourWay } else { Mirror::TwoWay };
                if create(&mut ledger, &format!("v{number}"), size(mirror, blocks * 4096)).is_ok() {
                    prop_assert_eq!(breaches(&ledger, ledger.minted.volume), []);
                }
            }
            prop_assert_eq!(control::check(&ledger), []);
            prop_assert_eq!(placement::check_reserve(&ledger.pool(), &ledger.placed()), []);
        }
    }
}
