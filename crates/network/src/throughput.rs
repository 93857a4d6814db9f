//! What a throughput probe puts on the wire beside its payload, and what is made of what arrived.
//!
//! ```text
//!   sender ──► token (16 bytes), payload, end of stream ──► receiver
//!   sender ◄── "TWTP", version, 3 × 0, bytes (8), µs (8) ◄── receiver
//! ```
//! Numbers are big-endian. The receiver measures: what is in a sender's buffers has not arrived.
//!
//! Invariants: what a peer sends is checked before it counts, whatever its bytes are.
//!
//! On failure: [`NoReport`], [`NoToken`].

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 16;

/// Bytes of a report.
pub const REPORT_BYTES: usize = 24;

const MAGIC: [u8; 4] = *b"TWTP";
const VERSION: u8 = 1;

/// What a sender shows before anything that it sends counts. Drawn by the receiver, good for one connection.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(pub [u8; TOKEN_BYTES]);

impl fmt::Debug for Token {
    /// Not the token: logs are read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        token.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
    }
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token has {} hexadecimal digits", 2 * TOKEN_BYTES)]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;
    fn from_str(text: &str) -> Result<Self, NoToken> {
        let digits = text.as_bytes();
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(NoToken);
        }
        let mut token = [0; TOKEN_BYTES];
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        for (byte, pair) in token.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (value(pair[0]).ok_or(NoToken)?, value(pair[1]).ok_or(NoToken)?);
            *byte = high << 4 | low;
        }
        Ok(Self(token))
    }
}

impl TryFrom<String> for Token {
    type Error = NoToken;
    fn try_from(text: String) -> Result<Self, NoToken> {
        text.parse()
    }
}

/// What a receiver got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Payload, bytes.
    pub bytes: u64,
    /// From the token until the last of it, microseconds.
    pub took_us: u64,
}

/// Why bytes are no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReport {
    /// Too short.
    #[error("{0} bytes are too few for a report")]
    Short(usize),
    /// Not ours.
    #[error("it starts with {0:02x?}, not with \"TWTP\"")]
    Magic([u8; 4]),
    /// From a newer or older twinrack.
    #[error("report version {0} is unknown")]
    Version(u8),
}

impl Arrived {
    /// Payload per time, bits per second; `None` if it took no time that could be told.
    pub fn bits_per_s(self) -> Option<u64> {
        let bits = u128::from(self.bytes) * 8 * 1_000_000;
        (self.took_us > 0).then(|| u64::try_from(bits / u128::from(self.took_us)).unwrap_or(u64::MAX))
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; REPORT_BYTES] {
        let mut bytes = [0; REPORT_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        bytes[16..].copy_from_slice(&self.took_us.to_be_bytes());
        bytes
    }

    /// Reads a receiver's report.
    pub fn decode(report: &[u8]) -> Result<Self, NoReport> {
        let report: &[u8; REPORT_BYTES] = report.first_chunk().ok_or(NoReport::Short(report.len()))?;
        let [m0, m1, m2, m3, version, ..] = *report;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(NoReport::Magic([m0, m1, m2, m3]));
        }
        if version != VERSION {
            return Err(NoReport::Version(version));
        }
        let number = |at: usize| report[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { bytes: number(8), took_us: number(16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_that_of_the_drawing() {
        let bytes = Arrived { bytes: 0x0102_0304_0506_0708, took_us: 9 }.encode();
        assert_eq!(bytes[..8], *b"TWTP\x01\0\0\0");
        assert_eq!(bytes[8..], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn what_is_wrong_with_a_report_is_named() {
        let good = Arrived { bytes: 1, took_us: 1 }.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Arrived::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'x'), NoReport::Magic(*b"xWTP"));
        assert_eq!(with(4, 2), NoReport::Version(2));
        assert_eq!(Arrived::decode(&good[..23]), Err(NoReport::Short(23)));
    }

    #[test]
    fn a_rate_is_payload_by_time_and_none_without_time() {
        let rate = |bytes, took_us| Arrived { bytes, took_us }.bits_per_s();
        assert_eq!(rate(1_250_000, 1_000_000), Some(10_000_000));
        assert_eq!((rate(0, 5), rate(5, 0), rate(u64::MAX, 1)), (Some(0), None, Some(u64::MAX)));
    }

    #[test]
    fn a_token_is_never_shown_by_accident() {
        let token: Token = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(token.0[..3], [0x00, 0x11, 0x22]);
        assert_eq!(format!("{token:?}"), "Token(…)");
        for bad in ["", "00", "00112233445566778899aabbccddeefg", "00112233445566778899aabbccddeeff0"] {
            assert_eq!(bad.parse::<Token>(), Err(NoToken), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reports_and_tokens_round_trip(bytes: u64, took_us: u64, token: [u8; TOKEN_BYTES], more: Vec<u8>) {
            let arrived = Arrived { bytes, took_us };
            prop_assert_eq!(Arrived::decode(&[&arrived.encode()[..], &more].concat()), Ok(arrived));
            prop_assert_eq!(String::from(Token(token)).parse(), Ok(Token(token)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text: String) {
            let _ = Arrived::decode(&bytes);
            let _ = Arrived::decode(&[&MAGIC[..], &bytes].concat());
            let _ = text.parse::<Token>();
        }
    }
}
