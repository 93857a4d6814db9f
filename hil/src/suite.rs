//! Suites: failover tests as data.
//!
//! A suite is a TOML file of scenarios; a scenario is a few steps that read like its specification. Steps name rooms,
//! positions and storage networks, never switches or nodes by name, so that a suite runs on every shape and seed.
//! What a fault must be diagnosed as is not written down in the suite: the lab knows what it broke, and the step
//! `named` asks for exactly that, no more and no less.

mod defaults;
mod deploy_step;
mod drives;
mod error;
mod meaning;
mod needs;
mod settings;
mod step;
mod vm_step;
mod words;

pub use deploy_step::DeployStep;
pub use error::SuiteError;
pub use needs::Need;
pub use settings::{
    BadPlan, Damage, Death, DriveAt, Flapping, Held, Nics, NodeAt, Place, Room, SpineWay, SwitchFailure, Way,
    WhichDrive, Whom, Wrong,
};
pub use step::Step;
pub use vm_step::{FailoverStage, MigrationStage, Tie, VmStep};

use model::ClusterSpec;
use serde::Deserialize;

/// The suites that come with the harness, in the order in which they run.
const BUILT_IN: [(&str, &str); 59] = [
    ("wiring", include_str!("../suites/wiring.toml")),
    ("tor-loss", include_str!("../suites/tor-loss.toml")),
    ("room-link-loss", include_str!("../suites/room-link-loss.toml")),
    ("miswired-rack", include_str!("../suites/miswired-rack.toml")),
    ("miswired", include_str!("../suites/miswired.toml")),
    ("miswired-many", include_str!("../suites/miswired-many.toml")),
    ("drift", include_str!("../suites/drift.toml")),
    ("drift-many", include_str!("../suites/drift-many.toml")),
    ("room-cut-off", include_str!("../suites/room-cut-off.toml")),
    ("flapping-link", include_str!("../suites/flapping-link.toml")),
    ("spine-clean", include_str!("../suites/spine-clean.toml")),
    ("node-loss", include_str!("../suites/node-loss.toml")),
    ("node-frozen", include_str!("../suites/node-frozen.toml")),
    ("rack-loss", include_str!("../suites/rack-loss.toml")),
    ("drive-faults", include_str!("../suites/drive-faults.toml")),
    ("volume-drive-faults", include_str!("../suites/volume-drive-faults.toml")),
    ("volume-slow-drive", include_str!("../suites/volume-slow-drive.toml")),
    ("volume-rack-loss", include_str!("../suites/volume-rack-loss.toml")),
    ("volume-ten-losses", include_str!("../suites/volume-ten-losses.toml")),
    ("volume-outage", include_str!("../suites/volume-outage.toml")),
    ("volume-witness-loss", include_str!("../suites/volume-witness-loss.toml")),
    ("volume-network-loss", include_str!("../suites/volume-network-loss.toml")),
    ("volume-one-network", include_str!("../suites/volume-one-network.toml")),
    ("volume-room-cut", include_str!("../suites/volume-room-cut.toml")),
    ("volume-agent-killed", include_str!("../suites/volume-agent-killed.toml")),
    ("volume-owner-frozen", include_str!("../suites/volume-owner-frozen.toml")),
    ("volume-cold-start", include_str!("../suites/volume-cold-start.toml")),
    ("volume-returning-leg", include_str!("../suites/volume-returning-leg.toml")),
    ("volume-node-loss", include_str!("../suites/volume-node-loss.toml")),
    ("volume-flapping-link", include_str!("../suites/volume-flapping-link.toml")),
    ("volume-at-rest", include_str!("../suites/volume-at-rest.toml")),
    ("volume-clock-skew", include_str!("../suites/volume-clock-skew.toml")),
    ("volume-grow", include_str!("../suites/volume-grow.toml")),
    ("volume-hand-over", include_str!("../suites/volume-hand-over.toml")),
    ("volume-thin", include_str!("../suites/volume-thin.toml")),
    ("vm-drain", include_str!("../suites/vm-drain.toml")),
    ("vm-rack-loss", include_str!("../suites/vm-rack-loss.toml")),
    ("vm-migration-cut", include_str!("../suites/vm-migration-cut.toml")),
    ("vm-leader-loss", include_str!("../suites/vm-leader-loss.toml")),
    ("vm-flapping-rack", include_str!("../suites/vm-flapping-rack.toml")),
    ("vm-failover-table", include_str!("../suites/vm-failover-table.toml")),
    ("vm-save", include_str!("../suites/vm-save.toml")),
    ("vm-agent-hung", include_str!("../suites/vm-agent-hung.toml")),
    ("vm-ten-losses", include_str!("../suites/vm-ten-losses.toml")),
    ("vm-twenty", include_str!("../suites/vm-twenty.toml")),
    ("ledger-damaged", include_str!("../suites/ledger-damaged.toml")),
    ("ledger-disk-full", include_str!("../suites/ledger-disk-full.toml")),
    ("ledger-forced-quorum", include_str!("../suites/ledger-forced-quorum.toml")),
    ("bad-apply", include_str!("../suites/bad-apply.toml")),
    ("kill-matrix", include_str!("../suites/kill-matrix.toml")),
    ("healthy-hour", include_str!("../suites/healthy-hour.toml")),
    ("node-repair", include_str!("../suites/node-repair.toml")),
    // A drive leaves the pool in it, and what a lab's pool takes in is never wiped: no volume is made behind it.
    ("volume-online", include_str!("../suites/volume-online.toml")),
    // A pair is blank in the middle of it, and its drives are taken in again, which have left the pool.
    ("node-remove", include_str!("../suites/node-remove.toml")),
    // These make everything blank, and leave the volumes of a whole cluster.
    ("deploy", include_str!("../suites/deploy.toml")),
    ("deploy-plain", include_str!("../suites/deploy-plain.toml")),
    ("deploy-killed", include_str!("../suites/deploy-killed.toml")),
    ("scale-out-loss", include_str!("../suites/scale-out-loss.toml")),
    ("scale-out", include_str!("../suites/scale-out.toml")),
];

