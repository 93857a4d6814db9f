//! Traffic control over route netlink: queues and filters as bytes, both ways. Pure.
//!
//! Layouts: `struct tcmsg` (`uapi/linux/rtnetlink.h`), `TCA_ETS_*` (`pkt_sched.h`), `TCA_FLOWER_*` (`pkt_cls.h`), `TCA_SKBEDIT_*`
//! (`tc_act/tc_skbedit.h`). The tests hold requests against what tc(8) of iproute2 6.1 sends.
//!
//! Invariants: a filter is one of ours only if there is nothing in it besides what twinrack sets: one with one key more counts as
//! another one. What isn't understood is another queue or filter, never none.

use super::attribute::{find, put, put_nest, put_text, read, text_of, u32_of};
use super::wire::{DELETE_FILTER, DELETE_QUEUE, GET_FILTER, GET_QUEUE, NEW_FILTER, NEW_QUEUE, Raw};
use crate::link::{CurrentLinks, LinkName};
use crate::traffic::{Ets, Filter, MarkRule, Marks, Packets, QUEUE_PRIORITIES, Queue};
use model::Priority;
use std::collections::{BTreeMap, BTreeSet};

/// `TC_H_ROOT`.
const ROOT: u32 = 0xffff_ffff;
/// `TC_H_CLSACT`: where the classifier is attached, and its handle.
const CLASSIFIER: u32 = 0xffff_fff1;
const CLASSIFIER_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`: its way out.
const WAY_OUT: u32 = 0xffff_fff3;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`: its way in.
const WAY_IN: u32 = 0xffff_fff2;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;

const TCA_ETS_NBANDS: u16 = 1;
const TCA_ETS_NSTRICT: u16 = 2;
const TCA_ETS_QUANTA: u16 = 3;
const TCA_ETS_QUANTA_BAND: u16 = 4;
const TCA_ETS_PRIOMAP: u16 = 5;
const TCA_ETS_PRIOMAP_BAND: u16 = 6;

const TCA_FLOWER_ACT: u16 = 3;
const TCA_FLOWER_KEY_ETH_TYPE: u16 = 8;
const TCA_FLOWER_KEY_IP_PROTO: u16 = 9;
const TCA_FLOWER_KEY_TCP_SRC: u16 = 18;
const TCA_FLOWER_KEY_TCP_DST: u16 = 19;
const TCA_FLOWER_KEY_UDP_DST: u16 = 21;
const TCA_FLOWER_FLAGS: u16 = 22;
const TCA_FLOWER_KEY_TCP_SRC_MASK: u16 = 35;
const TCA_FLOWER_KEY_TCP_DST_MASK: u16 = 36;
const TCA_FLOWER_KEY_UDP_DST_MASK: u16 = 38;
const TCA_FLOWER_IN_HW_COUNT: u16 = 86;

const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// What the program answers is what is done.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_SKBEDIT_TM: u16 = 1;
const TCA_SKBEDIT_PARMS: u16 = 2;
const TCA_SKBEDIT_PRIORITY: u16 = 3;
const TCA_SKBEDIT_PAD: u16 = 6;

const FLOWER: &str = "flower";
const BPF: &str = "bpf";
/// What our program on a way in is called, which of a preference it is, and the preference: before all others.
const PROGRAM: &str = "twinrack";
const PROGRAM_HANDLE: u32 = 1;
const PROGRAM_PREFERENCE: u32 = 1;
const CLASSIFIER_KIND: &str = "clsact";
const IPV4: u16 = 0x0800;
/// `ETH_P_ALL`.
const ALL: u16 = 0x0003;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// `struct tcmsg`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Header {
    index: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

const HEADER_BYTES: usize = 20;

impl Header {
    fn bytes(self) -> Vec<u8> {
        let numbers = [0, self.index, self.handle, self.parent, self.info];
        numbers.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    /// The header and what comes after it.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let number = |at: usize| u32_of(header.get(at..at + 4)?);
        Some((Self { index: number(4)?, handle: number(8)?, parent: number(12)?, info: number(16)? }, rest))
    }

    fn with(self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) -> Raw {
        let mut bytes = self.bytes();
        fill(&mut bytes);
        Raw { kind, bytes }
    }
}

/// The kernel's number of the link that a message is about.
pub(super) fn index(raw: &Raw) -> Option<u32> {
    Header::read(&raw.bytes).map(|(header, _)| header.index)
}

