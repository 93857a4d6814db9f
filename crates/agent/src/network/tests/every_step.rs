//! The kill matrix on a whole node: a plan with a team, a bridge and two storage networks, from bare NICs and from another
//! such plan. The agent or its machine dies before every single step (each look at the kernel, each operation by its number, each
//! write to disk and the moment after it, each step of the way back), once per step, and the next agent is asked where
//! it stands: exactly on the old plan or on the new one, and it says which.
//!
//! The plans and NICs are fixtures of the network crate, the kernel is its simulation. What steps there are is not written down
//! here: the sweep ends with the first agent that survives. The snapshots show them, and change with the agent.

use super::*;
use crate::network::saved::{Disk, Saved, Stage};
use std::panic::resume_unwind;
use std::path::Path;

/// When an agent dies: before its step of this number.
#[derive(Debug, Clone, Default)]
struct Life {
    /// None: it does not.
    dies_before: Option<usize>,
    /// The steps that were begun, and last the one that was not.
    steps: Arc<StdMutex<Vec<String>>>,
}

impl Life {
    fn until(step: usize) -> Self {
        Self { dies_before: Some(step), ..Self::default() }
    }

    fn steps(&self) -> Vec<String> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_ended(&self) -> bool {
        self.dies_before.is_some_and(|step| self.steps().len() > step)
    }

    fn step(&self, what: impl Into<String>) {
        if !self.has_ended() {
            self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
        }
        if self.has_ended() {
            // Not `panic!`: hundreds of these would fill the screen.
            resume_unwind(Box::new("dead"));
        }
    }
}

/// What outlives agents, and what one of them does with it.
#[derive(Debug, Clone)]
struct Mortal {
    kernel: Arc<StdMutex<CurrentLinks>>,
    file: Arc<StdMutex<Option<Vec<u8>>>>,
    adapters: AdapterMap,
    life: Life,
}

impl Mortal {
    fn links(&self) -> CurrentLinks {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn carry_out(&self, ops: &[Op]) {
        for (number, op) in ops.iter().enumerate() {
            self.life.step(format!("operation {}: {op}", number + 1));
            let mut links = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            simulate::apply(&mut links, op).unwrap();
        }
        self.life.step("read back");
    }
}

impl Executor for Mortal {
    async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        self.life.step("observe");
        Ok(self.links())
    }

    fn check(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<(), ApplyError> {
        diff(now, plan, &self.adapters)?;
        Ok(())
    }

    fn differences(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<Vec<Difference>, ResolveError> {
        network::differences(now, plan, &self.adapters)
    }

    fn way_back(
        &self,
        now: &CurrentLinks,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> Result<Vec<Op>, ApplyError> {
        Ok(revert(now, before, plan, &self.adapters)?.ops)
    }

    async fn apply(&self, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        self.life.step("apply: observe");
        let ops = diff(&self.links(), plan, &self.adapters)?;
        self.carry_out(&ops);
        let outcome = if ops.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        Ok(report(plan, ops, outcome))
    }

    async fn restore(&self, before: &CurrentLinks, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        self.life.step("way back: observe");
        let ops = revert(&self.links(), before, plan, &self.adapters)?.ops;
        self.carry_out(&ops);
        Ok(report(plan, ops, Outcome::RolledBack { why: "asked".to_owned() }))
    }
}

impl Disk for Mortal {
    fn load(&self) -> Result<Saved, StoreError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.as_deref().map(|text| serde_json::from_slice(text).unwrap()).unwrap_or_default())
    }

    fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        let what = match saved.stage {
            Stage::Settled => "settled",
            Stage::Open { .. } => "open",
            Stage::TakenBack { .. } => "taken back",
        };
        self.life.step(format!("write `{what}`"));
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(serde_json::to_vec(saved).unwrap());
        self.life.step(format!("`{what}` is on disk: go on"));
        Ok(())
    }
}

type Agent = Arc<Network<Mortal, Mortal>>;

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Agent,
    /// Its links are bare in the next boot.
    Machine,
}

/// A node that is settled on a plan, or on none, and is given another.
#[derive(Debug, Clone)]
struct Case {
    bare: CurrentLinks,
    adapters: AdapterMap,
    old: Option<NetworkPlan>,
    new: NetworkPlan,
}

fn fixture<T: serde::de::DeserializeOwned>(path: &str) -> T {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../network/tests/fixtures");
    serde_json::from_str(&std::fs::read_to_string(fixtures.join(path)).unwrap()).unwrap()
}

impl Case {
    /// `old`, `new`: whose plans.
    fn new(old: Option<&str>, new: &str) -> Self {
        let plan = |case: &str, generation| NetworkPlan {
            generation: Generation(generation),
            node: node(),
            ..fixture(&format!("{case}/desired.json"))
        };
        Self {
            bare: fixture("fresh-node/current.json"),
            adapters: fixture("adapters.json"),
            old: old.map(|case| plan(case, 1)),
            new: plan(new, 2),
        }
    }

