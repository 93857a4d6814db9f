//! Digests of legs, asked of the agents that have them, so that an owner need not read another node's leg to know what differs.
//!
//! Invariants: a leg is digested only under the key that it is given out under: its device is named after it. Who is asked reads no more than
//! [`BATCH_BYTES`] for it.
//!
//! On failure: an owner that is not answered reads the leg itself; whoever asks for too much is refused.

use super::VolumesError;
use super::place::Place;
use super::shell::{Ledgers, blocking};
use api::{DigestsRequest, GivenLegRequest};
use ledger::http::HttpTransport;
use std::sync::Arc;
use std::time::Duration;
use storage::digest::{BATCH_BYTES, Digest, DigestKey};
use storage::kernel::{AskDigests, StepError};
use storage::leg::BLOCK_BYTES;
use storage::name::GivenLeg;
use storage::slab::Extent;
use tokio::runtime::Handle;
use tracing::warn;

/// How long a peer may take for a stretch; a drive that reads 10 MiB/s is faster.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks whoever has the leg by the ledger. Of blocking threads only.
pub(super) fn of_peers(ledger: Ledgers, transport: Arc<HttpTransport>, runtime: Handle) -> AskDigests {
    AskDigests::new(move |given, of, key| {
        let (volume, leg) = given.leg;
        let state = ledger.now();
        let to = ledger.contact(state.node_of(state.volumes.get(&volume)?.legs.get(&leg)?)?)?;
        let request = DigestsRequest {
            of: GivenLegRequest { volume, leg, key: given.key },
            offset_bytes: of.offset_bytes,
            len_bytes: of.len_bytes,
            digest_key: key.0,
        };
        let asked = transport.call::<_, Vec<(u64, u64)>>(to, api::path::POOL_DIGESTS, &request, LIMIT);
        match runtime.block_on(asked) {
            Ok(digests) => Some(digests.into_iter().map(|(high, low)| Digest(high, low)).collect()),
            Err(error) => {
                warn!("no digests of {leg} of {volume}: {}", crate::chain(&error));
                None
            }
        }
    })
}

/// Of a leg of this node's.
pub(super) async fn of_own_leg(
    place: &Arc<Place>,
    request: DigestsRequest,
) -> Result<Vec<(u64, u64)>, VolumesError> {
    let stretch = stretch(&request).ok_or_else(|| StepError::Missing {
        what: format!("stretch of {} bytes at {} to digest", request.len_bytes, request.offset_bytes),
    })?;
    let place = Arc::clone(place);
    blocking(move || {
        let GivenLegRequest { volume, leg, key } = request.of;
        let given = GivenLeg { leg: (volume, leg), key };
        let digests = place.own_engine()?.digests(given, stretch, DigestKey(request.digest_key))?;
        Ok(digests.into_iter().map(|Digest(high, low)| (high, low)).collect())
    })
    .await
}

/// What is asked for, if it is whole blocks and not too much.
fn stretch(request: &DigestsRequest) -> Option<Extent> {
    let DigestsRequest { offset_bytes, len_bytes, .. } = *request;
    let whole = offset_bytes % BLOCK_BYTES == 0 && len_bytes % BLOCK_BYTES == 0;
    (whole && len_bytes <= BATCH_BYTES).then_some(Extent { offset_bytes, len_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::target::Key;
    use model::{Epoch, Incarnation, LedgerIncarnation, LegId, VolumeId};

    #[test]
    fn whoever_asks_for_too_much_is_refused() {
        let key = Key { epoch: Epoch::first(LedgerIncarnation(1)), incarnation: Incarnation(1) };
        let of = GivenLegRequest { volume: VolumeId(1), leg: LegId(1), key };
        let request =
            |offset_bytes, len_bytes| DigestsRequest { of, offset_bytes, len_bytes, digest_key: [0; 16] };
        assert_eq!(
            stretch(&request(4096, BATCH_BYTES)),
            Some(Extent { offset_bytes: 4096, len_bytes: BATCH_BYTES })
        );
        for (offset, len) in [(0, BATCH_BYTES + 4096), (1, 4096), (0, 4095), (0, u64::MAX - 4095)] {
            assert_eq!(stretch(&request(offset, len)), None, "{offset} {len}");
        }
    }
}
