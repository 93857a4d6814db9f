//! How fast a node's links are made: by its agent, and by ip(8), bridge(8) and tc(8) on the same node.
//!
//! ```text
//!   bare ─ plan (pending) ─► made, timed by the agent ─ nobody confirms ─► bare ─ batches ─► made, timed by the hands ─┐
//!     ▲                                                                                                          │
//!     └──────────────────────────────── by hand, and seen to be as at first ◄────────────────────────────────────┘
//! ```
//! Both do the same: the batches are the operations that the agent reports, as a person would type them. The agent's time
//! is from before it looks at the links until it has read them back; a batch's is its process's whole life. What a
//! process that does nothing takes is measured too, so that nobody need wonder.
//!
//! Invariants: each round begins with the very links that the first one began with, seen through the agent, and each batch
//! makes what the agent made: all that the plan asks for, read back. No plan is ever committed, so that nothing repairs what the
//! batches do.
//!
//! On failure: [`RunError`]; what was measured until then counts for nothing.

use super::session::Session;
use super::{Options, RunError, in_session};
use crate::lab::by_hand::command;
use crate::lab::hands::Hands;
use crate::lab::{LabError, LabNode};
use crate::progress::Progress;
use crate::ui::Ui;
use api::{ApplyRequest, ConfirmWithin, Outcome};
use deploy::{Cluster, DeployError, Member};
use network::link::CurrentLink;
use network::{CurrentLinks, Generation, LinkKind, LinkName, NetworkPlan, Op, diff};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The agent takes the plan back as soon as it may.
const CONFIRM_WITHIN_MS: u32 = 100;
/// How often it is asked whether it has, and how often at most: it takes fractions of a second.
const POLL: Duration = Duration::from_millis(50);
const POLLS_MAX: u32 = 200;
/// Plans that are computed for one number.
const PLANS: u32 = 200;
/// The kernel tells carrier and operational state up to a second late; a round must not meet the last one's.
const CALM: Duration = Duration::from_millis(1200);

/// The programs, in the order in which a person runs them: links, then VLANs of bridges, then queues and filters.
pub const PROGRAMS: [&str; 3] = ["ip", "bridge", "tc"];

/// What was measured.
#[derive(Debug)]
pub struct ApplyBench {
    /// What ran the node's processor.
    pub accelerator: String,
    /// How long a node's plan takes, and the operations that lead to it from its links, on this machine.
    pub plan: Duration,
    /// A process on the node that does nothing, by program.
    pub idle: [Duration; 3],
    /// Round by round.
    pub rounds: Vec<Round>,
}

/// One round.
#[derive(Debug)]
pub struct Round {
    /// So many operations.
    pub operations: usize,
    /// By the agent.
    pub agent: Duration,
    /// By each program's batch.
    pub batches: [Duration; 3],
}

/// Boots a lab and measures on its first node.
pub async fn bench_apply(options: Options, rounds: u32, ui: &Ui) -> Result<ApplyBench, RunError> {
    in_session(options, ui, async |session: &mut Session<'_>| session.measure(rounds).await).await
}

/// One node, as it is before anything is done to it.
pub(super) struct Bench<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) member: &'a Member,
    pub(super) node: &'a LabNode,
    pub(super) ui: &'a Ui,
}

