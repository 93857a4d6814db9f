//! Drift: what somebody does to a node's links behind its agent's back, drawn from the lab's seed.
//!
//! Purpose: [`deal`] draws drifts over all nodes, all links of their plans and all attributes (pure); [`Drift::make`] has one done by
//! hands, as a person at the node would do it.
//!
//! Invariants: a drift is one [`Op`], or two for a change that takes two, carried out at once. What the kernel makes of it is
//! known beforehand from [`network::simulate`]: [`Drift::aims_at`] is what must be told of it, [`Drift::follows`] all that may be. An
//! attribute that plans get must have candidates here: a test compares with [`Attribute`].
//!
//! On failure: [`LabError::Drift`], with what the command said.

mod traffic;

use super::by_hand;
use super::hands::Hands;
use super::{Lab, LabError, LabNode};
use fastrand::Rng;
use hands::LIMIT_DEFAULT;
use ipnet::Ipv4Net;
use model::{NodeName, Priority, VlanId};
use network::difference::compare;
use network::link::{CurrentLink, Reselect};
use network::{Attribute, CurrentLinks, DesiredLinks, LinkKind, LinkName, Op, VlanEntry, simulate};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

/// The smallest MTU that leaves IPv6 alone (RFC 8200, section 5): below, the kernel takes it off the link.
const MTU_MIN: u32 = 1280;

/// A node's links as planned.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The node.
    pub node: NodeName,
    /// Its links now, which are as planned.
    pub links: CurrentLinks,
    /// What its plan wants of them.
    pub desired: DesiredLinks,
}

/// One attribute of one link, to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// On which node.
    pub node: NodeName,
    /// What is done.
    pub ops: Vec<Op>,
    aims_at: Attribute,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ops: Vec<String> = self.ops.iter().map(Op::to_string).collect();
        write!(f, "{}: {}", self.node, ops.join(", "))
    }
}

impl Drift {
    /// The link and attribute that must be told.
    pub fn aims_at(&self) -> Option<(LinkName, Attribute)> {
        Some((self.ops.first()?.name().clone(), self.aims_at))
    }

    #[cfg(test)]
    pub(crate) fn lowering_the_mtu(node: &NodeName, link: &LinkName) -> Self {
        let ops = vec![Op::SetMtu { name: link.clone(), mtu_bytes: 1400 }];
        Self { node: node.clone(), ops, aims_at: Attribute::Mtu }
    }

    /// All that may be told: what the kernel makes of it.
    pub fn follows(&self, settled: &Settled) -> BTreeSet<(LinkName, Attribute)> {
        let mut state = settled.links.clone();
        let mut told = BTreeSet::new();
        for op in &self.ops {
            // What can't be simulated leaves nothing that may be told, so that its step fails. `candidates` has no such op.
            if simulate::apply(&mut state, op).is_err() {
                return BTreeSet::new();
            }
            told.extend(compare(&state, &settled.desired).into_iter().map(|d| (d.link, d.attribute)));
        }
        told
    }

    /// Has it done.
    pub async fn make(&self, hands: &mut Hands) -> Result<(), LabError> {
        let commands: Vec<Vec<String>> = self.ops.iter().map(words).collect();
        let run = match commands.as_slice() {
            [one] => hands.run(&one.iter().map(String::as_str).collect::<Vec<_>>()).await,
            // As fast as one process can: the agent may be quicker than two.
            many => {
                let lines: Vec<String> = many.iter().map(|words| words[1..].join(" ") + "\n").collect();
                let program = many.first().and_then(|words| words.first()).map_or("ip", String::as_str);
                hands.run_with(&[program, "-batch", "-"], &lines.concat(), LIMIT_DEFAULT).await
            }
        };
        done(&self.node, &self.to_string(), run)
    }
}

fn done(
    node: &NodeName,
    what: &str,
    run: Result<super::hands::Output, super::hands::HandsError>,
) -> Result<(), LabError> {
    let node = node.to_string();
    match run {
        Err(source) => Err(LabError::Hands { node, source }),
        Ok(output) if output.status == 0 => Ok(()),
        Ok(output) => Err(LabError::Refused { node, what: what.to_owned(), said: output.stderr }),
    }
}

/// A command as its words.
fn words(op: &Op) -> Vec<String> {
    by_hand::command(op).split(' ').map(ToOwned::to_owned).collect()
}

