//! TLS between agents, and between clients and agents: certificates from files, both sides verified, TLS 1.3 alone.
//!
//! # What is verified, and by whom
//!
//! rustls and its webpki verify signatures and chains on both sides: against the authorities in the CA file and no others,
//! for the purpose (who answers needs a member's certificate), and its time. Of our own is only what follows: the name and
//! the role in the certificate are compared with what the peer says of itself in the hello or the welcome
//! ([`tcp`](super::tcp)), and looked up in the lists of who is allowed.
//!
//! # When certificates change
//!
//! The files are read again every [`TLS_RELOAD_EVERY`], and right after a handshake that failed. What fits together replaces
//! what was there, for new connections; what doesn't is told in the log, and what was there stays. A connection is made anew
//! by the side that called as soon as its own files have changed; and either side ends it within [`TLS_RECHECK_EVERY`] when
//! the other's certificate has expired, or its authority is none any more.
//!
//! Nothing is resumed and nothing is sent early: each connection is a full handshake, so each is verified.
//!
//! [`TLS_RELOAD_EVERY`]: crate::limits::TLS_RELOAD_EVERY
//! [`TLS_RECHECK_EVERY`]: crate::limits::TLS_RECHECK_EVERY

mod certificate;
mod explain;
mod short;

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};
use webpki::{EndEntityCert, KeyUsage};

pub use self::certificate::Certificate;
use self::short::Short;
pub(super) use self::{
    certificate::bearer,
    explain::{accepting, connecting},
};
use crate::{
    clock,
    config::{TlsError, TlsFault},
    limits::{TLS_EXPIRY_WARNING, TLS_FILE_BYTES_MAX, TLS_RELOAD_PAUSE},
    name::AgentName,
    role::Role,
};

/// The protocol, as TLS negotiates it: no other service's client gets as far as the hello.
pub(super) const ALPN: &[u8] = b"leasehold/1";

/// Certificates for an agent or a client: those of the authorities that it trusts, its own, and its own key.
///
/// `leasehold certs init` and `leasehold certs issue NAME` make them. Nothing is read before [`Builder::start`] or
/// [`ClientBuilder::connect`], which report all that is wrong. The files are read again while it runs; clones share what
/// was read.
///
/// ```no_run
/// # async fn start() -> leasehold::Result<()> {
/// use leasehold::{Agent, Tls};
///
/// let tls = Tls::from_files("certs/ca.crt", "certs/a.crt", "certs/a.key");
/// let founders = ["10.0.0.1:7101", "10.0.0.2:7101", "10.0.0.3:7101"];
/// let agent = Agent::builder("a").listen("10.0.0.1:7101").founders(founders).tls(tls).start().await?;
/// # agent.shutdown().await; Ok(()) }
/// ```
///
/// [`Builder::start`]: crate::Builder::start
/// [`ClientBuilder::connect`]: crate::ClientBuilder::connect
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    state: Mutex<State>,
}

enum Source {
    Files { ca: PathBuf, cert: PathBuf, key: PathBuf },
    Pem(Pem),
}

#[derive(Default)]
struct State {
    loaded: Option<Arc<Loaded>>,
    /// The digest of what was read last and can't be used: it is told once.
    refused: Option<Vec<u8>>,
    /// When it was looked last, by the wall clock.
    looked: u64,
}

/// The three texts.
struct Pem {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What is in use.
pub(crate) struct Loaded {
    digest: Vec<u8>,
    pub(crate) role: Role,
    pub(crate) name: AgentName,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    trusted: Trusted,
    own: CertificateDer<'static>,
}

/// Which end of a connection a certificate is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It called.
    Calling,
    /// It answered.
    Answering,
}

/// The authorities.
struct Trusted(RootCertStore);

impl Trusted {
    /// As rustls verifies, with its own verifier, for a connection that is there already.
    fn verify(&self, chain: &[CertificateDer<'_>], end: End) -> Result<(), webpki::Error> {
        let (own, between) = chain.split_first().ok_or(webpki::Error::UnknownIssuer)?;
        let certificate = EndEntityCert::try_from(own)?;
        let usage = match end {
            End::Calling => KeyUsage::client_auth(),
            End::Answering => KeyUsage::server_auth(),
        };
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        certificate.verify_for_usage(algorithms, &self.0.roots, between, now(), usage, None, None)?;
        if end == End::Answering {
            certificate.verify_is_valid_for_subject_name(&member_host())?;
        }
        Ok(())
    }
}

/// The wall clock, by which certificates are dated. No lease depends on it.
#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock::wall_unix_ms()))
}