/// Asks for the queues of all links.
pub(super) fn list_queues() -> Raw {
    Header::default().with(GET_QUEUE, |_| ())
}

/// Asks for the filters on a link's way out.
pub(super) fn list_filters(index: u32) -> Raw {
    Header { index, parent: WAY_OUT, ..Header::default() }.with(GET_FILTER, |_| ())
}

/// Makes a root queue; `None`: it can't be made from what is known.
pub(super) fn set_queue(index: u32, queue: &Queue) -> Option<Raw> {
    let header = Header { index, parent: ROOT, ..Header::default() };
    match queue {
        Queue::Default => Some(header.with(DELETE_QUEUE, |_| ())),
        Queue::Ets(ets) => Some(header.with(NEW_QUEUE, |bytes| {
            put_text(bytes, TCA_KIND, "ets");
            put_nest(bytes, TCA_OPTIONS, |options| put_ets(options, ets));
        })),
        Queue::Other { kind, options, .. } if queue.can_be_made() => Some(header.with(NEW_QUEUE, |bytes| {
            put_text(bytes, TCA_KIND, kind);
            if !options.is_empty() {
                put(bytes, TCA_OPTIONS, options);
            }
        })),
        Queue::Other { .. } => None,
    }
}

fn put_ets(options: &mut Vec<u8>, ets: &Ets) {
    let bands = usize::from(ets.strict) + ets.quanta_bytes.len();
    put(options, TCA_ETS_NBANDS, &[u8::try_from(bands).unwrap_or(u8::MAX)]);
    if ets.strict > 0 {
        put(options, TCA_ETS_NSTRICT, &[ets.strict]);
    }
    if !ets.quanta_bytes.is_empty() {
        put_nest(options, TCA_ETS_QUANTA, |quanta| {
            for quantum in &ets.quanta_bytes {
                put(quanta, TCA_ETS_QUANTA_BAND, &quantum.to_ne_bytes());
            }
        });
    }
    put_nest(options, TCA_ETS_PRIOMAP, |map| {
        for band in ets.bands {
            put(map, TCA_ETS_PRIOMAP_BAND, &[band]);
        }
    });
}

/// Makes the place for filters.
pub(super) fn add_classifier(index: u32) -> Raw {
    classifier(index, NEW_QUEUE)
}

/// Takes it away.
pub(super) fn remove_classifier(index: u32) -> Raw {
    classifier(index, DELETE_QUEUE)
}

fn classifier(index: u32, kind: u16) -> Raw {
    let header = Header { index, handle: CLASSIFIER_HANDLE, parent: CLASSIFIER, ..Header::default() };
    header.with(kind, |bytes| put_text(bytes, TCA_KIND, CLASSIFIER_KIND))
}

/// Adds a filter; `None`: it can't be made from what is known.
pub(super) fn add_filter(index: u32, preference: u16, filter: &Filter) -> Option<Raw> {
    let Filter::Mark(rule) = filter else { return None };
    let protocol = if rule.of == Packets::All { ALL } else { IPV4 };
    let info = u32::from(preference) << 16 | u32::from(protocol.to_be());
    let header = Header { index, parent: WAY_OUT, info, ..Header::default() };
    Some(header.with(NEW_FILTER, |bytes| {
        put_text(bytes, TCA_KIND, FLOWER);
        put_nest(bytes, TCA_OPTIONS, |options| {
            if let Some(key) = key(rule.of) {
                put(options, TCA_FLOWER_KEY_IP_PROTO, &[key.protocol]);
                put(options, key.port.0, &key.port.1.to_be_bytes());
                put(options, TCA_FLOWER_KEY_ETH_TYPE, &IPV4.to_be_bytes());
            }
            put_nest(options, TCA_FLOWER_ACT, |actions| put_nest(actions, 1, |one| put_action(one, *rule)));
        });
    }))
}

/// `skbedit priority … pass`.
fn put_action(action: &mut Vec<u8>, rule: MarkRule) {
    put_text(action, TCA_ACT_KIND, "skbedit");
    put_nest(action, TCA_ACT_OPTIONS, |options| {
        // struct tc_skbedit: index, capabilities, what happens then (TC_ACT_OK), two counts.
        put(options, TCA_SKBEDIT_PARMS, &[0; 20]);
        put(options, TCA_SKBEDIT_PRIORITY, &u32::from(rule.priority.get()).to_ne_bytes());
    });
}

