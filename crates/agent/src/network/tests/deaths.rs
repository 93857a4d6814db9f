//! The agent or its machine dies at every step, twice; a task of it panics at every step; every save fails once. Whatever
//! happens, the links end as the old plan says or as the new one does, the agent says which, and nothing stays pending.

use super::*;
use crate::network::saved::{Disk, Saved, Stage};
use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// What is asked of the agent. The node is settled on plan 1 before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    Confirmed,
    NotConfirmed,
    NeedsNoConfirmation,
    SentAgainAndConfirmed,
    SentAgainInVain,
    FailsHalfWay,
    WayBackFailsTwice,
    AgentToldToEnd,
}

const STORIES: [Story; 8] = [
    Story::Confirmed,
    Story::NotConfirmed,
    Story::NeedsNoConfirmation,
    Story::SentAgainAndConfirmed,
    Story::SentAgainInVain,
    Story::FailsHalfWay,
    Story::WayBackFailsTwice,
    Story::AgentToldToEnd,
];

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Agent,
    /// Its links are bare in the next boot.
    Machine,
}

/// When an agent dies: between two of its steps. All clones are one agent's.
#[derive(Debug, Clone)]
pub(super) struct Life {
    steps_left: Arc<AtomicUsize>,
    /// Not the agent dies, but the task that took the step.
    only_a_task: bool,
}

impl Life {
    pub(super) fn of(steps: usize) -> Self {
        Self { steps_left: Arc::new(AtomicUsize::new(steps)), only_a_task: false }
    }

    fn step(&self) {
        let left = self.steps_left.load(SeqCst);
        let next = match left {
            0 if self.only_a_task => usize::MAX,
            left => left.saturating_sub(1),
        };
        self.steps_left.store(next, SeqCst);
        if left == 0 {
            // Not `panic!`: thousands of these would fill the screen.
            resume_unwind(Box::new("dead"));
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        match self.steps_left.load(SeqCst) {
            0 => true,
            left => self.only_a_task && left > usize::MAX / 2,
        }
    }
}

/// What outlives agents, and what one of them does with it.
#[derive(Debug, Clone)]
pub(super) struct Mortal {
    pub(super) kernel: Simulated,
    file: Arc<StdMutex<Option<Vec<u8>>>>,
    life: Life,
    /// So many saves succeed, then one fails.
    saves_left: Arc<AtomicUsize>,
}

impl Mortal {
    fn carry_out(&self, ops: &[Op]) {
        for op in ops {
            self.life.step();
            self.kernel.carry_out(std::slice::from_ref(op));
        }
        self.life.step();
    }
}

impl Executor for Mortal {
    async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        self.life.step();
        Ok(self.kernel.links())
    }

