//! The deployment of a whole cluster from its specification (spec.md, "Deployment").
//!
//! ```text
//!   look ─► plan ─► (somebody confirms it) ─► network ─► network-validation ─► quorum ─► pool ─► volumes ─► verification
//!    └ preflight: all that is in the way, at once                each step in the journal, before and after
//! ```
//! Purpose: [`look`](fn@look) and [`plan`](fn@plan) say what would be done, [`deploy`] does it.
//!
//! Invariants: nothing is changed before everything was looked at and nothing is in the way. Every stage looks for itself and does only what is missing: a run that was killed anywhere is
//! gone on with by another, and one that is repeated changes nothing. A cluster that holds volumes is not put under load to measure it.
//!
//! On failure: [`DeploymentError`]: what failed and what to do; what was done is in the journal, and stands.

mod express;
mod growth;
mod look;
mod plan;
mod repair;
#[cfg(test)]
pub(crate) mod tests;

pub use express::CantSize;
pub(crate) use growth::{LEDGER_BOUND, is_closed};
pub use look::{Look, look};
pub use plan::{Aim, Change, InTheWay, Plan, Wishes, plan};
pub(crate) use plan::{usable_ledgers, what_it_says};
pub(crate) use repair::{have_room, make_copies};

use crate::journal::JournalError;
use crate::ledger::{self, LedgerError};
use crate::pool::{self, PoolError, VolumeRequest};
use crate::recorder::{Recorder, Stage};
use crate::verify::{Check, facts, verify};
use crate::{
    Cluster, DeployError, Load, MeshProbe, NetworkStage, RoundTrip, Transfer, crossings, mesh,
    network_beside, start_paths, storage_ways,
};
use api::Outcome;
use look::NEIGHBOURS_PATIENCE;
use model::{ClusterSpec, NodeName, Severity};
use network::measure::latency::{self, PROBES_MIN};
use network::measure::{Machines, bandwidth};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a volume may take until it is open with every copy in sync; emulated nodes take seconds for each, and some are made at once.
const VOLUME_BOUND: Duration = Duration::from_mins(2);
/// How many volumes are made at once. To open one costs its nodes a burst of work; nine at once took so much of emulated nodes on two processors that leases were lost.
const VOLUMES_AT_ONCE: usize = 4;
/// How long a node that comes back may take to join: what it owned is taken over before, and it catches up after.
const REJOIN_BOUND: Duration = Duration::from_mins(1);
/// How long it may take until a cluster that was just made is as it has to be: paths are heard and leases taken within seconds.
const VERIFY_BOUND: Duration = Duration::from_secs(30);
const VERIFY_POLL: Duration = Duration::from_millis(500);
/// How long all paths between the rooms are loaded at once, ms.
const LOAD_MS: u32 = 2000;

/// How a deployment is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The template's SHA-256, for the journal.
    pub template: String,
    /// The last stage that is gone through.
    pub until: Stage,
    /// On which port agents listen on their management addresses.
    pub agent_port: u16,
    /// What measured figures are worth.
    pub machines: Machines,
}

/// A deployment did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// Nothing was begun.
    #[error("nothing is changed: this is in the way\n{0}")]
    InTheWay(InTheWay),
    /// A node could not be asked, or a stage be carried out.
    #[error(transparent)]
    Stage(#[from] DeployError),
    /// The ledger, a drive or a volume is not as it shall be.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A node could not join the ledger again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What was done is not as it has to be.
    #[error("{what}:\n  {}", wrong.join("\n  "))]
    NotAsItHasToBe {
        /// What was looked at.
        what: &'static str,
        /// What is wrong, a sentence each.
        wrong: Vec<String>,
        /// What to do about it.
        help: &'static str,
    },
    /// Nothing is done that can't be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl DeploymentError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::InTheWay(_) => "see to each of these, and give the command again; nothing was changed",
            Self::Stage(error) => error.help(),
            Self::Pool(error) => error.help(),
            Self::Ledger(error) => error.help(),
            Self::NotAsItHasToBe { help, .. } => help,
            Self::Journal(error) => error.help(),
        }
    }

    /// The rule that is broken, where it is one of those that a deployment is checked against.
    pub fn rule(&self) -> Option<&'static model::rules::Rule> {
        match self {
            Self::Stage(error) => error.rule(),
            Self::Pool(error) => error.rule(),
            Self::InTheWay(_) | Self::Ledger(_) | Self::NotAsItHasToBe { .. } | Self::Journal(_) => None,
        }
    }
}

