//! What storage paths carry, how their frames are marked, and that none leads where it should not.

use super::priority::{self, Cable, Judged};
use super::{Runner, Seen, or_failure};
use crate::events::{Event, Throughput};
use crate::lab::LabError;
use crate::run::RunError;
use deploy::{Load, StoragePath, Transfer};
use fabric::{DropReason, Kind, LinkId, Shaping, Snapshot, Ways};
use model::{ClusterSpec, NodeName, StorageNetworkIndex, VlanId};
use network::measure::bandwidth::{self, Rule};
use network::traffic::STORAGE_PORT;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// So much says how fast one path is, and no path holds the others up for long.
const ALONE_BYTES: u64 = 64 << 20;
/// What every node sends while priorities are looked at: enough for some hundred frames and their acknowledgements.
const MARKED: Load = Load { duration_ms: 2000, bytes: 1 << 20 };
/// What is sent over the lossy cable, and how many of a million frames it loses: of some 470 jumbo frames all arrive once in
/// a million times.
const LOSSY: Load = Load { duration_ms: 5000, bytes: 4 << 20 };
const LOSS_PPM: u32 = 30_000;
/// How long hellos of all nodes may take to be seen.
const HELLOS_BOUND: Duration = Duration::from_secs(2);
const HELLOS_POLL: Duration = Duration::from_millis(50);
/// What a call says that was answered with a reset (`ECONNREFUSED`).
const REFUSED: &str = "Connection refused";

