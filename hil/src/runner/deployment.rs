//! The deployment of the whole cluster, by a process of its own, which can be killed.
//!
//! Purpose: what `twinrack deploy` does, in the lab: [`deployment_process`] is the process, the rest starts it, kills it and reads its journal.
//!
//! Invariants: the process is killed by SIGKILL, in the middle of a step that its journal has begun; the steps are spread over the whole deployment, and moments in them drawn from the run's seed. What
//! is judged is what the cluster and the journal say, not what the process says of itself.
//!
//! On failure: what does not hold is a step that does not hold; only the lab's own failures end the run.

use super::{POLL, Runner, Seen, milliseconds};
use crate::host::bound_to_us;
use crate::lab::LabError;
use crate::run::RunError;
use crate::suite::DeployStep;
use api::AGENT_PORT;
use deploy::deployment::{self, Aim, DeploymentError, Order, Wishes};
use deploy::destruction;
use deploy::journal::{Journal, JournalError, Said, StepIs, said_so_far};
use deploy::recorder::{Recorder, Stage, Told};
use deploy::removal;
use deploy::{AccessError, Cluster, NoAgent};
use model::{ClusterSpec, NodeName};
use network::measure::Machines;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A step that is interrupted is given so long at most before, ms: most take less, and are interrupted in the middle.
pub(super) const INTO_STEP_MAX_MS: u64 = 600;

/// What the process that deploys ended with.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentProcessError {
    /// There is no runtime to do it in.
    #[error("can't start")]
    Start(#[source] std::io::Error),
    /// The access file.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The access file and the specification.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// The specification.
    #[error("can't read the specification {}", path.display())]
    Spec {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody said which node is repaired.
    #[error("one node is to be repaired, or one of each rack removed, and others are named (--node)")]
    NoNode,
    /// The deployment.
    #[error(transparent)]
    Deployment(Box<DeploymentError>),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<DeploymentError> for DeploymentProcessError {
    fn from(error: DeploymentError) -> Self {
        Self::Deployment(Box::new(error))
    }
}

/// What such a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessTask {
    /// It deploys a cluster.
    Deploy,
    /// It adds nodes to one.
    Add,
    /// It repairs a node of one.
    Repair,
    /// It removes nodes from one.
    Remove,
    /// It gives one back.
    Destroy,
}

impl ProcessTask {
    /// All.
    pub const ALL: [Self; 5] = [Self::Deploy, Self::Add, Self::Repair, Self::Remove, Self::Destroy];

    /// As the hidden command is told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Add => "add",
            Self::Repair => "repair",
            Self::Remove => "remove",
            Self::Destroy => "destroy",
        }
    }
}

/// The main function of the process that deploys a cluster (its specification, the access file, the journal), adds nodes to it, or gives it back. It tells of everything on standard output.
pub fn deployment_process(
    files: (&Path, &Path, &Path),
    task: ProcessTask,
    nodes: Vec<NodeName>,
) -> Result<(), DeploymentProcessError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(DeploymentProcessError::Start)?.block_on(async {
        let (cluster, machines) = cluster_of(files.0, files.1)?;
        match task {
            ProcessTask::Destroy => destroy_it(&cluster, files.2).await,
            ProcessTask::Deploy => deploy_it(cluster, machines, (files.2, Aim::Deploy)).await,
            ProcessTask::Add => deploy_it(cluster, machines, (files.2, Aim::Grow)).await,
            ProcessTask::Repair => {
                let [repaired] = <[_; 1]>::try_from(nodes).map_err(|_| DeploymentProcessError::NoNode)?;
                deploy_it(cluster, machines, (files.2, Aim::Repair(repaired))).await
            }
            ProcessTask::Remove => remove_them(&cluster, machines, files.2, nodes).await,
        }
    })
}

fn cluster_of(spec: &Path, access: &Path) -> Result<(Cluster, Machines), DeploymentProcessError> {
    let unread = |source| DeploymentProcessError::Spec { path: spec.to_owned(), source };
    let text = fs::read(spec).map_err(unread)?;
    let asked: ClusterSpec = serde_json::from_slice(&text).map_err(|error| unread(error.into()))?;
    let (agents, machines) = deploy::access(access)?;
    Ok((Cluster::of(asked, &agents)?, machines))
}