/// By what a template's specification is known again: SHA-256 of all that it asks for, hexadecimal.
pub fn digest(spec: &ClusterSpec) -> String {
    // Names, numbers and addresses: nothing here fails to serialise.
    let asked = serde_json::to_vec(spec).unwrap_or_default();
    Sha256::digest(asked).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Carries a plan out, stage by stage, and writes everything down. What is changed is in the recorder.
pub async fn deploy(
    cluster: &Cluster,
    plan: &Plan,
    order: &Order,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    let lines = plan.changes.iter().map(ToString::to_string).collect();
    recorder.run_begins(Some(order.template.clone()), lines)?;
    let result = stages(cluster, plan, order, recorder).await;
    recorder.run_ends(result)
}

async fn stages(
    cluster: &Cluster,
    plan: &Plan,
    order: &Order,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    for stage in Stage::ALL.into_iter().filter(|stage| *stage <= order.until) {
        match stage {
            // It is over: there would be no plan without it.
            Stage::Preflight => continue,
            _ => recorder.begin(stage),
        }
        match stage {
            Stage::Preflight => {}
            Stage::Network => {
                let links = network(cluster, &plan.serving);
                recorder.step("links, priorities and bandwidth of every node", links).await?;
            }
            Stage::NetworkValidation => validate_network(cluster, plan, order.machines, recorder).await?,
            Stage::Quorum => {
                if let Aim::Repair(name) = &plan.aim {
                    recorder
                        .step(format!("{name} in the ledger again"), rejoin(cluster, name, order))
                        .await?;
                }
                pool::quorum(cluster, order.agent_port, recorder).await?;
            }
            Stage::Pool => {
                if let Aim::Repair(name) = &plan.aim {
                    repair::give_up(cluster, name, &plan.lost, recorder).await?;
                }
                pool::drives(cluster, &plan.drives, &plan.wipe, recorder).await?;
            }
            Stage::Volumes => match &plan.aim {
                Aim::Deploy => volumes(cluster, &plan.volumes, recorder).await?,
                Aim::Grow => growth::spread(cluster, recorder).await?,
                Aim::Repair(name) => {
                    make_copies(cluster, &plan.lost, recorder).await?;
                    repair::up_to_date(cluster, name, recorder).await?;
                }
            },
            Stage::Verification => {
                recorder
                    .step("every check of `twinrack verify`", verification(cluster, order.machines))
                    .await?;
            }
        }
    }
    Ok(())
}

/// What a step found, and what it changed in words.
type Step<T> = Result<(T, Option<String>), DeploymentError>;

/// A node that has no ledger any more, or one that is lost, gets one under a new id. It waits until nobody counts on what it owned.
async fn rejoin(cluster: &Cluster, name: &NodeName, order: &Order) -> Step<()> {
    let address = cluster.members.iter().find(|member| member.name == *name);
    let address = address.map(|member| pool::address(cluster, member, order.agent_port)).transpose()?;
    let rejoined = ledger::rejoin(&cluster.members, name, address, REJOIN_BOUND).await?;
    Ok(((), (!rejoined.done.is_empty()).then(|| rejoined.done.join(", "))))
}

async fn network(cluster: &Cluster, serving: &BTreeSet<NodeName>) -> Step<()> {
    let (what, help) =
        ("a cable contradicts the template", "see to the cables, or to the template's zones and wiring");
    match network_beside(cluster, serving, NEIGHBOURS_PATIENCE).await? {
        NetworkStage::Refused(cabling) => {
            let wrong = cabling.errors().map(ToString::to_string).collect();
            Err(DeploymentError::NotAsItHasToBe { what, wrong, help })
        }
        NetworkStage::Applied { applied, .. } => {
            let wrong = applied.failures();
            if !wrong.is_empty() {
                let what = "the links could not be made as planned";
                let help = "nodes that changed something take it back by themselves within a minute; see to what is named, and go on";
                return Err(DeploymentError::NotAsItHasToBe { what, wrong, help });
            }
            let changed = applied.members.iter().filter(|(_, applied)| applied.outcome == Outcome::Applied);
            let names: Vec<String> = changed.map(|(node, _)| node.to_string()).collect();
            let did = (!names.is_empty()).then(|| format!("links were made on {}", names.join(", ")));
            Ok(((), did))
        }
    }
}

async fn validate_network(
    cluster: &Cluster,
    plan: &Plan,
    machines: Machines,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    recorder.step("everybody greets everybody on the storage networks", greeting(cluster)).await?;
    recorder.step("full-size packets pass undivided", full_size(cluster)).await?;
    recorder.step("storage networks are reached from nowhere else", isolation(cluster)).await?;
    let notes = recorder.step("round trips between the racks", round_trips(cluster, machines)).await?;
    recorder.notes(notes);
    if plan.is_idle {
        let notes =
            recorder.step("bandwidth between the racks", bandwidth_between(cluster, machines)).await?;
        recorder.notes(notes);
    } else {
        recorder.note("bandwidth is not measured: there are volumes, whose users would wait for it");
    }
    Ok(())
}

async fn greeting(cluster: &Cluster) -> Step<()> {
    start_paths(cluster).await?;
    Ok(((), None))
}

fn unless(wrong: Vec<String>, what: &'static str, help: &'static str) -> Result<(), DeploymentError> {
    if wrong.is_empty() { Ok(()) } else { Err(DeploymentError::NotAsItHasToBe { what, wrong, help }) }
}

async fn full_size(cluster: &Cluster) -> Step<()> {
    let trips = mesh(cluster, MeshProbe::FULL_SIZE).await?;
    let wrong = trips.iter().filter(|trip| !trip.is_complete()).map(said).collect();
    unless(
        wrong,
        "packets as large as the template asks for do not pass",
        "see that every switch port lets the MTU through",
    )?;
    Ok(((), None))
}

fn said(trip: &RoundTrip) -> String {
    format!("{trip} ({})", trip.rule().id)
}

async fn isolation(cluster: &Cluster) -> Step<()> {
    let crossings = crossings(cluster).await?;
    let crossed = crossings.iter().filter(|crossing| !crossing.is_isolated());
    let wrong = crossed.map(|crossing| format!("{crossing} ({})", crossing.rule().id)).collect();
    unless(
        wrong,
        "a storage network can be reached from outside",
        "see that no switch routes or bridges the storage VLANs",
    )?;
    Ok(((), None))
}

async fn round_trips(cluster: &Cluster, machines: Machines) -> Step<Vec<String>> {
    let trips = mesh(cluster, MeshProbe::round_trips(u16::try_from(PROBES_MIN).unwrap_or(u16::MAX))).await?;
    let ways = storage_ways(cluster, &trips);
    let judged = latency::judge(&ways, machines);
    let lost = trips.iter().filter(|trip| !trip.is_complete()).map(said);
    let far: Vec<String> =
        judged.findings.iter().map(|finding| format!("{finding} ({})", finding.id())).collect();
    // What emulated machines take is their host's: who deploys on them is told, and not refused.
    let (wrong, worth): (Vec<_>, Vec<_>) = match machines {
        Machines::Real => (lost.chain(far).collect(), Vec::new()),
        Machines::Emulated => (lost.collect(), far),
    };
    unless(
        wrong,
        "the racks are too far from each other",
        "see what is between the rooms: a round trip may take 1 ms",
    )?;
    let between = ways.iter().filter(|way| way.between_rooms).filter_map(|way| way.median_us).max();
    let p99 = trips.iter().filter_map(|trip| trip.answer.p99_us).max();
    let figures = between.zip(p99).map(|(median, p99)| {
        format!("round trips between the racks: median of the slowest way {median} µs, worst 99th percentile {p99} µs")
    });
    let worth = worth.into_iter().map(|far| format!("note: {far}"));
    Ok((figures.into_iter().chain(worth).collect(), None))
}

async fn bandwidth_between(cluster: &Cluster, machines: Machines) -> Step<Vec<String>> {
    let nics = cluster.storage_nics().await?;
    let load = Load { duration_ms: LOAD_MS, bytes: u64::MAX >> 24 };
    let transfers = cluster.transfer(&cluster.paths_between_rooms(), load).await?;
    let carried = cluster.carried_between_rooms(&transfers);
    let findings = bandwidth::check(bandwidth::Rule::of(&cluster.spec, &nics), &nics, &carried);
    let is_error = |finding: &&bandwidth::Finding| finding.severity(machines) == Severity::Error;
    let (failures, starved) = failures(cluster, &transfers, machines);
    let said = |finding: &bandwidth::Finding| format!("{finding} ({})", finding.id());
    let wrong = failures.into_iter().chain(findings.iter().filter(is_error).map(said)).collect();
    unless(
        wrong,
        "the way between the racks is too narrow",
        "see the speeds of storage NICs and of the links between the rooms",
    )?;
    let rates = carried.iter().map(|carried| {
        let (from, to, mbps) = (&carried.from_zone, &carried.to_zone, carried.bits_per_s / 1_000_000);
        format!("carried from {from} to {to}: {mbps} Mb/s")
    });
    let worth = findings.iter().filter(|finding| !is_error(finding));
    let worth = worth.map(|finding| format!("{}: {}", finding.severity(machines), said(finding)));
    Ok((rates.chain(worth).chain(starved).collect(), None))
}

/// What failed under load and is wrong, and what is only told. A node gives up its connections to one that it has not heard for a while. Real machines hear each other under any load, since heartbeats go first; of emulated ones
/// some get no processor time while all of them send, which is their host's. Where nothing came through on a storage network from one rack to the other, it is wrong on them, too.
fn failures(cluster: &Cluster, transfers: &[Transfer], machines: Machines) -> (Vec<String>, Vec<String>) {
    let way = |transfer: &Transfer| (transfer.path.network, cluster.zone_of(&transfer.path.from).cloned());
    let came_through = transfers.iter().filter(|transfer| transfer.failure().is_none());
    let carried: BTreeSet<_> = came_through.map(way).collect();
    let is_wrong = |transfer: &Transfer| machines == Machines::Real || !carried.contains(&way(transfer));
    let (mut wrong, mut told) = (Vec::new(), Vec::new());
    for transfer in transfers {
        match transfer.failure() {
            Some(failure) if is_wrong(transfer) => wrong.push(failure),
            Some(failure) => told.push(format!("note: {failure}")),
            None => {}
        }
    }
    (wrong, told)
}

/// A few at a time, which nodes make side by side.
async fn volumes(
    cluster: &Cluster,
    asked: &[VolumeRequest],
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    for (at, request) in asked.iter().enumerate() {
        if let Some(before) = at.checked_sub(VOLUMES_AT_ONCE) {
            volume_ready(cluster, &asked[before], recorder).await?;
        }
        let step = async {
            let is_new = pool::named(&cluster.members, request, VOLUME_BOUND).await?;
            let copies = request.mirror.legs();
            let did = format!("volume {} was made, with {copies} copies", request.name);
            Ok::<_, PoolError>(((), is_new.then_some(did)))
        };
        recorder.step(format!("volume {} in the ledger", request.name), step).await?;
    }
    for request in &asked[asked.len().saturating_sub(VOLUMES_AT_ONCE)..] {
        volume_ready(cluster, request, recorder).await?;
    }
    Ok(())
}

async fn volume_ready(
    cluster: &Cluster,
    VolumeRequest { name, .. }: &VolumeRequest,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    let step = async {
        pool::ready(&cluster.members, name, VOLUME_BOUND).await?;
        Ok::<_, PoolError>(((), None))
    };
    Ok(recorder.step(format!("volume {name} open, with every copy in sync"), step).await?)
}

/// Waits until everything is as it has to be, within a bound: what was just made settles.
pub(crate) async fn verification(cluster: &Cluster, machines: Machines) -> Step<()> {
    let deadline = Instant::now() + VERIFY_BOUND;
    loop {
        let checks = verify(&facts(&cluster.members).await);
        let failed: Vec<&Check> =
            checks.iter().filter(|check| !check.holds() && check.is_judged(machines)).collect();
        if failed.is_empty() {
            return Ok(((), None));
        }
        if Instant::now() >= deadline {
            let wrong = failed
                .iter()
                .flat_map(|check| check.wrong.iter().map(|wrong| format!("{}: {wrong}", check.id)));
            let what = "the cluster is not as it has to be";
            let help = "`twinrack verify` says how it is now, `twinrack status` how it is doing";
            return Err(DeploymentError::NotAsItHasToBe { what, wrong: wrong.collect(), help });
        }
        sleep(VERIFY_POLL).await;
    }
}
