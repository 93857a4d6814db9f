//! What a node is told at its first boot, as JSON.

use crate::TlsIdentity;
use ipnet::Ipv4Net;
use model::{AdapterName, MacAddress, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a node is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It holds data, runs virtual machines and votes.
    Node,
    /// It votes.
    Witness,
}

/// The NIC of a lab node that no fault touches, like a BMC's LAN. It is not part of the node's inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutOfBand {
    /// Which NIC.
    pub mac: MacAddress,
    /// Its address with the subnet's prefix length.
    pub address: Ipv4Net,
}

/// Everything that a node must know before anybody can talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name; its certificate is for this name.
    pub node: NodeName,
    /// What it is in the cluster.
    pub role: Role,
    /// Where its API listens.
    pub listen: SocketAddr,
    /// The lab's way in, if the node is a lab's.
    #[serde(default)]
    pub out_of_band: Option<OutOfBand>,
    /// Which NIC, by its permanent MAC address, is which adapter of the template.
    #[serde(default)]
    pub adapters: BTreeMap<AdapterName, MacAddress>,
    /// Who the node is, and whose clients and peers it believes.
    pub tls: TlsIdentity,
}

/// A node's configuration that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two adapters are the same NIC.
    #[error("adapters `{first}` and `{second}` both have MAC address {mac}")]
    SharedMac {
        /// The address that stands twice.
        mac: MacAddress,
        /// The first adapter with it.
        first: AdapterName,
        /// The other one.
        second: AdapterName,
    },
    /// The out-of-band NIC is also an adapter: a fault on the adapter would cut the way in.
    #[error("adapter `{adapter}` has the out-of-band NIC's MAC address {mac}")]
    OutOfBandAdapter {
        /// The adapter.
        adapter: AdapterName,
        /// The address that stands twice.
        mac: MacAddress,
    },
}

impl NodeConfig {
    /// Checks what types can't: every MAC address stands once.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for (adapter, &mac) in &self.adapters {
            if self.out_of_band.is_some_and(|oob| oob.mac == mac) {
                return Err(ConfigError::OutOfBandAdapter { adapter: adapter.clone(), mac });
            }
            if !seen.insert(mac) {
                let first = self.adapters.iter().find(|(_, other)| **other == mac);
                let first = first.map_or_else(|| adapter.clone(), |(name, _)| name.clone());
                return Err(ConfigError::SharedMac { mac, first, second: adapter.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivateKeyPem;

    fn config(adapters: &[(&str, &str)], oob: Option<&str>) -> NodeConfig {
        let adapter = |(name, mac): &(&str, &str)| (name.parse().unwrap(), mac.parse().unwrap());
        NodeConfig {
            node: "v-host1".parse().unwrap(),
            role: Role::Node,
            listen: "0.0.0.0:7443".parse().unwrap(),
            out_of_band: oob
                .map(|mac| OutOfBand { mac: mac.parse().unwrap(), address: "10.0.2.15/24".parse().unwrap() }),
            adapters: adapters.iter().map(adapter).collect(),
            tls: TlsIdentity {
                ca_pem: "CA".to_owned(),
                certificate_pem: "CERTIFICATE".to_owned(),
                key_pem: PrivateKeyPem::new("SECRET".to_owned()),
            },
        }
    }

    #[test]
    fn a_config_reads_as_a_person_would_write_it_and_refuses_what_it_does_not_know() {
        let config = config(&[("Ethernet 1", "02:00:00:00:00:01")], Some("02:00:00:00:00:ff"));
        let json = serde_json::to_string_pretty(&config).unwrap();
        insta::assert_snapshot!(json);
        assert_eq!(serde_json::from_str::<NodeConfig>(&json).unwrap(), config);
        let unknown = json.replacen("\"role\"", "\"rule\": 1, \"role\"", 1);
        assert!(serde_json::from_str::<NodeConfig>(&unknown).unwrap_err().to_string().contains("rule"));
    }

    #[test]
    fn a_nic_stands_once() {
        let (one, two) = (("Ethernet 1", "02:00:00:00:00:01"), ("Ethernet 2", "02:00:00:00:00:02"));
        assert_eq!(config(&[one, two], Some("02:00:00:00:00:ff")).check(), Ok(()));
        let twice = config(&[one, ("Ethernet 2", one.1)], None).check().unwrap_err();
        assert!(twice.to_string().contains("`Ethernet 1` and `Ethernet 2`"), "{twice}");
        let cut = config(&[one, two], Some(two.1)).check().unwrap_err();
        assert!(
            matches!(cut, ConfigError::OutOfBandAdapter { adapter, .. } if adapter.as_str() == "Ethernet 2")
        );
    }

    #[test]
    fn a_private_key_never_shows() {
        let shown = format!("{:?} {:#?}", config(&[], None), config(&[], None));
        assert!(shown.contains("CERTIFICATE"), "the certificate is no secret");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
