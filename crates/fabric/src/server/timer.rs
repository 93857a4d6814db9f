//! Wakes the event loop to the microsecond: `epoll_wait(2)` counts milliseconds, which is what a shaped cable adds.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// What is farther away is left to the event queue's own time limit: a millisecond late is early enough then.
const NEAR: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    /// What it is set for, on the fabric's clock.
    set_for: Option<Duration>,
}

impl Timer {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { fd, set_for: None })
    }

    /// Makes an event at `due`, which is `wait` from now, if that is near. It is never read: the event queue tells of every
    /// time that it goes off (edge-triggered, `epoll(7)`).
    pub(super) fn wake_at(&mut self, due: Duration, wait: Duration) -> io::Result<()> {
        if wait > NEAR || self.set_for == Some(due) {
            return Ok(());
        }
        self.set_for = Some(due);
        // Zero would switch it off.
        let wait = wait.max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        Ok(())
    }
}
