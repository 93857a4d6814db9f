//! Carries out suites on a lab.
//!
//! Purpose: [`Runner::deploy`] makes a healthy cluster, [`Runner::run`] takes a suite through its scenarios.
//!
//! Invariants: a scenario begins with a healthy cluster and no fault in force, and whatever happened in it, the lab is
//! mended afterwards. After every scenario the cluster must be well again within the scenario's bound, and no storage
//! frame may have been seen on the spine, whether the suite asks for that or not.
//!
//! On failure: a step that does not hold ends its scenario; the run goes on with the next. Only the lab's own failures
//! ([`RunError`]) end the run.

mod apply_faults;
mod bad_plans;
mod beats;
mod checks;
mod deployment;
mod diagnosis;
mod drift;
mod drives;
mod flapping;
mod forced;
mod former;
mod given_back;
mod hand_over;
mod inventory;
mod isolation;
mod ledgers;
mod legs;
mod miswired;
mod node_lost;
mod online;
mod partition;
mod power;
mod priority;
mod records;
mod refusal;
mod removed;
mod repaired;
mod resets;
mod rest;
mod round_trips;
mod saves;
mod spine;
mod split;
mod storage_paths;
mod thin;
mod verified;
mod vms;
mod volume;
mod writers;

pub use deployment::{DeploymentProcessError, ProcessTask, deployment_process};

use crate::events::{Counters, Event, EventLog, Topology, Verdict};
use crate::lab::faults::{Made, Stop};
use crate::lab::{Keeper, Lab, LabError};
use crate::progress::Progress;
use crate::report::{ScenarioResult, StepResult, SuiteResult, write_cabling};
use crate::run::RunError;
use crate::suite::{Scenario, Step, Suite};
use crate::ui::{Line, Ui};
use deploy::watch::{Sighting, Watch};
use deploy::{Cluster, Member, NetworkStage};
use diagnosis::Vigil;
use flapping::Namings;
use model::{ClusterSpec, NodeName};
use network::AdapterSpeeds;
use network::diagnose::Thresholds;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long the first neighbours may take to be heard: a few announcements of the lab's switches.
const NEIGHBOURS_PATIENCE: Duration = Duration::from_secs(10);
/// How long a cluster that was just wired may take until every path carries.
const FIRST_HEALTH: Duration = Duration::from_secs(15);

/// How often a node is asked while it is waited for.
const POLL: Duration = Duration::from_millis(50);

/// From this time after a mending on, management must carry: switches have heard where everybody is now.
const MANAGEMENT_BOUND: Duration = Duration::from_secs(2);
/// How long a scenario may wait for the health that it begins with: an answer of everybody, from now on.
const BEGIN_BOUND: Duration = Duration::from_secs(5);

/// Whether something held, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    good: bool,
    what: String,
    /// What the step measures, if it is a time.
    measured_ms: Option<u64>,
}

impl Seen {
    fn of(good: bool, what: impl Into<String>) -> Self {
        Self { good, what: what.into(), measured_ms: None }
    }

    fn held(what: impl Into<String>) -> Self {
        Self::of(true, what)
    }

    fn not(what: impl Into<String>) -> Self {
        Self::of(false, what)
    }

    fn measuring(self, ms: u64) -> Self {
        Self { measured_ms: Some(ms), ..self }
    }

    /// Holds if there are no complaints.
    fn unless(complaints: &[String], otherwise: impl Into<String>) -> Self {
        if complaints.is_empty() { Self::held(otherwise) } else { Self::not(complaints.join("\n")) }
    }
}

