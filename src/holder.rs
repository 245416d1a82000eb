//! Who holds a name, as others see it: all but the lease id, which is a secret.

use std::{fmt, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::NodeId,
    name::AgentName,
    table::{HeldBy, Holder},
    token::Token,
};

/// Who holds a name, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HeldBy", into = "HeldBy")]
#[non_exhaustive]
pub struct HolderInfo {
    /// The agent's name.
    pub agent: AgentName,
    /// The node through which it asked.
    pub node: NodeId,
    /// Its fencing token.
    pub token: Token,
    /// When it was granted, by the wall clock of the leader that did: for people.
    pub since: DateTime<Utc>,
    /// How long the lease lives without a renewal.
    pub ttl: Duration,
    /// What the holder wants others to see.
    pub metadata: Bytes,
    /// Whether it has been revoked and is about to end.
    pub revoked: bool,
    /// How many wait for the name.
    pub waiters: u64,
}

impl From<HeldBy> for HolderInfo {
    fn from(held: HeldBy) -> Self {
        let ms = i64::try_from(held.since_unix_ms).unwrap_or(i64::MAX);
        Self {
            agent: held.holder.agent,
            node: held.holder.node,
            token: held.token,
            since: DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH),
            ttl: Duration::from_millis(held.ttl_ms),
            metadata: held.metadata,
            revoked: held.revoked,
            waiters: held.waiters,
        }
    }
}

impl From<HolderInfo> for HeldBy {
    fn from(info: HolderInfo) -> Self {
        Self {
            holder: Holder { agent: info.agent, node: info.node },
            token: info.token,
            since_unix_ms: u64::try_from(info.since.timestamp_millis()).unwrap_or(0),
            ttl_ms: u64::try_from(info.ttl.as_millis()).unwrap_or(u64::MAX),
            metadata: info.metadata,
            revoked: info.revoked,
            waiters: info.waiters,
        }
    }
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.format("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "held by {} since {since} with token {}", self.agent, self.token)?;
        match self.waiters {
            0 => Ok(()),
            1 => f.write_str(", 1 waits"),
            waiters => write!(f, ", {waiters} wait"),
        }
    }
}
