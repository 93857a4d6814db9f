//! Operations as a person at a node types them: what drifts are made with, and what the agent is measured against.

use model::{Priority, VlanId};
use network::link::{BondMode, Reselect};
use network::traffic::{Filter, MarkRule, Packets, Queue};
use network::{LinkName, Op};
use std::collections::BTreeMap;

/// The command for an operation (ip-link(8), ip-address(8), bridge(8), tc(8)); empty for one that nobody has typed yet.
pub(crate) fn command(op: &Op) -> String {
    match op {
        Op::CreateBond { name, mode, miimon_ms } => {
            let mode = match mode {
                BondMode::ActiveBackup => 1,
                BondMode::Other(number) => *number,
            };
            format!("ip link add name {name} type bond mode {mode} miimon {miimon_ms}")
        }
        Op::CreateBridge { name, vlan_filtering, default_pvid } => {
            let (on, vlan) = (u8::from(*vlan_filtering), default_pvid.map_or(0, VlanId::get));
            format!(
                "ip link add name {name} type bridge forward_delay 0 vlan_filtering {on} vlan_default_pvid {vlan}"
            )
        }
        Op::CreateVlan { name, parent, vlan, egress_qos } => {
            let map = priorities(egress_qos);
            let map = if map.is_empty() { map } else { format!(" egress-qos-map {map}") };
            format!("ip link add link {parent} name {name} type vlan id {vlan}{map}")
        }
        Op::Delete { name } => format!("ip link del dev {name}"),
        Op::SetMtu { name, mtu_bytes } => format!("ip link set dev {name} mtu {mtu_bytes}"),
        Op::SetUp { name } => format!("ip link set dev {name} up"),
        Op::SetDown { name } => format!("ip link set dev {name} down"),
        Op::Leave { name } => format!("ip link set dev {name} nomaster"),
        Op::Join { name, master } => format!("ip link set dev {name} master {master}"),
        Op::SetMiimon { name, miimon_ms } => format!("ip link set dev {name} type bond miimon {miimon_ms}"),
        Op::SetPrimary { name, port: Some(port) } => {
            format!("ip link set dev {name} type bond primary {port}")
        }
        Op::SetReselect { name, reselect } => {
            let word = match reselect {
                Reselect::Always => "always",
                Reselect::Better => "better",
                Reselect::Failure => "failure",
            };
            format!("ip link set dev {name} type bond primary_reselect {word}")
        }
        Op::SetFiltering { name, vlan_filtering, default_pvid } => {
            let (on, vlan) = (u8::from(*vlan_filtering), default_pvid.map_or(0, VlanId::get));
            format!("ip link set dev {name} type bridge vlan_filtering {on} vlan_default_pvid {vlan}")
        }
        Op::SetEgressQos { name, egress_qos } => {
            format!("ip link set dev {name} type vlan egress-qos-map {}", priorities(egress_qos))
        }
        Op::SetBridgeVlan { name, vlan, entry } => {
            let pvid = if entry.pvid { " pvid" } else { "" };
            let untagged = if entry.untagged { " untagged" } else { "" };
            format!("bridge vlan add dev {name} vid {vlan}{pvid}{untagged}{}", own(name))
        }
        Op::RemoveBridgeVlan { name, vlan } => format!("bridge vlan del dev {name} vid {vlan}{}", own(name)),
        Op::AddAddress { name, address } => format!("ip address add {address} dev {name}"),
        Op::RemoveAddress { name, address } => format!("ip address del {address} dev {name}"),
        Op::SetIpv6LinkLocal { name, enabled } => {
            format!("ip link set dev {name} addrgenmode {}", if *enabled { "eui64" } else { "none" })
        }
        Op::SetQueue { .. }
        | Op::AddClassifier { .. }
        | Op::RemoveClassifier { .. }
        | Op::AddFilter { .. }
        | Op::RemoveFilter { .. } => traffic(op),
        Op::SetDcbEts { .. }
        | Op::SetDcbPfc { .. }
        | Op::SetPrimary { port: None, .. }
        | Op::AddRoute { .. }
        | Op::RemoveRoute { .. } => String::new(),
    }
}

fn priorities(map: &BTreeMap<u32, Priority>) -> String {
    map.iter().map(|(from, to)| format!("{from}:{to}")).collect::<Vec<_>>().join(" ")
}

/// bridge(8): VLANs of the bridge itself.
fn own(name: &LinkName) -> &'static str {
    if *name == LinkName::bridge() { " self" } else { "" }
}

/// tc(8), tc-ets(8), tc-flower(8), tc-skbedit(8).
fn traffic(op: &Op) -> String {
    match op {
        Op::SetQueue { name, queue: Queue::Default } => format!("tc qdisc del dev {name} root"),
        Op::SetQueue { name, queue: Queue::Ets(ets) } => {
            let quanta: Vec<String> = ets.quanta_bytes.iter().map(ToString::to_string).collect();
            let bands: Vec<String> = ets.bands.iter().map(ToString::to_string).collect();
            let (count, quanta, bands) = (quanta.len(), quanta.join(" "), bands.join(" "));
            format!("tc qdisc replace dev {name} root ets bands {count} quanta {quanta} priomap {bands}")
        }
        Op::SetQueue { name, queue: Queue::Other { kind, .. } } => {
            format!("tc qdisc replace dev {name} root {kind}")
        }
        Op::AddClassifier { name } => format!("tc qdisc add dev {name} clsact"),
        Op::RemoveClassifier { name } => format!("tc qdisc del dev {name} clsact"),
        Op::AddFilter { name, preference, filter: Filter::Mark(MarkRule { of, priority }) } => {
            let (protocol, of) = match of {
                Packets::TcpTo(port) => ("ip", format!(" ip_proto tcp dst_port {port}")),
                Packets::TcpFrom(port) => ("ip", format!(" ip_proto tcp src_port {port}")),
                Packets::UdpTo(port) => ("ip", format!(" ip_proto udp dst_port {port}")),
                Packets::All => ("all", String::new()),
            };
            format!(
                "tc filter add dev {name} egress pref {preference} protocol {protocol} flower{of} \
                 action skbedit priority :{priority} pass"
            )
        }
        Op::RemoveFilter { name, preference } => format!("tc filter del dev {name} egress pref {preference}"),
        _ => String::new(),
    }
}
