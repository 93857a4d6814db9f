//! What a suite does with a virtual machine, and asks of it: `{ do = "vm", what = … }`.

use super::Room;
use serde::Deserialize;
use std::fmt;

/// How a virtual machine is bound to its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tie {
    /// Non-strict: it goes to the other room when it must, and home again.
    #[default]
    Prefers,
    /// It never leaves it.
    Strict,
    /// Not at all: it stays wherever it is. The room says only where it is made.
    Anywhere,
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefers => "non-strict",
            Self::Strict => "strict",
            Self::Anywhere => "not bound to it",
        })
    }
}

/// How far a migration has come, as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStage {
    /// It is ordered; what is to receive it does not wait for it yet.
    Ordered,
    /// Its memory is sent, or is all there and its disks are being closed.
    Sent,
    /// The side has changed; it is not let run there yet.
    Landing,
}

impl fmt::Display for MigrationStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Sent => "being sent",
            Self::Landing => "landing",
        })
    }
}

/// How far a failover has come, as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverStage {
    /// It is lost where it was.
    Lost,
    /// It has its place elsewhere, and its volumes are on their way there.
    Placed,
    /// It was let run there.
    Begun,
}

impl fmt::Display for FailoverStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Placed => "placed",
            Self::Begun => "begun",
        })
    }
}

