//! Who is at the other end of each adapter's cable: the last LLDP frame of each, until its time to live has passed.
//!
//! Invariants: one entry per adapter, so it is bounded whatever arrives; time only comes in as an argument.
//!
//! If two senders are heard on one NIC (a hub, or a machine that was cabled in between), the last one counts.

use model::MacAddress;
use network::lldp::Lldpdu;
use network::wiring::Neighbour;
use std::collections::BTreeMap;

/// The neighbours by the adapter's MAC address.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    heard: BTreeMap<MacAddress, Heard>,
}

#[derive(Debug)]
struct Heard {
    lldpdu: Lldpdu,
    at_ms: u64,
}

impl Neighbours {
    /// Takes a frame in. One with a time to live of 0 is a good-bye (802.1AB, 9.1.2.2): its sender's entry goes, and nobody
    /// else's (9.2.7.7). A sender is known by chassis and port.
    pub(crate) fn hear(&mut self, adapter: MacAddress, lldpdu: Lldpdu, now_ms: u64) {
        if lldpdu.ttl_s == 0 {
            let from_it = |heard: &Heard| {
                (&heard.lldpdu.chassis_id, &heard.lldpdu.port_id) == (&lldpdu.chassis_id, &lldpdu.port_id)
            };
            if self.heard.get(&adapter).is_some_and(from_it) {
                self.heard.remove(&adapter);
            }
        } else {
            self.heard.insert(adapter, Heard { lldpdu, at_ms: now_ms });
        }
    }

    /// The adapter's neighbour, unless its time has passed.
    pub(crate) fn of(&self, adapter: MacAddress, now_ms: u64) -> Option<Neighbour> {
        let heard = self.heard.get(&adapter)?;
        // Frames and questions come from different threads: "now" may be a little before the last frame.
        let age_ms = now_ms.saturating_sub(heard.at_ms);
        let received_age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
        Some(Neighbour { lldpdu: heard.lldpdu.clone(), received_age_ms }).filter(Neighbour::is_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use network::lldp::{ChassisId, PortId};
    use proptest::prelude::*;

    const NIC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn frame(switch: &str, ttl_s: u16) -> Lldpdu {
        Lldpdu::new(ChassisId::Local(switch.to_owned()), PortId::Local("1".to_owned()), ttl_s)
    }

    fn switch(neighbours: &Neighbours, adapter: MacAddress, now_ms: u64) -> Option<String> {
        neighbours.of(adapter, now_ms).map(|neighbour| neighbour.lldpdu.chassis_id.to_string())
    }

    #[test]
    fn a_neighbour_stays_until_its_time_has_passed() {
        let mut neighbours = Neighbours::default();
        neighbours.hear(NIC, frame("tor1", 3), 1_000);
        assert_eq!(neighbours.of(NIC, 3_500).unwrap().received_age_ms, 2_500);
        assert_eq!(switch(&neighbours, NIC, 3_999).as_deref(), Some("tor1"));
        assert_eq!(switch(&neighbours, NIC, 4_000), None);
        assert_eq!(switch(&neighbours, OTHER, 1_000), None);
    }

    #[test]
    fn the_last_frame_counts_and_a_good_bye_ends_it() {
        let mut neighbours = Neighbours::default();
        neighbours.hear(NIC, frame("tor1", 120), 0);
        neighbours.hear(OTHER, frame("tor2", 120), 0);
        neighbours.hear(NIC, frame("tor3", 120), 10);
        assert_eq!(switch(&neighbours, NIC, 10).as_deref(), Some("tor3"));
        // A good-bye of somebody else, also from another port of the same switch, is not this one's (802.1AB, 9.2.7.7).
        neighbours.hear(NIC, frame("tor1", 0), 15);
        let port = PortId::Local("2".to_owned());
        neighbours.hear(NIC, Lldpdu::new(ChassisId::Local("tor3".to_owned()), port, 0), 15);
        assert_eq!(switch(&neighbours, NIC, 15).as_deref(), Some("tor3"));
        neighbours.hear(NIC, frame("tor3", 0), 20);
        assert_eq!(switch(&neighbours, NIC, 20), None);
        assert_eq!(switch(&neighbours, OTHER, 20).as_deref(), Some("tor2"));
    }

    proptest! {
        #[test]
        fn whatever_is_shown_is_alive(ttl_s: u16, heard_ms: u64, now_ms: u64) {
            let mut neighbours = Neighbours::default();
            neighbours.hear(NIC, frame("tor1", ttl_s), heard_ms);
            let age_ms = now_ms.saturating_sub(heard_ms);
            prop_assert_eq!(neighbours.of(NIC, now_ms).is_some(), age_ms < u64::from(ttl_s) * 1000);
        }
    }
}
