//! Whether everything still fits when a rack is lost, with one more virtual machine or with one that is placed otherwise.
//!
//! What would happen is played through with the planner itself, not estimated from sums: sums overlook that free memory may be in pieces.
//! It is played from where everything runs now, with all nodes up: a node that is down at the moment, or a rack, must not keep anybody from making one
//! that will fit.

use super::asked::Asked;
use super::plan::{Planned, planned};
use super::reason::{amount, without};
use super::{Cluster, NodeState, Now, Vm, Vms};
use model::{VmId, VmName, VmPlacement, VmSpec, VolumeId, ZoneName};
use std::collections::BTreeSet;

/// Why one is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// There are not two racks.
    #[error("the cluster has nodes in {0} racks, not in two")]
    NotTwoRacks(usize),
    /// The id is another's.
    #[error("{0} exists")]
    IdTaken(VmId),
    /// The name is another's.
    #[error("{0} is called `{1}` already")]
    NameTaken(VmId, VmName),
    /// Nothing runs without.
    #[error("a virtual machine needs memory and at least one core")]
    Empty,
    /// Its home zone is none of the cluster's.
    #[error("there is no zone `{0}`")]
    NoSuchZone(ZoneName),
    /// One of its disks is another's. Two would write to it.
    #[error("{volume} is a disk of {vm}")]
    VolumeTaken {
        /// Which disk.
        volume: VolumeId,
        /// Whose.
        vm: VmId,
    },
    /// One of its disks is named twice.
    #[error("{0} is named twice")]
    VolumeTwice(VolumeId),
    /// Not everything would run.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Capacity(Vec<Lack>),
}

/// What is missing where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The rack that is lost; none: it is missing with both racks there.
    pub lost: Option<ZoneName>,
    /// Memory, on the nodes that lack least.
    pub bytes: u64,
    /// Virtual processors, on the same nodes.
    pub cores: u64,
    /// Who would not run; the new one need not be among them.
    pub vms: BTreeSet<VmId>,
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let vms = self.vms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (when, lacking) = (without(self.lost.as_ref()), amount(self.bytes, self.cores));
        write!(f, "{when}, {lacking} more would be needed: {vms} would not run")
    }
}

/// Whether a virtual machine may be made: with either rack lost all run, but for those that are strict in that rack.
///
/// `vms` are all that there are, whether they shall run at the moment or not.
pub fn admit(cluster: &Cluster, vms: &Vms, id: VmId, spec: &VmSpec) -> Result<(), NotAdmitted> {
    let zones = zones_with(cluster, &spec.placement)?;
    if zones.len() != 2 {
        return Err(NotAdmitted::NotTwoRacks(zones.len()));
    }
    is_its_own(vms, id, spec)?;
    let mut all = vms.clone();
    all.insert(id, Vm { spec: spec.clone(), now: Now::Off(None), avoids: None });
    let lacks = all_lacking(cluster, &zones, all, should_run);
    if lacks.is_empty() { Ok(()) } else { Err(NotAdmitted::Capacity(lacks)) }
}

/// Whether a virtual machine that there is may be placed otherwise: with either rack lost, and with none, nobody would not run who would have before.
///
/// What is missing already is no reason: it must be possible to mend that. One that is not among `vms` may be.
pub fn admit_placement(
    cluster: &Cluster,
    vms: &Vms,
    id: VmId,
    placement: &VmPlacement,
) -> Result<(), NotAdmitted> {
    // When a rack is gone for good it must be possible to leave it.
    let zones = zones_with(cluster, placement)?;
    let mut all = vms.clone();
    let Some(vm) = all.get_mut(&id) else { return Ok(()) };
    vm.spec.placement = placement.clone();
    // Who was off because of its own strictness is off no less otherwise.
    let before = all_lacking(cluster, &zones, vms.clone(), |_, _| true);
    let lacked = |lack: &Lack| before.iter().find(|before| before.lost == lack.lost).map(|lack| &lack.vms);
    let is_new = |lack: &Lack| lacked(lack).is_none_or(|before| !lack.vms.is_subset(before));
    let lacks: Vec<Lack> = all_lacking(cluster, &zones, all, should_run).into_iter().filter(is_new).collect();
    if lacks.is_empty() { Ok(()) } else { Err(NotAdmitted::Capacity(lacks)) }
}

