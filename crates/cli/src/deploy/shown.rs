//! What is shown of a deployment: what would be changed, what was, and what a failure leaves. Pure.

use crate::shown::VERSION;
use deploy::deployment::{Change, DeploymentError, Plan};
use deploy::journal::Past;
use deploy::recorder::{Stage, StageTook};
use model::ClusterSpec;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What would be changed.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    version: u32,
    cluster: String,
    shape: String,
    changes: Vec<Line>,
    notes: Vec<String>,
}

/// The same change of one or several nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    stage: &'static str,
    of: Vec<String>,
    what: String,
    /// Whether it takes something away.
    takes: bool,
}

impl Planned {
    pub(crate) fn of(spec: &ClusterSpec, changes: &[Change], notes: &[String]) -> Self {
        let (cluster, shape) = (spec.name.to_string(), spec.shape().to_string());
        Self { version: VERSION, cluster, shape, changes: lines(changes), notes: notes.to_vec() }
    }
}

/// What is changed alike on several nodes is one line.
fn lines(changes: &[Change]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for Change { stage, of, what, takes } in changes {
        let same =
            |line: &&mut Line| line.stage == stage.name() && line.what == *what && line.takes == *takes;
        match lines.iter_mut().find(same) {
            Some(line) => line.of.push(of.clone()),
            None => lines.push(Line {
                stage: stage.name(),
                of: vec![of.clone()],
                what: what.clone(),
                takes: *takes,
            }),
        }
    }
    lines
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, shape, changes, notes, .. } = self;
        if changes.is_empty() {
            writeln!(f, "cluster {cluster}, {shape}: nothing is to be changed")?;
        } else {
            writeln!(f, "cluster {cluster}, {shape}: this is to be changed")?;
        }
        let mut stage = "";
        for line in changes {
            if line.stage != stage {
                stage = line.stage;
                writeln!(f, "\n{stage}")?;
            }
            let sign = if line.takes { '-' } else { '+' };
            writeln!(f, "  {sign} {}: {}", line.of.join(", "), line.what)?;
        }
        if !notes.is_empty() {
            writeln!(f)?;
        }
        notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// What was done.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    version: u32,
    cluster: String,
    shape: String,
    /// The last stage that was gone through.
    until: &'static str,
    changed: Vec<String>,
    stages: Vec<Took>,
    volumes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Took {
    stage: &'static str,
    ms: u64,
    changed: usize,
}

