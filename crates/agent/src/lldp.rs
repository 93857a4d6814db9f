//! Hears the switches: frames from the kernel into [`Neighbours`].

use crate::announce::Pending;
use crate::clock;
use crate::neighbours::Neighbours;
use model::MacAddress;
use network::kernel::{ListenError, LldpListener};
use network::lldp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::debug;

/// Starts to listen on these NICs, and does as long as the runtime lives. `pending` is told of cables that lead elsewhere now.
pub(crate) fn listen(
    adapters: BTreeMap<u32, MacAddress>,
    neighbours: Arc<Mutex<Neighbours>>,
    pending: Arc<Pending>,
) -> Result<(), ListenError> {
    let mut listener = LldpListener::open(adapters.keys().copied())?;
    tokio::spawn(async move {
        while let Some(heard) = listener.next().await {
            let Some(adapter) = adapters.get(&heard.index) else { continue };
            match lldp::decode(&heard.frame) {
                Ok(received) => {
                    let age_ms = u64::try_from(heard.at.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let at_ms = clock::uptime_ms().saturating_sub(age_ms);
                    let mut neighbours = neighbours.lock().unwrap_or_else(PoisonError::into_inner);
                    if neighbours.hear(*adapter, received.lldpdu, at_ms) {
                        pending.moved(*adapter);
                    }
                }
                Err(error) => debug!("LLDP on {adapter}: {error}"),
            }
        }
    });
    Ok(())
}