impl Runner<'_> {
    /// What each path between the rooms carries alone, and all of them at once, beside what the bandwidth rule asks for.
    pub(super) async fn throughput(&self, alone_ms: u32, together_ms: u32) -> Result<Seen, RunError> {
        match self.measure_throughput(alone_ms, together_ms).await {
            Ok(seen) => Ok(seen),
            Err(error) => Ok(or_failure(Err(error))),
        }
    }

    async fn measure_throughput(&self, alone_ms: u32, together_ms: u32) -> Result<Seen, deploy::DeployError> {
        let paths = self.cluster.paths_between_rooms();
        let nics = self.cluster.storage_nics().await?;
        let mut alone = Vec::new();
        for path in &paths {
            let load = Load { duration_ms: alone_ms, bytes: ALONE_BYTES };
            alone.extend(self.cluster.transfer(std::slice::from_ref(path), load).await?);
        }
        let load = Load { duration_ms: together_ms, bytes: u64::MAX >> 24 };
        let together = self.cluster.transfer(&paths, load).await?;
        for (transfers, at_once) in [(&alone, false), (&together, true)] {
            for transfer in transfers {
                self.log.log(Event::Throughput(Throughput::of(transfer, at_once)));
            }
        }
        let mut wrong: Vec<String> = alone.iter().chain(&together).filter_map(Transfer::failure).collect();
        let rule = Rule::of(&self.cluster.spec, &nics);
        let carried = self.cluster.carried_between_rooms(&together);
        let machines = self.lab.machines();
        let findings = bandwidth::check(rule, &nics, &carried);
        let is_note = |finding: &&bandwidth::Finding| finding.severity(machines) == model::Severity::Note;
        let said = |finding: &bandwidth::Finding| format!("{}: {finding}", finding.id());
        wrong.extend(findings.iter().filter(|finding| !is_note(finding)).map(said));
        let mut text = format!("the rule asks for {rule} each way");
        for carried in &carried {
            let (from, to) = (&carried.from_zone, &carried.to_zone);
            let _ = write!(text, "\nall paths at once, {from} to {to}: {}", mbps(carried.bits_per_s));
        }
        for transfer in &alone {
            let _ = write!(text, "\n{} alone: {}", transfer.path, mbps(transfer.bits_per_s()));
        }
        for finding in findings.iter().filter(is_note) {
            let _ = write!(text, "\nnote: {}", said(finding));
        }
        if machines == network::measure::Machines::Emulated {
            text.push_str("\nreported, not judged: machines and NICs are emulated");
        }
        Ok(Seen::unless(&wrong, text))
    }

    /// Every node sends by TCP to the next on every storage network, calls it once while nobody listens, and one sends over a cable
    /// that loses frames: every frame that is put on any cable meanwhile has the priority of what it is about.
    pub(super) async fn priorities_are_seen(&mut self) -> Result<Seen, RunError> {
        let before = self.lab.counters()?;
        let ring = ring(&self.cluster.storage_paths());
        let transfers = match self.cluster.transfer(&ring, MARKED).await {
            Ok(transfers) => transfers,
            Err(error) => return Ok(or_failure(Err(error))),
        };
        let mut wrong = failures(&transfers);
        wrong.extend(self.refused_calls(&ring).await?);
        let Some(path) = ring.first() else { return Ok(Seen::not("there is no storage path")) };
        let lost = match self.lossy_transfer(path).await? {
            Ok(lost) => lost,
            Err(why) => {
                wrong.push(why);
                0
            }
        };
        let cables = self.cables();
        let (judged, missing) = self.judged_with_hellos(&cables, &before).await?;
        wrong.extend(missing);
        wrong.extend(judged.wrong);
        let sum = |kind: Kind| -> u64 {
            judged.sent.iter().filter(|((_, _, of), _)| *of == kind).map(|(_, frames)| frames).sum()
        };
        Ok(Seen::unless(
            &wrong,
            format!(
                "nodes sent {} storage frames, {} hellos, {} others; {lost} storage frames were lost on the way and sent again",
                sum(Kind::Storage),
                sum(Kind::Heartbeat),
                sum(Kind::Other) + sum(Kind::Echo)
            ),
        ))
    }

    /// Every node calls the next one's storage port, where nobody listens now: the reset that answers comes from the kernel itself
    /// and belongs to no socket. Says which calls were not refused so.
    async fn refused_calls(&self, ring: &[StoragePath]) -> Result<Vec<String>, RunError> {
        let spec = &self.cluster.spec;
        let mut wrong = Vec::new();
        for path in ring {
            let network = spec.storage_networks.iter().find(|network| network.index == path.network);
            let target = spec.nodes().find(|(_, node)| node.name == path.to);
            let caller = self.lab.nodes().get(&path.from);
            let (Some(network), Some((_, target)), Some(caller)) = (network, target, caller) else {
                continue;
            };
            let address = ClusterSpec::storage_address(network, target.ordinal);
            let mut hands = caller.hands_or_lab_error().await?;
            let call = hands.run(&["@connect", &format!("{address}:{STORAGE_PORT}")]).await;
            let call = call.map_err(|source| LabError::Hands { node: path.from.to_string(), source })?;
            if !call.stderr.contains(REFUSED) {
                wrong.push(format!(
                    "{path}: a call was not refused: status {:?}, {}",
                    call.status, call.stderr
                ));
            }
        }
        Ok(wrong)
    }

    /// Waits until every node has sent storage frames and hellos on every storage network, within a bound, and judges all frames.
    async fn judged_with_hellos(
        &mut self,
        cables: &[Cable],
        before: &Snapshot,
    ) -> Result<(Judged, Vec<String>), RunError> {
        let deadline = Instant::now() + HELLOS_BOUND;
        let mut ticks = interval(HELLOS_POLL);
        loop {
            ticks.tick().await;
            let after = self.lab.counters()?;
            let judged = priority::judge(self.cluster.spec.qos, cables, before, &after);
            let missing = self.not_sent(&judged);
            if missing.is_empty() || Instant::now() >= deadline {
                return Ok((judged, missing));
            }
        }
    }

    /// Which nodes sent no storage frame, or no hello, on which storage network: then nothing is proven for them.
    fn not_sent(&self, judged: &Judged) -> Vec<String> {
        let mut missing = Vec::new();
        let vlans: Vec<VlanId> = self.cluster.spec.storage_networks.iter().map(|n| n.vlan).collect();
        for (member, _) in self.cluster.nodes() {
            for vlan in &vlans {
                for kind in [Kind::Storage, Kind::Heartbeat] {
                    if !judged.sent.contains_key(&(member.name.to_string(), Some(*vlan), kind)) {
                        missing.push(format!("{}: no {kind} frame in VLAN {vlan}", member.name));
                    }
                }
            }
        }
        missing
    }

    /// Sends once while the sender's cable loses frames: all must arrive, so what was lost was sent again. Says how many storage
    /// frames were lost.
    async fn lossy_transfer(&mut self, path: &StoragePath) -> Result<Result<u64, String>, RunError> {
        let (Some(from), Some(to)) =
            (self.storage_cable(&path.from, path.network), self.storage_cable(&path.to, path.network))
        else {
            return Ok(Err(format!("{path}: no cable")));
        };
        let shaping = Shaping { loss_ppm: LOSS_PPM, seed: self.lab.seed(), ..Shaping::default() };
        let before = self.lab.counters()?;
        self.lab.shape(&from, Ways::AToB, shaping)?;
        let transfers = self.cluster.transfer(std::slice::from_ref(path), LOSSY).await;
        self.lab.shape(&from, Ways::AToB, Shaping::default())?;
        let after = self.lab.counters()?;
        let transfers = match transfers {
            Ok(transfers) => transfers,
            Err(error) => return Ok(Err(crate::chain(&error))),
        };
        if let Some(failure) = failures(&transfers).into_iter().next() {
            return Ok(Err(failure));
        }
        let ways = |link: &LinkId| (before.link(link), after.link(link));
        let (Some(out_before), Some(out_after)) = ways(&from) else {
            return Ok(Err(format!("{path}: no counters")));
        };
        let (Some(in_before), Some(in_after)) = ways(&to) else {
            return Ok(Err(format!("{path}: no counters")));
        };
        let sent = priority::frames(&out_before.a_to_b, &out_after.a_to_b, Kind::Storage);
        let arrived = priority::frames(&in_before.b_to_a, &in_after.b_to_a, Kind::Storage);
        let lost = |counted: &fabric::LinkCounters| counted.a_to_b.dropped_frames(DropReason::Loss);
        let lost_of_all = lost(out_after) - lost(out_before);
        let lost = sent.saturating_sub(arrived).min(lost_of_all);
        let is_whole = |transfer: &Transfer| {
            transfer.arrived.is_some_and(|arrived| arrived.bytes == transfer.sent_bytes)
        };
        if lost == 0 || !transfers.iter().all(is_whole) {
            return Ok(Err(format!(
                "{path}: {lost} storage frames were lost; that some were sent again is not proven"
            )));
        }
        Ok(Ok(lost))
    }

    /// Every cable, and whose it is.
    fn cables(&self) -> Vec<Cable> {
        let mut owners: BTreeMap<LinkId, String> = BTreeMap::new();
        for node in self.lab.nodes().values() {
            owners.extend(node.links().map(|link| (link, node.name().to_string())));
        }
        let links = self.lab.topology().links.iter();
        links.map(|link| (link.id.clone(), owners.get(&link.id).cloned())).collect()
    }

    /// The cable by which a node is on a storage network, as the fabric calls it; of a converged team the first one.
    fn storage_cable(&self, node: &NodeName, network: StorageNetworkIndex) -> Option<LinkId> {
        let network = self.cluster.spec.storage_networks.iter().find(|known| known.index == network)?;
        // A team sends by its first port while that has carrier.
        let intents = &self.cluster.spec.intents;
        let team = intents.iter().find(|intent| intent.is_converged_storage());
        let adapter = team.and_then(|intent| intent.adapters.first()).unwrap_or(&network.adapter);
        self.lab.nodes().get(node)?.link_of(adapter)
    }
}

