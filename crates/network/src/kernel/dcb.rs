//! Data centre bridging over route netlink: a NIC's own ETS and PFC as bytes, both ways. Pure.
//!
//! Layouts: `struct dcbmsg`, `struct ieee_ets`, `struct ieee_pfc` (`uapi/linux/dcbnl.h`). What a driver does with them needs a NIC that
//! has them; no driver of a NIC that QEMU has does. The tests hold the bytes against what a C compiler makes of the header.
//!
//! Who answers `EOPNOTSUPP` (`dcb_doit`, `net/dcb/dcbnl.c`: a NIC whose driver has nothing of it) has none.

use super::attribute::{find, put, put_nest, put_text, u16_of};
use super::wire::{GET_DCB, Raw, SET_DCB};
use crate::link::LinkName;
use crate::traffic::{DCB_CLASSES, Dcb, DcbEts, DcbPfc};
use std::io;

const DCB_CMD_IEEE_SET: u8 = 20;
const DCB_CMD_IEEE_GET: u8 = 21;
const DCB_ATTR_IFNAME: u16 = 1;
const DCB_ATTR_IEEE: u16 = 13;
const DCB_ATTR_IEEE_ETS: u16 = 1;
const DCB_ATTR_IEEE_PFC: u16 = 2;

/// `struct dcbmsg`: family, command, two bytes of nothing.
const HEADER_BYTES: usize = 4;
/// `struct ieee_ets`: three bytes, then seven tables.
const ETS_BYTES: usize = 3 + 7 * DCB_CLASSES;
/// `struct ieee_pfc`: three bytes, one of nothing, two, two of nothing, then two tables of counters of eight bytes.
const PFC_BYTES: usize = 8 + 2 * 8 * DCB_CLASSES;

/// Asks what a NIC has.
pub(super) fn get(name: &LinkName) -> Raw {
    Raw { kind: GET_DCB, bytes: head(DCB_CMD_IEEE_GET, name) }
}

/// Sets a NIC's shares.
pub(super) fn set_ets(name: &LinkName, ets: &DcbEts) -> Raw {
    set(name, DCB_ATTR_IEEE_ETS, &ets_bytes(ets))
}

/// Sets which priorities a NIC may be told to pause.
pub(super) fn set_pfc(name: &LinkName, pfc: DcbPfc) -> Raw {
    set(name, DCB_ATTR_IEEE_PFC, &pfc_bytes(pfc))
}

fn set(name: &LinkName, kind: u16, value: &[u8]) -> Raw {
    let mut bytes = head(DCB_CMD_IEEE_SET, name);
    put_nest(&mut bytes, DCB_ATTR_IEEE, |ieee| put(ieee, kind, value));
    Raw { kind: SET_DCB, bytes }
}

fn head(command: u8, name: &LinkName) -> Vec<u8> {
    let mut bytes = vec![0, command, 0, 0];
    put_text(&mut bytes, DCB_ATTR_IFNAME, name.as_str());
    bytes
}

fn ets_bytes(ets: &DcbEts) -> Vec<u8> {
    let mut bytes = vec![u8::from(ets.willing), ets.classes, u8::from(ets.credit_based_shaper)];
    let tables = [
        ets.transmit_percent,
        ets.receive_percent,
        ets.selection,
        ets.class_of,
        ets.recommended_percent,
        ets.recommended_selection,
        ets.recommended_class_of,
    ];
    bytes.extend(tables.concat());
    bytes
}

fn pfc_bytes(pfc: DcbPfc) -> Vec<u8> {
    let mut bytes = vec![pfc.classes, pfc.enabled, u8::from(pfc.macsec_bypass), 0];
    bytes.extend(pfc.delay_bits.to_ne_bytes());
    // The counters are the NIC's.
    bytes.resize(PFC_BYTES, 0);
    bytes
}

/// What a NIC says that it has.
pub(super) fn read(raw: &Raw) -> Option<Dcb> {
    let ieee = find(raw.bytes.get(HEADER_BYTES..)?, DCB_ATTR_IEEE)?;
    let dcb = Dcb {
        ets: find(ieee, DCB_ATTR_IEEE_ETS).and_then(read_ets),
        pfc: find(ieee, DCB_ATTR_IEEE_PFC).and_then(read_pfc),
    };
    (dcb != Dcb::default()).then_some(dcb)
}

fn read_ets(bytes: &[u8]) -> Option<DcbEts> {
    let bytes = bytes.get(..ETS_BYTES)?;
    let table = |at: usize| bytes.get(3 + at * DCB_CLASSES..)?.first_chunk::<DCB_CLASSES>().copied();
    Some(DcbEts {
        willing: bytes[0] != 0,
        classes: bytes[1],
        credit_based_shaper: bytes[2] != 0,
        transmit_percent: table(0)?,
        receive_percent: table(1)?,
        selection: table(2)?,
        class_of: table(3)?,
        recommended_percent: table(4)?,
        recommended_selection: table(5)?,
        recommended_class_of: table(6)?,
    })
}

fn read_pfc(bytes: &[u8]) -> Option<DcbPfc> {
    let bytes = bytes.get(..PFC_BYTES)?;
    Some(DcbPfc {
        classes: bytes[0],
        enabled: bytes[1],
        macsec_bypass: bytes[2] != 0,
        delay_bits: u16_of(&bytes[4..6])?,
    })
}

/// What a driver said to a change. The kernel acknowledges the request whatever that was, and puts the error, as one byte of a
/// negative number, into its answer (`dcbnl_ieee_set`).
pub(super) fn refusal(answer: &Raw) -> Option<io::Error> {
    let said = *find(answer.bytes.get(HEADER_BYTES..)?, DCB_ATTR_IEEE)?.first()?;
    (answer.kind == SET_DCB && said != 0)
        .then(|| io::Error::from_raw_os_error(-i32::from(said.cast_signed())))
}

#[cfg(test)]
#[path = "dcb_tests.rs"]
mod tests;
