//! What must hold, looked at for real: on every node, and in the fabric's counters.

use super::refusal::{JudgedBy, complaints};
use super::spine::on_spine;
use super::{NEIGHBOURS_PATIENCE, Runner, Seen, inventory};
use crate::lab::faults::{LabCable, Made};
use crate::run::RunError;
use deploy::{Cabling, DeployError, MeshProbe, NetworkStage, RoundTrip};
use fabric::Role;
use model::{Severity, Wiring};
use network::Generation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep, sleep_until};

/// How long a moved cable may take to be heard of: the switch announces itself at once, the old one's word lives 4 s.
const REFUSAL_BOUND: Duration = Duration::from_secs(10);
/// How long a deployment that must refuse waits for neighbours: the cabling was seen to be wrong already.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long after a change a kernel may still report what follows from it: it looks at carriers once a second
/// (`linkwatch_urgent_event` and `linkwatch_nextevent`, `net/core/link_watch.c`).
const AFTERMATH: Duration = Duration::from_millis(1500);
/// So long after a port was put into a bridge the kernel tells of it once more, whether or not anything changed
/// (`br_make_forwarding` and `br_forward_delay_timer_expired`, `net/bridge/br_stp.c` and `br_stp_timer.c`; also without STP).
const FORWARD_DELAY: Duration = Duration::from_secs(15);
/// How long it takes at most to see that a deployment changes nothing.
const CHECK_TAKES: Duration = Duration::from_secs(9);
/// How long kernels may take to be quiet after a deployment.
const QUIET_BOUND: Duration = Duration::from_secs(15);
/// How often the cabling is looked at while something is waited for.
const CABLING_POLL: Duration = Duration::from_millis(200);

