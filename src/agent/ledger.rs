//! How many leases and places in queues each agent has: the leader's half of [`Quotas`]. Pure.
//!
//! A quota is the leader's own and no part of the replicated rules, where a bound can't be set without being the same at
//! every member. So it is looked at before an acquire is proposed, and what is under way counts: between the two nobody
//! slips through. A copy of an acquire that is known is not new, and is let through to be answered as before (rule L7). What
//! a new leader has not seen proposed, and what is given up while it is under way, may come on top. Who does not lead, or
//! not yet, refuses nobody for what an agent has: the request is for somebody else to judge.

use std::collections::BTreeMap;

use crate::{
    name::AgentName,
    quotas::Quotas,
    table::{Acquire, Event, State, Table},
};

/// See the file's head. Exact while its owner leads; otherwise nobody has anything in it but what is under way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the applied table.
    live: BTreeMap<AgentName, usize>,
    /// Proposed, and not answered yet.
    under_way: BTreeMap<AgentName, usize>,
    under_way_in_all: usize,
}

impl Ledger {
    /// Counts anew. What is under way stays so.
    pub(super) fn restart(&mut self, table: &Table) {
        self.stop();
        for holder in table.all_holders() {
            add(&mut self.live, &holder.agent);
        }
    }

    /// Its owner leads no more: it hears of no change, so that what it counted is soon wrong.
    pub(super) fn stop(&mut self) {
        self.live.clear();
    }

    pub(super) fn applied(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Queued { holder, .. } | Event::Granted { holder, from_queue: false, .. } => {
                    add(&mut self.live, &holder.agent);
                }
                Event::Ended { holder, .. } | Event::Left { holder, .. } => {
                    take(&mut self.live, &holder.agent)
                }
                _ => {}
            }
        }
    }

    /// Whether this acquire may be proposed; then it counts until [`over`](Self::over). `Ok(false)` where it is known
    /// already, and doesn't count.
    ///
    /// # Errors
    /// Which quota is used up.
    pub(super) fn begin(
        &mut self,
        acquire: &Acquire,
        table: &Table,
        quotas: &Quotas,
    ) -> Result<bool, String> {
        if !matches!(table.state(&acquire.lease_id), State::Unknown) {
            return Ok(false);
        }
        let agent = &acquire.agent.agent;
        let of = |counts: &BTreeMap<AgentName, usize>| counts.get(agent).copied().unwrap_or(0);
        let own = of(&self.live) + of(&self.under_way);
        let counts = table.counts();
        let all = counts.leases + counts.waiters + self.under_way_in_all;
        let waiters = table.waiters_for(&acquire.name);
        if acquire.metadata.len() > quotas.metadata_bytes {
            return Err(format!(
                "{} bytes of metadata, the quota `metadata_bytes` is {}; store it elsewhere and keep a reference",
                acquire.metadata.len(),
                quotas.metadata_bytes
            ));
        }
        if own >= quotas.leases_per_agent {
            return Err(format!(
                "{agent} has {own} leases and places in queues, and the quota `leases_per_agent` is no more; give some back"
            ));
        }
        if all >= quotas.leases {
            return Err(format!(
                "the cluster has {all} leases and waiters, and the quota `leases` is no more; give some back"
            ));
        }
        if acquire.wait && waiters >= quotas.waiters_per_name {
            return Err(format!(
                "{waiters} wait for {:?} already, and the quota `waiters_per_name` is no more; try again later",
                acquire.name
            ));
        }
        add(&mut self.under_way, agent);
        self.under_way_in_all += 1;
        Ok(true)
    }

    /// What this agent had proposed is answered, or given up.
    pub(super) fn over(&mut self, agent: &AgentName) {
        take(&mut self.under_way, agent);
        self.under_way_in_all = self.under_way_in_all.saturating_sub(1);
    }
}

fn add(counts: &mut BTreeMap<AgentName, usize>, agent: &AgentName) {
    match counts.get_mut(agent) {
        Some(count) => *count += 1,
        None => drop(counts.insert(agent.clone(), 1)),
    }
}

