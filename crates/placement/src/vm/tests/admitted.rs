//! Who is let in.

use super::*;
use model::VmId;

fn new(gib: u64, placement: VmPlacement) -> VmSpec {
    vm(9, gib, placement, Now::Off(None)).1.spec
}

fn said(cluster: &Cluster, vms: &Vms, spec: &VmSpec) -> String {
    admit(cluster, vms, VmId(9), spec).unwrap_err().to_string()
}

#[test]
fn all_but_the_strict_of_the_lost_rack_must_fit_into_the_other() {
    let cluster = cluster(2, 16, 16);
    let vms: Vms = [
        vm(1, 12, prefers(1), on(1)),
        vm(2, 12, strict(1), on(2)),
        vm(3, 12, prefers(2), on(3)),
        vm(4, 4, VmPlacement::Anywhere, on(3)),
    ]
    .into();
    // Rack 2 lost: 12 + 12, 12 and 4 in rack 1 do not fit; and so it was before.
    insta::assert_snapshot!(said(&cluster, &vms, &new(4, strict(2))), @r"without rack2, 8589934592 bytes of memory more would be needed: vm-3 would not run");
    let mut fewer = vms.clone();
    fewer.remove(&VmId(3));
    // Rack 1: 12 and 4, and 12; 4 more fit beside the strict one when rack 2 is lost, and rack 2 has room when rack 1 is.
    assert_eq!(admit(&cluster, &fewer, VmId(9), &new(4, prefers(1))), Ok(()));
    assert_eq!(admit(&cluster, &fewer, VmId(9), &new(4, strict(1))), Ok(()));
    insta::assert_snapshot!(said(&cluster, &fewer, &new(5, prefers(2))), @r"without rack2, 1073741824 bytes of memory more would be needed: vm-9 would not run");
    // A strict one in rack 2 needs rack 2 alone: it does not run when that is lost.
    assert_eq!(admit(&cluster, &fewer, VmId(9), &new(16, strict(2))), Ok(()));
    insta::assert_snapshot!(said(&cluster, &fewer, &new(17, strict(2))), @r"with both racks, 1073741824 bytes of memory more would be needed: vm-9 would not run; without rack1, 5368709120 bytes of memory more would be needed: vm-9 would not run");
}

#[test]
fn a_rack_that_is_down_at_the_moment_keeps_nobody_out() {
    let down = cluster(1, 16, 16).with(&[1], NodeState::Down).not_ready(1);
    assert_eq!(admit(&down, &Vms::new(), VmId(9), &new(16, prefers(1))), Ok(()));
    let many = VmSpec { cores: 17, ..new(1, VmPlacement::Anywhere) };
    insta::assert_snapshot!(said(&down, &Vms::new(), &many), @r"with both racks, 1 virtual core more would be needed: vm-9 would not run; without rack1, 1 virtual core more would be needed: vm-9 would not run; without rack2, 1 virtual core more would be needed: vm-9 would not run");
}

#[test]
fn nothing_of_it_may_be_another_s() {
    let cluster = cluster(1, 16, 16);
    let vms: Vms = [vm(1, 1, prefers(1), on(1))].into();
    let good = new(1, prefers(1));
    let with = |change: &dyn Fn(&mut VmSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        admit(&cluster, &vms, VmId(9), &spec).unwrap_err()
    };
    assert_eq!(admit(&cluster, &vms, VmId(9), &good), Ok(()));
    assert_eq!(admit(&cluster, &vms, VmId(1), &good), Err(NotAdmitted::IdTaken(VmId(1))));
    let name = "GUEST1".parse().unwrap();
    assert_eq!(with(&|spec| spec.name = "GUEST1".parse().unwrap()), NotAdmitted::NameTaken(VmId(1), name));
    assert_eq!(with(&|spec| spec.memory_bytes = 0), NotAdmitted::Empty);
    assert_eq!(with(&|spec| spec.cores = 0), NotAdmitted::Empty);
    assert_eq!(with(&|spec| spec.placement = strict(3)), NotAdmitted::NoSuchZone(rack(3)));
    let twice = with(&|spec| spec.volumes = vec![VolumeId(7); 2]);
    assert_eq!(twice, NotAdmitted::VolumeTwice(VolumeId(7)));
    let taken = NotAdmitted::VolumeTaken { volume: VolumeId(1), vm: VmId(1) };
    assert_eq!(with(&|spec| spec.volumes.push(VolumeId(1))), taken);
    let mut one = cluster.clone();
    one.nodes.remove(&NodeId(2));
    assert_eq!(admit(&one, &vms, VmId(9), &good), Err(NotAdmitted::NotTwoRacks(1)));
    assert_eq!(admit_placement(&one, &vms, VmId(1), &strict(1)), Ok(()), "the other rack is gone for good");
}

/// What is missing already may be mended, whether at once or not.
#[test]
fn one_is_placed_otherwise_unless_somebody_would_be_off_who_was_not() {
    let cluster = cluster(1, 16, 16);
    let vms: Vms =
        [vm(1, 10, strict(1), on(1)), vm(2, 6, prefers(2), on(2)), vm(3, 10, strict(2), on(2))].into();
    let placed = |vms: &Vms, id, placement| {
        admit_placement(&cluster, vms, VmId(id), &placement).map_err(|why| why.to_string())
    };
    assert_eq!(placed(&vms, 2, strict(1)), Ok(()));
    assert_eq!(placed(&vms, 2, prefers(2)), Ok(()), "as it is");
    assert_eq!(placed(&vms, 1, prefers(1)), Ok(()), "off without rack 1, as it was");
    insta::assert_snapshot!(placed(&vms, 1, strict(2)).unwrap_err(), @"with both racks, 10737418240 bytes of memory more would be needed: vm-1 would not run");
    insta::assert_snapshot!(placed(&vms, 1, strict(3)).unwrap_err(), @"there is no zone `rack3`");
    assert_eq!(placed(&vms, 9, strict(1)), Ok(()), "there is none");
    // Too many as they are.
    let mut many = vms.clone();
    many.extend([vm(4, 10, prefers(1), Now::Off(None))]);
    assert_eq!(placed(&many, 4, strict(1)), Ok(()), "no better, and no worse for others");
}
