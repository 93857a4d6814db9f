use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const CHASSIS: MacAddress = MacAddress([0x3c, 0x2c, 0x30, 0x0a, 0x0b, 0x0c]);
const SOURCE: MacAddress = MacAddress([0x3c, 0x2c, 0x30, 0x0a, 0x0b, 0x0d]);

fn vlan(id: u64) -> VlanId {
    VlanId::try_from(id).unwrap()
}

/// As a TOR of wiring A speaks on a storage port.
fn storage_port() -> Lldpdu {
    Lldpdu {
        port_description: Some("storage 1".into()),
        system_name: Some("r1-sw7".into()),
        capabilities: Some(Capabilities { supported: Capabilities::BRIDGE, enabled: Capabilities::BRIDGE }),
        port_vlan: Some(vlan(99)),
        vlans: vec![VlanName { vlan: vlan(711), name: "VLAN0711".into() }],
        max_frame_bytes: Some(9018),
        ..Lldpdu::new(ChassisId::Mac(CHASSIS), PortId::InterfaceName("Ethernet1/7".into()), 4)
    }
}

/// A frame of these TLVs (type, value), without padding.
fn frame(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = [&DESTINATION.0[..], &SOURCE.0, &ETHERTYPE.to_be_bytes()].concat();
    for (kind, value) in tlvs {
        frame.extend((u16::from(*kind) << 9 | value.len() as u16).to_be_bytes());
        frame.extend_from_slice(value);
    }
    frame
}

const CHASSIS_TLV: (u8, &[u8]) = (1, &[7, b'c']);
const PORT_TLV: (u8, &[u8]) = (2, &[5, b'p']);
const TTL_TLV: (u8, &[u8]) = (3, &[0, 120]);

#[test]
fn the_bytes_are_those_of_the_standard() {
    let lldpdu = Lldpdu {
        port_vlan: Some(vlan(99)),
        vlans: vec![VlanName { vlan: vlan(711), name: "s1".into() }],
        max_frame_bytes: Some(9018),
        system_name: Some("sw".into()),
        ..Lldpdu::new(ChassisId::Mac(CHASSIS), PortId::InterfaceName("Eth7".into()), 4)
    };
    let expected: Vec<u8> = [
        &[0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e][..],         // destination
        &[0x3c, 0x2c, 0x30, 0x0a, 0x0b, 0x0d, 0x88, 0xcc], // source, Ethertype
        &[0x02, 0x07, 0x04, 0x3c, 0x2c, 0x30, 0x0a, 0x0b, 0x0c], // chassis id: type 1, 7 bytes, MAC
        &[0x04, 0x05, 0x05, b'E', b't', b'h', b'7'],       // port id: type 2, 5 bytes, interface name
        &[0x06, 0x02, 0x00, 0x04],                         // TTL
        &[0x0a, 0x02, b's', b'w'],                         // system name: type 5
        &[0xfe, 0x06, 0x00, 0x80, 0xc2, 0x01, 0x00, 0x63], // port VLAN: type 127
        &[0xfe, 0x09, 0x00, 0x80, 0xc2, 0x03, 0x02, 0xc7, 0x02, b's', b'1'],
        &[0xfe, 0x06, 0x00, 0x12, 0x0f, 0x04, 0x23, 0x3a], // maximum frame size 9018
        &[0x00, 0x00],                                     // end
    ]
    .concat();
    assert_eq!(encode(&lldpdu, SOURCE).unwrap(), expected);
}

#[test]
fn short_frames_are_padded_and_the_padding_is_not_read() {
    let lldpdu = Lldpdu::new(ChassisId::Local("c".into()), PortId::Local("p".into()), 2);
    let frame = encode(&lldpdu, SOURCE).unwrap();
    assert_eq!(frame.len(), 60);
    let received = decode(&frame).unwrap();
    assert_eq!(received.lldpdu, lldpdu);
    assert_eq!((received.unknown_tlvs, received.malformed_tlvs), (0, 0));
    assert_eq!(received.source, SOURCE);
}