impl Runner<'_> {
    /// What the nodes say they have is what the lab gave them.
    pub(super) async fn inventory_matches(&self) -> Result<Seen, DeployError> {
        let inventories = self.cluster.inventories().await?;
        let mut wrong = Vec::new();
        for (member, found) in self.cluster.members.iter().zip(&inventories) {
            if let Some(node) = self.lab.nodes().get(&member.name) {
                wrong.extend(inventory::mismatches(&node.hardware(), found));
            }
        }
        // What the rules ask of machines holds for the lab's, too; what is less than an error is emulation.
        let holding = self.lab.nodes().iter().filter(|(_, node)| node.holds_data());
        let data_drives = holding.map(|(name, node)| (name.clone(), node.data_drives())).collect();
        let machines = self.lab.machines();
        let findings = self.cluster.hardware(&data_drives).await?;
        let errors = findings.iter().filter(|finding| finding.severity(machines) == Severity::Error);
        wrong.extend(errors.map(|finding| format!("{}: {finding}", finding.rule().id)));
        let drives: usize = inventories.iter().map(|inventory| inventory.drives.len()).sum();
        let nics: usize = inventories.iter().map(|inventory| inventory.nics.len()).sum();
        let dcb: BTreeSet<String> =
            inventories.iter().flat_map(|inventory| &inventory.nics).map(|nic| nic.dcb.to_string()).collect();
        let dcb = dcb.into_iter().collect::<Vec<_>>().join("; ");
        let machines = inventories.len();
        Ok(Seen::unless(&wrong, format!("{machines} machines, {nics} NICs (DCB: {dcb}), {drives} drives")))
    }

    /// Deployment has nothing to say about the cabling, when it looks as ever (with patience for neighbours) or within a bound.
    pub(super) async fn cabling_is_right(&self, bound: Duration) -> Result<Seen, DeployError> {
        let patience = if bound.is_zero() { NEIGHBOURS_PATIENCE } else { Duration::ZERO };
        self.cabling_until(bound, patience, |cabling| {
            let findings = cabling.findings.iter().filter(|finding| finding.severity() > Severity::Note);
            let wrong: Vec<String> = findings.map(ToString::to_string).collect();
            let (cables, switches) = (cabling.maps.connections.len(), cabling.maps.switch_to_node.len());
            Seen::unless(&wrong, format!("{cables} cables to {switches} switches; {}", cabling.wiring))
        })
        .await
    }

    /// Deployment refuses the cabling for exactly the cables that were moved or whose ports are wrong, and touches no node.
    pub(super) async fn refused(&self) -> Result<Seen, DeployError> {
        let seen = self.cabling_until(REFUSAL_BOUND, Duration::ZERO, |cabling| self.refusal(cabling)).await?;
        if !seen.good {
            return Ok(seen);
        }
        let before = (self.generations().await?, self.quiet_links().await?);
        let stage = deploy::network(&self.cluster, REFUSAL_PATIENCE).await?;
        sleep(AFTERMATH).await;
        let NetworkStage::Refused(cabling) = stage else {
            return Ok(Seen::not("the deployment was not refused: plans were applied"));
        };
        let seen = self.refusal(&cabling);
        let mut touched = changed_since(&before.1, &self.link_changes(Some(&before.1)).await?);
        if self.generations().await? != before.0 {
            touched.push("a node has taken up another plan".to_owned());
        }
        Ok(if touched.is_empty() { seen } else { Seen::not(touched.join("\n")) })
    }

    /// Whether the errors found blame the cables at fault, all of them and no other.
    fn refusal(&self, cabling: &Cabling) -> Seen {
        let moved: Vec<LabCable> = self.lab.faults().iter().flat_map(Made::refused).cloned().collect();
        let findings: Vec<_> = cabling.errors().collect();
        let is_option_d = self.cluster.spec.wiring == Some(Wiring::D);
        let judged_by = if is_option_d { JudgedBy::Adapter } else { JudgedBy::Room };
        let wrong = complaints(&findings, &self.lab.node_cables(), &moved, judged_by);
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        if wrong.is_empty() {
            return Seen::held(said.join("\n"));
        }
        Seen::not(format!("{}\nwhat was said: {}", wrong.join("\n"), said.join("\n")))
    }

    /// Which plan each member has taken up last.
    async fn generations(&self) -> Result<Vec<Option<Generation>>, DeployError> {
        let mut generations = Vec::new();
        for member in &self.cluster.members {
            generations.push(member.client.network().await?.generation);
        }
        Ok(generations)
    }

    /// Looks at the cabling until the judgement is good, within a bound.
    async fn cabling_until(
        &self,
        bound: Duration,
        patience: Duration,
        judge: impl Fn(&Cabling) -> Seen,
    ) -> Result<Seen, DeployError> {
        let deadline = Instant::now() + bound;
        let mut ticks = interval(CABLING_POLL);
        loop {
            ticks.tick().await;
            let seen = judge(&deploy::cabling(&self.cluster, patience).await?);
            if seen.good || Instant::now() >= deadline {
                return Ok(seen);
            }
        }
    }

    /// Each node's links are as planned, read back from its kernel.
    pub(super) async fn links_are_as_planned(&self) -> Result<Seen, DeployError> {
        let differing = deploy::read_back(&self.cluster).await?;
        let wrong: Vec<String> = differing
            .iter()
            .flat_map(|(node, ops)| ops.iter().map(move |op| format!("{node}: still to do: {op}")))
            .collect();
        Ok(Seen::unless(&wrong, format!("{} machines", differing.len())))
    }

    /// Applying the plans once more changes nothing, as seen by a netlink monitor on each node.
    pub(super) async fn second_apply_changes_nothing(&self) -> Result<Seen, DeployError> {
        let before = self.quiet_links().await?;
        let stage = deploy::network(&self.cluster, NEIGHBOURS_PATIENCE).await?;
        sleep(AFTERMATH).await;
        let after = self.link_changes(Some(&before)).await?;
        let NetworkStage::Applied { applied, .. } = stage else {
            return Ok(Seen::not("the deployment was refused"));
        };
        let mut wrong = applied.failures();
        for (node, done) in &applied.members {
            wrong.extend(done.changed.iter().map(|op| format!("{node}: {op}")));
        }
        wrong.extend(changed_since(&before, &after));
        Ok(Seen::unless(&wrong, format!("{} machines, no operation, no change in any kernel", after.len())))
    }

    /// Waits until no kernel reports changes any more, and gives the counts.
    async fn quiet_links(&self) -> Result<BTreeMap<String, api::LinkChanges>, DeployError> {
        let (begun, done) = self.applied;
        if Instant::now() + CHECK_TAKES > begun + FORWARD_DELAY {
            sleep_until(done + FORWARD_DELAY + AFTERMATH).await;
        }
        let deadline = Instant::now() + QUIET_BOUND;
        let mut seen = self.link_changes(None).await?;
        loop {
            sleep(AFTERMATH).await;
            let now = self.link_changes(None).await?;
            let counts = |changes: &BTreeMap<String, api::LinkChanges>| {
                changes.values().map(|c| (c.epoch, c.count, c.missed)).collect::<Vec<_>>()
            };
            // Still not quiet at the deadline: then the comparison that follows says what goes on.
            if counts(&now) == counts(&seen) || Instant::now() > deadline {
                return Ok(now);
            }
            seen = now;
        }
    }

    /// What changed in every member's kernel, since the counts of an earlier look.
    async fn link_changes(
        &self,
        since: Option<&BTreeMap<String, api::LinkChanges>>,
    ) -> Result<BTreeMap<String, api::LinkChanges>, DeployError> {
        let mut changes = BTreeMap::new();
        for member in &self.cluster.members {
            let name = member.name.to_string();
            let count = since.and_then(|since| since.get(&name)).map_or(u64::MAX, |changes| changes.count);
            changes.insert(name, member.client.netlink_changes(count).await?);
        }
        Ok(changes)
    }

    /// Every member, the witness included, reaches every other on the management network.
    pub(super) async fn management_carries(&self) -> Result<Seen, DeployError> {
        let trips = deploy::mesh(&self.working(), MeshProbe::MANAGEMENT).await?;
        let lost = incomplete(&trips);
        Ok(Seen::unless(&lost, format!("no probe was lost on {} ways", trips.len())))
    }

    /// The largest packets of the storage MTU pass undivided, everywhere.
    pub(super) async fn jumbo_frames(&self) -> Result<Seen, DeployError> {
        let trips = deploy::mesh(&self.cluster, MeshProbe::FULL_SIZE).await?;
        let lost = incomplete(&trips);
        let mtu = self.cluster.spec.storage_mtu();
        Ok(Seen::unless(&lost, format!("{} ways, {mtu} bytes undivided", trips.len())))
    }

    /// No storage frame was ever seen on a spine link, neither passed on nor dropped.
    pub(super) fn spine_carries_no_storage(&mut self) -> Result<Seen, RunError> {
        let counters = self.lab.counters()?;
        let spine = self.lab.topology().links_at(Role::Spine).map(|link| link.id.clone()).collect();
        let seen = on_spine(&self.cluster.spec, &counters, &spine);
        Ok(Seen::unless(&seen.wrong, format!("{} other frames on {} spine links", seen.others, spine.len())))
    }
}

/// What kernels changed after an earlier look, in words; and what can't be told.
fn changed_since(
    before: &BTreeMap<String, api::LinkChanges>,
    after: &BTreeMap<String, api::LinkChanges>,
) -> Vec<String> {
    let mut words = Vec::new();
    for (node, changes) in after {
        words.extend(changes.changes.iter().map(|change| {
            let link = change.name.clone().unwrap_or_default();
            format!("{node}: the kernel changed: {} {link}", change.kind)
        }));
        match before.get(node).map(|before| changes.all_since(before)) {
            Some(Ok(())) => {}
            Some(Err(gap)) => words.push(format!("{node}: {gap}")),
            None => words.push(format!("{node}: was not looked at before")),
        }
    }
    words
}

/// The round trips that lost a probe, in words.
pub(super) fn incomplete(trips: &[RoundTrip]) -> Vec<String> {
    let broken = trips.iter().filter(|trip| !trip.is_complete());
    broken.map(|trip| format!("{}: {trip}", trip.rule().id)).collect()
}
