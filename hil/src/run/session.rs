//! The part of a run that starts things: phases in order, and their end in any order.

use super::apply_bench::{ApplyBench, Bench};
use super::setup::{self, Setup};
use super::storage_bench::{self, StorageBench, StorageOrder};
use super::vm_bench::{self, VmBench};
use super::{PhaseClock, RunError, blocking};
use crate::accel::{self, Accel};
use crate::events::{Event, EventLog, LogError, Verdict};
use crate::host;
use crate::image::{
    self, AgentBuild, DRBD, Extras, ImageRequest, NODE_MODULES, NODE_TOOLS, NodeImage, VIRTUAL_MACHINES,
    VIRTUAL_MACHINES_TIMED,
};
use crate::lab::{Keeper, Kept, Lab, LabError, Launch};
use crate::progress::Progress;
use crate::report::{Environment, Phase, SUMMARY_SCHEMA, SuiteResult, Summary};
use crate::runner::{self, Runner};
use crate::suite::Suite;
use crate::ui::Ui;
use std::sync::Arc;

pub(super) struct Session<'a> {
    setup: Setup,
    ui: &'a Ui,
    log: Arc<EventLog>,
    phases: Vec<Phase>,
    suites: Vec<SuiteResult>,
    environment: Environment,
    keeper: Option<Keeper>,
    lab: Option<Lab>,
}

impl<'a> Session<'a> {
    /// Begins the event log, and starts the keeper: from then on everything that is started has an owner that outlives us.
    pub(super) async fn start(setup: Setup, ui: &'a Ui) -> Result<Self, RunError> {
        let keeper = Keeper::start(&setup.options.program).await?;
        setup::make_folder(&setup)?;
        let log = Arc::new(EventLog::create(&setup.dir.join(setup::EVENTS))?);
        log.log(Event::RunStarted {
            run: setup.run.clone(),
            shape: setup.spec.shape().to_string(),
            seed: setup.seed,
            replay: setup.replay.clone(),
        });
        ui.say(&format!("{} in a lab of {}, seed {}", setup.spec.name, setup.spec.shape(), setup.seed));
        Ok(Self {
            setup,
            ui,
            log,
            phases: Vec::new(),
            suites: Vec::new(),
            environment: Environment::default(),
            keeper: Some(keeper),
            lab: None,
        })
    }

    /// All phases but the end.
    pub(super) async fn work(&mut self) -> Result<(), RunError> {
        let log = Arc::clone(&self.log);
        let clock = PhaseClock::start(&log, "image");
        let extras = if self.setup.suites.iter().any(Suite::runs_vms) {
            self.setup.lab_file.node.memory_mib = vm_bench::NODE_MIB;
            VIRTUAL_MACHINES
        } else {
            Extras::default()
        };
        let (image, accel) = self.image(extras).await?;
        self.phases.push(clock.end());

        let clock = PhaseClock::start(&log, "boot");
        self.boot(&image, &accel).await?;
        self.phases.push(clock.end());

        // Whatever a suite breaks, no process of the lab ends unasked, but a node that resets itself (its runner counts those): if one does, the lab has failed, not the product.
        let (Some(lab), Some(keeper)) = (&self.lab, &self.keeper) else { return Ok(()) };
        let death = lab.first_death(keeper);
        tokio::select! {
            // What a death brings with it, a QEMU that does not answer, is told as what it is.
            biased;
            error = death => Err(error.into()),
            result = self.examine() => result,
        }
    }

    /// Boots the lab and measures how fast its first node's links are made.
    pub(super) async fn measure(&mut self, rounds: u32) -> Result<ApplyBench, RunError> {
        let (image, accel) = self.image(Extras::default()).await?;
        self.boot(&image, &accel).await?;
        let (Some(lab), Some(keeper)) = (&self.lab, &self.keeper) else { return Err(RunError::Interrupted) };
        let death = lab.first_death(keeper);
        let mut cluster = runner::cluster(&self.setup.spec, lab)?;
        cluster.learn_speeds().await?;
        let missing = || LabError::Missing { node: self.setup.spec.name.to_string() };
        let (member, _) = cluster.nodes().next().ok_or_else(missing)?;
        let node = lab.nodes().get(&member.name).ok_or_else(missing)?;
        let bench = Bench { cluster: &cluster, member, node, ui: self.ui };
        tokio::select! {
            measured = bench.measure(accel.to_string(), rounds) => measured,
            error = death => Err(error.into()),
        }
    }