#[test]
fn a_priority_tag_is_looked_through() {
    let mut frame = encode(&storage_port(), SOURCE).unwrap();
    frame.splice(12..12, [0x81, 0x00, 0xe0, 0x00]);
    assert_eq!(decode(&frame).unwrap().lldpdu, storage_port());
}

#[test]
fn the_mandatory_three_come_first_and_once() {
    let swapped = frame(&[PORT_TLV, CHASSIS_TLV, TTL_TLV]);
    assert_eq!(
        decode(&swapped).unwrap_err(),
        DecodeError::Mandatory { expected: "chassis id", found: Some(2) }
    );
    let missing = frame(&[CHASSIS_TLV, PORT_TLV]);
    assert_eq!(
        decode(&missing).unwrap_err(),
        DecodeError::Mandatory { expected: "time to live", found: None }
    );
    let late = frame(&[CHASSIS_TLV, (5, b"name"), PORT_TLV, TTL_TLV]);
    assert_eq!(decode(&late).unwrap_err(), DecodeError::Mandatory { expected: "port id", found: Some(5) });
    let twice = frame(&[CHASSIS_TLV, PORT_TLV, TTL_TLV, PORT_TLV]);
    assert_eq!(decode(&twice).unwrap_err(), DecodeError::Repeated { field: "port id" });
}

#[test]
fn mandatory_lengths_are_checked() {
    let empty = frame(&[(1, &[4]), PORT_TLV, TTL_TLV]);
    assert_eq!(decode(&empty).unwrap_err(), DecodeError::MandatoryLength { field: "chassis id", bytes: 1 });
    let short = frame(&[CHASSIS_TLV, PORT_TLV, (3, &[9])]);
    assert_eq!(decode(&short).unwrap_err(), DecodeError::MandatoryLength { field: "time to live", bytes: 1 });
    let mut cut = frame(&[CHASSIS_TLV, PORT_TLV]);
    cut.pop();
    assert_eq!(decode(&cut).unwrap_err(), DecodeError::Truncated { field: "port id" });
}

#[test]
fn a_mac_of_another_length_is_kept_as_it_came() {
    let odd = frame(&[(1, &[4, 1, 2, 3]), PORT_TLV, TTL_TLV]);
    let id = decode(&odd).unwrap().lldpdu.chassis_id;
    assert_eq!(id, ChassisId::Other { subtype: 4, bytes: vec![1, 2, 3] });
    assert_eq!(id.to_string(), "subtype 4: 010203");
}

#[test]
fn optional_oddities_are_counted_and_skipped() {
    let long_name = [&[0x00, 0x80, 0xc2, 3, 0, 7, 33][..], &[b'x'; 33]].concat();
    let odd = frame(&[
        CHASSIS_TLV,
        PORT_TLV,
        TTL_TLV,
        (127, &long_name),
        (8, &[1, 2, 3]),                              // management address: not known here
        (127, &[0x00, 0x80, 0xc2, 10, 1, 2, 3]),      // ETS recommendation: not known here
        (127, &[0x00, 0x80, 0xc2, 9, 1, 2, 3]),       // ETS, too short
        (127, &[0x00, 0x80, 0xc2, 11, 1]),            // PFC, too short
        (127, &[0x00, 0x80]),                         // no organisation
        (127, &[0x00, 0x80, 0xc2, 3, 0x0f, 0xff, 0]), // VLAN 4095
        (127, &[0x00, 0x80, 0xc2, 3, 0, 7, 9, b'x']), // a name longer than its TLV
        (127, &[0x00, 0x80, 0xc2, 1, 0, 0]),          // no port VLAN
        (5, b"first"),
        (5, b"second"),
        (4, &[b'p', 0xff]), // not UTF-8
    ]);
    let received = decode(&odd).unwrap();
    assert_eq!((received.unknown_tlvs, received.malformed_tlvs), (2, 7));
    assert_eq!(received.lldpdu.system_name.as_deref(), Some("first"));
    assert_eq!(received.lldpdu.port_description.as_deref(), Some("p\u{fffd}"));
    assert_eq!((received.lldpdu.port_vlan, received.lldpdu.vlans), (None, vec![]));
}