/// What every member's certificate is verified for.
pub(super) fn member_host() -> ServerName<'static> {
    static_name(Certificate::MEMBER_HOST)
}

fn static_name(host: &'static str) -> ServerName<'static> {
    // It is a DNS name; if it weren't, an address that no certificate has verifies nobody.
    ServerName::try_from(host).unwrap_or(ServerName::IpAddress(rustls::pki_types::IpAddr::V4([0; 4].into())))
}

impl Tls {
    /// From files in PEM: the authorities' certificates (several while one takes another's place), this one's own (with
    /// those between it and the authority, if any), and its key.
    pub fn from_files(ca: impl Into<PathBuf>, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::of(Source::Files { ca: ca.into(), cert: cert.into(), key: key.into() })
    }

    /// The same from texts in PEM. They stay as they are: nothing is loaded again.
    pub fn from_pem(ca: impl Into<Vec<u8>>, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::of(Source::Pem(Pem { ca: ca.into(), cert: cert.into(), key: key.into() }))
    }

    fn of(source: Source) -> Self {
        Self { inner: Arc::new(Inner { source, state: Mutex::default() }) }
    }

    /// Reads the files at once, instead of within 10 s. Whether they had changed; then new connections use what they say,
    /// and connections that this side made are made anew. It blocks while it reads.
    ///
    /// # Errors
    /// [`TlsError`]: they can't be used, or are another agent's. What was there stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let pem = self.inner.source.read()?;
        let digest = pem.digest();
        let before = self.state().loaded.clone();
        if before.as_ref().is_some_and(|before| before.digest == digest) {
            return Ok(false);
        }
        let loaded = Loaded::of(&pem, &self.inner.source, digest.clone());
        let mut state = self.state();
        let checked = loaded.and_then(|loaded| {
            if let Some(before) = &before {
                let faults = loaded.not_of(before.role, &before.name, &self.inner.source);
                if !faults.is_empty() {
                    return Err(TlsError { faults });
                }
            }
            Ok(loaded)
        });
        match checked {
            Ok(loaded) => {
                state.loaded = Some(Arc::new(loaded));
                state.refused = None;
                Ok(before.is_some())
            }
            Err(error) => {
                state.refused = Some(digest);
                Err(error)
            }
        }
    }

    /// The own certificate that is in use.
    ///
    /// # Errors
    /// [`TlsError`] when nothing was read yet, and what there is can't be used. It blocks while it reads.
    pub fn certificate(&self) -> Result<Certificate, TlsError> {
        Ok(Certificate::of(&self.loaded()?.own))
    }

    /// What is in use; read, if nothing was yet.
    pub(crate) fn loaded(&self) -> Result<Arc<Loaded>, TlsError> {
        if let Some(loaded) = self.in_use() {
            return Ok(loaded);
        }
        self.reload()?;
        self.in_use().ok_or_else(|| TlsError { faults: Vec::new() })
    }

    /// What is in use, if anything was read.
    pub(super) fn in_use(&self) -> Option<Arc<Loaded>> {
        self.state().loaded.clone()
    }

    /// What is wrong with them for this name, in a role that covers this one. Blocks while it reads.
    pub(crate) fn faults(&self, needs: Role, name: Option<&AgentName>) -> Vec<TlsFault> {
        match self.loaded() {
            Ok(loaded) => name.map_or_else(Vec::new, |name| loaded.not_of(needs, name, &self.inner.source)),
            Err(error) => error.faults,
        }
    }

    /// Looks whether the files are others, and tells what comes of it. Blocks while it reads.
    pub(super) fn look_again(&self) {
        if matches!(self.inner.source, Source::Pem(_)) {
            return;
        }
        let told = {
            let mut state = self.state();
            state.looked = clock::wall_unix_ms();
            state.refused.clone()
        };
        match self.reload() {
            Ok(false) => self.state().refused = None,
            Ok(true) => match self.certificate() {
                Ok(own) => tracing::info!(
                    expires = %own.expires,
                    fingerprint = own.fingerprint,
                    "the certificates have changed: new connections use them"
                ),
                Err(error) => tracing::warn!(%error, "the certificates have changed"),
            },
            // What can't even be read is told each time.
            Err(error) if is_unreadable(&error) || told != self.state().refused => tracing::warn!(
                %error,
                "the certificates have changed and can't be used: those from before stay in use; mend the files, they are looked at again"
            ),
            Err(_) => {}
        }
    }

    /// Whether a failed handshake is a reason to look at the files: not if that was just done, or is being done.
    pub(super) fn may_look(&self) -> bool {
        if matches!(self.inner.source, Source::Pem(_)) {
            return false;
        }
        let (now, mut state) = (clock::wall_unix_ms(), self.state());
        let may = Duration::from_millis(now.abs_diff(state.looked)) >= TLS_RELOAD_PAUSE;
        if may {
            state.looked = now;
        }
        may
    }

    /// Warns when the own certificate ends soon; whether it did.
    pub(super) fn warn_of_expiry(&self) -> bool {
        let Some(loaded) = self.in_use() else { return false };
        let own = Certificate::of(&loaded.own);
        let left = certificate::expires(&loaded.own).saturating_sub(now().as_secs());
        let warns = Duration::from_secs(left) < TLS_EXPIRY_WARNING;
        if warns {
            let days = left / (24 * 60 * 60);
            tracing::warn!(
                agent = %loaded.name,
                expires = %own.expires,
                days,
                "this agent's certificate ends soon: nobody talks to it then; issue a new one with `leasehold certs issue` and put it in the old one's place"
            );
        }
        warns
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key stays out of it.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ca, cert, key] = self.inner.source.names();
        f.debug_struct("Tls").field("ca", &ca).field("cert", &cert).field("key", &key).finish()
    }
}