    /// Boots a lab with DRBD and measures storage on its first two nodes.
    pub(super) async fn measure_storage(&mut self, order: StorageOrder) -> Result<StorageBench, RunError> {
        let (image, accel) = self.image(DRBD).await?;
        self.setup.lab_file.node.data_drives = storage_bench::DATA_DRIVES;
        self.boot(&image, &accel).await?;
        let (Some(lab), Some(keeper)) = (&mut self.lab, &mut self.keeper) else {
            return Err(RunError::Interrupted);
        };
        let death = lab.first_death(keeper);
        let cluster = runner::cluster(&self.setup.spec, lab)?;
        let machine = format!("kernel {}, on {accel}", image.release);
        let work = storage_bench::measure(order, cluster, (lab, keeper), machine, self.ui);
        tokio::select! {
            measured = work => measured,
            error = death => Err(error.into()),
        }
    }

    /// Boots a lab whose nodes run virtual machines, and measures that on its first one.
    pub(super) async fn measure_vm(&mut self, rounds: u32) -> Result<VmBench, RunError> {
        let (image, accel) = self.image(VIRTUAL_MACHINES_TIMED).await?;
        self.setup.lab_file.node.memory_mib = vm_bench::NODE_MIB;
        self.boot(&image, &accel).await?;
        let (Some(lab), Some(keeper)) = (&self.lab, &self.keeper) else { return Err(RunError::Interrupted) };
        let death = lab.first_death(keeper);
        let node = lab.nodes().values().next();
        let node = node.ok_or_else(|| LabError::Missing { node: self.setup.spec.name.to_string() })?;
        let machine = format!("kernel {}, on {accel}", image.release);
        tokio::select! {
            measured = vm_bench::measure(node, rounds, machine, self.ui) => measured,
            error = death => Err(error.into()),
        }
    }

    /// The phases that are about the product.
    async fn examine(&mut self) -> Result<(), RunError> {
        let log = Arc::clone(&self.log);
        let (Some(lab), Some(keeper)) = (&mut self.lab, &mut self.keeper) else { return Ok(()) };
        let clock = PhaseClock::start(&log, "deploy");
        let places = (&*self.setup.dir, &*self.setup.options.program);
        let mut runner = Runner::deploy(&self.setup.spec, (lab, keeper), &log, self.ui, places).await?;
        self.phases.push(clock.end());
        runner.let_nodes_reset();

        let clock = PhaseClock::start(&log, "suites");
        let is_kept = self.setup.options.keep;
        for (at, suite) in self.setup.suites.iter().enumerate() {
            let (name, title) = (suite.name.clone(), suite.title.clone());
            self.suites.push(SuiteResult { name, title, scenarios: Vec::new() });
            let scenarios = self.suites.last_mut().map(|result| &mut result.scenarios);
            let Some(scenarios) = scenarios else { continue };
            runner.run(suite, |scenario| scenarios.push(scenario)).await?;
            // Whatever became of it, what was written is judged.
            let is_last = at + 1 == self.setup.suites.len();
            self.suites.extend(runner.judge_at_end(is_kept || !is_last).await?);
        }
        runner.log_counters()?;
        self.phases.push(clock.end());
        Ok(())
    }