/// A step about the virtual machine of a suite, whose disk is the suite's volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VmStep {
    /// The guest `pulse` is written to the volume, and its virtual machine is made and started; it has a write acknowledged in its home, within a bound.
    Make {
        /// Its home.
        room: Room,
        /// How it is bound to that.
        #[serde(default)]
        tie: Tie,
        /// Its memory, MiB.
        memory_mib: u32,
        /// Whether it has a volume for its memory.
        #[serde(default)]
        can_be_saved: bool,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is given another home, or is bound to it in another way; the ledger has that within a bound.
    SetPlacement {
        /// Its home.
        room: Room,
        /// How it is bound to that.
        tie: Tie,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The agent of the node where it had its last write acknowledged is stopped (SIGSTOP): it does nothing any more, and everything else of that node goes on.
    FreezeAgent {},
    /// On the node whose agent was stopped no process of a virtual machine has processor time any more, within a bound from the last fault; the node itself goes on.
    Ended {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is off, or saved, within a bound from the last fault, and stays so for a while: it is seated nowhere, has no write acknowledged, and is not heard.
    Off {
        /// The bound, milliseconds.
        within_ms: u64,
        /// How long, milliseconds.
        for_ms: u64,
    },
    /// It runs in a room and has a write acknowledged there that ended since the last fault (from now on, if there is none), within a bound from that.
    Writes {
        /// The room; without one it is wherever its agent does not hang.
        #[serde(default)]
        room: Option<Room>,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// For so long from now on it has writes acknowledged, none of two too long after the other, as seen from outside; all on one node, and without having
    /// booted anew since the last one before.
    KeepsWriting {
        /// How long, milliseconds.
        for_ms: u64,
        /// The longest time, milliseconds.
        gap_at_most_ms: u64,
    },
    /// The rack where it runs is drained as an operator would; it writes in the other one within a bound, without having booted anew, and meanwhile neither two
    /// acknowledgements nor two of its beats are too far apart.
    Drain {
        /// The rack's room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
        /// The longest time, milliseconds.
        gap_at_most_ms: u64,
    },
    /// It is moved to the first node of a room by hand; the same is asked of it.
    Migrate {
        /// The room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
        /// The longest time, milliseconds.
        gap_at_most_ms: u64,
    },
    /// It is to move to the first node of a room by hand, and is seen in that stage of it within a bound. Nothing else is waited for.
    BeginMigrating {
        /// The room.
        room: Room,
        /// The stage.
        reaches: MigrationStage,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// As soon as the ledger is seen to have it so far on its way to a room, within a bound from the last fault, whoever leads the ledger loses its agent.
    LeaderDies {
        /// The room.
        room: Room,
        /// How far at least.
        reaches: FailoverStage,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// That is given up, as an operator would; or that is refused, as it has gone over already.
    CancelMigration {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Within a bound from the last fault, or from now on if there is none, the ledger has it running, and it has a write acknowledged there after that.
    Settles {
        /// Whether without having booted anew since [`Self::BeginMigrating`].
        #[serde(default)]
        alive: bool,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The rack's drain is ended, and it goes home, with the same asked of it.
    GoHome {
        /// The rack's room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
        /// The longest time, milliseconds.
        gap_at_most_ms: u64,
    },
    /// As the compute network heard it from its start until now, no two copies of it ran, and no two of its beats were too far apart.
    Beats {
        /// The longest time, milliseconds.
        gap_at_most_ms: u64,
    },
    /// It is shut down, within a bound.
    Stop {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Its memory is saved by command, within a bound.
    Save {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is said that it is to be saved, and nothing is waited for but that the ledger has that.
    BeginSaving {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is saved within a bound from the last fault, whatever has happened on the way.
    Saved {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is said that it is to run again, and nothing is waited for but that the ledger has that.
    BeginRestoring {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// One that is saved is started by command: it writes in a room within a bound, without having booted anew.
    Restore {
        /// The room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The rack where it runs is drained as an operator would, with what can't leave being saved; it is saved within a bound.
    DrainSaving {
        /// The rack's room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
    },
}

impl fmt::Display for VmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make { room, tie, memory_mib, can_be_saved, within_ms } => {
                let savable = if *can_be_saved { ", that can be saved," } else { "" };
                write!(
                    f,
                    "a virtual machine of {memory_mib} MiB{savable} at home in {room} ({tie}) writes there within {within_ms} ms"
                )
            }
            Self::SetPlacement { room, tie, within_ms } => {
                write!(f, "the virtual machine is at home in {room} ({tie}) within {within_ms} ms")
            }
            Self::FreezeAgent {} => {
                f.write_str("the agent where the virtual machine runs does nothing any more")
            }
            Self::Ended { within_ms } => write!(f, "it has ended there within {within_ms} ms"),
            Self::Off { within_ms, for_ms } => {
                write!(
                    f,
                    "the virtual machine is off, or saved, within {within_ms} ms, and nothing of it is seen for {for_ms} ms"
                )
            }
            Self::Writes { room: Some(room), within_ms } => {
                write!(f, "the virtual machine writes in {room} within {within_ms} ms")
            }
            Self::Writes { room: None, within_ms } => {
                write!(f, "the virtual machine writes elsewhere within {within_ms} ms")
            }
            Self::KeepsWriting { for_ms, gap_at_most_ms } => write!(
                f,
                "for {for_ms} ms it goes on where it is, no two of its acknowledgements more than {gap_at_most_ms} ms apart, as seen from outside"
            ),
            Self::Migrate { room, within_ms, gap_at_most_ms } => write!(
                f,
                "by hand to {room}: within {within_ms} ms the virtual machine writes there, with no two acknowledgements more than {gap_at_most_ms} ms apart"
            ),
            Self::Drain { room, within_ms, gap_at_most_ms } => write!(
                f,
                "{room} is drained: within {within_ms} ms the virtual machine writes in the other room, with no two acknowledgements more than {gap_at_most_ms} ms apart"
            ),
            Self::GoHome { room, within_ms, gap_at_most_ms } => write!(
                f,
                "{room} takes virtual machines again: within {within_ms} ms this one writes there, with no two acknowledgements more than {gap_at_most_ms} ms apart"
            ),
            Self::BeginMigrating { room, reaches, .. } => {
                write!(f, "the virtual machine is to go to {room} by hand, and is {reaches}")
            }
            Self::LeaderDies { room, reaches, .. } => {
                write!(
                    f,
                    "as soon as it is {reaches} on its way to {room}, the ledger's leader loses its agent"
                )
            }
            Self::CancelMigration { .. } => f.write_str("that is given up, unless it has gone over"),
            Self::Settles { alive, within_ms } => {
                let how = if *alive { ", without having booted anew" } else { "" };
                write!(f, "within {within_ms} ms it runs and writes, wherever that is{how}")
            }
            Self::Beats { gap_at_most_ms } => {
                write!(
                    f,
                    "one copy of the virtual machine was heard, no two beats more than {gap_at_most_ms} ms apart"
                )
            }
            Self::Stop { within_ms } => write!(f, "the virtual machine is shut down within {within_ms} ms"),
            Self::Save { within_ms } => write!(f, "the virtual machine is saved within {within_ms} ms"),
            Self::BeginSaving { .. } => f.write_str("the virtual machine is to be saved"),
            Self::Saved { within_ms } => {
                write!(f, "the virtual machine is saved within {within_ms} ms all the same")
            }
            Self::BeginRestoring { .. } => f.write_str("the virtual machine is to run again"),
            Self::Restore { room, within_ms } => write!(
                f,
                "the virtual machine that was saved goes on in {room}: it writes there within {within_ms} ms, without having booted"
            ),
            Self::DrainSaving { room, within_ms } => write!(
                f,
                "{room} is drained, what can't leave being saved: within {within_ms} ms the virtual machine is"
            ),
        }
    }
}
