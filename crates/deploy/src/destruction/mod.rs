//! A whole cluster is given back: every node as it was found, and nothing else (`twinrack destroy`).
//!
//! ```text
//!   look ─► plan ─► (somebody confirms it) ─► volumes: virtual machines and volumes are deleted
//!    └ all that is in the way, at once         pool: the ledger says that the cluster is dissolved ─► everybody knows ─► each node: drives blank, ledger removed
//!                                              network: links as they were found ─► verification
//! ```
//! Purpose: [`look`] and [`plan`] say what would be lost, [`destroy`] does it. A deployment backwards, with its stages' names.
//!
//! Invariants: nothing is changed before everything was looked at and nothing is in the way. No drive is made blank before the ledger says that the cluster is dissolved, which takes that it has no volumes and gets none any more;
//! from then on no quorum is needed, so it does not matter in which order nodes leave, nor where it was interrupted: each step is seen from what is there.
//!
//! On failure: [`DeploymentError`]; what was given back stays so, and the same command goes on.

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{Plan, plan};

use crate::deployment::DeploymentError;
use crate::pool::{self, POLL, PoolError, chain, confirmed, settle, until_seen, view};
use crate::recorder::{Recorder, Stage};
use crate::{Cluster, DeployError, Member, vms};
use api::{
    ClientError, ClusterView, DriveContents, Failure, GiveUpRequest, GivenBack, NodeLedger, OpenLedger,
    WayHome,
};
use control::vm::Wanted;
use control::{ClusterCommand, Command, State};
use futures_util::future::try_join_all;
use model::{NodeName, VmId, VmName, VolumeId, VolumeName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long one step may take: a virtual machine may take its time to shut down, a volume's users theirs to end.
const STEP_BOUND: Duration = Duration::from_mins(2);

/// How long an agent may take to answer.
const AGENTS_BOUND: Duration = Duration::from_secs(15);

/// What there is.
#[derive(Debug)]
pub struct Look {
    /// How each member's ledger is.
    pub ledgers: BTreeMap<NodeName, NodeLedger>,
    /// What the ledger says, by the word of a quorum, or by anybody's that the cluster is dissolved; or why nobody says anything. `None`: nobody has a ledger.
    pub ledger: Option<Result<State, String>>,
    /// What is on the drives of each node.
    pub contents: BTreeMap<NodeName, Vec<DriveContents>>,
    /// What leads each member's links back to where they were found.
    pub ways: BTreeMap<NodeName, WayHome>,
}

/// Looks. Nothing is changed.
pub async fn look(cluster: &Cluster) -> Result<Look, DeployError> {
    Ok(of_answers(cluster, cluster.ask_all(look_at).await?).await)
}

/// What a member answered.
pub(crate) type Answer = (NodeLedger, WayHome, Vec<DriveContents>);

/// One of each member, in their order.
pub(crate) async fn of_answers(cluster: &Cluster, answers: Vec<Answer>) -> Look {
    let (mut ledgers, mut ways, mut contents) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (member, (ledger, way, drives)) in cluster.members.iter().zip(answers) {
        ledgers.insert(member.name.clone(), ledger);
        ways.insert(member.name.clone(), way);
        if member.zone.is_some() {
            contents.insert(member.name.clone(), drives);
        }
    }
    let ledger = if ledgers.values().any(|ledger| !matches!(ledger, NodeLedger::None {})) {
        Some(said(cluster).await.map_err(|error| chain(&error)))
    } else {
        None
    };
    Look { ledgers, ledger, contents, ways }
}

/// One member, whose agent may be beginning anew: it does when it has just given its ledger up.
pub(crate) async fn look_at(member: &Member) -> Result<Answer, ClientError> {
    let deadline = Instant::now() + AGENTS_BOUND;
    loop {
        let asked = async {
            let (ledger, way) = (member.client.ledger().await?, member.client.way_home().await?);
            let drives =
                if member.zone.is_some() { member.client.pool_drives().await?.drives } else { Vec::new() };
            Ok((ledger, way, drives))
        };
        match asked.await {
            Err(error) if is_unanswered(&error) && Instant::now() < deadline => sleep(POLL).await,
            answer => return answer,
        }
    }
}

fn is_unanswered(error: &ClientError) -> bool {
    !matches!(error.failure(), Some(Failure::Problem { .. }))
}

/// What the ledger says. That the cluster is dissolved is final, whoever says it; anything else is a quorum's word.
async fn said(cluster: &Cluster) -> Result<State, PoolError> {
    for member in &cluster.members {
        // One whose ledger can't be used says nothing, and is in the way by that.
        if let Ok(Some(view)) = view(member).await
            && view.state.dissolved
        {
            return Ok(view.state);
        }
    }
    confirmed(&cluster.members, STEP_BOUND).await.map(|(_, state)| state)
}

/// What a step found, and what it changed in words.
type Step<T> = Result<(T, Option<String>), DeploymentError>;

/// Carries a plan out, stage by stage, and writes everything down.
pub async fn destroy(
    cluster: &Cluster,
    plan: &Plan,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    recorder.run_begins(None, plan.changes.iter().map(ToString::to_string).collect())?;
    let result = stages(cluster, plan, recorder).await;
    recorder.run_ends(result)
}

async fn stages(cluster: &Cluster, plan: &Plan, recorder: &mut Recorder<'_>) -> Result<(), DeploymentError> {
    recorder.begin(Stage::Volumes);
    for (id, name) in &plan.vms {
        recorder.step(format!("virtual machine {name}"), vm(cluster, *id, name)).await?;
    }
    for (id, name) in &plan.volumes {
        recorder.step(format!("volume {name}"), volume(cluster, *id, name)).await?;
    }
    recorder.begin(Stage::Pool);
    if !plan.members.is_empty() {
        recorder.step("the cluster is dissolved", dissolve(cluster, plan)).await?;
    }
    for name in plan.members.keys() {
        recorder.step(format!("drives and ledger of {name}"), leave(member(cluster, name)?)).await?;
    }
    recorder.begin(Stage::Network);
    let notes = recorder.step("links of every node", links(cluster)).await?;
    recorder.notes(notes);
    recorder.begin(Stage::Verification);
    recorder.step("every node is as it was found", verification(cluster, plan)).await?;
    Ok(())
}

fn member<'a>(cluster: &'a Cluster, name: &NodeName) -> Result<&'a Member, PoolError> {
    let found = cluster.members.iter().find(|member| member.name == *name);
    found.ok_or_else(|| PoolError::NoAddress { node: name.clone() })
}

