//! Letters as JSON over the agents' HTTP and mutual TLS: [`HttpTransport`] sends them, [`router`] takes them.
//!
//! Invariants: the one who is asked has shown a certificate for the name that was dialled, the one who asks one for the name that
//! the letter gives as its sender. Letters and replies are bounded in size, exchanges in time and number.
//!
//! On failure: [`crate::TransportError`] there, an [`api::Problem`] here.

mod client;
mod router;
#[cfg(test)]
mod tests;

pub use client::HttpTransport;
pub use router::router;

/// A letter or reply longer than this is not one of ours: 64 entries of the longest request.
const LETTER_BYTES_MAX: usize = 16 << 20;
