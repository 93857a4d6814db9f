//! Requests against what tc(8) of iproute2 6.1 sends for the same, taken with strace(1); answers as the kernel writes them.

use super::*;
use crate::traffic::{Shares, mark_rules};
use model::Qos;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Attributes may come in another order than in tc's.
fn sorted(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found: Vec<_> = read(bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
    found.sort();
    found
}

#[test]
fn ets_is_asked_for_as_tc_does() {
    let raw = set_queue(1, &Queue::Ets(Shares::of(Qos::default(), None).ets())).unwrap();
    let mut sent = hex(
        "00 00 00 00 01 00 00 00 00 00 00 00 ff ff ff ff 00 00 00 00 08 00 01 00 65 74 73 00 ac 00 02 80 \
         05 00 01 00 03 00 00 00 1c 00 03 80 08 00 04 00 e0 1b 01 00 08 00 04 00 b4 27 01 00 08 00 04 00 \
         d4 0b 00 00 84 00 05 80",
    );
    for band in [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0] {
        sent.extend([5, 0, 6, 0, band, 0, 0, 0]);
    }
    assert_eq!((raw.kind, raw.bytes), (NEW_QUEUE, sent));
}

#[test]
fn places_for_filters_and_removals_are_asked_for_as_tc_does() {
    let classifier = hex(
        "00 00 00 00 01 00 00 00 00 00 ff ff f1 ff ff ff 00 00 00 00 0b 00 01 00 63 6c 73 61 63 74 00 00",
    );
    assert_eq!(add_classifier(1), Raw { kind: NEW_QUEUE, bytes: classifier.clone() });
    assert_eq!(remove_classifier(1), Raw { kind: DELETE_QUEUE, bytes: classifier });
    let root = hex("00 00 00 00 01 00 00 00 00 00 00 00 ff ff ff ff 00 00 00 00");
    assert_eq!(set_queue(1, &Queue::Default), Some(Raw { kind: DELETE_QUEUE, bytes: root }));
    let third = hex("00 00 00 00 01 00 00 00 00 00 00 00 f3 ff ff ff 00 00 03 00");
    assert_eq!(remove_filter(1, 3), Raw { kind: DELETE_FILTER, bytes: third });
}

/// What tc sends for `pref 1 protocol ip flower ip_proto tcp dst_port 4420 action skbedit priority :3 pass`, and for
/// `pref 4 protocol all flower action skbedit priority :0 pass`.
#[test]
fn filters_are_asked_for_as_tc_does() {
    let storage = "00 00 00 00 01 00 00 00 00 00 00 00 f3 ff ff ff 08 00 01 00 0b 00 01 00 66 6c 6f 77 65 72 00 00 \
        5c 00 02 00 05 00 09 00 06 00 00 00 06 00 13 00 11 44 00 00 38 00 03 00 34 00 01 00 0c 00 01 00 \
        73 6b 62 65 64 69 74 00 24 00 02 80 18 00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
        00 00 00 00 08 00 03 00 03 00 00 00 08 00 16 00 00 00 00 00 06 00 08 00 08 00 00 00";
    let rest = "00 00 00 00 01 00 00 00 00 00 00 00 f3 ff ff ff 00 03 04 00 0b 00 01 00 66 6c 6f 77 65 72 00 00 \
        44 00 02 00 38 00 03 00 34 00 01 00 0c 00 01 00 73 6b 62 65 64 69 74 00 24 00 02 80 18 00 02 00 \
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 08 00 03 00 00 00 00 00 08 00 16 00 \
        00 00 00 00";
    let rules = mark_rules(Qos::default());
    for (at, rule, sent) in [(1, rules[0], storage), (4, rules[3], rest)] {
        let raw = add_filter(1, at, &Filter::Mark(rule)).unwrap();
        let sent = hex(sent);
        assert_eq!(raw.kind, NEW_FILTER);
        assert_eq!(raw.bytes[..HEADER_BYTES], sent[..HEADER_BYTES]);
        let options = |bytes: &[u8]| sorted(find(&bytes[HEADER_BYTES..], TCA_OPTIONS).unwrap());
        // tc says that it has no flags; and whether something is nested, the kernel does not ask.
        let mut theirs = options(&sent);
        theirs.retain(|(kind, _)| *kind != TCA_FLOWER_FLAGS);
        let actions = |options: &[(u16, Vec<u8>)]| {
            let value = &options.iter().find(|(kind, _)| *kind == TCA_FLOWER_ACT).unwrap().1;
            let one = find(value, 1).unwrap().to_vec();
            (find(&one, TCA_ACT_KIND).unwrap().to_vec(), sorted(find(&one, TCA_ACT_OPTIONS).unwrap()))
        };
        let mine = options(&raw.bytes);
        assert_eq!(actions(&mine), actions(&theirs));
        let keys = |options: &[(u16, Vec<u8>)]| {
            options.iter().filter(|(kind, _)| *kind != TCA_FLOWER_ACT).cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&mine), keys(&theirs));
    }
}

