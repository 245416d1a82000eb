//! Calls from one process to another: opaque payloads under a method number, over TCP or inside one process.
//!
//! # What a caller may rely on
//!
//! - A call ends within its time, in an answer, the handler's refusal, or a [`CallError`] that says whether the
//!   request may have taken effect. "Not sent" is said only when that is certain; in doubt it is "unknown".
//! - A request is delivered at most once. Nothing here sends one again: repeating is the business of those who know
//!   that it is harmless (rule L7).
//! - Requests of one connection *start* in the order in which they were sent: the handler's future of one is polled
//!   for the first time before that of the next. They *run* side by side, and answers come in any order, so that a slow
//!   request holds up no fast one.
//! - Nobody is talked to before both sides have named themselves: protocol version, cluster, node, role (see
//!   [`handshake`]). A call that means a certain node is never delivered to another one. A cluster id that becomes known
//!   later counts too: the caller greets anew before its next call, and a request of another cluster is never begun.
//! - With TLS ([`tls`]) both sides have shown a certificate before that, and are who they say that they are.
//! - Lanes are connections apart: what is slow or large on one delays nothing on another.
//!
//! # Bounds
//!
//! Everything that waits has a bound in [`limits`](crate::limits) and a time-out in [`Settings`]: requests in flight
//! (in number and in bytes, on both sides), bytes queued for the socket, connections, handshakes under way, a frame,
//! a hello, connecting, the handshake, a write without progress, silence on an idle connection.
//!
//! # Who runs what
//!
//! Each [`Transport`] owns its tasks: one that accepts; two for each connection (one reads, one writes); one for each
//! request that is not answered at its first poll. [`Transport::shutdown`] ends them all and waits for it; dropping the
//! transport ends them too, and doesn't wait.

mod error;
mod frame;
#[cfg(feature = "test-support")]
pub(crate) mod fuzz;
mod handshake;
pub(crate) mod local;
mod memory;
pub(crate) mod pipe;
pub(crate) mod security;
pub(crate) mod serving;
mod tcp;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(feature = "chaos")]
pub(crate) use self::error::Stage;
#[cfg(any(test, feature = "chaos"))]
pub(crate) use self::error::{NotSent, Unanswered};
#[cfg(feature = "chaos")]
pub(crate) use self::handshake::name_in as name_in_greeting;
#[cfg(feature = "tls")]
pub use self::tls::{Certificate, Tls};
pub use self::{error::BindError, memory::InProcessNetwork};
pub(crate) use self::{
    error::{CallError, Refusal},
    security::Security,
    tcp::{Settings, TcpTransport},
};
#[cfg(test)]
pub(crate) use self::{
    error::{RejectCode, request_bytes_max},
    memory::InProcessTransport,
};
pub(crate) use crate::role::Role;
use crate::{
    id::{ClusterId, NodeId},
    name::AgentName,
};

/// What is asked for. The floors above assign the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Method(pub(crate) u8);

/// Which of the connections to a peer a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Short messages on whose arrival other people's time-outs hang: heartbeats, votes, log entries.
    Control,
    /// What users ask for. Many, and some stay unanswered for long: on the control lane they would use up the requests
    /// in flight that heartbeats need.
    Request,
    /// Large and in no hurry: snapshots.
    Bulk,
}

impl Lane {
    /// All of them, each at its number on the wire.
    pub(crate) const ALL: [Self; 3] = [Self::Control, Self::Request, Self::Bulk];

    const fn number(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Request => 1,
            Self::Bulk => 2,
        }
    }
}

/// Whom a call is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Peer {
    /// `host:port`; the host may be a DNS name, which is looked up at each connection.
    pub(crate) address: String,
    /// The node that must answer there; `None` takes whoever does.
    pub(crate) node: Option<NodeId>,
}

/// Who this side is. It can change while the transport runs (the cluster's id is known from the founding on): each
/// handshake takes the value of the moment, and the next call to a peer greets it anew when the cluster has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster, once known.
    pub(crate) cluster: Option<ClusterId>,
    /// The node; every member has one.
    pub(crate) node: Option<NodeId>,
    /// Member or client.
    pub(crate) role: Role,
    /// The agent's name, for people.
    pub(crate) agent: AgentName,
}

/// Who calls, as it said in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its cluster, if it knew one; then it is this side's, or this side knew none.
    pub(crate) cluster: Option<ClusterId>,
    /// Its node, if it has one. A member always does.
    pub(crate) node: Option<NodeId>,
    /// What it calls itself.
    pub(crate) role: Role,
    /// What it may do: its certificate's role. Without TLS whoever reaches the port may do all, unless it wants to
    /// read alone.
    pub(crate) rights: Role,
    /// Its name; with TLS that of its certificate.
    pub(crate) agent: AgentName,
    /// The lane on which it calls.
    pub(crate) lane: Lane,
    /// Where it calls from, for people.
    pub(crate) remote: String,
}

/// What answers requests.
#[async_trait]
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request, or refuses it.
    ///
    /// The first poll happens on the task that reads the connection, so what comes before the first `await` delays
    /// the connection's other requests: keep it short. The future is dropped, at whatever `await` it stands, when the
    /// caller's time is up, its connection is lost, or this side shuts down: what must be finished is spawned. The
    /// payload shares memory with its neighbours on the wire: what is kept for long is copied.
    async fn handle(&self, caller: &Caller, method: Method, payload: Bytes) -> Result<Bytes, Refusal>;

    /// Whether this caller may connect at all; asked once for each connection, after the checks of the handshake.
    fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        let _ = caller;
        Ok(())
    }
}

/// One end of a network: calls others, and answers them when it listens.
#[async_trait]
pub(crate) trait Transport: Send + Sync + 'static {
    /// The address that it listens on, with the port that was taken; `None` for one that only calls.
    fn address(&self) -> Option<&str>;

    /// Begins to answer. Until then, who connects waits (at most its own handshake time-out). Does nothing when it
    /// doesn't listen, answers already, or is shut down.
    fn serve(&self, handler: Arc<dyn Handler>);

    /// Calls a peer and waits for its answer, at most `within`.
    ///
    /// Dropping the future forgets the call: a request that is under way is still delivered and may take effect, its
    /// answer is ignored.
    ///
    /// # Errors
    /// [`CallError`], which says whether the request may have taken effect.
    async fn call(
        &self,
        to: &Peer,
        lane: Lane,
        method: Method,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError>;

    /// The certificate that the peer at this address has shown, while there is a connection to it.
    #[cfg(feature = "tls")]
    fn certificate(&self, address: &str) -> Option<Certificate> {
        let _ = address;
        None
    }

    /// Stops listening, drops every handler and connection, and waits until all tasks have ended: after it the port
    /// is free. Calls under way end as unknown, later ones as not sent. Dropping the future leaves the rest to end by
    /// itself. Shutting down twice is harmless. Not to be awaited by a handler: it would wait for itself.
    async fn shutdown(&self);
}