    async fn image(&mut self, extras: Extras) -> Result<(NodeImage, Accel), RunError> {
        let line = self.ui.line("image");
        let options = self.setup.options.clone();
        // A lab that is kept is there to be tried by hand.
        let volumes = options.keep || self.setup.suites.iter().any(Suite::makes_volumes);
        let build = match (&options.bug, volumes) {
            (Some(_), _) => AgentBuild::SeededBugs,
            (None, true) => AgentBuild::Volumes,
            (None, false) => AgentBuild::Plain,
        };
        let (image, accel) = blocking(move || {
            host::ensure_packages(&[host::QEMU, host::MKE2FS], &line)?;
            let target = options.root.join("target");
            let cache = target.join("hil/cache");
            let image = match &options.image {
                Some(dir) => image::open(dir)?,
                None => image::ensure(
                    &ImageRequest {
                        programs: image::build_programs(&options.root, &target, build, &line)?,
                        cache: cache.clone(),
                        modules: NODE_MODULES.iter().chain(extras.modules).map(ToString::to_string).collect(),
                        tools: NODE_TOOLS.iter().chain(extras.tools).cloned().collect(),
                        refresh: options.refresh_image,
                    },
                    &line,
                )?,
            };
            let accel = accel::decide(&image, &cache, &line);
            Ok((image, accel))
        })
        .await?;
        self.ui.say(&format!("node image {}, kernel {}, on {accel}", image.id, image.release));
        self.environment = Environment {
            accelerator: accel.to_string(),
            kernel: image.release.clone(),
            image: image.id.clone(),
        };
        Ok((image, accel))
    }

    async fn boot(&mut self, image: &NodeImage, accel: &Accel) -> Result<(), RunError> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let launch = Launch {
            spec: &self.setup.spec,
            file: &self.setup.lab_file,
            seed: self.setup.seed,
            image,
            accel,
            program: &self.setup.options.program,
            kept: Kept {
                consoles: &self.setup.dir.join(setup::CONSOLES),
                records: &self.setup.dir.join(setup::RECORDS),
            },
        };
        let log = &self.log;
        let ready =
            |node: &model::NodeName, took_ms| log.log(Event::NodeReady { node: node.to_string(), took_ms });
        self.lab = Some(Lab::up(launch, keeper, self.ui, ready).await?);
        Ok(())
    }

    /// Ends the lab, or leaves it if that was asked for and it is worth it; then says how to get in.
    pub(super) async fn end(&mut self, worth_keeping: bool) -> Result<Option<String>, RunError> {
        let Some(keeper) = self.keeper.take() else { return Ok(None) };
        let log = Arc::clone(&self.log);
        let clock = PhaseClock::start(&log, "end");
        let line = self.ui.line("lab");
        let kept = if let Some(lab) = self.lab.take().filter(|_| self.setup.options.keep && worth_keeping) {
            Some(lab.keep(keeper).await?)
        } else {
            line.step("ends");
            keeper.end().await.map_err(LabError::Keep)?;
            None
        };
        self.phases.push(clock.end());
        Ok(kept)
    }

    /// Ends the event log and sums up. An event log with holes proves nothing: then the run is not good.
    pub(super) fn finish(mut self, error: Option<&RunError>) -> (Summary, Option<LogError>) {
        let scenarios = || self.suites.iter().flat_map(|suite| &suite.scenarios);
        let good = error.is_none() && scenarios().all(|scenario| scenario.verdict != Verdict::Failed);
        self.log.log(Event::RunEnded { good });
        let log_error = self.log.close().err();
        let aborted = error.map(|error| crate::chain(error));
        let summary = Summary {
            schema: SUMMARY_SCHEMA.to_owned(),
            run: self.setup.run,
            started: self.setup.started,
            cluster: self.setup.spec.name.to_string(),
            shape: self.setup.spec.shape().to_string(),
            seed: self.setup.seed,
            environment: self.environment,
            good: good && log_error.is_none(),
            aborted: aborted.or_else(|| log_error.as_ref().map(|error| crate::chain(error))),
            phases: std::mem::take(&mut self.phases),
            suites: self.suites,
            notes: self.setup.notes,
            replay: self.setup.replay,
        };
        (summary, log_error)
    }
}