/// Draws so many drifts: each kind of attribute in turn, in the seed's order, and none twice while there are others.
pub fn deal(rng: &mut Rng, nodes: &[Settled], count: usize) -> Vec<Drift> {
    let mut all: BTreeMap<Attribute, Vec<Drift>> = BTreeMap::new();
    for settled in nodes {
        for (aims_at, ops) in candidates(rng, settled) {
            let drift = Drift { node: settled.node.clone(), ops, aims_at };
            all.entry(aims_at).or_default().push(drift);
        }
    }
    let mut dealt = Vec::new();
    while dealt.len() < count && !all.is_empty() {
        let mut kinds: Vec<Attribute> = all.keys().copied().collect();
        rng.shuffle(&mut kinds);
        kinds.truncate(count - dealt.len());
        for kind in kinds {
            let Some(drifts) = all.get_mut(&kind) else { continue };
            dealt.push(drifts.swap_remove(rng.usize(..drifts.len())));
            if drifts.is_empty() {
                all.remove(&kind);
            }
        }
    }
    dealt
}

/// Everything that can be done to the links of a plan, one attribute at a time, with values from the seed.
fn candidates(rng: &mut Rng, settled: &Settled) -> Vec<(Attribute, Vec<Op>)> {
    let mut found = Vec::new();
    for name in settled.desired.links.keys() {
        let Some(link) = settled.links.get(name) else { continue };
        of_any(rng, name, link, &mut found);
        of_ports(rng, name, link, &settled.links, &mut found);
        of_kind(rng, name, link, &settled.links, &mut found);
        traffic::of_traffic(rng, name, link, &mut found);
    }
    found
}

type Found = Vec<(Attribute, Vec<Op>)>;

/// What every link has.
fn of_any(rng: &mut Rng, name: &LinkName, link: &CurrentLink, found: &mut Found) {
    let named = || name.clone();
    if link.kind != LinkKind::Nic {
        found.push((Attribute::Presence, vec![Op::Delete { name: named() }]));
    }
    if link.mtu_bytes > MTU_MIN {
        let mtu_bytes = rng.u32(MTU_MIN..link.mtu_bytes);
        found.push((Attribute::Mtu, vec![Op::SetMtu { name: named(), mtu_bytes }]));
    }
    found.push((Attribute::Up, vec![Op::SetDown { name: named() }]));
    let host = Ipv4Addr::new(10, 200, rng.u8(..), rng.u8(1..255));
    if let Ok(address) = Ipv4Net::new(host, rng.u8(8..=32)) {
        let add = Op::AddAddress { name: named(), address };
        found.push((Attribute::Addresses, vec![add.clone()]));
        for address in &link.addresses {
            let remove = Op::RemoveAddress { name: named(), address: *address };
            found.push((Attribute::Addresses, vec![remove.clone()]));
            found.push((Attribute::Addresses, vec![remove, add.clone()]));
        }
    }
    if link.ipv6_link_local == Some(false) {
        found.push((Attribute::Ipv6LinkLocal, vec![Op::SetIpv6LinkLocal { name: named(), enabled: true }]));
    }
}

/// What makes a link a port, and what ports and bridges have.
fn of_ports(rng: &mut Rng, name: &LinkName, link: &CurrentLink, links: &CurrentLinks, found: &mut Found) {
    let named = || name.clone();
    let bridge = LinkName::bridge();
    match &link.master {
        Some(_) => found.push((Attribute::Master, vec![Op::Leave { name: named() }])),
        None if link.kind == LinkKind::Nic && links.get(&bridge).is_some() => {
            found.push((Attribute::Master, vec![Op::Join { name: named(), master: bridge.clone() }]));
        }
        None => {}
    }
    if link.master.as_ref() != Some(&bridge) && *name != bridge {
        return;
    }
    for (vlan, entry) in &link.bridge_vlans {
        found.push((Attribute::BridgeVlans, vec![Op::RemoveBridgeVlan { name: named(), vlan: *vlan }]));
        let entry = VlanEntry { untagged: !entry.untagged, ..*entry };
        found.push((Attribute::BridgeVlans, vec![Op::SetBridgeVlan { name: named(), vlan: *vlan, entry }]));
    }
    if let Some(vlan) = free_vlan(rng, link) {
        let entry = VlanEntry { pvid: rng.bool(), untagged: rng.bool() };
        found.push((Attribute::BridgeVlans, vec![Op::SetBridgeVlan { name: named(), vlan, entry }]));
    }
}

