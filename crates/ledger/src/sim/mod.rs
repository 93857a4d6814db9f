//! The real ledgers, with openraft and redb, on paused time: over a simulated network, on simulated disks.
//!
//! [`net`] delays, loses, doubles and cuts; [`disk`] forgets what was not synchronised; [`world`] starts, crashes, wipes and judges.
//! `scenarios` says what shall happen in which case, [`schedules`] draws cases from seeds and looks at safety after every step;
//! [`Campaign`] runs many of them (`cargo xtask hil --rung raft`, docs/ledger.md).
//!
//! Invariants: it is a test, in the library only so that a command can run it: it judges by assertions, and panics.

#![expect(clippy::unwrap_used, reason = "a judge may panic: the campaign takes it down")]

mod campaign;
pub(crate) mod disk;
#[cfg(test)]
mod forced;
mod net;
#[cfg(test)]
mod scenarios;
mod schedules;
mod tally;
mod world;

pub use campaign::{AGAIN, Campaign, Failure, Outcome, Summary, simulate};
pub use tally::{Happened, What};
