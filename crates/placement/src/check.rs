//! The rule, held against legs that are there. Nothing here is shared with what places them.

use model::{DriveId, LegId, NodeId, PlacedLeg, Pool, VolumeId, VolumeSize, ZoneName};
use std::collections::{BTreeMap, BTreeSet};

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A leg is on a drive that the pool has not.
    #[error("{0}: {1} is on {2}, which is not in the pool")]
    NoSuchDrive(VolumeId, LegId, DriveId),
    /// A volume has not as many legs as its mirror says, or is not known.
    #[error("{volume} has {legs} legs, not {needed}")]
    LegCount {
        /// Which.
        volume: VolumeId,
        /// How many.
        legs: usize,
        /// How many there should be; 0 of a volume that is not there.
        needed: usize,
    },
    /// A rack has not half of them.
    #[error("{volume} has {legs} legs in {zone}")]
    Racks {
        /// Which volume.
        volume: VolumeId,
        /// Which rack.
        zone: ZoneName,
        /// How many.
        legs: usize,
    },
    /// Two are on one node.
    #[error("{0} has two legs on {1}")]
    SameNode(VolumeId, NodeId),
    /// A leg has fewer slabs than it was promised.
    #[error("{0}: {1} has {2} slabs, which is too few")]
    TooFewSlabs(VolumeId, LegId, u64),
    /// A slab is not on the drive.
    #[error("{0}: {1} has slabs that its drive has not")]
    OffTheDrive(VolumeId, LegId),
    /// A slab is held twice.
    #[error("slab {1} of {0} is held twice")]
    HeldTwice(DriveId, u64),
    /// Less than a drive's worth is free.
    #[error("{node} has {free_slabs} slabs free and should have {reserve_slabs}")]
    Reserve {
        /// Which node.
        node: NodeId,
        /// What is free on its usable drives.
        free_slabs: u64,
        /// What should be.
        reserve_slabs: u64,
    },
}

/// Everything that does not hold of these legs.
pub fn check(pool: &Pool, volumes: &BTreeMap<VolumeId, VolumeSize>, legs: &[PlacedLeg]) -> Vec<Broken> {
    let mut broken = Vec::new();
    for leg in legs {
        let Some((_, drive)) = pool.drive(leg.drive) else {
            broken.push(Broken::NoSuchDrive(leg.volume, leg.leg, leg.drive));
            continue;
        };
        if leg.extents.iter().any(|extent| extent.count == 0 || extent.end() > pool.slabs(drive)) {
            broken.push(Broken::OffTheDrive(leg.volume, leg.leg));
        }
        let promised = volumes.get(&leg.volume).map_or(0, |size| pool.slabs_of(*size));
        if leg.slabs() < promised {
            broken.push(Broken::TooFewSlabs(leg.volume, leg.leg, leg.slabs()));
        }
    }
    held_twice(pool, legs, &mut broken);
    let known: BTreeSet<VolumeId> =
        volumes.keys().copied().chain(legs.iter().map(|leg| leg.volume)).collect();
    for volume in known {
        spread(pool, volume, volumes.get(&volume), legs, &mut broken);
    }
    broken
}

fn held_twice(pool: &Pool, legs: &[PlacedLeg], broken: &mut Vec<Broken>) {
    let drives = pool.nodes.iter().flat_map(|node| &node.drives);
    let leaving = drives.flat_map(|drive| drive.leaving.iter().map(|extent| (drive.id, extent)));
    let held = legs.iter().flat_map(|leg| leg.extents.iter().map(|extent| (leg.drive, extent)));
    let mut held: Vec<(DriveId, u64, u64)> =
        held.chain(leaving).map(|(drive, extent)| (drive, extent.first, extent.end())).collect();
    held.sort_unstable();
    for pair in held.windows(2) {
        if let [(drive, _, end), (other, first, _)] = pair
            && drive == other
            && first < end
        {
            broken.push(Broken::HeldTwice(*drive, *first));
        }
    }
}

fn spread(
    pool: &Pool,
    volume: VolumeId,
    size: Option<&VolumeSize>,
    legs: &[PlacedLeg],
    broken: &mut Vec<Broken>,
) {
    let own: Vec<_> = legs.iter().filter(|leg| leg.volume == volume).collect();
    let needed = size.map_or(0, |size| size.mirror.legs());
    if own.len() != needed {
        broken.push(Broken::LegCount { volume, legs: own.len(), needed });
    }
    let mut per_zone: BTreeMap<&ZoneName, usize> = pool.nodes.iter().map(|node| (&node.zone, 0)).collect();
    let mut nodes = BTreeSet::new();
    for (node, _) in own.iter().filter_map(|leg| pool.drive(leg.drive)) {
        *per_zone.entry(&node.zone).or_default() += 1;
        if !nodes.insert(node.id) {
            broken.push(Broken::SameNode(volume, node.id));
        }
    }
    let uneven = per_zone.into_iter().filter(|(_, legs)| 2 * legs != needed);
    broken.extend(uneven.map(|(zone, legs)| Broken::Racks { volume, zone: zone.clone(), legs }));
}

/// The nodes on which less than one drive's worth is free: after a drive was replaced that may be so.
pub fn check_reserve(pool: &Pool, legs: &[PlacedLeg]) -> Vec<Broken> {
    let mut broken = Vec::new();
    for node in &pool.nodes {
        let usable: Vec<_> = node.drives.iter().filter(|drive| drive.usable).collect();
        let on = |drive: DriveId| legs.iter().filter(move |leg| leg.drive == drive).map(PlacedLeg::slabs);
        let leaving = |drive: &model::PoolDrive| drive.leaving.iter().map(|extent| extent.count).sum::<u64>();
        let used = |drive: &model::PoolDrive| on(drive.id).sum::<u64>() + leaving(drive);
        let free = |drive: &model::PoolDrive| pool.slabs(drive).saturating_sub(used(drive));
        let free_slabs = usable.iter().map(|drive| free(drive)).sum();
        let largest = usable.iter().map(|drive| pool.slabs(drive)).max().unwrap_or(0);
        let reserve_slabs = if usable.len() > 1 { largest } else { 0 };
        if free_slabs < reserve_slabs {
            broken.push(Broken::Reserve { node: node.id, free_slabs, reserve_slabs });
        }
    }
    broken
}
