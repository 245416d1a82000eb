//! Watching: the local replica's applied changes, in order, with the token of each. No network.

use std::{collections::VecDeque, fmt, sync::Arc};

use tokio::sync::broadcast::{self, error::RecvError};

use super::{hub::Batch, node::Node};
use crate::{
    error::HolderInfo,
    name::{AgentName, Name},
    runtime::{self, Either},
    table::{EndReason, Event, LeftReason},
    token::Token,
};

/// One applied change of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The log index of the entry that made it. Several changes may share one, in order.
    pub index: u64,
    /// The name; empty for [`ChangeKind::Lagged`] of a watch on everything.
    pub name: Option<Name>,
    /// What changed.
    pub kind: ChangeKind,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// A lease was granted.
    Granted {
        /// To whom.
        agent: AgentName,
        /// Its token.
        token: Token,
    },
    /// A lease ended.
    Ended {
        /// Whose.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// How: released, expired, transferred, revoked.
        how: String,
    },
    /// A lease was revoked; it ends when its agent gives it back, or at its deadline.
    Revoked {
        /// Whose.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// By whom.
        by: AgentName,
        /// Why.
        reason: String,
    },
    /// An agent queued.
    Queued {
        /// Which.
        agent: AgentName,
    },
    /// An agent left the queue without a grant.
    Left {
        /// Which.
        agent: AgentName,
    },
    /// This watcher was too slow, or this replica took a snapshot: changes are missing before this one. What holds
    /// now stands beside it; changes after it follow without a gap.
    Lagged {
        /// The holder now, for a watch on one name.
        holder: Option<HolderInfo>,
    },
}

/// A stream of changes; made by [`Agent::watch`](super::Agent::watch). Dropping it ends it.
pub struct Watch {
    node: Arc<Node>,
    name: Option<Name>,
    changes: broadcast::Receiver<Arc<Batch>>,
    ready: VecDeque<Change>,
    /// Changes up to this index are part of the state that was told last.
    told: u64,
}

impl Watch {
    pub(super) fn new(node: Arc<Node>, name: Option<Name>) -> Self {
        let changes = node.hub.watch();
        let told = node.replica.read().index();
        Self { node, name, changes, ready: VecDeque::new(), told }
    }

    /// The next change; `None` when the agent has stopped. Cancel-safe: nothing is lost between two calls.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let received = match runtime::select2(self.changes.recv(), self.node.until_stopped()).await {
                Either::First(received) => received,
                Either::Second(_) => return None,
            };
            match received {
                Ok(batch) if batch.events.is_empty() => self.lagged(),
                Ok(batch) if batch.index > self.told => self.take(&batch),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.lagged(),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Tells the present state. What is still in the channel up to that state is skipped.
    fn lagged(&mut self) {
        let reading = self.node.replica.read();
        let table = reading.table();
        self.told = reading.index();
        let holder = self.name.as_ref().and_then(|name| table.holder(name));
        let holder = holder.map(|view| HolderInfo::of(&view.held_by()));
        self.ready.push_back(Change {
            index: self.told,
            name: self.name.clone(),
            kind: ChangeKind::Lagged { holder },
        });
    }

    fn take(&mut self, batch: &Batch) {
        for event in &batch.events {
            let Some((name, kind)) = of_event(event) else { continue };
            if self.name.as_ref().is_none_or(|wanted| wanted == name) {
                self.ready.push_back(Change { index: batch.index, name: Some(name.clone()), kind });
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("name", &self.name).finish_non_exhaustive()
    }
}

fn of_event(event: &Event) -> Option<(&Name, ChangeKind)> {
    Some(match event {
        Event::Founded { .. } => return None,
        Event::Queued { name, holder, .. } => (name, ChangeKind::Queued { agent: holder.agent.clone() }),
        Event::Granted { name, holder, token, .. } => {
            (name, ChangeKind::Granted { agent: holder.agent.clone(), token: *token })
        }
        Event::Ended { name, holder, token, reason, .. } => {
            let how = match reason {
                EndReason::Released => "released",
                EndReason::Cancelled => "given up",
                EndReason::Expired => "expired",
                EndReason::Transferred => "transferred",
                EndReason::Revoked(_) => "revoked",
            };
            (name, ChangeKind::Ended { agent: holder.agent.clone(), token: *token, how: how.to_owned() })
        }
        Event::Left { name, holder, reason, .. } => {
            let (LeftReason::Cancelled | LeftReason::Expired | LeftReason::NoTokens) = reason;
            (name, ChangeKind::Left { agent: holder.agent.clone() })
        }
        Event::Revoked { name, holder, token, revocation, .. } => (
            name,
            ChangeKind::Revoked {
                agent: holder.agent.clone(),
                token: *token,
                by: revocation.by.clone(),
                reason: revocation.reason.as_ref().to_owned(),
            },
        ),
    })
}
