//! What a certificate says: whose it is, and when it ends.
//!
//! The agent's name and its role stand in one URI among the alternative names, `leasehold://ROLE/NAME`, the name
//! percent-encoded. A member's certificate has one DNS name more, [`Certificate::MEMBER_HOST`], the same for all: it is what
//! the calling side verifies the other end by, so that TLS's own verification stays as it is. Addresses don't matter: a
//! member may move.

use chrono::{DateTime, Utc};
use rustls::{
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    config::{TlsError, TlsFault},
    name::AgentName,
    role::Role,
};

const SCHEME: &str = "leasehold://";
/// The year 9999, where X.509 ends.
const NEVER: u64 = 253_402_300_799;

/// A certificate, as far as people and this library look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// Whose it is; `None` for an authority's, and for one that is not of this library's form.
    pub bearer: Option<(Role, AgentName)>,
    /// Whether it is an authority's: it signs others.
    pub is_authority: bool,
    /// The last second in which it holds.
    pub expires: DateTime<Utc>,
    /// SHA-256 over it, in hex.
    pub fingerprint: String,
}

impl Certificate {
    /// The DNS name that every member's certificate has among its alternative names, and nobody else's.
    pub const MEMBER_HOST: &'static str = "leasehold.internal";

    /// The URI that must stand among the alternative names of the certificate of this name in this role. With this and
    /// [`MEMBER_HOST`](Self::MEMBER_HOST) an authority of your own can issue certificates: members' for client and server
    /// authentication, those of clients and readers for client authentication alone.
    #[must_use]
    pub fn uri(role: Role, name: &AgentName) -> String {
        let mut uri = format!("{SCHEME}{role}/");
        for byte in name.as_str().bytes() {
            if is_plain(byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri
    }

    /// The certificates in a text in PEM, in their order. Nothing of them is verified.
    ///
    /// # Errors
    /// [`TlsFault::Malformed`], by this file name, when there is none, or one can't be read.
    pub fn read_pem(file: &str, pem: &[u8]) -> Result<Vec<Self>, TlsError> {
        let chain = parse(file, pem).map_err(|fault| TlsError { faults: vec![fault] })?;
        Ok(chain.iter().map(Self::of).collect())
    }

    pub(crate) fn of(der: &CertificateDer<'_>) -> Self {
        let expires = i64::try_from(expires(der)).ok().and_then(|secs| DateTime::from_timestamp(secs, 0));
        let fingerprint = sha256(der).iter().map(|byte| format!("{byte:02x}")).collect();
        let is_authority = is_authority(der);
        Self { bearer: bearer(der), is_authority, expires: expires.unwrap_or_default(), fingerprint }
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The certificates of a file; at least one, each of the form.
pub(super) fn parse(file: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let malformed =
        |detail: String| TlsFault::Malformed { what: "certificate", file: file.to_owned(), detail };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| malformed(error.to_string()))?;
    for der in &chain {
        EndEntityCert::try_from(der).map_err(|error| malformed(error.to_string()))?;
    }
    if chain.is_empty() { Err(malformed("there is none".to_owned())) } else { Ok(chain) }
}

/// Whose it is: the one URI of ours. Several would be several names for one key, so they count as none.
pub(crate) fn bearer(der: &CertificateDer<'_>) -> Option<(Role, AgentName)> {
    let certificate = EndEntityCert::try_from(der).ok()?;
    let mut ours = certificate.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
    let (uri, another) = (ours.next()?, ours.next());
    if another.is_some() {
        return None;
    }
    let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let (role, name) = (role.parse().ok()?, AgentName::new(decoded(name)?).ok()?);
    // There is one way to write a name.
    (Certificate::uri(role, &name) == uri).then_some((role, name))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

fn is_authority(der: &CertificateDer<'_>) -> bool {
    matches!(judged(der, expires(der)), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What the verifier has against it at this time, of itself: before it asks who has signed it, it looks at its dates, and
/// then whether it is an authority's.
fn judged(der: &CertificateDer<'_>, unix: u64) -> Option<webpki::Error> {
    let certificate = EndEntityCert::try_from(der).ok()?;
    let nobody: [TrustAnchor<'_>; 0] = [];
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix));
    certificate.verify_for_usage(&[], &nobody, &[], at, KeyUsage::client_auth(), None, None).err()
}

/// The last second in which it holds, since 1970: what the verifier says of it at the end of all days, which it asks
/// before anything else. So no second reader of X.509 is needed.
pub(super) fn expires(der: &CertificateDer<'_>) -> u64 {
    match judged(der, NEVER + 1) {
        Some(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        _ => NEVER,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    match TLS13_AES_128_GCM_SHA256.tls13() {
        Some(suite) => suite.common.hash_provider.hash(bytes).as_ref().to_vec(),
        // It is one of TLS 1.3.
        None => Vec::new(),
    }
}