    fn differences(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<Vec<Difference>, ResolveError> {
        self.kernel.differences(now, plan)
    }

    fn check(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<(), ApplyError> {
        self.kernel.check(now, plan)
    }

    fn way_back(
        &self,
        now: &CurrentLinks,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> Result<Vec<Op>, ApplyError> {
        self.kernel.way_back(now, before, plan)
    }

    async fn apply(&self, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        self.life.step();
        let mut ops = diff(&self.kernel.links(), plan, &adapters())?;
        let spoilt = self.kernel.spoilt.lock().unwrap_or_else(PoisonError::into_inner).take();
        if spoilt.is_some() {
            ops.truncate(ops.len() / 2);
        }
        self.carry_out(&ops);
        let outcome = if ops.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        Ok(report(plan, ops, spoilt.unwrap_or(outcome)))
    }

    async fn restore(&self, before: &CurrentLinks, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        self.life.step();
        if let Some(failed) = self.kernel.is_stuck(plan) {
            return Ok(failed);
        }
        let ops = revert(&self.kernel.links(), before, plan, &adapters())?.ops;
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
        self.life.step();
        let left = self.saves_left.load(SeqCst);
        self.saves_left.store(left.checked_sub(1).unwrap_or(usize::MAX), SeqCst);
        if left == 0 {
            let (path, source) = (PathBuf::from("network.json"), io::ErrorKind::StorageFull.into());
            return Err(StoreError::Write { path, source });
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(serde_json::to_vec(saved).unwrap());
        // Between this and the memory there is no code that could panic, but there is time to die.
        if !self.life.only_a_task {
            self.life.step();
        }
        Ok(())
    }
}

pub(super) type Agent = Arc<Network<Mortal, Mortal>>;

/// A node, and what its client knows.
pub(super) struct World {
    pub(super) outlives: Mortal,
    boots: AtomicUsize,
    pub(super) old: CurrentLinks,
    new: CurrentLinks,
    asked_to_keep: Arc<AtomicBool>,
    told_kept: Arc<AtomicBool>,
}

/// Links are the same if they have been made anew: then they have other numbers.
pub(super) fn unnumbered(mut links: CurrentLinks) -> CurrentLinks {
    links.links.values_mut().for_each(|link| link.index = 0);
    links
}

impl World {
    pub(super) async fn new() -> Self {
        let outlives = Mortal {
            kernel: Simulated::new(),
            file: Arc::default(),
            life: Life::of(usize::MAX),
            saves_left: Arc::new(AtomicUsize::new(usize::MAX)),
        };
        let agent = Network::start(node(), BootId::of(1), outlives.clone(), outlives.clone()).await.unwrap();
        agent.apply(request(plan(1, 711), None)).await.unwrap();
        let old = outlives.kernel.links();
        let mut new = old.clone();
        for op in diff(&old, &plan(2, 712), &adapters()).unwrap() {
            simulate::apply(&mut new, &op).unwrap();
        }
        let (old, new) = (unnumbered(old), unnumbered(new));
        let (asked_to_keep, told_kept) = (Arc::default(), Arc::default());
        Self { outlives, boots: AtomicUsize::new(1), old, new, asked_to_keep, told_kept }
    }

    /// What else goes when an agent with this life ends.
    pub(super) fn after(&self, life: &Life, death: Death) {
        // One that outlived its story dies now.
        life.steps_left.store(0, SeqCst);
        if death == Death::Machine {
            self.outlives.kernel.reboot();
            self.boots.fetch_add(1, SeqCst);
        }
    }

    /// An agent with this life; none if it dies while it starts.
    pub(super) async fn agent(&self, life: &Life) -> Option<Agent> {
        let mortal = Mortal { life: life.clone(), ..self.outlives.clone() };
        let boot = BootId::of(u32::try_from(self.boots.load(SeqCst)).unwrap());
        tokio::spawn(Network::start(node(), boot, mortal.clone(), mortal)).await.ok().map(Result::unwrap)
    }

    /// The story as far as it gets; then time enough for whatever comes by itself.
    async fn live(&self, story: Story, agent: Agent) {
        let (kernel, asked, told) =
            (self.outlives.kernel.clone(), self.asked_to_keep.clone(), self.told_kept.clone());
        // The client ends with the first answer that is none.
        let _ = tokio::spawn(async move { tell(story, &agent, &kernel, &asked, &told).await }).await;
        sleep(Duration::from_hours(1)).await;
    }

    async fn judge(&self, agent: &Agent, what: &str) {
        let state = agent.state().await.unwrap();
        let links = unnumbered(state.links.clone());
        let outcome = state.taken_back.map(|taken_back| taken_back.outcome);
        let says_new = match (state.generation, &outcome) {
            (Some(Generation(1)), None) | (Some(Generation(2)), Some(Outcome::RolledBack { .. })) => false,
            (Some(Generation(2)), None) => true,
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(&links, if says_new { &self.new } else { &self.old }, "{what}: {outcome:?}");
        let generation = Generation(if says_new { 2 } else { 1 });
        assert_eq!(state.committed, Some(Committed { generation, not_made: None }), "{what}");
        assert_eq!(state.pending_ms, None, "{what}");
        assert!(!says_new || self.asked_to_keep.load(SeqCst), "{what}: nobody wanted that");
        assert!(says_new || !self.told_kept.load(SeqCst), "{what}: what was promised is gone");
        let (memory, disk) = (agent.state.lock().await.saved.clone(), self.outlives.load().unwrap());
        assert_eq!(memory, disk, "{what}");
        assert!(!matches!(disk.stage, Stage::Open { .. }), "{what}");
    }
}

async fn tell(
    story: Story,
    agent: &Agent,
    kernel: &Simulated,
    asked_to_keep: &AtomicBool,
    told_kept: &AtomicBool,
) -> Result<(), ChangeError> {
    let send = || agent.apply(request(plan(2, 712), Some(30_000)));
    let spoil = || *kernel.spoilt.lock().unwrap() = Some(Outcome::RolledBack { why: "EBUSY".to_owned() });
    let commit = async || {
        asked_to_keep.store(true, SeqCst);
        agent.commit(Generation(2)).await?;
        told_kept.store(true, SeqCst);
        Ok(())
    };
    match story {
        Story::NeedsNoConfirmation => {
            asked_to_keep.store(true, SeqCst);
            agent.apply(request(plan(2, 712), None)).await?;
            told_kept.store(true, SeqCst);
            return Ok(());
        }
        Story::FailsHalfWay => {
            let (why, then) = ("EBUSY".to_owned(), "EIO".to_owned());
            *kernel.spoilt.lock().unwrap() = Some(Outcome::RollbackFailed { why, then });
        }
        Story::WayBackFailsTwice => *kernel.stuck.lock().unwrap() = 2,
        _ => {}
    }
    send().await?;
    match story {
        Story::Confirmed => commit().await,
        Story::SentAgainAndConfirmed => {
            sleep(Duration::from_secs(20)).await;
            send().await?;
            sleep(Duration::from_secs(20)).await;
            commit().await
        }
        Story::SentAgainInVain => {
            spoil();
            send().await.map(drop)
        }
        Story::AgentToldToEnd => {
            agent.stop().await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Every step of every story is the last one of an agent or its machine, and every step of the agent that comes to put it right,
/// too.
async fn die_twice(deaths: [Death; 2]) {
    for story in STORIES {
        let mut ends = 0;
        for first in 0.. {
            let mut survived = false;
            for second in 0.. {
                let world = World::new().await;
                let (one, two) = (Life::of(first), Life::of(second));
                if let Some(agent) = world.agent(&one).await {
                    world.live(story, agent).await;
                }
                survived = !one.has_ended();
                world.after(&one, deaths[0]);
                if let Some(agent) = world.agent(&two).await {
                    sleep(Duration::from_secs(2)).await;
                    drop(agent);
                }
                let survived_twice = !two.has_ended();
                world.after(&two, deaths[1]);
                let last = world.agent(&Life::of(usize::MAX)).await.unwrap();
                sleep(Duration::from_hours(1)).await;
                let what = format!("{story:?}, {deaths:?} dead after {first} and {second} steps");
                world.judge(&last, &what).await;
                ends += 1;
                if survived_twice {
                    break;
                }
            }
            if survived {
                break;
            }
        }
        assert!(ends > 10, "{story:?}: only {ends}");
    }
}

#[tokio::test(start_paused = true)]
async fn agents_that_die_at_any_step_leave_a_node_that_is_put_right() {
    die_twice([Death::Agent, Death::Agent]).await;
}

#[tokio::test(start_paused = true)]
async fn machines_that_die_at_any_step_come_back_as_the_old_plan_or_the_new_one_says() {
    die_twice([Death::Machine, Death::Machine]).await;
    die_twice([Death::Machine, Death::Agent]).await;
    die_twice([Death::Agent, Death::Machine]).await;
}

/// A bug that ends one task of the agent takes neither the way back nor the dead man's switch along.
#[tokio::test(start_paused = true)]
async fn a_task_that_panics_at_any_step_leaves_the_dead_mans_switch() {
    for story in STORIES {
        for steps in 0.. {
            let world = World::new().await;
            let life = Life { only_a_task: true, ..Life::of(steps) };
            let Some(agent) = world.agent(&life).await else { continue };
            world.live(story, Arc::clone(&agent)).await;
            let survived = !life.has_ended();
            life.steps_left.store(usize::MAX, SeqCst);
            let what = format!("{story:?}, a task dead after {steps} steps");
            world.judge(&agent, &what).await;
            let next = world.agent(&Life::of(usize::MAX)).await.unwrap();
            world.judge(&next, &format!("{what}, restarted")).await;
            if survived {
                break;
            }
        }
    }
}

/// The agent lives, and one save fails: memory stays as the disk is, and the node still comes to a known end.
#[tokio::test(start_paused = true)]
async fn any_save_that_fails_leaves_memory_as_the_disk_is() {
    for story in STORIES {
        for saves in 0..6 {
            let world = World::new().await;
            let agent = world.agent(&Life::of(usize::MAX)).await.unwrap();
            world.outlives.saves_left.store(saves, SeqCst);
            world.live(story, Arc::clone(&agent)).await;
            let what = format!("{story:?}, save {saves} failed");
            world.judge(&agent, &what).await;
            let (told, links) = (world.told_kept.load(SeqCst), unnumbered(world.outlives.kernel.links()));
            assert_eq!(told, links == world.new, "{what}: who was refused must not have it");
        }
    }
}