    /// The node before.
    async fn node(&self) -> Mortal {
        let node = Mortal {
            kernel: Arc::new(StdMutex::new(self.bare.clone())),
            file: Arc::default(),
            adapters: self.adapters.clone(),
            life: Life::default(),
        };
        let agent = agent(&node, 1, Life::default()).await.unwrap();
        if let Some(old) = &self.old {
            agent.apply(request(old.clone(), None)).await.unwrap();
        }
        node
    }

    /// The agent or the machine dies before a step of an apply. The steps that there were, and whether that was all.
    async fn die(&self, death: Death, confirms: bool, step: usize) -> (Vec<String>, bool) {
        let node = self.node().await;
        let old = node.links();
        let life = Life::until(step);
        let told = Arc::new(StdMutex::new([false; 2]));
        if let Some(agent) = agent(&node, 1, life.clone()).await {
            let (new, told) = (self.new.clone(), Arc::clone(&told));
            // The client ends with the first answer that is none.
            let client = async move {
                agent.apply(request(new, Some(30_000))).await.ok()?;
                if confirms {
                    told.lock().unwrap()[0] = true;
                    agent.commit(Generation(2)).await.ok()?;
                    told.lock().unwrap()[1] = true;
                }
                Some(())
            };
            let _ = tokio::spawn(client).await;
            sleep(Duration::from_mins(1)).await;
        }
        let (steps, has_ended) = (life.steps(), life.has_ended());
        // Nothing of it goes on: one that outlived its story dies now.
        *life.steps.lock().unwrap_or_else(PoisonError::into_inner) = vec![String::new(); step + 1];
        let mut boot = 1;
        if death == Death::Machine {
            node.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.bare);
            boot = 2;
        }
        let next = agent(&node, boot, Life::default()).await.unwrap();
        sleep(Duration::from_mins(10)).await;
        let [asked, kept] = *told.lock().unwrap();
        let what = format!("{death:?} dead before step {step}, {:?}", steps.last());
        self.judge(&next, &old, (asked, kept), &what).await;
        (steps, has_ended)
    }

    async fn judge(&self, agent: &Agent, old: &CurrentLinks, (asked, kept): (bool, bool), what: &str) {
        let state = agent.state().await.unwrap();
        let was = self.old.as_ref().map(|plan| plan.generation);
        let is_new = match (state.generation, state.taken_back.map(|back| back.outcome)) {
            (generation, None) if generation == was => false,
            (Some(Generation(2)), Some(Outcome::RolledBack { .. })) => false,
            (Some(Generation(2)), None) => true,
            other => panic!("{what}: {other:?}"),
        };
        assert!(!is_new || asked, "{what}: nobody wanted that");
        assert!(is_new || !kept, "{what}: what was promised is gone");
        let says = state.committed.map(|committed| (committed.generation, committed.not_made));
        assert_eq!(says, if is_new { Some(Generation(2)) } else { was }.map(|on| (on, None)), "{what}");
        assert_eq!(state.pending_ms, None, "{what}");
        let plan = if is_new { Some(&self.new) } else { self.old.as_ref() };
        let left = plan.map(|plan| diff(&state.links, plan, &self.adapters).unwrap());
        assert!(left.is_none_or(|ops| ops.is_empty()), "{what}");
        if !is_new {
            assert_eq!(unnumbered(state.links), unnumbered(old.clone()), "{what}");
        }
    }

    /// Every step, once. What they were in an agent's life without end.
    async fn every_step(&self, death: Death, confirms: bool) -> Vec<String> {
        for step in 0.. {
            let (steps, has_ended) = self.die(death, confirms, step).await;
            if !has_ended {
                assert_eq!(steps.len(), step, "each step was the last one once");
                return steps;
            }
        }
        Vec::new()
    }
}

async fn agent(node: &Mortal, boot: u32, life: Life) -> Option<Agent> {
    let mortal = Mortal { life, ..node.clone() };
    let start = Network::start(super::node(), BootId::of(boot), mortal.clone(), mortal);
    tokio::spawn(start).await.ok().map(Result::unwrap)
}

/// Links are the same if they have been made anew: then they have other numbers.
fn unnumbered(mut links: CurrentLinks) -> CurrentLinks {
    links.links.values_mut().for_each(|link| link.index = 0);
    links
}

/// The steps of an agent's life do not depend on what ends it.
async fn matrix(case: Case, confirms: bool) -> String {
    let steps = case.every_step(Death::Agent, confirms).await;
    assert_eq!(case.every_step(Death::Machine, confirms).await, steps);
    steps.join("\n")
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_before_any_step_of_a_first_plan() {
    insta::assert_snapshot!(matrix(Case::new(None, "fresh-node"), true).await);
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_before_any_step_of_a_first_plan_or_of_its_way_back() {
    insta::assert_snapshot!(matrix(Case::new(None, "fresh-node"), false).await);
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_before_any_step_from_one_plan_to_another() {
    insta::assert_snapshot!(matrix(Case::new(Some("fresh-node"), "converged-after-dedicated"), true).await);
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_before_any_step_from_one_plan_to_another_and_back() {
    insta::assert_snapshot!(matrix(Case::new(Some("fresh-node"), "converged-after-dedicated"), false).await);
}
