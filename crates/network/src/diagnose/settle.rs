//! What is named now, given what was seen before: reports speak for their own moments, and those differ.
//!
//! Purpose: while a fault begins or heals, some nodes have told of it and others not yet, and what they say together is the
//! sign of a thing that never was. [`Memory`] waits until everybody has told.
//!
//! How: a loss that [`diagnose`](super::diagnose()) finds is named
//! - at once, when dead paths alone convict it and nothing is healing: between alive and dead lies a time in which a path
//!   convicts nobody, longer than nodes differ;
//! - when all have spoken two hello intervals later, if it is a path that nothing explains;
//! - when all nodes that report have spoken since, if a carrier or a neighbour convicts it: those fall from one moment to
//!   the next;
//! - when all have spoken two hello intervals after the last thing that became well again: then every path
//!   that came back has been heard. A carrier that comes back counts a second later: until then its NIC may send nothing.
//!
//! What isn't found any more isn't named any more, at once; unless it had come back: a loss that is named again within 10 s of
//! when it went comes and goes, and is then named until it has not been found for 5 s. So a link that flaps is
//! named and gone once, and then named until it is well; nothing is named more often than every 5 s.
//!
//! What is named stays so until somebody has found it well or something else explains it. A node that is silent: until it reports or is
//! heard. What dead paths alone convict: until one of those is heard again, or something is found that may be why they are dead. On an overloaded
//! host hellos elsewhere are late, too, and reports don't come: then it could not be told anew, which makes nothing well.
//!
//! Invariants: nothing is named that isn't found, or was a moment ago. What is found and not named is [`Blocked`], so that nobody
//! takes the cluster for well. What waits, waits for at most 1.2 s.
//!
//! On failure: none. A clock that jumps back only makes things wait anew.

use super::evidence::{PathState, View};
use super::loss::{Blocked, Diagnosis, Direction, Loss, Lost, Seen};
use super::{NicId, NicReport, NodeReport, Thresholds, diagnose_view};
use crate::probe::HELLO_INTERVAL_MS;
use crate::wiring::NodeCabling;
use model::{AdapterName, NodeName, StorageNetwork, StorageNetworkIndex};
use std::collections::{BTreeMap, BTreeSet};

/// By how much carriers that fall together may differ: hypervisors and drivers tell them one by one.
const CARRIERS_DIFFER_MS: u64 = 100;
/// After this from when something was well again, every path that came back with it has been heard.
const HEALED_AFTER_MS: u64 = 2 * HELLO_INTERVAL_MS as u64;
/// How long after its carrier is back a NIC may send nothing: the kernel looks at carriers once a second
/// (`linkwatch_urgent_event` and `linkwatch_nextevent`, `net/core/link_watch.c`).
const CARRIER_SENDS_AFTER_MS: u64 = 1000;
/// For how long a loss is held back at most. Only something that heals again and again makes it so long.
const WAIT_MAX_MS: u64 = 1200;

/// A loss that is named again within this of when it went comes and goes, ms.
const RETURNS_WITHIN_MS: u64 = 10_000;
/// For how long what comes and goes must not have been found, to be named no more, ms.
const HOLD_DOWN_MS: u64 = 5000;

/// A loss that went.
#[derive(Debug, Clone)]
struct Gone {
    /// When, ms.
    at_ms: u64,
    /// How often it had come again by then.
    times: u32,
}

/// A loss that came again, and is named.
#[derive(Debug, Clone)]
struct Returned {
    /// As it was found last.
    loss: Loss,
    /// When it was found last, ms.
    found_ms: u64,
    /// How often it has come again.
    times: u32,
}

/// Something that can be well or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    Reports(NodeName),
    Carrier(NodeName, AdapterName),
    Neighbour(NodeName, AdapterName),
    Path { from: NodeName, to: NodeName, network: StorageNetworkIndex },
}

/// What is known of a NIC's carrier.
#[derive(Debug, Clone, Copy, Default)]
struct Carrier {
    losses: u32,
    /// When it was last known to have been gone, ms; `None`: never.
    gone_ms: Option<u64>,
}

