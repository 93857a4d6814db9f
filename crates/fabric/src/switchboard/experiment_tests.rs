//! Which frames of experiments are seen, and where.

use super::faults::Ways;
use super::tests::{NOW, STORAGE, lab};
use crate::testing::{BROADCAST, frame, link, mac};

fn tagged(tci: u16, protocol: [u8; 2]) -> Vec<u8> {
    let mut bytes = frame(BROADCAST, mac(1), Some(tci), 60);
    bytes[16..18].copy_from_slice(&protocol);
    bytes[18] = 7;
    bytes
}

fn experiment(tci: u16) -> Vec<u8> {
    tagged(tci, [0x88, 0xb5])
}

#[test]
fn a_frame_is_seen_once_where_it_came_from_a_nic_if_others_can_hear_it() {
    let (mut lab, storage) = (lab(), STORAGE.unwrap());
    // Two switches carry it, and every other NIC of the VLAN gets it.
    assert_eq!(lab.receivers("a1.storage1", &experiment(storage)), ["a2.storage1", "b1.storage1"]);
    lab.send("a1.storage1", &experiment(0x6001));
    lab.board.cut_link(&link("a1.storage1"), Ways::Both, &mut lab.out).unwrap();
    lab.send("a1.storage1", &experiment(storage));
    lab.send("a2.storage1", &tagged(storage, [0x88, 0xb6]));
    let seen = lab.board.experiments(0).seen;
    let words: Vec<_> = seen.iter().map(|one| (one.nic.as_str(), one.vlan.get(), one.payload[0])).collect();
    assert_eq!(words, [("a1.storage1", 711, 7)], "not what no port carries, was cut, or is something else");
    assert_eq!(seen[0].at_us, u64::try_from(NOW.as_micros()).unwrap());
}
