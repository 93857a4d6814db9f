//! A cluster that is given back: every node is as it was when it was blank.
//!
//! Invariants: what nodes were like is looked at when all of them are blank, and what they are like then in the same way: links by their agents, what the kernel has of drives and targets by the lab's own hands, what is on drives in
//! their files, from outside.
//!
//! On failure: what is not as it was is told, node by node.

use super::deployment::{End, INTO_STEP_MAX_MS, failed, late};
use super::{Runner, Seen, milliseconds};
use crate::lab::{LabError, LabNode};
use crate::run::RunError;
use model::NodeName;
use network::CurrentLinks;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Where a kernel shows what it has of a cluster: block devices (dm and md among them), NVMe controllers, and a target's ports, hosts and subsystems.
const TRACES: [&str; 5] = [
    "/sys/block",
    "/sys/class/nvme",
    "/sys/kernel/config/nvmet/hosts",
    "/sys/kernel/config/nvmet/ports",
    "/sys/kernel/config/nvmet/subsystems",
];

/// What a node is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    links: CurrentLinks,
    traces: BTreeSet<String>,
}

impl LabNode {
    /// What its kernel has, by name. A folder that is not there has nothing in it.
    async fn traces(&self) -> Result<BTreeSet<String>, LabError> {
        self.listed(&TRACES).await
    }

    /// What its kernel has of a cluster, whatever it was found with: all that a target has, and devices that stand on others.
    pub(super) async fn has_of_a_cluster(&self) -> Result<BTreeSet<String>, LabError> {
        let target = self.listed(&TRACES[2..]).await?;
        let blocks = self.listed(&TRACES[..1]).await?;
        let stands = |name: &String| {
            let name = name.rsplit('/').next().unwrap_or_default();
            name.starts_with("dm-") || name.starts_with("md")
        };
        Ok(blocks.into_iter().filter(stands).chain(target).collect())
    }

    async fn listed(&self, folders: &[&str]) -> Result<BTreeSet<String>, LabError> {
        let failed = |source| LabError::Hands { node: self.name().to_string(), source };
        let mut hands = self.hands_or_lab_error().await?;
        let output = hands.run(&[&["@list"][..], folders].concat()).await.map_err(failed)?;
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }
}

impl Runner<'_> {
    /// What every node is like now.
    pub(super) async fn found(&self) -> Result<BTreeMap<NodeName, Found>, RunError> {
        let mut all = BTreeMap::new();
        for member in &self.cluster.members {
            let Some(node) = self.lab.nodes().get(&member.name) else { continue };
            let mut links = member.client.network().await.map_err(deploy::DeployError::from)?.links;
            // A link that was made anew has another number.
            links.links.values_mut().for_each(|link| link.index = 0);
            all.insert(member.name.clone(), Found { links, traces: node.traces().await? });
        }
        Ok(all)
    }

    /// The cluster is given back, by a process that is killed on the way; then nodes are as they were.
    pub(super) async fn destroy_whole(&mut self, kills: u32, bound: Duration) -> Result<Seen, RunError> {
        let files = self.destruction_files()?;
        let begun = Instant::now();
        let mut killed = Vec::new();
        let steps = u64::from(self.steps_of_a_destruction());
        for number in 0..kills {
            // First anywhere in the first half, then as soon as what was interrupted is gone on with: the last runs have two steps.
            let (steps, into_ms) = if number == 0 { (steps / 2, INTO_STEP_MAX_MS) } else { (2, 1) };
            let (step, into) = (self.draw(0..steps), Duration::from_millis(self.draw(0..into_ms)));
            match self.run_deployment(&files, Some((step, into)), begun + bound).await? {
                End::Killed { step, .. } => killed.push(step),
                End::Itself(status) if status.success() => {
                    return Ok(Seen::not(format!(
                        "it was done before it was killed {kills} times, only in: {killed:?}"
                    )));
                }
                End::Itself(status) => return Ok(failed(&files, status, &killed)),
                End::Late => return Ok(late(&files, bound, &killed)),
            }
        }
        match self.run_deployment(&files, None, begun + bound).await? {
            End::Itself(status) if status.success() => {}
            End::Itself(status) => return Ok(failed(&files, status, &killed)),
            End::Killed { .. } | End::Late => return Ok(late(&files, bound, &killed)),
        }
        let (took, changes) = (milliseconds(begun.elapsed()), files.did());
        let mut wrong = self.is_not_as_found().await?;
        if let End::Itself(status) = self.run_deployment(&files, None, begun + bound).await?
            && !(status.success() && files.did() == changes)
        {
            wrong.push(format!("once more: it ended with {status}, and {} changes", files.did() - changes));
        }
        let seen = format!(
            "after {took} ms, {changes} changes, killed {} times in: {}",
            killed.len(),
            killed.join("; ")
        );
        Ok(Seen::unless(&wrong, seen).measuring(took))
    }

    async fn is_not_as_found(&self) -> Result<Vec<String>, RunError> {
        let mut wrong = Vec::new();
        let now = self.found().await?;
        for (name, node) in self.lab.nodes() {
            let (Some(now), Some(then)) = (now.get(name), self.found.get(name)) else {
                wrong.push(format!("{name} was never seen blank"));
                continue;
            };
            let traces = |from: &Found, than: &Found| {
                from.traces.difference(&than.traces).cloned().collect::<Vec<_>>()
            };
            let (more, less) = (traces(now, then), traces(then, now));
            if !(more.is_empty() && less.is_empty()) {
                wrong.push(format!("{name}: its kernel has {more:?}, and lacks {less:?}"));
            }
            wrong.extend(other_links(name, &then.links, &now.links));
            let drives = node.drives_that_hold()?;
            wrong.extend(drives.into_iter().map(|drive| format!("{name}: drive {drive} is not blank")));
        }
        Ok(wrong)
    }
}

/// What of a node's links is another than before.
fn other_links(name: &NodeName, then: &CurrentLinks, now: &CurrentLinks) -> Vec<String> {
    let names: BTreeSet<_> = then.links.keys().chain(now.links.keys()).collect();
    let other = |link: &&network::LinkName| then.get(link) != now.get(link);
    let told = |link| format!("{name}: link {link} is {:?}, and was {:?}", now.get(link), then.get(link));
    names.into_iter().filter(other).map(told).collect()
}
