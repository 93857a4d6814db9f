//! Diffs from any state. Fixtures with their files stand in `tests/fixtures`.

use super::*;
use crate::link::{BondMode, Route, VlanEntry};
use crate::plan::{Generation, plan};
use crate::revert;
use crate::testing::kernel::Kernel;
use crate::testing::{adapters, bare_nics, converged, link_name, spec, vlan};
use crate::traffic::{Filter, MarkRule, Packets, Queue, Shares};
use model::{ClusterSpec, Qos};
use proptest::prelude::*;

fn plan_of(spec: &ClusterSpec) -> NetworkPlan {
    plan(spec, &"n1".parse().unwrap(), Generation(1)).unwrap()
}

fn run(mut state: CurrentLinks, ops: &[Op]) -> CurrentLinks {
    for op in ops {
        simulate::apply(&mut state, op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
    }
    state
}

#[test]
fn the_second_time_there_is_nothing_to_do() {
    for spec in [spec(2), converged(2)] {
        let plan = plan_of(&spec);
        let ops = diff(&bare_nics(), &plan, &adapters()).unwrap();
        assert!(!ops.is_empty());
        assert_eq!(diff(&run(bare_nics(), &ops), &plan, &adapters()), Ok(vec![]));
    }
}

#[test]
fn a_foreign_link_of_our_name_is_not_destroyed() {
    let mut state = bare_nics();
    let mut dummy = state.links[&link_name("eth0")].clone();
    dummy.kind = LinkKind::Other("dummy".to_owned());
    state.links.insert(LinkName::bridge(), dummy);
    let refused = diff(&state, &plan_of(&spec(1)), &adapters()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tw-br is wanted as a bridge, but there is a link of that name which is a dummy"
    );
}

#[test]
fn a_vlan_that_a_foreign_link_has_is_found_before_anything_is_done() {
    let foreign = Op::CreateVlan {
        name: link_name("backup"),
        parent: link_name("eth2"),
        vlan: vlan(711),
        egress_qos: BTreeMap::new(),
    };
    let state = run(bare_nics(), &[foreign]);
    let refused = diff(&state, &plan_of(&spec(1)), &adapters()).unwrap_err();
    assert!(matches!(refused, DiffError::Refused { source: Refused::VlanTaken { .. }, .. }), "{refused}");
}

#[test]
fn virtual_machines_taps_stay_on_the_bridge() {
    let plan = plan_of(&spec(1));
    let mut state = run(bare_nics(), &diff(&bare_nics(), &plan, &adapters()).unwrap());
    let mut tap = state.links[&link_name("eth3")].clone();
    tap.kind = LinkKind::Other("tun".to_owned());
    (tap.mac, tap.permanent_mac, tap.index) = (None, None, 99);
    state.links.insert(link_name("tw-vm1"), tap);
    let joined = Op::Join { name: link_name("tw-vm1"), master: LinkName::bridge() };
    let mut state = run(state, &[joined]);
    // The tap's MTU is the bridge's, so the bridge keeps its own.
    state.links.get_mut(&LinkName::bridge()).unwrap().mtu_bytes = 1500;
    state.links.get_mut(&LinkName::management()).unwrap().mtu_bytes = 1500;
    assert_eq!(diff(&state, &plan, &adapters()), Ok(vec![]));
}

fn default_route() -> Route {
    Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some("192.168.7.1".parse().unwrap()),
        metric: 100,
        protocol: 16,
        scope: 0,
        source: None,
        on_link: false,
    }
}

/// A node whose first NIC has the address and the default route that the management link shall have.
fn node_with_default_route() -> CurrentLinks {
    let nic = || link_name("eth0");
    let ops = [
        Op::SetUp { name: nic() },
        Op::AddAddress { name: nic(), address: "192.168.7.50/24".parse().unwrap() },
        Op::AddRoute { name: nic(), route: default_route() },
    ];
    let mut state = bare_nics();
    state.links.get_mut(&nic()).unwrap().up = false;
    run(state, &ops)
}

