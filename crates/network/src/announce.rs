//! What a node says when its team has gone over to another port: here are my addresses now. Pure.
//!
//! Why: switches send a node's frames where they last heard it. After a change-over that is the port that failed, until the
//! node speaks. A bond announces the addresses that are on itself or on its VLAN links, but a bridge between them does not
//! pass that on (`br_device_event`, net/bridge/br.c, has no case for `NETDEV_NOTIFY_PEERS`): measured in the lab, a node that
//! had nothing to say stayed out of reach.

use crate::link::{CurrentLinks, LinkKind, LinkName};
use model::MacAddress;
use std::net::Ipv4Addr;

/// An address that a node has over a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverTeam {
    /// The kernel's number of the link that has it.
    pub index: u32,
    /// That link's MAC address.
    pub mac: MacAddress,
    /// The address.
    pub address: Ipv4Addr,
}

/// All addresses over a team: on itself, on the bridge that it is a port of, and on the VLAN links of both.
pub fn over_team(links: &CurrentLinks, team: &LinkName) -> Vec<OverTeam> {
    let bridge = links.get(team).and_then(|link| link.master.as_ref());
    let below = |name: &LinkName| name == team || Some(name) == bridge;
    let over = links.links.iter().filter(|(name, link)| match &link.kind {
        LinkKind::Vlan { parent, .. } => below(parent),
        _ => below(name),
    });
    let addresses = over.filter_map(|(_, link)| Some((link.index, link.mac?, &link.addresses)));
    addresses
        .flat_map(|(index, mac, addresses)| {
            addresses.iter().map(move |net| OverTeam { index, mac, address: net.addr() })
        })
        .collect()
}

/// The shortest Ethernet frame without its check sequence, bytes (IEEE 802.3, 3.2.8).
const FRAME_BYTES_MIN: usize = 60;

/// An ARP announcement (RFC 5227, 2.3; the format is RFC 826's): a request for one's own address, to everybody.
pub fn announcement(mac: MacAddress, address: Ipv4Addr) -> [u8; FRAME_BYTES_MIN] {
    const BROADCAST: [u8; 6] = [0xff; 6];
    const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
    // Hardware Ethernet, protocol IPv4, their address lengths, operation request.
    const HEADER: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let mut frame = [0; FRAME_BYTES_MIN];
    let unknown = [0; 6];
    let address = address.octets();
    let parts: [&[u8]; 8] =
        [&BROADCAST, &mac.0, &ETHERTYPE_ARP, &HEADER, &mac.0, &address, &unknown, &address];
    let bytes = parts.into_iter().flatten();
    frame.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::CurrentLink;
    use std::collections::{BTreeMap, BTreeSet};

    fn link(index: u32, kind: LinkKind, master: Option<&str>, addresses: &[&str]) -> CurrentLink {
        CurrentLink {
            index,
            kind,
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            permanent_mac: None,
            up: true,
            carrier: Some(true),
            mtu_bytes: 1500,
            master: master.map(|name| name.parse().unwrap()),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect::<BTreeSet<_>>(),
            routes: BTreeSet::new(),
            traffic: crate::traffic::Traffic::default(),
            bridge_vlans: BTreeMap::new(),
            ipv6_link_local: None,
        }
    }

    fn vlan(parent: &str, id: u64) -> LinkKind {
        let (parent, vlan) = (parent.parse().unwrap(), id.try_into().unwrap());
        LinkKind::Vlan { parent, vlan, egress_qos: BTreeMap::new() }
    }

    #[test]
    fn addresses_over_the_team_are_found_and_no_others() {
        let bridge = LinkKind::Bridge { vlan_filtering: true, default_pvid: None };
        let links = [
            ("tw-team", link(1, LinkKind::Other("bond".into()), Some("tw-br"), &[])),
            ("tw-br", link(2, bridge, None, &["10.0.0.2/24"])),
            ("tw-mgmt", link(3, vlan("tw-br", 7), None, &["10.0.7.2/24"])),
            ("tw-st711", link(4, vlan("tw-team", 711), None, &["10.71.1.1/24"])),
            ("tw-st712", link(5, vlan("eth3", 712), None, &["10.71.2.1/24"])),
            ("eth9", link(6, LinkKind::Nic, None, &["10.0.2.15/24"])),
        ];
        let links = CurrentLinks {
            links: links.into_iter().map(|(name, link)| (name.parse().unwrap(), link)).collect(),
        };
        let found: Vec<_> = over_team(&links, &LinkName::team())
            .into_iter()
            .map(|over| (over.index, over.address.to_string()))
            .collect();
        let expected = [(2, "10.0.0.2"), (3, "10.0.7.2"), (4, "10.71.1.1")];
        assert_eq!(found, expected.map(|(index, address)| (index, address.to_owned())));
        assert_eq!(over_team(&links, &"eth3".parse().unwrap()).len(), 1);
    }

    #[test]
    fn an_announcement_is_a_request_for_ones_own_address() {
        let frame = announcement(MacAddress([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(10, 0, 7, 2));
        let mut expected = [0; FRAME_BYTES_MIN];
        // To everybody, from the address, ARP; Ethernet, IPv4, request; sender; target.
        expected[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        expected[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        expected[22..32].copy_from_slice(&[2, 0, 0, 0, 0, 9, 10, 0, 7, 2]);
        expected[38..42].copy_from_slice(&[10, 0, 7, 2]);
        assert_eq!(frame, expected);
    }
}
