//! What is wrong with a drive, and what that makes of a request. Pure.

use crate::nbd::Kind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What is wrong with a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Requests fail, and nothing of them is done.
    Errors {
        /// Which.
        of: Requests,
        /// Where; none: everywhere, and then flushes fail as writes do.
        range: Option<Range>,
    },
    /// Each request takes so much longer. They wait side by side: what comes later does not wait for what came before.
    Slow {
        /// How much, milliseconds.
        delay_ms: u32,
    },
    /// Requests wait until this ends.
    Stuck,
    /// It is not plugged in: every request fails.
    Pulled,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("it works"),
            Self::Errors { of, range } => {
                let requests = match of {
                    Requests::All => "all requests",
                    Requests::Reads => "reads",
                    Requests::Writes => "writes",
                };
                write!(f, "it fails {requests}")?;
                range.map_or(Ok(()), |Range { offset_bytes, len_bytes }| {
                    write!(f, " in {len_bytes} bytes from {offset_bytes} on")
                })
            }
            Self::Slow { delay_ms } => write!(f, "it takes {delay_ms} ms longer for each request"),
            Self::Stuck => f.write_str("it answers nothing any more"),
            Self::Pulled => f.write_str("it is pulled"),
        }
    }
}

/// Requests that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requests {
    /// All.
    #[default]
    All,
    /// Reads alone.
    Reads,
    /// All but reads.
    Writes,
}

/// A part of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// From the drive's beginning, bytes.
    pub offset_bytes: u64,
    /// How much.
    pub len_bytes: u64,
}

impl Range {
    fn meets(&self, other: &Self) -> bool {
        self.offset_bytes < other.offset_bytes.saturating_add(other.len_bytes)
            && other.offset_bytes < self.offset_bytes.saturating_add(self.len_bytes)
    }
}

/// What is to be done with the request that waits longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is carried out.
    Go,
    /// It fails.
    Fail,
    /// It waits so much longer.
    Wait(Duration),
    /// It waits until the fault ends.
    Hold,
}

impl Fault {
    /// What becomes of a request that came so long ago.
    pub fn turn(&self, kind: Kind, at: Range, waited: Duration) -> Turn {
        match self {
            Self::None => Turn::Go,
            Self::Errors { of, range } => {
                let meant = match of {
                    Requests::All => true,
                    Requests::Reads => kind == Kind::Read,
                    Requests::Writes => kind != Kind::Read,
                };
                let there = range.is_none_or(|range| kind != Kind::Flush && range.meets(&at));
                if meant && there { Turn::Fail } else { Turn::Go }
            }
            Self::Slow { delay_ms } => {
                let left = Duration::from_millis((*delay_ms).into()).saturating_sub(waited);
                if left.is_zero() { Turn::Go } else { Turn::Wait(left) }
            }
            Self::Stuck => Turn::Hold,
            Self::Pulled => Turn::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Range = Range { offset_bytes: 4096, len_bytes: 4096 };

    #[test]
    fn errors_are_where_and_of_what_they_shall_be() {
        let turn = |of, range, kind| Fault::Errors { of, range }.turn(kind, AT, Duration::ZERO);
        let kinds = [Kind::Read, Kind::Write, Kind::Flush, Kind::Zero];
        let fail = |of, range| kinds.map(|kind| turn(of, range, kind) == Turn::Fail);
        assert_eq!(fail(Requests::All, None), [true; 4]);
        assert_eq!(fail(Requests::Reads, None), [true, false, false, false]);
        assert_eq!(fail(Requests::Writes, None), [false, true, true, true]);
        let range = |offset_bytes, len_bytes| Some(Range { offset_bytes, len_bytes });
        assert_eq!(fail(Requests::All, range(0, 4097)), [true, true, false, true]);
        assert_eq!(fail(Requests::All, range(8191, u64::MAX)), [true, true, false, true]);
        assert_eq!(fail(Requests::All, range(0, 4096)), [false; 4]);
        assert_eq!(fail(Requests::All, range(8192, 1)), [false; 4]);
    }

    #[test]
    fn a_slow_drive_counts_what_was_waited() {
        let turn = |ms| Fault::Slow { delay_ms: 20 }.turn(Kind::Read, AT, Duration::from_millis(ms));
        assert_eq!(turn(5), Turn::Wait(Duration::from_millis(15)));
        assert_eq!((turn(20), turn(50)), (Turn::Go, Turn::Go));
    }

    #[test]
    fn nothing_gets_through_where_it_shall_not() {
        let turn = |fault: Fault| fault.turn(Kind::Write, AT, Duration::from_hours(1));
        assert_eq!(
            (turn(Fault::None), turn(Fault::Stuck), turn(Fault::Pulled)),
            (Turn::Go, Turn::Hold, Turn::Fail)
        );
    }
}