/// A kernel's answer: our own request with the number that it gave, or changed.
fn listed(index: u32, at: u16, rule: MarkRule, change: impl FnOnce(&mut Vec<u8>)) -> Raw {
    let mut raw = add_filter(index, at, &Filter::Mark(rule)).unwrap();
    raw.bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
    change(&mut raw.bytes);
    raw
}

#[test]
fn filters_are_read_back() {
    let rules = mark_rules(Qos::default());
    let mut answers: Vec<Raw> = (1..).zip(&rules).map(|(at, rule)| listed(3, at, *rule, |_| ())).collect();
    // The first message of a preference has no number and no options.
    answers.insert(
        0,
        Header { index: 3, ..Header::default() }.with(NEW_FILTER, |bytes| put_text(bytes, TCA_KIND, FLOWER)),
    );
    assert_eq!(marks(&answers), Marks::of(&rules));
}

#[test]
fn a_filter_with_anything_besides_is_another_one() {
    let rule = mark_rules(Qos::default())[0];
    let with_key = |kind: u16, value: &[u8]| {
        let header = Header { index: 3, handle: 1, parent: WAY_OUT, info: 1 << 16 | u32::from(IPV4.to_be()) };
        header.with(NEW_FILTER, |bytes| {
            put_text(bytes, TCA_KIND, FLOWER);
            put_nest(bytes, TCA_OPTIONS, |options| {
                put(options, TCA_FLOWER_KEY_IP_PROTO, &[TCP]);
                put(options, TCA_FLOWER_KEY_TCP_DST, &4420u16.to_be_bytes());
                put(options, kind, value);
                put_nest(options, TCA_FLOWER_ACT, |actions| {
                    put_nest(actions, 1, |one| put_action(one, rule));
                });
            });
        })
    };
    let other = Filter::Other(FLOWER.to_owned());
    let one = |raw: Raw| {
        let Marks::Filters(mut filters) = marks(&[raw]) else { panic!("a place for filters") };
        filters.remove(&1).unwrap()
    };
    assert_eq!(one(with_key(TCA_FLOWER_KEY_TCP_DST_MASK, &[0xff, 0xff])), Filter::Mark(rule));
    assert_eq!(one(with_key(TCA_FLOWER_KEY_TCP_DST_MASK, &[0xff, 0])), other, "some of the ports");
    // TCA_FLOWER_KEY_IPV4_DST.
    assert_eq!(one(with_key(12, &[10, 0, 0, 1])), other, "one address");
    assert_eq!(one(with_key(TCA_FLOWER_KEY_TCP_SRC, &[0, 9])), other, "two ports");
    let twice = [listed(3, 1, rule, |_| ()), listed(3, 1, rule, |_| ())];
    assert_eq!(marks(&twice), Marks::Filters(BTreeMap::from([(1, other.clone())])));
    let elsewhere = listed(3, 1, rule, |bytes| put(bytes, TCA_CHAIN, &7u32.to_ne_bytes()));
    assert_eq!(marks(&[elsewhere]), Marks::Filters(BTreeMap::new()), "nothing leads to another chain");
    let unknown = listed(3, 1, rule, |bytes| {
        *bytes = [&bytes[..HEADER_BYTES], &[8, 0, 1, 0, b'b', b'p', b'f', 0]].concat();
    });
    assert_eq!(one(unknown), Filter::Other("bpf".to_owned()));
}

fn links() -> (CurrentLinks, BTreeMap<u32, LinkName>) {
    let mut current = crate::testing::bare_nics();
    let names = current.links.iter_mut().map(|(name, link)| (link.index, name.clone())).collect();
    (current, names)
}

