//! The real ledgers, with openraft and redb, on paused time: over a simulated network, on simulated disks.
//!
//! [`net`] delays, loses, doubles and cuts; [`disk`] forgets what was not synchronised; [`world`] starts, crashes, wipes and judges.
//! `scenarios` says what shall happen in which case, `schedules` draws cases from seeds and looks at safety after every step.

pub(crate) mod disk;
mod forced;
mod net;
mod scenarios;
mod schedules;
mod world;
