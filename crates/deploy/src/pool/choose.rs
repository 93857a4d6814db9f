//! Who votes, and which drives a new volume lies on. Pure.
//!
//! The rule for copies: over racks first, each rack as many; then over the rack's nodes, each node one at most. Among what the rule
//! allows, drives with the fewest legs come first, then nodes with the fewest, then the lowest numbers, so that the same ledger
//! gives the same answer. How full a drive is the ledger does not know: a drive counts as taken by the sizes of the volumes on it.
//!
//! Invariants: what [`choose`] gives keeps the rule ([`breach`]). On failure: [`NoRoom`].

use control::State;
use control::state::{Drive, Volume, Voters};
use model::{DriveId, Mirror, NodeId, ZoneName};
use std::collections::{BTreeMap, BTreeSet};

/// What a leg takes beside its data, at most: its metadata, and what is lost because space is given out in slabs of 64 MiB.
pub const LEG_OVERHEAD_BYTES: u64 = 128 << 20;

/// A rack has no room for its copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The ledger does not have two racks.
    #[error("the ledger knows {racks} racks with drives; two are needed")]
    Racks {
        /// How many it has.
        racks: usize,
    },
    /// Too few nodes of a rack have a drive that is large enough.
    #[error("rack {zone} has {nodes} nodes with room for {size_bytes} bytes; {needed} are needed")]
    Nodes {
        /// The rack.
        zone: ZoneName,
        /// How many have.
        nodes: usize,
        /// How many are needed.
        needed: usize,
        /// What was asked for.
        size_bytes: u64,
    },
}

/// How many copies a rack has.
fn legs_per_rack(mirror: Mirror) -> usize {
    mirror.legs() / 2
}

/// The nodes of a rack and their drives.
type Nodes<'a> = BTreeMap<NodeId, Vec<(DriveId, &'a Drive)>>;

/// The drives for a new volume, rack after rack.
pub fn choose(ledger: &State, mirror: Mirror, size_bytes: u64) -> Result<Vec<DriveId>, NoRoom> {
    let mut racks: BTreeMap<&ZoneName, Nodes<'_>> = BTreeMap::new();
    for (id, drive) in &ledger.drives {
        if let Some(zone) = zone_of(ledger, drive) {
            racks.entry(zone).or_default().entry(drive.node).or_default().push((*id, drive));
        }
    }
    if racks.len() != 2 {
        return Err(NoRoom::Racks { racks: racks.len() });
    }
    let needed = legs_per_rack(mirror);
    let mut chosen = Vec::new();
    for (zone, nodes) in racks {
        let mut best: Vec<_> = nodes
            .into_iter()
            .filter_map(|(node, drives)| best_drive(ledger, node, &drives, size_bytes))
            .collect();
        best.sort_unstable();
        if best.len() < needed {
            return Err(NoRoom::Nodes { zone: zone.clone(), nodes: best.len(), needed, size_bytes });
        }
        chosen.extend(best.into_iter().take(needed).map(|place| place.drive));
    }
    Ok(chosen)
}

/// A drive that a leg could lie on; the least is the best.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    legs_on_drive: usize,
    legs_on_node: usize,
    drive: DriveId,
}

fn best_drive(ledger: &State, node: NodeId, drives: &[(DriveId, &Drive)], size_bytes: u64) -> Option<Place> {
    let legs_on_node = drives.iter().map(|(id, _)| volumes_on(ledger, *id).count()).sum();
    let registered = ledger.nodes.get(&node).is_some_and(|node| node.boot.is_some());
    let has_room = |(id, drive): &(DriveId, &Drive)| {
        let taken: u64 = volumes_on(ledger, *id).map(|size| size.saturating_add(LEG_OVERHEAD_BYTES)).sum();
        let wanted = size_bytes.saturating_add(LEG_OVERHEAD_BYTES);
        !drive.retired && wanted <= drive.size_bytes.saturating_sub(taken)
    };
    let places = drives.iter().filter(|drive| registered && has_room(drive)).map(|(id, _)| Place {
        legs_on_drive: volumes_on(ledger, *id).count(),
        legs_on_node,
        drive: *id,
    });
    places.min()
}