#[test]
fn a_default_route_moves_to_the_management_link_and_back() {
    let plan = plan_of(&spec(1));
    let before = node_with_default_route();
    let after = run(before.clone(), &diff(&before, &plan, &adapters()).unwrap());
    let has =
        |links: &CurrentLinks, name: &str| links.links[&link_name(name)].routes.contains(&default_route());
    assert!(has(&after, "tw-mgmt") && !has(&after, "eth0"));
    assert_eq!(diff(&after, &plan, &adapters()), Ok(vec![]));
    let restored = run(after.clone(), &revert(&after, &before, &plan, &adapters()).unwrap().ops);
    assert_eq!(restored, before);
}

#[test]
fn a_route_outlives_the_repair_of_an_address() {
    let plan = plan_of(&spec(1));
    let before = node_with_default_route();
    let settled = run(before.clone(), &diff(&before, &plan, &adapters()).unwrap());
    let extra = "192.168.7.77/24".parse().unwrap();
    let drifted = run(settled.clone(), &[Op::AddAddress { name: LinkName::management(), address: extra }]);
    assert_eq!(run(drifted.clone(), &diff(&drifted, &plan, &adapters()).unwrap()), settled);
}

#[test]
fn routes_of_foreign_links_above_a_nic_outlive_its_joining_a_team() {
    let (plan, backup) = (plan_of(&spec(1)), link_name("backup"));
    let above = [
        Op::CreateVlan {
            name: backup.clone(),
            parent: link_name("eth0"),
            vlan: vlan(5),
            egress_qos: BTreeMap::new(),
        },
        Op::SetUp { name: backup.clone() },
        Op::AddAddress { name: backup.clone(), address: "192.168.9.50/24".parse().unwrap() },
        Op::AddRoute { name: backup.clone(), route: Route { gateway: None, scope: 253, ..default_route() } },
    ];
    let before = run(node_with_default_route(), &above);
    let after = run(before.clone(), &diff(&before, &plan, &adapters()).unwrap());
    assert_eq!(after.links[&backup].routes, before.links[&backup].routes);
    let restored = run(after.clone(), &revert(&after, &before, &plan, &adapters()).unwrap().ops);
    for name in [backup, link_name("eth0")] {
        assert_eq!(restored.links[&name].routes, before.links[&name].routes, "{name}");
    }
}

/// The kernel keeps a route whose gateway is not on the wire any more, but takes no new one.
#[test]
fn a_route_that_the_kernel_would_not_take_again_comes_last_on_the_way_back() {
    let plan = plan_of(&spec(1));
    let mut before = node_with_default_route();
    let nic = before.links.get_mut(&link_name("eth0")).unwrap();
    nic.addresses = ["10.0.0.1/8".parse().unwrap()].into();
    let after = run(before.clone(), &diff(&before, &plan, &adapters()).unwrap());
    let mut back = revert(&after, &before, &plan, &adapters()).unwrap().ops;
    assert_eq!(back.pop(), Some(Op::AddRoute { name: link_name("eth0"), route: default_route() }));
    before.links.get_mut(&link_name("eth0")).unwrap().routes.clear();
    assert_eq!(run(after, &back), before);
}

/// Its source address is on a NIC that went down after the route was set. The plan takes that address away, and the route goes
/// with it.
#[test]
fn a_route_whose_source_is_on_a_link_that_is_down_comes_back_on_the_way_back() {
    let plan = plan_of(&spec(1));
    let source = || "192.168.9.50/24".parse().unwrap();
    let (sleeping, foreign) = (|| link_name("eth2"), || link_name("eth9"));
    let route =
        Route { gateway: None, scope: 253, source: Some("192.168.9.50".parse().unwrap()), ..default_route() };
    for through in [foreign(), link_name("eth3")] {
        let mut bare = bare_nics();
        let mut nic = bare.links[&link_name("eth0")].clone();
        (nic.mac, nic.permanent_mac, nic.index) = (None, None, 9);
        bare.links.insert(foreign(), nic);
        let ops = [
            Op::SetUp { name: sleeping() },
            Op::AddAddress { name: sleeping(), address: source() },
            Op::SetUp { name: through.clone() },
            Op::AddRoute { name: through.clone(), route: route.clone() },
            Op::SetDown { name: sleeping() },
        ];
        let before = run(bare, &ops);
        let after = run(before.clone(), &diff(&before, &plan, &adapters()).unwrap());
        assert!(after.links.values().all(|link| !link.routes.contains(&route)), "{through}");
        let back = revert(&after, &before, &plan, &adapters()).unwrap();
        assert_eq!(run(after, &back.ops), before, "{through}");
    }
}

