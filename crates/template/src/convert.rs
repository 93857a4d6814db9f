//! A template of either format as twinrack's own TOML.
//!
//! Purpose: what a file asks for, written down so that it asks for the same: the same cluster and, under the same overrides, the same
//! violations. Everything that has an effect is written, defaults included, so that the file says all of it.
//!
//! Two things differ: a witness is a machine with a name (an ARM file's word for it, a cloud or a share, is gone), and what
//! only ARM files have (their second list of machines, what has no effect) is not there; what was asked for and is not built yet is
//! said in a comment.
//!
//! On failure: a file with errors has no cluster, and nothing is written.

use crate::{Format, Ignored, IgnoredKind, Reading, Source};
use model::{ClusterSpec, ConfigurationMode, DeploymentMode, RdmaTechnology, RuleId, TrafficClass};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The TOML template that asks for what `reading` asks for; `None`: it has errors.
pub fn to_toml(source: &Source, reading: &Reading) -> Option<String> {
    let spec = reading.spec.as_ref()?;
    let overridden = reading.diagnostics.iter().filter(|diagnostic| diagnostic.overridden);
    let overrides: BTreeSet<RuleId> = overridden.map(|diagnostic| diagnostic.rule).collect();
    let mut out = String::new();
    if reading.format == Format::Arm {
        let _ = writeln!(out, "# From {}, an ARM deployment parameters file.", comment(source.name()));
        not_built(&reading.ignored, &mut out);
        out.push('\n');
    }
    head(spec, &overrides, &mut out);
    management(spec, &mut out);
    zones(spec, &mut out);
    intents(spec, &mut out);
    storage(spec, &mut out);
    Some(out)
}

/// What was asked for and is not built yet must not be lost without a word.
fn not_built(ignored: &[Ignored], out: &mut String) {
    for item in ignored.iter().filter(|item| item.kind == IgnoredKind::NotBuiltYet) {
        let _ = writeln!(out, "# It has {}: {}.", comment(&item.path), comment(&item.reason));
    }
}

fn head(spec: &ClusterSpec, overrides: &BTreeSet<RuleId>, out: &mut String) {
    pair(out, "name", &text(spec.name.as_str()));
    let mode = match spec.mode {
        DeploymentMode::Deploy => "deploy",
        DeploymentMode::Validate => "validate",
    };
    pair(out, "mode", &text(mode));
    let configuration = match spec.configuration {
        ConfigurationMode::Express => "express",
        ConfigurationMode::InfraOnly => "infra-only",
        ConfigurationMode::KeepStorage => "keep-storage",
    };
    pair(out, "configuration", &text(configuration));
    if let Some(wiring) = spec.wiring {
        pair(out, "wiring", &text(&format!("{wiring:?}")));
    }
    if !overrides.is_empty() {
        pair(out, "overrides", &list(overrides.iter().map(|rule| text(rule.0))));
    }
}

fn management(spec: &ClusterSpec, out: &mut String) {
    let management = &spec.management;
    out.push_str("\n[management]\n");
    pair(out, "subnet", &text(&management.subnet.to_string()));
    pair(out, "gateway", &text(&management.gateway.to_string()));
    pair(out, "range_start", &text(&management.range_start.to_string()));
    pair(out, "range_end", &text(&management.range_end.to_string()));
    pair(out, "dns", &list(management.dns.iter().map(|address| text(&address.to_string()))));
    if let Some(vlan) = management.vlan {
        pair(out, "vlan", &vlan.to_string());
    }
    if !spec.compute_vlans.is_empty() {
        out.push_str("\n[compute]\n");
        pair(out, "vlans", &list(spec.compute_vlans.iter().map(ToString::to_string)));
    }
}

/// Ordinals are written where they are not the nodes' places: an ARM file's list of nodes may mix the zones.
fn zones(spec: &ClusterSpec, out: &mut String) {
    let nodes = || spec.zones.iter().flat_map(|zone| &zone.nodes);
    let in_order = nodes().zip(1_usize..).all(|(node, place)| usize::from(node.ordinal.get()) == place);
    for zone in &spec.zones {
        out.push_str("\n[[zone]]\n");
        pair(out, "name", &text(zone.name.as_str()));
        for node in &zone.nodes {
            out.push_str("\n[[zone.node]]\n");
            pair(out, "name", &text(node.name.as_str()));
            pair(out, "management_ip", &text(&node.management_ip.to_string()));
            if !in_order {
                pair(out, "ordinal", &node.ordinal.to_string());
            }
        }
    }
    out.push_str("\n[witness]\n");
    pair(out, "name", &text(spec.witness.name.as_str()));
    if let Some(address) = spec.witness.management_ip {
        pair(out, "management_ip", &text(&address.to_string()));
    }
}

fn intents(spec: &ClusterSpec, out: &mut String) {
    for intent in &spec.intents {
        out.push_str("\n[[intent]]\n");
        pair(out, "name", &text(intent.name.as_str()));
        let words = intent.traffic.iter().map(|class| match class {
            TrafficClass::Management => text("management"),
            TrafficClass::Compute => text("compute"),
            TrafficClass::Storage => text("storage"),
        });
        pair(out, "traffic", &list(words));
        pair(out, "adapters", &list(intent.adapters.iter().map(|adapter| text(adapter.as_str()))));
        pair(out, "mtu", &intent.mtu.to_string());
        if let Some(rdma) = intent.rdma {
            let word = match rdma {
                RdmaTechnology::RoCEv2 => "rocev2",
                RdmaTechnology::Iwarp => "iwarp",
            };
            pair(out, "rdma", &text(word));
        }
    }
}

fn storage(spec: &ClusterSpec, out: &mut String) {
    for network in &spec.storage_networks {
        out.push_str("\n[[storage_network]]\n");
        pair(out, "name", &text(&network.name));
        pair(out, "adapter", &text(network.adapter.as_str()));
        pair(out, "vlan", &network.vlan.to_string());
        pair(out, "subnet", &text(&network.subnet.to_string()));
    }
    out.push_str("\n[qos]\n");
    pair(out, "storage_priority", &spec.qos.storage_priority.to_string());
    pair(out, "heartbeat_priority", &spec.qos.heartbeat_priority.to_string());
    pair(out, "storage_bandwidth_percent", &spec.qos.storage_bandwidth_percent.to_string());
}

fn pair(out: &mut String, key: &str, value: &str) {
    let _ = writeln!(out, "{key} = {value}");
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

/// A basic string of TOML 1.0.
fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// Text that can't leave its comment.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
