//! A virtual machine on this node: from a process that stands still to one that runs, is saved, or goes on elsewhere.
//!
//! ```text
//!  Run       started ───────────────────────────────► New ──── resume ─► Running
//!  Restore   started ── load ── all read ───────────► Still ── resume ─► Running
//!  Incoming  started ── listen ── all received ─────► Still ── resume ─► Running
//!  sent      Running ── send ─┬─ (held ── go_on) ───► Sent    resume: Running again
//!                             └─ failed, cancelled ─► Running
//!  saved     Running ── save ───────────────────────► Sent    resume: Running again
//! ```
//! Purpose: each arrow is one call; what is between two of them is asked of QEMU, never remembered. So whoever comes later ([`Instance::find`]) goes on.
//!
//! Invariants: nothing runs but by [`Instance::resume`], with one exception that is QEMU's: a migration that comes to nothing *before all has been sent* lets
//! the sender run on. Once the sender is [`Phase::Sent`], neither side runs unless it is told to, so the decision which of them does is made then, with both
//! standing still and both complete. (QEMU could also be held before it sends the last of it, [`Switchover::Held`]; deciding *there* would
//! be wrong: were the last of it to fail after the decision, the sender would run on by itself, against it.) Who waits does not open its disks for writing before
//! it is resumed (`late-block-activate`).
//!
//! What was asked and not answered, or by somebody who is gone, poisons nothing: the next question goes over a new connection, which QEMU takes when it has done that.
//!
//! On failure: [`InstanceError`]; a machine that is worth nothing is ended with [`Instance::kill`], which needs no answer of QEMU's.

use crate::machine::{Accel, Machine, Places, Role};
use crate::process::{self, Gone, Process, ProcessError};
use crate::qmp::{Qmp, QmpError};
use crate::saved::SavedError;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long QEMU may take to answer anything.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may take to stand still: its disks are flushed for that, and a volume that has just lost a copy answers nothing for seconds.
const STAND_STILL_MAX: Duration = Duration::from_mins(1);
/// How long QEMU may take from its start to its control socket: three seconds where a processor is emulated twice.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often what QEMU does not say by itself is asked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How much of QEMU's own words goes into an error, bytes.
const WORDS_MAX: usize = 2000;

/// Why something could not be done with a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its control socket.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// What it was saved to.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// It ended by itself.
    #[error("QEMU ended: {said}")]
    Ended {
        /// Its last words.
        said: String,
    },
    /// Not in this phase.
    #[error("a machine that is {phase:?} can't be {what}")]
    Phase {
        /// Its phase.
        phase: Phase,
        /// What was wanted.
        what: &'static str,
    },
    /// It was not in time.
    #[error("{what} took longer than {bound:?}")]
    Late {
        /// What.
        what: &'static str,
        /// How long it had.
        bound: Duration,
    },
    /// Sending or receiving came to nothing.
    #[error("the migration {status}: {why}")]
    Migration {
        /// QEMU's word for how it ended.
        status: String,
        /// Its reason, if it has one.
        why: String,
    },
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It stands still, and nothing of it has ever run.
    New,
    /// It waits for what it is sent, or for what was saved, and has not all of it.
    Waiting,
    /// It stands still, complete: all of it has come, or it is paused.
    Still,
    /// It runs.
    Running,
    /// It stands still; the last of it is held, or on the way, or that is just over.
    Finishing,
    /// It stands still, and all of it is elsewhere too.
    Sent,
    /// It switched itself off.
    Off,
    /// It stands still because of a disk's error.
    DiskError,
    /// It stands still because of itself: its kernel or QEMU found it broken.
    Broken,
}

/// When a sender stops for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switchover {
    /// As soon as little enough is left.
    AtOnce,
    /// Then it waits, standing still and with its disks flushed, for [`Instance::go_on`].
    Held,
}

/// How far sending is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sending {
    /// Nothing was ever sent.
    Not,
    /// It runs, and so many bytes of its memory are left.
    Copying(u64),
    /// It stands still, and waits.
    Held,
    /// It stands still, and the last of it is on the way.
    Finishing,
    /// All is sent.
    Done,
    /// It came to nothing, and why.
    Failed(String),
}