/// Without a link that is gone, routes can be left that the kernel takes no more; they come last.
fn run_but_hopeless_routes(mut kernel: Kernel, ops: &[Op]) -> CurrentLinks {
    for op in ops {
        let done = kernel.apply(op);
        assert!(done.is_ok() || matches!(op, Op::AddRoute { .. }), "{op}: {done:?}");
    }
    kernel.links
}

/// Any operation on the links that plans know, and on foreign ones.
fn any_op() -> impl Strategy<Value = Op> {
    let pick = |names: &'static [&'static str]| prop::sample::select(names).prop_map(link_name);
    let link = || {
        pick(&[
            "eth0", "eth1", "eth2", "eth3", "eth9", "tw-team", "tw-br", "tw-mgmt", "tw-st711", "tw-old",
            "foreign", "backup", "above",
        ])
    };
    let master = || pick(&["tw-team", "tw-br", "foreign"]);
    let parent = || pick(&["eth0", "eth2", "tw-team", "tw-br"]);
    let any_parent = || pick(&["eth0", "eth2", "tw-team", "tw-br", "backup"]);
    let nic = || pick(&["eth0", "eth1", "eth2", "eth3", "eth9"]);
    let id = || prop::sample::select(vec![1u64, 7, 8, 711, 712]).prop_map(vlan);
    let mtu = || prop::sample::select(vec![1280u32, 1500, 9000]);
    let qos =
        || prop::collection::btree_map(0u32..8, (0u64..8).prop_map(|p| Priority::try_from(p).unwrap()), 0..3);
    let address = || {
        let texts = vec!["192.168.7.11/24", "192.168.7.50/24", "10.71.1.1/24", "10.0.0.1/8"];
        prop::sample::select(texts).prop_map(|text| text.parse::<ipnet::Ipv4Net>().unwrap())
    };
    let route = (prop::option::of(0u8..4), 0u8..4, any::<bool>(), 0u32..2).prop_map(
        |(gateway, to, scoped, metric)| Route {
            destination: ["0.0.0.0/0", "10.9.0.0/16", "172.16.0.0/12", "10.71.1.128/25"][usize::from(to)]
                .parse()
                .unwrap(),
            gateway: gateway.map(|at| {
                ["192.168.7.1", "10.71.1.9", "10.9.1.1", "10.0.0.1"][usize::from(at)].parse().unwrap()
            }),
            metric,
            protocol: 4,
            scope: if gateway.is_some() { 0 } else { 253 },
            source: scoped.then(|| "192.168.7.11".parse().unwrap()),
            on_link: metric == 1,
        },
    );
    let ours = || pick(&["tw-mgmt", "tw-st711", "tw-st712", "tw-old"]);
    let queue = || {
        let other = |kind: &str| Queue::Other { kind: kind.to_owned(), options: vec![1, 2], whole: true };
        let ets = Queue::Ets(Shares::of(Qos::default(), Some(25_000)).ets());
        prop::sample::select(vec![Queue::Default, ets, other("fq"), other("pfifo")])
    };
    let mode = prop_oneof![Just(BondMode::ActiveBackup), Just(BondMode::Other(4))];
    let entry = (any::<bool>(), any::<bool>()).prop_map(|(pvid, untagged)| VlanEntry { pvid, untagged });
    prop_oneof![
        (pick(&["tw-team", "tw-old", "foreign"]), mode, 0u32..200)
            .prop_map(|(name, mode, miimon_ms)| Op::CreateBond { name, mode, miimon_ms }),
        (pick(&["tw-br", "tw-team", "foreign"]), any::<bool>(), prop::option::of(id())).prop_map(
            |(name, vlan_filtering, default_pvid)| Op::CreateBridge { name, vlan_filtering, default_pvid }
        ),
        (pick(&["tw-mgmt", "tw-st711", "tw-st712", "tw-old"]), parent(), id(), qos())
            .prop_map(|(name, parent, vlan, egress_qos)| Op::CreateVlan { name, parent, vlan, egress_qos }),
        (link(), mtu()).prop_map(|(name, mtu_bytes)| Op::SetMtu { name, mtu_bytes }),
        link().prop_map(|name| Op::SetUp { name }),
        link().prop_map(|name| Op::SetDown { name }),
        (pick(&["backup", "above"]), any_parent(), prop::sample::select(vec![5u64, 6]).prop_map(vlan))
            .prop_map(|(name, parent, vlan)| Op::CreateVlan {
                name,
                parent,
                vlan,
                egress_qos: BTreeMap::new()
            }),
        (pick(&["backup", "above"]), pick(&["tw-br", "foreign"]))
            .prop_map(|(name, master)| Op::Join { name, master }),
        (nic(), master()).prop_map(|(name, master)| Op::Join { name, master }),
        (Just(LinkName::team()), Just(LinkName::bridge()))
            .prop_map(|(name, master)| Op::Join { name, master }),
        (pick(&["tw-team", "foreign"]), prop::option::of(nic()))
            .prop_map(|(name, port)| Op::SetPrimary { name, port }),
        (link(), qos()).prop_map(|(name, egress_qos)| Op::SetEgressQos { name, egress_qos }),
        (link(), id(), entry).prop_map(|(name, vlan, entry)| Op::SetBridgeVlan { name, vlan, entry }),
        (link(), address()).prop_map(|(name, address)| Op::AddAddress { name, address }),
        (link(), route).prop_map(|(name, route)| Op::AddRoute { name, route }),
        (nic(), any::<bool>()).prop_map(|(name, enabled)| Op::SetIpv6LinkLocal { name, enabled }),
        (link(), queue()).prop_map(|(name, queue)| Op::SetQueue { name, queue }),
        ours().prop_map(|name| Op::AddClassifier { name }),
        (ours(), 1u16..9, 1u16..9).prop_map(|(name, preference, port)| {
            let rule = MarkRule { of: Packets::TcpFrom(port), priority: Priority::STORAGE };
            Op::AddFilter { name, preference, filter: Filter::Mark(rule) }
        }),
    ]
}