async fn destroy_it(cluster: &Cluster, journal: &Path) -> Result<(), DeploymentProcessError> {
    let journal = Journal::open(journal)?;
    let look = destruction::look(cluster).await.map_err(DeploymentError::from)?;
    let plan = destruction::plan(cluster, &look).map_err(DeploymentError::InTheWay)?;
    plan.notes.iter().for_each(|note| println!("{note}"));
    println!("{} changes are planned", plan.changes.len());
    let mut recorder = Recorder::new(Some(journal), tell);
    destruction::destroy(cluster, &plan, &mut recorder).await?;
    println!("given back; {}", times(&recorder));
    Ok(())
}

async fn remove_them(
    cluster: &Cluster,
    machines: Machines,
    journal: &Path,
    nodes: Vec<NodeName>,
) -> Result<(), DeploymentProcessError> {
    let journal = Journal::open(journal)?;
    let pair = nodes.into_iter().collect();
    let look = removal::look(cluster, &pair).await.map_err(DeploymentError::from)?;
    let plan = removal::plan(cluster, &look, &pair);
    let plan = plan.map_err(DeploymentError::InTheWay)?;
    plan.notes.iter().for_each(|note| println!("{note}"));
    println!("{} changes are planned", plan.changes.len());
    let mut recorder = Recorder::new(Some(journal), tell);
    removal::remove(cluster, &plan, machines, &mut recorder).await?;
    println!("removed; {}", times(&recorder));
    Ok(())
}

async fn deploy_it(
    mut cluster: Cluster,
    machines: Machines,
    (journal, aim): (&Path, Aim),
) -> Result<(), DeploymentProcessError> {
    let journal = Journal::open(journal)?;
    let look = deployment::look(&mut cluster).await.map_err(DeploymentError::from)?;
    let plan = deployment::plan(&cluster, &look, &Wishes { aim, ..Wishes::default() }, machines);
    let plan = plan.map_err(DeploymentError::InTheWay)?;
    plan.notes.iter().for_each(|note| println!("{note}"));
    println!("{} changes are planned", plan.changes.len());
    let (template, until) = (deployment::digest(&cluster.spec), Stage::Verification);
    let order = Order { template, until, agent_port: AGENT_PORT, machines };
    let mut recorder = Recorder::new(Some(journal), tell);
    deployment::deploy(&cluster, &plan, &order, &mut recorder).await?;
    println!("deployed; {}", times(&recorder));
    Ok(())
}

fn tell(told: &Told) {
    match told {
        Told::Stage(stage) => println!("{stage}"),
        Told::Begun { .. } => {}
        Told::Done { step, ms, did, .. } => {
            let did = did.as_ref().map_or(String::new(), |did| format!(": {did}"));
            println!("  {step}: {ms} ms{did}");
        }
        Told::Note(note) => println!("  {note}"),
    }
}

fn times(recorder: &Recorder<'_>) -> String {
    let stages = recorder.stages().iter().map(|took| format!("{} {} ms", took.stage, took.ms));
    stages.collect::<Vec<_>>().join(", ")
}

/// How a process that deploys ended.
pub(super) enum End {
    /// By itself.
    Itself(ExitStatus),
    /// It was killed in this step, or right after it.
    Killed {
        /// Its name.
        step: String,
        /// Whether the step was not over: the process may be quicker than the one who kills.
        in_it: bool,
    },
    /// It was killed, as time was up.
    Late,
}

/// The files of a deployment in the lab, or of giving it back.
pub(super) struct Files {
    task: ProcessTask,
    /// Who is repaired, or removed.
    nodes: Vec<NodeName>,
    spec: PathBuf,
    access: PathBuf,
    journal: PathBuf,
    output: PathBuf,
}

impl Files {
    /// Steps that have begun so far, of all runs.
    pub(super) fn begun(&self) -> Vec<String> {
        let begun = |said| match said {
            Said::Step { step, is: StepIs::Begun, .. } => Some(step),
            _ => None,
        };
        said_so_far(&self.journal).into_iter().filter_map(begun).collect()
    }