/// A deployed cluster in a lab, and what breaks it.
pub(crate) struct Runner<'a> {
    cluster: Cluster,
    lab: &'a mut Lab,
    /// What ends and starts nodes.
    keeper: &'a mut Keeper,
    log: Arc<EventLog>,
    ui: &'a Ui,
    watch: Watch,
    logger: JoinHandle<()>,
    /// When the plans began to be applied, and when they were.
    applied: (Instant, Instant),
    /// When the first and the last of the faults in force were made.
    faulted: Option<(Instant, Instant)>,
    /// Once a step has seen the faults named, they must stay named until they are mended.
    vigil: Vigil,
    namings: Namings,
    /// The volume that is written, once there is one.
    volume: Option<volume::Tested>,
    /// The virtual machine whose disk that is, if there is one.
    guest: Option<vms::Guest>,
    /// The suite that runs: its volume is named after it.
    suite: String,
    /// How many runs the workload has had, on all volumes.
    runs: u32,
    /// What was written to drives themselves.
    raw: drives::Raw,
    /// What may be named of all that was broken since everything was well; some of it may be mended.
    broken: Vec<String>,
    /// Who has reset itself in this scenario.
    resets: Vec<NodeName>,
    /// The run's folder, and the program that has the harness's hidden commands.
    folder: PathBuf,
    program: PathBuf,
    /// What nodes were like when all were blank.
    found: BTreeMap<NodeName, given_back::Found>,
    /// What moments are drawn from.
    draws: fastrand::Rng,
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        self.logger.abort();
    }
}

impl<'a> Runner<'a> {
    /// Deploys the cluster in the lab: cabling, which is written into the run's folder, network, first health.
    pub(crate) async fn deploy(
        spec: &ClusterSpec,
        (lab, keeper): (&'a mut Lab, &'a mut Keeper),
        log: &Arc<EventLog>,
        ui: &'a Ui,
        (folder, program): (&Path, &Path),
    ) -> Result<Self, RunError> {
        let line = ui.line("deploy");
        let mut cluster = cluster(spec, lab)?;
        cluster.learn_speeds().await?;
        line.step("listens to the switches, then configures the networks");
        let begun = Instant::now();
        let stage = deploy::network(&cluster, NEIGHBOURS_PATIENCE).await?;
        let (NetworkStage::Applied { cabling, .. } | NetworkStage::Refused(cabling)) = &stage;
        write_cabling(cabling, folder)?;
        let (cabling, applied) = match stage {
            NetworkStage::Applied { cabling, applied } => (cabling, applied),
            NetworkStage::Refused(cabling) => {
                let errors = cabling.errors();
                let complaints = errors.map(|error| format!("{error}\n  help: {}", error.help()));
                return Err(RunError::Refused(complaints.collect::<Vec<_>>().join("\n")));
            }
        };
        let took = (begun, Instant::now());
        log.log(Event::Topology(Topology::of(&cluster, &cabling)));
        let failures = applied.failures();
        if !failures.is_empty() {
            return Err(RunError::Refused(failures.join("\n")));
        }
        line.step("waits until every path carries");
        deploy::start_paths(&cluster).await?;
        let watch = Watch::start(&cluster, cabling.seen, Thresholds::default());
        let vigil = Vigil::default();
        let namings = Namings::default();
        let logging =
            diagnosis::log_losses(watch.sightings(), Arc::clone(log), vigil.clone(), namings.clone());
        let logger = tokio::spawn(logging);
        let log = Arc::clone(log);
        let draws = fastrand::Rng::with_seed(lab.seed());
        let runner = Self {
            cluster,
            lab,
            keeper,
            log,
            ui,
            watch,
            logger,
            applied: took,
            faulted: None,
            vigil,
            namings,
            volume: None,
            guest: None,
            suite: String::new(),
            runs: 0,
            broken: Vec::new(),
            resets: Vec::new(),
            raw: drives::Raw::default(),
            folder: folder.to_owned(),
            program: program.to_owned(),
            found: BTreeMap::new(),
            draws,
        };
        let health = runner.well_by(Instant::now() + FIRST_HEALTH).await;
        if health.good { Ok(runner) } else { Err(RunError::Refused(health.what)) }
    }

