//! What is done again and again, at moments that fall together.
//!
//! Purpose: a node at rest wakes as seldom as it can. Each wake-up costs an emulated processor a millisecond, whatever is done then. Beats are the kernel's own timers, and
//! come at multiples of their time by one clock (`CLOCK_MONOTONIC`): of two whose times are multiples of one another the slower one wakes nobody.
//! The runtime's timers begin when each is made, and from 64 ms on wake it twice: once to look closer, once when it is time.
//!
//! Invariants: of beats that nobody waited for one is left, not all: who was late does not hurry.
//!
//! On failure: where the kernel gives no timer, the runtime's are used.
#![expect(unsafe_code, reason = "that a file which is waited for stays open is the caller's promise")]

use rustix::io::{Errno, read, retry_on_intr};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// Comes at every multiple of a time.
#[derive(Debug)]
pub(crate) struct Beat {
    period: Duration,
    timer: Timer,
}

#[derive(Debug)]
enum Timer {
    Kernel(AsyncFd<OwnedFd>),
    Runtime(Interval),
}

impl Beat {
    /// More than nothing, and called on a runtime.
    pub(crate) fn every(period: Duration) -> Self {
        let timer = kernel(period).map_or_else(|error| runtime(period, &error), Timer::Kernel);
        Self { period, timer }
    }

    /// From now on at every multiple of another time.
    pub(crate) fn change(&mut self, period: Duration) {
        if self.period != period {
            *self = Self::every(period);
        }
    }

    /// Waits for the next. Nothing is lost when this is given up.
    pub(crate) async fn next(&mut self) {
        if let Timer::Kernel(timer) = &self.timer {
            match expired(timer).await {
                Ok(()) => return,
                Err(error) => self.timer = runtime(self.period, &error),
            }
        }
        if let Timer::Runtime(beats) = &mut self.timer {
            beats.tick().await;
        }
    }
}

fn kernel(period: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let timespec = |time: Duration| Timespec::try_from(time).map_err(io::Error::other);
    let now = clock_gettime(ClockId::Monotonic).try_into().map_err(io::Error::other)?;
    let beats = Itimerspec { it_interval: timespec(period)?, it_value: timespec(first_after(now, period))? };
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &beats)?;
    // SAFETY: the file is owned by what is made of it, and nobody can take it out.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

/// One read empties it: that there is no more is not asked.
async fn expired(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        ready.clear_ready();
        match retry_on_intr(|| read(timer, &mut [0; 8])) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn runtime(period: Duration, error: &io::Error) -> Timer {
    warn!("the kernel has no timer for what is done every {period:?}: {error}");
    let mut beats = interval(period);
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    Timer::Runtime(beats)
}

/// The next multiple.
fn first_after(now: Duration, period: Duration) -> Duration {
    let into = now.as_nanos() % period.as_nanos().max(1);
    now + period.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const PERIOD: Duration = Duration::from_millis(20);

    fn now() -> Duration {
        clock_gettime(ClockId::Monotonic).try_into().unwrap()
    }

    #[test]
    fn beats_come_at_multiples() {
        let ms = Duration::from_millis;
        assert_eq!(first_after(ms(1001), ms(100)), ms(1100));
        assert_eq!(first_after(ms(1100), ms(100)), ms(1200), "not at once");
        assert_eq!(first_after(ms(1199), ms(1000)), ms(2000));
        assert_eq!(first_after(ms(5) + Duration::from_nanos(1), ms(1)), ms(6));
    }

    #[tokio::test]
    async fn a_beat_comes_when_it_is_time_and_one_of_all_that_were_missed() {
        let mut beat = Beat::every(PERIOD);
        let number = |at: Duration| at.as_millis() / PERIOD.as_millis();
        let begun = now();
        beat.next().await;
        assert!(number(now()) > number(begun), "it came early");
        thread::sleep(PERIOD * 5);
        beat.next().await;
        let before = now();
        beat.next().await;
        assert!(number(now()) > number(before), "those that were missed come one after the other");
    }

    #[tokio::test]
    async fn a_beat_that_is_changed_comes_at_multiples_of_the_other_time() {
        let mut beat = Beat::every(Duration::from_hours(1));
        beat.change(PERIOD);
        beat.next().await;
        beat.change(Duration::from_hours(1));
        let next = tokio::time::timeout(PERIOD * 3, beat.next()).await;
        assert!(next.is_err(), "it still comes as often as before");
    }

    #[tokio::test]
    async fn the_runtime_beats_where_the_kernel_does_not() {
        let timer = runtime(PERIOD, &io::Error::other("no more files"));
        let mut beat = Beat { period: PERIOD, timer };
        beat.next().await;
        let before = now();
        beat.next().await;
        assert!(now() >= before + PERIOD / 2);
    }
}