/// What sending may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second at most.
    pub bandwidth: u64,
    /// It is stopped for the rest when that is thought to take no longer than this.
    pub downtime: Duration,
}

/// A virtual machine whose QEMU answers.
#[derive(Debug)]
pub struct Instance {
    process: Process,
    /// `None` while it is being connected anew.
    qmp: Option<Qmp>,
}

impl Instance {
    /// Starts one, which stands still. [`ProcessError::There`]: one is there, which [`Instance::find`] gives. Blocks for as long as a fork and an exec take: for whoever
    /// has other work on this thread there are [`process::start`] and [`Instance::attach`].
    pub async fn start(
        qemu: &Path,
        machine: &Machine,
        places: &Places,
        accel: Accel,
        role: Role,
    ) -> Result<Self, InstanceError> {
        Self::attach(process::start(qemu, machine, places, accel, role)?).await
    }

    /// The one that is there, whoever started it. One that was killed is not, even while its end waits for a device: it answers nothing.
    pub async fn find(places: &Places) -> Result<Option<Self>, InstanceError> {
        match process::find(places)?.filter(|process| !process::is_doomed(process.pid())) {
            Some(process) => Self::attach(process).await.map(Some),
            None => Ok(None),
        }
    }

    /// Of a process, once its QEMU answers.
    pub async fn attach(process: Process) -> Result<Self, InstanceError> {
        let qmp = Some(connect(&process).await?);
        Ok(Self { process, qmp })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// How it stands.
    pub async fn phase(&mut self) -> Result<Phase, InstanceError> {
        let answer = self.ask("query-status", Value::Null).await?;
        Ok(match answer["status"].as_str().unwrap_or_default() {
            "inmigrate" => Phase::Waiting,
            "running" | "suspended" => Phase::Running,
            "finish-migrate" => Phase::Finishing,
            "postmigrate" => Phase::Sent,
            "shutdown" => Phase::Off,
            "io-error" => Phase::DiskError,
            "guest-panicked" | "internal-error" | "watchdog" => Phase::Broken,
            // Begun for a restore or a migration, but told of nothing yet: it looks as if it could be let run.
            "prelaunch" if self.process.record.role != Role::Run => Phase::Waiting,
            "prelaunch" => Phase::New,
            _ => Phase::Still,
        })
    }

    /// Waits until QEMU tells of something, for this long at most; whether it has. May be dropped. One that ended is [`InstanceError::Ended`].
    pub async fn stirs(&mut self, within: Duration) -> Result<bool, InstanceError> {
        // What it told of over the last connection is not known.
        let anew = self.qmp.as_ref().is_none_or(|qmp| !qmp.is_sound());
        let qmp = self.qmp().await?;
        if anew {
            return Ok(true);
        }
        match qmp.event(within).await {
            Ok(event) => Ok(event.is_some()),
            Err(_) if self.process.has_ended(LOOK_AGAIN)? => Err(ended(self.process.places())),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets it run. One that runs is left alone.
    pub async fn resume(&mut self) -> Result<(), InstanceError> {
        match self.phase().await? {
            Phase::Running => Ok(()),
            Phase::New | Phase::Still | Phase::Sent | Phase::DiskError => {
                self.ask("cont", Value::Null).await.map(drop)
            }
            // QEMU would let it run as soon as it is complete, whatever is decided until then.
            // And one that is being sent might be stopped once more at the end of that.
            phase @ (Phase::Waiting | Phase::Finishing | Phase::Off | Phase::Broken) => {
                Err(InstanceError::Phase { phase, what: "let run" })
            }
        }
    }

    /// Makes it stand still, if it runs. Why it does then, [`Instance::phase`] says.
    pub async fn pause(&mut self) -> Result<(), InstanceError> {
        self.ask_within("stop", Value::Null, STAND_STILL_MAX).await.map(drop)
    }

    /// Presses its power button. What it makes of that shows in [`Instance::phase`].
    pub async fn press_power(&mut self) -> Result<(), InstanceError> {
        self.ask("system_powerdown", Value::Null).await.map(drop)
    }

    /// Shuts it down, or kills it if it has not within this time. Whether it did so itself.
    pub async fn shut_down(&mut self, within: Duration) -> Result<bool, InstanceError> {
        let deadline = Instant::now() + within;
        self.press_power().await?;
        loop {
            match self.phase().await {
                Ok(Phase::Off) => return Ok(true),
                Ok(Phase::Running) if Instant::now() < deadline => {}
                Ok(_) => return Ok(false),
                Err(_) if self.process.has_ended(Duration::ZERO)? => return Ok(false),
                Err(error) => return Err(error),
            }
            self.qmp().await?.event(LOOK_AGAIN).await?;
        }
    }

    /// Makes it listen for what it is sent, at [`Places::incoming`]. It may be told again.
    pub async fn listen(&mut self) -> Result<(), InstanceError> {
        let socket = self.process.places().incoming();
        if socket.exists() {
            return Ok(());
        }
        // Else it is asked again and again whether all has come.
        self.capabilities(&[("late-block-activate", true), ("events", true)]).await?;
        let uri = format!("unix:{}", socket.display());
        self.ask("migrate-incoming", json!({ "uri": uri })).await.map(drop)
    }

    /// Waits until all of it is here. What is not whole ends QEMU.
    pub async fn received(&mut self, within: Duration) -> Result<(), InstanceError> {
        let deadline = Instant::now() + within;
        while self.phase().await? == Phase::Waiting {
            if Instant::now() > deadline {
                return Err(InstanceError::Late { what: "receiving", bound: within });
            }
            self.qmp().await?.event(LOOK_AGAIN).await?;
        }
        Ok(())
    }

    /// Begins to send it to whoever listens at this socket.
    pub async fn send(
        &mut self,
        socket: &Path,
        switchover: Switchover,
        limits: Limits,
    ) -> Result<(), InstanceError> {
        let held = switchover == Switchover::Held;
        self.capabilities(&[("events", true), ("pause-before-switchover", held)]).await?;
        self.limit(limits).await?;
        self.ask("migrate", json!({ "uri": format!("unix:{}", socket.display()) })).await.map(drop)
    }

    /// What sending may cost from now on.
    pub async fn limit(&mut self, limits: Limits) -> Result<(), InstanceError> {
        let downtime_ms = u64::try_from(limits.downtime.as_millis()).unwrap_or(u64::MAX);
        let limits = json!({ "max-bandwidth": limits.bandwidth, "downtime-limit": downtime_ms });
        self.ask("migrate-set-parameters", limits).await.map(drop)
    }

    /// How far that is.
    pub async fn sending(&mut self) -> Result<Sending, InstanceError> {
        let answer = self.ask("query-migrate", Value::Null).await?;
        let why = answer["error-desc"].as_str().unwrap_or("no reason given").to_owned();
        Ok(match answer["status"].as_str().unwrap_or("none") {
            "none" => Sending::Not,
            "setup" | "active" | "wait-unplug" | "cancelling" => {
                Sending::Copying(answer["ram"]["remaining"].as_u64().unwrap_or(0))
            }
            "pre-switchover" => Sending::Held,
            "device" => Sending::Finishing,
            "completed" => Sending::Done,
            "cancelled" => Sending::Failed("it was cancelled".to_owned()),
            _ => Sending::Failed(why),
        })
    }

    /// Waits until sending is held, done or has failed, and its machine stands or runs as it will after that.
    pub async fn sent(&mut self, within: Duration) -> Result<Sending, InstanceError> {
        let deadline = Instant::now() + within;
        loop {
            match self.sending().await? {
                Sending::Copying(_) | Sending::Finishing => {}
                held @ (Sending::Held | Sending::Not) => return Ok(held),
                // QEMU says how it ended before it has done what follows from that.
                ended if self.phase().await? != Phase::Finishing => return Ok(ended),
                _ => {}
            }
            if Instant::now() > deadline {
                return Err(InstanceError::Late { what: "sending", bound: within });
            }
            self.qmp().await?.event(LOOK_AGAIN).await?;
        }
    }

    /// Lets one that is held send the last of it, and sees that it is held no longer.
    pub async fn go_on(&mut self) -> Result<(), InstanceError> {
        self.ask("migrate-continue", json!({ "state": "pre-switchover" })).await?;
        let deadline = Instant::now() + ANSWER_MAX;
        while self.sending().await? == Sending::Held {
            if Instant::now() > deadline {
                return Err(InstanceError::Late { what: "going on", bound: ANSWER_MAX });
            }
            self.qmp().await?.event(LOOK_AGAIN).await?;
        }
        Ok(())
    }

    /// Gives sending up, and sees that it is. [`Sending::Done`]: it was too late, and it stands still until it is told otherwise; else it runs on if it ran.
    pub async fn cancel(&mut self) -> Result<Sending, InstanceError> {
        self.ask("migrate_cancel", Value::Null).await?;
        self.sent(ANSWER_MAX).await
    }

    /// Gives up what is being sent of it, and says how it is then. It may be at what it was told last for as long as a flush of its disks takes, whether anybody waits for that or not: so much longer it may take.
    pub async fn come_to_rest(&mut self) -> Result<Phase, InstanceError> {
        let deadline = Instant::now() + STAND_STILL_MAX;
        loop {
            match self.phase().await {
                Ok(_) => break,
                Err(InstanceError::Qmp(_)) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
        match self.sending().await? {
            Sending::Copying(_) | Sending::Held | Sending::Finishing => self.cancel().await?,
            Sending::Not | Sending::Done | Sending::Failed(_) => self.sent(ANSWER_MAX).await?,
        };
        self.phase().await
    }

    /// Kills it, and sees it gone within this time. For good: the process is all that there was of it.
    pub async fn kill(&self, within: Duration) -> Result<Gone, InstanceError> {
        let deadline = Instant::now() + within;
        loop {
            // Short, so that other work of this thread's goes on.
            let gone = self.process.kill(Duration::from_millis(1))?;
            if gone == Gone::Yes || Instant::now() >= deadline {
                return Ok(gone);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn capabilities(&mut self, wanted: &[(&str, bool)]) -> Result<(), InstanceError> {
        let wanted: Vec<Value> =
            wanted.iter().map(|(name, on)| json!({ "capability": name, "state": on })).collect();
        self.ask("migrate-set-capabilities", json!({ "capabilities": wanted })).await.map(drop)
    }

    /// An answer; if there is none since QEMU has ended, that.
    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, InstanceError> {
        self.ask_within(command, arguments, ANSWER_MAX).await
    }

    async fn ask_within(
        &mut self,
        command: &str,
        arguments: Value,
        bound: Duration,
    ) -> Result<Value, InstanceError> {
        match self.qmp().await?.execute_within(command, arguments, bound).await {
            Ok(answer) => Ok(answer),
            Err(refused @ QmpError::Refused { .. }) => Err(refused.into()),
            Err(error) if self.process.has_ended(LOOK_AGAIN)? => {
                let _ = error;
                Err(ended(self.process.places()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The connection; a new one if something was not answered, or nobody waited for that.
    async fn qmp(&mut self) -> Result<&mut Qmp, InstanceError> {
        let qmp = match self.qmp.take().filter(Qmp::is_sound) {
            Some(qmp) => qmp,
            None => connect(&self.process).await?,
        };
        Ok(self.qmp.insert(qmp))
    }
}

/// Connects to its QEMU, once that answers.
async fn connect(process: &Process) -> Result<Qmp, InstanceError> {
    let deadline = Instant::now() + READY_MAX;
    let socket = process.places().qmp();
    loop {
        let why = match Qmp::connect(&socket, ANSWER_MAX).await {
            Ok(qmp) => return Ok(qmp),
            Err(why) => why,
        };
        // Not in `has_ended`: whoever waits in it has its whole thread wait, and a QEMU takes seconds to answer.
        tokio::time::sleep(LOOK_AGAIN).await;
        // Whatever was seen of one that ends is only that it ends.
        if process.has_ended(Duration::ZERO)? {
            return Err(ended(process.places()));
        }
        // Else it is not there yet, or another's connection was just closed.
        if !matches!(why, QmpError::Connect { .. }) || Instant::now() > deadline {
            return Err(why.into());
        }
    }
}

/// What QEMU itself said last, on its output, of a machine that is there or has just ended; `None`: nothing.
pub fn last_words(places: &Places) -> Option<String> {
    let said = fs::read(places.output()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(WORDS_MAX)..]).trim().to_owned();
    Some(said).filter(|said| !said.is_empty())
}

fn ended(places: &Places) -> InstanceError {
    InstanceError::Ended { said: last_words(places).unwrap_or_else(|| "without a word".to_owned()) }
}