/// A suite file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Its name, which is its file's.
    pub name: String,
    /// What it shows, in a sentence.
    pub title: String,
    /// The sets that it belongs to.
    pub sets: Vec<Set>,
    /// What the cluster must have for the suite to make sense.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// Its scenarios, in order.
    #[serde(rename = "scenario")]
    pub scenarios: Vec<Scenario>,
}

impl Suite {
    /// Whether its nodes need an agent that has volumes.
    pub fn makes_volumes(&self) -> bool {
        let steps = self.scenarios.iter().flat_map(|scenario| &scenario.steps);
        steps.into_iter().any(|step| matches!(step, Step::MakeVolume { .. } | Step::Deployment(_)))
    }

    /// Whether its nodes need what runs virtual machines.
    pub fn runs_vms(&self) -> bool {
        let steps = self.scenarios.iter().flat_map(|scenario| &scenario.steps);
        steps.into_iter().any(|step| matches!(step, Step::Vm(_)))
    }
}

/// A set of suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// What a plain run does; minutes.
    Default,
    /// Everything but what is run by name only.
    Nightly,
}

/// One story of a suite, from a healthy cluster to a healthy cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about.
    pub name: String,
    /// How often it runs, one time after the other.
    #[serde(default = "once")]
    pub repeat: usize,
    /// What the cluster must have for it, besides what the suite needs.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// How many faults it makes at once.
    #[serde(default)]
    pub fault_budget: usize,
    /// How often nodes may reset themselves in it, their last resort.
    #[serde(default)]
    pub resets_at_most: usize,
    /// Within what time after the last fault is undone all must be well again, milliseconds.
    pub bound_ms: u64,
    /// What happens.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

fn once() -> usize {
    1
}

