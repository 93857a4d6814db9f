//! A certificate authority for one lab or one cluster.
//!
//! Invariants: keys are made here, are ECDSA P-256 and live in memory only; a node's certificate serves and asks, a
//! client's only asks, so that a client can't pose as a node. The CA signs nothing but end entities (path length 0).
//!
//! On failure: [`PkiError`]; nothing was issued.

use crate::{PrivateKeyPem, TlsIdentity, server_name};
use model::NodeName;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Certificates are valid from a day before they were made: a node's clock may be behind.
const BACKDATED: Duration = Duration::from_hours(24);

/// A certificate that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("can't make a certificate for `{subject}`")]
pub struct PkiError {
    /// Whose certificate.
    pub subject: String,
    /// Why not.
    #[source]
    pub source: rcgen::Error,
}

/// A certificate authority.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    valid_for: Duration,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("valid_for", &self.valid_for).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new CA called `name`; it and what it issues are valid for `valid_for` from when they are made.
    pub fn new(name: &str, valid_for: Duration) -> Result<Self, PkiError> {
        let make = || {
            let mut params = params(name, valid_for, Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        };
        let issuer = make().map_err(|source| PkiError { subject: name.to_owned(), source })?;
        Ok(Self { issuer, valid_for })
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// An identity for a node: it answers as [`server_name`] and may ask other nodes.
    pub fn issue_node(&self, node: &NodeName) -> Result<TlsIdentity, PkiError> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(node.as_str(), vec![server_name(node)], usages)
    }

    /// An identity for somebody who only asks, for example `lab`.
    pub fn issue_client(&self, name: &str) -> Result<TlsIdentity, PkiError> {
        self.issue(name, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(
        &self,
        subject: &str,
        dns_names: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<TlsIdentity, PkiError> {
        let make = || {
            let mut params = params(subject, self.valid_for, dns_names)?;
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = usages;
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok(TlsIdentity {
                ca_pem: self.certificate_pem(),
                certificate_pem: certificate.pem(),
                key_pem: PrivateKeyPem::new(key.serialize_pem()),
            })
        };
        make().map_err(|source| PkiError { subject: subject.to_owned(), source })
    }
}

fn params(subject: &str, valid_for: Duration, names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // A clock before 1970 counts as 1970: the certificate is then refused, which says what is wrong.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + valid_for;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_its_own_key_and_debug_shows_none() {
        let ca = Ca::new("lab", Duration::from_hours(24)).unwrap();
        let one = ca.issue_node(&"node1".parse().unwrap()).unwrap();
        let two = ca.issue_node(&"node1".parse().unwrap()).unwrap();
        assert_ne!(one.key_pem, two.key_pem);
        assert_eq!(one.ca_pem, ca.certificate_pem());
        assert!(!format!("{one:?}{ca:?}").contains("PRIVATE KEY"));
    }
}
