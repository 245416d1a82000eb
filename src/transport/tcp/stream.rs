//! A connection's bytes: as they are, or in TLS. Here it is found out what the other end speaks, and whose certificate it
//! has; nothing below and nothing above asks.
//!
//! Two programs of which one speaks TLS and the other doesn't must still be able to tell each other so. The first byte
//! tells them apart: TLS begins with 22, a hello of ours with a letter. Whoever answers says it in a refusal of the
//! handshake's form, in plaintext, and TLS on the calling side takes that for what it is: no TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::super::{
    error::{NotSent, RejectCode},
    handshake::Rejection,
    pipe,
    security::{Bearer, Security},
};
#[cfg(feature = "tls")]
use super::{
    super::tls,
    tls_peer::{self, TlsPeer},
};

/// How a record of TLS with a handshake in it begins.
const TLS_HANDSHAKE: u8 = 22;

/// What a caller is told, and what is logged, where one side speaks TLS and the other doesn't.
const THEY_SPEAK_TLS: &str = "the caller speaks TLS, this agent does not: give this agent --tls-ca, --tls-cert and --tls-key (Builder::tls), or the caller none";
const WE_SPEAK_TLS: &str = "this agent speaks TLS, the caller does not: give the caller --tls-ca, --tls-cert and --tls-key (ClientBuilder::tls, Builder::tls)";

/// A connection, both ways.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

/// Who is at the other end, by its certificate.
pub(super) enum Peer {
    /// Nobody knows.
    Anybody,
    #[cfg(feature = "tls")]
    Known(TlsPeer),
}

impl Peer {
    /// Whose certificate it has.
    pub(super) fn bearer(&self) -> Option<&Bearer> {
        match self {
            Self::Anybody => None,
            #[cfg(feature = "tls")]
            Self::Known(peer) => Some(&peer.bearer),
        }
    }

    /// Its certificate.
    #[cfg(feature = "tls")]
    pub(super) fn certificate(&self) -> Option<tls::Certificate> {
        match self {
            Self::Anybody => None,
            Self::Known(peer) => peer.certificate(),
        }
    }

    /// Resolves, with the reason, when its certificate holds no more.
    pub(super) async fn outlives(&self) -> String {
        match self {
            Self::Anybody => std::future::pending().await,
            #[cfg(feature = "tls")]
            Self::Known(peer) => peer.outlives().await,
        }
    }

    /// Whether this side's certificates have changed since, so that a new connection is due.
    pub(super) fn is_of_old_certificates(&self) -> bool {
        match self {
            Self::Anybody => false,
            #[cfg(feature = "tls")]
            Self::Known(peer) => peer.is_of_old_certificates(),
        }
    }
}

/// Takes what a caller begins with. The error is for the log; the caller was told as far as it can understand it.
pub(super) async fn answer(security: &Security, mut stream: TcpStream) -> Result<(Stream, Peer), String> {
    let mut first = [0];
    if stream.peek(&mut first).await.map_err(|error| error.to_string())? == 0 {
        return Err("it was closed before it said anything".to_owned());
    }
    if first[0] != TLS_HANDSHAKE {
        if !security.is_tls() {
            return Ok((Stream::Plain(stream), Peer::Anybody));
        }
        // A stranger gets no answer.
        pipe::read_greeting(&mut stream).await.map_err(|malformed| malformed.0)?;
        return Err(refuse(&mut stream, WE_SPEAK_TLS).await);
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &security.tls {
        return tls_peer::answer(tls, stream).await;
    }
    // What is left unread would make the system reset the connection, and the refusal would be lost with it.
    let mut hello = [0; 4096];
    let _ = stream.read(&mut hello).await;
    Err(refuse(&mut stream, THEY_SPEAK_TLS).await)
}

async fn refuse(stream: &mut TcpStream, text: &str) -> String {
    let rejection = Rejection { code: RejectCode::Security, text: text.to_owned() };
    let told = async {
        stream.write_all(&rejection.write()).await?;
        stream.shutdown().await
    };
    let _: io::Result<()> = told.await;
    rejection.to_string()
}

/// Begins as a caller.
#[cfg_attr(not(feature = "tls"), expect(clippy::unused_async, reason = "TLS waits"))]
pub(super) async fn call(security: &Security, stream: TcpStream) -> Result<(Stream, Peer), NotSent> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &security.tls {
        return tls_peer::call(tls, stream).await.map_err(|detail| NotSent::Tls { detail });
    }
    let _ = security;
    Ok((Stream::Plain(stream), Peer::Anybody))
}

impl Stream {
    /// The two ways. Both must go for the connection to end.
    pub(super) fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (Reader::Tls(reader), Writer::Tls(writer))
            }
        }
    }
}

/// What comes.
pub(super) enum Reader {
    Plain(OwnedReadHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::ReadHalf<Box<tokio_rustls::TlsStream<TcpStream>>>),
}

/// What goes.
pub(super) enum Writer {
    Plain(OwnedWriteHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::WriteHalf<Box<tokio_rustls::TlsStream<TcpStream>>>),
}

/// TLS says in records of its own that a connection ends, and takes an end without them for an attack. Here it is none: a
/// frame knows its length, and a connection that is lost between two of them may be lost at any time.
#[cfg(feature = "tls")]
fn ended(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        // A caller learns by an alert at its first read that its certificate was refused.
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Poll::Ready(Err(io::Error::new(error.kind(), tls::connecting(&error))))
        }
        other => other,
    }
}

macro_rules! reads {
    ($type:ident) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
                    #[cfg(feature = "tls")]
                    Self::Tls(stream) => ended(Pin::new(stream).poll_read(cx, buffer)),
                }
            }
        }
    };
}

macro_rules! writes {
    ($type:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
                    #[cfg(feature = "tls")]
                    Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
                    #[cfg(feature = "tls")]
                    Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
                    #[cfg(feature = "tls")]
                    Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
                }
            }
        }
    };
}

reads!(Stream);
writes!(Stream);
reads!(Reader);
writes!(Writer);
