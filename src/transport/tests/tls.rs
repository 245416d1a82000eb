//! TLS: the contract over it, and who is refused, by which name, on which side.

use std::path::PathBuf;

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    super::tls::{ALPN, Certificate, Tls, member_host},
    hostile_peer::Log,
    *,
};
use crate::{
    clock,
    config::TlsFault,
    limits::{TLS_CHAIN_MAX, TLS_RECHECK_EVERY},
};

#[path = "../../../tests/common/certificates.rs"]
mod certificates;

use certificates::{Authority, Issued};

/// Each end has a certificate of its own, of one authority.
pub(super) struct OverTls(Authority);

impl OverTls {
    pub(super) fn new() -> Self {
        Self(Authority::new())
    }

    fn settings(&self, identity: &watch::Receiver<Identity>) -> Settings {
        let identity = identity.borrow().clone();
        settings(&tls_of(&self.0, &self.0.issue(identity.role.as_str(), identity.agent.as_str())))
    }
}

#[async_trait]
impl World for OverTls {
    async fn bind(
        &self,
        at: Option<&str>,
        identity: watch::Receiver<Identity>,
    ) -> Result<Box<dyn Transport>, BindError> {
        let settings = self.settings(&identity);
        Ok(Box::new(TcpTransport::bind(at.unwrap_or("127.0.0.1:0"), identity, settings).await?))
    }

    fn caller(&self, identity: watch::Receiver<Identity>) -> Box<dyn Transport> {
        let settings = self.settings(&identity);
        Box::new(TcpTransport::caller(identity, settings))
    }
}

/// Read already.
fn tls_of(authority: &Authority, issued: &Issued) -> Tls {
    let tls = Tls::from_pem(authority.pem.clone(), issued.cert.clone(), issued.key.clone());
    tls.loaded().unwrap();
    tls
}

fn settings(tls: &Tls) -> Settings {
    Settings { security: Security { tls: Some(tls.clone()), ..Security::default() }, ..brisk() }
}

fn allowing(settings: Settings, role: Role, name: &str) -> Settings {
    let mut security = settings.security;
    security.allowed.add(role, [AgentName::new(name).unwrap()]);
    Settings { security, ..settings }
}

async fn serve(settings: Settings) -> (Arc<Script>, TcpTransport) {
    let script = Script::new();
    let server = TcpTransport::bind("127.0.0.1:0", fixed(member("server", 1, 1)), settings).await.unwrap();
    server.serve(script.clone());
    (script, server)
}

fn caller(identity: Identity, settings: Settings) -> TcpTransport {
    TcpTransport::caller(fixed(identity), settings)
}

/// Calls, and is refused with all of this in the reason; nothing was begun.
async fn refused(caller: &TcpTransport, server: &TcpTransport, script: &Script, says: &[&str]) {
    let reason = within(async { not_sent(echo(caller, &to(server)).await) }).await.to_string();
    for part in says {
        assert!(reason.contains(part), "{part:?} is missing in: {reason}");
    }
    assert_eq!(script.begun(), 0);
}

