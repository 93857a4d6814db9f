//! The access file: where the agents of a cluster are, and who asks.
//!
//! On failure: [`AccessError`]; nobody was asked anything.

use crate::{Cluster, Member};
use api::{Access, Client, ClientError, Endpoint, PrivateKeyPem, TlsIdentity};
use model::{ClusterSpec, NodeName};
use network::AdapterSpeeds;
use network::measure::Machines;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The access file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It, or a file that it names, can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no access file", path.display())]
    NoAccess {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its certificates or its key can't be used.
    #[error("can't use the identity of {}", path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<ClientError>,
    },
}

/// A node of the specification that the access file does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the access file names no agent of {0}")]
pub struct NoAgent(pub NodeName);

/// The ways to the agents that it names, and what figures that are measured there are worth.
pub fn access(path: &Path) -> Result<(Vec<Member>, Machines), AccessError> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| AccessError::Read { path: path.to_owned(), source })
    };
    let no_access = |source| AccessError::NoAccess { path: path.to_owned(), source };
    let access: Access = serde_json::from_str(&read(path)?).map_err(no_access)?;
    let beside = |file: &Path| path.parent().unwrap_or(Path::new("")).join(file);
    let identity = TlsIdentity {
        ca_pem: read(&beside(&access.ca))?,
        certificate_pem: read(&beside(&access.certificate))?,
        key_pem: PrivateKeyPem::new(read(&beside(&access.key))?),
    };
    let member = |(name, address): (NodeName, _)| {
        let failed = |error| AccessError::Identity { path: path.to_owned(), source: Box::new(error) };
        let client = Client::new(Endpoint { node: name.clone(), address }, &identity).map_err(failed)?;
        Ok(Member { name, zone: None, adapters: BTreeMap::new(), client })
    };
    let members = access.agents.into_iter().map(member).collect::<Result<_, AccessError>>()?;
    Ok((members, access.machines))
}

impl Cluster {
    /// What is to be deployed, and the way to everybody in it: nodes in the order of their ordinals, then the witness. What their NICs are is not known yet ([`Cluster::learn_adapters`]).
    pub fn of(spec: ClusterSpec, agents: &[Member]) -> Result<Self, NoAgent> {
        let nodes = spec.nodes().map(|(zone, node)| (Some(zone.name.clone()), node.name.clone()));
        let all = nodes.chain([(None, spec.witness.name.clone())]);
        let way = |(zone, name): (_, NodeName)| {
            let agent = agents.iter().find(|agent| agent.name == name);
            Ok(Member { zone, ..agent.ok_or(NoAgent(name))?.clone() })
        };
        let members = all.map(way).collect::<Result<_, NoAgent>>()?;
        Ok(Self { spec, members, speeds: AdapterSpeeds::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_access_file_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.json");
        assert!(matches!(access(&path), Err(AccessError::Read { .. })));
        fs::write(&path, "{\"ca\": 7}").unwrap();
        assert!(matches!(access(&path), Err(AccessError::NoAccess { .. })));
        fs::write(&path, r#"{"ca": "ca.pem", "certificate": "c", "key": "k", "agents": {}}"#).unwrap();
        assert!(matches!(access(&path), Err(AccessError::Read { path, .. }) if path.ends_with("ca.pem")));
        for name in ["ca.pem", "c", "k"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let (members, machines) = access(&path).unwrap();
        assert_eq!((members.len(), machines), (0, Machines::Real), "real unless it says otherwise");
    }
}