impl Source {
    fn names(&self) -> [String; 3] {
        match self {
            Self::Files { ca, cert, key } => [ca, cert, key].map(|path| path.display().to_string()),
            Self::Pem(_) => ["ca", "cert", "key"].map(|what| format!("({what}, given as text)")),
        }
    }

    fn read(&self) -> Result<Pem, TlsError> {
        let (ca, cert, key) = match self {
            Self::Pem(Pem { ca, cert, key }) => {
                return Ok(Pem { ca: ca.clone(), cert: cert.clone(), key: key.clone() });
            }
            Self::Files { ca, cert, key } => (ca, cert, key),
        };
        let mut faults = Vec::new();
        let mut read = |what, path: &PathBuf| {
            read_bounded(path).unwrap_or_else(|detail| {
                faults.push(TlsFault::Unreadable { what, file: path.display().to_string(), detail });
                Vec::new()
            })
        };
        let pem = Pem {
            ca: read("authority's certificate", ca),
            cert: read("certificate", cert),
            key: read("key", key),
        };
        if faults.is_empty() { Ok(pem) } else { Err(TlsError { faults }) }
    }
}

fn is_unreadable(error: &TlsError) -> bool {
    error.faults.iter().any(|fault| matches!(fault, TlsFault::Unreadable { .. }))
}

