//! Bytes against what a C compiler makes of `struct ieee_ets` and `struct ieee_pfc`, and against what dcb(8) sends.

use super::*;

fn table(first: u8) -> [u8; DCB_CLASSES] {
    std::array::from_fn(|at| first + u8::try_from(at).unwrap())
}

fn example() -> DcbEts {
    DcbEts {
        willing: true,
        classes: 8,
        credit_based_shaper: false,
        transmit_percent: table(10),
        receive_percent: table(20),
        selection: table(30),
        class_of: table(40),
        recommended_percent: table(50),
        recommended_selection: table(60),
        recommended_class_of: table(70),
    }
}

/// Of the structure with `tc_tx_bw` 10…17, `tc_rx_bw` 20…27, `tc_tsa` 30…37, `prio_tc` 40…47 and so on.
fn compiled_ets() -> Vec<u8> {
    [1, 8, 0].into_iter().chain((1..=7).flat_map(|tens| table(tens * 10))).collect()
}

/// Of the structure with `pfc_cap` 8, `pfc_en` 8, `mbc` 1, `delay` 0x1234, `requests[0]` 1, `indications[7]` 2.
fn compiled_pfc() -> Vec<u8> {
    let mut bytes = vec![0; 136];
    bytes[..6].copy_from_slice(&[8, 8, 1, 0, 0x34, 0x12]);
    (bytes[8], bytes[128]) = (1, 2);
    bytes
}

#[test]
fn structures_are_as_the_header_has_them() {
    assert_eq!(ets_bytes(&example()), compiled_ets());
    assert_eq!(compiled_ets().len(), 59);
    assert_eq!(read_ets(&compiled_ets()), Some(example()));
    let pfc = DcbPfc { classes: 8, enabled: 8, macsec_bypass: true, delay_bits: 0x1234 };
    assert_eq!(read_pfc(&compiled_pfc()), Some(pfc));
    let mut without_counters = compiled_pfc();
    without_counters[8..].fill(0);
    assert_eq!(pfc_bytes(pfc), without_counters);
}

#[test]
fn a_nic_is_asked_as_dcb_does() {
    let raw = get(&"lo".parse().unwrap());
    let sent = [0, 0x15, 0, 0, 7, 0, 1, 0, b'l', b'o', 0, 0];
    assert_eq!((raw.kind, raw.bytes), (GET_DCB, sent.to_vec()));
}

#[test]
fn a_change_names_the_nic_and_holds_one_structure() {
    let raw = set_ets(&"eth2".parse().unwrap(), &example());
    let mut sent = vec![0, 0x14, 0, 0, 9, 0, 1, 0, b'e', b't', b'h', b'2', 0, 0, 0, 0];
    // DCB_ATTR_IEEE (13), nested: 4 + 4 + 59 + 1 of padding; DCB_ATTR_IEEE_ETS (1).
    sent.extend([68, 0, 13, 0x80, 63, 0, 1, 0]);
    sent.extend(compiled_ets());
    sent.push(0);
    assert_eq!((raw.kind, raw.bytes), (SET_DCB, sent));
    let pfc = DcbPfc { classes: 8, enabled: 8, macsec_bypass: false, delay_bits: 0 };
    let raw = set_pfc(&"eth2".parse().unwrap(), pfc);
    let ieee = find(&raw.bytes[HEADER_BYTES..], DCB_ATTR_IEEE).unwrap();
    assert_eq!(find(ieee, DCB_ATTR_IEEE_PFC), Some(&pfc_bytes(pfc)[..]));
}

#[test]
fn what_a_nic_has_is_read_and_what_it_has_not_is_none() {
    let answer = |fill: fn(&mut Vec<u8>)| {
        let mut bytes = head(DCB_CMD_IEEE_GET, &"eth2".parse().unwrap());
        put_nest(&mut bytes, DCB_ATTR_IEEE, fill);
        read(&Raw { kind: GET_DCB, bytes })
    };
    let both = answer(|ieee| {
        put(ieee, DCB_ATTR_IEEE_ETS, &compiled_ets());
        put(ieee, DCB_ATTR_IEEE_PFC, &compiled_pfc());
    });
    assert_eq!(both.map(|dcb| (dcb.ets, dcb.pfc.is_some())), Some((Some(example()), true)));
    assert_eq!(answer(|ieee| put(ieee, DCB_ATTR_IEEE_ETS, &[1, 8])), None);
    assert_eq!(answer(|_| ()), None);
    assert_eq!(read(&Raw { kind: GET_DCB, bytes: Vec::new() }), None);
}

#[test]
fn a_driver_that_refuses_is_heard_though_the_kernel_acknowledges() {
    let answer = |said: u8| {
        let mut bytes = head(DCB_CMD_IEEE_SET, &"eth2".parse().unwrap());
        put(&mut bytes, DCB_ATTR_IEEE, &[said]);
        refusal(&Raw { kind: SET_DCB, bytes })
    };
    assert!(answer(0).is_none());
    // -EINVAL in one byte.
    assert_eq!(answer(0xea).and_then(|error| error.raw_os_error()), Some(libc::EINVAL));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let raw = Raw { kind: SET_DCB, bytes };
        let _ = (read(&raw), refusal(&raw));
    }
}
