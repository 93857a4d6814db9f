//! Who a node or a client is, and the TLS settings made from that.
//!
//! TLS 1.3 alone, both sides with a certificate of the cluster's CA. `ring` is named as provider here rather than
//! installed for the process: nothing depends on who came first. On an emulated processor a handshake is dear, so
//! certificates are ECDSA P-256 and sessions resume (rustls keeps them in memory on both sides).

use model::NodeName;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A private key in PEM. `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKeyPem(String);

impl PrivateKeyPem {
    /// Wraps a key.
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The key itself, for whoever writes it to a file of its owner's.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(redacted)")
    }
}

/// A certificate with its key, and the CA that the other side must come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsIdentity {
    /// The CA's certificate, PEM.
    pub ca_pem: String,
    /// This side's certificate, PEM.
    pub certificate_pem: String,
    /// This side's private key, PEM.
    pub key_pem: PrivateKeyPem,
}

/// A TLS identity that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// One of the PEM texts can't be read.
    #[error("can't read the {what} as PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why not. Says nothing of a key's content.
        #[source]
        source: pem::Error,
    },
    /// The CA's certificate is no CA's, or the certificate and the key don't belong together.
    #[error("the {what} can't be used")]
    Refused {
        /// Which.
        what: &'static str,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// No verifier can be made from the CA.
    #[error("can't check peers with this CA")]
    Verifier {
        /// Why not.
        #[source]
        source: VerifierBuilderError,
    },
}

/// The DNS name in a node's certificate. Not the bare node name: `1` is a good host name, but in a URL it is the IPv4
/// address 0.0.0.1. `.internal` is reserved for private use (ICANN board resolution 2024.07.29.06).
pub fn server_name(node: &NodeName) -> String {
    format!("{}.twinrack.internal", node.as_str().to_ascii_lowercase())
}

impl TlsIdentity {
    /// Settings for asking. The server's certificate must be of the CA and for the name that was dialled.
    pub fn client_config(&self) -> Result<ClientConfig, IdentityError> {
        let refused = |source| IdentityError::Refused { what: "certificate with its key", source };
        let (chain, key) = (self.certificates()?, self.key()?);
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| IdentityError::Refused { what: "TLS version", source })?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map_err(refused)
    }

    /// Settings for answering. Every client must show a certificate of the CA.
    pub fn server_config(&self) -> Result<ServerConfig, IdentityError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|source| IdentityError::Verifier { source })?;
        let (chain, key) = (self.certificates()?, self.key()?);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| IdentityError::Refused { what: "TLS version", source })?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|source| IdentityError::Refused { what: "certificate with its key", source })?;
        // One ticket per handshake instead of two: a client has one connection, and each ticket costs it a record.
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(self.ca_pem.as_bytes())
            .map_err(|source| IdentityError::Pem { what: "CA certificate", source })?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|source| IdentityError::Refused { what: "CA certificate", source })?;
        Ok(roots)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect();
        match chain {
            Ok(chain) if chain.is_empty() => {
                Err(IdentityError::Pem { what: "certificate", source: pem::Error::NoItemsFound })
            }
            chain => chain.map_err(|source| IdentityError::Pem { what: "certificate", source }),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        // `IllegalSectionStart` and its kind carry the line that they stumbled over; a key's must not travel on.
        PrivateKeyDer::from_pem_slice(self.key_pem.0.as_bytes())
            .map_err(|_| IdentityError::Pem { what: "private key", source: pem::Error::NoItemsFound })
    }
}

/// The certificate that the other side of a connection has shown, of the cluster's CA. A server puts it into the extensions of a
/// request whose handler wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// The first of the chain that was shown; `None` if none was.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        Some(Self(chain?.first()?.clone().into_owned()))
    }

    /// Whether it is that node's. A certificate of somebody who only asks is no node's.
    pub fn is_for(&self, node: &NodeName) -> bool {
        let name = ServerName::try_from(server_name(node));
        let certificate = ParsedCertificate::try_from(&self.0);
        name.is_ok_and(|name| certificate.is_ok_and(|shown| verify_server_name(&shown, &name).is_ok()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Ca;
    use std::error::Error;
    use std::time::Duration;

    #[test]
    fn numeric_and_shouted_node_names_make_dns_names() {
        let name = |node: &str| server_name(&node.parse().unwrap());
        assert_eq!(name("1"), "1.twinrack.internal");
        assert_eq!(name("V-Host1"), "v-host1.twinrack.internal");
    }

    #[test]
    fn a_peers_certificate_is_its_own_nodes_and_nobody_elses() {
        let ca = Ca::new("lab", Duration::from_hours(1)).unwrap();
        let name = |name: &str| name.parse().unwrap();
        let shown =
            |identity: &TlsIdentity| PeerCertificate::of(Some(&identity.certificates().unwrap())).unwrap();
        let node = shown(&ca.issue_node(&name("V-Host1")).unwrap());
        assert!(node.is_for(&name("v-host1")) && !node.is_for(&name("v-host2")));
        assert!(!shown(&ca.issue_client("v-host1").unwrap()).is_for(&name("v-host1")));
        assert_eq!(PeerCertificate::of(None), None);
        assert!(!PeerCertificate(vec![1, 2, 3].into()).is_for(&name("v-host1")));
    }

    #[test]
    fn identities_that_can_not_work_say_which_part_and_never_the_key() {
        let ca = Ca::new("lab", Duration::from_hours(1)).unwrap();
        let good = ca.issue_client("lab").unwrap();
        good.client_config().unwrap();
        let other = ca.issue_client("other").unwrap();
        let text = |identity: &TlsIdentity| {
            let error = identity.server_config().unwrap_err();
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{error}: {source}")
        };
        let broken = TlsIdentity { ca_pem: String::new(), ..good.clone() };
        assert!(text(&broken).contains("CA certificate"), "{}", text(&broken));
        let broken = TlsIdentity { certificate_pem: "x".into(), ..good.clone() };
        assert!(text(&broken).contains("can't read the certificate"), "{}", text(&broken));
        let broken = TlsIdentity { key_pem: other.key_pem.clone(), ..good.clone() };
        assert!(text(&broken).contains("certificate with its key"), "{}", text(&broken));
        let key = PrivateKeyPem::new("-----BEGIN SECRET".to_owned());
        let broken = TlsIdentity { key_pem: key, ..good };
        assert!(
            text(&broken).contains("private key") && !text(&broken).contains("SECRET"),
            "{}",
            text(&broken)
        );
    }
}
