//! One-time join tokens: how a machine that knows nobody becomes a node.
//!
//! Invariants: a token is 32 random bytes, shown once to whoever asked for it; the ledger holds only its SHA-256, so that nobody
//! who reads a store or a snapshot can join with it. It is for one node by name, until a time, and for one store: asking again
//! with the same store (an answer was lost) gives the same id, with another it is refused. `Debug` doesn't show it.
//!
//! On failure: [`TokenRefused`] says why, and nothing has changed.

use model::{LedgerIncarnation, NodeId, NodeName, ZoneName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;

const BYTES: usize = 32;

/// What a machine shows to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JoinToken([u8; BYTES]);

/// What the ledger knows of a token: its SHA-256, 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TokenHash(String);

/// The store that a node joined with: 128 random bits, 32 hexadecimal digits. A store that is lost is another one when it is made
/// again, and no peer talks to it under the old id.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(String);

/// The cluster: 128 random bits, 32 hexadecimal digits, made with its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(String);

/// One forcing of a quorum: 128 random bits, 32 hexadecimal digits. Whoever was not forced by it, or has not joined since, is of another ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForcingId(String);

/// Who may join with a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// Its host name; its certificate must be for it.
    pub(crate) name: NodeName,
    /// Its rack; `None`: the witness.
    pub(crate) zone: Option<ZoneName>,
    /// Until when, ms since 1970 by the clock of the leader that redeems it.
    pub(crate) expires_unix_ms: u64,
    /// Who joined with it, and the store that it did with.
    pub(crate) redeemed: Option<(StoreId, NodeId)>,
}

/// Why a token gives no id. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum TokenRefused {
    /// Nobody was invited with it, or it has been forgotten since it expired.
    #[error("the join token is not known; ask for a new one")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired; ask for a new one")]
    Expired,
    /// Another store has joined with it.
    #[error("the join token has been used; ask for a new one")]
    Used,
    /// It is for somebody else.
    #[error("the join token is for {0}")]
    OtherNode(NodeName),
    /// There are as many invitations as are kept.
    #[error("{0} invitations are open; wait until some have expired")]
    TooMany(usize),
}

/// The system has no random bytes to give.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes from the system")]
pub struct NoRandomness(#[source] pub(crate) getrandom::Error);

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a join token is {} hexadecimal digits", 2 * BYTES)]
pub struct NotAToken;

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl JoinToken {
    /// A new one.
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self(random()?))
    }

    /// The token itself, for whoever hands it to the node in a file of mode 0600.
    pub fn expose(&self) -> String {
        hex(&self.0)
    }

    pub(crate) fn hash(&self) -> TokenHash {
        TokenHash(hex(&Sha256::digest(self.0)))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(redacted)")
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let digits = text.trim().as_bytes();
        let mut bytes = [0; BYTES];
        if digits.len() != 2 * BYTES {
            return Err(NotAToken);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(NotAToken)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for JoinToken {
    type Error = NotAToken;

    fn try_from(text: String) -> Result<Self, NotAToken> {
        text.parse()
    }
}

impl From<JoinToken> for String {
    fn from(token: JoinToken) -> Self {
        token.expose()
    }
}

impl StoreId {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self(hex(&random::<16>()?)))
    }
}

impl ForcingId {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self(hex(&random::<16>()?)))
    }
}

impl fmt::Display for ForcingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far the incarnation of a forced ledger may be from the one before: that two which are forced apart draw the same number is as good as excluded, and
/// thousands of forcings have room.
const FORCED_SPREAD: u32 = 1 << 20;

/// A later incarnation, drawn.
pub(crate) fn later(incarnation: LedgerIncarnation) -> Result<LedgerIncarnation, NoRandomness> {
    let drawn = u32::from_le_bytes(random()?) % FORCED_SPREAD;
    Ok(LedgerIncarnation(incarnation.0.saturating_add(1).saturating_add(drawn)))
}

impl ClusterId {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self(hex(&random::<16>()?)))
    }

    /// Its 128 bits; `None`: it was not made here.
    pub fn bits(&self) -> Option<u128> {
        u128::from_str_radix(&self.0, 16).ok()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_read_as_it_was_shown_and_shows_nowhere_else() {
        let token = JoinToken::new().unwrap();
        let shown = token.expose();
        assert_eq!(format!(" {shown}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?} {:?}", token.hash()).contains(&shown));
        assert_ne!(JoinToken::new().unwrap(), token);
        for bad in ["", "0", &"g".repeat(64), &format!("+f{}", "0".repeat(62)), &"0".repeat(63)] {
            assert_eq!(bad.parse::<JoinToken>(), Err(NotAToken), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<JoinToken>();
        }
    }
}
