//! Whether every leg in sync holds every write that was acknowledged: read from the drives' files, each leg on its own.
//!
//! Purpose: [`judge`] holds what the workloads recorded against what is in the files, when all machines have ended: nothing is asked of
//! the product but which legs are in sync and where they lie.
//!
//! Invariants: nothing is written. The rule for one leg is [`workload::judge`]'s. Legs in sync must also be equal in every block in
//! which no write was in flight when the last run ended: where two differ, one of them has a write of that run that was never
//! acknowledged.
//!
//! On failure: [`JudgeError`]. A leg that can't be read, or records that can't, are no good judgement.

mod gaps;
mod place;

pub use gaps::{Acknowledged, Gap, acknowledged, first_begun_after, longest_gap, stalls};
pub use place::{Outside, Range, ranges};

use api::LegPlace;
use model::{LegId, NodeName};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use workload::block::{Content, decode};
use workload::judge::{Durable, Promises, Verdict};
use workload::record::{Event, Record, read_all};
use workload::{BLOCK_BYTES, BlockNumber};

/// How many unequal blocks are named; others are counted.
const NAMED: usize = 10;

/// A leg and the file of its drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegFile {
    /// Which.
    pub leg: LegId,
    /// Where it was.
    pub node: NodeName,
    /// Where it lies on its drive.
    pub place: LegPlace,
    /// The drive's content.
    pub file: PathBuf,
}

/// What became of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many failed.
    pub failed: u64,
    /// Each leg, in the order given.
    pub legs: Vec<Verdict>,
    /// How many blocks differ between legs though nothing was in flight there.
    pub unequal: u32,
    /// The first of them.
    pub unequal_blocks: Vec<BlockNumber>,
    /// How many differ where something was in flight.
    pub in_flight: u32,
}

impl Judgement {
    /// Whether nothing is lost, and the legs agree. Without legs or promises nothing is shown.
    pub fn is_good(&self) -> bool {
        !self.legs.is_empty() && self.legs.iter().all(Verdict::is_good) && self.unequal == 0
    }
}

/// Legs or records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A file can't be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A leg is shorter than the volume.
    #[error("{leg} on {node} is shorter than what was written")]
    Outside {
        /// Which.
        leg: LegId,
        /// Where.
        node: NodeName,
        /// What is missing.
        #[source]
        source: Outside,
    },
    /// Records end in something that is none: what comes behind is not known.
    #[error("{} ends in {left_bytes} bytes that are no record", .path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// How much can't be read.
        left_bytes: usize,
    },
}

/// The records in some files of a run of the workload and those after it, one file after the other: what was before was written to another
/// volume. A file that is not there has none.
pub fn records(files: &[PathBuf], from_run: u32) -> Result<Vec<Record>, JudgeError> {
    let mut all = Vec::new();
    for path in files {
        let log = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(|source| JudgeError::Read { path: path.clone(), source })?,
        };
        let (records, left_bytes) = read_all(&log);
        if left_bytes > 0 {
            return Err(JudgeError::Records { path: path.clone(), left_bytes });
        }
        all.extend(records.into_iter().filter(|record| record.run() >= from_run));
    }
    Ok(all)
}

/// Judges legs. An acknowledged write must be there, flushed or not: a lab's drives forget what was not (docs/power.md), unless their caches
/// were turned off, as they must be.
pub fn judge(records: &[Record], legs: &[LegFile]) -> Result<Judgement, JudgeError> {
    let promises = Promises::of(records, Durable::WhenAcknowledged);
    let opened = legs.iter().map(OpenLeg::open).collect::<Result<Vec<_>, _>>()?;
    let mut verdicts = Vec::new();
    for leg in &opened {
        verdicts.push(workload::judge::judge(&promises, |block| leg.read(block))?);
    }
    let mut judgement = Judgement {
        acknowledged: promises.acknowledged,
        failed: promises.failed,
        legs: verdicts,
        unequal: 0,
        unequal_blocks: Vec::new(),
        in_flight: 0,
    };
    for block in 0..promises.blocks {
        let contents = opened.iter().map(|leg| leg.read(block)).collect::<Result<Vec<_>, _>>()?;
        if contents.windows(2).all(|two| two[0] == two[1]) {
            continue;
        }
        if contents.iter().any(|content| was_in_flight(records, &promises, block, content)) {
            judgement.in_flight += 1;
        } else {
            judgement.unequal += 1;
            if judgement.unequal_blocks.len() < NAMED {
                judgement.unequal_blocks.push(block);
            }
        }
    }
    Ok(judgement)
}

/// Whether a block has a write of the last run that was never acknowledged.
fn was_in_flight(
    records: &[Record],
    promises: &Promises,
    block: BlockNumber,
    content: &[u8; BLOCK_BYTES],
) -> bool {
    let newest = match decode(block, content) {
        Content::Whole(version) | Content::Torn(_, version) => version,
        Content::Empty | Content::Elsewhere(..) | Content::Foreign => return false,
    };
    newest.run == last_run(records) && promises.versions.get(&block).is_none_or(|promised| newest > *promised)
}

fn last_run(records: &[Record]) -> u32 {
    let begun = records.iter().filter_map(|record| match record.event {
        Event::Begun { run, .. } => Some(run),
        Event::Acknowledged { .. } | Event::Flushed { .. } | Event::Failed { .. } => None,
    });
    begun.max().unwrap_or_default()
}

struct OpenLeg<'a> {
    leg: &'a LegFile,
    file: File,
}

impl<'a> OpenLeg<'a> {
    fn open(leg: &'a LegFile) -> Result<Self, JudgeError> {
        let file = File::open(&leg.file).map_err(|source| failed(&leg.file, source))?;
        Ok(Self { leg, file })
    }

    fn read(&self, block: BlockNumber) -> Result<[u8; BLOCK_BYTES], JudgeError> {
        let LegFile { leg, node, place, file } = self.leg;
        let len_bytes = BLOCK_BYTES as u64;
        let found = ranges(place, u64::from(block) * len_bytes, len_bytes);
        let found = found.map_err(|source| JudgeError::Outside { leg: *leg, node: node.clone(), source })?;
        let mut content = [0; BLOCK_BYTES];
        let mut rest = &mut content[..];
        for range in found {
            // At most a block.
            let (part, behind) =
                rest.split_at_mut(usize::try_from(range.len_bytes).unwrap_or(usize::MAX).min(rest.len()));
            self.file.read_exact_at(part, range.offset_bytes).map_err(|source| failed(file, source))?;
            rest = behind;
        }
        Ok(content)
    }
}

fn failed(path: &Path, source: io::Error) -> JudgeError {
    JudgeError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "judgement_tests.rs"]
mod tests;
