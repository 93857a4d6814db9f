//! Round trips by ICMP echo, from one address of this node to another node.
//!
//! Purpose: the latency mesh (is the median of at least 200 probes within 1 ms?) and the proof of jumbo frames (a payload of
//! the MTU less [`HEADERS_BYTES`] with don't-fragment).
//!
//! Invariants: probes are sent at their interval whether or not answers come; an answer counts once, for the probe whose
//! number it carries; the deadline bounds the whole run. Times are taken in this process: on a busy machine they are
//! longer than those on the wire, never shorter.
//!
//! On failure: [`PingError`] when there is no socket. Probes that can't be sent or get no answer are lost, and the first
//! error is told: a local `EMSGSIZE` means that the frame doesn't even fit the own link.

use crate::link::LinkName;
use crate::probe::ROUND_TRIP_BOUNDS_US;
use model::Priority;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

/// Bytes of an IPv4 header without options and an ICMP echo header: what an MTU holds beside the payload.
pub const HEADERS_BYTES: u16 = 28;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;
const ICMP_HEADER_BYTES: usize = 8;

/// What is probed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingOptions {
    /// The address of this node that probes leave from.
    pub source: Ipv4Addr,
    /// Who shall answer.
    pub target: Ipv4Addr,
    /// The only link that probes may use; `None`: as the routes say.
    pub device: Option<LinkName>,
    /// How many probes.
    pub count: u16,
    /// From one probe to the next.
    pub interval: Duration,
    /// Bytes in each probe beside the headers.
    pub payload_bytes: u16,
    /// Whether a probe that is too big is lost instead of cut to pieces.
    pub dont_fragment: bool,
    /// Socket priority, which VLAN links map to a priority code point.
    pub priority: Priority,
    /// When the whole run ends at the latest.
    pub deadline: Duration,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PingReport {
    /// Probes that left.
    pub sent: u32,
    /// Probes that were answered in time.
    pub received: u32,
    /// Probes asked for that weren't answered, unsent ones included.
    pub lost: u32,
    /// The shortest round trip, µs; `None`, here and below: no answer.
    pub min_us: Option<u64>,
    /// The median, µs.
    pub median_us: Option<u64>,
    /// The 99th percentile (nearest rank), µs.
    pub p99_us: Option<u64>,
    /// The longest, µs.
    pub max_us: Option<u64>,
    /// Answered probes by round trip: a count for each of [`ROUND_TRIP_BOUNDS_US`], and one for what is longer.
    pub histogram: Vec<u32>,
    /// The first error of sending or receiving, in the kernel's words.
    pub first_error: Option<String>,
}

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
#[error("can't probe {target} from {source_address}: {step}")]
pub struct PingError {
    /// From where.
    pub source_address: Ipv4Addr,
    /// Whom.
    pub target: Ipv4Addr,
    /// What failed.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Sends echo requests and waits for the answers.
pub async fn ping(options: &PingOptions) -> Result<PingReport, PingError> {
    let mut run = Run::open(options)?;
    let end = Instant::now() + options.deadline;
    let mut tick = interval(options.interval.max(Duration::from_micros(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while !run.is_over(options.count) {
        tokio::select! {
            biased;
            () = sleep_until(end) => break,
            answer = run.socket.recv(&mut buffer) => match answer {
                Ok(length) => run.answered(&buffer[..length]),
                Err(error) => run.note(&error),
            },
            _ = tick.tick(), if run.sent.len() < usize::from(options.count) => run.send(options, end).await,
        }
    }
    Ok(run.report(options.count))
}

struct Run {
    socket: UdpSocket,
    /// Tells answers to this run from those to others.
    id: u16,
    /// When each probe left; `None`: it did not, or it is answered.
    sent: Vec<Option<Instant>>,
    left: u32,
    round_trips_us: Vec<u64>,
    first_error: Option<String>,
}

impl Run {
    fn open(options: &PingOptions) -> Result<Self, PingError> {
        static NEXT_ID: AtomicU16 = AtomicU16::new(1);
        let failed = |step| {
            move |source| PingError { source_address: options.source, target: options.target, step, source }
        };
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)).map_err(failed("raw socket"))?;
        let address = |ip| SockAddr::from(SocketAddrV4::new(ip, 0));
        socket.bind(&address(options.source)).map_err(failed("bind"))?;
        if let Some(device) = &options.device {
            socket.bind_device(Some(device.as_str().as_bytes())).map_err(failed("bind to link"))?;
        }
        socket.set_priority(u32::from(options.priority.get())).map_err(failed("set priority"))?;
        let discover =
            if options.dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
        set_ip_mtu_discover(&socket, discover).map_err(|errno| failed("set don't-fragment")(errno.into()))?;
        socket.connect(&address(options.target)).map_err(failed("connect"))?;
        // tokio's name for a socket that gives one datagram a call; that it is no UDP makes no difference.
        let socket = UdpSocket::from_std(socket.into()).map_err(failed("watch"))?;
        // Runs of other processes are told apart by their process id, runs of this one by the counter.
        let id = (std::process::id() as u16)
            .wrapping_mul(251)
            .wrapping_add(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Ok(Self { socket, id, sent: Vec::new(), left: 0, round_trips_us: Vec::new(), first_error: None })
    }

    fn received(&self) -> usize {
        self.round_trips_us.len()
    }

    /// All probes were tried, and all that left were answered.
    fn is_over(&self, count: u16) -> bool {
        self.sent.len() >= usize::from(count) && self.sent.iter().all(Option::is_none)
    }

    fn note(&mut self, error: &io::Error) {
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    async fn send(&mut self, options: &PingOptions, end: Instant) {
        // At most `count`, which is a u16.
        let sequence = self.sent.len() as u16;
        let now = Instant::now();
        let probe = echo(self.id, sequence, options.payload_bytes);
        let left = timeout_at(end, self.socket.send(&probe)).await;
        match &left {
            Ok(Ok(_)) => self.left += 1,
            Ok(Err(error)) => self.note(error),
            Err(_) => {}
        }
        self.sent.push(matches!(left, Ok(Ok(_))).then_some(now));
    }

    fn answered(&mut self, packet: &[u8]) {
        let Some(sequence) = echo_reply(packet, self.id) else { return };
        if let Some(left) = self.sent.get_mut(usize::from(sequence)).and_then(Option::take) {
            self.round_trips_us.push(u64::try_from(left.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn report(mut self, count: u16) -> PingReport {
        self.round_trips_us.sort_unstable();
        let received = self.received() as u32;
        PingReport {
            sent: self.left,
            received,
            lost: u32::from(count).saturating_sub(received),
            min_us: percentile(&self.round_trips_us, 0),
            median_us: percentile(&self.round_trips_us, 50),
            p99_us: percentile(&self.round_trips_us, 99),
            max_us: percentile(&self.round_trips_us, 100),
            histogram: histogram(&self.round_trips_us),
            first_error: self.first_error,
        }
    }
}

/// The smallest value that at least so many percent of the sorted values don't pass (nearest rank).
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// How many round trips are in each bucket.
fn histogram(round_trips_us: &[u64]) -> Vec<u32> {
    let mut counts = vec![0; ROUND_TRIP_BOUNDS_US.len() + 1];
    for round_trip in round_trips_us {
        counts[ROUND_TRIP_BOUNDS_US.partition_point(|bound| bound < round_trip)] += 1;
    }
    counts
}

/// An echo request (RFC 792) with a payload of zeros.
fn echo(id: u16, sequence: u16, payload_bytes: u16) -> Vec<u8> {
    let mut packet = vec![0; ICMP_HEADER_BYTES + usize::from(payload_bytes)];
    packet[0] = ICMP_ECHO;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    let mut sum: u32 = bytes.chunks(2).map(word).fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The number of the probe that a packet answers: IPv4 header first, as raw sockets give it.
fn echo_reply(packet: &[u8], id: u16) -> Option<u16> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    match packet.get(header_bytes..)? {
        [ICMP_ECHO_REPLY, 0, _, _, i0, i1, s0, s1, ..] if u16::from_be_bytes([*i0, *i1]) == id => {
            Some(u16::from_be_bytes([*s0, *s1]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=200).collect();
        let of = |percent| percentile(&values, percent);
        assert_eq!((of(0), of(50), of(99), of(100)), (Some(1), Some(100), Some(198), Some(200)));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn every_round_trip_is_in_the_bucket_whose_bound_it_does_not_pass() {
        let counts = histogram(&[0, 10, 11, 1000, 1_000_000, 1_000_001, u64::MAX]);
        let at = |bound| ROUND_TRIP_BOUNDS_US.iter().position(|known| *known == bound).unwrap();
        assert_eq!((counts[at(10)], counts[at(15)], counts[at(1000)], counts[at(1_000_000)]), (2, 1, 1, 1));
        assert_eq!((counts[31], counts.iter().sum::<u32>()), (2, 7));
        assert!(ROUND_TRIP_BOUNDS_US.is_sorted());
    }

    #[test]
    fn a_request_sums_up_to_nothing() {
        for payload in [0, 1, 56, 8972] {
            assert_eq!(checksum(&echo(0xbeef, 7, payload)), 0, "{payload}");
        }
    }

    #[test]
    fn only_answers_to_this_run_count() {
        let mut packet = [&[0x45][..], &[0; 19], &echo(5, 9, 4)].concat();
        assert_eq!(echo_reply(&packet, 5), None, "a request is no answer");
        packet[20] = ICMP_ECHO_REPLY;
        assert_eq!(echo_reply(&packet, 5), Some(9));
        assert_eq!(echo_reply(&packet, 6), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes: Vec<u8>) {
            let _ = echo_reply(&bytes, 1);
        }
    }
}
