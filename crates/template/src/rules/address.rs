//! Rules about addresses and subnets.

use super::{Check, Findings};
use crate::draft::Draft;
use crate::tree::At;
use ipnet::Ipv4Net;
use model::rules::{self, Rule};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Fewest addresses of the infrastructure range (spec.md; Azure Local asks for six consecutive ones).
const RANGE_ADDRESSES_MIN: u32 = 6;

/// More storage networks than these are not compared with each other: two are allowed.
const COMPARED_MAX: usize = 8;

pub(super) const CHECKS: &[(&Rule, Check)] = &[
    (rules::ADDRESS_IN_SUBNET, in_subnet),
    (rules::ADDRESS_OUTSIDE_RANGE, outside_range),
    (rules::ADDRESS_UNIQUE, unique),
    (rules::ADDRESS_GATEWAY_IN_SUBNET, gateway_in_subnet),
    (rules::ADDRESS_RANGE_ORDER, range_order),
    (rules::ADDRESS_RANGE_IN_SUBNET, range_in_subnet),
    (rules::ADDRESS_RANGE_SIZE, range_size),
    (rules::STORAGE_SUBNET_SIZE, storage_subnet_size),
    (rules::STORAGE_NOT_MANAGEMENT, storage_not_management),
    (rules::STORAGE_SUBNETS_DISJOINT, storage_subnets_disjoint),
];

/// The management addresses of nodes and witness, with what has them.
fn machines(draft: &Draft) -> Vec<(String, &At<Ipv4Addr>)> {
    let nodes = draft.nodes.items.iter().map(|node| {
        let name = node.name.value().map_or_else(|| "a node".to_owned(), |name| format!("node `{name}`"));
        (name, &node.management_ip)
    });
    let witness = draft.witness.value().map(|witness| ("the witness".to_owned(), &witness.management_ip));
    nodes.chain(witness).filter_map(|(who, address)| address.good().map(|address| (who, address))).collect()
}

/// The infrastructure range, if it is one.
fn range(draft: &Draft) -> Option<RangeInclusive<Ipv4Addr>> {
    let (start, end) = (draft.management.range_start.value()?, draft.management.range_end.value()?);
    (start <= end).then_some(*start..=*end)
}

/// Why a machine can't have this address in the subnet; `None`: it can.
fn unusable(address: Ipv4Addr, subnet: Ipv4Net) -> Option<&'static str> {
    // Prefixes of 31 and 32 bits have neither (RFC 3021).
    let has_edges = subnet.prefix_len() < 31;
    if !subnet.contains(&address) {
        Some("outside")
    } else if has_edges && address == subnet.network() {
        Some("the network address of")
    } else if has_edges && address == subnet.broadcast() {
        Some("the broadcast address of")
    } else {
        None
    }
}

/// Reports an address that a machine can't have in the management subnet.
fn check_usable(who: &str, address: &At<Ipv4Addr>, draft: &Draft, findings: &mut Findings) {
    let Some(subnet) = draft.management.subnet.good() else { return };
    if let Some(how) = unusable(address.value, subnet.value) {
        let message = format!("{who} has {}, which is {how} {}", address.value, subnet.value);
        findings.at(&address.at, message).related(&subnet.at, "the subnet");
    }
}

fn in_subnet(draft: &Draft, findings: &mut Findings) {
    for (who, address) in machines(draft) {
        check_usable(&who, address, draft, findings);
    }
}

fn outside_range(draft: &Draft, findings: &mut Findings) {
    let Some(range) = range(draft) else { return };
    for (who, address) in machines(draft).iter().filter(|(_, address)| range.contains(&address.value)) {
        let (start, end) = (range.start(), range.end());
        let message = format!("{who} has {}, inside the infrastructure range {start}–{end}", address.value);
        let finding = findings.at(&address.at, message);
        if let Some(start) = draft.management.range_start.good() {
            finding.related(&start.at, "the range starts here");
        }
    }
}

