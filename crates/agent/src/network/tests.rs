//! Plans against a simulated kernel, in virtual time.

mod deaths;
mod drifts;
mod every_step;
mod given_back;

use super::*;
use model::{AdapterName, MacAddress, Mtu, Qos, VlanId};
use network::CurrentLinks;
use network::link::{AdapterMap, CurrentLink, LinkKind, LinkName};
use network::plan::{LinkRef, PlannedKind, PlannedLink};
use network::traffic::{Shares, Traffic, mark_rules};
use network::{Difference, Op, ResolveError, diff, revert, simulate};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex as StdMutex, PoisonError};
use tokio::time::sleep;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);

/// A kernel with one NIC. Clones are the same kernel: it outlives the agent.
#[derive(Debug, Clone)]
struct Simulated {
    links: Arc<StdMutex<CurrentLinks>>,
    /// The next apply makes this of its changes.
    spoilt: Arc<StdMutex<Option<Outcome>>>,
    /// So many ways back fail from now on.
    stuck: Arc<StdMutex<u32>>,
}

impl Simulated {
    fn new() -> Self {
        let nic = CurrentLink {
            index: 3,
            kind: LinkKind::Nic,
            mac: Some(MAC),
            permanent_mac: Some(MAC),
            up: true,
            carrier: Some(true),
            mtu_bytes: 1500,
            master: None,
            addresses: BTreeSet::new(),
            bridge_vlans: BTreeMap::new(),
            ipv6_link_local: Some(false),
            routes: BTreeSet::new(),
            traffic: Traffic::default(),
        };
        let links = CurrentLinks { links: BTreeMap::from([("eth3".parse().unwrap(), nic)]) };
        Self { links: Arc::new(StdMutex::new(links)), spoilt: Arc::default(), stuck: Arc::default() }
    }

    fn links(&self) -> CurrentLinks {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a machine's restart leaves of its links.
    fn reboot(&self) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = Self::new().links();
    }

    fn carry_out(&self, ops: &[Op]) {
        let mut links = self.links.lock().unwrap();
        for op in ops {
            simulate::apply(&mut links, op).unwrap();
        }
    }

    /// What a way back reports while it fails.
    fn is_stuck(&self, plan: &NetworkPlan) -> Option<Applied> {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        *stuck = stuck.checked_sub(1)?;
        let (why, then) = ("asked".to_owned(), "EBUSY".to_owned());
        Some(report(plan, Vec::new(), Outcome::RollbackFailed { why, then }))
    }

    fn has_vlan(&self, vlan: u64) -> bool {
        self.links().get(&LinkName::storage(VlanId::try_from(vlan).unwrap())).is_some()
    }
}

fn report(plan: &NetworkPlan, changed: Vec<Op>, outcome: Outcome) -> Applied {
    Applied { generation: plan.generation, changed, duration_us: 0, outcome, pending: false }
}