    /// The same for a task about some nodes, which has a journal of its own.
    pub(super) fn about(self, task: ProcessTask, nodes: &[NodeName]) -> Self {
        let journal = self.journal.with_file_name(format!("{}.jsonl", task.file()));
        let output = self.output.with_file_name(format!("{}.log", task.file()));
        Self { task, nodes: nodes.to_vec(), journal, output, ..self }
    }

    /// Where a process was killed that had begun a step, by the last word of its journal.
    fn killed(&self) -> End {
        let is_begun = |said: &Said| matches!(said, Said::Step { is: StepIs::Begun, .. });
        End::Killed {
            step: self.begun().last().cloned().unwrap_or_default(),
            in_it: said_so_far(&self.journal).last().is_some_and(is_begun),
        }
    }

    /// How much was changed, of all runs.
    pub(super) fn did(&self) -> usize {
        let did = |said: &Said| matches!(said, Said::Step { is: StepIs::Done { did: Some(_), .. }, .. });
        said_so_far(&self.journal).iter().filter(|said| did(said)).count()
    }

    /// The last lines of what it said.
    pub(super) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }
}

impl Runner<'_> {
    /// Steps about the deployment.
    pub(super) async fn deploy_step(&mut self, step: &DeployStep) -> Result<Seen, RunError> {
        let ms = Duration::from_millis;
        match step {
            DeployStep::Blank { within_ms } => self.blank(ms(*within_ms)).await,
            DeployStep::Deploy { kills, leaves_out, within_ms } => {
                let files = self.deployment_files(*leaves_out)?;
                self.deploy_whole(&files, *kills, ms(*within_ms)).await
            }
            DeployStep::AddNodes { loses, within_ms, .. } if !loses.is_empty() => {
                self.add_and_lose(loses, ms(*within_ms)).await
            }
            DeployStep::AddNodes { kills, within_ms, .. } => {
                let files = self.addition_files()?;
                let seen = self.deploy_whole(&files, *kills, ms(*within_ms)).await?;
                if seen.good { self.again(&files, ms(*within_ms), seen).await } else { Ok(seen) }
            }
            DeployStep::ChangesNothing { within_ms } => {
                let files = self.deployment_files(0)?;
                self.again(&files, ms(*within_ms), Seen::held("")).await
            }
            DeployStep::Verifies { within_ms } => Ok(self.verifies(ms(*within_ms)).await),
            DeployStep::Destroy { kills, within_ms } => self.destroy_whole(*kills, ms(*within_ms)).await,
            DeployStep::Repair { room, position, keeps_drives, kills, within_ms } => {
                self.repair((*room, *position), (*keeps_drives, *kills), ms(*within_ms)).await
            }
            DeployStep::Removes { position, kills, within_ms } => {
                self.remove_pair(*position, *kills, ms(*within_ms)).await
            }
            DeployStep::LosesANode { within_ms } => self.deploy_and_lose(ms(*within_ms)).await,
        }
    }

    async fn blank(&mut self, bound: Duration) -> Result<Seen, RunError> {
        let all: BTreeSet<NodeName> = self.lab.nodes().keys().cloned().collect();
        self.lab.power_off(self.keeper, &all).await?;
        self.lab.make_blank(|_| true, false)?;
        (self.volume, self.guest) = (None, None);
        let begun = Instant::now();
        self.lab.power_on(self.keeper, &all).await?;
        for member in &self.cluster.members {
            let left = bound.saturating_sub(begun.elapsed());
            if let Err(error) = member.client.wait_ready(left).await {
                return Ok(Seen::not(crate::chain(&error)));
            }
        }
        let after = begun.elapsed().as_millis();
        self.found = self.found().await?;
        Ok(Seen::held(format!("after {after} ms")))
    }

    pub(super) async fn deploy_whole(
        &mut self,
        files: &Files,
        kills: u32,
        bound: Duration,
    ) -> Result<Seen, RunError> {
        // The journal goes on through a whole run, whatever was deployed before.
        let (begun, did_before) = (Instant::now(), files.did());
        let mut killed = Vec::new();
        let steps = match files.task {
            ProcessTask::Repair => self.steps_of_a_repair(),
            ProcessTask::Remove => self.steps_of_a_removal(),
            _ => self.steps_of_a_deployment(),
        };
        for number in 0..kills {
            // Spread over all of them: of each part of them one, drawn.
            let (from, to) =
                (steps * number / kills, (steps * (number + 1) / kills).max(steps * number / kills + 1));
            let mut step = self.draw(u64::from(from)..u64::from(to));
            let mut into = Duration::from_millis(self.draw(0..INTO_STEP_MAX_MS));
            loop {
                match self.run_deployment(files, Some((step, into)), begun + bound).await? {
                    End::Killed { step, in_it: true } => {
                        killed.push(step);
                        break;
                    }
                    // It was quicker than the one who kills: an earlier step, at its beginning.
                    End::Killed { in_it: false, .. } => {
                        (step, into) = (step.saturating_sub(1), Duration::ZERO);
                    }
                    End::Itself(status) if status.success() && step > 0 => {
                        (step, into) = (step - 1, Duration::ZERO);
                    }
                    End::Itself(status) => return Ok(failed(files, status, &killed)),
                    End::Late => return Ok(late(files, bound, &killed)),
                }
            }
        }
        let ended = self.run_deployment(files, None, begun + bound).await?;
        match ended {
            End::Itself(status) if status.success() => {}
            End::Itself(status) => return Ok(failed(files, status, &killed)),
            End::Killed { .. } | End::Late => return Ok(late(files, bound, &killed)),
        }
        let took = milliseconds(begun.elapsed());
        let said = files.tail();
        let in_time = Duration::from_millis(took) <= bound;
        let all_killed = killed.len() == usize::try_from(kills).unwrap_or(usize::MAX);
        let words = if kills == 0 {
            String::new()
        } else {
            format!(", killed {} times in: {}", killed.len(), killed.join("; "))
        };
        let seen = format!(
            "after {took} ms, {} changes{words}\n{}",
            files.did() - did_before,
            said.lines().last().unwrap_or_default()
        );
        Ok(Seen::of(in_time && all_killed, seen).measuring(took))
    }

    /// The same once more, which changes nothing; what was seen before is told, too.
    pub(super) async fn again(
        &mut self,
        files: &Files,
        bound: Duration,
        before_it: Seen,
    ) -> Result<Seen, RunError> {
        let (begun, before) = (Instant::now(), files.did());
        match self.run_deployment(files, None, begun + bound).await? {
            End::Itself(status) if status.success() => {
                let changes = files.did() - before;
                let once_more =
                    format!("once more: {changes} changes after {} ms", begun.elapsed().as_millis());
                let what = [before_it.what.as_str(), &once_more].join("\n");
                Ok(Seen { good: changes == 0, what: what.trim_start().to_owned(), ..before_it })
            }
            End::Itself(status) => Ok(failed(files, status, &[])),
            End::Killed { .. } | End::Late => Ok(late(files, bound, &[])),
        }
    }

    /// Without so many nodes of each rack, the last ones.
    pub(super) fn deployment_files(&self, leaves_out: usize) -> Result<Files, RunError> {
        let dir = self.keeper.dir.clone();
        let (spec, access) = (dir.join("deployment.spec.json"), self.lab.write_access(&dir)?);
        let mut asked = self.cluster.spec.clone();
        for zone in &mut asked.zones {
            zone.nodes.truncate(zone.nodes.len().saturating_sub(leaves_out));
        }
        let text = serde_json::to_vec(&asked).unwrap_or_default();
        fs::write(&spec, text).map_err(|source| LabError::Write { path: spec.clone(), source })?;
        let task = ProcessTask::Deploy;
        let journal = self.folder.join(format!("{}.jsonl", task.file()));
        let output = self.folder.join(format!("{}.log", task.file()));
        Ok(Files { task, nodes: Vec::new(), spec, access, journal, output })
    }

    pub(super) fn addition_files(&self) -> Result<Files, RunError> {
        Ok(Files { task: ProcessTask::Add, ..self.deployment_files(0)? })
    }

    pub(super) fn destruction_files(&self) -> Result<Files, RunError> {
        let (journal, output) = (self.folder.join("destruction.jsonl"), self.folder.join("destruction.log"));
        Ok(Files { task: ProcessTask::Destroy, journal, output, ..self.deployment_files(0)? })
    }

    /// Volumes, that the cluster is dissolved, each member, links, the last look.
    pub(super) fn steps_of_a_destruction(&self) -> u32 {
        let volumes = 1 + self.cluster.spec.nodes().count();
        u32::try_from(volumes + 1 + self.cluster.members.len() + 2).unwrap_or(u32::MAX)
    }

    /// As many as there are in a run that finds volumes: the network, four that look at it (bandwidth is measured without), the ledger on all, their votes, drives, volumes (named, and then open), the last look.
    pub(super) fn steps_of_a_deployment(&self) -> u32 {
        let drives: usize = self
            .lab
            .nodes()
            .values()
            .filter(|node| node.holds_data())
            .map(|node| node.data_drives().len())
            .sum();
        let volumes = 1 + self.cluster.spec.nodes().count();
        u32::try_from(1 + 4 + 2 + self.cluster.members.len() + drives + 2 * volumes + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn draw(&mut self, from: std::ops::Range<u64>) -> u64 {
        self.draws.u64(from)
    }

    pub(super) fn start_deployment(&self, files: &Files) -> Result<Child, RunError> {
        let started = File::create(&files.output).and_then(|output| {
            let errors = output.try_clone()?;
            let mut command = bound_to_us(self.program.as_os_str());
            command.arg("lab-deploy").args([&files.spec, &files.access, &files.journal]);
            command.args(["--task", files.task.name()]);
            for node in &files.nodes {
                command.args(["--node", node.as_str()]);
            }
            command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn()
        });
        Ok(started.map_err(|source| LabError::Write { path: files.output.clone(), source })?)
    }

    /// Starts one, and kills it so long into the step of that number, if that is asked for.
    pub(super) async fn run_deployment(
        &mut self,
        files: &Files,
        kill: Option<(u64, Duration)>,
        deadline: Instant,
    ) -> Result<End, RunError> {
        let mut child = self.start_deployment(files)?;
        self.follow(&mut child, files, kill, deadline).await
    }

    pub(super) async fn follow(
        &mut self,
        child: &mut Child,
        files: &Files,
        kill: Option<(u64, Duration)>,
        deadline: Instant,
    ) -> Result<End, RunError> {
        let before = files.begun().len() as u64;
        loop {
            if let Some(status) = has_ended(child)? {
                return Ok(End::Itself(status));
            }
            let begun = files.begun();
            let at = kill.filter(|(step, _)| begun.len() as u64 > before + step);
            if let Some((_, into)) = at {
                // No condition is waited for: it is a moment in the step that was drawn.
                sleep(into).await;
                if let Some(status) = has_ended(child)? {
                    return Ok(End::Itself(status));
                }
                end(child)?;
                return Ok(files.killed());
            }
            if Instant::now() >= deadline {
                end(child)?;
                return Ok(End::Late);
            }
            sleep(POLL).await;
        }
    }
}

pub(super) fn has_ended(child: &mut Child) -> Result<Option<ExitStatus>, RunError> {
    Ok(child.try_wait().map_err(|source| LabError::Deployment { source })?)
}

fn end(child: &mut Child) -> Result<(), RunError> {
    let ended = child.kill().and_then(|()| child.wait().map(drop));
    Ok(ended.map_err(|source| LabError::Deployment { source })?)
}

pub(super) fn failed(files: &Files, status: ExitStatus, killed: &[String]) -> Seen {
    Seen::not(format!("it ended with {status}, after {} kills: {}", killed.len(), files.tail()))
}

pub(super) fn late(files: &Files, bound: Duration, killed: &[String]) -> Seen {
    let step = files.begun().last().cloned().unwrap_or_default();
    Seen::not(format!(
        "not after {} ms, with {} kills; in `{step}`: {}",
        bound.as_millis(),
        killed.len(),
        files.tail()
    ))
}