#[test]
fn a_tlv_that_claims_too_much_ends_the_reading() {
    let mut long = frame(&[CHASSIS_TLV, PORT_TLV, TTL_TLV, (5, b"name")]);
    long.extend([0x08, 0xff, b'x']); // port description of 255 bytes, one there
    let received = decode(&long).unwrap();
    assert_eq!(received.malformed_tlvs, 1);
    assert_eq!(received.lldpdu.system_name.as_deref(), Some("name"));
    assert_eq!(received.lldpdu.port_description, None);
}

#[test]
fn other_frames_are_refused() {
    assert_eq!(decode(&[0; 13]).unwrap_err(), DecodeError::NoHeader { bytes: 13 });
    assert_eq!(decode(&[0; 60]).unwrap_err(), DecodeError::NotLldp { ethertype: 0 });
    let mut far = encode(&storage_port(), SOURCE).unwrap();
    far[5] = 0; // nearest customer bridge
    assert!(matches!(decode(&far), Err(DecodeError::NotNearestBridge { .. })));
}

#[test]
fn what_does_not_fit_is_refused() {
    let long = Lldpdu { system_name: Some("x".repeat(256)), ..storage_port() };
    assert!(matches!(encode(&long, SOURCE), Err(EncodeError::TooLong { bytes: 256, .. })));
    let empty = Lldpdu { port_id: PortId::Local(String::new()), ..storage_port() };
    assert_eq!(encode(&empty, SOURCE), Err(EncodeError::Empty { field: "port id" }));
    let many = (1..=100).map(|id| VlanName { vlan: vlan(id), name: format!("VLAN{id:04}") }).collect();
    assert!(matches!(
        encode(&Lldpdu { vlans: many, ..storage_port() }, SOURCE),
        Err(EncodeError::FrameTooLong { .. })
    ));
}

#[test]
fn it_travels_as_json() {
    let received = decode(&encode(&storage_port(), SOURCE).unwrap()).unwrap();
    let expected = serde_json::json!({
        "source": "3c:2c:30:0a:0b:0d",
        "lldpdu": {
            "chassis_id": { "mac": "3c:2c:30:0a:0b:0c" },
            "port_id": { "interface_name": "Ethernet1/7" },
            "ttl_s": 4,
            "port_description": "storage 1",
            "system_name": "r1-sw7",
            "system_description": null,
            "capabilities": { "supported": 4, "enabled": 4 },
            "port_vlan": 99,
            "vlans": [{ "vlan": 711, "name": "VLAN0711" }],
            "max_frame_bytes": 9018,
        },
        "unknown_tlvs": 0,
        "malformed_tlvs": 0,
    });
    assert_eq!(serde_json::to_value(received).unwrap(), expected);
}

#[test]
fn what_a_terminal_would_obey_is_written_out() {
    let names = [
        "\u{1b}]0;x\u{7}",
        "a\r\nb\u{9b}1m",
        "p\u{202e}txt",
        "zero\u{200b}width",
        "back\\slash",
        "Zürich 7/1",
    ];
    let shown = names.map(|name| PortId::InterfaceName(name.to_owned()).to_string());
    let expected = [
        r"\u{1b}]0;x\u{7}",
        r"a\u{d}\u{a}b\u{9b}1m",
        r"p\u{202e}txt",
        r"zero\u{200b}width",
        r"back\\slash",
        "Zürich 7/1",
    ];
    assert_eq!(shown, expected);
}

/// Bytes as a hostile switch might choose them: control characters more often than chance has them.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let chosen = prop::sample::select(vec![0x1b, 0x07, 0x0d, 0x0a, 0x00, 0x7f, 0xc2, 0x9b, b'x']);
    vec(prop_oneof![any::<u8>(), chosen], 1..40)
}

fn text(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 1..=max / 4).prop_map(String::from_iter)
}

fn mac() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 6]>().prop_map(MacAddress)
}

