//! Legs that are given back by their owners or taken back by their targets: the other one is told.
//!
//! On failure: nothing is said again. The leg is fenced when the ledger says who has it next.

use super::{Asked, Handle, LEASE_LIMIT, Shell};
use crate::volumes::VolumesError;
use api::GivenLegRequest;
use control::LegRef;
use control::member::Input;
use control::target::{Event, Key, LegOf};
use model::{LegId, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{info, warn};

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
            } else {
                self.say(to, (volume, leg), key, (api::path::POOL_GIVEN_BACK, "given back"));
            }
        }
    }

    /// Beside the leg's own orders: its fence waits for what hangs.
    pub(super) fn say_taken_back(&self, leg: LegOf, key: Key, to: NodeId) {
        warn!("{} of {} is taken back: its drive answers nothing", leg.1, leg.0);
        if to == self.identity.node {
            let named = LegRef { id: leg.1, incarnation: key.incarnation };
            self.told.tell(Input::Owner(leg.0, control::owner::Event::TakenBack(named)));
        } else {
            self.say(to, leg, key, (api::path::POOL_TAKEN_BACK, "taken back"));
        }
    }

    /// Another node's agent is told what has become of a leg.
    fn say(&self, to: NodeId, (volume, leg): LegOf, key: Key, (path, what): (&'static str, &'static str)) {
        let Some(contact) = self.ledger.contact(to) else { return };
        let (transport, request) = (Arc::clone(&self.transport), GivenLegRequest { volume, leg, key });
        tokio::spawn(async move {
            if let Err(error) = transport.call::<_, ()>(contact, path, &request, LEASE_LIMIT).await {
                info!("{to} does not hear that {leg} of {volume} is {what}: {error}");
            }
        });
    }
}