fn read_bounded(path: &PathBuf) -> Result<Vec<u8>, String> {
    let bound = u64::try_from(TLS_FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    // A pipe would be waited for.
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(bound + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > TLS_FILE_BYTES_MAX {
        return Err(format!("it has more than {TLS_FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

impl Pem {
    fn digest(&self) -> Vec<u8> {
        let parts = [&self.ca, &self.cert, &self.key].map(|part| certificate::sha256(part));
        certificate::sha256(&parts.concat())
    }
}

impl Loaded {
    fn of(pem: &Pem, source: &Source, digest: Vec<u8>) -> Result<Self, TlsError> {
        let [ca, cert, key] = source.names();
        let mut faults = Vec::new();
        let mut kept = |result| match result {
            Ok(parsed) => parsed,
            Err(fault) => {
                faults.push(fault);
                Vec::new()
            }
        };
        let (authorities, chain) =
            (kept(certificate::parse(&ca, &pem.ca)), kept(certificate::parse(&cert, &pem.cert)));
        let private = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| {
            // Its text could quote the file.
            let detail = match error {
                rustls::pki_types::pem::Error::NoItemsFound => "there is none",
                _ => "it is not of the form",
            };
            faults.push(TlsFault::Malformed { what: "key", file: key.clone(), detail: detail.to_owned() });
        });
        let (Ok(private), false) = (private, authorities.is_empty() || chain.is_empty()) else {
            return Err(TlsError { faults });
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            if let Err(error) = roots.add(authority) {
                let detail = error.to_string();
                faults.push(TlsFault::Malformed {
                    what: "authority's certificate",
                    file: ca.clone(),
                    detail,
                });
            }
        }
        let trusted = Trusted(roots);
        let Some((role, name)) = certificate::bearer(&chain[0]) else {
            faults.push(TlsFault::NoBearer { cert: cert.clone() });
            return Err(TlsError { faults });
        };
        // A member's serves for both ends.
        let ends = if role == Role::Member { &[End::Calling, End::Answering][..] } else { &[End::Calling] };
        if let Some(error) = ends.iter().find_map(|end| trusted.verify(&chain, *end).err()) {
            faults.push(unfit(&error, &cert, &ca));
        }
        let configs = configs(&trusted, chain.clone(), private).map_err(|error| {
            faults.push(match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsFault::WrongKey { key, cert }
                }
                other => TlsFault::Unfit { cert, detail: other.to_string() },
            });
        });
        let own = chain.into_iter().next();
        match (configs, own) {
            (Ok((client, server)), Some(own)) if faults.is_empty() => {
                Ok(Self { digest, role, name, client, server, trusted, own })
            }
            _ => Err(TlsError { faults }),
        }
    }

    /// What is wrong with it for this name in this role.
    fn not_of(&self, needs: Role, name: &AgentName, source: &Source) -> Vec<TlsFault> {
        if self.role.covers(needs) && self.name == *name {
            return Vec::new();
        }
        let [_, cert, _] = source.names();
        let (role, bearer) = (self.role, self.name.clone());
        vec![TlsFault::NotItsBearer { cert, role, bearer, needs, name: name.clone() }]
    }

    /// Whether this chain, which was verified once, would be verified now.
    pub(super) fn still_holds(&self, chain: &[CertificateDer<'_>], end: End) -> Result<(), String> {
        self.trusted.verify(chain, end).map_err(|error| error.to_string())
    }
}

fn unfit(error: &webpki::Error, cert: &str, ca: &str) -> TlsFault {
    let cert = cert.to_owned();
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            let at = i64::try_from(not_after.as_secs()).ok();
            let at = at.and_then(|at| chrono::DateTime::from_timestamp(at, 0)).unwrap_or_default();
            TlsFault::Expired { cert, detail: format!("at {at}") }
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            TlsFault::UnknownAuthority { cert, ca: ca.to_owned() }
        }
        webpki::Error::CertNotValidForName(_) => TlsFault::Unfit {
            cert,
            detail: format!("a member's needs the DNS name {} as well", Certificate::MEMBER_HOST),
        },
        other => TlsFault::Unfit { cert, detail: other.to_string() },
    }
}

/// For calling, and for answering. The provider is given to each: none is installed for the whole process, whose embedder
/// may have another one.
fn configs(
    trusted: &Trusted,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let roots = Arc::new(trusted.0.clone());
    let unusable = |error: VerifierBuilderError| rustls::Error::General(error.to_string());
    let of_members = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
    let mut client = ClientConfig::builder_with_details(provider.clone(), Arc::new(WallClock))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Short(
            of_members.build().map_err(unusable)? as Arc<dyn ServerCertVerifier>
        )))
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    // Every member has the same name, so there is nothing to choose by it.
    client.enable_sni = false;
    let of_all = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let of_all = Arc::new(Short(of_all.build().map_err(unusable)?));
    let mut server = ServerConfig::builder_with_details(provider, Arc::new(WallClock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(of_all)
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok((Arc::new(client), Arc::new(server)))
}
