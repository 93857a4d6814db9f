//! Who is at the other end of each adapter's cable: the last LLDP frame of each, until its time to live has passed.
//!
//! Invariants: one entry per adapter, so it is bounded whatever arrives; time only comes in as an argument.
//!
//! If two senders are heard on one NIC (a hub, or a machine that was cabled in between), the last one counts. That they
//! alternate is no moving of the cable, but can't be told from it at once: so a move is told at most every
//! [`MOVES_APART_MS`]; one that comes too soon is told with the first frame after that.

use model::MacAddress;
use network::lldp::{ChassisId, Lldpdu, PortId};
use network::wiring::Neighbour;
use std::collections::BTreeMap;

/// Between two moves of one cable that are told, ms: a cable that is put right seconds later must be told of, and two
/// speakers on one wire must not make a storm.
const MOVES_APART_MS: u64 = 2_000;

/// The neighbours by the adapter's MAC address.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    heard: BTreeMap<MacAddress, Heard>,
}

#[derive(Debug)]
struct Heard {
    /// Who was heard last, also after its good-bye.
    lldpdu: Lldpdu,
    at_ms: u64,
    /// It has said good-bye.
    left: bool,
    /// To whom the cable leads as far as it was told, and when it was last told to lead elsewhere.
    told: (ChassisId, PortId),
    moved_ms: Option<u64>,
}

impl Neighbours {
    /// Takes a frame in. One with a time to live of 0 is a good-bye (802.1AB, 9.1.2.2): its sender's entry goes, and nobody
    /// else's (9.2.7.7). A sender is known by chassis and port.
    ///
    /// Says whether the adapter's cable leads elsewhere than when it was last heard of.
    pub(crate) fn hear(&mut self, adapter: MacAddress, lldpdu: Lldpdu, now_ms: u64) -> bool {
        let sender = (lldpdu.chassis_id.clone(), lldpdu.port_id.clone());
        let known = self.heard.get_mut(&adapter);
        if lldpdu.ttl_s == 0 {
            if let Some(heard) = known
                && (&heard.lldpdu.chassis_id, &heard.lldpdu.port_id) == (&sender.0, &sender.1)
            {
                heard.left = true;
            }
            return false;
        }
        let Some(heard) = known else {
            let heard = Heard { lldpdu, at_ms: now_ms, left: false, told: sender, moved_ms: None };
            self.heard.insert(adapter, heard);
            return false;
        };
        (heard.lldpdu, heard.at_ms, heard.left) = (lldpdu, now_ms, false);
        let lately = heard.moved_ms.is_some_and(|moved_ms| now_ms.saturating_sub(moved_ms) < MOVES_APART_MS);
        if heard.told == sender || lately {
            return false;
        }
        (heard.told, heard.moved_ms) = (sender, Some(now_ms));
        true
    }

    /// The adapter's neighbour, unless its time has passed.
    pub(crate) fn of(&self, adapter: MacAddress, now_ms: u64) -> Option<Neighbour> {
        let heard = self.heard.get(&adapter).filter(|heard| !heard.left)?;
        // Frames and questions come from different threads: "now" may be a little before the last frame.
        let age_ms = now_ms.saturating_sub(heard.at_ms);
        let received_age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
        Some(Neighbour { lldpdu: heard.lldpdu.clone(), received_age_ms }).filter(Neighbour::is_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_cable_that_leads_elsewhere_is_told_once() {
        let mut neighbours = Neighbours::default();
        let mut moved = |frame, at_ms| neighbours.hear(NIC, frame, at_ms);
        assert!(!moved(frame("tor1", 3), 0), "the first that was ever heard");
        assert!(!moved(frame("tor1", 3), 1_000));
        assert!(!moved(frame("tor3", 0), 1_500), "a stranger's good-bye");
        assert!(moved(frame("tor3", 3), 60_000), "also after a long silence");
        assert!(!moved(frame("tor3", 3), 61_000));
    }

    #[test]
    fn a_move_after_a_good_bye_is_told() {
        let mut neighbours = Neighbours::default();
        neighbours.hear(NIC, frame("tor1", 3), 0);
        assert!(!neighbours.hear(NIC, frame("tor1", 0), 500));
        assert!(!neighbours.hear(NIC, frame("tor1", 3), 600), "it is back");
        assert!(!neighbours.hear(NIC, frame("tor1", 0), 700));
        assert!(neighbours.hear(NIC, frame("tor3", 3), 1_000));
    }

    #[test]
    fn a_move_that_comes_too_soon_is_told_later() {
        let mut neighbours = Neighbours::default();
        let mut moved = |switch, at_ms| neighbours.hear(NIC, frame(switch, 120), at_ms);
        assert!(!moved("tor1", 0));
        assert!(moved("tor3", 1_000));
        assert!(!moved("tor1", 2_000));
        assert!(!moved("tor1", 2_999));
        assert!(moved("tor1", 3_000));
        assert!(!moved("tor1", 60_000));
    }

    /// Two speakers on one wire, each every second for an hour.
    #[test]
    fn speakers_that_alternate_are_told_seldom_and_other_adapters_at_once() {
        let mut neighbours = Neighbours::default();
        let mut told = 0;
        for second in 0..3600 {
            let both = ["tor1", "tor3"].map(|tor| neighbours.hear(NIC, frame(tor, 120), second * 1000));
            told += both.iter().filter(|moved| **moved).count();
        }
        assert!((1500..=1801).contains(&told), "{told}");
        neighbours.hear(OTHER, frame("tor1", 3), 3_600_000);
        assert!(neighbours.hear(OTHER, frame("tor3", 3), 3_600_001));
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
