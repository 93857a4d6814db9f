//! What would be done, by what there is; and what is in the way, all of it at once.

use super::*;
use api::{Client, DriveContents, Endpoint, Holds, LogPlace, NodeLedger, OpenLedger};
use control::state::Voters;
use control::{ClusterCommand, Command, State};
use model::{
    CpuInfo, Drive, DriveClass, DriveId, Inventory, KernelInfo, LedgerIncarnation, MacAddress, MemoryInfo,
    Nic, NicDcb, NodeId, NodeName,
};
use network::AdapterSpeeds;
use network::wiring::{CablingMaps, Recognised};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

pub(crate) use super::growth::tests::{THREE, TWO, deployed};

const TEMPLATE: &str = include_str!("../../../../hil/templates/1+1.toml");
const GIB: u64 = 1 << 30;
const OURS: &str = "00000000000000000000000000000007";

pub(crate) fn cluster() -> Cluster {
    cluster_of(spec_of(TEMPLATE))
}

pub(crate) fn spec_of(template: &str) -> ClusterSpec {
    let source = template::Source::new("any.toml", template);
    template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
}

pub(crate) fn cluster_of(spec: ClusterSpec) -> Cluster {
    let identity = api::pki::Ca::new("test", Duration::from_hours(1)).unwrap().issue_client("test").unwrap();
    let names = spec.nodes().map(|(_, node)| node.name.clone()).chain([spec.witness.name.clone()]);
    let agent = |node: NodeName| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let client = Client::new(Endpoint { node: node.clone(), address }, &identity).unwrap();
        crate::Member { name: node, zone: None, adapters: BTreeMap::new(), client }
    };
    let agents: Vec<_> = names.map(agent).collect();
    let mut cluster = Cluster::of(spec, &agents).unwrap();
    let adapters = cluster.spec.adapters().into_iter().cloned().collect::<Vec<_>>();
    for (number, member) in (0..).zip(&mut cluster.members) {
        let mac =
            |(at, name): (u8, &model::AdapterName)| (name.clone(), MacAddress([2, 0, 0, 0, number, at]));
        member.adapters = (0..).zip(&adapters).map(mac).collect();
    }
    cluster.speeds = AdapterSpeeds::new();
    cluster
}

fn inventory(member: &crate::Member) -> Inventory {
    let nic = |mac: &MacAddress| Nic {
        kernel_name: format!("eth{}", mac.0[5]),
        mac: *mac,
        driver: Some("virtio_net".into()),
        pci_address: None,
        firmware: None,
        speed_mbps: Some(25_000),
        carrier: Some(true),
        mtu: None,
        rdma: false,
        dcb: NicDcb::Unknown,
    };
    let drive = |(at, size_bytes): (usize, u64)| Drive {
        kernel_name: format!("nvme{at}n1"),
        serial: serial(&member.name, at),
        model: "flash".into(),
        firmware: None,
        class: DriveClass::Nvme,
        size_bytes,
        pci_address: None,
        wear_percent: None,
        volatile_write_cache: Some(false),
    };
    Inventory {
        node: member.name.clone(),
        machine_serial: None,
        cpu: CpuInfo { model: "any".into(), threads: 1 },
        memory: MemoryInfo { total_bytes: GIB },
        nics: member.adapters.values().map(nic).collect(),
        drives: [GIB / 4, GIB, GIB].into_iter().enumerate().map(drive).collect(),
        kernel: KernelInfo { release: "6.1".into(), boot_id: String::new(), features: Vec::new() },
    }
}

fn serial(node: &NodeName, at: usize) -> model::DriveSerial {
    format!("{node}-{at}").parse().unwrap()
}

