//! Drift on a simulated kernel, in virtual time.

use super::*;
use crate::network::Changes;
use api::{Drifts, Repair};
use network::kernel::{Change, ChangeKind, Told};

const NIC: &str = "eth3";

/// A settled plan, and an agent that looks for drift, which nobody tells of.
async fn settled(bench: &Bench) -> Arc<Network<Simulated>> {
    let (agent, changes) = settled_and_told(bench).await;
    changes.end();
    // Its next look is the first that knows.
    sleep(Duration::from_secs(31)).await;
    agent
}

/// The same, of which the kernel tells.
async fn settled_and_told(bench: &Bench) -> (Arc<Network<Simulated>>, Arc<Changes>) {
    let agent = bench.agent().await;
    agent.apply(request(plan(1, 711), None)).await.unwrap();
    let changes = look(Arc::clone(&agent));
    // Its first look is over, and the next one by itself is more than a second away.
    sleep(Duration::from_millis(300)).await;
    (agent, changes)
}

fn look(agent: Arc<Network<Simulated>>) -> Arc<Changes> {
    let changes = Arc::<Changes>::default();
    tokio::spawn(agent.mend_drift(Arc::clone(&changes)));
    changes
}

async fn drifts(agent: &Network<Simulated>) -> Drifts {
    agent.state().await.unwrap().drifts
}

async fn words(agent: &Network<Simulated>) -> Vec<String> {
    drifts(agent).await.last.iter().map(ToString::to_string).collect()
}

fn storage() -> LinkName {
    "tw-st711".parse().unwrap()
}

fn nic() -> LinkName {
    NIC.parse().unwrap()
}

fn address(name: &LinkName, text: &str) -> Op {
    Op::AddAddress { name: name.clone(), address: text.parse().unwrap() }
}

/// The links without what the kernel chooses when one is made anew.
fn shape(kernel: &Simulated) -> CurrentLinks {
    let mut links = kernel.links();
    links.links.values_mut().for_each(|link| link.index = 0);
    links
}

