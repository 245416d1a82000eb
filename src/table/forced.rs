//! The table of a cluster that was recovered by force: what one copy had, under another generation's log.
//!
//! Who is granted what is as the copy had it: no lease begins, changes hands or ends here. But the lost majority may have
//! gone on after this copy's last entry, and what it answered is out in the world: tokens, indexes, the ends of lease ids.
//! So whatever is numbered goes on above all that it can have numbered:
//!
//! - *Tokens* (L2): above `tokens_above`, for which the caller has the argument.
//! - *Log indexes*: at `index`, far above. A watcher that asks for the changes after an index of the lost majority's is
//!   below where this log begins, and is told that it lags, with what holds now.
//! - *Ended ids* (L7): the memory is emptied, and its horizon is `index`. An id may have ended after this copy's last
//!   entry, so that the memory has a hole; but whatever was drawn before the recovery carries a `seen` below the horizon, and
//!   is refused as too old, whether it has ended or not. What is held or waits by this copy stays, and ends by its ttl.

use super::{EndedIds, Table};
use crate::Token;

impl Table {
    /// See the file's head. `index` is larger than every index of the log before, and the table is founded.
    pub(crate) fn forced(mut self, index: u64, tokens_above: Token) -> Self {
        self.applied = self.applied.max(index);
        self.last_token = self.last_token.max(Some(tokens_above));
        self.ended = EndedIds::resume(self.bounds.ended_ids, index);
        self
    }

    /// The longest that anything in it was asked for: a ttl and the lock delay after it, in milliseconds.
    pub(crate) fn longest_ms(&self) -> u64 {
        let slots = || self.names.values();
        let held = slots().flat_map(|slot| slot.holders.iter()).map(|l| (l.ttl_ms, l.lock_delay_ms));
        let waiting = slots().flat_map(|slot| slot.queue.iter()).map(|w| (w.ttl_ms, w.lock_delay_ms));
        let closed = slots().filter_map(|slot| Some((0, slot.closure.as_ref()?.delay_ms)));
        held.chain(waiting).chain(closed).map(|(ttl, delay)| ttl.saturating_add(delay)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Acquire, Command, Entry, Holder, Outcome, State};
    use super::*;
    use crate::{AgentName, LeaseId, Name, NodeId, mode::Mode};

    fn id(n: u128) -> LeaseId {
        LeaseId::from_bits(n)
    }

    fn acquire(name: &str, n: u128, seen: u64) -> Command {
        let agent = Holder { agent: AgentName::new("a").unwrap(), node: NodeId::from_bits(1) };
        Command::Acquire(Acquire {
            name: Name::new(name).unwrap(),
            lease_id: id(n),
            agent,
            ttl_ms: 1_000,
            wait: true,
            metadata: Bytes::new(),
            seen,
            mode: Mode::Exclusive,
            lock_delay_ms: 500,
        })
    }

    fn apply(table: &mut Table, index: u64, command: Command) -> Outcome {
        table.apply(index, 3, &Entry { wall_unix_ms: 5, command }, &mut Vec::new())
    }

    #[test]
    fn who_holds_and_waits_stays_and_what_is_numbered_goes_on_above() {
        let mut table = Table::new();
        apply(&mut table, 1, Command::Found { tokens_above: Token::new(10) });
        apply(&mut table, 2, acquire("x", 1, 1));
        apply(&mut table, 3, acquire("x", 2, 1));
        apply(&mut table, 4, acquire("y", 3, 1));
        apply(&mut table, 5, Command::Release { lease_id: id(3) });
        assert_eq!(table.longest_ms(), 1_500);

        let mut forced = table.forced(1_000, Token::new(500));
        forced.check_invariants().unwrap();
        let restored = Table::restore(&forced.snapshot()).unwrap();
        assert_eq!(restored.snapshot(), forced.snapshot());
        assert!(
            matches!(forced.state(&id(1)), State::Holding(held) if held.lease.token == Token::new(11)),
            "{:?}",
            forced.state(&id(1))
        );
        assert!(matches!(forced.state(&id(2)), State::Waiting { position: 1, .. }));
        // A retry of who holds is answered as before; of who has ended, or never arrived at this copy, is refused.
        assert_eq!(apply(&mut forced, 1_001, acquire("x", 1, 1)), Outcome::Granted { token: Token::new(11) });
        for (n, seen) in [(3, 1), (4, 1), (5, 900)] {
            let outcome = apply(&mut forced, 1_002 + seen + n as u64, acquire("y", n, seen));
            assert_eq!(outcome, Outcome::TooOld { horizon: 1_000 }, "{n}");
        }
        // The next grants: from the queue, and anew.
        apply(&mut forced, 2_000, Command::Release { lease_id: id(1) });
        assert!(
            matches!(forced.state(&id(2)), State::Holding(held) if held.lease.token == Token::new(501)),
            "{:?}",
            forced.state(&id(2))
        );
        assert_eq!(
            apply(&mut forced, 2_001, acquire("y", 6, 1_000)),
            Outcome::Granted { token: Token::new(502) }
        );
        forced.check_invariants().unwrap();
        // Tokens never go back.
        assert_eq!(forced.forced(9_000, Token::new(1)).last_token(), Some(Token::new(502)));
    }
}
