//! What there is on the nodes, before anything is changed.
//!
//! On failure: [`DeployError`]: who does not answer can't be deployed to.

use crate::pool::{chain, confirmed};
use crate::{Cabling, Cluster, DeployError, cabling, read_back};
use api::{DriveContents, NodeLedger};
use control::State;
use futures_util::future::{join_all, try_join_all};
use model::{Inventory, NodeName};
use network::Op;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the first neighbours may take to be heard: switches announce themselves every 30 s (IEEE 802.1AB-2016, 9.2.5.7), and new neighbours at once.
pub(super) const NEIGHBOURS_PATIENCE: Duration = Duration::from_secs(35);
/// How long a ledger that is there may take to say what it says.
const LEDGER_BOUND: Duration = Duration::from_secs(30);

/// How long nodes of a cluster may take until their links are as they were planned.
const LINKS_BOUND: Duration = Duration::from_secs(15);
const LINKS_POLL: Duration = Duration::from_millis(500);

/// What there is.
#[derive(Debug)]
pub struct Look {
    /// What each member has.
    pub inventories: BTreeMap<NodeName, Inventory>,
    /// What is on the drives of each node; the witness has none of the pool's.
    pub contents: BTreeMap<NodeName, Vec<DriveContents>>,
    /// Who is cabled to whom.
    pub cabling: Cabling,
    /// What each member's links lack; or why that can't be said.
    pub links: Result<Vec<(NodeName, Vec<Op>)>, String>,
    /// How each member's ledger is.
    pub ledgers: BTreeMap<NodeName, NodeLedger>,
    /// What the ledger says by the word of a quorum; or why it says nothing, where somebody has one.
    pub ledger: Option<Result<State, String>>,
}

/// Looks. Nothing is changed.
pub async fn look(cluster: &mut Cluster) -> Result<Look, DeployError> {
    let (ledgers, ledger) = ledgers(cluster).await?;
    cluster.learn_adapters().await?;
    cluster.learn_speeds().await?;
    let cluster = &*cluster;
    let named = |all: Vec<Inventory>| {
        let names = cluster.members.iter().map(|member| member.name.clone());
        names.zip(all).collect::<BTreeMap<_, _>>()
    };
    let inventories = named(cluster.inventories().await?);
    let contents = try_join_all(cluster.nodes().map(|(member, _)| async {
        Ok::<_, DeployError>((member.name.clone(), member.client.pool_drives().await?.drives))
    }));
    let contents = contents.await?.into_iter().collect();
    let cabling = cabling(cluster, NEIGHBOURS_PATIENCE).await?;
    let links = links(cluster, ledger.is_some()).await;
    Ok(Look { inventories, contents, cabling, links, ledgers, ledger })
}

/// Each member's ledger, and what a quorum says. While nodes leave, one that has left, and has no ledger or does not answer, is no member any more, whatever the template says.
async fn ledgers(
    cluster: &mut Cluster,
) -> Result<(BTreeMap<NodeName, NodeLedger>, Option<Result<State, String>>), DeployError> {
    let answers = join_all(cluster.members.iter().map(|member| member.client.ledger())).await;
    let has_one = |answer: &Result<NodeLedger, _>| {
        matches!(answer, Ok(NodeLedger::Open(_) | NodeLedger::Closed { .. }))
    };
    let ledger = if answers.iter().any(has_one) {
        let said = confirmed(&cluster.members, LEDGER_BOUND).await;
        Some(said.map(|(_, state)| state).map_err(|error| chain(&error)))
    } else {
        None
    };
    let mut left = BTreeSet::new();
    if let Some(Ok(state)) = &ledger
        && state.leaving().next().is_some()
    {
        let is_there = |answer: &Result<NodeLedger, _>| !matches!(answer, Ok(NodeLedger::None {}) | Err(_));
        let gone = cluster.members.iter().zip(&answers).filter(|(_, answer)| !is_there(answer));
        left.extend(gone.map(|(member, _)| member.name.clone()).filter(|name| state.needs_none_of(name)));
    }
    let mut ledgers = BTreeMap::new();
    for (member, answer) in cluster.members.iter().zip(answers) {
        if !left.contains(&member.name) {
            ledgers.insert(member.name.clone(), answer?);
        }
    }
    *cluster = cluster.without(&left);
    Ok((ledgers, ledger))
}

/// What links lack. Nodes that are part of a cluster make them by themselves, after a start or a drift: that is waited for.
async fn links(cluster: &Cluster, is_cluster: bool) -> Result<Vec<(NodeName, Vec<Op>)>, String> {
    let deadline = Instant::now() + LINKS_BOUND;
    loop {
        let lack = read_back(cluster).await.map_err(|error| chain(&error))?;
        let is_made = lack.iter().all(|(_, ops)| ops.is_empty());
        if is_made || !is_cluster || Instant::now() >= deadline {
            return Ok(lack);
        }
        sleep(LINKS_POLL).await;
    }
}