async fn vm(cluster: &Cluster, id: VmId, name: &VmName) -> Step<()> {
    let members = &cluster.members;
    let gone = vms::want(members, id, Wanted::Stopped, STEP_BOUND, |_| {}).await;
    match gone {
        // Somebody has deleted it meanwhile, or an earlier run has.
        Err(vms::VmsError::NoVm(_)) => return Ok(((), None)),
        stopped => stopped.map_err(DeployError::from)?,
    }
    vms::delete(members, id, STEP_BOUND).await.map_err(DeployError::from)?;
    Ok(((), Some(format!("virtual machine {name} was deleted"))))
}

async fn volume(cluster: &Cluster, id: VolumeId, name: &VolumeName) -> Step<()> {
    pool::delete(&cluster.members, id, true, STEP_BOUND).await?;
    Ok(((), Some(format!("volume {name} was deleted"))))
}

/// The ledger says that the cluster is dissolved, and each who has it has read that: nobody needs the others any more.
async fn dissolve(cluster: &Cluster, plan: &Plan) -> Step<()> {
    let mut did = None;
    // Whoever said so may have left.
    if !plan.dissolved && !said(cluster).await?.dissolved {
        let (contact, _) = confirmed(&cluster.members, STEP_BOUND).await?;
        // Refused if the ledger has another by now: nobody would tell that one.
        let command = Command::Cluster(ClusterCommand::Dissolve { nodes: plan.nodes.clone() });
        // It is refused until the targets have let go of the last legs.
        settle(contact, "the cluster to be dissolved", STEP_BOUND, &command, |state| state.dissolved).await?;
        did = Some("the cluster was dissolved".to_owned());
    }
    let all = plan.members.keys().map(|name| async move {
        let what = format!("{name} to know that the cluster is dissolved");
        until_seen(member(cluster, name)?, &what, STEP_BOUND, |view| knows(plan, view)).await
    });
    try_join_all(all).await?;
    Ok(((), did))
}

