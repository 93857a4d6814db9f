//! Which address was last seen at which port or port channel (IEEE 802.1Q-2018, 8.7 and 8.8).
//!
//! Invariants: never more than [`CAPACITY`] entries; an entry older than [`AGEING`] is never used. When the table is
//! full, new addresses are not learned (their frames are flooded), as in a real switch.

use std::collections::HashMap;
use std::time::Duration;

/// Entries per switch: that of a small TOR.
pub(crate) const CAPACITY: usize = 8192;
/// How long an address is remembered (802.1Q, table 8-6: 300 s).
pub(crate) const AGEING: Duration = Duration::from_mins(5);
/// A full table is searched for old entries at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Where an address lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// At a port, by its index.
    Port(usize),
    /// Beyond a port channel, by its index, whichever member it was heard on.
    Channel(usize),
}

#[derive(Debug, Default)]
pub(crate) struct MacTable {
    entries: HashMap<(u16, [u8; 6]), Entry>,
    swept_at: Duration,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    seen_at: Duration,
}

impl MacTable {
    pub(crate) fn learn(&mut self, vlan: u16, address: [u8; 6], place: Place, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&(vlan, address)) {
            *entry = Entry { place, seen_at: now };
            return;
        }
        if self.entries.len() >= CAPACITY && now >= self.swept_at + SWEEP_INTERVAL {
            self.swept_at = now;
            self.entries.retain(|_, entry| entry.is_fresh(now));
        }
        if self.entries.len() < CAPACITY {
            self.entries.insert((vlan, address), Entry { place, seen_at: now });
        }
    }

    pub(crate) fn place_of(&self, vlan: u16, address: [u8; 6], now: Duration) -> Option<Place> {
        self.entries.get(&(vlan, address)).filter(|entry| entry.is_fresh(now)).map(|entry| entry.place)
    }

    /// Forgets what was learned at a place: its link went down.
    pub(crate) fn forget(&mut self, place: Place) {
        self.entries.retain(|_, entry| entry.place != place);
    }
}

impl Entry {
    fn is_fresh(&self, now: Duration) -> bool {
        now < self.seen_at + AGEING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn addresses_age_move_and_are_per_vlan() {
        let mut table = MacTable::default();
        table.learn(711, A, Place::Port(1), Duration::ZERO);
        assert_eq!(table.place_of(711, A, Duration::from_secs(299)), Some(Place::Port(1)));
        assert_eq!(table.place_of(711, A, AGEING), None);
        assert_eq!(table.place_of(712, A, Duration::ZERO), None);
        table.learn(711, A, Place::Channel(1), Duration::from_secs(200));
        assert_eq!(table.place_of(711, A, Duration::from_secs(499)), Some(Place::Channel(1)));
        table.forget(Place::Port(1));
        assert!(
            table.place_of(711, A, Duration::from_secs(499)).is_some(),
            "a port and a channel are two places"
        );
        table.forget(Place::Channel(1));
        assert_eq!(table.place_of(711, A, Duration::from_secs(200)), None);
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_when_entries_age() {
        let mut table = MacTable::default();
        let address = |n: usize| [2, 0, 0, 0, (n >> 8) as u8, n as u8];
        for n in 0..CAPACITY + 100 {
            table.learn(7, address(n), Place::Port(1), Duration::from_secs(1));
        }
        assert_eq!(table.entries.len(), CAPACITY);
        assert_eq!(table.place_of(7, address(CAPACITY), Duration::from_secs(1)), None);
        let later = Duration::from_secs(1) + AGEING;
        table.learn(7, address(CAPACITY), Place::Port(2), later);
        assert_eq!(table.entries.len(), 1);
        assert_eq!(table.place_of(7, address(CAPACITY), later), Some(Place::Port(2)));
    }
}