/// Takes all filters of a preference away.
pub(super) fn remove_filter(index: u32, preference: u16) -> Raw {
    let info = u32::from(preference) << 16;
    Header { index, parent: WAY_OUT, info, ..Header::default() }.with(DELETE_FILTER, |_| ())
}

/// Asks for the filters on a link's way in.
pub(super) fn list_programs(index: u32) -> Raw {
    Header { index, parent: WAY_IN, ..Header::default() }.with(GET_FILTER, |_| ())
}

/// Puts a program, by its descriptor, on a link's way in, in the place of the one that is there.
pub(super) fn put_program(index: u32, descriptor: u32) -> Raw {
    let info = PROGRAM_PREFERENCE << 16 | u32::from(ALL.to_be());
    let header = Header { index, handle: PROGRAM_HANDLE, parent: WAY_IN, info };
    header.with(NEW_FILTER, |bytes| {
        put_text(bytes, TCA_KIND, BPF);
        put_nest(bytes, TCA_OPTIONS, |options| {
            put(options, TCA_BPF_FD, &descriptor.to_ne_bytes());
            put_text(options, TCA_BPF_NAME, PROGRAM);
            put(options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
        });
    })
}

/// The kernel's number of our program among filters that were listed, if it is there.
pub(super) fn program(listed: &[Raw]) -> Option<u32> {
    listed.iter().find_map(|raw| {
        let (header, rest) = Header::read(&raw.bytes)?;
        let ours = header.handle == PROGRAM_HANDLE && header.info >> 16 == PROGRAM_PREFERENCE;
        let kind = find(rest, TCA_KIND).and_then(text_of)?;
        (ours && kind == BPF).then(|| u32_of(find(find(rest, TCA_OPTIONS)?, TCA_BPF_ID)?)).flatten()
    })
}

/// What a rule looks for.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    protocol: u8,
    /// The attribute of the port, and the port.
    port: (u16, u16),
}

fn key(of: Packets) -> Option<Key> {
    let (protocol, port) = match of {
        Packets::TcpTo(port) => (TCP, (TCA_FLOWER_KEY_TCP_DST, port)),
        Packets::TcpFrom(port) => (TCP, (TCA_FLOWER_KEY_TCP_SRC, port)),
        Packets::UdpTo(port) => (UDP, (TCA_FLOWER_KEY_UDP_DST, port)),
        Packets::All => return None,
    };
    Some(Key { protocol, port })
}

/// Puts the queues into the links, and says which links have a place for filters.
pub(super) fn place_queues(
    current: &mut CurrentLinks,
    names: &BTreeMap<u32, LinkName>,
    listed: &[Raw],
) -> BTreeSet<LinkName> {
    let mut classified = BTreeSet::new();
    let mut below = BTreeSet::new();
    for raw in listed {
        let Some((header, rest)) = Header::read(&raw.bytes) else { continue };
        let kind = find(rest, TCA_KIND).and_then(text_of).unwrap_or_default();
        let Some(name) = names.get(&header.index) else { continue };
        let Some(link) = current.links.get_mut(name) else { continue };
        match header.parent {
            ROOT => link.traffic.queue = queue(header, kind, find(rest, TCA_OPTIONS).unwrap_or_default()),
            CLASSIFIER if kind == CLASSIFIER_KIND => _ = classified.insert(name.clone()),
            CLASSIFIER => {}
            // What the kernel put there has no handle.
            _ if header.handle != 0 => _ = below.insert(name.clone()),
            _ => {}
        }
    }
    for name in &below {
        if let Some(link) = current.links.get_mut(name) {
            let kind = match &link.traffic.queue {
                Queue::Default => "mq".to_owned(),
                Queue::Ets(_) => "ets".to_owned(),
                Queue::Other { kind, .. } => kind.clone(),
            };
            link.traffic.queue = Queue::Other { kind, options: Vec::new(), whole: false };
        }
    }
    classified
}

fn queue(header: Header, kind: &str, options: &[u8]) -> Queue {
    // What the kernel made by itself has no handle.
    if header.handle == 0 {
        return Queue::Default;
    }
    let other = || Queue::Other { kind: kind.to_owned(), options: options.to_vec(), whole: true };
    if kind == "ets" { ets(options).map_or_else(other, Queue::Ets) } else { other() }
}