impl Done {
    pub(super) fn of(
        spec: &ClusterSpec,
        plan: &Plan,
        until: Stage,
        changed: Vec<String>,
        stages: Vec<StageTook>,
    ) -> Self {
        let took =
            |stage: StageTook| Took { stage: stage.stage.name(), ms: stage.ms, changed: stage.did.len() };
        Self {
            version: VERSION,
            cluster: spec.name.to_string(),
            shape: spec.shape().to_string(),
            until: until.name(),
            changed,
            stages: stages.into_iter().map(took).collect(),
            volumes: plan.volumes.iter().map(|volume| volume.name.to_string()).collect(),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, shape, until, changed, stages, volumes, .. } = self;
        let width = stages.iter().map(|took| took.stage.len()).max().unwrap_or(0);
        for Took { stage, ms, changed } in stages {
            let what = match changed {
                0 => "nothing was changed".to_owned(),
                1 => "1 change".to_owned(),
                count => format!("{count} changes"),
            };
            writeln!(
                f,
                "{stage:<width$}  {:6.1} s  {what}",
                std::time::Duration::from_millis(*ms).as_secs_f64()
            )?;
        }
        let is_whole = *until == Stage::Verification.name();
        let outcome = match (changed.is_empty(), is_whole) {
            (true, true) => {
                format!("nothing was changed: cluster {cluster}, {shape}, is as the template asks")
            }
            (true, false) => {
                format!("nothing was changed up to stage {until}, after which it stopped as it was told")
            }
            (false, true) => {
                format!("cluster {cluster}, {shape}, is deployed; volumes: {}", or_none(volumes))
            }
            (false, false) => format!(
                "stopped after stage {until}, as it was told; give the command again without --stop-after to go on"
            ),
        };
        writeln!(f, "\n{outcome}")?;
        if is_whole {
            writeln!(f, "`twinrack status` shows it, `twinrack verify` looks at it again")?;
        }
        Ok(())
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What a failure leaves.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    version: u32,
    /// What it failed with, and what to do about that.
    error: String,
    help: &'static str,
    did: Vec<String>,
    not: Vec<&'static str>,
    journal: String,
}

impl Failed {
    pub(super) fn of(
        past: &Past,
        did: Vec<String>,
        (failed_in, until): (Stage, Stage),
        journal: &Path,
        error: &DeploymentError,
    ) -> Self {
        let not = Stage::ALL.into_iter().filter(|stage| *stage >= failed_in && *stage <= until);
        let did = past.did.iter().cloned().chain(did).collect();
        let (not, journal) = (not.map(Stage::name).collect(), journal.display().to_string());
        Self { version: VERSION, error: error.to_string(), help: error.help(), did, not, journal }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.did.is_empty() {
            writeln!(f, "no step has changed anything so far")?;
        } else {
            writeln!(f, "done so far:")?;
            self.did.iter().try_for_each(|did| writeln!(f, "  {did}"))?;
        }
        writeln!(f, "not done: {}; of the step that failed a part may have been done", self.not.join(", "))?;
        write!(
            f,
            "to go on: see to what is said above and give the command again; what is done is found and let alone. The journal is {}",
            self.journal
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(stage: Stage, of: &str, what: &str) -> Change {
        Change { stage, of: of.to_owned(), what: what.to_owned(), takes: what.starts_with("remove") }
    }

    fn planned(changes: &[Change], notes: &[&str]) -> Planned {
        Planned {
            version: VERSION,
            cluster: "lab-2x2".to_owned(),
            shape: "2+2".to_owned(),
            changes: lines(changes),
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_alike_is_one_line() {
        let changes = [
            change(Stage::Network, "a1", "create bond team"),
            change(Stage::Network, "a1", "add 10.0.0.1/24 to team"),
            change(Stage::Network, "b1", "create bond team"),
            change(Stage::Network, "b1", "remove 10.0.0.9/24 from team"),
            change(Stage::Pool, "a1", "take drive S1"),
        ];
        insta::assert_snapshot!(
            planned(&changes, &["drive S9 of a1 is let alone: the system uses it"]).to_string()
        );
        insta::assert_snapshot!(planned(&[], &[]).to_string(), @"cluster lab-2x2, 2+2: nothing is to be changed");
    }

    #[test]
    fn what_was_done_is_said_and_so_is_that_nothing_was() {
        let done = |changed: &[&str], until: Stage| Done {
            version: VERSION,
            cluster: "lab-2x2".to_owned(),
            shape: "2+2".to_owned(),
            until: until.name(),
            changed: changed.iter().map(|&changed| changed.to_owned()).collect(),
            stages: vec![
                Took { stage: "network", ms: 4210, changed: changed.len() },
                Took { stage: "verification", ms: 90, changed: 0 },
            ],
            volumes: vec!["infrastructure".to_owned()],
        };
        let all = [
            done(&["a", "b"], Stage::Verification),
            done(&[], Stage::Verification),
            done(&["a"], Stage::Network),
            done(&[], Stage::Network),
        ];
        insta::assert_snapshot!(all.map(|done| done.to_string()).join("\n"));
    }

    #[test]
    fn a_failure_says_what_stands_and_how_to_go_on() {
        let past = Past { did: vec!["the ledger began on a1".to_owned()], ..Past::default() };
        let did = vec!["a2 joined".to_owned()];
        let error =
            DeploymentError::NotAsItHasToBe { what: "it is not", wrong: Vec::new(), help: "see to it" };
        let (stages, journal) = ((Stage::Quorum, Stage::Volumes), Path::new("plant.deployment.jsonl"));
        let failed = Failed::of(&past, did, stages, journal, &error);
        insta::assert_snapshot!(failed.to_string());
    }
}