/// Blank nodes with a boot drive and two data drives each, well cabled, with links to be made.
pub(super) fn blank(cluster: &Cluster) -> Look {
    let inventories = cluster.members.iter().map(|member| (member.name.clone(), inventory(member))).collect();
    let contents = cluster.nodes().map(|(member, _)| {
        let holds = [Holds::System {}, Holds::Nothing {}, Holds::Nothing {}].into_iter().enumerate();
        let all = holds.map(|(at, holds)| DriveContents { serial: serial(&member.name, at), holds });
        (member.name.clone(), all.collect())
    });
    let maps =
        CablingMaps { node_to_switch: BTreeMap::new(), switch_to_node: Vec::new(), connections: Vec::new() };
    let op = |name: &str| network::Op::SetUp { name: name.parse().unwrap() };
    Look {
        inventories,
        contents: contents.collect(),
        cabling: crate::Cabling {
            seen: Vec::new(),
            maps,
            wiring: Recognised::As(model::Wiring::A),
            findings: Vec::new(),
        },
        links: Ok(cluster.members.iter().map(|member| (member.name.clone(), vec![op("eth0")])).collect()),
        ledgers: cluster.members.iter().map(|member| (member.name.clone(), NodeLedger::None {})).collect(),
        ledger: None,
    }
}

fn open(cluster: &str, node: NodeId) -> NodeLedger {
    NodeLedger::Open(OpenLedger {
        cluster: cluster.to_owned(),
        node,
        incarnation: LedgerIncarnation(0),
        forcing: None,
        term: 1,
        leader: Some(NodeId(1)),
        voters: BTreeSet::new(),
        members: BTreeMap::new(),
        names: BTreeMap::new(),
        last: None::<LogPlace>,
        committed: 1,
        applied: Some(1),
        stopped: None,
    })
}

pub(super) fn planned(
    cluster: &Cluster,
    look: &Look,
    wipe: &[&model::DriveSerial],
) -> Result<Plan, InTheWay> {
    let wishes = Wishes { wipe: wipe.iter().map(|&serial| serial.clone()).collect(), ..Wishes::default() };
    plan(cluster, look, &wishes, Machines::Real)
}

/// The same cluster once all of a plan is done.
pub(super) fn done(cluster: &Cluster, plan: &Plan) -> Look {
    let mut look = blank(cluster);
    look.links = Ok(cluster.members.iter().map(|member| (member.name.clone(), Vec::new())).collect());
    let drives = plan.drives.iter().map(|(node, serials)| {
        let drive =
            |serial: &model::DriveSerial| express::PoolDrive { serial: serial.clone(), size_bytes: GIB };
        (node.clone(), serials.iter().map(drive).collect())
    });
    let mut state = express::imagined(&cluster.spec, &drives.collect(), None).unwrap();
    let (name, zone) = (cluster.spec.witness.name.clone(), None);
    state.apply(&Command::Cluster(ClusterCommand::AddNode { name, zone })).unwrap();
    for request in &plan.volumes {
        let create = pool::choose(&state, &request.name, request.size(), request.rack.as_ref()).unwrap();
        state.apply(&Command::Cluster(create)).unwrap();
    }
    state.voters = Voters::Settled(state.nodes.keys().copied().collect());
    for (id, node) in &state.nodes {
        look.ledgers.insert(node.name.clone(), open(OURS, *id));
    }
    for contents in look.contents.values_mut() {
        for found in contents.iter_mut().filter(|found| found.holds == Holds::Nothing {}) {
            let drive =
                state.drives.iter().find(|(_, drive)| drive.serial == found.serial).map(|(id, _)| *id);
            found.holds = Holds::Pool { cluster: OURS.to_owned(), drive: drive.unwrap() };
        }
    }
    look.ledger = Some(Ok(state));
    look
}

pub(super) fn ledger(look: &mut Look) -> &mut State {
    look.ledger.as_mut().unwrap().as_mut().unwrap()
}

fn set(look: &mut Look, node: &str, at: usize, holds: Holds) {
    look.contents.get_mut(&node.parse::<NodeName>().unwrap()).unwrap()[at].holds = holds;
}

#[test]
fn blank_nodes_get_everything() {
    let cluster = cluster();
    let plan = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let lines = plan.changes.iter().map(|change| format!("{} {change}", change.stage));
    let notes = plan.notes.iter().cloned();
    insta::assert_snapshot!(lines.chain(notes).collect::<Vec<_>>().join("\n"));
    assert!(plan.is_idle && plan.wipe.is_empty());
}

#[test]
fn what_is_done_is_not_planned_again() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let again = planned(&cluster, &done(&cluster, &first), &[]).unwrap();
    assert_eq!(again.changes, []);
    assert_eq!((again.drives, again.volumes), (first.drives, first.volumes));
    assert!(!again.is_idle, "somebody may write");
}