fn ets(options: &[u8]) -> Option<Ets> {
    let number = |kind| find(options, kind).and_then(|value| value.first().copied());
    let inside = |kind| find(options, kind).unwrap_or_default();
    let quanta = read(inside(TCA_ETS_QUANTA)).map(|(_, value)| u32_of(value));
    let bands: Vec<u8> =
        read(inside(TCA_ETS_PRIOMAP)).filter_map(|(_, value)| value.first().copied()).collect();
    let ets = Ets {
        strict: number(TCA_ETS_NSTRICT).unwrap_or(0),
        quanta_bytes: quanta.collect::<Option<_>>()?,
        bands: <[u8; QUEUE_PRIORITIES]>::try_from(bands).ok()?,
    };
    let count = usize::from(ets.strict) + ets.quanta_bytes.len();
    (usize::from(number(TCA_ETS_NBANDS)?) == count).then_some(ets)
}

/// The filters on the way out that were listed.
pub(super) fn marks(listed: &[Raw]) -> Marks {
    let mut filters = BTreeMap::new();
    for raw in listed {
        let Some((header, rest)) = Header::read(&raw.bytes) else { continue };
        // The first message of each preference is about no filter; chains besides the first are reached from it only.
        let chain = find(rest, TCA_CHAIN).and_then(u32_of).unwrap_or(0);
        if header.handle == 0 || chain != 0 {
            continue;
        }
        let kind = find(rest, TCA_KIND).and_then(text_of).unwrap_or_default();
        let rule = (kind == FLOWER).then(|| rule(header, find(rest, TCA_OPTIONS)?)).flatten();
        let filter = rule.map_or_else(|| Filter::Other(kind.to_owned()), Filter::Mark);
        let preference = u16::try_from(header.info >> 16).unwrap_or(u16::MAX);
        // Several of one preference are none of ours.
        filters
            .entry(preference)
            .and_modify(|first| *first = Filter::Other(kind.to_owned()))
            .or_insert(filter);
    }
    Marks::Filters(filters)
}

fn rule(header: Header, options: &[u8]) -> Option<MarkRule> {
    let port = |value: &[u8]| Some(u16::from_be_bytes(value.try_into().ok()?));
    let (mut protocol, mut packets, mut priority) = (None, Packets::All, None);
    for (kind, value) in read(options) {
        match kind {
            TCA_FLOWER_KEY_IP_PROTO => protocol = value.first().copied(),
            TCA_FLOWER_KEY_TCP_DST if packets == Packets::All => packets = Packets::TcpTo(port(value)?),
            TCA_FLOWER_KEY_TCP_SRC if packets == Packets::All => packets = Packets::TcpFrom(port(value)?),
            TCA_FLOWER_KEY_UDP_DST if packets == Packets::All => packets = Packets::UdpTo(port(value)?),
            TCA_FLOWER_KEY_TCP_DST_MASK | TCA_FLOWER_KEY_TCP_SRC_MASK | TCA_FLOWER_KEY_UDP_DST_MASK
                if port(value) == Some(u16::MAX) => {}
            TCA_FLOWER_KEY_ETH_TYPE if port(value) == Some(IPV4) => {}
            TCA_FLOWER_FLAGS | TCA_FLOWER_IN_HW_COUNT => {}
            TCA_FLOWER_ACT => priority = Some(action(value)?),
            _ => return None,
        }
    }
    let expected = if packets == Packets::All { ALL } else { IPV4 };
    let of_protocol = header.info & 0xffff == u32::from(expected.to_be());
    let complete = of_protocol && key(packets).map(|key| key.protocol) == protocol;
    complete.then_some(MarkRule { of: packets, priority: priority? })
}

/// The priority that the one action gives.
fn action(actions: &[u8]) -> Option<Priority> {
    let mut actions = read(actions);
    let (_, only) = actions.next()?;
    let options = find(only, TCA_ACT_OPTIONS)?;
    let known = [TCA_SKBEDIT_TM, TCA_SKBEDIT_PARMS, TCA_SKBEDIT_PRIORITY, TCA_SKBEDIT_PAD];
    let plain = actions.next().is_none()
        && find(only, TCA_ACT_KIND).and_then(text_of) == Some("skbedit")
        && read(options).all(|(kind, _)| known.contains(&kind));
    // What happens then, in struct tc_skbedit: the packet goes on.
    let then = find(options, TCA_SKBEDIT_PARMS).and_then(|value| u32_of(value.get(8..12)?));
    let priority = find(options, TCA_SKBEDIT_PRIORITY).and_then(u32_of)?;
    (plain && then == Some(0)).then(|| Priority::try_from(u64::from(priority)).ok()).flatten()
}

#[cfg(test)]
#[path = "tc_tests.rs"]
mod tests;