/// The sizes of the volumes that have a leg on a drive.
fn volumes_on(ledger: &State, drive: DriveId) -> impl Iterator<Item = u64> {
    let has_leg = move |volume: &&Volume| volume.legs.values().any(|leg| leg.drive == drive);
    ledger.volumes.values().filter(has_leg).map(|volume| volume.size_bytes)
}

fn zone_of<'a>(ledger: &'a State, drive: &Drive) -> Option<&'a ZoneName> {
    ledger.nodes.get(&drive.node)?.zone.as_ref()
}

/// What is wrong with copies on these drives, in words; `None`: they are over racks first, then over nodes.
pub fn breach(ledger: &State, mirror: Mirror, drives: &[DriveId]) -> Option<String> {
    let mut racks: BTreeMap<&ZoneName, BTreeSet<NodeId>> = BTreeMap::new();
    for id in drives {
        let drive = ledger.drives.get(id);
        let Some((drive, zone)) = drive.and_then(|drive| Some((drive, zone_of(ledger, drive)?))) else {
            return Some(format!("{id} is in no rack"));
        };
        if !racks.entry(zone).or_default().insert(drive.node) {
            return Some(format!("{} holds two copies", drive.node));
        }
    }
    let needed = legs_per_rack(mirror);
    let uneven = racks.iter().find(|(_, nodes)| nodes.len() != needed);
    match uneven {
        Some((zone, nodes)) => Some(format!("rack {zone} holds {} copies, not {needed}", nodes.len())),
        None if racks.len() != 2 => Some(format!("{} racks hold copies, not 2", racks.len())),
        None => None,
    }
}