prop_compose! {
    fn lldpdus()(
        chassis_id in prop_oneof![
            mac().prop_map(ChassisId::Mac),
            text(255).prop_map(ChassisId::InterfaceName),
            text(255).prop_map(ChassisId::Local),
            (prop_oneof![Just(1u8), Just(2), Just(5), 8..=255u8], vec(any::<u8>(), 1..=255))
                .prop_map(|(subtype, bytes)| ChassisId::Other { subtype, bytes }),
        ],
        port_id in prop_oneof![
            mac().prop_map(PortId::Mac),
            text(255).prop_map(PortId::InterfaceName),
            text(255).prop_map(PortId::Local),
            (prop_oneof![Just(1u8), Just(2), Just(6), 8..=255u8], vec(any::<u8>(), 1..=255))
                .prop_map(|(subtype, bytes)| PortId::Other { subtype, bytes }),
        ],
        ttl_s: u16,
        port_description in option::of(text(100)),
        system_name in option::of(text(100)),
        system_description in option::of(text(255)),
        capabilities in option::of(any::<(u16, u16)>()),
        port_vlan in option::of(1..=4094u64),
        vlans in vec((1..=4094u64, text(VLAN_NAME_BYTES_MAX)), 0..8),
        max_frame_bytes: Option<u16>,
        ets: Option<[u8; 21]>,
        pfc: Option<[u8; 2]>,
    ) -> Lldpdu {
        Lldpdu {
            chassis_id,
            port_id,
            ttl_s,
            port_description,
            system_name,
            system_description,
            capabilities: capabilities.map(|(supported, enabled)| Capabilities { supported, enabled }),
            port_vlan: port_vlan.map(vlan),
            vlans: vlans.into_iter().map(|(id, name)| VlanName { vlan: vlan(id), name }).collect(),
            max_frame_bytes,
            ets: ets.and_then(|bytes| Ets::decode(&bytes)),
            pfc: pfc.and_then(|bytes| Pfc::decode(&bytes)),
        }
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(lldpdu in lldpdus(), source in mac()) {
        let received = decode(&encode(&lldpdu, source).unwrap()).unwrap();
        prop_assert_eq!(&received, &Received { source, lldpdu, unknown_tlvs: 0, malformed_tlvs: 0 });
        let json = serde_json::to_string(&received).unwrap();
        prop_assert_eq!(serde_json::from_str::<Received>(&json).unwrap(), received);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300), tlvs in vec((0..128u8, vec(any::<u8>(), 0..40)), 0..8)) {
        let _ = decode(&bytes);
        let header = [&DESTINATION.0[..], &SOURCE.0, &ETHERTYPE.to_be_bytes()].concat();
        let _ = decode(&[&header[..], &bytes].concat());
        let mut good = frame(&[CHASSIS_TLV, PORT_TLV, TTL_TLV]);
        let parts: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        good.extend_from_slice(&frame(&parts)[14..]);
        good.extend_from_slice(&bytes);
        let _ = decode(&good);
    }

    #[test]
    fn nothing_that_is_displayed_has_a_control_character(
        chassis in (0..9u8, hostile()), port in (0..9u8, hostile()), name in hostile(), description in hostile(),
    ) {
        let id = |(subtype, bytes): (u8, Vec<u8>)| [vec![subtype], bytes].concat();
        let (chassis, port) = (id(chassis), id(port));
        let heard = frame(&[(1, &chassis), (2, &port), TTL_TLV, (4, &description), (5, &name)]);
        let lldpdu = decode(&heard).unwrap().lldpdu;
        let cable = crate::wiring::Connection {
            zone: None,
            node: "n1".parse().unwrap(),
            adapter: "Ethernet".parse().unwrap(),
            kernel_name: "eth0".to_owned(),
            switch: lldpdu.chassis_id,
            switch_name: lldpdu.system_name,
            port: lldpdu.port_id,
            port_description: lldpdu.port_description,
        };
        for shown in [cable.switch.to_string(), cable.port.to_string(), cable.to_string()] {
            prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
        }
    }

    #[test]
    fn no_truncation_or_flip_panics(lldpdu in lldpdus(), flip: prop::sample::Index, with: u8) {
        let mut frame = encode(&lldpdu, SOURCE).unwrap();
        for end in 0..frame.len() {
            let _ = decode(&frame[..end]);
        }
        let at = flip.index(frame.len());
        frame[at] ^= with;
        let _ = decode(&frame);
    }
}