    /// Logs what went over the lab's cables so far.
    pub(crate) fn log_counters(&mut self) -> Result<(), RunError> {
        let counters = self.lab.counters()?;
        self.log.log(Event::Counters(Counters::of(self.lab.topology(), &counters)));
        Ok(())
    }

    /// Takes a suite through its scenarios. Each is reported as it ends, so that what ends a run early takes nothing away.
    pub(crate) async fn run(
        &mut self,
        suite: &Suite,
        mut report: impl FnMut(ScenarioResult),
    ) -> Result<(), RunError> {
        let line = self.ui.line(&suite.name);
        self.suite.clone_from(&suite.name);
        // What was written to it is judged; the suite that makes one makes its own.
        (self.volume, self.guest) = (None, None);
        for scenario in &suite.scenarios {
            let result = match suite.unmet(scenario, &self.cluster.spec) {
                Some(why) => not_applicable(scenario, why),
                None => self.scenario(suite, scenario, &line).await?,
            };
            self.log.log(Event::ScenarioEnded {
                suite: suite.name.clone(),
                scenario: scenario.name.clone(),
                verdict: result.verdict,
                took_ms: result.took_ms,
            });
            self.ui.say(&in_a_line(suite, &result));
            report(result);
        }
        Ok(())
    }

    /// Judges what the last suite wrote and did not judge, as a suite of its own; nothing, if there is nothing. `goes_on`: machines get
    /// their power back.
    pub(crate) async fn judge_at_end(&mut self, goes_on: bool) -> Result<Option<SuiteResult>, RunError> {
        if !self.is_unjudged() {
            return Ok(None);
        }
        let name = format!("{}-judgement", self.suite);
        let suite = Suite::of_one_step(&name, "What was written is there at its end", Step::Judge {});
        let Some(scenario) = suite.scenarios.first() else { return Ok(None) };
        self.log.log(Event::ScenarioStarted { suite: suite.name.clone(), scenario: scenario.name.clone() });
        let at = Instant::now();
        let seen = self.judge_legs().await?;
        let step = self.note(&suite, scenario, Step::Judge {}.to_string(), seen, at);
        let verdict = if step.good { Verdict::Passed } else { Verdict::Failed };
        let (name, took_ms) = (scenario.name.clone(), step.took_ms);
        let (suite_name, scenario_name) = (suite.name.clone(), name.clone());
        self.log.log(Event::ScenarioEnded { suite: suite_name, scenario: scenario_name, verdict, took_ms });
        let result = ScenarioResult { name, verdict, why: None, took_ms, steps: vec![step] };
        self.ui.say(&in_a_line(&suite, &result));
        if goes_on {
            self.mend().await?;
        }
        Ok(Some(SuiteResult { name: suite.name, title: suite.title, scenarios: vec![result] }))
    }

