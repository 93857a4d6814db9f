//! What is named now, given what was seen before: reports speak for their own moments, and those differ.
//!
//! Purpose: while a fault begins or heals, some nodes have told of it and others not yet, and what they say together is the
//! sign of a thing that never was. [`Memory`] waits until everybody has told.
//!
//! How: a loss that [`diagnose`](super::diagnose()) finds is named
//! - at once, when dead paths alone convict it and nothing is healing: between alive and dead lies a time in which a path
//!   convicts nobody, longer than nodes differ;
//! - when all nodes that report have spoken since, if a carrier or a neighbour convicts it: those fall from one moment to
//!   the next;
//! - when all have spoken two hello intervals after the last thing that became well again: then every path
//!   that came back has been heard.
//!
//! Invariants: nothing is named that isn't found. What isn't found any more isn't named, at once. What is found and not named
//! is [`Blocked`], so that nobody takes the cluster for well. What waits, waits for at most 1.2 s.
//!
//! On failure: none. A clock that jumps back only makes things wait anew.

use super::evidence::View;
use super::loss::{Blocked, Diagnosis, Loss, Seen};
use super::{NodeReport, Thresholds, diagnose};
use crate::probe::HELLO_INTERVAL_MS;
use crate::wiring::NodeCabling;
use model::{AdapterName, NodeName, StorageNetwork, StorageNetworkIndex};
use std::collections::{BTreeMap, BTreeSet};

/// By how much carriers that fall together may differ: hypervisors and drivers tell them one by one.
const CARRIERS_DIFFER_MS: u64 = 100;
/// After this from when something was well again, every path that came back with it has been heard.
const HEALED_AFTER_MS: u64 = 2 * HELLO_INTERVAL_MS as u64;
/// For how long a loss is held back at most. Only something that heals again and again makes it so long.
const WAIT_MAX_MS: u64 = 1200;

/// Something that can be well or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    Reports(NodeName),
    Carrier(NodeName, AdapterName),
    Neighbour(NodeName, AdapterName),
    Path { from: NodeName, to: NodeName, network: StorageNetworkIndex },
}

/// What a watch remembers from one judgement to the next.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The ids of what is named.
    named: BTreeSet<String>,
    /// Since when what is not named yet is found without a break, ms.
    waiting: BTreeMap<String, u64>,
    /// What was not well when it was last told of.
    unwell: BTreeSet<Sign>,
    /// When something was last seen to be well again, ms.
    healed_ms: Option<u64>,
}

impl Memory {
    /// Names what failed, as [`diagnose`](super::diagnose()) does, without what only seems so while reports differ.
    ///
    /// `now_ms` is of any clock that doesn't stop.
    pub fn diagnose(
        &mut self,
        now_ms: u64,
        networks: &[StorageNetwork],
        known_good: &[NodeCabling],
        reports: &[NodeReport],
        thresholds: Thresholds,
    ) -> Diagnosis {
        let view = View::new(known_good, reports, thresholds);
        let fresh = || reports.iter().filter(|report| view.reports(&report.node));
        let told_ms = |report: &NodeReport| now_ms.saturating_sub(report.age_ms.into());
        for report in fresh() {
            self.note(told_ms(report), report, thresholds);
        }
        let silent = view.nodes().filter(|node| !view.reports(node));
        self.unwell.extend(silent.map(|node| Sign::Reports(node.clone())));
        let all_told_ms = fresh().map(told_ms).min().unwrap_or(now_ms);
        let mut diagnosis = diagnose(networks, known_good, reports, thresholds);
        self.hold_back(now_ms, all_told_ms, &mut diagnosis);
        diagnosis
    }

    /// Looks for what is well again.
    fn note(&mut self, told_ms: u64, report: &NodeReport, thresholds: Thresholds) {
        let node = &report.node;
        let mut signs = vec![(Sign::Reports(node.clone()), Some(true))];
        for nic in &report.nics {
            let adapter = &nic.cabling.adapter;
            signs.push((Sign::Carrier(node.clone(), adapter.clone()), Some(nic.carrier == Some(true))));
            let heard = nic.cabling.seen().is_some();
            signs.push((Sign::Neighbour(node.clone(), adapter.clone()), Some(heard)));
        }
        for path in &report.paths {
            let sign = Sign::Path { from: path.peer.clone(), to: node.clone(), network: path.network };
            let well = match path.heard_ms_ago {
                Some(ms) if ms <= thresholds.alive_within_ms => Some(true),
                Some(ms) if ms <= thresholds.dead_after_ms => None,
                _ => Some(false),
            };
            signs.push((sign, well));
        }
        for (sign, well) in signs {
            match well {
                Some(true) if self.unwell.remove(&sign) => {
                    self.healed_ms = self.healed_ms.max(Some(told_ms));
                }
                Some(false) => drop(self.unwell.insert(sign)),
                Some(true) | None => {}
            }
        }
    }

    /// Takes out what is not to be named yet.
    fn hold_back(&mut self, now_ms: u64, all_told_ms: u64, diagnosis: &mut Diagnosis) {
        let healing = self.healed_ms.is_some_and(|healed| all_told_ms < healed + HEALED_AFTER_MS);
        let mut waiting = BTreeMap::new();
        let mut named = BTreeSet::new();
        let (losses, held): (Vec<Loss>, Vec<Loss>) =
            std::mem::take(&mut diagnosis.losses).into_iter().partition(|loss| {
                let id = loss.what.id();
                let since = self.waiting.get(&id).copied().unwrap_or(now_ms).min(now_ms);
                let all_told = !is_sudden(loss) || all_told_ms >= since + CARRIERS_DIFFER_MS;
                let ripe = all_told && !healing || now_ms - since >= WAIT_MAX_MS;
                if self.named.contains(&id) || ripe {
                    named.insert(id);
                    return true;
                }
                waiting.insert(id, since);
                false
            });
        diagnosis.losses = losses;
        diagnosis.blocked.extend(held.iter().map(|loss| {
            let why = "not everybody has reported since something changed".to_owned();
            Blocked { what: format!("whether {loss}"), why }
        }));
        (self.named, self.waiting) = (named, waiting);
    }
}

/// Whether it shows from one moment to the next.
fn is_sudden(loss: &Loss) -> bool {
    loss.evidence.iter().any(|seen| matches!(seen, Seen::NoCarrier { .. } | Seen::NoNeighbour { .. }))
}
