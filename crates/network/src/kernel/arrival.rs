//! How long ago a datagram came to this machine, by the kernel's own stamp: how long its process was busy with something else
//! does not count.
//!
//! Invariants: read between one receive and the next by who alone receives on the socket. The stamp is of the time of day, which may be set meanwhile: so no datagram
//! is taken to have waited for longer than whoever reads says that it can have. One without a stamp came now.
//!
//! On failure: none.
#![expect(unsafe_code, reason = "SIOCGSTAMPNS exists in no safe wrapper that the workspace has")]

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// `linux/sockios.h`: the stamp of the last datagram that was received. The first call makes the kernel stamp them.
const SIOCGSTAMPNS: libc::c_ulong = 0x8907;

/// Has the kernel stamp what comes to this socket from now on.
pub(super) fn begin(socket: &impl AsRawFd) {
    late_by(socket, Duration::ZERO);
}

/// How long ago the datagram came that was received last: not before the socket was last found empty, `at_most` ago.
pub(super) fn late_by(socket: &impl AsRawFd, at_most: Duration) -> Duration {
    let mut stamp = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec, which the kernel fills and which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut stamp) };
    if result != 0 {
        return Duration::ZERO;
    }
    let stamp = Timespec { tv_sec: stamp.tv_sec, tv_nsec: stamp.tv_nsec };
    late(stamp, clock_gettime(ClockId::Realtime)).min(at_most)
}

fn late(stamp: Timespec, now: Timespec) -> Duration {
    let nanoseconds = |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanoseconds(now) - nanoseconds(stamp)).map(Duration::from_nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    #[test]
    fn a_stamp_that_makes_no_sense_counts_as_now() {
        let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        assert_eq!(late(at(9, 999_000_000), at(10, 1_000_000)), Duration::from_millis(2));
        assert_eq!(late(at(10, 0), at(9, 999_999_999)), Duration::ZERO);
    }

    #[test]
    fn how_long_a_datagram_waited_is_known() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 8];
        let mut waited = |for_long: Duration| {
            socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
            std::thread::sleep(for_long);
            socket.recv(&mut buffer).unwrap();
            late_by(&socket, for_long * 20)
        };
        // The first makes the kernel begin, unless somebody else has; it does so in a task of its own (`netstamp_needed_deferred`,
        // net/core/dev.c), and what comes before has no stamp.
        let begun = Instant::now();
        while waited(Duration::from_millis(1)) < Duration::from_millis(1) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the kernel does not begin to stamp what comes"
            );
        }
        let late = waited(Duration::from_millis(30));
        assert!((Duration::from_millis(30)..Duration::from_millis(600)).contains(&late), "{late:?}");
        assert_eq!(late_by(&socket, Duration::from_millis(2)), Duration::from_millis(2), "the clock was set");
    }
}