impl Executor for Simulated {
    async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        Ok(self.links())
    }

    fn check(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<(), ApplyError> {
        diff(now, plan, &adapters())?;
        Ok(())
    }

    fn differences(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<Vec<Difference>, ResolveError> {
        network::differences(now, plan, &adapters())
    }

    fn way_back(
        &self,
        now: &CurrentLinks,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> Result<Vec<Op>, ApplyError> {
        Ok(revert(now, before, plan, &adapters())?.ops)
    }

    async fn apply(&self, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        let ops = diff(&self.links(), plan, &adapters())?;
        if let Some(outcome) = self.spoilt.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(report(plan, Vec::new(), outcome));
        }
        self.carry_out(&ops);
        let outcome = if ops.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        Ok(report(plan, ops, outcome))
    }

    async fn restore(&self, before: &CurrentLinks, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        let way = revert(&self.links(), before, plan, &adapters())?;
        if let Some(failed) = self.is_stuck(plan) {
            return Ok(failed);
        }
        self.carry_out(&way.ops);
        let why = "asked".to_owned();
        let outcome = match revert(&self.links(), before, plan, &adapters())?.left() {
            Some(then) => Outcome::RollbackFailed { why, then },
            None if way.ops.is_empty() => Outcome::Unchanged,
            None => Outcome::RolledBack { why },
        };
        Ok(report(plan, way.ops, outcome))
    }
}

fn adapter() -> AdapterName {
    "Ethernet 3".parse().unwrap()
}

fn adapters() -> AdapterMap {
    BTreeMap::from([(adapter(), MAC)])
}

fn node() -> NodeName {
    "node1".parse().unwrap()
}

/// One VLAN on the one NIC, with a queue there and filters here.
fn plan(generation: u64, vlan: u64) -> NetworkPlan {
    let bare = |link, kind| PlannedLink {
        link,
        kind,
        mtu: Mtu::ETHERNET,
        master: None,
        address: None,
        bridge_vlans: BTreeMap::new(),
        marks: Vec::new(),
        shares: None,
    };
    let qos = Qos::default();
    let vlan = VlanId::try_from(vlan).unwrap();
    let nic = LinkRef::Adapter(adapter());
    let kind = PlannedKind::Vlan { parent: nic.clone(), vlan, egress_qos: BTreeMap::new() };
    let nic = PlannedLink { shares: Some(Shares::of(qos, None)), ..bare(nic, PlannedKind::Nic) };
    let storage =
        PlannedLink { marks: mark_rules(qos), ..bare(LinkRef::Ours(LinkName::storage(vlan)), kind) };
    let links = vec![nic, storage];
    NetworkPlan { generation: Generation(generation), node: node(), links, compute_vlans: Vec::new() }
}

fn request(plan: NetworkPlan, confirm_within_ms: Option<u32>) -> ApplyRequest {
    ApplyRequest { plan, confirm_within_ms: confirm_within_ms.map(|ms| ms.try_into().unwrap()) }
}

struct Bench {
    kernel: Simulated,
    directory: tempfile::TempDir,
    boots: StdMutex<u32>,
}

impl Bench {
    fn new() -> Self {
        Self { kernel: Simulated::new(), directory: tempfile::tempdir().unwrap(), boots: StdMutex::new(1) }
    }

    /// The machine starts anew: its links are bare.
    fn reboot(&self) {
        *self.boots.lock().unwrap() += 1;
        self.kernel.reboot();
    }

    fn boot(&self) -> BootId {
        BootId::of(*self.boots.lock().unwrap())
    }

    /// An agent on this kernel; the second one comes after a restart.
    async fn agent(&self) -> Arc<Network<Simulated>> {
        let store = Store::in_directory(self.directory.path());
        Network::start(node(), self.boot(), self.kernel.clone(), store).await.unwrap()
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ChangeError>) -> Refused {
    match result.unwrap_err() {
        ChangeError::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_not_confirmed_is_taken_back_and_one_that_is_stays() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let before = bench.kernel.links();
    let applied = agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    assert!(applied.pending && applied.outcome == Outcome::Applied && bench.kernel.has_vlan(711));
    assert_eq!(agent.state().await.unwrap().pending_ms, Some(30_000));
    sleep(Duration::from_millis(29_999)).await;
    assert!(bench.kernel.has_vlan(711));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.kernel.links(), before);
    let state = agent.state().await.unwrap();
    assert!(matches!(state.taken_back.unwrap().outcome, Outcome::RolledBack { .. }));
    assert_eq!(refused(agent.commit(Generation(1)).await), Refused::TooLate { generation: Generation(1) });

    agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    agent.commit(Generation(1)).await.unwrap();
    agent.commit(Generation(1)).await.unwrap();
    sleep(Duration::from_mins(10)).await;
    assert!(bench.kernel.has_vlan(711));
    let state = agent.state().await.unwrap();
    assert_eq!((state.pending_ms, state.taken_back), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_vanishes_does_not_keep_the_rest_from_going_back() {
    let bench = Bench::new();
    let before = bench.kernel.links();
    let agent = bench.agent().await;
    agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    let name = LinkName::team();
    let (stray, gone) = (Op::CreateBridge { name, vlan_filtering: true, default_pvid: None }, "eth3".parse());
    bench.kernel.carry_out(&[Op::Delete { name: gone.unwrap() }, stray]);
    sleep(Duration::from_secs(31)).await;
    assert!(bench.kernel.links().links.is_empty(), "what no plan made before is gone again");
    let outcome = agent.state().await.unwrap().taken_back.unwrap().outcome;
    assert!(matches!(&outcome, Outcome::RollbackFailed { then, .. } if then.contains("eth3")), "{outcome:?}");
    let refused = agent.apply(request(plan(2, 712), None)).await.unwrap_err();
    assert!(chain(&refused).contains("Ethernet 3"), "{refused:?}");
    assert_eq!(agent.state().await.unwrap().generation, Some(Generation(1)), "nothing is remembered of it");
    // It comes back, and so do the links.
    bench.kernel.links.lock().unwrap().links.clone_from(&before.links);
    sleep(Duration::from_mins(1)).await;
    let outcome = agent.state().await.unwrap().taken_back.unwrap().outcome;
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_back_what_nobody_confirmed() {
    let bench = Bench::new();
    let before = bench.kernel.links();
    bench.agent().await.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    let agent = bench.agent().await;
    assert_eq!(bench.kernel.links(), before);
    let state = agent.state().await.unwrap();
    assert_eq!((state.generation, state.pending_ms), (Some(Generation(1)), None));
    assert_eq!(state.taken_back.unwrap().generation, Generation(1));

    agent.apply(request(plan(2, 711), Some(30_000))).await.unwrap();
    agent.commit(Generation(2)).await.unwrap();
    let agent = bench.agent().await;
    assert!(bench.kernel.has_vlan(711) && agent.state().await.unwrap().taken_back.is_none());
}

#[tokio::test(start_paused = true)]
async fn old_foreign_and_ambiguous_plans_are_refused_and_change_nothing() {
    let bench = Bench::new();
    bench.agent().await.apply(request(plan(5, 711), None)).await.unwrap();
    // Also after a restart.
    let agent = bench.agent().await;
    let settled = bench.kernel.links();
    let refusal = async |plan| refused(agent.apply(request(plan, None)).await);
    let (offered, seen) = (Generation(4), Generation(5));
    assert_eq!(refusal(plan(4, 712)).await, Refused::Stale { offered, seen });
    assert_eq!(refusal(plan(5, 712)).await, Refused::Reused { generation: Generation(5) });
    let other = NetworkPlan { node: "node2".parse().unwrap(), ..plan(6, 711) };
    assert!(matches!(refusal(other).await, Refused::OtherNode { .. }));
    assert_eq!(refused(agent.commit(Generation(6)).await), Refused::Unknown { generation: Generation(6) });
    assert_eq!(bench.kernel.links(), settled);
    let again = agent.apply(request(plan(5, 711), Some(30_000))).await.unwrap();
    assert_eq!((again.outcome, again.changed.len(), again.pending), (Outcome::Unchanged, 0, false));
}

#[tokio::test(start_paused = true)]
async fn while_a_plan_is_pending_only_that_plan_is_taken() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let before = bench.kernel.links();
    agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    let pending = Refused::Pending { pending: Generation(1) };
    assert_eq!(refused(agent.apply(request(plan(2, 712), None)).await), pending);
    sleep(Duration::from_secs(20)).await;
    // Sent again, it waits anew, and still for the way back to where it all began.
    let again = agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    assert!(again.pending && again.outcome == Outcome::Unchanged);
    sleep(Duration::from_secs(20)).await;
    assert!(bench.kernel.has_vlan(711));
    // The first time's alarm, had it waited for the lock just then.
    agent.expire(Instant::now() - Duration::from_secs(10)).await;
    assert!(bench.kernel.has_vlan(711));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.kernel.links(), before);
    agent.apply(request(plan(2, 712), None)).await.unwrap();
    assert!(bench.kernel.has_vlan(712));
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_failed_can_not_be_committed_and_does_not_wait() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let failed = Outcome::RolledBack { why: "EBUSY".to_owned() };
    *bench.kernel.spoilt.lock().unwrap() = Some(failed.clone());
    let applied = agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    assert_eq!((applied.outcome, applied.pending), (failed, false));
    assert_eq!(refused(agent.commit(Generation(1)).await), Refused::TooLate { generation: Generation(1) });
    let nowhere = NetworkPlan {
        links: vec![PlannedLink {
            link: LinkRef::Adapter("Ethernet 9".parse().unwrap()),
            ..plan(2, 711).links[0].clone()
        }],
        ..plan(2, 711)
    };
    let error = agent.apply(request(nowhere, Some(30_000))).await.unwrap_err();
    assert!(matches!(error, ChangeError::Apply(ApplyError::Diff(_))), "{error:?}");
    let state = agent.state().await.unwrap();
    assert_eq!((state.pending_ms, state.generation), (None, Some(Generation(1))), "it was not taken up");
    agent.apply(request(plan(2, 711), None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pending_plan_that_fails_when_it_is_sent_again_is_taken_back_to_before_the_first_time() {
    let spoils = [
        Outcome::RolledBack { why: "EBUSY".to_owned() },
        Outcome::RollbackFailed { why: "EBUSY".to_owned(), then: "EIO".to_owned() },
    ];
    for spoilt in spoils {
        let bench = Bench::new();
        let agent = bench.agent().await;
        let before = bench.kernel.links();
        agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
        *bench.kernel.spoilt.lock().unwrap() = Some(spoilt);
        let again = agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
        assert_eq!(again.outcome, Outcome::RolledBack { why: "EBUSY".to_owned() });
        assert!(!again.pending);
        assert_eq!(bench.kernel.links(), before);
        assert!(matches!(
            agent.state().await.unwrap().taken_back.unwrap().outcome,
            Outcome::RolledBack { .. }
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_failed_is_tried_again_and_told_as_failed_until_it_succeeds() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let before = bench.kernel.links();
    agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
    *bench.kernel.stuck.lock().unwrap() = 3;
    sleep(Duration::from_millis(30_010)).await;
    let told = async || agent.state().await.unwrap().taken_back.unwrap().outcome;
    assert!(matches!(told().await, Outcome::RollbackFailed { .. }));
    assert!(bench.kernel.has_vlan(711));
    assert_eq!(refused(agent.commit(Generation(1)).await), Refused::TooLate { generation: Generation(1) });
    // 1 s and 2 s later it fails again, and 4 s after that it is done.
    sleep(Duration::from_millis(6_900)).await;
    assert!(matches!(told().await, Outcome::RollbackFailed { .. }));
    sleep(Duration::from_millis(200)).await;
    assert!(matches!(told().await, Outcome::RolledBack { .. }));
    assert_eq!(bench.kernel.links(), before);
}

#[tokio::test(start_paused = true)]
async fn tries_have_an_end_and_then_a_restart_or_a_new_plan_leads_on() {
    for restart in [true, false] {
        let bench = Bench::new();
        let agent = bench.agent().await;
        let before = bench.kernel.links();
        agent.apply(request(plan(1, 711), Some(30_000))).await.unwrap();
        *bench.kernel.stuck.lock().unwrap() = u32::MAX;
        sleep(Duration::from_hours(1)).await;
        let left = *bench.kernel.stuck.lock().unwrap();
        assert!(u32::MAX - left <= 16, "{} tries", u32::MAX - left);
        sleep(Duration::from_hours(1)).await;
        assert_eq!(*bench.kernel.stuck.lock().unwrap(), left);
        let agent = if restart {
            *bench.kernel.stuck.lock().unwrap() = 0;
            bench.agent().await
        } else {
            // The way back is tried once more, in vain, and the way on still ends where all began.
            *bench.kernel.stuck.lock().unwrap() = 1;
            let on = agent.apply(request(plan(2, 712), Some(30_000))).await.unwrap();
            assert!(on.pending && bench.kernel.has_vlan(712));
            sleep(Duration::from_millis(30_010)).await;
            agent
        };
        assert_eq!(bench.kernel.links(), before);
        assert!(matches!(
            agent.state().await.unwrap().taken_back.unwrap().outcome,
            Outcome::RolledBack { .. }
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_told_to_end_takes_a_pending_plan_back_first_and_a_settled_one_not() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let before = bench.kernel.links();
    agent.apply(request(plan(1, 711), Some(600_000))).await.unwrap();
    agent.stop().await;
    assert_eq!(bench.kernel.links(), before);
    assert_eq!(refused(agent.apply(request(plan(1, 711), None)).await), Refused::Stopping);
    let agent = bench.agent().await;
    let why = "the agent ended before it was confirmed".to_owned();
    assert_eq!(agent.state().await.unwrap().taken_back.unwrap().outcome, Outcome::RolledBack { why });
    agent.apply(request(plan(2, 711), None)).await.unwrap();
    agent.stop().await;
    assert!(bench.kernel.has_vlan(711));
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

async fn committed(agent: &Arc<Network<Simulated>>) -> (u64, Option<String>) {
    let committed = agent.state().await.unwrap().committed.unwrap();
    (committed.generation.0, committed.not_made)
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_machine_the_committed_plan_is_made_and_an_open_one_is_dropped() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    agent.apply(request(plan(4, 711), None)).await.unwrap();
    let settled = bench.kernel.links();
    agent.apply(request(plan(5, 712), Some(600_000))).await.unwrap();
    drop(agent);
    for _ in 0..2 {
        bench.reboot();
        let agent = bench.agent().await;
        assert_eq!(bench.kernel.links(), settled);
        let state = agent.state().await.unwrap();
        let why = saved::RESTARTED.to_owned();
        assert_eq!(state.taken_back.unwrap().outcome, Outcome::RolledBack { why });
        assert_eq!((state.generation, state.pending_ms), (Some(Generation(5)), None));
        assert_eq!(committed(&agent).await, (4, None));
    }
    // Generations don't go back.
    let agent = bench.agent().await;
    let (offered, seen) = (Generation(4), Generation(5));
    assert_eq!(refused(agent.apply(request(plan(4, 711), None)).await), Refused::Stale { offered, seen });
    agent.apply(request(plan(6, 712), None)).await.unwrap();
    drop(agent);
    bench.reboot();
    let agent = bench.agent().await;
    assert!(bench.kernel.has_vlan(712) && agent.state().await.unwrap().taken_back.is_none());
    assert_eq!(committed(&agent).await, (6, None));
}

#[tokio::test(start_paused = true)]
async fn a_committed_plan_that_was_being_sent_again_when_the_machine_died_is_in_force_afterwards() {
    let bench = Bench::new();
    let one = plan(1, 711);
    bench.agent().await.apply(request(one.clone(), None)).await.unwrap();
    let before = bench.kernel.links();
    let open = Stage::Open { before, boot: Some(bench.boot()) };
    let made_in = Some(bench.boot());
    let saved = Saved { plan: Some(one.clone()), stage: open, committed: Some(one), made_in, found: None };
    Store::in_directory(bench.directory.path()).save("network.json", &saved).unwrap();
    bench.reboot();
    let agent = bench.agent().await;
    assert!(bench.kernel.has_vlan(711) && agent.state().await.unwrap().taken_back.is_none());
    assert_eq!(committed(&agent).await, (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_committed_plan_that_can_not_be_made_is_told_and_tried_again_and_keeps_no_new_plan_waiting() {
    for confirmed in [None, Some(false), Some(true)] {
        let bench = Bench::new();
        bench.agent().await.apply(request(plan(1, 711), None)).await.unwrap();
        bench.reboot();
        let spoil = || {
            *bench.kernel.spoilt.lock().unwrap() = Some(Outcome::RolledBack { why: "EBUSY".to_owned() });
        };
        spoil();
        let agent = bench.agent().await;
        assert_eq!(committed(&agent).await, (1, Some("EBUSY".to_owned())));
        assert_eq!(agent.state().await.unwrap().pending_ms, None);
        spoil();
        sleep(Duration::from_millis(1_010)).await;
        assert_eq!(committed(&agent).await, (1, Some("EBUSY".to_owned())));
        if let Some(confirmed) = confirmed {
            let applied = agent.apply(request(plan(2, 712), Some(30_000))).await.unwrap();
            assert!(applied.pending && committed(&agent).await.1.is_some());
            if confirmed {
                agent.commit(Generation(2)).await.unwrap();
            }
        }
        // Once the new plan is taken back the old one's turn comes again.
        sleep(Duration::from_secs(32)).await;
        let new = confirmed == Some(true);
        assert_eq!((bench.kernel.has_vlan(711), bench.kernel.has_vlan(712)), (!new, new), "{confirmed:?}");
        assert_eq!(committed(&agent).await, (if new { 2 } else { 1 }, None));
    }
}

#[tokio::test(start_paused = true)]
async fn tries_to_make_the_committed_plan_have_an_end_and_a_restart_of_the_agent_tries_again() {
    let bench = Bench::new();
    bench.agent().await.apply(request(plan(1, 711), None)).await.unwrap();
    bench.reboot();
    let elsewhere = Simulated { links: Arc::default(), ..bench.kernel.clone() };
    let store = Store::in_directory(bench.directory.path());
    // No NIC is there: no way leads to the plan.
    let agent = Network::start(node(), bench.boot(), elsewhere, store).await.unwrap();
    sleep(Duration::from_hours(1)).await;
    let (tries, timer) = match &agent.state.lock().await.next {
        Next::MakeAgain { tries, timer, .. } => (*tries, timer.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!((tries, timer), (TRIES_MAX, false));
    assert!(committed(&agent).await.1.unwrap().contains("no way to the plan"));
    drop(agent);
    assert_eq!(committed(&bench.agent().await).await, (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_an_agent_that_knew_no_boots_is_of_this_boot() {
    let write = |bench: &Bench, text: &str| std::fs::write(bench.directory.path().join("network.json"), text);
    let bench = Bench::new();
    let (before, one) = (bench.kernel.links(), plan(1, 711));
    bench.agent().await.apply(request(one.clone(), Some(30_000))).await.unwrap();
    let open = format!(r#"{{"plan":{},"stage":{{"open":{{"before":{}}}}}}}"#, json(&one), json(&before));
    write(&bench, &open).unwrap();
    let agent = bench.agent().await;
    assert_eq!(bench.kernel.links(), before);
    assert!(agent.state().await.unwrap().taken_back.is_some());
    drop(agent);
    write(&bench, &format!(r#"{{"plan":{},"stage":"settled"}}"#, json(&one))).unwrap();
    assert_eq!(committed(&bench.agent().await).await, (1, None));
    assert_eq!(bench.kernel.links(), before, "what was settled in this boot is not made again");
}