fn take(counts: &mut BTreeMap<AgentName, usize>, agent: &AgentName) {
    if let Some(count) = counts.get_mut(agent) {
        *count -= 1;
        if *count == 0 {
            counts.remove(agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        LeaseId, Mode, Name, NodeId, Token,
        table::{Command, Entry, Holder},
    };

    /// A table and the ledger that hears of it.
    struct Bench {
        table: Table,
        ledger: Ledger,
        index: u64,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self { table: Table::new(), ledger: Ledger::default(), index: 0 };
            bench.apply(Command::Found { tokens_above: Token::new(0) });
            bench
        }

        fn apply(&mut self, command: Command) {
            self.index += 1;
            let mut events = Vec::new();
            self.table.apply(self.index, 1, &Entry { wall_unix_ms: 0, command }, &mut events);
            self.ledger.applied(&events);
            let mut anew = Ledger::default();
            anew.restart(&self.table);
            assert_eq!(anew.live, self.ledger.live, "after entry {}", self.index);
        }

        fn begin(&mut self, acquire: &Acquire, quotas: &Quotas) -> Result<bool, String> {
            self.ledger.begin(acquire, &self.table, quotas)
        }
    }

    fn acquire(id: u128, agent: &str, name: &str) -> Acquire {
        Acquire {
            name: Name::new(name).unwrap(),
            lease_id: LeaseId::from_bits(id),
            agent: Holder { agent: AgentName::new(agent).unwrap(), node: NodeId::from_bits(1) },
            ttl_ms: 10_000,
            wait: true,
            metadata: Bytes::new(),
            seen: 0,
            mode: Mode::Exclusive,
            lock_delay_ms: 0,
        }
    }

    #[test]
    fn every_way_in_and_out_is_counted() {
        let mut bench = Bench::new();
        for id in 1..=6 {
            bench.apply(Command::Acquire(acquire(id, ["a", "b", "c"][id as usize % 3], "one")));
        }
        bench.apply(Command::Acquire(acquire(7, "a", "two")));
        bench.apply(Command::Cancel { lease_id: LeaseId::from_bits(2) });
        bench.apply(Command::Release { lease_id: LeaseId::from_bits(1) });
        let expired = bench.table.all_live().map(|(id, live)| (id, live.token)).collect();
        bench.apply(Command::Expire { term: 1, ended: expired });
        assert!(bench.ledger.live.is_empty());
    }

    #[test]
    fn what_is_under_way_counts_and_what_is_known_does_not() {
        let quotas = Quotas { leases_per_agent: 2, ..Quotas::default() };
        let mut bench = Bench::new();
        let [first, second, third] = [1, 2, 3].map(|id| acquire(id, "a", "one"));
        assert_eq!(bench.begin(&first, &quotas), Ok(true));
        bench.apply(Command::Acquire(first.clone()));
        bench.ledger.over(&first.agent.agent);
        assert_eq!(bench.begin(&second, &quotas), Ok(true));
        let refused = bench.begin(&third, &quotas).unwrap_err();
        assert!(refused.contains("leases_per_agent"), "{refused}");
        assert_eq!(bench.begin(&acquire(4, "b", "one"), &quotas), Ok(true), "it is another agent");
        // The copy of a request that is answered already is answered again.
        assert_eq!(bench.begin(&first, &quotas), Ok(false));
        bench.ledger.over(&second.agent.agent);
        assert_eq!(bench.begin(&third, &quotas), Ok(true), "the second was given up");
    }

    #[test]
    fn who_leads_no_more_refuses_nobody_for_what_it_counted_before() {
        let quotas = Quotas { leases_per_agent: 1, ..Quotas::default() };
        let mut bench = Bench::new();
        bench.apply(Command::Acquire(acquire(1, "a", "one")));
        let second = acquire(2, "a", "two");
        assert!(bench.begin(&second, &quotas).is_err());
        bench.ledger.stop();
        assert_eq!(bench.begin(&second, &quotas), Ok(true));
    }

    #[test]
    fn each_quota_is_named() {
        let mut bench = Bench::new();
        bench.apply(Command::Acquire(acquire(1, "a", "one")));
        bench.apply(Command::Acquire(acquire(2, "a", "one")));
        let usual = Quotas::default();
        let mut large = acquire(3, "b", "one");
        large.metadata = Bytes::from_static(b"abc");
        for (quotas, name) in [
            (Quotas { leases: 2, ..usual }, "`leases`"),
            (Quotas { waiters_per_name: 1, ..usual }, "`waiters_per_name`"),
            (Quotas { metadata_bytes: 2, ..usual }, "`metadata_bytes`"),
        ] {
            let refused = bench.begin(&large, &quotas).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
        assert_eq!(bench.begin(&large, &usual), Ok(true));
    }
}
