//! The TLS handshake on both sides, and the certificate that the other end has shown.

use std::sync::Arc;

use rustls::{CommonState, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    super::{
        security::Bearer,
        tls::{self, ALPN, Certificate, End, Loaded, Tls},
    },
    stream::{Peer, Stream},
};
use crate::{
    clock,
    limits::{TLS_EXPIRY_REMINDER, TLS_RECHECK_EVERY, TLS_RELOAD_EVERY},
    runtime::{self, sleep},
};

/// Who is at the other end.
pub(super) struct TlsPeer {
    pub(super) bearer: Bearer,
    chain: Vec<CertificateDer<'static>>,
    end: End,
    /// The last second in which all of the chain holds, since 1970.
    expires: u64,
    tls: Tls,
    /// What this side had when they met.
    met_with: Arc<Loaded>,
}

impl TlsPeer {
    fn of(tls: &Tls, met_with: Arc<Loaded>, state: &CommonState, end: End) -> Result<Self, String> {
        if state.alpn_protocol() != Some(ALPN) {
            return Err("it speaks TLS, but did not ask for leasehold (its ALPN is another one)".to_owned());
        }
        let chain: Vec<_> = state
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect();
        let own = chain.first().ok_or("it has shown no certificate")?;
        let (role, name) = tls::bearer(own).ok_or(
            "its certificate names no agent: it needs one URI leasehold://ROLE/NAME, as `leasehold certs issue` writes it",
        )?;
        let ends = chain.iter().map(|one| Certificate::of(one).expires.timestamp());
        let expires = ends.min().unwrap_or(0).try_into().unwrap_or(0);
        Ok(Self { bearer: Bearer { role, name }, chain, end, expires, tls: tls.clone(), met_with })
    }

    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.chain.first().map(|own| Certificate::of(own))
    }

    pub(super) fn is_of_old_certificates(&self) -> bool {
        self.tls.in_use().is_some_and(|in_use| !Arc::ptr_eq(&in_use, &self.met_with))
    }

    pub(super) async fn outlives(&self) -> String {
        let mut checked_with = self.met_with.clone();
        loop {
            sleep(TLS_RECHECK_EVERY).await;
            let Some(in_use) = self.tls.in_use() else { continue };
            let has_expired = clock::wall_unix_ms() / 1_000 > self.expires;
            if Arc::ptr_eq(&in_use, &checked_with) && !has_expired {
                continue;
            }
            if let Err(why) = in_use.still_holds(&self.chain, self.end) {
                tracing::warn!(peer = %self.bearer.name, role = %self.bearer.role, why, "closing a connection: its certificate holds no more");
                return format!("the certificate of {} holds no more: {why}", self.bearer.name);
            }
            checked_with = in_use;
        }
    }
}

/// As who answers. The error is for the log.
pub(super) async fn answer(tls: &Tls, stream: TcpStream) -> Result<(Stream, Peer), String> {
    let loaded = tls.in_use().ok_or("the certificates are not read yet")?;
    match TlsAcceptor::from(loaded.server.clone()).accept(stream).into_fallible().await {
        Ok(stream) => {
            let peer = TlsPeer::of(tls, loaded, stream.get_ref().1, End::Calling)?;
            Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), Peer::Known(peer)))
        }
        Err((error, stream)) => {
            look_again(tls);
            let why = tls::accepting(&error);
            linger(stream).await;
            Err(why)
        }
    }
}

/// What it has sent is read, as far as it goes: left unread it would make the system reset the connection, and the alert
/// that says why would be lost with it. The handshake's time bounds it.
async fn linger(mut stream: TcpStream) {
    let mut rest = [0; 4096];
    let _ = stream.shutdown().await;
    for _ in 0..16 {
        if !matches!(stream.read(&mut rest).await, Ok(1..)) {
            return;
        }
    }
}

/// As who calls.
pub(super) async fn call(tls: &Tls, stream: TcpStream) -> Result<(Stream, Peer), String> {
    let loaded = tls.in_use().ok_or("the certificates are not read yet")?;
    match TlsConnector::from(loaded.client.clone()).connect(tls::member_host(), stream).await {
        Ok(stream) => {
            let peer = TlsPeer::of(tls, loaded, stream.get_ref().1, End::Answering)?;
            Ok((Stream::Tls(Box::new(TlsStream::Client(stream))), Peer::Known(peer)))
        }
        Err(error) => {
            look_again(tls);
            Err(tls::connecting(&error))
        }
    }
}

/// Perhaps the files are others by now.
pub(super) fn look_again(tls: &Tls) {
    if tls.may_look() {
        let tls = tls.clone();
        drop(runtime::spawn_blocking(move || tls.look_again()));
    }
}

/// Looks at the files from time to time, and warns when the own certificate ends soon. Never ends by itself.
pub(super) async fn keep(tls: Tls) {
    let mut warned: Option<u64> = None;
    loop {
        let now = clock::wall_unix_ms();
        let is_due = warned.is_none_or(|at| u128::from(now.abs_diff(at)) >= TLS_EXPIRY_REMINDER.as_millis());
        if is_due && tls.warn_of_expiry() {
            warned = Some(now);
        }
        sleep(TLS_RELOAD_EVERY).await;
        let files = tls.clone();
        let _ = runtime::spawn_blocking(move || files.look_again()).await;
    }
}
