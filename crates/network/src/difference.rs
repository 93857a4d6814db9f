//! What is not as planned, in words: link by link and attribute by attribute, what is wanted and what was found.
//!
//! Purpose: [`differences`] is what a report says of a drift. An [`Op`](crate::Op) says what mends it, which is often more than
//! what is wrong: a VLAN link that was deleted is made, raised, given its MTU and its address.
//!
//! Invariants: there are differences exactly when [`steps`] has something to do, or can't do it: nothing is invented that no
//! repair would touch, and nothing is mended without a word (an operation for which [`compare`] has no words is told as it
//! is, as [`Attribute::Other`]).
//!
//! On failure: [`ResolveError`]: a NIC that the plan names is not there. Then nothing is compared, and nothing can be mended:
//! a NIC's fault is no drift.

use crate::diff::{can_become, same_ets, same_pfc, steps, word};
use crate::link::{AdapterMap, BondMode, CurrentLink, CurrentLinks, DesiredLink, DesiredLinks};
use crate::link::{LinkKind, LinkName, Reselect, VlanEntry, is_made_by_us};
use crate::plan::{NetworkPlan, ResolveError};
use crate::traffic::{Traffic, WantedTraffic};
use model::VlanId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What of a link differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// Whether it is there.
    Presence,
    /// What it is, as far as that can't be changed: its kind, a bond's mode, a VLAN link's VLAN and parent.
    Kind,
    /// Its MTU, bytes.
    Mtu,
    /// Whether it is administratively up.
    Up,
    /// The bond or bridge that it is a port of.
    Master,
    /// Its IPv4 addresses.
    Addresses,
    /// Its VLANs on the bridge.
    BridgeVlans,
    /// Whether the kernel may give it an IPv6 link-local address.
    Ipv6LinkLocal,
    /// How often a bond looks at its ports' carriers.
    Miimon,
    /// A bond's primary port.
    Primary,
    /// When a bond goes back to its primary port.
    Reselect,
    /// Whether a bridge keeps frames to the VLANs of ports.
    VlanFiltering,
    /// The VLAN that a bridge gives new ports.
    DefaultVlan,
    /// A VLAN link's map of priorities.
    EgressPriorities,
    /// Its root queue.
    Queue,
    /// Its filters on the way out.
    Filters,
    /// The shares of a NIC's own traffic classes.
    DcbEts,
    /// The priorities that a NIC may be told to pause.
    DcbPfc,
    /// Something else: what mends it is said in its place.
    Other,
}

/// One attribute of one link that is not as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// Which link.
    pub link: LinkName,
    /// Which attribute.
    pub attribute: Attribute,
    /// What the plan says, in words.
    pub expected: String,
    /// What the kernel has, in words.
    pub found: String,
}

impl fmt::Display for Difference {
    /// `MTU of tw-st711 is 1400, not 9000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, attribute, expected, found } = self;
        let what = match attribute {
            Attribute::Presence if found == NOTHING => return write!(f, "{link}, {expected}, is gone"),
            Attribute::Presence => return write!(f, "{link}, {found}, is there, and no plan has it"),
            Attribute::Kind | Attribute::Up => return write!(f, "{link} is {found}, not {expected}"),
            Attribute::Other => return write!(f, "{link} is not as planned: to mend it, {expected}"),
            Attribute::Mtu => "MTU of",
            Attribute::Master => "master of",
            Attribute::Addresses => "address of",
            Attribute::BridgeVlans => "VLAN list of",
            Attribute::Ipv6LinkLocal => "IPv6 link-local address of",
            Attribute::Miimon => "carrier check of",
            Attribute::Primary => "primary port of",
            Attribute::Reselect => "return to the primary port of",
            Attribute::VlanFiltering => "VLAN filtering of",
            Attribute::DefaultVlan => "default VLAN of",
            Attribute::EgressPriorities => "map of priorities of",
            Attribute::Queue => "queue of",
            Attribute::Filters => "filter list of",
            Attribute::DcbEts => "ETS of",
            Attribute::DcbPfc => "PFC of",
        };
        write!(f, "{what} {link} is {found}, not {expected}")
    }
}

/// How a link that isn't there, and an empty list, are written.
const NOTHING: &str = "nothing";

