//! What stages make of what agents say.

use super::drives::add_drive;
use super::*;
use control::state::{Cache, Settings};
use control::{ClusterCommand, LegRef, VolumeCommand};
use model::{
    BootId, CpuInfo, Drive, DriveClass, Inventory, KernelInfo, LegId, MacRange, MapSequence, MemoryInfo,
    Mirror, PowerCycles, Provision, VolumeId,
};

fn member_view(
    state: &State,
    node: u32,
    leader: Option<u32>,
    device: Option<&str>,
) -> (NodeName, ClusterView) {
    let node = NodeId(node);
    let devices = device.map(|device| (VolumeId(1), device.to_owned())).into_iter().collect();
    let view = ClusterView {
        node,
        leader: leader.map(NodeId),
        voters: BTreeSet::new(),
        confirmed: leader == Some(node.0),
        leased: true,
        state: state.clone(),
        mac_range: MacRange::default(),
        devices,
        device_bytes: BTreeMap::new(),
        legs: Vec::new(),
        out_of_room: BTreeMap::new(),
        blocked: BTreeMap::from([(VolumeId(1), "b1 is silent".to_owned())]),
        rebuilds: BTreeMap::new(),
    };
    (state.nodes[&node].name.clone(), view)
}

fn apply(state: &mut State, command: VolumeCommand) {
    let epoch = state.volumes[&VolumeId(1)].epoch;
    state.apply(&Command::Volume(VolumeId(1), epoch, command)).unwrap();
}

/// A volume on a1 and b1, just made.
fn with_volume() -> State {
    let mut state = State::new(Settings::default());
    let mut must = |command| drop(state.apply(&Command::Cluster(command)).unwrap());
    for (number, name, zone) in [(1, "a1", "a"), (2, "b1", "b")] {
        must(ClusterCommand::AddNode { name: name.parse().unwrap(), zone: Some(zone.parse().unwrap()) });
        let (node, boot) = (NodeId(number), BootId(u128::from(number)));
        must(ClusterCommand::Register { node, was: None, boot, drives: BTreeMap::new() });
        let serial = format!("S{number}").parse().unwrap();
        must(add_drive(&name.parse().unwrap(), node, &inventory(Some(false)), &serial).unwrap());
    }
    let request = request();
    let create = choose(&state, &request.name, request.size(), request.rack.as_ref()).unwrap();
    state.apply(&Command::Cluster(create)).unwrap();
    state
}

fn request() -> VolumeRequest {
    let (name, rack) = ("v".parse().unwrap(), "b".parse().unwrap());
    VolumeRequest {
        name,
        mirror: Mirror::TwoWay,
        provision: Provision::Fixed,
        size_bytes: 1 << 26,
        rack: Some(rack),
    }
}

fn inventory(volatile_write_cache: Option<bool>) -> Inventory {
    let drive = |serial: &str| Drive {
        kernel_name: "nvme0n1".into(),
        serial: serial.parse().unwrap(),
        model: String::new(),
        firmware: None,
        class: DriveClass::Nvme,
        size_bytes: 1 << 30,
        pci_address: None,
        wear_percent: None,
        volatile_write_cache,
    };
    Inventory {
        node: "a1".parse().unwrap(),
        machine_serial: None,
        cpu: CpuInfo { model: String::new(), threads: 1 },
        memory: MemoryInfo { total_bytes: 1 },
        nics: Vec::new(),
        drives: vec![drive("S1"), drive("S2")],
        kernel: KernelInfo { release: String::new(), boot_id: String::new(), features: Vec::new() },
    }
}

#[test]
fn what_nobody_knows_to_be_safe_may_forget() {
    let name: NodeName = "a1".parse().unwrap();
    let of_class = |class| {
        move |volatile| {
            let mut inventory = inventory(volatile);
            inventory.drives.iter_mut().for_each(|drive| drive.class = class);
            inventory
        }
    };
    let told = |inventory| match add_drive(&name, NodeId(1), &inventory, &"S1".parse().unwrap()) {
        Ok(ClusterCommand::AddDrive { cache, size_bytes, power_cycles, .. }) => {
            assert_eq!((size_bytes, power_cycles), (1 << 30, PowerCycles(0)));
            cache
        }
        other => panic!("{other:?}"),
    };
    let caches = [Some(false), Some(true), None];
    // Its cache is turned off before it holds a leg.
    assert_eq!(caches.map(of_class(DriveClass::Nvme)).map(told), [Cache::Safe; 3]);
    let others = caches.map(of_class(DriveClass::Ssd)).map(told);
    assert_eq!(others, [Cache::Safe, Cache::Volatile, Cache::Volatile]);
    let missing = add_drive(&name, NodeId(1), &inventory(None), &"S9".parse().unwrap());
    assert!(matches!(missing, Err(PoolError::NoDrive { .. })));
}

#[test]
fn a_volume_is_opened_in_the_rack_that_was_asked_for() {
    let state = with_volume();
    assert_eq!(state.volumes[&VolumeId(1)].owner, NodeId(2));
}

#[test]
fn a_volume_is_ready_when_it_is_open_and_its_owner_shows_a_device() {
    let mut state = with_volume();
    let told = |state: &State, device| {
        opened(&[member_view(state, 1, Some(2), None), member_view(state, 2, Some(2), device)], VolumeId(1))
    };
    let fencing = told(&state, None).unwrap_err();
    assert_eq!(
        fencing,
        "epoch 1.1, fencing, 0 legs confirmed, leg-1 is in sync, leg-2 is in sync, on b1; it waits: b1 is silent"
    );
    for leg in [1, 2] {
        let id = LegId(leg);
        let incarnation = state.volumes[&VolumeId(1)].legs[&id].incarnation;
        let drive = state.volumes[&VolumeId(1)].legs[&id].drive;
        let run = state.run(drive).unwrap();
        let leg = LegRef { id, incarnation };
        apply(&mut state, VolumeCommand::ConfirmFence { leg, run, errored: false });
    }
    apply(&mut state, VolumeCommand::Activate);
    apply(&mut state, VolumeCommand::Opened { maps: MapSequence(1) });
    assert!(told(&state, None).unwrap_err().ends_with("b1 shows no device"));
    let ready = told(&state, Some("/dev/dm-0")).unwrap();
    assert_eq!((ready.owner.as_str(), &*ready.device, ready.in_sync, ready.legs), ("b1", "/dev/dm-0", 2, 2));
    assert!(opened(&[], VolumeId(1)).is_err());
}

#[test]
fn who_was_deposed_is_not_believed() {
    let old = with_volume();
    let mut new = old.clone();
    let epoch = new.volumes[&VolumeId(1)].epoch;
    new.volumes.get_mut(&VolumeId(1)).unwrap().epoch = epoch.next();
    let mut deposed = member_view(&old, 1, Some(1), None);
    deposed.1.confirmed = false;
    let views = [deposed.clone(), member_view(&new, 2, Some(2), None)];
    assert_eq!(newest(&views).unwrap().node, NodeId(2));
    assert_eq!(newest(&[deposed]), None);
}