    async fn scenario(
        &mut self,
        suite: &Suite,
        scenario: &Scenario,
        line: &Line,
    ) -> Result<ScenarioResult, RunError> {
        self.log.log(Event::ScenarioStarted { suite: suite.name.clone(), scenario: scenario.name.clone() });
        let started = Instant::now();
        let mut steps = Vec::new();
        let at = Instant::now();
        let healthy = self.well_by(at + BEGIN_BOUND).await;
        if !healthy.good {
            // What follows would be blamed on this scenario.
            steps.push(self.note(
                suite,
                scenario,
                "the cluster is well before it begins".to_owned(),
                healthy,
                at,
            ));
        }
        let possible = if steps.is_empty() { &scenario.steps[..] } else { &[] };
        for step in possible {
            line.step(&format!("{}: {step}", scenario.name));
            let at = Instant::now();
            let seen = self.step(step, line).await?;
            steps.push(self.note(suite, scenario, step.to_string(), seen, at));
            if !steps.iter().all(|step| step.good) {
                break;
            }
        }
        self.mend().await?;
        let mended = scenario.steps.iter().any(Step::disturbs);
        let good_so_far = steps.iter().all(|step| step.good);
        let at = Instant::now();
        let mut well = self.well_by(at + Duration::from_millis(scenario.bound_ms)).await;
        if well.good {
            // The watch looks at storage paths and cables; that management carries is asked for, once.
            if mended {
                sleep_until(at + MANAGEMENT_BOUND).await;
            }
            let management = or_failure(self.management_carries().await);
            well = if management.good { well } else { management };
        }
        steps.push(self.note(suite, scenario, "all is well again".to_owned(), well, at));
        let at = Instant::now();
        let spine = self.spine_carries_no_storage()?;
        steps.push(self.note(suite, scenario, Step::SpineCarriesNoStorage {}.to_string(), spine, at));
        if let Some(beats) = self.one_copy_beats()? {
            let what = "no two copies of the virtual machine were heard".to_owned();
            steps.push(self.note(suite, scenario, what, beats, Instant::now()));
        }
        if let Some(resets) = self.judge_resets(scenario.resets_at_most) {
            let what = format!("nodes reset themselves {} times at most", scenario.resets_at_most);
            steps.push(self.note(suite, scenario, what, resets, Instant::now()));
        }
        let good = good_so_far && steps.iter().all(|step| step.good);
        Ok(ScenarioResult {
            name: scenario.name.clone(),
            verdict: if good { Verdict::Passed } else { Verdict::Failed },
            why: None,
            took_ms: milliseconds(started.elapsed()),
            steps,
        })
    }

    fn note(
        &self,
        suite: &Suite,
        scenario: &Scenario,
        step: String,
        seen: Seen,
        since: Instant,
    ) -> StepResult {
        let Seen { good, what, measured_ms } = seen;
        let result =
            StepResult { step, good, seen: what, took_ms: milliseconds(since.elapsed()), measured_ms };
        self.log.log(Event::StepEnded {
            suite: suite.name.clone(),
            scenario: scenario.name.clone(),
            step: result.step.clone(),
            good: result.good,
            seen: result.seen.clone(),
            took_ms: result.took_ms,
        });
        result
    }

