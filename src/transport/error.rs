//! What can go wrong with a call, sorted by the one question that matters: may it have happened?

use std::{
    io,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use crate::{
    id::{ClusterId, NodeId},
    limits::{FRAME_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX},
};

/// A handler's no. What the code means is between the floors above.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused with code {code}: {text}")]
pub(crate) struct Refusal {
    /// For programs.
    pub(crate) code: u16,
    /// For people. Cut to [`REFUSAL_TEXT_BYTES_MAX`] bytes on the wire.
    pub(crate) text: String,
}

impl Refusal {
    /// A refusal of this kind, for this reason.
    pub(crate) fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CallError {
    /// *Nothing happened*: no byte of the request left for the peer, or the peer says that it didn't begin. Safe to
    /// call again.
    #[error("nothing was sent to {address}: {reason}")]
    NotSent {
        /// The peer's address.
        address: String,
        /// Why.
        reason: NotSent,
    },
    /// *Outcome unknown*: the request may have arrived, and may yet take effect.
    #[error(
        "no answer from {address}: {reason}; the request may have taken effect, so ask what became of it, or send it again if a repetition is harmless"
    )]
    Unknown {
        /// The peer's address.
        address: String,
        /// Why.
        reason: Unanswered,
    },
    /// The peer's handler got the request and said no.
    #[error("{address} {refusal}")]
    Refused {
        /// The peer's address.
        address: String,
        /// What it said.
        refusal: Refusal,
    },
    /// *Nothing happened*: the request is larger than a frame.
    #[error(
        "a request of {bytes} bytes to {address} is too large, the largest is {max}; send it in pieces",
        max = request_bytes_max()
    )]
    Oversized {
        /// The peer's address.
        address: String,
        /// The request's size in bytes.
        bytes: usize,
    },
}

/// The largest payload of a request or an answer, in bytes.
pub(crate) const fn request_bytes_max() -> usize {
    FRAME_BYTES_MAX - super::frame::HEAD_BYTES
}

impl CallError {
    /// Whether the request may have taken effect.
    #[cfg(test)]
    pub(crate) const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Why nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NotSent {
    /// The address names no host.
    #[error("the address can't be resolved ({detail}); write it as host:port, and check the name")]
    Unresolved {
        /// What the resolver said.
        detail: String,
    },
    /// The host is there or not, but nobody took the connection.
    #[error("no connection ({detail}); check that the agent runs and listens there")]
    Unreachable {
        /// What the system said.
        detail: String,
    },
    /// Nobody took the connection in time.
    #[error("no connection within {within:?}; check that the agent runs, and the network between")]
    ConnectTimedOut {
        /// How long was waited.
        within: Duration,
    },
    /// Somebody took the connection, but doesn't speak this protocol, or is too slow.
    #[error("the handshake failed ({detail}); check that a leasehold agent listens there")]
    Handshake {
        /// What was wrong.
        detail: String,
    },
    /// Whoever is there can't be talked to in TLS, or is not who it should be.
    #[error("no TLS connection: {detail}")]
    #[cfg(feature = "tls")]
    Tls {
        /// What was wrong, and what to do.
        detail: String,
    },
    /// The peer refused the handshake.
    #[error("the agent there refused the connection ({code}): {text}")]
    Rejected {
        /// For programs.
        code: RejectCode,
        /// What the peer said, in its words.
        text: String,
    },
    /// The agent there belongs to another cluster, or to another generation of this one's.
    #[error("{}", differing(("the agent there", *theirs), ("this agent", *ours)))]
    WrongCluster {
        /// The cluster on this side.
        ours: ClusterId,
        /// The cluster on the other.
        theirs: ClusterId,
    },
    /// Another node answers at the address.
    #[error(
        "node {expected} was expected there, {}; an agent that lost its data directory comes back as another node",
        match found { Some(found) => format!("node {found} answers"), None => "who answers has no node id".to_owned() }
    )]
    WrongNode {
        /// Whom the caller meant.
        expected: NodeId,
        /// Who answers.
        found: Option<NodeId>,
    },
    /// Too many calls to this peer are under way.
    #[error(
        "{max} calls to it (or as many bytes) are under way and none ended within {within:?}; slow down",
        max = REQUESTS_IN_FLIGHT_MAX
    )]
    QueueFull {
        /// How long was waited.
        within: Duration,
    },
    /// The peer has too many requests of this connection in hand and did not begin this one.
    #[error("the agent there has too many requests of this one in hand and did not begin it; slow down")]
    Busy,
    /// This side is shutting down.
    #[error("this side has been shut down")]
    ShutDown,
}

impl NotSent {
    /// The cluster was recovered by force, and this side is of a generation before.
    pub(crate) fn is_overtaken(&self) -> bool {
        match self {
            Self::Rejected { code, .. } => *code == RejectCode::Overtaken,
            Self::WrongCluster { ours, theirs } => ours.is_before(*theirs),
            _ => false,
        }
    }
}

