//! Who holds a name and who waits for it, as others see it: all but the lease ids, which are secrets.

use std::{fmt, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::NodeId,
    limits::PAGE_MAX,
    mode::Mode,
    name::{AgentName, Name},
    table::{ClosedBy, HeldBy, Holder, Table, Waiter},
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
    /// How it shares the name.
    pub mode: Mode,
    /// How many hold the name, this one included.
    pub holders: u64,
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
            mode: held.mode,
            holders: held.holders,
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
            mode: info.mode,
            holders: info.holders,
        }
    }
}

/// Who waits for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaiterInfo {
    /// The place in the queue; 1 is the next.
    pub position: u64,
    /// The agent's name.
    pub agent: AgentName,
    /// The node through which it asked.
    pub node: NodeId,
    /// How it will share the name.
    pub mode: Mode,
    /// How long it stays in the queue without a renewal.
    pub ttl: Duration,
}

/// Why a name is closed: a lease on it expired that had a lock delay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClosureInfo {
    /// Whose lease it was: to this agent the name is open.
    pub agent: AgentName,
    /// Its token.
    pub token: Token,
    /// About how long the name is closed in all.
    pub delay: Duration,
}

impl From<ClosedBy> for ClosureInfo {
    fn from(by: ClosedBy) -> Self {
        Self { agent: by.holder.agent, token: by.token, delay: Duration::from_millis(by.delay_ms) }
    }
}

/// All about one name: who holds it, who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NameReport {
    /// The name.
    pub name: Name,
    /// Who holds it, in the order of the tokens; at most 1000.
    pub holders: Vec<HolderInfo>,
    /// How many hold it.
    pub holders_in_all: u64,
    /// Why it is closed, if it is.
    pub closed: Option<ClosureInfo>,
    /// Who waits for it, the next first; at most 1000.
    pub waiters: Vec<WaiterInfo>,
    /// How many wait for it.
    pub waiters_in_all: u64,
}

impl NameReport {
    /// As the table has it.
    pub(crate) fn of(table: &Table, name: &Name) -> Self {
        let waiter = |(waiter, position): (&Waiter, u64)| WaiterInfo {
            position,
            agent: waiter.holder.agent.clone(),
            node: waiter.holder.node,
            mode: waiter.mode,
            ttl: Duration::from_millis(waiter.ttl_ms),
        };
        Self {
            name: name.clone(),
            holders: table.holders(name).take(PAGE_MAX).map(|view| view.held_by().into()).collect(),
            holders_in_all: table.holders(name).count() as u64,
            closed: table.closed(name).map(ClosureInfo::from),
            waiters: table.waiters(name).zip(1..).take(PAGE_MAX).map(waiter).collect(),
            waiters_in_all: table.waiters(name).count() as u64,
        }
    }
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.format("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "held by {} since {since} with token {}", self.agent, self.token)?;
        match self.mode {
            Mode::Exclusive => {}
            mode => write!(f, " ({mode}, {} in all)", self.holders)?,
        }
        match self.waiters {
            0 => Ok(()),
            1 => f.write_str(", 1 waits"),
            waiters => write!(f, ", {waiters} wait"),
        }
    }
}