/// What a watch remembers from one judgement to the next.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The ids of what is named.
    named: BTreeSet<String>,
    /// Since when what is not named yet is found without a break, ms.
    waiting: BTreeMap<String, u64>,
    /// What was named and went, by id, for as long as it may come back.
    gone: BTreeMap<String, Gone>,
    /// What is named and had gone before, by id.
    returned: BTreeMap<String, Returned>,
    /// What is named, by id, as it was found last.
    kept: BTreeMap<String, Loss>,
    /// Of every NIC how often it had lost its carrier, and when that was last seen to grow or the carrier to be missing, ms.
    carriers: BTreeMap<NicId, Carrier>,
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
        let fresh = || reports.iter().filter(|report| report.age_ms <= thresholds.stale_after_ms);
        let told_ms = |report: &NodeReport| now_ms.saturating_sub(report.age_ms.into());
        for report in fresh() {
            self.note(told_ms(report), report, thresholds);
        }
        let view = View::new(known_good, reports, thresholds, self.young(fresh(), told_ms));
        let silent = view.nodes().filter(|node| !view.reports(node));
        self.unwell.extend(silent.map(|node| Sign::Reports(node.clone())));
        let all_told_ms = fresh().map(told_ms).min().unwrap_or(now_ms);
        let mut diagnosis = diagnose_view(networks, &view);
        self.keep(networks, &view, &mut diagnosis);
        self.hold_back(now_ms, all_told_ms, &mut diagnosis);
        diagnosis
    }

    /// Looks for what is well again.
    fn note(&mut self, told_ms: u64, report: &NodeReport, thresholds: Thresholds) {
        let node = &report.node;
        let mut signs = vec![(Sign::Reports(node.clone()), true)];
        for nic in &report.nics {
            let adapter = &nic.cabling.adapter;
            self.note_carrier(told_ms, (node.clone(), adapter.clone()), nic);
            signs.push((Sign::Carrier(node.clone(), adapter.clone()), nic.carrier == Some(true)));
            let heard = nic.cabling.seen().is_some();
            signs.push((Sign::Neighbour(node.clone(), adapter.clone()), heard));
        }
        for path in &report.paths {
            let sign = Sign::Path { from: path.peer.clone(), to: node.clone(), network: path.network };
            // A path that was silent for a while and hardly too long heals, too: others that went with it may not have yet.
            let well = path.heard_ms_ago.is_some_and(|ms| ms <= thresholds.alive_within_ms);
            signs.push((sign, well));
        }
        for (sign, well) in signs {
            if !well {
                self.unwell.insert(sign);
            } else if self.unwell.remove(&sign) {
                let silent_ms = if matches!(sign, Sign::Carrier(..)) { CARRIER_SENDS_AFTER_MS } else { 0 };
                self.healed_ms = self.healed_ms.max(Some(told_ms + silent_ms));
            }
        }
    }

    fn note_carrier(&mut self, told_ms: u64, id: NicId, nic: &NicReport) {
        let known = self.carriers.entry(id).or_insert(Carrier { losses: nic.carrier_losses, gone_ms: None });
        if nic.carrier != Some(true) || nic.carrier_losses > known.losses {
            known.gone_ms = Some(told_ms);
        }
        known.losses = nic.carrier_losses;
    }

    /// NICs that have carrier, and have not had it for long enough that what they send must have come.
    fn young<'a>(
        &self,
        reports: impl Iterator<Item = &'a NodeReport>,
        told_ms: impl Fn(&NodeReport) -> u64,
    ) -> BTreeSet<NicId> {
        let mut young = BTreeSet::new();
        for report in reports {
            for nic in report.nics.iter().filter(|nic| nic.carrier == Some(true)) {
                let id = (report.node.clone(), nic.cabling.adapter.clone());
                let gone_ms = self.carriers.get(&id).and_then(|known| known.gone_ms);
                if gone_ms
                    .is_some_and(|gone| told_ms(report) < gone + CARRIER_SENDS_AFTER_MS + HEALED_AFTER_MS)
                {
                    young.insert(id);
                }
            }
        }
        young
    }

    /// Puts in what was named and is not found, while nobody has found it well, and takes out what that explains.
    fn keep(&self, networks: &[StorageNetwork], view: &View<'_>, diagnosis: &mut Diagnosis) {
        let found: BTreeSet<String> = diagnosis.losses.iter().map(|loss| loss.what.id()).collect();
        let new = diagnosis.losses.iter().filter(|loss| !self.kept.contains_key(&loss.what.id()));
        let new: Vec<&Loss> = new.collect();
        let unfound = self.kept.iter().filter(|(id, _)| !found.contains(*id)).map(|(_, loss)| loss);
        let still = unfound.filter(|kept| {
            if let Lost::Node { node } = &kept.what {
                return !view.reports(node) && view.may_be_gone(node);
            }
            let explains = |loss: &&Loss| !covers(kept, loss) && may_explain(networks, loss, kept);
            !new.iter().any(explains) && are_dead(view, &kept.evidence)
        });
        let still: Vec<Loss> = still.cloned().collect();
        diagnosis.losses.retain(|loss| !still.iter().any(|kept| covers(kept, loss)));
        diagnosis.losses.extend(still);
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
                // What was silent for hardly too long is heard again soon, and not everywhere at once.
                let sure = !is_path(loss) || all_told_ms >= since + HEALED_AFTER_MS;
                let ripe = all_told && sure && !healing || now_ms - since >= WAIT_MAX_MS;
                if self.named.contains(&id) || ripe {
                    named.insert(id);
                    return true;
                }
                waiting.insert(id, since);
                false
            });
        diagnosis.losses = losses;
        self.kept = diagnosis.losses.iter().map(|loss| (loss.what.id(), loss.clone())).collect();
        self.hold_down(now_ms, &mut named, &mut diagnosis.losses);
        diagnosis.blocked.extend(held.iter().map(|loss| {
            let why = "not everybody has reported since something changed".to_owned();
            Blocked { what: format!("whether {loss}"), why }
        }));
        (self.named, self.waiting) = (named, waiting);
    }
}