impl Suite {
    /// Reads a suite's text and checks it against its own declarations. What is to be repeated stands as often in it, numbered.
    pub fn parse(name: &str, text: &str) -> Result<Self, SuiteError> {
        let mut suite: Self =
            toml::from_str(text).map_err(|source| SuiteError::Syntax { name: name.to_owned(), source })?;
        suite.scenarios = suite.scenarios.iter().flat_map(Scenario::repeated).collect();
        let empty = |what: &str| SuiteError::Empty { suite: suite.name.clone(), what: what.to_owned() };
        if suite.scenarios.is_empty() {
            return Err(empty("its list of scenarios"));
        }
        for scenario in &suite.scenarios {
            if scenario.steps.is_empty() {
                return Err(empty(&format!("scenario `{}`", scenario.name)));
            }
            scenario.check_budget(&suite.name)?;
        }
        Ok(suite)
    }

    /// What the harness does by itself, as if a suite had asked for it.
    pub(crate) fn of_one_step(name: &str, title: &str, step: Step) -> Self {
        let scenario = Scenario {
            name: step.to_string(),
            repeat: 1,
            needs: Vec::new(),
            fault_budget: 0,
            resets_at_most: 0,
            bound_ms: 0,
            steps: vec![step],
        };
        let (name, title) = (name.to_owned(), title.to_owned());
        Self { name, title, sets: Vec::new(), needs: Vec::new(), scenarios: vec![scenario] }
    }

    /// Why a scenario makes no sense on a cluster; `None`: it does.
    pub fn unmet(&self, scenario: &Scenario, spec: &ClusterSpec) -> Option<String> {
        let needs = self.needs.iter().chain(&scenario.needs);
        let unmet = needs.copied().find_map(|need| need.unmet(spec)).map(ToOwned::to_owned);
        unmet.or_else(|| scenario.steps.iter().find_map(|step| step.missing(spec)))
    }

    /// The suites of these names, in the order given; with no names, those of the set.
    pub fn select(names: &[String], set: Set) -> Result<Vec<Self>, SuiteError> {
        let read = |(name, text): &(&str, &str)| Self::parse(name, text);
        if names.is_empty() {
            let all = BUILT_IN.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            return Ok(all.into_iter().filter(|suite| suite.sets.contains(&set)).collect());
        }
        names
            .iter()
            .map(|name| {
                let found = BUILT_IN.iter().find(|(known, _)| known == name);
                read(found.ok_or_else(|| SuiteError::Unknown {
                    name: name.clone(),
                    known: BUILT_IN.map(|(known, _)| known).join(", "),
                })?)
            })
            .collect()
    }
}

impl Scenario {
    fn repeated(&self) -> Vec<Self> {
        let numbered = |number| match self.repeat {
            1 => self.name.clone(),
            times => format!("{} ({number} of {times})", self.name),
        };
        (1..=self.repeat).map(|number| Self { name: numbered(number), repeat: 1, ..self.clone() }).collect()
    }

    fn check_budget(&self, suite: &str) -> Result<(), SuiteError> {
        let mut in_force: Vec<&Step> = Vec::new();
        let mut most = 0;
        let (suite, scenario) = (suite.to_owned(), self.name.clone());
        if self.steps.iter().rev().skip(1).any(|step| matches!(step, Step::Judge {})) {
            return Err(SuiteError::AfterJudgement { suite, scenario });
        }
        for step in &self.steps {
            let before = in_force.len();
            in_force.retain(|fault| !step.undoes(fault));
            // Of what was taken from everything at once, some may come back before the others.
            let undoes_nothing =
                in_force.len() == before && !in_force.iter().any(|fault| step.undoes_part(fault));
            if undoes_nothing && step.only_undoes() {
                return Err(SuiteError::NothingToUndo { suite, scenario, step: step.to_string() });
            }
            in_force.extend(step.is_fault().then_some(step));
            most = most.max(in_force.len());
        }
        in_force.retain(|fault| !matches!(fault, Step::PowerCycle { .. }));
        if most > self.fault_budget {
            return Err(SuiteError::OverBudget { suite, scenario, faults: most, budget: self.fault_budget });
        }
        if in_force.is_empty() { Ok(()) } else { Err(SuiteError::EndsBroken { suite, scenario }) }
    }
}

#[cfg(test)]
#[path = "suite_tests.rs"]
mod tests;