#[tokio::test]
async fn the_certificate_of_another_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (script, server) = serve(settings(&tls_of(&ours, &ours.issue("member", "server")))).await;
    // It trusts nobody there, and says so.
    let stranger = caller(client(), settings(&tls_of(&theirs, &theirs.issue("client", "client"))));
    refused(
        &stranger,
        &server,
        &script,
        &["certificate of the agent there", "not signed by an authority that is trusted here"],
    )
    .await;
    // It trusts the server, and the server doesn't trust it.
    let both = format!("{}{}", ours.pem, theirs.pem);
    let issued = theirs.issue("client", "client");
    let trusting = Tls::from_pem(both, issued.cert, issued.key);
    trusting.loaded().unwrap();
    let log = Log::default();
    let _logging = log.listen();
    let half = caller(client(), settings(&trusting));
    refused(&half, &server, &script, &["trusts another certificate authority", "--tls-ca"]).await;
    within(async {
        while !log.text().contains("the caller's certificate is not signed") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_says_another_name_or_role_than_its_certificate_is_refused() {
    let authority = Authority::new();
    let member_tls = tls_of(&authority, &authority.issue("member", "server"));
    let (script, server) = serve(settings(&member_tls)).await;
    let issued = |role, name| settings(&tls_of(&authority, &authority.issue(role, name)));
    let liar = caller(client(), issued("client", "another"));
    refused(&liar, &server, &script, &["client client", "is that of the client another"]).await;
    let climber = caller(member("client", 9, 1), issued("client", "client"));
    refused(&climber, &server, &script, &["the member client", "is that of the client client"]).await;
    let climber = caller(client(), issued("reader", "client"));
    refused(&climber, &server, &script, &["is that of the reader client"]).await;
    // Whoever answers under another name than its own.
    let (script, posing) = serve(issued("member", "another")).await;
    let honest = caller(client(), issued("client", "client"));
    refused(&honest, &posing, &script, &["the member server", "is that of the member another"]).await;
    // A member may come as a client.
    let (_, server) = serve(settings(&member_tls)).await;
    let tool = caller(client(), issued("member", "client"));
    echo(&tool, &to(&server)).await.unwrap();
    let who = tool.call(&to(&server), Lane::Control, WHO, Bytes::new(), AMPLE).await.unwrap();
    let who = String::from_utf8_lossy(&who).into_owned();
    assert!(who.contains("role: Client") && who.contains("rights: Member"), "{who}");
}

#[tokio::test]
async fn only_a_member_answers() {
    let authority = Authority::new();
    let (script, server) = serve(settings(&tls_of(&authority, &authority.issue("client", "server")))).await;
    let honest = caller(client(), settings(&tls_of(&authority, &authority.issue("client", "client"))));
    refused(&honest, &server, &script, &["only a member's may answer"]).await;
    // With the purpose, and without the name.
    let fake = authority.issue_but("client", "server", |params| {
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    });
    let (script, server) = serve(settings(&tls_of(&authority, &fake))).await;
    refused(&honest, &server, &script, &["leasehold.internal"]).await;
    // With both, and without the role.
    let fake = authority.issue_but("client", "server", |params| {
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(rcgen::SanType::DnsName("leasehold.internal".try_into().unwrap()));
    });
    let (script, server) = serve(settings(&tls_of(&authority, &fake))).await;
    refused(&honest, &server, &script, &["is that of the client server"]).await;
}

#[tokio::test]
async fn only_the_names_that_are_allowed_come_in_and_are_called() {
    let authority = Authority::new();
    let of = |role, name| settings(&tls_of(&authority, &authority.issue(role, name)));
    let (script, server) = serve(allowing(of("member", "server"), Role::Client, "another")).await;
    let honest = caller(client(), of("client", "client"));
    refused(
        &honest,
        &server,
        &script,
        &["client client", "not among the names that are allowed", "--allow-client"],
    )
    .await;
    let (_, server) = serve(allowing(of("member", "server"), Role::Client, "client")).await;
    echo(&honest, &to(&server)).await.unwrap();
    let (script, server) = serve(of("member", "server")).await;
    let choosy = caller(client(), allowing(of("client", "client"), Role::Member, "another"));
    refused(&choosy, &server, &script, &["member server", "not among the names"]).await;
}

#[tokio::test]
async fn plaintext_and_tls_tell_each_other_by_name() {
    let authority = Authority::new();
    let tls = settings(&tls_of(&authority, &authority.issue("member", "server")));
    let log = Log::default();
    let _logging = log.listen();
    let (script, server) = serve(tls).await;
    let plain = caller(client(), brisk());
    refused(&plain, &server, &script, &["this agent speaks TLS, the caller does not", "--tls-ca"]).await;
    assert!(log.text().contains("this agent speaks TLS, the caller does not"), "{}", log.text());
    let (script, server) = serve(brisk()).await;
    let modern = caller(client(), settings(&tls_of(&authority, &authority.issue("client", "client"))));
    refused(&modern, &server, &script, &["does not speak TLS, this side does", "--tls-ca"]).await;
    assert!(log.text().contains("the caller speaks TLS, this agent does not"), "{}", log.text());
}

/// A caller that does TLS by itself.
fn by_hand(
    authority: &Authority,
    issued: Option<&Issued>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    showing(authority, issued, version, 0)
}

/// The same, with so many certificates behind its own that nobody needs.
fn showing(
    authority: &Authority,
    issued: Option<&Issued>,
    version: &'static rustls::SupportedProtocolVersion,
    more: usize,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap(); 1 + more],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// What it hears when it greets.
async fn greet_by_hand(server: &TcpTransport, config: ClientConfig) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(server.address().unwrap()).await.unwrap();
    let told = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(member_host(), stream).await?;
        stream.write_all(&handshake::hello(&client(), Lane::Control)).await?;
        let mut said = vec![0; handshake::HEAD_BYTES];
        stream.read_exact(&mut said).await?;
        Ok::<_, std::io::Error>(said)
    };
    within(told).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn no_certificate_an_expired_one_an_older_tls_and_other_protocols_are_refused() {
    let authority = Authority::new();
    let (script, server) = serve(settings(&tls_of(&authority, &authority.issue("member", "server")))).await;
    let good = authority.issue("client", "client");
    let welcome = greet_by_hand(&server, by_hand(&authority, Some(&good), &TLS13)).await.unwrap();
    assert!(welcome.starts_with(&handshake::MAGIC));
    let why = greet_by_hand(&server, by_hand(&authority, None, &TLS13)).await.unwrap_err();
    assert!(why.contains("CertificateRequired"), "{why}");
    let expired = authority.issue_expired("client", "client");
    let why = greet_by_hand(&server, by_hand(&authority, Some(&expired), &TLS13)).await.unwrap_err();
    assert!(why.contains("CertificateExpired"), "{why}");
    let why = greet_by_hand(&server, by_hand(&authority, Some(&good), &TLS12)).await.unwrap_err();
    assert!(why.contains("ProtocolVersion"), "{why}");
    let mut other = by_hand(&authority, Some(&good), &TLS13);
    other.alpn_protocols = vec![b"h2".to_vec()];
    let why = greet_by_hand(&server, other).await.unwrap_err();
    assert!(why.contains("NoApplicationProtocol"), "{why}");
    let mut without = by_hand(&authority, Some(&good), &TLS13);
    without.alpn_protocols.clear();
    greet_by_hand(&server, without).await.unwrap_err();
    // Two names for one key are none.
    let two = authority.issue_but("client", "client", |params| {
        params.subject_alt_names.push(rcgen::SanType::URI("leasehold://client/b".try_into().unwrap()));
    });
    greet_by_hand(&server, by_hand(&authority, Some(&two), &TLS13)).await.unwrap_err();
    assert_eq!(script.begun(), 0);
}

/// A path through some hundred of them would be looked for, for seconds, before their bearer has proved anything.
#[tokio::test]
async fn a_long_chain_is_refused_unread() {
    let authority = Authority::new();
    let (_script, server) = serve(settings(&tls_of(&authority, &authority.issue("member", "server")))).await;
    let good = authority.issue("client", "client");
    let config = showing(&authority, Some(&good), &TLS13, TLS_CHAIN_MAX);
    greet_by_hand(&server, config).await.unwrap();
    let config = showing(&authority, Some(&good), &TLS13, TLS_CHAIN_MAX + 1);
    greet_by_hand(&server, config).await.unwrap_err();
}

#[tokio::test]
async fn new_certificates_that_the_other_side_does_not_know_yet_cost_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let [(server_tls, server), (client_tls, caller)] = met(&dir, &old).await;
    let peer = to(&server);
    let both = format!("{}{}", old.pem, new.pem);
    new.issue("client", "client").write(dir.path(), "client", &both);
    assert!(client_tls.reload().unwrap());
    let log = Log::default();
    let _logging = log.listen();
    while !log.text().contains("not connected with the new certificates yet") {
        echo(&caller, &peer).await.unwrap();
    }
    old.issue("member", "server").write(dir.path(), "server", &both);
    assert!(server_tls.reload().unwrap());
    echo(&caller, &peer).await.unwrap();
}