/// A state that a kernel can be in: whatever the model lets happen to bare NICs, one of them foreign.
fn any_kernel() -> impl Strategy<Value = Kernel> {
    prop::collection::vec(any_op(), 0..60).prop_map(|ops| {
        let mut links = bare_nics();
        let mut foreign = links.links[&link_name("eth0")].clone();
        (foreign.mac, foreign.permanent_mac, foreign.index) = (None, None, 9);
        links.links.insert(link_name("eth9"), foreign);
        let mut kernel = Kernel::new(links);
        for op in ops {
            let _ = kernel.apply(&op);
        }
        kernel
    })
}

proptest! {
    // PROPTEST_CASES for more.
    #![proptest_config(ProptestConfig { cases: 400.max(ProptestConfig::default().cases), ..ProptestConfig::default() })]

    #[test]
    fn from_any_state_the_operations_lead_to_the_plan_and_then_there_are_none(
        kernel in any_kernel(), converge: bool,
    ) {
        let plan = plan_of(&if converge { converged(1) } else { spec(1) });
        let ops = diff(&kernel.links, &plan, &adapters()).unwrap();
        let after = kernel.run(&ops).links;
        prop_assert_eq!(diff(&after, &plan, &adapters()), Ok(vec![]));
        let desired = plan.resolve(&adapters(), &after).unwrap();
        for (name, link) in &after.links {
            prop_assert!(desired.links.contains_key(name) || !is_made_by_us(name, &link.kind), "{name} is left");
        }
    }

    #[test]
    fn from_any_state_there_is_a_way_back(
        kernel in any_kernel(), half in 0usize..40, lost in prop::option::of(0u8..4),
    ) {
        let (plan, state) = (plan_of(&spec(1)), kernel.links.clone());
        let ops = diff(&state, &plan, &adapters()).unwrap();
        let mut stopped = kernel.run(&ops[..half.min(ops.len())]);
        // A NIC that vanishes takes along what stands on it.
        let lost = lost.map(|at| link_name(&format!("eth{at}")));
        if let Some(name) = lost.clone() {
            stopped.apply(&Op::Delete { name }).unwrap();
        }
        let back = revert(&stopped.links, &state, &plan, &adapters()).unwrap();
        let is_gone = |name: &LinkName| back.gone.iter().any(|gone| gone.name == *name);
        prop_assert!(lost.iter().all(is_gone));
        let restored = run_but_hopeless_routes(stopped, &back.ops);
        let again = revert(&restored, &state, &plan, &adapters()).unwrap();
        prop_assert_eq!(&again.gone, &back.gone);
        // What the kernel takes from nobody, with all links of the plan up.
        let mut awake = restored.clone();
        for name in ["eth0", "eth1", "eth2", "eth3", "tw-team", "tw-br", "tw-mgmt", "tw-st711"] {
            let _ = simulate::apply(&mut awake, &Op::SetUp { name: link_name(name) });
        }
        let refused = |op: &Op| {
            let tried = simulate::apply(&mut awake.clone(), op);
            matches!(op, Op::AddRoute { .. }) && matches!(tried, Err(error) if !matches!(error, Refused::RouteExists(_)))
        };
        prop_assert!(again.ops.iter().all(refused), "{:?}", again.left());
        for (name, before) in &state.links {
            let known = is_made_by_us(name, &before.kind) || name.as_str().starts_with("eth");
            if known && !is_gone(name) {
                let now = &restored.links[name];
                let mut kind = before.kind.clone();
                if let LinkKind::Bond { primary, .. } = &mut kind {
                    primary.take_if(|primary| lost.as_ref() == Some(primary));
                }
                prop_assert_eq!(&now.kind, &kind);
                prop_assert_eq!(&now.master, &before.master);
                prop_assert_eq!(&now.addresses, &before.addresses);
                prop_assert_eq!(&now.bridge_vlans, &before.bridge_vlans);
                prop_assert_eq!(&now.traffic, &before.traffic);
                let hopeless =
                    |route: &Route| refused(&Op::AddRoute { name: name.clone(), route: route.clone() });
                prop_assert!(now.routes.is_subset(&before.routes), "{}", name);
                prop_assert!(before.routes.difference(&now.routes).all(hopeless), "{}", name);
                prop_assert_eq!(now.up, before.up, "{}", name);
            }
            let above = |name: &LinkName| name.as_str().starts_with("eth") || name.as_str().starts_with("tw-");
            if let LinkKind::Vlan { parent, .. } = &before.kind && above(parent)
                && let Some(now) = restored.get(name)
            {
                prop_assert_eq!((now.up, now.mtu_bytes), (before.up, before.mtu_bytes), "{}", name);
            }
        }
    }

    #[test]
    fn foreign_links_are_let_alone(kernel in any_kernel()) {
        let state = kernel.links.clone();
        let after = kernel.run(&diff(&state, &plan_of(&spec(1)), &adapters()).unwrap()).links;
        for (name, before) in state.links.iter().filter(|(name, _)| ["foreign", "eth9"].contains(&name.as_str())) {
            let now = &after.links[name];
            prop_assert_eq!(&now.addresses, &before.addresses);
            prop_assert_eq!(now.ipv6_link_local, before.ipv6_link_local);
            prop_assert_eq!(&now.traffic, &before.traffic);
            // What is sent from an address that the plan took away can't be kept.
            let addresses = || after.links.values().filter(|link| link.up).flat_map(|link| &link.addresses);
            let can_be = |route: &&Route| route.source.is_none_or(|from| addresses().any(|net| net.addr() == from));
            let lost = before.routes.iter().filter(can_be).find(|route| !now.routes.contains(*route));
            prop_assert!(!now.up || lost.is_none(), "{name}: {lost:?}");
        }
    }
}
