//! Steps as they are carried out: written down before and after, and told to whoever watches.
//!
//! Invariants: a step is in the journal before its first effect. What is changed is in words, once.
//!
//! On failure: what the step failed with; that is written down, too.

use crate::journal::{Journal, JournalError, RunIs, Said, StepIs};
use crate::pool::chain;
use std::error::Error;
use std::fmt;
use tokio::time::Instant;

/// The stages of a deployment, in their order (spec.md, "Deployment").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Each node is looked at: its hardware, its drives, its cables, its ledger.
    Preflight,
    /// Links, priorities and bandwidth are made on every node.
    Network,
    /// What was made is measured.
    NetworkValidation,
    /// The ledger is on every node and the witness, and all of them vote.
    Quorum,
    /// The drives are the pool's.
    Pool,
    /// The volumes are there, with every copy in sync.
    Volumes,
    /// All of it is looked at once more, from the nodes.
    Verification,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::Network,
        Self::NetworkValidation,
        Self::Quorum,
        Self::Pool,
        Self::Volumes,
        Self::Verification,
    ];

    /// Its name, as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Network => "network",
            Self::NetworkValidation => "network-validation",
            Self::Quorum => "quorum",
            Self::Pool => "pool",
            Self::Volumes => "volumes",
            Self::Verification => "verification",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What whoever watches is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A stage begins.
    Stage(Stage),
    /// A step begins.
    Begun {
        /// Of which stage.
        stage: Stage,
        /// Which.
        step: String,
    },
    /// A step is done.
    Done {
        /// Of which stage.
        stage: Stage,
        /// Which.
        step: String,
        /// How long it took, ms.
        ms: u64,
        /// What was changed; `None`: nothing.
        did: Option<String>,
    },
    /// Something worth knowing, which changes nothing.
    Note(String),
}

/// A stage that was gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageTook {
    /// Which.
    pub stage: Stage,
    /// How long it took, ms.
    pub ms: u64,
    /// What was changed in it.
    pub did: Vec<String>,
}

/// Whoever is told.
type Watcher<'a> = Box<dyn FnMut(&Told) + Send + 'a>;

/// Writes steps down and tells of them.
pub struct Recorder<'a> {
    journal: Option<Journal>,
    told: Watcher<'a>,
    stage: Stage,
    /// When the present stage began, and how much had been changed by then.
    running: Option<(Instant, usize)>,
    stages: Vec<StageTook>,
    did: Vec<String>,
}

impl fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("stage", &self.stage).field("did", &self.did).finish_non_exhaustive()
    }
}

impl<'a> Recorder<'a> {
    /// Into this journal, and to this watcher.
    pub fn new(journal: Option<Journal>, told: impl FnMut(&Told) + Send + 'a) -> Self {
        let (stages, did) = (Vec::new(), Vec::new());
        Self { journal, told: Box::new(told), stage: Stage::Preflight, running: None, stages, did }
    }

    /// Of something that is no deployment: nobody is told, and only what was changed is kept.
    pub fn quiet() -> Self {
        Self::new(None, |_| {})
    }

    /// A stage begins; the one before, if there is one, is over.
    pub fn begin(&mut self, stage: Stage) {
        self.end();
        (self.stage, self.running) = (stage, Some((Instant::now(), self.did.len())));
        (self.told)(&Told::Stage(stage));
    }

    /// The present stage is over.
    pub fn end(&mut self) {
        if let Some((since, known)) = self.running.take() {
            let (stage, ms, did) = (self.stage, milliseconds(since), self.did[known..].to_vec());
            self.stages.push(StageTook { stage, ms, did });
        }
    }

    /// Writes down that a run begins, and what it is to change.
    pub fn run_begins(&mut self, template: Option<String>, plan: Vec<String>) -> Result<(), JournalError> {
        self.say(Said::Run { run: RunIs::Begun, template, plan, good: None })
    }

    /// The last stage is over, and so is the run: it is written down how it went. What it failed with is worth more than that this can't be written down.
    pub fn run_ends<E: From<JournalError>>(&mut self, result: Result<(), E>) -> Result<(), E> {
        self.end();
        let good = Some(result.is_ok());
        let ended = self.say(Said::Run { run: RunIs::Ended, template: None, plan: Vec::new(), good });
        result.and(ended.map_err(E::from))
    }

    fn say(&mut self, said: Said) -> Result<(), JournalError> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.write(said))
    }

    /// Something worth knowing.
    pub fn note(&mut self, note: impl Into<String>) {
        (self.told)(&Told::Note(note.into()));
    }

    /// The same of several.
    pub fn notes(&mut self, notes: Vec<String>) {
        for note in notes {
            self.note(note);
        }
    }

    /// Carries a step out. It gives what it found, and what it changed in words; `None`: nothing.
    pub async fn step<T, E>(
        &mut self,
        step: impl Into<String>,
        work: impl Future<Output = Result<(T, Option<String>), E>>,
    ) -> Result<T, E>
    where
        E: From<JournalError> + Error + 'static,
    {
        let (stage, step, begun) = (self.stage, step.into(), Instant::now());
        self.write(&step, StepIs::Begun)?;
        (self.told)(&Told::Begun { stage, step: step.clone() });
        let result = work.await;
        let ms = milliseconds(begun);
        match result {
            Ok((found, did)) => {
                // It was done, whether that can be written down or not.
                self.did.extend(did.clone());
                self.write(&step, StepIs::Done { ms, did: did.clone() })?;
                (self.told)(&Told::Done { stage, step, ms, did });
                Ok(found)
            }
            Err(error) => {
                // What it failed with is worth more than that this can't be written down.
                self.write(&step, StepIs::Failed { ms, why: chain(&error) }).ok();
                Err(error)
            }
        }
    }

    fn write(&mut self, step: &str, is: StepIs) -> Result<(), JournalError> {
        let (step, stage) = (step.to_owned(), self.stage.name().to_owned());
        self.say(Said::Step { step, stage, is })
    }

    /// The stage that goes on, or was last.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What was changed so far.
    pub fn did(&self) -> &[String] {
        &self.did
    }

    /// The stages that are over.
    pub fn stages(&self) -> &[StageTook] {
        &self.stages
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
