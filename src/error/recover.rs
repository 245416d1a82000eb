//! What can go wrong with a forced recovery.

use std::{path::PathBuf, time::Duration};

use crate::{id::ClusterId, storage::StorageError, token::Token};

/// Why a data directory was not recovered by force. *Nothing happened*, but for
/// [`Storage`](Self::Storage) and [`Write`](Self::Write): after these the directory has what it had or what it was to
/// have, and [`survey`](crate::danger::survey) says which.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The directory can't be used: it is in use, not an agent's, damaged, or of another format.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is in the log or the snapshot can't be read.
    #[error(
        "what {path:?} has can't be read back: {detail}; take the directory of another member, or a copy of this one"
    )]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The directory's member has never seen its cluster founded.
    #[error(
        "{path:?} has nothing to recover: its member belongs to no cluster yet, or has never heard of the founding; take the directory of another member, or found the cluster anew"
    )]
    NotFounded {
        /// The directory.
        path: PathBuf,
    },
    /// The cluster that was named is not the directory's.
    #[error(
        "{path:?} belongs to cluster {found}, and {named} was named; name the one that is to be recovered, or give its directory"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The cluster that was named.
        named: ClusterId,
    },
    /// The span that is to be waited for is shorter than something that the directory knows of.
    #[error(
        "{span:?} is to be waited for, and there is a lease, a waiter or a closed name of {known:?} (ttl and lock delay) in the directory; wait for the longest ttl and lock delay that anybody asks for"
    )]
    SpanTooShort {
        /// What was given.
        span: Duration,
        /// The longest in the directory.
        known: Duration,
    },
    /// The wall clock stands before the last known token's time.
    #[error(
        "the wall clock shows {wall_unix_ms} ms since 1970, from which tokens would begin above {floor}, but {last} was granted already: set this machine's clock right; if it is right, say above which token the new ones begin, one that is larger than every token which a protected resource has seen"
    )]
    ClockBehind {
        /// The wall clock, in milliseconds since 1970.
        wall_unix_ms: u64,
        /// Where tokens would begin by it.
        floor: Token,
        /// The last token that the directory knows of.
        last: Token,
    },
    /// The token that was given is smaller than one that was granted.
    #[error(
        "new tokens are to begin above {given}, but {last} was granted already; give one that is larger than every token which a protected resource has seen"
    )]
    TokensBelow {
        /// What was given.
        given: Token,
        /// The last token that the directory knows of.
        last: Token,
    },
    /// The address is none, or none is known.
    #[error(
        "{address:?} is not an address at which others reach the agent; give one as host:port (the membership in the directory lists none for it)"
    )]
    Address {
        /// What was given, or known.
        address: String,
    },
    /// Every generation was used.
    #[error(
        "cluster {cluster} is of the last generation there is; found a cluster anew, in empty directories"
    )]
    NoGeneration {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The new content could not be written.
    #[error(
        "the recovery of {path:?} could not be written: {detail}; see to it that the disk has room and is healthy, and try again"
    )]
    Write {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
}
