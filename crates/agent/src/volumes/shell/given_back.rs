//! Legs that are given back: their targets are told.
//!
//! On failure: nothing is said again. The leg is fenced when the ledger says who has it next.

use super::{Asked, Handle, LEASE_LIMIT, Shell};
use crate::volumes::VolumesError;
use api::GivenLegRequest;
use control::member::Input;
use control::target::{Event, Key, LegOf};
use model::{LegId, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::info;

impl Handle {
    /// Control is told that a leg of this node was given back.
    pub(in crate::volumes) fn given_back(&self, leg: LegOf, key: Key) -> Result<(), VolumesError> {
        self.0.send(Asked::GivenBack(leg, key)).map_err(|_| VolumesError::Ended)
    }
}

impl Shell {
    pub(super) fn say_given_back(&self, volume: VolumeId, legs: &BTreeMap<LegId, (Key, NodeId)>) {
        for (leg, (key, to)) in legs.iter().map(|(leg, back)| (*leg, *back)) {
            if to == self.identity.node {
                self.told.tell(Input::Target(Event::GivenBack((volume, leg), key)));
                continue;
            }
            let Some(contact) = self.ledger.contact(to) else { continue };
            let (transport, request) = (Arc::clone(&self.transport), GivenLegRequest { volume, leg, key });
            tokio::spawn(async move {
                let path = api::path::POOL_GIVEN_BACK;
                if let Err(error) = transport.call::<_, ()>(contact, path, &request, LEASE_LIMIT).await {
                    info!("{to} does not hear that {leg} of {volume} is given back: {error}");
                }
            });
        }
    }
}
