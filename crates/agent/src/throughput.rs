//! Throughput on request: lets peers send, and sends.
//!
//! Invariants: who receives listens at one address, for one peer, once, for a bounded time (`network::kernel::Receivers`); runs of
//! sending are bounded in number, time and bytes.
//!
//! On failure: [`ProbeError`].

use crate::probes::ProbeError;
use api::{ReceiveAnswer, ReceiveRequest, SendAnswer, SendRequest};
use network::kernel::{Expected, Receivers, SendOptions, send};
use network::traffic::STORAGE_PORT;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Runs of sending at a time: one to each peer of the other room on each storage network of the largest cluster.
const MAX_SENDS: usize = 8;
const MAX_DURATION_MS: u32 = 10_000;
const MAX_WAIT_MS: u32 = 30_000;
const MAX_BYTES: u64 = 1 << 40;

/// What receives and sends.
#[derive(Debug)]
pub(crate) struct Throughput {
    receivers: Receivers,
    sends: Semaphore,
}

impl Default for Throughput {
    fn default() -> Self {
        Self { receivers: Receivers::default(), sends: Semaphore::new(MAX_SENDS) }
    }
}

impl Throughput {
    /// Lets a peer send.
    pub(crate) fn receive(&self, request: &ReceiveRequest) -> Result<ReceiveAnswer, ProbeError> {
        let expected = expected(request)?;
        let opened = self.receivers.expect(&expected)?;
        let is_storage_port = opened.port == STORAGE_PORT;
        Ok(ReceiveAnswer { port: opened.port, is_storage_port, token: opened.token })
    }

    /// Sends to a peer that lets us.
    pub(crate) async fn send(&self, request: &SendRequest) -> Result<SendAnswer, ProbeError> {
        let options = send_options(request)?;
        let _run = self.sends.try_acquire().map_err(|_| ProbeError::Busy)?;
        let report = send(&options).await?;
        Ok(SendAnswer {
            sent_bytes: report.sent_bytes,
            arrived: report.arrived.map(Into::into),
            first_error: report.first_error,
        })
    }
}

fn in_range(good: bool, what: &'static str, expected: &'static str) -> Result<(), ProbeError> {
    if good { Ok(()) } else { Err(ProbeError::OutOfRange { what, expected }) }
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

fn expected(request: &ReceiveRequest) -> Result<Expected, ProbeError> {
    in_range((1..=MAX_DURATION_MS).contains(&request.duration_ms), "duration_ms", "1 to 10000")?;
    in_range((1..=MAX_WAIT_MS).contains(&request.wait_ms), "wait_ms", "1 to 30000")?;
    in_range(!request.address.is_unspecified(), "address", "one of the node's own, not all of them")?;
    Ok(Expected {
        address: request.address,
        device: request.device.clone(),
        peer: request.peer,
        duration: milliseconds(request.duration_ms),
        wait: milliseconds(request.wait_ms),
    })
}

fn send_options(request: &SendRequest) -> Result<SendOptions, ProbeError> {
    in_range((1..=MAX_DURATION_MS).contains(&request.duration_ms), "duration_ms", "1 to 10000")?;
    in_range((1..=MAX_BYTES).contains(&request.bytes), "bytes", "1 to 1099511627776")?;
    in_range(request.port > 0, "port", "that which the receiver answered")?;
    Ok(SendOptions {
        source: request.source,
        device: request.device.clone(),
        target: request.target,
        port: request.port,
        token: request.token,
        duration: milliseconds(request.duration_ms),
        bytes: request.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ONE: Ipv4Addr = Ipv4Addr::new(127, 71, 40, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(127, 71, 40, 2);

    fn receive() -> ReceiveRequest {
        ReceiveRequest { address: ONE, device: None, peer: TWO, duration_ms: 5000, wait_ms: 5000 }
    }

    fn send_to(answer: &ReceiveAnswer) -> SendRequest {
        SendRequest {
            source: TWO,
            device: None,
            target: ONE,
            port: answer.port,
            token: answer.token,
            duration_ms: 5000,
            bytes: 123_456,
        }
    }

    #[tokio::test]
    async fn a_peer_that_may_send_is_measured() {
        let throughput = Throughput::default();
        let answer = throughput.receive(&receive()).unwrap();
        assert!(answer.is_storage_port);
        let sent = throughput.send(&send_to(&answer)).await.unwrap();
        let arrived = sent.arrived.unwrap();
        assert_eq!((sent.sent_bytes, arrived.bytes), (123_456, 123_456));
        assert_eq!(arrived.bits_per_s, Some(123_456 * 8 * 1_000_000 / arrived.took_us));
    }

    #[tokio::test]
    async fn requests_are_bounded() {
        let throughput = Throughput::default();
        let refused = |request| throughput.receive(&request).unwrap_err().to_string();
        assert_eq!(
            refused(ReceiveRequest { duration_ms: 10_001, ..receive() }),
            "duration_ms must be 1 to 10000"
        );
        assert_eq!(refused(ReceiveRequest { wait_ms: 0, ..receive() }), "wait_ms must be 1 to 30000");
        assert_eq!(
            refused(ReceiveRequest { address: Ipv4Addr::UNSPECIFIED, ..receive() }),
            "address must be one of the node's own, not all of them"
        );
        let answer =
            ReceiveAnswer { port: 1, is_storage_port: false, token: "00".repeat(16).parse().unwrap() };
        let good = send_to(&answer);
        for (request, what) in [
            (SendRequest { duration_ms: 0, ..good.clone() }, "duration_ms"),
            (SendRequest { bytes: 0, ..good.clone() }, "bytes"),
            (SendRequest { bytes: MAX_BYTES + 1, ..good.clone() }, "bytes"),
            (SendRequest { port: 0, ..good }, "port"),
        ] {
            let refused = throughput.send(&request).await.unwrap_err();
            assert!(matches!(refused, ProbeError::OutOfRange { what: named, .. } if named == what));
        }
    }
}
