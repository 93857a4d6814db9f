//! A small network for tests, unit and integration: one TOR per room, a spine, storage between the TORs only.
//!
//! ```text
//!  a1.storage1 ─┐                         ┌─ b1.storage1
//!  a2.storage1 ─┤ tor-a ── room (711) ── tor-b
//!  a1.mgmt ─────┘    └── spine (7, 8) ──┘ └─ b1.mgmt
//! ```

use fabric::{End, Link, LinkId, NicId, Port, PortName, PortRef, Role, Switch, SwitchId, Topology};
use model::{MacAddress, Mtu, VlanId};

pub(crate) fn vlan(id: u64) -> VlanId {
    VlanId::try_from(id).unwrap()
}

pub(crate) fn nic(id: &str) -> NicId {
    id.parse().unwrap()
}

pub(crate) fn link(id: &str) -> LinkId {
    id.parse().unwrap()
}

pub(crate) fn switch(id: &str) -> SwitchId {
    id.parse().unwrap()
}

pub(crate) fn port(switch: &str, port: &str) -> PortRef {
    PortRef { switch: switch.parse().unwrap(), port: port.parse().unwrap() }
}

fn config(name: &str, native: Option<u64>, tagged: &[u64], mtu: Option<Mtu>) -> Port {
    let id: PortName = name.parse().unwrap();
    Port {
        id,
        native_vlan: native.map(vlan),
        tagged_vlans: tagged.iter().copied().map(vlan).collect(),
        mtu,
        dcb: None,
    }
}

fn tor(room: &str, number: u8) -> Switch {
    let storage = |name| config(name, Some(99), &[711], None);
    Switch {
        id: switch(&format!("tor-{room}")),
        system_name: format!("sw{number}"),
        chassis_mac: MacAddress([0x3c, 0x2c, 0x30, 0, 0, number]),
        role: Role::Tor,
        room: Some(room.to_owned()),
        mtu: Mtu::JUMBO,
        suspended_vlans: [vlan(99)].into(),
        ports: vec![
            storage("Ethernet1/1"),
            storage("Ethernet1/2"),
            config("Ethernet1/3", Some(7), &[8], Some(Mtu::ETHERNET)),
            storage("Ethernet1/4"),
            config("Ethernet1/49", None, &[711], None),
            config("Ethernet1/50", None, &[7, 8], None),
        ],
    }
}

fn cable(id: &str, a: End, b: End) -> Link {
    Link { id: link(id), a, b }
}

/// The network above, LLDP every 100 ms.
pub(crate) fn topology() -> Topology {
    let spine = Switch {
        id: switch("spine"),
        role: Role::Spine,
        room: None,
        chassis_mac: MacAddress([0x3c, 0x2c, 0x30, 0, 0, 9]),
        ports: ["Ethernet1/1", "Ethernet1/2"].map(|name| config(name, None, &[7, 8], None)).into(),
        ..tor("x", 9)
    };
    let at = |switch: &str, name: &str| End::Port(port(switch, name));
    let nics = ["a1.storage1", "a2.storage1", "a1.mgmt", "b1.storage1", "b1.mgmt", "spare"];
    Topology {
        kept_off_spine: Vec::new(),
        homes: Vec::new(),
        switches: vec![tor("a", 1), tor("b", 2), spine],
        nics: nics.map(nic).into(),
        links: vec![
            cable("a1.storage1", End::Nic(nic("a1.storage1")), at("tor-a", "Ethernet1/1")),
            cable("a2.storage1", End::Nic(nic("a2.storage1")), at("tor-a", "Ethernet1/2")),
            cable("a1.mgmt", End::Nic(nic("a1.mgmt")), at("tor-a", "Ethernet1/3")),
            cable("b1.storage1", End::Nic(nic("b1.storage1")), at("tor-b", "Ethernet1/1")),
            cable("b1.mgmt", at("tor-b", "Ethernet1/3"), End::Nic(nic("b1.mgmt"))),
            cable("room", at("tor-a", "Ethernet1/49"), at("tor-b", "Ethernet1/49")),
            cable("spine-a", at("tor-a", "Ethernet1/50"), at("spine", "Ethernet1/1")),
            cable("spine-b", at("tor-b", "Ethernet1/50"), at("spine", "Ethernet1/2")),
        ],
        channels: vec![],
        pairs: vec![],
        lldp_interval_ms: 100,
    }
}

/// A unicast address of a test's machine.
pub(crate) fn mac(last: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, last]
}

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame with so many bytes of payload; `tci`: its tag, if any.
pub(crate) fn frame(
    destination: [u8; 6],
    source: [u8; 6],
    tci: Option<u16>,
    payload_bytes: usize,
) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    if let Some(tci) = tci {
        frame.extend([0x81, 0x00]);
        frame.extend(tci.to_be_bytes());
    }
    frame.extend([0x88, 0xb5]); // for experiments (IEEE 802, 9.2.3)
    frame.resize(frame.len() + payload_bytes, 0x5a);
    frame
}