/// What is wrong with two who belong to different clusters, or generations of one; each with what it is called.
pub(super) fn differing(one: (&str, ClusterId), other: (&str, ClusterId)) -> String {
    let overtaken = |older: (&str, ClusterId), new| {
        Overtaken { older: older.0.to_owned(), old: older.1, new }.to_string()
    };
    if one.1.is_before(other.1) {
        overtaken(one, other.1)
    } else if other.1.is_before(one.1) {
        overtaken(other, one.1)
    } else {
        format!(
            "{} belongs to cluster {}, {} to {}; one of the two has a wrong address or data directory",
            one.0, one.1, other.0, other.1
        )
    }
}

/// Two who belong to different generations of one cluster.
#[derive(Debug, thiserror::Error)]
#[error(
    "{older} is of generation {} of cluster {new}, which was recovered by force as generation {}: nothing of an older generation comes back; where an agent says this of itself and its cluster is to be the recovered one, move its data directory away and start it with an empty one, as a new member",
    old.generation(), new.generation()
)]
struct Overtaken {
    older: String,
    old: ClusterId,
    new: ClusterId,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Unanswered {
    /// None came in time.
    #[error("none within {within:?}")]
    TimedOut {
        /// How long was waited.
        within: Duration,
    },
    /// The connection broke.
    #[error("the connection was lost ({detail})")]
    ConnectionLost {
        /// How.
        detail: String,
    },
    /// The peer began, and can't say how it ended.
    #[error("the agent there failed at it ({detail})")]
    Failed {
        /// What it said.
        detail: String,
    },
    /// This side is shutting down.
    #[error("this side was shut down meanwhile")]
    ShutDown,
}

/// Why a handshake is refused, as a number on the wire: never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectCode {
    /// No protocol version in common.
    Version,
    /// Another cluster.
    Cluster,
    /// The handler doesn't admit this caller.
    Caller,
    /// Too many connections.
    TooManyConnections,
    /// The hello is not of the form.
    Malformed,
    /// The cluster was recovered by force, and the caller is of a generation before. (A caller of a later one is of
    /// another cluster.) Programs that don't know the number show it with the text.
    Overtaken,
    /// One side speaks TLS and the other doesn't, or a certificate doesn't fit.
    Security,
    /// A number that this program doesn't know.
    Other(u16),
}

impl RejectCode {
    /// The number on the wire.
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Caller => 3,
            Self::TooManyConnections => 4,
            Self::Malformed => 5,
            Self::Overtaken => 6,
            Self::Security => 7,
            Self::Other(number) => number,
        }
    }

    /// What the number on the wire means.
    pub(crate) const fn of(number: u16) -> Self {
        match number {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Caller,
            4 => Self::TooManyConnections,
            5 => Self::Malformed,
            6 => Self::Overtaken,
            7 => Self::Security,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for RejectCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Version => "protocol version",
            Self::Cluster => "wrong cluster",
            Self::Caller => "not admitted",
            Self::TooManyConnections => "too many connections",
            Self::Malformed => "malformed hello",
            Self::Overtaken => "an older generation of the cluster",
            Self::Security => "TLS",
            Self::Other(number) => return write!(f, "code {number}"),
        })
    }
}

/// How far a call has come: what to say of it when its time is up, or this side shuts down.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    const QUEUEING: u8 = 1;
    const SENT: u8 = 2;

    /// It has no connection (any more), and nothing of it was sent.
    pub(crate) fn connecting(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// It has a connection, and waits for its turn.
    pub(crate) fn queueing(&self) {
        self.0.store(Self::QUEUEING, Ordering::Relaxed);
    }

    /// From here on it may have happened.
    pub(crate) fn sent(&self) {
        self.0.store(Self::SENT, Ordering::Relaxed);
    }

    /// Its time is up.
    pub(crate) fn timed_out(&self, within: Duration) -> Result<Unanswered, NotSent> {
        match self.0.load(Ordering::Relaxed) {
            Self::SENT => Ok(Unanswered::TimedOut { within }),
            Self::QUEUEING => Err(NotSent::QueueFull { within }),
            _ => Err(NotSent::ConnectTimedOut { within }),
        }
    }

    /// This side shuts down.
    pub(crate) fn shut_down(&self) -> Result<Unanswered, NotSent> {
        match self.0.load(Ordering::Relaxed) {
            Self::SENT => Ok(Unanswered::ShutDown),
            _ => Err(NotSent::ShutDown),
        }
    }
}

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there already.
    #[error(
        "can't listen on {address}: somebody does already; stop that process, or choose another port (0 takes a free one)"
    )]
    Taken {
        /// The address.
        address: String,
    },
    /// The address is not one of this machine's, not permitted, or not an address.
    #[error("can't listen on {address}: {detail}; write it as host:port with an address of this machine")]
    Unusable {
        /// The address.
        address: String,
        /// What the system said.
        detail: String,
    },
}

impl BindError {
    /// Sorts what the system said.
    pub(super) fn of(address: &str, error: &io::Error) -> Self {
        let address = address.to_owned();
        if error.kind() == io::ErrorKind::AddrInUse {
            Self::Taken { address }
        } else {
            Self::Unusable { address, detail: error.to_string() }
        }
    }
}

/// A text that came from, or goes to, somebody else: no control characters, of bounded length.
pub(super) fn tame(text: &str) -> String {
    let mut tamed = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if tamed.len() + c.len_utf8() > REFUSAL_TEXT_BYTES_MAX {
            break;
        }
        tamed.push(c);
    }
    tamed
}