/// The voters of a whole cluster that is alive: every node and the witness. With racks of equal size that is an odd number. `None`: it
/// is not, or nothing needs to be changed, or a change is in flight.
pub fn wanted_voters(ledger: &State) -> Option<BTreeSet<NodeId>> {
    let all: BTreeSet<NodeId> = ledger.nodes.keys().copied().collect();
    let Voters::Settled(present) = &ledger.voters else { return None };
    (all.len() % 2 == 1 && all != *present).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::{Cache, Settings};
    use control::{ClusterCommand, Command};
    use model::{BootId, PowerCycles, Provision};
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

    fn create(
        ledger: &mut State,
        name: &str,
        mirror: Mirror,
        size_bytes: u64,
    ) -> Result<Vec<DriveId>, NoRoom> {
        let drives = choose(ledger, mirror, size_bytes)?;
        let owner = ledger.drives[&drives[0]].node;
        let (name, provision) = (name.parse().unwrap(), Provision::Fixed);
        must(
            ledger,
            ClusterCommand::CreateVolume {
                name,
                mirror,
                provision,
                size_bytes,
                drives: drives.clone(),
                owner,
            },
        );
        Ok(drives)
    }

    #[test]
    fn copies_are_over_racks_first_and_on_the_emptiest_drives() {
        let mut ledger = cluster(1, &[GIB, GIB]);
        assert_eq!(create(&mut ledger, "one", Mirror::TwoWay, GIB / 4), Ok(vec![DriveId(1), DriveId(3)]));
        assert_eq!(create(&mut ledger, "two", Mirror::TwoWay, GIB / 4), Ok(vec![DriveId(2), DriveId(4)]));
        assert_eq!(create(&mut ledger, "three", Mirror::TwoWay, GIB / 4), Ok(vec![DriveId(1), DriveId(3)]));
        let full = create(&mut ledger, "four", Mirror::TwoWay, GIB);
        assert!(matches!(full, Err(NoRoom::Nodes { nodes: 0, needed: 1, .. })), "{full:?}");
        let none = choose(&cluster(1, &[GIB]), Mirror::FourWay, 1);
        assert!(matches!(none, Err(NoRoom::Nodes { nodes: 1, needed: 2, .. })), "{none:?}");
        assert_eq!(
            choose(&State::new(Settings::default()), Mirror::TwoWay, 1),
            Err(NoRoom::Racks { racks: 0 })
        );
    }

    #[test]
    fn retired_drives_and_nodes_that_never_registered_get_nothing() {
        let mut ledger = cluster(2, &[GIB]);
        must(&mut ledger, ClusterCommand::RetireDrive(DriveId(1)));
        assert_eq!(choose(&ledger, Mirror::TwoWay, 1), Ok(vec![DriveId(3), DriveId(2)]));
        ledger.nodes.get_mut(&NodeId(2)).unwrap().boot = None;
        assert_eq!(choose(&ledger, Mirror::TwoWay, 1), Ok(vec![DriveId(3), DriveId(4)]));
        assert!(choose(&ledger, Mirror::FourWay, 1).is_err());
    }

    #[test]
    fn a_breach_is_told() {
        let ledger = cluster(2, &[GIB, GIB]);
        let told = |mirror, drives: &[u32]| {
            breach(&ledger, mirror, &drives.iter().copied().map(DriveId).collect::<Vec<_>>())
        };
        assert_eq!(told(Mirror::TwoWay, &[1, 3]), None);
        assert_eq!(told(Mirror::TwoWay, &[1, 5]).unwrap(), "rack rack1 holds 2 copies, not 1");
        assert_eq!(told(Mirror::TwoWay, &[1]).unwrap(), "1 racks hold copies, not 2");
        assert_eq!(told(Mirror::FourWay, &[1, 2, 3, 7]).unwrap(), "node-1 holds two copies");
        assert_eq!(told(Mirror::TwoWay, &[1, 99]).unwrap(), "drive-99 is in no rack");
    }

    #[test]
    fn everybody_votes_once_all_are_there() {
        let mut ledger = cluster(2, &[]);
        let all: BTreeSet<NodeId> = (1..=5).map(NodeId).collect();
        assert_eq!(wanted_voters(&ledger), Some(all.clone()));
        ledger.voters = Voters::Changing { from: BTreeSet::new(), to: all.clone() };
        assert_eq!(wanted_voters(&ledger), None);
        ledger.voters = Voters::Settled(all);
        assert_eq!(wanted_voters(&ledger), None);
        ledger.voters = Voters::Settled(BTreeSet::from([NodeId(1)]));
        ledger.nodes.remove(&NodeId(5));
        assert_eq!(wanted_voters(&ledger), None, "an even number");
    }

    proptest! {
        #[test]
        fn what_is_chosen_keeps_the_rule(
            per_rack in 1u32..=4, drives in prop::collection::vec(GIB / 4..4 * GIB, 1..4),
            volumes in prop::collection::vec((any::<bool>(), 1u64..GIB), 1..12), retired in prop::collection::vec(1u32..40, 0..6),
        ) {
            let mut ledger = cluster(per_rack, &drives);
            for id in retired.into_iter().map(DriveId).filter(|id| id.0 as usize <= drives.len() * per_rack as usize) {
                must(&mut ledger, ClusterCommand::RetireDrive(id));
            }
            for (number, (four, size_bytes)) in volumes.into_iter().enumerate() {
                let mirror = if four { Mirror::FourWay } else { Mirror::TwoWay };
                let Ok(chosen) = create(&mut ledger, &format!("v{number}"), mirror, size_bytes) else { continue };
                prop_assert_eq!(breach(&ledger, mirror, &chosen), None);
                prop_assert!(chosen.iter().all(|id| !ledger.drives[id].retired));
                for (id, drive) in &ledger.drives {
                    prop_assert!(volumes_on(&ledger, *id).sum::<u64>() <= drive.size_bytes);
                }
            }
        }
    }
}