impl Bench<'_> {
    pub(super) async fn measure(&self, accelerator: String, rounds: u32) -> Result<ApplyBench, RunError> {
        let line = self.ui.line("bench");
        let mut hands = self.node.hands_or_lab_error().await?;
        let bare = self.links().await?;
        let plan = self.plan_time(&bare)?;
        let mut idle = [Duration::ZERO; 3];
        for (idle, program) in idle.iter_mut().zip(PROGRAMS) {
            let mut times = Vec::new();
            for _ in 0..rounds {
                times.push(self.batch(&mut hands, program, "").await?);
            }
            *idle = median(times);
        }
        let mut measured = Vec::new();
        for round in 1..=rounds {
            line.step(&format!("round {round} of {rounds}"));
            measured.push(self.round(&mut hands, &bare, Generation(u64::from(round))).await?);
        }
        Ok(ApplyBench { accelerator, plan, idle, rounds: measured })
    }

    async fn round(
        &self,
        hands: &mut Hands,
        bare: &CurrentLinks,
        generation: Generation,
    ) -> Result<Round, RunError> {
        let plan = deploy::plan_for(self.cluster, self.member, generation)?;
        let (changed, agent) = self.by_agent(&plan).await?;
        self.seen_as(bare, "the agent took its plan back").await?;
        let mut batches = [Duration::ZERO; 3];
        for (took, program) in batches.iter_mut().zip(PROGRAMS) {
            *took = self.batch(hands, program, &lines(&changed, program)?).await?;
        }
        let left = diff(&self.links().await?, &plan, &self.member.adapters)
            .map_err(|source| DeployError::Diff { node: self.member.name.clone(), source })?;
        if !left.is_empty() {
            let left: Vec<String> = left.iter().map(Op::to_string).collect();
            return Err(wrong(format!(
                "the batches did not make what the agent made; left: {}",
                left.join(", ")
            )));
        }
        let back = self.way_back(bare).await?;
        for program in PROGRAMS {
            self.batch(hands, program, &lines(&back, program)?).await?;
        }
        sleep(CALM).await;
        self.seen_as(bare, "the batches' links were removed").await?;
        Ok(Round { operations: changed.len(), agent, batches })
    }

    /// Has the agent make the links, and waits until it has taken them back.
    async fn by_agent(&self, plan: &NetworkPlan) -> Result<(Vec<Op>, Duration), RunError> {
        let confirm_within_ms = ConfirmWithin::try_from(CONFIRM_WITHIN_MS).ok();
        let request = ApplyRequest { plan: plan.clone(), confirm_within_ms };
        let applied = self.member.client.apply(&request).await.map_err(DeployError::Ask)?;
        if applied.outcome != Outcome::Applied {
            return Err(wrong(format!("the plan was not applied: {:?}", applied.outcome)));
        }
        for _ in 0..POLLS_MAX {
            sleep(POLL).await;
            let state = self.member.client.network().await.map_err(DeployError::Ask)?;
            let back = state.taken_back.filter(|back| back.generation == plan.generation);
            match back.map(|back| back.outcome) {
                Some(Outcome::RolledBack { .. }) => {
                    sleep(CALM).await;
                    return Ok((applied.changed, Duration::from_micros(applied.duration_us)));
                }
                Some(other) => return Err(wrong(format!("the plan was not taken back: {other:?}"))),
                None => {}
            }
        }
        Err(wrong("the plan was never taken back".to_owned()))
    }

    /// The operations that lead back to the bare links, for hands to type.
    async fn way_back(&self, bare: &CurrentLinks) -> Result<Vec<Op>, RunError> {
        let plan = deploy::plan_for(self.cluster, self.member, Generation(0))?;
        let now = self.links().await?;
        let back = network::revert(&now, bare, &plan, &self.member.adapters);
        Ok(back.map_err(|source| DeployError::Diff { node: self.member.name.clone(), source })?.ops)
    }

    /// A batch's whole life on the node.
    async fn batch(&self, hands: &mut Hands, program: &str, lines: &str) -> Result<Duration, RunError> {
        let node = || self.member.name.to_string();
        // An empty standard input is none.
        let lines = if lines.is_empty() { "\n" } else { lines };
        let run = hands.run_with(&[program, "-batch", "-"], lines, hands::LIMIT_DEFAULT).await;
        let output = run.map_err(|source| LabError::Hands { node: node(), source })?;
        if output.status == 0 {
            return Ok(output.took);
        }
        Err(wrong(format!("{program} -batch on {} failed: {}\n{lines}", node(), output.stderr)))
    }

    async fn links(&self) -> Result<CurrentLinks, RunError> {
        Ok(self.member.client.network().await.map_err(DeployError::Ask)?.links)
    }

    async fn seen_as(&self, bare: &CurrentLinks, after: &str) -> Result<(), RunError> {
        let now = self.links().await?;
        let differing: Vec<String> = bare
            .links
            .keys()
            .chain(now.links.keys())
            .filter(|name| still(bare, name) != still(&now, name))
            .map(LinkName::to_string)
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(wrong(format!("after {after}, these are not as at first: {}", differing.join(", "))))
    }

    /// The median of many plans, each with the way to it.
    fn plan_time(&self, bare: &CurrentLinks) -> Result<Duration, RunError> {
        let mut times = Vec::new();
        for _ in 0..PLANS {
            let start = Instant::now();
            let plan = deploy::plan_for(self.cluster, self.member, Generation(1))?;
            times.push(start.elapsed());
            diff(bare, &plan, &self.member.adapters)
                .map_err(|source| DeployError::Diff { node: self.member.name.clone(), source })?;
        }
        Ok(median(times))
    }
}

/// What of a link a round must find as it was.
fn still(links: &CurrentLinks, name: &LinkName) -> Option<CurrentLink> {
    let mut link = links.get(name).cloned()?;
    (link.index, link.carrier) = if link.kind == LinkKind::Nic { (link.index, None) } else { (0, None) };
    Some(link)
}

fn wrong(what: String) -> RunError {
    RunError::Refused(what)
}

/// The lines of one program's batch.
fn lines(ops: &[Op], program: &str) -> Result<String, RunError> {
    let mut lines = String::new();
    for op in ops {
        let line = command(op);
        let Some((of, words)) = line.split_once(' ') else {
            return Err(wrong(format!("nobody can type: {op}")));
        };
        if of == program {
            lines.push_str(words);
            lines.push('\n');
        }
    }
    Ok(lines)
}

/// The middle one; of an even number, the greater.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