/// Whether a member knows that the cluster is dissolved. One without a ledger may have left since the plan was made, if that was known by then: a run that was killed had asked it to.
fn knows(plan: &Plan, view: Option<&ClusterView>) -> bool {
    view.map_or(plan.dissolved, |view| view.state.dissolved)
}

/// A node makes its drives blank, removes its ledger, and begins anew.
pub(crate) async fn leave(member: &Member) -> Step<()> {
    let name = &member.name;
    let deadline = Instant::now() + STEP_BOUND;
    let mut did = None;
    loop {
        // Its agent may be beginning anew, and its last answer may have been lost with that.
        let last = match member.client.ledger().await {
            Ok(NodeLedger::None {}) => return Ok(((), did)),
            Ok(NodeLedger::Closed { why, .. }) => why,
            Ok(NodeLedger::Open(OpenLedger { node, incarnation, .. })) => {
                let done = member.client.give_drives_back(&GiveUpRequest { node, incarnation }).await;
                did = Some(match &done {
                    Ok(given) => {
                        format!("{name} has left, with {} drives that are blank now", given.drives.len())
                    }
                    Err(_) => format!("{name} has left"),
                });
                done.err().map_or_else(|| "it begins anew".to_owned(), |error| chain(&error))
            }
            Err(error) => chain(&error),
        };
        if Instant::now() >= deadline {
            let what = format!("{name} to give its drives back");
            return Err(PoolError::Late { what, bound: STEP_BOUND, last: Some(last) }.into());
        }
        sleep(POLL).await;
    }
}

/// Links are as they were found; which stay as they are, is told.
pub(crate) async fn links(cluster: &Cluster) -> Step<Vec<String>> {
    let given = try_join_all(cluster.members.iter().map(links_of)).await?;
    let (mut names, mut notes) = (Vec::new(), Vec::new());
    for (member, GivenBack { changed, unknown }) in cluster.members.iter().zip(given) {
        if changed {
            names.push(member.name.as_str());
        }
        notes.extend(unknown.map(|why| format!("links of {} stay as they are: {why}", member.name)));
    }
    let did = (!names.is_empty()).then(|| format!("links are as they were found on {}", names.join(", ")));
    Ok((notes, did))
}

async fn links_of(member: &Member) -> Result<GivenBack, PoolError> {
    let deadline = Instant::now() + STEP_BOUND;
    let mut asked_before = false;
    loop {
        match member.client.give_links_back().await {
            // An answer that was lost may have been that they were.
            Ok(given) => return Ok(GivenBack { changed: given.changed || asked_before, ..given }),
            Err(error) if Instant::now() >= deadline => {
                let what = format!("{} to give its links back", member.name);
                return Err(PoolError::Late { what, bound: STEP_BOUND, last: Some(chain(&error)) });
            }
            // The way to it may be gone for a moment with them; what fails there, it tries again.
            Err(_) => asked_before = true,
        }
        sleep(POLL).await;
    }
}

async fn verification(cluster: &Cluster, done: &Plan) -> Step<()> {
    let left = plan(cluster, &look(cluster).await?).map_err(DeploymentError::InTheWay)?;
    let mut wrong: Vec<String> = left.changes.iter().map(ToString::to_string).collect();
    wrong.extend(left.notes.iter().filter(|note| !done.notes.contains(note)).cloned());
    if wrong.is_empty() {
        return Ok(((), None));
    }
    let (what, help) =
        ("this is left", "give the command again; what is left after that, the agents' journals say");
    Err(DeploymentError::NotAsItHasToBe { what, wrong, help })
}
