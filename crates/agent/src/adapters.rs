//! Which NICs are the adapters of the template, and what they see.
//!
//! NICs are known by permanent MAC address, since kernel names depend on slots and a bond gives its ports another
//! address. Finding them takes the kernel's big network lock, which an operation under way may hold: so it is done once.
//! A NIC that comes later is seen when the agent starts again.

use crate::inventory::interfaces;
use crate::neighbours::Neighbours;
use api::NicState;
use model::{AdapterName, MacAddress};
use std::collections::BTreeMap;
use std::fs;

/// The adapters of this node, in the order of their names.
#[derive(Debug)]
pub(crate) struct Adapters {
    adapters: Vec<Adapter>,
}

#[derive(Debug, Clone)]
struct Adapter {
    name: AdapterName,
    mac: MacAddress,
    kernel_name: Option<String>,
}

impl Adapters {
    /// Finds the NICs of these adapters. Blocks.
    pub(crate) fn find(wanted: &BTreeMap<AdapterName, MacAddress>) -> Self {
        Self::among(wanted, &interfaces())
    }

    fn among(wanted: &BTreeMap<AdapterName, MacAddress>, interfaces: &BTreeMap<MacAddress, String>) -> Self {
        let adapter = |(name, mac): (&AdapterName, &MacAddress)| Adapter {
            name: name.clone(),
            mac: *mac,
            kernel_name: interfaces.get(mac).cloned(),
        };
        Self { adapters: wanted.iter().map(adapter).collect() }
    }

    /// The kernel's numbers of those that are there, each with its MAC address.
    pub(crate) fn by_index(&self) -> BTreeMap<u32, MacAddress> {
        let present =
            self.adapters.iter().filter_map(|adapter| Some((adapter.kernel_name.as_deref()?, adapter.mac)));
        present.filter_map(|(name, mac)| Some((index(name)?, mac))).collect()
    }

    /// Names of those that are not there.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&AdapterName, MacAddress)> {
        let missing = self.adapters.iter().filter(|adapter| adapter.kernel_name.is_none());
        missing.map(|adapter| (&adapter.name, adapter.mac))
    }

    /// What they all see at `now_ms`.
    pub(crate) fn states(&self, neighbours: &Neighbours, now_ms: u64) -> Vec<NicState> {
        let state = |adapter: &Adapter| NicState {
            adapter: adapter.name.clone(),
            mac: adapter.mac,
            kernel_name: adapter.kernel_name.clone(),
            carrier: adapter.kernel_name.as_deref().and_then(carrier),
            carrier_losses: adapter.kernel_name.as_deref().and_then(carrier_losses).unwrap_or_default(),
            neighbour: neighbours.of(adapter.mac, now_ms),
        };
        self.adapters.iter().map(state).collect()
    }
}

fn index(kernel_name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{kernel_name}/ifindex")).ok()?.trim().parse().ok()
}

/// The kernel answers with EINVAL while the NIC is down.
fn carrier(kernel_name: &str) -> Option<bool> {
    let text = fs::read_to_string(format!("/sys/class/net/{kernel_name}/carrier")).ok()?;
    Some(text.trim() == "1")
}

/// The kernel counts them (`carrier_down_count`, Documentation/ABI/testing/sysfs-class-net).
fn carrier_losses(kernel_name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{kernel_name}/carrier_down_count")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_found_by_mac() {
        let mac = |last| MacAddress([2, 0, 0, 0, 0xfe, last]);
        let name = |name: &str| name.parse::<AdapterName>().unwrap();
        let wanted = BTreeMap::from([(name("Ethernet 1"), mac(1)), (name("Ethernet 2"), mac(2))]);
        let interfaces = BTreeMap::from([(mac(2), "lo".to_owned()), (mac(9), "eth6".to_owned())]);
        let adapters = Adapters::among(&wanted, &interfaces);
        assert_eq!(adapters.missing().collect::<Vec<_>>(), [(&name("Ethernet 1"), mac(1))]);
        assert_eq!(adapters.by_index(), BTreeMap::from([(1, mac(2))]), "lo is number 1 everywhere");
        let states = adapters.states(&Neighbours::default(), 0);
        let shown: Vec<_> =
            states.iter().map(|nic| (nic.adapter.as_str(), nic.kernel_name.as_deref())).collect();
        assert_eq!(shown, [("Ethernet 1", None), ("Ethernet 2", Some("lo"))]);
    }
}
