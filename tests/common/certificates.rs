//! Certificates for tests: of all kinds, also bad ones.

#![allow(dead_code, reason = "each test uses some of it")]

use std::{path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) pem: String,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Issued {
    /// Writes them beside the authorities' certificates: the paths of the three.
    pub(crate) fn write(&self, dir: &Path, name: &str, ca: &str) -> [std::path::PathBuf; 3] {
        let paths = ["ca", "crt", "key"].map(|end| dir.join(format!("{name}.{end}")));
        for (path, text) in paths.iter().zip([ca, &self.cert, &self.key]) {
            // As a careful operator does it: never half of a file.
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
        paths
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// As `leasehold certs issue` would.
    pub(crate) fn issue(&self, role: &str, name: &str) -> Issued {
        self.issue_but(role, name, |_| {})
    }

    /// The same, but for something.
    pub(crate) fn issue_but(
        &self,
        role: &str,
        name: &str,
        but: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("leasehold://{role}/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == "member" {
            params.subject_alt_names.push(SanType::DnsName("leasehold.internal".try_into().unwrap()));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        but(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { cert, key: key.serialize_pem() }
    }

    /// One that holds no more.
    pub(crate) fn issue_expired(&self, role: &str, name: &str) -> Issued {
        self.issue_but(role, name, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// One that holds until then, in seconds since 1970.
    pub(crate) fn issue_until(&self, role: &str, name: &str, unix: u64) -> Issued {
        self.issue_but(role, name, |params| {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(unix);
        })
    }
}
