//! Which extents of a thin volume are to be mapped next.
//!
//! Purpose: users wait while an extent is mapped (slabs are filled with zeros, two commits), so whoever writes in a row finds the next ones there.
//!
//! Invariants: nothing is asked for that the ledger would refuse as it is, so a volume that is out of slabs asks again when it no longer is; what nobody
//! has written is mapped only while there is room, and never more of it than was written in a row.
//!
//! On failure: none; what can't be mapped waits.

use crate::command::Rejected;
use crate::state::{State, Volume};
use model::{Provision, SLAB_BYTES};
use std::collections::BTreeSet;

/// How many are mapped ahead of somebody who writes in a row, at most: 1 GiB a leg.
const AHEAD_MAX: u64 = 16;

/// How many of those that are waited for are asked for at once: what is filled with zeros in one go.
const AT_ONCE: usize = 16;

/// What to ask for so that these extents, which users write, have a place; `None`: they have, nobody waits, or it can't be now.
pub(crate) fn to_map(ledger: &State, volume: &Volume, written: &BTreeSet<u64>) -> Option<BTreeSet<u64>> {
    let is_new = |extent: &u64| !volume.has_extent(*extent) && *extent < volume.extents();
    let wanted: BTreeSet<u64> = written.iter().copied().filter(is_new).take(AT_ONCE).collect();
    let first = wanted.first().copied()?;
    if volume.provision != Provision::Thin || !volume.mapping.is_empty() || volume.forced {
        return None;
    }
    let with_ahead: BTreeSet<u64> =
        wanted.iter().copied().chain(ahead(volume, &wanted).filter(is_new)).collect();
    let choices = [with_ahead, wanted, BTreeSet::from([first])];
    choices.into_iter().find(|extents| fits(ledger, volume, extents.len() as u64).is_ok())
}

/// Why nothing of what users write is asked for; `None`: nobody waits, or it comes.
pub fn out_of_room(ledger: &State, volume: &Volume, written: &BTreeSet<u64>) -> Option<Rejected> {
    let waits = written.iter().any(|extent| !volume.has_extent(*extent) && *extent < volume.extents());
    (waits && volume.mapping.is_empty()).then(|| fits(ledger, volume, 1).err())?
}

/// Whether so many extents more could be mapped now. What `Err` says is why writes wait.
pub fn fits(ledger: &State, volume: &Volume, extents: u64) -> Result<(), Rejected> {
    if volume.forced {
        return Err(Rejected::Forced);
    }
    let array_bytes = volume.array_to_be().saturating_add(extents.saturating_mul(SLAB_BYTES));
    ledger.slabs_for(volume, array_bytes).map(|_| ())
}

/// Those behind the one that goes on where the table ends: as many as stand there in a row.
fn ahead(volume: &Volume, wanted: &BTreeSet<u64>) -> std::ops::Range<u64> {
    let run = volume.mapped.last_run().filter(|run| wanted.contains(&run.end()));
    run.map_or(0..0, |run| run.end() + 1..run.end() + 1 + run.count.min(AHEAD_MAX))
}

#[cfg(test)]
mod tests;