impl Memory {
    /// Keeps what comes and goes: until it has been well for a while, it is named as it was found last.
    fn hold_down(&mut self, now_ms: u64, named: &mut BTreeSet<String>, losses: &mut Vec<Loss>) {
        for loss in losses.iter() {
            let id = loss.what.id();
            let times = match (self.gone.remove(&id), self.returned.get(&id)) {
                (Some(gone), _) if now_ms.saturating_sub(gone.at_ms) <= RETURNS_WITHIN_MS => gone.times + 1,
                (_, Some(returned)) => returned.times,
                (_, None) => continue,
            };
            self.returned.insert(id, Returned { loss: loss.clone(), found_ms: now_ms, times });
        }
        for id in self.named.difference(named).cloned().collect::<Vec<_>>() {
            let well_for_ms = self.returned.get(&id).map(|last| now_ms.saturating_sub(last.found_ms));
            match self.returned.get_mut(&id) {
                Some(last) if well_for_ms < Some(HOLD_DOWN_MS) => {
                    let mut loss = last.loss.clone();
                    let well_for_ms = well_for_ms.unwrap_or_default();
                    loss.evidence = vec![Seen::ComesAndGoes { times: last.times, well_for_ms }];
                    losses.push(loss);
                    named.insert(id);
                }
                _ => {
                    let times = self.returned.remove(&id).map_or(0, |last| last.times);
                    self.gone.insert(id, Gone { at_ms: now_ms, times });
                }
            }
        }
        self.gone.retain(|_, gone| now_ms.saturating_sub(gone.at_ms) <= RETURNS_WITHIN_MS);
    }
}

/// Whether paths alone said this, and none of those that were dead is heard again.
fn are_dead(view: &View<'_>, evidence: &[Seen]) -> bool {
    let mut is_any_dead = false;
    for seen in evidence {
        match seen {
            Seen::NotHeard { by, peer, network, .. } => match view.path(peer, by, *network) {
                PathState::Alive => return false,
                PathState::Dead(_) => is_any_dead = true,
                PathState::Wavering | PathState::Unknown => {}
            },
            Seen::Heard { .. } => {}
            _ => return false,
        }
    }
    is_any_dead
}

/// Whether what is found is only what can be seen of what was named, while somebody does not report or hellos come late.
fn covers(named: &Loss, found: &Loss) -> bool {
    match (&named.what, &found.what) {
        (
            Lost::RoomLink { network, direction: named, .. },
            Lost::RoomLink { network: other, direction: Direction::AtLeast { from, .. }, .. },
        ) => {
            let is_part = match named {
                Direction::Both => true,
                Direction::OneWay { from: own, .. } | Direction::AtLeast { from: own, .. } => own == from,
            };
            network == other && is_part
        }
        (_, Lost::Path { network, from, to }) => named.evidence.iter().any(|seen| {
            matches!(seen, Seen::NotHeard { by, peer, network: of, .. } if (by, peer, of) == (to, from, network))
        }),
        _ => false,
    }
}

/// Whether what is found may be why paths are dead by which something else was named: it is of the same storage network, or of a node at their ends.
fn may_explain(networks: &[StorageNetwork], found: &Loss, named: &Loss) -> bool {
    let of_network = |index: StorageNetworkIndex| {
        let is_of = |seen: &Seen| matches!(seen, Seen::NotHeard { network, .. } if *network == index);
        named.evidence.iter().any(is_of)
    };
    if let Lost::Node { node } = &found.what {
        let is_end =
            |seen: &Seen| matches!(seen, Seen::NotHeard { by, peer, .. } if by == node || peer == node);
        return named.evidence.iter().any(is_end);
    }
    if matches!(found.what, Lost::Path { .. }) {
        return false;
    }
    found.evidence.iter().any(|seen| match seen {
        Seen::NotHeard { network, .. } | Seen::Heard { network, .. } => of_network(*network),
        Seen::NoCarrier { adapter, .. }
        | Seen::NoNeighbour { adapter, .. }
        | Seen::CarrierBack { adapter, .. } => {
            networks.iter().any(|one| one.adapter == *adapter && of_network(one.index))
        }
        Seen::NoReport { .. } | Seen::ComesAndGoes { .. } => false,
    })
}

/// Whether it is a path alone, which is what is said when nothing explains it.
fn is_path(loss: &Loss) -> bool {
    matches!(loss.what, Lost::Path { .. })
}

/// Whether it shows from one moment to the next.
fn is_sudden(loss: &Loss) -> bool {
    loss.evidence.iter().any(|seen| matches!(seen, Seen::NoCarrier { .. } | Seen::NoNeighbour { .. }))
}