#[test]
fn queues_are_read_back_and_the_kernels_own_is_told_from_others() {
    let (mut current, names) = links();
    let ets = Queue::Ets(Shares::of(Qos::default(), Some(25_000)).ets());
    let root = |index: u32, handle: u32, kind: &str, options: &[u8]| {
        Header { index, handle, parent: ROOT, info: 2 }.with(NEW_QUEUE, |bytes| {
            put_text(bytes, TCA_KIND, kind);
            put(bytes, TCA_OPTIONS, options);
        })
    };
    let mut made = set_queue(4, &ets).unwrap();
    made.bytes[8..12].copy_from_slice(&0x8001_0000u32.to_ne_bytes());
    let child = |index, handle| {
        Header { index, handle, parent: 0x8002_0001, info: 1 }
            .with(NEW_QUEUE, |bytes| put_text(bytes, TCA_KIND, "netem"))
    };
    let answers = [
        root(2, 0, "pfifo_fast", &[]),
        root(3, 0x8003_0000, "fq_codel", &[1, 2, 3, 4]),
        made.clone(),
        child(4, 0),
        add_classifier(4),
        root(5, 0, "mq", &[]),
        child(5, 0x0001_0000),
        Raw { kind: NEW_QUEUE, bytes: vec![1, 2, 3] },
    ];
    let classified = place_queues(&mut current, &names, &answers);
    assert_eq!(classified.into_iter().map(String::from).collect::<Vec<_>>(), ["eth2"]);
    let queue = |name: &str| current.links[&name.parse().unwrap()].traffic.queue.clone();
    let other = |kind: &str, options: &[u8], whole| Queue::Other {
        kind: kind.to_owned(),
        options: options.to_vec(),
        whole,
    };
    assert_eq!(queue("eth0"), Queue::Default);
    assert_eq!(queue("eth1"), other("fq_codel", &[1, 2, 3, 4], true));
    assert_eq!(queue("eth2"), ets);
    assert_eq!(queue("eth3"), other("mq", &[], false));
    let (mut current, names) = links();
    place_queues(&mut current, &names, &[made, child(4, 0x0001_0000)]);
    assert_eq!(current.links[&"eth2".parse().unwrap()].traffic.queue, other("ets", &[], false));
}

#[test]
fn what_is_no_ets_of_ours_is_another_queue() {
    let bands = |count: u8, strict: Option<u8>| {
        let mut options = Vec::new();
        put(&mut options, TCA_ETS_NBANDS, &[count]);
        if let Some(strict) = strict {
            put(&mut options, TCA_ETS_NSTRICT, &[strict]);
        }
        put_nest(&mut options, TCA_ETS_PRIOMAP, |map| {
            for _ in 0..QUEUE_PRIORITIES {
                put(map, TCA_ETS_PRIOMAP_BAND, &[0]);
            }
        });
        ets(&options)
    };
    assert_eq!(bands(3, Some(3)).map(|ets| ets.strict), Some(3));
    assert_eq!(bands(3, Some(2)), None);
    assert_eq!(ets(&[]), None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let raw = Raw { kind: NEW_FILTER, bytes };
        marks(std::slice::from_ref(&raw));
        let (mut current, names) = links();
        place_queues(&mut current, &names, &[raw]);
    }
}

/// `struct tcmsg` with the way in of a `clsact`, and `TCA_BPF_*` as in `uapi/linux/pkt_cls.h`.
#[test]
fn a_program_comes_before_all_other_filters_of_a_way_in_and_is_found_again() {
    let sent = hex("00 00 00 00 07 00 00 00 01 00 00 00 f2 ff ff ff 00 03 01 00 08 00 01 00 62 70 66 00 \
         24 00 02 80 08 00 06 00 05 00 00 00 0d 00 07 00 74 77 69 6e 72 61 63 6b 00 00 00 00 08 00 08 00 01 00 00 00");
    assert_eq!(put_program(7, 5), Raw { kind: NEW_FILTER, bytes: sent });
    let listed = |kind: &str, handle: u32, preference: u32| {
        let header = Header { index: 7, handle, parent: WAY_IN, info: preference << 16 };
        header.with(NEW_FILTER, |bytes| {
            put_text(bytes, TCA_KIND, kind);
            put_nest(bytes, TCA_OPTIONS, |options| put(options, TCA_BPF_ID, &97u32.to_ne_bytes()));
        })
    };
    // The first message of each preference is about no filter.
    let first = listed("bpf", 0, 1);
    assert_eq!(program(&[first.clone(), listed("bpf", 1, 1)]), Some(97));
    assert_eq!(program(&[first, listed("flower", 1, 1), listed("bpf", 1, 2)]), None);
    assert_eq!(program(&[]), None);
}
