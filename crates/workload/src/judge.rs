//! Whether a leg holds every write that was acknowledged. Pure: it is given what was recorded, and a way to read the leg.
//!
//! The rule: a block on which a write was acknowledged holds that write or a later one, whole. A later write that was not
//! acknowledged may be there in part: then each sector holds the promised write or a later one. Where nothing was
//! acknowledged there may be nothing, or writes in part; but never anything that was not written to that block.
//!
//! On failure: what can't be read is the reader's error and ends the judgement: a leg that can't be read is not judged well.

use crate::block::{Content, decode};
use crate::record::{Event, Record};
use crate::{BLOCK_BYTES, BlockNumber, Version};
use std::collections::BTreeMap;
use std::fmt;

/// How many findings are kept; what comes after is counted.
const KEPT: usize = 20;

/// What a promise rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// An acknowledged write is durable: the drives have no volatile cache.
    WhenAcknowledged,
    /// It is after the flush that followed.
    WhenFlushed,
}

/// What a leg must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promises {
    /// How many blocks the volume has.
    pub blocks: u32,
    /// The last write of each block that counts as promised.
    pub versions: BTreeMap<BlockNumber, Version>,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many failed.
    pub failed: u64,
}

impl Promises {
    /// What records promise, of all runs of the writer in any order.
    pub fn of(records: &[Record], durable: Durable) -> Self {
        let mut flushed: BTreeMap<u32, u64> = BTreeMap::new();
        for record in records {
            if let Event::Flushed { up_to } = record.event {
                let last = flushed.entry(up_to.run).or_default();
                *last = up_to.sequence.max(*last);
            }
        }
        let counts = |version: &Version| {
            durable == Durable::WhenAcknowledged
                || flushed.get(&version.run).is_some_and(|last| version.sequence <= *last)
        };
        let mut promises = Self::default();
        for record in records {
            match record.event {
                Event::Begun { blocks, .. } => promises.blocks = promises.blocks.max(blocks),
                Event::Acknowledged { block, version } => {
                    promises.acknowledged += 1;
                    if counts(&version) {
                        let last = promises.versions.entry(block).or_insert(version);
                        *last = version.max(*last);
                    }
                }
                Event::Failed { .. } => promises.failed += 1,
                Event::Flushed { .. } => {}
            }
        }
        promises
    }
}

/// A block that does not hold what it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub block: BlockNumber,
    /// What was promised; `None`: nothing.
    pub promised: Option<Version>,
    /// What is there.
    pub found: Content,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |version: Version| format!("write {} of run {}", version.sequence, version.run);
        write!(f, "block {}: ", self.block)?;
        match self.promised {
            Some(version) => write!(f, "{} was acknowledged, ", name(version))?,
            None => write!(f, "nothing was acknowledged, ")?,
        }
        match self.found {
            Content::Empty => write!(f, "it is empty"),
            Content::Whole(version) => write!(f, "it holds {}", name(version)),
            Content::Torn(Some(least), most) => {
                write!(f, "it holds parts from {} to {}", name(least), name(most))
            }
            Content::Torn(None, most) => write!(f, "it holds parts of nothing and of {}", name(most)),
            Content::Elsewhere(block, version) => write!(f, "it holds {} to block {block}", name(version)),
            Content::Foreign => write!(f, "it holds what nobody wrote"),
        }
    }
}

/// What became of one leg.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many blocks were read.
    pub read: u32,
    /// How many of them were promised something.
    pub promised: u32,
    /// How many don't hold what they must.
    pub wrong: u32,
    /// The first of those.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether no acknowledged write is lost. A judgement without promises proves nothing.
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.promised > 0
    }
}

/// Judges a leg. `read` gives a block by its number.
pub fn judge<E>(
    promises: &Promises,
    mut read: impl FnMut(BlockNumber) -> Result<[u8; BLOCK_BYTES], E>,
) -> Result<Verdict, E> {
    let mut verdict = Verdict::default();
    for block in 0..promises.blocks {
        let found = decode(block, &read(block)?);
        let last = promises.versions.get(&block).copied();
        verdict.read += 1;
        verdict.promised += u32::from(last.is_some());
        if !keeps(last, found) {
            verdict.wrong += 1;
            if verdict.findings.len() < KEPT {
                verdict.findings.push(Finding { block, promised: last, found });
            }
        }
    }
    Ok(verdict)
}