/// What differs from a plan on a node with these adapters.
pub fn differences(
    current: &CurrentLinks,
    plan: &NetworkPlan,
    adapters: &AdapterMap,
) -> Result<Vec<Difference>, ResolveError> {
    let desired = plan.resolve(adapters, current)?;
    let steps = steps(current, &desired, current);
    if steps.as_ref().is_ok_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let found = compare(current, &desired);
    if !found.is_empty() {
        return Ok(found);
    }
    let untold = |expected: String, link: &LinkName| Difference {
        link: link.clone(),
        attribute: Attribute::Other,
        expected,
        found: NOTHING.to_owned(),
    };
    Ok(steps.iter().flatten().map(|op| untold(op.to_string(), op.name())).collect())
}

/// What differs from desired links, in the order of their names.
pub fn compare(current: &CurrentLinks, desired: &DesiredLinks) -> Vec<Difference> {
    let mut list = List { link: None, found: Vec::new() };
    for (name, wanted) in &desired.links {
        list.link = Some(name);
        match current.get(name) {
            None => list.note(Attribute::Presence, &describe(&wanted.kind), NOTHING),
            Some(link) => list.link(link, wanted),
        }
    }
    for (name, link) in &current.links {
        if desired.links.contains_key(name) {
            continue;
        }
        list.link = Some(name);
        let of_ours = |master: &&LinkName| {
            desired.links.get(master).is_some_and(|master| matches!(master.kind, LinkKind::Bond { .. }))
        };
        if is_made_by_us(name, &link.kind) {
            list.note(Attribute::Presence, NOTHING, &describe(&link.kind));
        } else if let Some(master) = link.master.as_ref().filter(of_ours) {
            list.note(Attribute::Master, NOTHING, master.as_str());
        }
    }
    list.found
}

struct List<'a> {
    link: Option<&'a LinkName>,
    found: Vec<Difference>,
}

impl List<'_> {
    fn note(&mut self, attribute: Attribute, expected: &str, found: &str) {
        let Some(link) = self.link else { return };
        let (expected, found) = (expected.to_owned(), found.to_owned());
        self.found.push(Difference { link: link.clone(), attribute, expected, found });
    }

    fn check<T: PartialEq>(
        &mut self,
        attribute: Attribute,
        expected: &T,
        found: &T,
        words: impl Fn(&T) -> String,
    ) {
        if expected != found {
            self.note(attribute, &words(expected), &words(found));
        }
    }

    fn link(&mut self, link: &CurrentLink, wanted: &DesiredLink) {
        if can_become(&link.kind, &wanted.kind) {
            self.kind(&link.kind, &wanted.kind);
        } else {
            self.note(Attribute::Kind, &describe(&wanted.kind), &describe(&link.kind));
        }
        let up = |up: &bool| if *up { "up" } else { "down" }.to_owned();
        self.check(Attribute::Mtu, &wanted.mtu_bytes, &link.mtu_bytes, ToString::to_string);
        self.check(Attribute::Up, &wanted.up, &link.up, up);
        self.check(Attribute::Master, &wanted.master, &link.master, |master| optional(master.as_ref()));
        self.check(Attribute::Addresses, &wanted.addresses, &link.addresses, |addresses| listed(addresses));
        self.check(Attribute::BridgeVlans, &wanted.bridge_vlans, &link.bridge_vlans, entries);
        if let (Some(wanted), Some(found)) = (wanted.ipv6_link_local, link.ipv6_link_local) {
            let word = |allowed: &bool| if *allowed { "allowed" } else { "forbidden" }.to_owned();
            self.check(Attribute::Ipv6LinkLocal, &wanted, &found, word);
        }
        self.traffic(&link.traffic, &wanted.traffic);
    }

    fn traffic(&mut self, found: &Traffic, wanted: &WantedTraffic) {
        if let Some(queue) = &wanted.queue {
            self.check(Attribute::Queue, queue, &found.queue, ToString::to_string);
        }
        if let Some(marks) = &wanted.marks {
            self.check(Attribute::Filters, marks, &found.marks, ToString::to_string);
        }
        let Some(dcb) = &found.dcb else { return };
        if let (Some(wanted), Some(found)) = (&wanted.dcb_ets, &dcb.ets)
            && !same_ets(found, wanted)
        {
            self.check(Attribute::DcbEts, wanted, found, ToString::to_string);
        }
        if let (Some(wanted), Some(found)) = (wanted.dcb_pfc, dcb.pfc)
            && !same_pfc(found, wanted)
        {
            self.check(Attribute::DcbPfc, &wanted, &found, ToString::to_string);
        }
    }

    /// What only this kind has.
    fn kind(&mut self, link: &LinkKind, wanted: &LinkKind) {
        match (wanted, link) {
            (
                LinkKind::Bond { miimon_ms, primary, reselect, .. },
                LinkKind::Bond { miimon_ms: m, primary: p, reselect: r, .. },
            ) => {
                self.check(Attribute::Miimon, miimon_ms, m, |ms| format!("every {ms} ms"));
                self.check(Attribute::Primary, primary, p, |port| optional(port.as_ref()));
                self.check(Attribute::Reselect, reselect, r, |reselect| returns(*reselect).to_owned());
            }
            (
                LinkKind::Bridge { vlan_filtering, default_pvid },
                LinkKind::Bridge { vlan_filtering: f, default_pvid: d },
            ) => {
                let on = |on: &bool| if *on { "on" } else { "off" }.to_owned();
                self.check(Attribute::VlanFiltering, vlan_filtering, f, on);
                self.check(Attribute::DefaultVlan, default_pvid, d, |vlan| optional(vlan.as_ref()));
            }
            (LinkKind::Vlan { egress_qos, .. }, LinkKind::Vlan { egress_qos: e, .. }) => {
                let mapped = |map: &BTreeMap<u32, _>| {
                    let pairs: Vec<String> = map.iter().map(|(from, to)| format!("{from} to {to}")).collect();
                    listed(&pairs)
                };
                self.check(Attribute::EgressPriorities, egress_qos, e, mapped);
            }
            _ => {}
        }
    }
}