#[test]
fn nothing_is_deployed_while_nodes_leave() {
    let cluster = cluster_of(spec_of(THREE));
    let mut look = deployed(&cluster, 3);
    let state = ledger(&mut look);
    let leave = |node: &control::state::Node| ["a3", "b3"].contains(&node.name.as_str());
    let nodes = state.nodes.iter().filter(|(_, node)| leave(node)).map(|(id, _)| *id).collect();
    state.apply(&Command::Cluster(ClusterCommand::NodesLeave { nodes })).unwrap();
    let refused = planned(&cluster, &look, &[]).unwrap_err().to_string();
    assert!(refused.contains("a3 and b3 leave the cluster, and are not out of its ledger yet"), "{refused}");
}

#[test]
fn a_drive_that_was_named_and_not_claimed_is_gone_on_with() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    ledger(&mut look).volumes.clear();
    set(&mut look, "a1", 1, Holds::Nothing {});
    let changes = planned(&cluster, &look, &[]).unwrap().changes;
    let pool: Vec<_> = changes.iter().filter(|change| change.stage == Stage::Pool).collect();
    assert_eq!(pool.len(), 1, "{changes:?}");
    assert!(pool[0].what.starts_with("take drive a1-1 "), "{changes:?}");
}

#[test]
fn a_drive_that_was_named_anew_and_not_wiped_yet_is_wiped_once_more() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    ledger(&mut look).volumes.clear();
    // It was another of this cluster's before.
    set(&mut look, "a1", 1, Holds::Pool { cluster: OURS.to_owned(), drive: DriveId(99) });
    assert!(planned(&cluster, &look, &[]).is_err());
    let serial = "a1-1".parse().unwrap();
    assert_eq!(planned(&cluster, &look, &[&serial]).unwrap().wipe, BTreeSet::from([serial]));
}

#[test]
fn a_blank_drive_that_had_copies_is_in_the_way() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    let with_legs = ledger(&mut look).volumes.values().next().unwrap().legs.values().next().unwrap().drive;
    let serial = ledger(&mut look).drives[&with_legs].serial.clone();
    for contents in look.contents.values_mut() {
        for found in contents.iter_mut().filter(|found| found.serial == serial) {
            found.holds = Holds::Nothing {};
        }
    }
    let refused = planned(&cluster, &look, &[]).unwrap_err().to_string();
    assert!(refused.contains("is blank, and the ledger has copies of volumes on it"), "{refused}");
}

#[test]
fn what_serves_is_not_changed_under_its_users() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    look.links = blank(&cluster).links;
    let refused = planned(&cluster, &look, &[]).unwrap_err();
    assert_eq!(refused.others.len(), 3, "{refused}");
    // A node that lost its ledger, and one that never had one.
    let mut look = done(&cluster, &first);
    look.ledgers.insert("b1".parse().unwrap(), NodeLedger::None {});
    let lost = planned(&cluster, &look, &[]).unwrap_err().to_string();
    assert!(lost.contains("b1 is in the ledger, and has none itself"), "{lost}");
    let b1 = ledger(&mut look).nodes.values_mut().find(|node| node.name.as_str() == "b1").unwrap();
    b1.boot = None;
    let never = planned(&cluster, &look, &[]).unwrap_err().to_string();
    assert!(never.contains("b1 is not in the ledger of a cluster that has volumes"), "{never}");
    ledger(&mut look).volumes.clear();
    assert!(planned(&cluster, &look, &[]).is_ok(), "it was invited, and whoever deployed was killed");
}

#[test]
fn everything_that_is_in_the_way_is_said_at_once() {
    let cluster = cluster();
    let mut look = blank(&cluster);
    set(&mut look, "a1", 1, Holds::Other { what: "an XFS file system".to_owned() });
    set(&mut look, "b1", 2, Holds::Pool { cluster: "ff".repeat(16), drive: DriveId(3) });
    let nics = &mut look.inventories.get_mut(&"b1".parse::<NodeName>().unwrap()).unwrap().nics;
    nics.pop();
    look.ledgers.insert("a1".parse().unwrap(), open(OURS, NodeId(1)));
    look.ledgers.insert("witness".parse().unwrap(), open(&"ff".repeat(16), NodeId(1)));
    look.ledger = Some(Err("nobody leads".to_owned()));
    let unknown = "S-none".parse().unwrap();
    insta::assert_snapshot!(planned(&cluster, &look, &[&unknown]).unwrap_err().to_string());
}