    async fn step(&mut self, step: &Step, line: &Line) -> Result<Seen, RunError> {
        self.after_resets().await?;
        match step {
            Step::FailSwitch { .. }
            | Step::CutRoomLink { .. }
            | Step::CutSpineLink { .. }
            | Step::CrossCable { .. }
            | Step::PowerOff { .. }
            | Step::KillAgent { .. }
            | Step::SkewClock { .. }
            | Step::DamageLedger { .. }
            | Step::Freeze { .. } => self.break_it(step).await,
            Step::PowerCycle { within_ms, .. } => {
                self.power_cycle(step, Duration::from_millis(*within_ms)).await
            }
            Step::PowerOn { within_ms, .. } | Step::Thaw { within_ms, .. } => {
                self.bring_back(step, Duration::from_millis(*within_ms)).await
            }
            Step::StaysNamed { for_ms } => Ok(self.stays_named(Duration::from_millis(*for_ms)).await),
            Step::Miswire { .. } | Step::MiswireMany { .. } => self.miswire_step(step, line).await,
            Step::NothingRaised { for_ms } => {
                Ok(self.nothing_raised(Duration::from_millis(*for_ms), line).await)
            }
            Step::FlapRoomLink { flapping, .. } | Step::FlapCable { flapping, .. } => {
                self.flap(step, *flapping).await
            }
            Step::NamedCalmly { at_least, changes_at_most } => {
                Ok(self.named_calmly(*at_least, *changes_at_most))
            }
            Step::NothingNamed { for_ms } => Ok(self.nothing_named(Duration::from_millis(*for_ms)).await),
            Step::ManagementParted { room } => Ok(or_failure(self.management_parted(*room).await)),
            Step::SpineStaysClean {} => self.spine_stays_clean().await,
            Step::Heal {} => self.heal().await,
            Step::BadPlan { .. } | Step::DieDuringApplies { .. } => self.apply_step(step).await,
            Step::Named { within_ms } => Ok(self.named_within(Duration::from_millis(*within_ms)).await),
            Step::Carries { storage_network, for_ms } => {
                Ok(or_failure(self.carries(*storage_network, Duration::from_millis(*for_ms)).await))
            }
            Step::ManagementCarries {} => Ok(or_failure(self.management_carries().await)),
            Step::SpineCarriesNoStorage {} => self.spine_carries_no_storage(),
            Step::PrioritiesAreSeen {} => self.priorities_are_seen().await,
            Step::Throughput { alone_ms, together_ms } => self.throughput(*alone_ms, *together_ms).await,
            Step::StorageIsIsolated {} => self.storage_is_isolated().await,
            Step::Refused {} => Ok(or_failure(self.refused().await)),
            Step::InventoryMatches {} => Ok(or_failure(self.inventory_matches().await)),
            Step::CablingIsRight { within_ms } => {
                Ok(or_failure(self.cabling_is_right(Duration::from_millis(*within_ms)).await))
            }
            Step::LinksAreAsPlanned {} => Ok(or_failure(self.links_are_as_planned().await)),
            Step::Drift { count } => self.drift(*count).await,
            Step::SecondApplyChangesNothing {} => Ok(or_failure(self.second_apply_changes_nothing().await)),
            Step::RoundTrips { probes } => Ok(or_failure(self.round_trips(*probes).await)),
            Step::JumboFrames {} => Ok(or_failure(self.jumbo_frames().await)),
            Step::DriveErrors { .. }
            | Step::DriveSlow { .. }
            | Step::DriveStuck { .. }
            | Step::DriveWorks { .. }
            | Step::PullDrive { .. }
            | Step::PutDriveBack { .. }
            | Step::KernelSeesDrive { .. }
            | Step::WriteToDrive { .. }
            | Step::OnlyFlushedIsSure { .. }
            | Step::DriveTookAtMost { .. } => self.drive_step(step).await,
            // Steps about a volume: it has the list.
            _ => self.volume_step(step).await,
        }
    }

    async fn apply_step(&mut self, step: &Step) -> Result<Seen, RunError> {
        match step {
            Step::BadPlan { room, position, plan, meanwhile, within_ms } => {
                let bound = Duration::from_millis(*within_ms);
                self.bad_plan((*room, *position), *plan, *meanwhile, bound).await
            }
            Step::DieDuringApplies { room, position, death, times, within_ms } => {
                let bound = Duration::from_millis(*within_ms);
                self.die_during_applies((*room, *position), *death, *times, bound).await
            }
            _ => Ok(Seen::not("this is no step about an apply")),
        }
    }

    async fn miswire_step(&mut self, step: &Step, line: &Line) -> Result<Seen, RunError> {
        if let Step::MiswireMany { count, named_within_ms, well_within_ms } = step {
            let bounds = (Duration::from_millis(*named_within_ms), Duration::from_millis(*well_within_ms));
            return self.miswire_many(*count, bounds, line).await;
        }
        let usual = self.usual_is_known().await;
        if usual.good { self.break_it(step).await } else { Ok(usual) }
    }

    async fn break_it(&mut self, step: &Step) -> Result<Seen, RunError> {
        self.before_a_fault();
        // From before the fault: what follows it must not look faster than it is.
        let now = Instant::now();
        let made = self.lab.break_it(self.keeper, &self.cluster.spec, step).await?;
        for fault in &made {
            match fault {
                Made::Down { node, how: Stop::Off | Stop::Cycled } => self.writer_lost(node),
                Made::Down { node, how: Stop::Frozen } => self.writer_frozen(node),
                _ => {}
            }
        }
        Ok(self.made(now, &made))
    }

    /// What is listened for from before the first fault on.
    fn before_a_fault(&self) {
        if self.faulted.is_none() {
            self.watch.listen_for_silences();
            self.namings.begin(self.watch.sightings().borrow().named().into_iter().collect());
        }
    }

