//! The event log of a run: what happened, when, one JSON object a line.
//!
//! Purpose: everything that a report shows is drawn from these lines, so that a run can be looked at again.
//!
//! Invariants: lines are whole and in the order in which the harness learned of things; `at_ms` counts from the run's
//! start on a monotonic clock. No event holds a secret.
//!
//! On failure: a line that can't be written is an error of the run: a log with holes proves nothing.

mod measured;

pub use measured::{
    Bucket, CabledNic, CabledNode, Cables, Carried, Counters, Dropped, LegJudged, NetworkPaths, Paths,
    RoundTrips, Stall, SwitchPort, Throughput, TookOver, Topology, Waited, Wrote,
};

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run began.
    RunStarted {
        /// The run's name, which is its folder's.
        run: String,
        /// The cluster's shape.
        shape: String,
        /// The seed that every random choice came from.
        seed: u64,
        /// The command that does the same again.
        replay: String,
    },
    /// A phase of the run began: image, boot, deploy, suites, end.
    PhaseStarted {
        /// Which.
        phase: String,
    },
    /// A phase of the run ended.
    PhaseEnded {
        /// Which.
        phase: String,
        /// How long it took, milliseconds.
        took_ms: u64,
    },
    /// A node's agent answered for the first time.
    NodeReady {
        /// Which.
        node: String,
        /// Since its power was switched on, milliseconds.
        took_ms: u64,
    },
    /// The cabling, as found when the cluster was deployed.
    Topology(Topology),
    /// The storage paths, or who reports, changed.
    Paths(Paths),
    /// Round trips were measured.
    RoundTrips(RoundTrips),
    /// What a storage path carried was measured.
    Throughput(Throughput),
    /// What went over the lab's cables, at the end of its suites.
    Counters(Counters),
    /// How long writes waited around a fault.
    Stall(Stall),
    /// A node reset itself; the lab starts it again.
    NodeReset {
        /// Which.
        node: String,
    },
    /// A volume can be used again after a fault.
    TookOver(TookOver),
    /// A workload has ended, or nothing can come from it any more.
    Wrote(Wrote),
    /// A leg in sync was judged.
    LegJudged(LegJudged),
    /// A scenario of a suite began.
    ScenarioStarted {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
    },
    /// A step of a scenario ended.
    StepEnded {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
        /// The step, in words.
        step: String,
        /// Whether it held.
        good: bool,
        /// What was seen.
        seen: String,
        /// How long it took, milliseconds.
        took_ms: u64,
    },
    /// A fault was made.
    FaultMade {
        /// What, in words.
        fault: String,
    },
    /// All faults were undone.
    Healed,
    /// The cluster's diagnosis names a loss that it did not name before.
    LossNamed {
        /// The loss, in words.
        loss: String,
    },
    /// A loss is no longer named.
    LossGone {
        /// The loss, in words.
        loss: String,
    },
    /// The watch raises a condition: something is wrong, and not everything stops.
    ConditionRaised {
        /// The condition, in words.
        condition: String,
    },
    /// A condition is over.
    ConditionCleared {
        /// The condition, in words.
        condition: String,
    },
    /// Somebody changed a node's links behind its agent's back, and the agent mended them.
    Drift {
        /// The node.
        node: String,
        /// What was done to it, in words.
        done: String,
        /// What the agent said of it.
        told: String,
        /// From just before it was done until the agent found it, milliseconds.
        found_after_ms: u64,
        /// From then until the links were as planned again, milliseconds.
        mended_after_ms: u64,
    },
    /// A scenario ended.
    ScenarioEnded {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
        /// `passed`, `failed` or `not-applicable`.
        verdict: Verdict,
        /// How long it took, milliseconds.
        took_ms: u64,
    },
    /// The run ended.
    RunEnded {
        /// Whether everything held.
        good: bool,
    },
}

/// What became of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every step held.
    Passed,
    /// A step did not hold.
    Failed,
    /// This cluster can't have the scenario.
    NotApplicable,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Since the run's start, milliseconds.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The event log could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the event log {}", .path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The open event log of a run.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    started: Instant,
    /// The file, and the first error in writing to it.
    file: Mutex<(File, Option<io::Error>)>,
}

impl EventLog {
    /// Creates the log; the run starts now.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        let file = File::create(path).map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), started: Instant::now(), file: Mutex::new((file, None)) })
    }

    /// Since the run's start, milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A moment's time since the run's start, milliseconds; 0 for one before it.
    pub fn ms_at(&self, moment: tokio::time::Instant) -> u64 {
        let since = moment.into_std().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Appends an event. An error is kept for [`EventLog::close`]: whoever logs is busy with something else.
    pub fn log(&self, event: Event) {
        let mut line = serde_json::to_vec(&Record { at_ms: self.now_ms(), event }).unwrap_or_default();
        line.push(b'\n');
        let mut guard = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = guard.0.write_all(&line) {
            guard.1.get_or_insert(error);
        }
    }

    /// The first error in writing, if there was one.
    pub fn close(&self) -> Result<(), LogError> {
        let mut guard = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match guard.1.take() {
            Some(source) => Err(LogError { path: self.path.clone(), source }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::create(&path).unwrap();
        let events =
            [Event::FaultMade { fault: "switch down".into() }, Event::Healed, Event::RunEnded { good: true }];
        for event in events.clone() {
            log.log(event);
        }
        log.close().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(records.is_sorted_by_key(|record| record.at_ms));
        assert_eq!(records.into_iter().map(|record| record.event).collect::<Vec<_>>(), events);
    }

    #[test]
    fn a_log_on_a_full_disk_says_so_at_the_end() {
        let log = EventLog::create(Path::new("/dev/full")).unwrap();
        log.log(Event::Healed);
        assert!(log.close().unwrap_err().to_string().contains("/dev/full"));
    }
}