fn unique(draft: &Draft, findings: &mut Findings) {
    let gateway = draft.management.gateway.good();
    let mut seen: HashMap<Ipv4Addr, (String, &At<Ipv4Addr>)> =
        gateway.map(|gateway| (gateway.value, ("the gateway".to_owned(), gateway))).into_iter().collect();
    for (who, address) in machines(draft) {
        if let Some((first_who, first)) = seen.get(&address.value) {
            let message = format!("{who} has {}, and so has {first_who}", address.value);
            findings.at(&address.at, message).related(&first.at, first_who);
        } else {
            seen.insert(address.value, (who, address));
        }
    }
    if let (Some(range), Some(gateway)) = (range(draft), gateway)
        && range.contains(&gateway.value)
    {
        let message = format!("the gateway {} is inside the infrastructure range", gateway.value);
        findings.at(&gateway.at, message);
    }
}

fn gateway_in_subnet(draft: &Draft, findings: &mut Findings) {
    if let Some(gateway) = draft.management.gateway.good() {
        check_usable("the gateway", gateway, draft, findings);
    }
}

fn range_order(draft: &Draft, findings: &mut Findings) {
    let (Some(start), Some(end)) = (draft.management.range_start.good(), draft.management.range_end.good())
    else {
        return;
    };
    if start.value > end.value {
        let message = format!("the range starts at {} and ends at {}", start.value, end.value);
        findings.at(&end.at, message).related(&start.at, "the start");
    }
}

fn range_in_subnet(draft: &Draft, findings: &mut Findings) {
    for (field, who) in [
        (&draft.management.range_start, "the range's start"),
        (&draft.management.range_end, "the range's end"),
    ] {
        if let Some(address) = field.good() {
            check_usable(who, address, draft, findings);
        }
    }
}

fn range_size(draft: &Draft, findings: &mut Findings) {
    let (Some(range), Some(end)) = (range(draft), draft.management.range_end.good()) else { return };
    let beyond_first = u32::from(*range.end()) - u32::from(*range.start());
    if beyond_first < RANGE_ADDRESSES_MIN - 1 {
        let message =
            format!("the range {}–{} has {} addresses", range.start(), range.end(), beyond_first + 1);
        findings.at(&end.at, message);
    }
}

/// A node's storage address is the subnet's base plus its ordinal, so the last node's must still be a host's.
fn storage_subnet_size(draft: &Draft, findings: &mut Findings) {
    let nodes = draft.nodes.items.len();
    for (title, subnet) in storage_subnets(draft) {
        let hosts = subnet.value.hosts().take(nodes).count();
        // The base is no host's address only below 31 bits; a smaller subnet can't hold two racks in any case.
        if subnet.value.prefix_len() >= 31 || hosts < nodes {
            let message = format!("{title} has {}, too small for {nodes} nodes", subnet.value);
            findings.at(&subnet.at, message);
        }
    }
}

fn storage_subnets(draft: &Draft) -> Vec<(String, &At<Ipv4Net>)> {
    let networks = draft.storage_networks.items.iter();
    networks.filter_map(|network| network.subnet.good().map(|subnet| (network.title(), subnet))).collect()
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn storage_not_management(draft: &Draft, findings: &mut Findings) {
    let Some(management) = draft.management.subnet.good() else { return };
    for (title, subnet) in
        storage_subnets(draft).into_iter().filter(|(_, s)| overlap(s.value, management.value))
    {
        let message =
            format!("{title} has {}, which overlaps management's {}", subnet.value, management.value);
        findings.at(&subnet.at, message).related(&management.at, "management");
    }
}

fn storage_subnets_disjoint(draft: &Draft, findings: &mut Findings) {
    let subnets = storage_subnets(draft);
    // That there are too many is another rule's.
    if subnets.len() > COMPARED_MAX {
        return;
    }
    for (place, (title, subnet)) in subnets.iter().enumerate() {
        for (other, first) in subnets[..place].iter().filter(|(_, first)| overlap(first.value, subnet.value))
        {
            let message = format!("{title} has {}, which overlaps {} of {other}", subnet.value, first.value);
            findings.at(&subnet.at, message).related(&first.at, "the other one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_a_subnet_are_no_machines() {
        let subnet: Ipv4Net = "10.0.0.0/24".parse().unwrap();
        for (address, usable) in
            [("10.0.0.0", false), ("10.0.0.1", true), ("10.0.0.255", false), ("10.0.1.1", false)]
        {
            assert_eq!(unusable(address.parse().unwrap(), subnet).is_none(), usable, "{address}");
        }
        assert!(unusable("10.0.0.0".parse().unwrap(), "10.0.0.0/31".parse().unwrap()).is_none());
    }
}
