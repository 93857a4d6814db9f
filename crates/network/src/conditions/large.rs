//! Packets that are swallowed because they are large.
//!
//! Small hellos and large ones come over the same path: right behind each fifth small one comes a large one. One that is missing behind a
//! small one that came was swallowed, and not because the path was cut for a moment. Three in a row are no accident. While it is one or
//! two nobody is sure, and then nothing is said of the whole storage network: senders have phases of their own, and what
//! some paths say a second earlier than the others looks like something else.

use super::place::{Pair, Pairs, pair};
use super::{Condition, Told, What};
use crate::wiring::{Connection, NodeCabling};
use model::{NodeName, StorageNetwork};
use std::collections::BTreeMap;

/// So many large hellos in a row are missing by no accident.
const LOST_FROM: u32 = 3;

/// What the paths of a storage network say together.
pub(super) enum Verdict {
    /// Where large packets are lost, as far as they are.
    Lost(Vec<Condition>),
    /// Some paths are not sure yet.
    Wavering,
}

/// Judges one storage network. `is_judged` says of a pair whether nothing else explains what it lacks.
pub(super) fn judge(
    network: &StorageNetwork,
    known_good: &[NodeCabling],
    cables: &[Connection],
    alive: &[(&NodeName, &Told)],
    is_judged: impl Fn(Pair<'_>) -> bool,
    hears: impl Fn(&Told, &NodeName) -> bool,
) -> Verdict {
    let mut missing: BTreeMap<Pair<'_>, u32> = BTreeMap::new();
    for (node, told) in alive {
        let here = told.qualities.iter().filter(|quality| quality.network == network.index);
        for quality in here.filter(|quality| hears(told, &quality.peer)) {
            let pair = pair(node, &quality.peer);
            if is_judged(pair) {
                let most = missing.entry(pair).or_default();
                *most = quality.large_missing.max(*most);
            }
        }
    }
    if missing.values().any(|count| (1..LOST_FROM).contains(count)) {
        return Verdict::Wavering;
    }
    let troubled = missing.iter().map(|(pair, count)| (*pair, *count >= LOST_FROM)).collect();
    let places = Pairs::new(network, known_good, cables, troubled).places();
    let condition = |(place, pairs): (super::Place, Vec<Pair<'_>>)| {
        let said = |pair: &Pair<'_>| {
            let (one, other) = pair;
            format!(
                "{} large hellos between {one} and {other} in a row did not come, and small ones did",
                missing[pair]
            )
        };
        Condition { what: What::LargePacketsLost { place }, evidence: pairs.iter().map(said).collect() }
    };
    Verdict::Lost(places.into_iter().map(condition).collect())
}
