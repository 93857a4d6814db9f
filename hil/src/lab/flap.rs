//! Links that go down and up by themselves, and guests whose carriers follow.
//!
//! Invariants: the fabric flaps by its own clock and tells nobody; [`Lab::follow_carriers`] asks it every
//! [`FOLLOW_EVERY`] and tells the guests what changed, so that a guest's carrier is late by that and a command at most. It
//! ends at its deadline, whatever the fabric does.
//!
//! On failure: [`LabError`]; mending the lab ends the flapping as it ends every fault.

use super::faults::Made;
use super::topology::cable_id;
use super::{Lab, LabError};
use crate::suite::{Flapping, Room};
use fabric::{CarrierChange, Flap, LinkId, NicId};
use model::ClusterSpec;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often the fabric is asked for carriers.
const FOLLOW_EVERY: Duration = Duration::from_millis(20);

impl Flapping {
    /// How long it takes from the first time down to the last time up.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.down_ms) + u64::from(self.up_ms)) * self.times
    }

    fn of_fabric(self) -> Flap {
        Flap { down_ms: self.down_ms, up_ms: self.up_ms, cycles: self.times }
    }
}

impl Lab {
    /// Lets what a storage network crosses between the rooms flap; gives a fault for each network that does.
    pub(super) fn flap_room_link(&mut self, network: u8, flapping: Flapping) -> Result<Vec<Made>, LabError> {
        let link = self.cables.room_link(network).cloned();
        let link = link.ok_or(LabError::NoSuchNetwork { storage_network: network })?;
        for cable in &link.cables {
            self.control.flap_link(cable, flapping.of_fabric())?;
        }
        let made = |network| Made::Flapping {
            loss_id: format!("room-link:{network}"),
            what: format!("the room-to-room link of storage network {network}"),
            flapping,
        };
        Ok(self.cables.networks_over(&link).map(made).collect())
    }

    /// Lets the cable of a node's NIC flap.
    pub(super) async fn flap_cable(
        &mut self,
        spec: &ClusterSpec,
        room: Room,
        position: u8,
        network: u8,
        flapping: Flapping,
    ) -> Result<Vec<Made>, LabError> {
        let no_node = || LabError::NoSuchNode { room: room.index() + 1, position };
        let no_network = || LabError::NoSuchNetwork { storage_network: network };
        let index = usize::from(position).checked_sub(1).ok_or_else(no_node)?;
        let name = &spec.zones[room.index()].nodes.get(index).ok_or_else(no_node)?.name;
        let mut networks = spec.storage_networks.iter();
        let adapter = &networks.find(|other| other.index.get() == network).ok_or_else(no_network)?.adapter;
        let nics = &self.nodes.get(name).ok_or_else(no_node)?.plan.nics;
        let nic = nics.iter().find(|nic| nic.adapter == *adapter).ok_or_else(no_network)?;
        let cable: LinkId = cable_id(&nic.id);
        let changes = self.control.flap_link(&cable, flapping.of_fabric())?;
        self.tell_carriers(changes).await?;
        let (loss_id, what) = (format!("nic:{name}:{adapter}"), format!("the cable of {adapter} of {name}"));
        Ok(vec![Made::Flapping { loss_id, what, flapping }])
    }

    /// Lets the guests' carriers follow the fabric's until a moment.
    pub(crate) async fn follow_carriers(&mut self, until: Instant) -> Result<(), LabError> {
        let mut told: BTreeMap<NicId, bool> = BTreeMap::new();
        let mut ticks = interval_at(Instant::now(), FOLLOW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = ticks.tick().await >= until;
            let changes = changed(&mut told, self.control.carrier()?);
            self.tell_carriers(changes).await?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What is not as it was told last, which it now is. What was never told is told.
fn changed(told: &mut BTreeMap<NicId, bool>, now: BTreeMap<NicId, bool>) -> Vec<CarrierChange> {
    let news = now.into_iter().filter(|(nic, carrier)| told.insert(nic.clone(), *carrier) != Some(*carrier));
    news.map(|(nic, carrier)| CarrierChange { nic, carrier }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut told = BTreeMap::new();
        let carriers = |a, b| -> BTreeMap<NicId, bool> {
            [("a1.storage1", a), ("b1.storage1", b)].map(|(nic, up)| (nic.parse().unwrap(), up)).into()
        };
        let words = |changes: Vec<CarrierChange>| -> Vec<(String, bool)> {
            changes.into_iter().map(|change| (change.nic.to_string(), change.carrier)).collect()
        };
        assert_eq!(changed(&mut told, carriers(true, true)).len(), 2);
        let down = changed(&mut told, carriers(true, false));
        assert_eq!(words(down), [("b1.storage1".to_owned(), false)]);
        assert_eq!(changed(&mut told, carriers(true, false)), []);
        let up = changed(&mut told, carriers(true, true));
        assert_eq!(words(up), [("b1.storage1".to_owned(), true)]);
    }

    #[test]
    fn a_flapping_lasts_as_long_as_its_phases() {
        let flapping = Flapping { down_ms: 300, up_ms: 700, times: 10 };
        assert_eq!(flapping.duration(), Duration::from_secs(10));
    }
}
