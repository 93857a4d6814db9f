//! The hello that nodes send each other on storage networks: 48 bytes of UDP.
//!
//! ```text
//!  0        4        5        6        7        8               16              24            32
//!  | "TWHB" | version| sender | network| 0      | cluster       | sequence      | sent, µs    |
//!  32                                40                44           48
//!  | echoed: `sent` of a hello of    | held, µs        | 0          | … nothing, in large hellos
//!  | the receiver's, as it came here |                 |            |
//! ```
//! Numbers are big-endian. `sent` is the sender's own monotonic clock and means nothing to others; whoever gets its own back
//! knows the round trip: now, less `echoed`, less the time for which the peer `held` it. Who has nothing to echo says
//! that it held it for `0xffff_ffff`.
//!
//! From time to time a hello is filled up to the largest packet of the storage network, and may not be divided: whoever gets it
//! knows that such packets pass.
//!
//! Invariants: what a peer sends is checked before it counts; longer hellos of the same version are read as far as
//! they are known, so that fields can be added; shorter ones, down to 32 bytes, echo nothing.
//!
//! On failure: [`ProbeError`]; the datagram is dropped, nothing else happens.

use model::{ClusterName, Mtu, NodeOrdinal, StorageNetworkIndex};

/// The UDP port that hellos go to (in IANA's user range, registered by nobody).
pub const HELLO_PORT: u16 = 7117;

/// How often a node sends hellos, ms: five are lost before a path counts as dead.
pub const HELLO_INTERVAL_MS: u32 = 200;

/// Each so many hellos one more is sent that is as large as a packet may be: once a second.
pub const LARGE_HELLO_EVERY: u64 = 5;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 48;

/// Bytes of the first hellos that were ever sent, which echoed nothing.
const SHORTEST_BYTES: usize = 32;

/// Headers of a UDP datagram in an IPv4 packet, bytes (RFC 791: 20; RFC 768: 8).
const HEADER_BYTES: usize = 28;

/// What is echoed later than this is not: a clock may have been set anew meanwhile, and it says nothing of now.
const HELD_MAX_US: u32 = 2_000_000;

/// The upper bounds of the buckets that round trips are counted in, µs; what is longer is counted in one more. Six to a
/// decade, evenly on a logarithmic scale (the E6 series of IEC 60063), from 10 µs to 1 s.
pub const ROUND_TRIP_BOUNDS_US: [u64; 31] = [
    10, 15, 22, 33, 47, 68, 100, 150, 220, 330, 470, 680, 1000, 1500, 2200, 3300, 4700, 6800, 10_000, 15_000,
    22_000, 33_000, 47_000, 68_000, 100_000, 150_000, 220_000, 330_000, 470_000, 680_000, 1_000_000,
];

const MAGIC: [u8; 4] = *b"TWHB";
const VERSION: u8 = 1;

/// One hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Whose cluster: two clusters on one wire don't hear each other.
    pub cluster: ClusterTag,
    /// Who sends.
    pub sender: NodeOrdinal,
    /// On which storage network. A hello that arrives on another one tells of crossed cables.
    pub network: StorageNetworkIndex,
    /// Counts up by one for each hello to this peer on this network.
    pub sequence: u64,
    /// The sender's monotonic clock, µs.
    pub sent_us: u64,
    /// The last hello that the sender heard from whom it greets.
    pub echo: Option<Echo>,
}

/// A hello that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The clock of who sent it, when it did, µs.
    pub sent_us: u64,
    /// How long it was held before it was sent back, µs.
    pub held_us: u32,
}

impl Echo {
    /// The round trip of a hello that is back `now_us`, by the clock of who sent it; `None`: it was held too long, or another
    /// clock's.
    pub fn round_trip_us(self, now_us: u64) -> Option<u32> {
        let away_us = now_us.checked_sub(self.sent_us)?.checked_sub(self.held_us.into())?;
        (self.held_us <= HELD_MAX_US).then(|| u32::try_from(away_us).ok()).flatten()
    }
}

/// A cluster's name as eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterTag(pub u64);

impl From<&ClusterName> for ClusterTag {
    /// FNV-1a, 64 bits, of the name in lower case: told apart, not protected.
    fn from(name: &ClusterName) -> Self {
        let fold = |hash: u64, byte: u8| {
            (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
        };
        Self(name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, fold))
    }
}

/// Why a datagram is no hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Too short.
    #[error("{0} bytes are too few for a hello")]
    Short(usize),
    /// Not ours.
    #[error("it starts with {0:02x?}, not with \"TWHB\"")]
    Magic([u8; 4]),
    /// From a newer or older twinrack.
    #[error("hello version {0} is unknown")]
    Version(u8),
    /// The sender is none.
    #[error("{0} is no node's ordinal")]
    Sender(u8),
    /// The network is none.
    #[error("{0} is no storage network")]
    Network(u8),
}

