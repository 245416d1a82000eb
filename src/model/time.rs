//! Time passes, and what is void is forgotten.

use std::sync::Arc;

use super::world::{Ask, Mail, NODES, Phase, Place, State};

impl State {
    /// One tick of true time; every clock goes on at its own rate.
    pub(super) fn pass(&mut self) -> Option<()> {
        self.tick += 1;
        for node in 0..NODES {
            let now = self.node_now(node);
            // A heartbeat at which nothing is due is no step of its own: nothing races it.
            if self.is_to_wake(node) && !self.deadlines(node)?.has_due(now) {
                let deadlines = Arc::make_mut(self.nodes[node].reign.as_mut()?.deadlines.as_mut()?);
                if let Some(asked) = deadlines.next_wake() {
                    deadlines.woke(asked, now);
                }
            }
        }
        Some(())
    }

    /// What can change nothing any more is forgotten, so that states differ only in what matters.
    pub(super) fn forget_what_is_void(&mut self) {
        for client in 0..self.clients.len() {
            let now = self.client_now(client);
            let over = match &self.clients[client].phase {
                Phase::Holding(_, session) => session.clone().check(now).is_err(),
                _ => false,
            };
            // With an answer to come it stays, so that the answer finds it too late.
            if over && self.clients[client].renewing.is_none() {
                self.idle(client);
            }
        }
        let mut mail = std::mem::take(&mut self.mail);
        mail.retain(|mail| !self.is_void(mail));
        self.mail = mail;
        let mut expiries = std::mem::take(&mut self.expiries);
        expiries.retain(|expiry| self.matching(expiry).next().is_some());
        self.expiries = expiries;
        let leader = self.leader;
        for node in (0..NODES).filter(|node| *node != leader) {
            self.forget_deadlines(node);
            if self.mutant.is_none() && self.is_spent(node) {
                self.nodes[node].reign = None;
            }
        }
    }

    /// A deposed leader's deadlines of which nothing can come end, as if it had applied what ended the leases.
    fn forget_deadlines(&mut self, node: usize) {
        let Some(deadlines) = self.deadlines(node) else { return };
        let vain: Vec<_> =
            deadlines.kept().filter(|kept| !self.matters(node, kept)).map(|kept| kept.id).collect();
        if !vain.is_empty()
            && let Some(deadlines) = self.deadlines_mut(node)
        {
            vain.iter().for_each(|id| deadlines.ended(id));
        }
    }

    /// Whether nothing can come of this deposed leader any more.
    fn is_spent(&self, node: usize) -> bool {
        let due = self.deadlines(node).is_some_and(|deadlines| deadlines.kept().any(|kept| !kept.expiring));
        let asked = self.mail.iter().any(|mail| mail.place.node() == Some(node));
        let proposes = self.expiries.iter().any(|expiry| expiry.node == node);
        !due && !asked && !proposes
    }

    fn is_void(&self, mail: &Mail) -> bool {
        if let Place::Arrived { node, at } | Place::Confirmed { node, at, .. } = mail.place {
            return self.runs(node) && self.tick - self.tick_at(node, at) > self.confirm_ticks;
        }
        let dead = self.ended >> mail.id.index() & 1 == 1;
        match mail.ask {
            Ask::Renew => dead && !mail.awaited,
            Ask::Acquire => dead && !mail.awaited && !self.forgets,
            Ask::Release | Ask::Cancel => dead && !self.forgets,
        }
    }
}
