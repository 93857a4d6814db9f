//! What time it is. The one place of the daemon that asks.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started, time asleep included (`CLOCK_BOOTTIME`).
pub(crate) fn uptime_ms() -> u64 {
    milliseconds(ClockId::Boottime)
}

/// Milliseconds since 1970 as the node believes (`CLOCK_REALTIME`): faults skew it, so nothing is decided by it.
pub(crate) fn wall_ms() -> u64 {
    milliseconds(ClockId::Realtime)
}

fn milliseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Negative only before 1970, which then reads as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}