fn free_vlan(rng: &mut Rng, link: &CurrentLink) -> Option<VlanId> {
    let vlan = VlanId::try_from(rng.u64(1000..4000)).ok()?;
    (!link.bridge_vlans.contains_key(&vlan)).then_some(vlan)
}

/// What only some kinds have.
fn of_kind(rng: &mut Rng, name: &LinkName, link: &CurrentLink, links: &CurrentLinks, found: &mut Found) {
    let named = || name.clone();
    match &link.kind {
        LinkKind::Bond { miimon_ms, primary, reselect, .. } => {
            let ms = rng.u32(0..1000);
            if ms != *miimon_ms {
                found.push((Attribute::Miimon, vec![Op::SetMiimon { name: named(), miimon_ms: ms }]));
            }
            for port in links.ports(name).filter(|port| primary.as_ref() != Some(port)) {
                let port = Some(port.clone());
                found.push((Attribute::Primary, vec![Op::SetPrimary { name: named(), port }]));
            }
            for other in [Reselect::Always, Reselect::Better, Reselect::Failure] {
                if other != *reselect {
                    let op = Op::SetReselect { name: named(), reselect: other };
                    found.push((Attribute::Reselect, vec![op]));
                }
            }
        }
        LinkKind::Bridge { vlan_filtering, default_pvid } => {
            let to = |vlan_filtering, default_pvid| Op::SetFiltering {
                name: named(),
                vlan_filtering,
                default_pvid,
            };
            found.push((Attribute::VlanFiltering, vec![to(!vlan_filtering, *default_pvid)]));
            if let Some(vlan) = free_vlan(rng, link) {
                found.push((Attribute::DefaultVlan, vec![to(*vlan_filtering, Some(vlan))]));
            }
        }
        LinkKind::Vlan { egress_qos, .. } => {
            let from = rng.u32(0..8);
            let now = egress_qos.get(&from).copied().unwrap_or(Priority::DEFAULT);
            let to = (0..8).map(|offset| (rng.u64(..) + offset) % 8);
            let other = to.filter_map(|to| Priority::try_from(to).ok()).find(|to| *to != now);
            if let Some(to) = other {
                let egress_qos = BTreeMap::from([(from, to)]);
                let op = Op::SetEgressQos { name: named(), egress_qos };
                found.push((Attribute::EgressPriorities, vec![op]));
            }
        }
        LinkKind::Nic | LinkKind::Other(_) => {}
    }
}

/// A link that is not ours on a node, made and removed by hands: whatever drifts, it must stay as it is.
pub const BY_HAND: &str = "by-hand";

impl LabNode {
    /// Makes a VLAN link with an address on a NIC.
    pub async fn make_by_hand(&self, nic: &LinkName) -> Result<(), LabError> {
        let lines = format!(
            "link add link {nic} name {BY_HAND} type vlan id 99 egress-qos-map 1:1\n\
             address add 10.99.0.1/24 dev {BY_HAND}\nlink set dev {BY_HAND} mtu 1400 up\n"
        );
        let mut hands = self.hands_or_lab_error().await?;
        let run = hands.run_with(&["ip", "-batch", "-"], &lines, LIMIT_DEFAULT).await;
        done(self.name(), "make a VLAN link by hand", run)
    }

    /// Removes it.
    pub async fn remove_by_hand(&self) -> Result<(), LabError> {
        let mut hands = self.hands_or_lab_error().await?;
        done(
            self.name(),
            "remove the VLAN link by hand",
            hands.run(&["ip", "link", "del", "dev", BY_HAND]).await,
        )
    }

    pub(crate) async fn hands_or_lab_error(&self) -> Result<Hands, LabError> {
        let hands = self.hands().await;
        hands.map_err(|source| LabError::Hands { node: self.name().to_string(), source })
    }
}

impl Lab {
    /// Draws drifts from the lab's seed. Each call draws others.
    pub fn deal_drifts(&mut self, nodes: &[Settled], count: usize) -> Vec<Drift> {
        deal(&mut self.drift_rng, nodes, count)
    }
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