/// The cluster's zones, of which its home must be one.
fn zones_with<'a>(
    cluster: &'a Cluster,
    placement: &VmPlacement,
) -> Result<BTreeSet<&'a ZoneName>, NotAdmitted> {
    let zones: BTreeSet<&ZoneName> = cluster.nodes.values().map(|node| &node.zone).collect();
    match placement.home().filter(|home| !zones.contains(home)) {
        Some(home) => Err(NotAdmitted::NoSuchZone(home.clone())),
        None => Ok(zones),
    }
}

/// What is missing with all racks there, and with each of them lost.
fn all_lacking(
    cluster: &Cluster,
    zones: &BTreeSet<&ZoneName>,
    vms: Vms,
    counts: impl Fn(&VmSpec, Option<&ZoneName>) -> bool,
) -> Vec<Lack> {
    let (well, all) = settled(cluster, vms);
    let counts = |lost| {
        let (all, counts) = (&all, &counts);
        move |vm: &VmId| all.get(vm).is_none_or(|vm| counts(&vm.spec, lost))
    };
    let mut lacks: Vec<Lack> = lacking(well, None, counts(None)).into_iter().collect();
    for zone in zones {
        let mut lost = healthy(cluster);
        let in_rack = lost.nodes.values_mut().filter(|node| node.zone == **zone);
        in_rack.for_each(|node| node.state = NodeState::Down);
        lacks.extend(lacking(planned(&lost, &all), Some(zone), counts(Some(*zone))));
    }
    lacks
}

/// Whether nothing that it is or has is another's.
fn is_its_own(vms: &Vms, id: VmId, spec: &VmSpec) -> Result<(), NotAdmitted> {
    if spec.memory_bytes == 0 || spec.cores == 0 {
        return Err(NotAdmitted::Empty);
    }
    if vms.contains_key(&id) {
        return Err(NotAdmitted::IdTaken(id));
    }
    if let Some((other, _)) = vms.iter().find(|(_, vm)| vm.spec.name == spec.name) {
        return Err(NotAdmitted::NameTaken(*other, spec.name.clone()));
    }
    let mut own = BTreeSet::new();
    if let Some(volume) = spec.volumes.iter().find(|volume| !own.insert(**volume)) {
        return Err(NotAdmitted::VolumeTwice(*volume));
    }
    let shared = |(vm, found): (&VmId, &Vm)| {
        let volume = found.spec.volumes.iter().find(|volume| own.contains(volume))?;
        Some(NotAdmitted::VolumeTaken { volume: *volume, vm: *vm })
    };
    vms.iter().find_map(shared).map_or(Ok(()), Err)
}

/// With every node up and every zone ready.
fn healthy(cluster: &Cluster) -> Cluster {
    let mut healthy = cluster.clone();
    healthy.nodes.values_mut().for_each(|node| node.state = NodeState::Up);
    healthy.ready = healthy.nodes.values().map(|node| node.zone.clone()).collect();
    healthy
}

/// What becomes of all when nothing is in the way. Each round brings one home or up at least, and none away or down: so there are no more
/// than two for each, and the bound only says so.
fn settled(cluster: &Cluster, mut vms: Vms) -> (Planned, Vms) {
    let healthy = healthy(cluster);
    let mut now = planned(&healthy, &vms);
    for _ in 0..2 * vms.len() {
        if now.plan.moves.is_empty() {
            break;
        }
        vms = now.plan.carried_out(&vms);
        now = planned(&healthy, &vms);
    }
    (now, vms)
}

/// Whether one should run with that rack lost: the strict of it should not.
fn should_run(spec: &VmSpec, lost: Option<&ZoneName>) -> bool {
    !(spec.placement.is_strict() && spec.placement.home() == lost)
}

/// What those lack that do not run and count.
fn lacking(mut planned: Planned, lost: Option<&ZoneName>, counts: impl Fn(&VmId) -> bool) -> Option<Lack> {
    let without: Vec<&Asked> = planned.without.iter().filter(|asked| counts(&asked.vm)).collect();
    let (bytes, cores) = planned.rooms.force(without.iter().copied());
    let vms: BTreeSet<VmId> = without.iter().map(|asked| asked.vm).collect();
    (!vms.is_empty()).then_some(Lack { lost: lost.cloned(), bytes, cores, vms })
}