    /// Notes what was made, from this moment on.
    fn made(&mut self, now: Instant, made: &[Made]) -> Seen {
        self.faulted = Some((self.faulted.map_or(now, |(first, _)| first), now));
        self.broken.extend(made.iter().flat_map(Made::names));
        let words: Vec<String> = made.iter().map(ToString::to_string).collect();
        for fault in &words {
            self.log.log(Event::FaultMade { fault: fault.clone() });
        }
        if words.is_empty() { Seen::not("nothing was broken") } else { Seen::held(words.join("\n")) }
    }

    async fn heal(&mut self) -> Result<Seen, RunError> {
        let strays = self.vigil.end();
        self.mend().await?;
        Ok(Seen::unless(&strays, "done"))
    }

    async fn mend(&mut self) -> Result<(), RunError> {
        self.vigil.end();
        self.after_resets().await?;
        // A fault that failed half-way is in force, too: mending undoes what there is.
        self.lab.mend(self.keeper).await?;
        self.note_healed();
        Ok(())
    }

    fn note_healed(&mut self) {
        self.broken.clear();
        if self.faulted.take().is_some() {
            self.log.log(Event::Healed);
        }
    }

    /// Waits until everything is well and everybody says so.
    async fn well_by(&self, deadline: Instant) -> Seen {
        let since = Instant::now();
        let members = self.cluster.members.len();
        let mut sightings = self.watch.sightings();
        // What was told before the mending proves nothing: nodes that were off for less than a second have all reported lately.
        let is_of_now =
            |sighting: &Sighting| sighting.at > since + Duration::from_millis(sighting.oldest_ms.into());
        let well = |sighting: &Sighting| is_of_now(sighting) && sighting.is_well(members);
        match timeout_at(deadline, sightings.wait_for(well)).await {
            Ok(Ok(_)) => Seen::held(format!("after {} ms", since.elapsed().as_millis())),
            _ => Seen::not(diagnosis::unwell(&self.watch.sightings().borrow(), members)),
        }
    }
}

/// The lab's nodes as a cluster to deploy.
pub(crate) fn cluster(spec: &ClusterSpec, lab: &Lab) -> Result<Cluster, LabError> {
    let mut names: Vec<_> =
        spec.nodes().map(|(zone, node)| (Some(zone.name.clone()), node.name.clone())).collect();
    names.push((None, spec.witness.name.clone()));
    let members = names.into_iter().map(|(zone, name)| {
        let missing = || LabError::Missing { node: name.to_string() };
        let node = lab.nodes().get(&name).ok_or_else(missing)?;
        Ok(Member { zone, adapters: node.adapters(), client: node.client.clone(), name })
    });
    let members = members.collect::<Result<_, LabError>>()?;
    Ok(Cluster { spec: spec.clone(), members, speeds: AdapterSpeeds::new() })
}

/// An agent that can't be asked is the product's failure, not the lab's.
fn or_failure(seen: Result<Seen, deploy::DeployError>) -> Seen {
    seen.unwrap_or_else(|error| Seen::not(crate::chain(&error)))
}

fn not_applicable(scenario: &Scenario, why: String) -> ScenarioResult {
    ScenarioResult {
        name: scenario.name.clone(),
        verdict: Verdict::NotApplicable,
        why: Some(why),
        took_ms: 0,
        steps: Vec::new(),
    }
}

fn in_a_line(suite: &Suite, result: &ScenarioResult) -> String {
    let head = format!("{}: {}", suite.name, result.name);
    match (result.verdict, result.failure()) {
        (Verdict::Failed, Some(step)) => format!("{head}: FAILED: {}: {}", step.step, step.seen),
        (Verdict::NotApplicable, _) => {
            format!("{head}: not applicable: {}", result.why.as_deref().unwrap_or_default())
        }
        _ => format!("{head}: passed"),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