#[tokio::test(start_paused = true)]
async fn whatever_somebody_changes_is_found_told_and_mended_and_nothing_else_is_touched() {
    let bench = Bench::new();
    // Not ours: a VLAN link by hand on the very NIC, with an address.
    let by_hand: LinkName = "by-hand".parse().unwrap();
    let vlan = VlanId::try_from(99).unwrap();
    let made = Op::CreateVlan { name: by_hand.clone(), parent: nic(), vlan, egress_qos: BTreeMap::new() };
    bench.kernel.carry_out(&[made, address(&by_hand, "10.9.0.1/24")]);
    let agent = settled(&bench).await;
    let good = shape(&bench.kernel);
    let drifted = [
        Op::Delete { name: storage() },
        address(&storage(), "10.71.1.9/24"),
        Op::SetDown { name: storage() },
        Op::SetMtu { name: storage(), mtu_bytes: 1400 },
    ];
    for (number, op) in (1..).zip(&drifted) {
        bench.kernel.carry_out(std::slice::from_ref(op));
        assert_ne!(shape(&bench.kernel), good);
        sleep(Duration::from_millis(2200)).await;
        assert_eq!(shape(&bench.kernel), good, "{op}");
        assert_eq!(drifts(&agent).await.count, number, "{op}");
        assert_eq!(agent.drifts_at_a_glance(), api::DriftGlance { count: number, standing: 0 });
    }
    let told: Vec<String> =
        words(&agent).await.iter().map(|w| w.split(": mended").next().unwrap().to_owned()).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    tw-st711, VLAN 711 of eth3, is gone
    address of tw-st711 is 10.71.1.9/24, not nothing
    tw-st711 is down, not up
    MTU of tw-st711 is 1400, not 1500
    ");
    // What is not ours may change as it likes.
    bench
        .kernel
        .carry_out(&[address(&by_hand, "10.9.0.2/24"), Op::SetMtu { name: by_hand, mtu_bytes: 1400 }]);
    let changed = shape(&bench.kernel);
    sleep(Duration::from_mins(1)).await;
    assert_eq!((shape(&bench.kernel), drifts(&agent).await.count), (changed, 4));
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_tells_is_looked_at_at_once_and_told_with_the_drift() {
    let bench = Bench::new();
    let (agent, changes) = settled_and_told(&bench).await;
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    let name = Some(storage().to_string());
    changes.note(Told::Change(Change { kind: ChangeKind::LinkGone, index: Some(4), name }), 0);
    sleep(Duration::from_millis(100)).await;
    let drifts = drifts(&agent).await;
    assert!(bench.kernel.has_vlan(711), "{drifts:?}");
    let changes: Vec<_> =
        drifts.last[0].changes.iter().map(|c| (c.kind.as_str(), c.name.as_deref())).collect();
    assert_eq!(changes, [("link-gone", Some("tw-st711"))]);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_does_not_tell_is_found_all_the_same_and_lost_messages_are_a_reason_to_look() {
    let bench = Bench::new();
    let (agent, changes) = settled_and_told(&bench).await;
    for told in [false, true] {
        bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
        if told {
            changes.note(Told::Gap, 1);
        }
        sleep(Duration::from_secs(if told { 1 } else { 31 })).await;
        assert!(bench.kernel.has_vlan(711), "{told}: {:?}", drifts(&agent).await);
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_plan_is_pending_drift_is_the_dead_mans_business_and_afterwards_nobodys() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let before = bench.kernel.links();
    look(Arc::clone(&agent));
    agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    sleep(Duration::from_secs(29)).await;
    assert!(!bench.kernel.has_vlan(711) && drifts(&agent).await.count == 0);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.kernel.links(), before);
    assert_eq!(drifts(&agent).await, Drifts::default(), "a plan that was taken back is nobody's wish");

    // Once it is committed, what it lacks is drift.
    agent.apply(request(plan(2, 711), Some(30_000))).await.unwrap();
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    sleep(Duration::from_secs(10)).await;
    agent.commit(Generation(2)).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert!(bench.kernel.has_vlan(711) && drifts(&agent).await.count == 1);
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_is_told_and_tried_again() {
    let bench = Bench::new();
    let agent = settled(&bench).await;
    *bench.kernel.spoilt.lock().unwrap() = Some(Outcome::RolledBack { why: "EBUSY".to_owned() });
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    sleep(Duration::from_millis(2200)).await;
    let why = "EBUSY; the links are as they were found".to_owned();
    assert_eq!(drifts(&agent).await.last[0].repair, Repair::Failed { tries: 1, why });
    assert_eq!(agent.drifts_at_a_glance(), api::DriftGlance { count: 1, standing: 1 });
    assert!(!bench.kernel.has_vlan(711));
    sleep(Duration::from_millis(2200)).await;
    let told = drifts(&agent).await;
    assert!(bench.kernel.has_vlan(711) && told.count == 1, "{told:?}");
    assert!(matches!(told.last[0].repair, Repair::Mended { .. }), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_put_right_by_somebody_else_is_gone_and_no_repair() {
    let bench = Bench::new();
    let agent = settled(&bench).await;
    *bench.kernel.spoilt.lock().unwrap() = Some(Outcome::RolledBack { why: "EBUSY".to_owned() });
    bench.kernel.carry_out(&[Op::SetDown { name: storage() }]);
    sleep(Duration::from_millis(2200)).await;
    bench.kernel.carry_out(&[Op::SetUp { name: storage() }]);
    sleep(Duration::from_millis(2200)).await;
    assert_eq!(drifts(&agent).await.last[0].repair, Repair::Gone);
}

#[tokio::test(start_paused = true)]
async fn two_who_want_different_things_do_not_fight_at_full_speed() {
    let bench = Bench::new();
    let (agent, changes) = settled_and_told(&bench).await;
    let other = Op::SetMtu { name: storage(), mtu_bytes: 1400 };
    let started = Instant::now();
    while started.elapsed() < Duration::from_mins(10) {
        if bench.kernel.links().links[&storage()].mtu_bytes != 1400 {
            bench.kernel.carry_out(std::slice::from_ref(&other));
            changes.note(Told::Change(Change { kind: ChangeKind::Link, index: Some(4), name: None }), 0);
        }
        sleep(Duration::from_millis(100)).await;
    }
    let told = drifts(&agent).await;
    assert!((10..25).contains(&told.count), "{}", told.count);
    assert!(told.last.last().unwrap().contested && !told.last[0].contested);
    // It is mended all the same, and the other has enough some time.
    sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.kernel.links().links[&storage()].mtu_bytes, 1500);
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_is_pulled_is_no_drift_and_nothing_is_taken_apart_for_it() {
    let bench = Bench::new();
    let agent = settled(&bench).await;
    // With a NIC its VLAN links go; a link of ours elsewhere is left.
    let pulled = bench.kernel.links.lock().unwrap().links.remove(&nic()).unwrap();
    bench.kernel.links.lock().unwrap().links.remove(&storage());
    sleep(Duration::from_mins(1)).await;
    assert!(bench.kernel.links().links.is_empty());
    let told = drifts(&agent).await;
    assert_eq!(told.count, 0);
    let missing = "adapter Ethernet 3 is the NIC with MAC address 02:00:00:00:00:03, and there is none";
    assert_eq!(told.unable.as_deref(), Some(missing));
    bench.kernel.links.lock().unwrap().links.insert(nic(), pulled);
    sleep(Duration::from_millis(2200)).await;
    let told = drifts(&agent).await;
    assert!(bench.kernel.has_vlan(711) && told.unable.is_none() && told.count == 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_goes_on_with_the_plan_that_is_settled() {
    let bench = Bench::new();
    bench.agent().await.apply(request(plan(1, 711), None)).await.unwrap();
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    let agent = bench.agent().await;
    look(Arc::clone(&agent));
    sleep(Duration::from_millis(200)).await;
    assert!(bench.kernel.has_vlan(711) && drifts(&agent).await.count == 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_mends_nothing_any_more() {
    let bench = Bench::new();
    let agent = settled(&bench).await;
    agent.stop().await;
    bench.kernel.carry_out(&[Op::Delete { name: storage() }]);
    sleep(Duration::from_mins(1)).await;
    assert!(!bench.kernel.has_vlan(711) && drifts(&agent).await.count == 0);
}