fn keeps(promised: Option<Version>, found: Content) -> bool {
    match (promised, found) {
        (_, Content::Elsewhere(..) | Content::Foreign)
        | (Some(_), Content::Empty | Content::Torn(None, _)) => false,
        (None, _) => true,
        (Some(promised), Content::Whole(least) | Content::Torn(Some(least), _)) => least >= promised,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::encode;
    use std::convert::Infallible;

    fn version(sequence: u64) -> Version {
        Version { run: 1, sequence }
    }

    fn record(event: Event) -> Record {
        Record { event, took_us: 1, ended_ms: 1 }
    }

    fn acknowledged(block: BlockNumber, sequence: u64) -> Record {
        record(Event::Acknowledged { block, version: version(sequence) })
    }

    fn begun(blocks: u32) -> Record {
        record(Event::Begun { run: 1, blocks })
    }

    fn verdict(records: &[Record], leg: &[[u8; BLOCK_BYTES]]) -> Verdict {
        let promises = Promises::of(records, Durable::WhenAcknowledged);
        let Ok(verdict) = judge(&promises, |block| Ok::<_, Infallible>(leg[block as usize]));
        verdict
    }

    const EMPTY: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

    #[test]
    fn the_last_acknowledged_write_or_a_later_one_must_be_there() {
        // The acknowledgements come out of order where two runs are put together.
        let records = [begun(2), acknowledged(0, 5), acknowledged(0, 3), acknowledged(1, 4)];
        assert!(verdict(&records, &[encode(0, version(5)), encode(1, version(9))]).is_good());
        let lost = verdict(&records, &[encode(0, version(3)), encode(1, version(4))]);
        let finding = Finding { block: 0, promised: Some(version(5)), found: Content::Whole(version(3)) };
        assert_eq!((lost.wrong, lost.findings.as_slice(), lost.is_good()), (1, &[finding][..], false));
        assert_eq!(
            finding.to_string(),
            "block 0: write 5 of run 1 was acknowledged, it holds write 3 of run 1"
        );
        assert!(!verdict(&records, &[EMPTY, encode(1, version(4))]).is_good());
    }

    #[test]
    fn a_later_run_s_writes_are_later_whatever_their_number() {
        let (late, early) = (Version { run: 2, sequence: 1 }, version(900));
        let later = record(Event::Acknowledged { block: 0, version: late });
        let records = [begun(1), acknowledged(0, 900), later];
        assert!(verdict(&records, &[encode(0, late)]).is_good());
        assert!(!verdict(&records, &[encode(0, early)]).is_good(), "a ghost of the earlier run");
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_in_part_but_only_over_what_was() {
        let records = [begun(1), acknowledged(0, 5)];
        let torn = |old: [u8; BLOCK_BYTES]| {
            let mut block = encode(0, version(6));
            block[512..].copy_from_slice(&old[512..]);
            block
        };
        assert!(verdict(&records, &[torn(encode(0, version(5)))]).is_good());
        assert!(!verdict(&records, &[torn(encode(0, version(4)))]).is_good());
        assert!(!verdict(&records, &[torn(EMPTY)]).is_good());
        let two = [begun(2), acknowledged(1, 1)];
        assert!(verdict(&two, &[torn(EMPTY), encode(1, version(1))]).is_good());
    }

    #[test]
    fn what_belongs_elsewhere_is_wrong_also_where_nothing_was_promised() {
        let records = [begun(2), acknowledged(1, 1)];
        let good = encode(1, version(1));
        assert_eq!(verdict(&records, &[encode(1, version(8)), good]).wrong, 1);
        assert_eq!(verdict(&records, &[[7; BLOCK_BYTES], good]).wrong, 1);
    }

    #[test]
    fn without_promises_nothing_is_proven() {
        assert!(!verdict(&[begun(1)], &[EMPTY]).is_good());
        assert!(!verdict(&[], &[]).is_good());
    }

    #[test]
    fn with_a_volatile_cache_only_what_was_flushed_is_promised() {
        let flushed = record(Event::Flushed { up_to: version(5) });
        let records = [begun(2), acknowledged(0, 5), flushed, acknowledged(1, 6)];
        let promises = Promises::of(&records, Durable::WhenFlushed);
        assert_eq!(promises.versions, BTreeMap::from([(0, version(5))]));
        assert_eq!(promises.acknowledged, 2);
    }
}