#[test]
fn what_is_to_be_wiped_is_taken_and_said_and_nothing_else_of_that_kind() {
    let cluster = cluster();
    let mut look = blank(&cluster);
    set(&mut look, "a1", 1, Holds::Other { what: "an XFS file system".to_owned() });
    let named = "a1-1".parse().unwrap();
    assert!(planned(&cluster, &look, &[]).is_err());
    let plan = planned(&cluster, &look, &[&named]).unwrap();
    assert_eq!(plan.wipe, BTreeSet::from([named.clone()]));
    let said =
        plan.changes.iter().any(|change| change.what.contains("LOSE what it holds: an XFS file system"));
    assert!(said, "{:?}", plan.changes);
    // What the system uses is not taken, whoever names it; nor is one that rotates.
    let system = "a1-0".parse().unwrap();
    let plan = planned(&cluster, &look, &[&named, &system]).unwrap();
    assert!(!plan.drives[&"a1".parse::<NodeName>().unwrap()].contains(&system));
}

#[test]
fn a_drive_that_left_the_pool_is_not_taken_back_unasked() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    let gone: model::DriveSerial = "b1-2".parse().unwrap();
    ledger(&mut look).drives.retain(|_, drive| drive.serial != gone);
    let refused = planned(&cluster, &look, &[]).unwrap_err().to_string();
    assert!(refused.contains("drive b1-2 of b1 is not taken: it holds drive-"), "{refused}");
}

#[test]
fn a_ledger_with_other_nodes_or_racks_is_in_the_way() {
    let cluster = cluster();
    let first = planned(&cluster, &blank(&cluster), &[]).unwrap();
    let mut look = done(&cluster, &first);
    let add = ClusterCommand::AddNode { name: "c9".parse().unwrap(), zone: None };
    ledger(&mut look).apply(&Command::Cluster(add)).unwrap();
    let b1 = ledger(&mut look).nodes.values_mut().find(|node| node.name.as_str() == "b1").unwrap();
    b1.zone = Some("rack-a".parse().unwrap());
    let refused = planned(&cluster, &look, &[]).unwrap_err();
    let said: Vec<_> = refused.others.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        said[..2],
        [
            "b1 is in rack-b in the template, and in rack-a in the ledger",
            "the ledger has a node c9, the template has none of that name",
        ]
    );
}

/// On emulated machines a connection that is given up under load says something of their host, unless nothing else came through that way.
#[test]
fn what_fails_under_load_is_wrong_on_real_machines_and_where_nothing_comes_through() {
    let cluster = cluster_of(spec_of(include_str!("../../../../hil/templates/2+2.toml")));
    let transfer = |path: &crate::StoragePath, is_lost: bool| Transfer {
        path: path.clone(),
        port: 4420,
        is_storage_port: true,
        sent_bytes: 1 << 20,
        arrived: Some(api::ArrivedBytes { bytes: 1 << 20, took_us: 1000, bits_per_s: Some(1) }),
        first_error: is_lost.then(|| "Connection reset by peer (os error 104)".to_owned()),
    };
    let paths = cluster.paths_between_rooms();
    let of = |is_lost: &dyn Fn(&crate::StoragePath) -> bool, machines| {
        let transfers: Vec<_> = paths.iter().map(|path| transfer(path, is_lost(path))).collect();
        let (wrong, told) = failures(&cluster, &transfers, machines);
        (wrong.len(), told.len())
    };
    let one = |path: &crate::StoragePath| *path == paths[0];
    assert_eq!(of(&one, Machines::Real), (1, 0));
    assert_eq!(of(&one, Machines::Emulated), (0, 1));
    let way = |path: &crate::StoragePath| {
        path.network == paths[0].network && cluster.zone_of(&path.from) == cluster.zone_of(&paths[0].from)
    };
    assert_eq!(paths.iter().filter(|path| way(path)).count(), 4);
    assert_eq!(of(&way, Machines::Emulated), (4, 0), "nothing came through from one rack to the other");
}
