//! The cabling stage: who is cabled to whom, and whether that is what the template says.

use crate::{Cluster, DeployError};
use model::Severity;
use network::wiring::{self, CablingMaps, NodeCabling, Recognised, WiringFinding};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often neighbours are asked for while some are missing.
const POLL: Duration = Duration::from_millis(200);

/// What the cabling is.
#[derive(Debug, Clone)]
pub struct Cabling {
    /// What every NIC sees.
    pub seen: Vec<NodeCabling>,
    /// The same by node, by switch, and by cable.
    pub maps: CablingMaps,
    /// Which of the reference wirings it is.
    pub wiring: Recognised,
    /// What is wrong with it.
    pub findings: Vec<WiringFinding>,
}

impl Cabling {
    /// Why a deployment refuses it; nothing: it doesn't.
    pub fn errors(&self) -> impl Iterator<Item = &WiringFinding> {
        self.findings.iter().filter(|finding| finding.severity() == Severity::Error)
    }
}

/// Looks at the cabling of all members. Switches announce themselves at intervals: until every NIC has a neighbour,
/// it is waited for at most `patience`.
pub async fn cabling(cluster: &Cluster, patience: Duration) -> Result<Cabling, DeployError> {
    let deadline = Instant::now() + patience;
    loop {
        let next = Instant::now() + POLL;
        let seen = observe(cluster).await?;
        let complete = seen.iter().all(|node| node.nics.iter().all(|nic| nic.seen().is_some()));
        if complete || next > deadline {
            return Ok(judge(cluster, seen));
        }
        sleep_until(next).await;
    }
}

fn judge(cluster: &Cluster, seen: Vec<NodeCabling>) -> Cabling {
    Cabling {
        maps: wiring::maps(&seen),
        wiring: wiring::recognise(&cluster.spec, &seen),
        findings: wiring::check(&cluster.spec, &seen),
        seen,
    }
}

/// What every NIC of every member sees now.
async fn observe(cluster: &Cluster) -> Result<Vec<NodeCabling>, DeployError> {
    let answers = cluster.ask_all(|member| member.client.neighbours()).await?;
    let cabled = cluster.members.iter().zip(answers).map(|(member, answer)| NodeCabling {
        zone: member.zone.clone(),
        node: member.name.clone(),
        nics: answer.nics.iter().map(|nic| nic.cabling(cluster.traffic(&nic.adapter))).collect(),
    });
    Ok(cabled.collect())
}