impl Hello {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let echo = self.echo.unwrap_or(Echo { sent_us: 0, held_us: u32::MAX });
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&[VERSION, self.sender.get(), self.network.get(), 0]);
        bytes[8..16].copy_from_slice(&self.cluster.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.sent_us.to_be_bytes());
        bytes[32..40].copy_from_slice(&echo.sent_us.to_be_bytes());
        bytes[40..44].copy_from_slice(&echo.held_us.to_be_bytes());
        bytes
    }

    /// The same, filled up to a packet of this size.
    pub fn encode_large(&self, packet: Mtu) -> Vec<u8> {
        let mut bytes = self.encode().to_vec();
        bytes.resize(large_bytes(packet), 0);
        bytes
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Self, ProbeError> {
        let bytes: &[u8; SHORTEST_BYTES] = datagram.first_chunk().ok_or(ProbeError::Short(datagram.len()))?;
        let [m0, m1, m2, m3, version, sender, network, ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(ProbeError::Magic([m0, m1, m2, m3]));
        }
        if version != VERSION {
            return Err(ProbeError::Version(version));
        }
        Ok(Self {
            cluster: ClusterTag(number(bytes, 8)),
            sender: NodeOrdinal::try_from(u64::from(sender)).map_err(|_| ProbeError::Sender(sender))?,
            network: StorageNetworkIndex::try_from(u64::from(network))
                .map_err(|_| ProbeError::Network(network))?,
            sequence: number(bytes, 16),
            sent_us: number(bytes, 24),
            echo: echo(datagram),
        })
    }
}

/// Bytes of the datagram that fills a packet of this size.
pub fn large_bytes(packet: Mtu) -> usize {
    usize::from(packet.get()) - HEADER_BYTES
}

fn echo(datagram: &[u8]) -> Option<Echo> {
    let (sent, rest) = datagram.get(SHORTEST_BYTES..)?.split_first_chunk::<8>()?;
    let held_us = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    (held_us != u32::MAX).then_some(Echo { sent_us: u64::from_be_bytes(*sent), held_us })
}

fn number(bytes: &[u8; SHORTEST_BYTES], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(sender: u64, network: u64, sequence: u64, sent_us: u64) -> Hello {
        Hello {
            cluster: ClusterTag::from(&"Plant-7".parse::<ClusterName>().unwrap()),
            sender: NodeOrdinal::try_from(sender).unwrap(),
            network: StorageNetworkIndex::try_from(network).unwrap(),
            sequence,
            sent_us,
            echo: None,
        }
    }

    #[test]
    fn the_layout_is_that_of_the_drawing() {
        let hello = hello(2, 1, 0x0102_0304_0506_0708, 9);
        let bytes = Hello { echo: Some(Echo { sent_us: 0x0a, held_us: 0x0b0c }), ..hello }.encode();
        assert_eq!(bytes[..8], *b"TWHB\x01\x02\x01\x00");
        assert_eq!(bytes[16..32], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(bytes[32..], [0, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0x0b, 0x0c, 0, 0, 0, 0]);
        assert_eq!(hello.encode()[40..44], [0xff; 4]);
    }

    #[test]
    fn a_large_hello_fills_a_packet_and_one_of_the_first_layout_echoes_nothing() {
        let hello = Hello { echo: Some(Echo { sent_us: 1, held_us: 2 }), ..hello(1, 1, 3, 4) };
        let large = hello.encode_large(Mtu::JUMBO);
        assert_eq!((large.len(), Hello::decode(&large)), (8972, Ok(hello)));
        assert_eq!(Hello::decode(&large[..32]), Ok(Hello { echo: None, ..hello }));
        assert_eq!(Hello::decode(&large[..43]).map(|hello| hello.echo), Ok(None));
    }

    #[test]
    fn a_round_trip_is_the_time_away_less_the_time_held() {
        let trip = |sent_us, held_us, now_us| Echo { sent_us, held_us }.round_trip_us(now_us);
        assert_eq!(trip(1000, 150_000, 151_700), Some(700));
        assert_eq!(trip(1000, 150_000, 150_999), None, "sooner than it was held");
        assert_eq!(trip(9000, 0, 8000), None, "of a clock that was set anew");
        assert_eq!(trip(0, 2_000_001, 2_000_900), None, "too old to say anything");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = hello(1, 1, 0, 0).encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Hello::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'x'), ProbeError::Magic(*b"xWHB"));
        assert_eq!(with(4, 2), ProbeError::Version(2));
        assert_eq!(with(5, 0), ProbeError::Sender(0));
        assert_eq!(with(6, 9), ProbeError::Network(9));
        assert_eq!(Hello::decode(&good[..31]), Err(ProbeError::Short(31)));
    }

    #[test]
    fn clusters_are_told_apart_and_case_does_not_count() {
        let tag = |name: &str| ClusterTag::from(&name.parse::<ClusterName>().unwrap());
        assert_eq!(tag("PLANT"), tag("plant"));
        assert_ne!(tag("plant"), tag("plant2"));
    }

    proptest! {
        #[test]
        fn hellos_round_trip_and_may_be_longer(
            sender in 1u64..=254, network in 1u64..=8, sequence: u64, sent_us: u64, more: Vec<u8>,
            echo in prop::option::of((any::<u64>(), 0..u32::MAX)),
        ) {
            let echo = echo.map(|(sent_us, held_us)| Echo { sent_us, held_us });
            let hello = Hello { echo, ..hello(sender, network, sequence, sent_us) };
            let datagram = [&hello.encode()[..], &more].concat();
            prop_assert_eq!(Hello::decode(&datagram), Ok(hello));
        }

        #[test]
        fn no_bytes_panic_the_parser(bytes: Vec<u8>) {
            let _ = Hello::decode(&bytes);
            let _ = Hello::decode(&[&MAGIC[..], &bytes].concat());
        }
    }
}
