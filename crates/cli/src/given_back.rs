//! What it came to when nodes were given back, all of a cluster or some of it: what is told meanwhile, and at the end.
//!
//! On failure: `ClusterError`, with what was done and how to go on.

use crate::Outcome;
use crate::cluster::ClusterError;
use crate::deploy::progress::Progress;
use crate::shown::{VERSION, json};
use deploy::deployment::DeploymentError;
use deploy::journal::Journal;
use deploy::recorder::{self, Recorder, StageTook};
use model::ClusterSpec;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What is told while it goes on, of which notes are told at the end, too: what stays as it is.
pub(crate) struct Told {
    progress: Progress,
    stays: Mutex<Vec<String>>,
}

impl Told {
    /// `notes`: those of the plan.
    pub(crate) fn new(notes: Vec<String>) -> Self {
        Self { progress: Progress::new(), stays: Mutex::new(notes) }
    }

    pub(crate) fn recorder(&self, journal: Journal) -> Recorder<'_> {
        Recorder::new(Some(journal), |told| {
            if let recorder::Told::Note(note) = told {
                self.stays.lock().unwrap_or_else(PoisonError::into_inner).push(note.clone());
            }
            self.progress.told(told);
        })
    }

    /// It is over.
    pub(crate) fn stays(self) -> Vec<String> {
        self.progress.clear();
        let mut stays = self.stays.into_inner().unwrap_or_else(PoisonError::into_inner);
        stays.dedup();
        stays
    }
}

/// What was done, and what of it failed.
#[derive(Debug, Serialize)]
pub(crate) struct CameTo {
    version: u32,
    cluster: String,
    did: Vec<String>,
    /// What was not given back, and why.
    stays: Vec<String>,
    stages: Vec<Took>,
    journal: String,
    /// What it failed with.
    error: Option<String>,
    /// How it is now, in words.
    #[serde(skip)]
    now: String,
    /// And what that means.
    #[serde(skip)]
    found: String,
    /// The same where nothing was to be done.
    #[serde(skip)]
    nothing: String,
}

#[derive(Debug, Serialize)]
struct Took {
    stage: &'static str,
    ms: u64,
}

impl CameTo {
    pub(crate) fn of(
        spec: &ClusterSpec,
        (now, found, nothing): (String, &str, String),
        (did, stays, stages): (Vec<String>, Vec<String>, Vec<StageTook>),
        journal: &Path,
        error: Option<&DeploymentError>,
    ) -> Self {
        let took = |stage: StageTook| Took { stage: stage.stage.name(), ms: stage.ms };
        Self {
            version: VERSION,
            cluster: spec.name.to_string(),
            did,
            stays,
            stages: stages.into_iter().map(took).collect(),
            journal: journal.display().to_string(),
            error: error.map(ToString::to_string),
            now,
            found: found.to_owned(),
            nothing,
        }
    }

    /// Says it, as the command's end.
    pub(crate) fn end(
        &self,
        result: Result<(), DeploymentError>,
        as_json: bool,
    ) -> Result<io::Result<Outcome>, ClusterError> {
        let text = if as_json { json(self) } else { self.to_string() };
        match result {
            Ok(()) => Ok(io::stdout().lock().write_all(text.as_bytes()).map(|()| Outcome::Good)),
            Err(error) => {
                if as_json {
                    io::stdout().lock().write_all(text.as_bytes()).map_err(ClusterError::Terminal)?;
                }
                Err(ClusterError::Deployment { error: Box::new(error), told: self.to_string() })
            }
        }
    }
}

impl fmt::Display for CameTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { did, stays, journal, error, now, found, nothing, .. } = self;
        match (error, did.is_empty()) {
            (None, _) if !stays.is_empty() => {
                writeln!(f, "{now}; this stays as it is:")?;
                stays.iter().try_for_each(|what| writeln!(f, "  {what}"))
            }
            (None, true) => writeln!(f, "nothing was changed: {nothing}"),
            (None, false) => writeln!(f, "{now}: {found}"),
            (Some(_), _) => {
                if did.is_empty() {
                    writeln!(f, "no step has changed anything in this run")?;
                } else {
                    writeln!(f, "done in this run:")?;
                    did.iter().try_for_each(|did| writeln!(f, "  {did}"))?;
                }
                write!(
                    f,
                    "to go on: see to what is said above and give the command again; what is done is found and let alone. The journal is {journal}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_came_to_is_said() {
        let came_to = |did: &[&str], error: Option<&str>| CameTo {
            version: VERSION,
            cluster: "plant".to_owned(),
            did: did.iter().map(|&did| did.to_owned()).collect(),
            stays: Vec::new(),
            stages: Vec::new(),
            journal: "plant.destruction.jsonl".to_owned(),
            error: error.map(ToOwned::to_owned),
            now: "cluster plant is no more".to_owned(),
            found: "its nodes are as they were found".to_owned(),
            nothing: "nothing of cluster plant is left on its nodes".to_owned(),
        };
        let all = [
            came_to(&[], None),
            came_to(&["volume a was deleted"], None),
            came_to(&[], Some("late")),
            came_to(&["volume a was deleted"], Some("late")),
            CameTo { stays: vec!["links of a1 stay as they are".to_owned()], ..came_to(&[], None) },
        ];
        insta::assert_snapshot!(all.map(|one| one.to_string()).join("\n\n"));
    }
}
