//! What somebody changed on a settled node: the diff finds it, mends it, and does nothing else.

use super::*;
use crate::difference::compare;
use crate::link::{BondMode, Reselect, VlanEntry};
use crate::plan::{Generation, plan};
use crate::testing::{adapters, bare_nics, link_name, spec, vlan};
use crate::traffic::{Dcb, DcbEts, DcbPfc, Ets, Filter, MarkRule, Packets, Queue, Shares};
use model::Qos;
use proptest::prelude::*;

fn planned() -> NetworkPlan {
    plan(&spec(1), &"n1".parse().unwrap(), Generation(1)).unwrap()
}

fn run(mut state: CurrentLinks, ops: &[Op]) -> CurrentLinks {
    for op in ops {
        simulate::apply(&mut state, op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
    }
    state
}

/// As planned, with two links that are not ours: a NIC that no plan names and a VLAN link above it.
fn settled() -> CurrentLinks {
    let mut state = bare_nics();
    let mut foreign = state.links[&link_name("eth0")].clone();
    (foreign.mac, foreign.permanent_mac, foreign.index, foreign.up) = (None, None, 9, true);
    foreign.addresses = ["10.5.0.1/24".parse().unwrap()].into();
    state.links.insert(link_name("eth9"), foreign);
    let (name, parent) = (link_name("backup"), link_name("eth9"));
    let above = Op::CreateVlan { name, parent, vlan: vlan(711), egress_qos: BTreeMap::new() };
    let state = run(state, &[above]);
    let ops = diff(&state, &planned(), &adapters()).unwrap();
    run(state, &ops)
}

/// One attribute of one managed link, changed behind twinrack's back.
#[derive(Debug, Clone)]
enum Drift {
    By(Op),
    /// The kernel takes a bond's mode only while it has no ports; somebody made the bond anew.
    Mode,
}

fn drifted(drift: &Drift) -> Result<CurrentLinks, Refused> {
    let mut state = settled();
    match drift {
        Drift::By(op) => simulate::apply(&mut state, op)?,
        Drift::Mode => {
            let team = state.links.get_mut(&LinkName::team()).unwrap();
            let LinkKind::Bond { mode, .. } = &mut team.kind else { panic!("a bond") };
            *mode = BondMode::Other(4);
        }
    }
    Ok(state)
}

/// Every attribute that a plan sets, once.
fn examples() -> Vec<Drift> {
    let (team, bridge, management) = (LinkName::team, LinkName::bridge, LinkName::management);
    let storage = || LinkName::storage(vlan(711));
    let qos = |from, to| BTreeMap::from([(from, Priority::try_from(to).unwrap())]);
    let address = |text: &str| text.parse().unwrap();
    let entry = |name, vlan, entry| Op::SetBridgeVlan { name, vlan, entry };
    let port = settled().links[&team()].bridge_vlans.keys().next().copied().unwrap();
    let own = |name: &LinkName| *settled().links[name].addresses.first().unwrap();
    let ops = vec![
        Op::SetMiimon { name: team(), miimon_ms: 0 },
        Op::SetReselect { name: team(), reselect: Reselect::Always },
        Op::SetPrimary { name: team(), port: None },
        Op::SetPrimary { name: team(), port: Some(link_name("eth1")) },
        Op::SetFiltering { name: bridge(), vlan_filtering: false, default_pvid: None },
        Op::SetFiltering { name: bridge(), vlan_filtering: true, default_pvid: Some(vlan(9)) },
        Op::SetEgressQos { name: storage(), egress_qos: qos(3, 0) },
        Op::SetEgressQos { name: storage(), egress_qos: qos(3, 5) },
        Op::SetEgressQos { name: storage(), egress_qos: qos(6, 6) },
        entry(team(), vlan(99), VlanEntry::TAGGED),
        entry(team(), port, VlanEntry { pvid: false, untagged: true }),
        Op::RemoveBridgeVlan { name: team(), vlan: port },
        entry(bridge(), vlan(99), VlanEntry::NATIVE),
        Op::SetMtu { name: management(), mtu_bytes: 1280 },
        Op::SetMtu { name: link_name("eth2"), mtu_bytes: 1280 },
        Op::Leave { name: link_name("eth1") },
        Op::Leave { name: team() },
        Op::AddAddress { name: management(), address: address("10.200.0.1/24") },
        Op::AddAddress { name: team(), address: address("10.200.0.1/24") },
        Op::AddAddress { name: link_name("eth2"), address: address("10.200.0.1/24") },
        Op::RemoveAddress { name: storage(), address: own(&storage()) },
        Op::SetDown { name: storage() },
        Op::SetDown { name: link_name("eth0") },
        Op::SetIpv6LinkLocal { name: bridge(), enabled: true },
        Op::SetIpv6LinkLocal { name: link_name("eth3"), enabled: true },
        Op::Delete { name: storage() },
        Op::SetQueue { name: link_name("eth2"), queue: Queue::Default },
        Op::SetQueue { name: link_name("eth2"), queue: codel() },
        Op::SetQueue { name: link_name("eth3"), queue: Queue::Ets(other_shares()) },
        Op::SetQueue { name: storage(), queue: codel() },
        Op::RemoveClassifier { name: storage() },
        Op::RemoveFilter { name: storage(), preference: 2 },
        Op::AddFilter { name: storage(), preference: 9, filter: mark(443) },
    ];
    ops.into_iter().map(Drift::By).chain([Drift::Mode]).collect()
}

#[test]
fn each_attribute_that_a_plan_sets_is_mended_alone() {
    let lines = examples().into_iter().map(|drift| {
        let state = drifted(&drift).unwrap();
        let ops = diff(&state, &planned(), &adapters()).unwrap();
        let what = match &drift {
            Drift::By(op) => op.to_string(),
            Drift::Mode => "another bond mode".to_owned(),
        };
        let mend: Vec<String> = ops.iter().map(|op| format!("    {op}")).collect();
        format!("{what}:\n{}", mend.join("\n"))
    });
    let lines = lines.collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(lines);
}

#[test]
fn each_attribute_that_a_plan_sets_has_words() {
    let lines = examples().into_iter().map(|drift| {
        let state = drifted(&drift).unwrap();
        let found = compare(&state, &planned().resolve(&adapters(), &state).unwrap());
        found.iter().map(|difference| format!("- {difference}")).collect::<Vec<_>>().join("\n")
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n\n"));
}

fn codel() -> Queue {
    Queue::Other { kind: "fq_codel".to_owned(), options: vec![8, 0, 1, 0, 0, 0, 0, 0], whole: true }
}

fn other_shares() -> Ets {
    let qos = Qos { storage_bandwidth_percent: 30, ..Qos::default() };
    Shares::of(qos, None).ets()
}

fn mark(port: u16) -> Filter {
    Filter::Mark(MarkRule { of: Packets::TcpTo(port), priority: Priority::HEARTBEAT })
}

fn any_drift() -> impl Strategy<Value = Drift> {
    let links = planned().resolve(&adapters(), &settled()).unwrap().links;
    let names: Vec<LinkName> = links.keys().cloned().collect();
    let link = || prop::sample::select(names.clone());
    // A NIC can't be deleted.
    let made = links.iter().filter(|(_, link)| link.kind != LinkKind::Nic);
    let made = prop::sample::select(made.map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let id = || prop::sample::select(vec![1u64, 7, 8, 9, 711]).prop_map(vlan);
    let level = || (0u64..8).prop_map(|level| Priority::try_from(level).unwrap());
    let address = || {
        let texts = vec![
            "192.168.7.50/24",
            "192.168.7.11/24",
            "192.168.7.1/24",
            "10.71.1.1/24",
            "10.71.1.9/24",
            "10.0.0.1/8",
        ];
        prop::sample::select(texts).prop_map(|text| text.parse::<ipnet::Ipv4Net>().unwrap())
    };
    let entry = (any::<bool>(), any::<bool>()).prop_map(|(pvid, untagged)| VlanEntry { pvid, untagged });
    let master = || prop::sample::select(vec![LinkName::team(), LinkName::bridge()]);
    let marked = || prop::sample::select(vec![711, 712]).prop_map(|id| LinkName::storage(vlan(id)));
    let managed_queue =
        || prop_oneof![marked(), prop::sample::select(vec!["eth2", "eth3"]).prop_map(link_name)];
    let ops = prop_oneof![
        (link(), 1200u32..9200).prop_map(|(name, mtu_bytes)| Op::SetMtu { name, mtu_bytes }),
        link().prop_map(|name| Op::SetDown { name }),
        made.prop_map(|name| Op::Delete { name }),
        link().prop_map(|name| Op::Leave { name }),
        (link(), master()).prop_map(|(name, master)| Op::Join { name, master }),
        (link(), 0u32..200).prop_map(|(name, miimon_ms)| Op::SetMiimon { name, miimon_ms }),
        (link(), prop_oneof![Just(Reselect::Always), Just(Reselect::Better)])
            .prop_map(|(name, reselect)| Op::SetReselect { name, reselect }),
        (link(), prop::option::of(link())).prop_map(|(name, port)| Op::SetPrimary { name, port }),
        (link(), any::<bool>(), prop::option::of(id())).prop_map(|(name, vlan_filtering, default_pvid)| {
            Op::SetFiltering { name, vlan_filtering, default_pvid }
        }),
        (link(), prop::collection::btree_map(0u32..9, level(), 1..4))
            .prop_map(|(name, egress_qos)| Op::SetEgressQos { name, egress_qos }),
        (link(), id(), entry).prop_map(|(name, vlan, entry)| Op::SetBridgeVlan { name, vlan, entry }),
        (link(), id()).prop_map(|(name, vlan)| Op::RemoveBridgeVlan { name, vlan }),
        (link(), address()).prop_map(|(name, address)| Op::AddAddress { name, address }),
        (link(), address()).prop_map(|(name, address)| Op::RemoveAddress { name, address }),
        link().prop_map(|name| Op::SetIpv6LinkLocal { name, enabled: true }),
        (managed_queue(), prop::sample::select(vec![Queue::Default, codel(), Queue::Ets(other_shares())]))
            .prop_map(|(name, queue)| Op::SetQueue { name, queue }),
        marked().prop_map(|name| Op::RemoveClassifier { name }),
        (marked(), 1u16..9).prop_map(|(name, preference)| Op::RemoveFilter { name, preference }),
        (marked(), 1u16..9, 1u16..9).prop_map(|(name, preference, port)| Op::AddFilter {
            name,
            preference,
            filter: mark(port)
        }),
    ];
    prop_oneof![20 => ops.prop_map(Drift::By), 1 => Just(Drift::Mode)]
}

/// A NIC whose driver has shares of its own gets those, and no queue.
#[test]
fn a_nic_with_dcb_is_given_its_own_shares_and_mended() {
    let has = DcbEts {
        willing: true,
        classes: 8,
        credit_based_shaper: false,
        transmit_percent: [0; 8],
        receive_percent: [0; 8],
        selection: [0; 8],
        class_of: [0; 8],
        recommended_percent: [0; 8],
        recommended_selection: [0; 8],
        recommended_class_of: [0; 8],
    };
    let pfc = DcbPfc { classes: 8, enabled: 0, macsec_bypass: false, delay_bits: 0 };
    let mut state = settled();
    let nic = state.links.get_mut(&link_name("eth2")).unwrap();
    nic.traffic.queue = Queue::Default;
    nic.traffic.dcb = Some(Dcb { ets: Some(has), pfc: Some(pfc) });
    let found = compare(&state, &planned().resolve(&adapters(), &state).unwrap());
    let ops = diff(&state, &planned(), &adapters()).unwrap();
    let lines: Vec<String> =
        found.iter().map(ToString::to_string).chain(ops.iter().map(ToString::to_string)).collect();
    insta::assert_snapshot!(lines.join("\n"));
    let mended = run(state.clone(), &ops);
    assert_eq!(diff(&mended, &planned(), &adapters()), Ok(vec![]));
    let back = crate::revert(&mended, &state, &planned(), &adapters()).unwrap();
    assert_eq!(run(mended, &back.ops), state);
    // Too few classes: a queue it is.
    let nic = state.links.get_mut(&link_name("eth2")).unwrap();
    nic.traffic.dcb.as_mut().unwrap().ets.as_mut().unwrap().classes = 2;
    let ops = diff(&state, &planned(), &adapters()).unwrap();
    assert!(matches!(ops[..], [Op::SetQueue { queue: Queue::Ets(_), .. }, Op::SetDcbPfc { .. }]), "{ops:?}");
}

/// Without what the kernel chooses when a link is made anew.
fn without_index(links: &CurrentLinks) -> CurrentLinks {
    let mut links = links.clone();
    links.links.values_mut().for_each(|link| link.index = 0);
    links
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_drifts_is_found_and_mended_and_the_rest_is_let_alone(drift in any_drift()) {
        let settled = settled();
        // The kernel refuses much of it.
        let Ok(state) = drifted(&drift) else { return Ok(()) };
        let ops = diff(&state, &planned(), &adapters()).unwrap();
        prop_assert_eq!(ops.is_empty(), state == settled);
        let found = compare(&state, &planned().resolve(&adapters(), &state).unwrap());
        prop_assert_eq!(found.is_empty(), ops.is_empty(), "words for every operation, and for nothing else");
        let foreign = |name: &LinkName| ["eth9", "backup"].contains(&name.as_str());
        prop_assert!(!ops.iter().any(|op| foreign(op.name())));
        prop_assert_eq!(without_index(&run(state, &ops)), without_index(&settled));
    }
}