#[tokio::test]
async fn who_dawdles_in_the_tls_handshake_or_sends_garbage_is_cut_off() {
    let authority = Authority::new();
    let tls = settings(&tls_of(&authority, &authority.issue("member", "server")));
    let (script, server) = serve(Settings { handshake_within: Duration::from_millis(150), ..tls }).await;
    let mut first = Vec::new();
    let config = by_hand(&authority, None, &TLS13);
    let mut hello = ClientConnection::new(Arc::new(config), member_host()).unwrap();
    hello.write_tls(&mut first).unwrap();
    let starts: [&[u8]; 6] = [b"", &[22], &first[..40], &first, b"GET / HTTP/1.1\r\n\r\n", &[0xff; 3_000]];
    for start in starts {
        let mut stream = TcpStream::connect(server.address().unwrap()).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut said = Vec::new();
        // A reset is as good an end as any.
        let _ = within(stream.read_to_end(&mut said)).await;
    }
    let good = caller(client(), settings(&tls_of(&authority, &authority.issue("client", "client"))));
    echo(&good, &to(&server)).await.unwrap();
    assert_eq!(script.begun(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_the_certificate_at_its_other_end_does() {
    let authority = Authority::new();
    let (_script, server) = serve(settings(&tls_of(&authority, &authority.issue("member", "server")))).await;
    let soon = clock::wall_unix_ms() / 1_000 + 3;
    let issued = authority.issue_until("client", "client", soon);
    let ending = caller(client(), settings(&tls_of(&authority, &issued)));
    echo(&ending, &to(&server)).await.unwrap();
    let peer = to(&server);
    let held = ending.call(&peer, Lane::Control, GATE, Bytes::new(), AMPLE * 2);
    let lost = within(async { unknown(held.await) }).await;
    assert!(matches!(lost, Unanswered::ConnectionLost { .. }), "{lost:?}");
    let late = clock::wall_unix_ms() / 1_000 - soon;
    assert!(late <= TLS_RECHECK_EVERY.as_secs() + 5, "{late} s");
    let reason = not_sent(echo(&ending, &to(&server)).await).to_string();
    assert!(reason.contains("this side's certificate has expired"), "{reason}");
}

fn files(dir: &tempfile::TempDir, ca: &str, issued: &Issued, name: &str) -> (Tls, [PathBuf; 3]) {
    let paths = issued.write(dir.path(), name, ca);
    let [ca, cert, key] = paths.clone();
    (Tls::from_files(ca, cert, key), paths)
}

/// A server and a caller that have met, and the files of each.
async fn met(dir: &tempfile::TempDir, authority: &Authority) -> [(Tls, TcpTransport); 2] {
    let [server_tls, client_tls] = [("member", "server"), ("client", "client")].map(|(role, name)| {
        let (tls, _) = files(dir, &authority.pem, &authority.issue(role, name), name);
        tls.loaded().unwrap();
        tls
    });
    let (_script, server) = serve(settings(&server_tls)).await;
    let caller = caller(client(), settings(&client_tls));
    echo(&caller, &to(&server)).await.unwrap();
    [(server_tls, server), (client_tls, caller)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_a_new_authority_take_over_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let [(server_tls, server), (client_tls, caller)] = met(&dir, &old).await;
    let peer = to(&server);
    // First all trust both; then all show the new ones; then nobody trusts the old one.
    let both = format!("{}{}", old.pem, new.pem);
    let steps = [(&both, &old), (&both, &new), (&new.pem, &new)];
    for (ca, authority) in steps {
        authority.issue("member", "server").write(dir.path(), "server", ca);
        assert!(server_tls.reload().unwrap());
        echo(&caller, &peer).await.unwrap();
        authority.issue("client", "client").write(dir.path(), "client", ca);
        assert!(client_tls.reload().unwrap() && !client_tls.reload().unwrap());
        echo(&caller, &peer).await.unwrap();
    }
    let stale = super::tls::caller(client(), settings(&tls_of(&old, &old.issue("client", "client"))));
    assert!(not_sent(echo(&stale, &peer).await).to_string().contains("not signed by an authority"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_an_authority_that_is_trusted_no_more_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let both = format!("{}{}", old.pem, new.pem);
    let server_cert = new.issue("member", "server");
    let (server_tls, _) = files(&dir, &both, &server_cert, "server");
    server_tls.loaded().unwrap();
    let (script, server) = serve(settings(&server_tls)).await;
    let issued = old.issue("client", "client");
    let client_tls = Tls::from_pem(both.clone(), issued.cert, issued.key);
    client_tls.loaded().unwrap();
    let caller = caller(client(), settings(&client_tls));
    let peer = to(&server);
    let held = caller.call(&peer, Lane::Control, GATE, Bytes::new(), AMPLE * 2);
    let removed = async {
        script.has_begun(1).await;
        server_cert.write(dir.path(), "server", &new.pem);
        assert!(server_tls.reload().unwrap());
    };
    let (held, ()) = within(async { tokio::join!(held, removed) }).await;
    assert!(matches!(unknown(held), Unanswered::ConnectionLost { .. }));
}

#[tokio::test]
async fn bad_new_files_leave_the_old_ones_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let issued = authority.issue("member", "a");
    let (tls, [ca, cert, key]) = files(&dir, &authority.pem, &issued, "a");
    tls.loaded().unwrap();
    let before = tls.certificate().unwrap();
    let log = Log::default();
    let _logging = log.listen();
    let faults = |tls: &Tls| tls.reload().unwrap_err().faults;
    std::fs::write(&cert, "nonsense").unwrap();
    assert!(matches!(faults(&tls)[..], [TlsFault::Malformed { what: "certificate", .. }]));
    authority.issue("member", "b").write(dir.path(), "a", &authority.pem);
    let fault = faults(&tls).remove(0);
    assert!(
        matches!(fault, TlsFault::NotItsBearer { .. }) && fault.to_string().contains("member b"),
        "{fault}"
    );
    std::fs::write(&key, &issued.key).unwrap();
    assert!(matches!(faults(&tls)[..], [TlsFault::WrongKey { .. }, ..]), "{:?}", faults(&tls));
    authority.issue_expired("member", "a").write(dir.path(), "a", &authority.pem);
    let fault = faults(&tls).remove(0);
    assert!(matches!(fault, TlsFault::Expired { .. }) && fault.to_string().contains("2002"), "{fault}");
    let fault = {
        Authority::new().issue("member", "a").write(dir.path(), "a", &authority.pem);
        faults(&tls).remove(0)
    };
    assert!(matches!(fault, TlsFault::UnknownAuthority { .. }), "{fault}");
    // It is told once, not at each look.
    tls.look_again();
    tls.look_again();
    std::fs::remove_file(&ca).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert_eq!(faults(&tls).len(), 2);
    assert_eq!(tls.certificate().unwrap(), before);
    issued.write(dir.path(), "a", &authority.pem);
    assert!(!tls.reload().unwrap(), "what is in use is there again");
    let fresh = authority.issue("member", "a");
    fresh.write(dir.path(), "a", &authority.pem);
    tls.look_again();
    assert_ne!(tls.certificate().unwrap().fingerprint, before.fingerprint);
    assert!(log.text().matches("those from before stay in use").count() <= 1, "{}", log.text());
}

#[test]
fn nothing_of_the_key_is_printed_and_all_faults_are_told() {
    let authority = Authority::new();
    let issued = authority.issue("member", "a");
    let tls = Tls::from_pem(authority.pem.clone(), issued.cert.clone(), issued.key.clone());
    tls.loaded().unwrap();
    let inside = issued.key.lines().nth(1).unwrap();
    assert!(!format!("{tls:?} {:?}", settings(&tls)).contains(inside));
    let wrong = Tls::from_pem("x", issued.key.clone(), issued.cert.clone()).reload().unwrap_err();
    assert_eq!(wrong.faults.len(), 3, "{wrong}");
    assert!(!wrong.to_string().contains(inside), "{wrong}");
    let files = Tls::from_files("/no/ca", "/no/cert", "/no/key").reload().unwrap_err();
    assert_eq!(files.faults.len(), 3, "{files}");
    assert!(
        files.to_string().contains("/no/key") && files.to_string().contains("3 certificates are wrong"),
        "{files}"
    );
}

#[test]
fn names_are_written_in_one_way_and_read_back() {
    let authority = Authority::new();
    for name in ["a", "host/17", "größer №", "%41", "a b?#&", &"x".repeat(128)] {
        let name = AgentName::new(name).unwrap();
        for role in Role::ALL {
            let uri = Certificate::uri(role, &name);
            let issued = authority.issue_but("client", "x", |params| {
                params.subject_alt_names = vec![rcgen::SanType::URI(uri.clone().try_into().unwrap())];
            });
            let read = Certificate::read_pem("x", issued.cert.as_bytes()).unwrap().remove(0);
            assert_eq!(read.bearer, Some((role, name.clone())), "{uri}");
            assert_eq!(read.fingerprint.len(), 64);
        }
    }
    for uri in [
        "leasehold://member",
        "leasehold://member/",
        "leasehold://observer/a",
        "leasehold://member/%61",
        "leasehold://member/%6",
        "leasehold://member/%c3%a9",
        "leasehold://member/%FF",
        "leasehold://member/a/b",
        "http://member/a",
        "leasehold://Member/a",
    ] {
        let issued = authority.issue_but("client", "x", |params| {
            params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        });
        let read = Certificate::read_pem("x", issued.cert.as_bytes()).unwrap().remove(0);
        assert_eq!(read.bearer, None, "{uri}");
    }
    let until = authority.issue_until("reader", "r", 2_000_000_000);
    let read = Certificate::read_pem("x", until.cert.as_bytes()).unwrap().remove(0);
    assert_eq!(read.expires.timestamp(), 2_000_000_000);
    let ca = Certificate::read_pem("x", authority.pem.as_bytes()).unwrap().remove(0);
    assert!(ca.is_authority && !read.is_authority);
    assert_eq!((ca.bearer, ca.expires.timestamp()), (None, 67_090_118_400), "an authority's is read as well");
}

#[test]
fn the_end_of_ones_own_certificate_is_warned_of() {
    let authority = Authority::new();
    let in_days = |days: u64| {
        let unix = clock::wall_unix_ms() / 1_000 + days * 24 * 60 * 60 + 60;
        tls_of(&authority, &authority.issue_until("member", "a", unix))
    };
    let log = Log::default();
    let _logging = log.listen();
    assert!(!in_days(31).warn_of_expiry());
    assert!(in_days(29).warn_of_expiry());
    assert!(log.text().contains("ends soon") && log.text().contains("days=29"), "{}", log.text());
}