fn failures(transfers: &[Transfer]) -> Vec<String> {
    let other_port = |transfer: &&Transfer| !transfer.is_storage_port;
    let other = transfers.iter().filter(other_port).map(|transfer| {
        format!("{}: something else listens on the storage port; {} was used", transfer.path, transfer.port)
    });
    transfers.iter().filter_map(Transfer::failure).chain(other).collect()
}

/// Of all paths those from each node to the next: everybody sends and acknowledges on every network.
fn ring(paths: &[StoragePath]) -> Vec<StoragePath> {
    let mut nodes: Vec<&NodeName> = paths.iter().map(|path| &path.from).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let next = |from: &NodeName| {
        let at = nodes.iter().position(|node| *node == from)?;
        nodes.get((at + 1) % nodes.len()).copied()
    };
    paths.iter().filter(|path| next(&path.from) == Some(&path.to)).cloned().collect()
}

fn mbps(bits_per_s: u64) -> String {
    format!("{} Mb/s", bits_per_s / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_every_node_sends_and_receives_once_a_network() {
        let path = |network: u64, from: &str, to: &str| StoragePath {
            network: network.try_into().unwrap(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        let mut all = Vec::new();
        for network in 1..=2 {
            for from in ["a1", "b1", "a2"] {
                all.extend(
                    ["a1", "b1", "a2"].iter().filter(|to| **to != from).map(|to| path(network, from, to)),
                );
            }
        }
        let ring = ring(&all);
        assert_eq!(ring.len(), 6);
        for network in 1..=2 {
            for (from, to) in [("a1", "a2"), ("a2", "b1"), ("b1", "a1")] {
                assert!(ring.contains(&path(network, from, to)));
            }
        }
    }
}