fn optional<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), ToString::to_string)
}

fn listed<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if words.is_empty() { NOTHING.to_owned() } else { words.join(", ") }
}

fn entries(vlans: &BTreeMap<VlanId, VlanEntry>) -> String {
    listed(vlans.iter().map(|(vlan, entry)| {
        let flags = [(entry.pvid, " native"), (entry.untagged, " untagged")];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
        format!("{vlan}{flags}")
    }))
}

fn returns(reselect: Reselect) -> &'static str {
    match reselect {
        Reselect::Always => "always",
        Reselect::Better => "when it is faster",
        Reselect::Failure => "when the other fails",
    }
}

fn describe(kind: &LinkKind) -> String {
    match kind {
        LinkKind::Bond { mode: BondMode::ActiveBackup, .. } => "a bond, active-backup".to_owned(),
        LinkKind::Bond { mode: BondMode::Other(mode), .. } => format!("a bond of mode {mode}"),
        LinkKind::Vlan { parent, vlan, .. } => format!("VLAN {vlan} of {parent}"),
        kind => format!("a {}", word(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Generation, plan};
    use crate::simulate;
    use crate::testing::{adapters, bare_nics, link_name, spec};
    use crate::{Op, diff};

    fn planned() -> NetworkPlan {
        plan(&spec(1), &"n1".parse().unwrap(), Generation(1)).unwrap()
    }

    fn settled() -> CurrentLinks {
        let mut state = bare_nics();
        for op in diff(&state, &planned(), &adapters()).unwrap() {
            simulate::apply(&mut state, &op).unwrap();
        }
        state
    }

    fn words(state: &CurrentLinks) -> Vec<String> {
        differences(state, &planned(), &adapters()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_that_is_gone_is_all_that_is_said_of_it() {
        let mut state = settled();
        assert_eq!(words(&state), Vec::<String>::new());
        let name = link_name("tw-st711");
        simulate::apply(&mut state, &Op::Delete { name }).unwrap();
        assert_eq!(words(&state), ["tw-st711, VLAN 711 of eth2, is gone"]);
    }

    #[test]
    fn what_has_our_name_and_is_no_ones_plan_or_something_else_is_named() {
        let mut state = settled();
        let mut stranger = state.links[&link_name("tw-st711")].clone();
        stranger.kind = LinkKind::Other("dummy".to_owned());
        state.links.insert(link_name("tw-st711"), stranger);
        assert_eq!(words(&state), ["tw-st711 is a dummy, not VLAN 711 of eth2"]);
        let mut state = settled();
        state.links.insert(link_name("tw-st9"), state.links[&link_name("tw-st711")].clone());
        assert_eq!(words(&state), ["tw-st9, VLAN 711 of eth2, is there, and no plan has it"]);
    }

    #[test]
    fn a_nic_that_is_not_there_is_an_error_and_no_difference() {
        let mut state = settled();
        for name in ["eth2", "tw-st711"] {
            state.links.remove(&link_name(name));
        }
        let error = differences(&state, &planned(), &adapters()).unwrap_err();
        assert!(matches!(error, ResolveError::NoNic { .. }), "{error}");
        // And no way leads anywhere: nothing is taken apart for its sake.
        assert!(diff(&state, &planned(), &adapters()).is_err());
    }
}
