//! The table beside its naive twin, and what is done to both: for random sequences of commands (`random.rs`), and for a
//! fuzzer's (`fuzz.rs`). After every entry both must have given the same answers, and look the same.
//!
//! Beside the comparison, three oracles look at the table's events alone, so that an error that both models share
//! shows too: every token is larger than all before it (L2); no lease id is granted twice (L7); a name is granted
//! only while it is free, and a grant ends once (L1, L10).

#![expect(clippy::unwrap_used, reason = "it fails as loudly as the tests and the fuzzer that use it")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{twin::Twin, *};
use crate::{AgentName, NodeId};

/// Which lease id an operation is on: any that was ever picked, or one that lives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pick {
    Any(usize),
    Live(usize),
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Found(u8),
    /// A new lease id; `lag` is how old its `seen` is, `sent` whether it reaches the log now or only as a copy.
    Acquire {
        name: usize,
        agent: usize,
        wait: bool,
        lag: u64,
        sent: bool,
        /// Exclusive in most cases.
        mode: u8,
        /// With a lock delay, if it is exclusive.
        delays: bool,
    },
    /// What no honest agent sends.
    Odd {
        like: usize,
        kind: u8,
    },
    /// An earlier command again, as it was.
    Copy(usize),
    /// A command as it is encoded, without the version; nothing if it isn't one.
    #[cfg(feature = "test-support")]
    Encoded(Vec<u8>),
    Release(Pick),
    Cancel(Pick),
    /// Each with the right token (0), a wrong one (1), or none (2).
    Expire {
        own_term: bool,
        picks: Vec<(Pick, u8)>,
    },
    Transfer {
        from: Pick,
        how: u8,
        attempt: u64,
    },
    Revoke {
        name: usize,
        /// Which of the holders; beyond them, nobody.
        of: usize,
        heir: Option<usize>,
    },
    /// The closed name whose turn is the most overdue is opened: with its right token, or a wrong one.
    Open {
        right: bool,
    },
    Batch(Vec<Op>),
    /// The table is replaced by what its snapshot restores to.
    Restore,
    Skip,
}

fn agent(n: usize) -> AgentName {
    AgentName::new(format!("agent-{}", n % 4)).unwrap()
}

fn name(n: usize) -> Name {
    Name::new(["orders", "orders.db", "users"][n % 3]).unwrap()
}

/// Both models, what was sent so far, and what the oracles remember.
pub(super) struct World {
    table: Table,
    /// Applies the same log, and is never restored.
    mirror: Table,
    twin: Twin,
    index: u64,
    term: u64,
    ids: Vec<LeaseId>,
    sent: Vec<Single>,
    /// Ids of requests that lied about `seen`: for them nothing is promised.
    liars: BTreeSet<LeaseId>,
    /// Every name that was asked for.
    names: BTreeSet<Name>,
    last_token: Option<Token>,
    granted: BTreeSet<LeaseId>,
    believed: BTreeMap<Name, BTreeMap<LeaseId, (Token, Mode)>>,
    /// The mode that each lease id was asked for with.
    modes: BTreeMap<LeaseId, Mode>,
    /// Every kind of outcome and event that came up.
    pub(super) kinds: BTreeSet<String>,
}

impl World {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            table: Table::with_bounds(bounds),
            mirror: Table::with_bounds(bounds),
            twin: Twin::new(bounds),
            index: 0,
            term: 1,
            ids: vec![],
            sent: vec![],
            liars: BTreeSet::new(),
            names: (0..3).map(name).collect(),
            last_token: None,
            granted: BTreeSet::new(),
            believed: BTreeMap::new(),
            modes: BTreeMap::new(),
            kinds: BTreeSet::new(),
        }
    }

    fn id(&self, pick: Pick) -> LeaseId {
        let live: Vec<_> = self.twin.claims.iter().map(|c| c.id).collect();
        let (from, n) = match pick {
            Pick::Live(n) if !live.is_empty() => (&live, n),
            Pick::Live(n) | Pick::Any(n) => (&self.ids, n),
        };
        // With nothing to pick from: an id that nobody ever uses.
        if from.is_empty() { LeaseId::from_bits(u128::MAX) } else { from[n % from.len()] }
    }

    /// The command that the operation stands for; `None` if it doesn't reach the log.
    fn command(&mut self, op: &Op) -> Option<Single> {
        let command = match op {
            Op::Found(n) => Command::Found {
                // Now and then so high that the tokens run out.
                tokens_above: Token::new(if n % 4 == 0 { u64::MAX - u64::from(*n / 4 % 6) } else { 1 << 40 }),
            },
            Op::Acquire { name: n, agent: a, wait, lag, sent, mode, delays } => {
                let mode = match mode {
                    0 => Mode::Exclusive,
                    1..=3 => Mode::Shared,
                    n => Mode::Permits { of: u32::from(*n) - 2 },
                };
                let lease_id = LeaseId::from_bits((self.ids.len() as u128 + 1) << 100);
                self.ids.push(lease_id);
                let command = Command::Acquire(Acquire {
                    name: name(*n),
                    lease_id,
                    agent: Holder { agent: agent(*a), node: NodeId::from_bits(*a as u64) },
                    ttl_ms: 1_000 + *a as u64,
                    wait: *wait,
                    metadata: Bytes::from(vec![*a as u8; *a]),
                    seen: self.table.applied().saturating_sub(*lag),
                    mode,
                    lock_delay_ms: if *delays && mode == Mode::Exclusive { 500 } else { 0 },
                });
                self.modes.insert(lease_id, mode);
                if !sent {
                    self.sent.push(command);
                    return None;
                }
                command
            }
            Op::Odd { like, kind } => self.odd(*like, *kind)?,
            #[cfg(feature = "test-support")]
            Op::Encoded(bytes) => self.foreign(bytes)?,
            Op::Copy(n) => self.sent.get(n % self.sent.len().max(1))?.clone(),
            Op::Release(pick) => Command::Release { lease_id: self.id(*pick) },
            Op::Cancel(pick) => Command::Cancel { lease_id: self.id(*pick) },
            Op::Expire { own_term, picks } => Command::Expire {
                term: if *own_term { self.term } else { self.term + 1 },
                ended: picks
                    .iter()
                    .map(|(pick, token)| {
                        let id = self.id(*pick);
                        let right = self.twin.find(id).and_then(|c| c.token);
                        (id, [right, Some(Token::new(1)), None][*token as usize])
                    })
                    .collect(),
            },
            Op::Transfer { from, how, attempt } => Command::Transfer {
                lease_id: self.id(*from),
                to: match how % 2 {
                    0 => TransferTo::First,
                    _ => TransferTo::Agent(agent(*how as usize / 2)),
                },
                attempt: *attempt,
            },
            Op::Revoke { name: n, of, heir } => {
                let token = self.twin.holders(&name(*n)).get(*of).and_then(|c| c.token);
                Command::Revoke {
                    name: name(*n),
                    token: token.unwrap_or(Token::new(3)),
                    by: agent(*n),
                    reason: "maintenance".into(),
                    heir: heir.map(agent),
                }
            }
            Op::Open { right } => {
                let shut = self.twin.shut.first()?;
                let token = if *right { shut.key } else { shut.token };
                Command::Expire { term: self.term, ended: vec![(shut.id, Some(token))] }
            }
            Op::Batch(_) | Op::Restore | Op::Skip => return None,
        };
        self.sent.push(command.clone());
        Some(command)
    }

    /// A copy of an earlier acquire with something wrong in it.
    fn odd(&mut self, like: usize, kind: u8) -> Option<Single> {
        let acquires: Vec<_> = self
            .sent
            .iter()
            .filter_map(|c| if let Command::Acquire(a) = c { Some(a) } else { None })
            .collect();
        let mut a = (*acquires.get(like % acquires.len().max(1))?).clone();
        match kind % 10 {
            0 => a.ttl_ms = 0,
            1 => a.ttl_ms = 86_400_001,
            2 => a.metadata = vec![0; 4097].into(),
            3 => a.name = name(like + 1),
            4 => a.agent.agent = agent(like),
            5 => a.mode = Mode::Permits { of: 0 },
            6 => a.mode = Mode::Permits { of: 100_001 },
            7 => (a.mode, a.lock_delay_ms) = (Mode::Shared, 1),
            8 => a.lock_delay_ms = 86_400_001,
            // The node may differ, and waiting is not asked twice.
            _ => (a.agent.node, a.wait) = (NodeId::from_bits(99), !a.wait),
        }
        if kind >= 200 {
            a.seen += u64::from(kind);
            self.liars.insert(a.lease_id);
        }
        Some(Command::Acquire(a))
    }

    /// A command that nobody of this world thought of. Nothing is promised to whoever picks lease ids like that.
    #[cfg(feature = "test-support")]
    fn foreign(&mut self, bytes: &[u8]) -> Option<Single> {
        let bytes = [&[crate::codec::FORMAT_VERSION], bytes].concat();
        let command: Single = crate::codec::decode(&bytes).ok()?;
        if let Command::Acquire(acquire) = &command {
            let id = acquire.lease_id;
            // The oracle remembers one mode for each id.
            if *self.modes.entry(id).or_insert(acquire.mode) != acquire.mode {
                return None;
            }
            self.liars.insert(id);
            self.names.insert(acquire.name.clone());
            if !self.ids.contains(&id) {
                self.ids.push(id);
            }
        }
        Some(command)
    }

    /// The first entry comes after this index.
    #[cfg(feature = "test-support")]
    pub(super) fn begin_at(&mut self, index: u64) {
        self.index = index;
        self.table.skip(index);
        self.mirror.skip(index);
    }

    pub(super) fn run(&mut self, op: &Op) {
        self.index += 1;
        let command = match op {
            Op::Batch(ops) => {
                Command::Batch(ops.iter().filter_map(|op| self.command(op)).collect::<Vec<Single>>())
            }
            Op::Restore => {
                self.index -= 1;
                let bytes = self.table.snapshot();
                self.table = Table::restore_within(&bytes, self.twin.bounds).unwrap();
                assert_eq!(self.table.snapshot(), bytes, "a restored table's snapshot");
                return;
            }
            Op::Skip => {
                // An entry of a new leader that carries no command.
                self.term += 1;
                self.table.skip(self.index);
                self.mirror.skip(self.index);
                return;
            }
            op => match self.command(op) {
                Some(command) => unnested(command),
                None => {
                    self.index -= 1;
                    return;
                }
            },
        };
        let entry = Entry { wall_unix_ms: self.index.saturating_mul(10), command };
        let (mut events, mut mirrored, mut twins) = (vec![], vec![], vec![]);
        let outcome = self.table.apply(self.index, self.term, &entry, &mut events);
        let mirror = self.mirror.apply(self.index, self.term, &entry, &mut mirrored);
        let twin = self.twin.apply(self.index, self.term, &entry, &mut twins);
        assert_eq!((&outcome, &events), (&twin, &twins), "{entry:?}");
        assert_eq!((&outcome, &events), (&mirror, &mirrored), "{entry:?}");
        self.note(&outcome, &events);
        self.table.check_invariants().unwrap();
        self.compare();
        for event in events {
            self.observe(&event);
        }
    }

    fn note(&mut self, outcome: &Outcome, events: &[Event]) {
        let mut note = |value: String| {
            // The variant's name; of a refusal, the reason's as well.
            let words: Vec<_> = value.split(|c: char| !c.is_alphanumeric()).take(2).collect();
            self.kinds.insert(words[..if words[0] == "Refused" { 2 } else { 1 }].join(" "));
        };
        match outcome {
            Outcome::Batch(all) => all.iter().for_each(|one| note(format!("{one:?}"))),
            one => note(format!("{one:?}")),
        }
        events.iter().for_each(|event| note(format!("Event{event:?}")));
        self.twin.graves.iter().for_each(|grave| note(format!("Ending{:?}", grave.2)));
    }

    /// Applies a command to table and twin, outside of the random sequence.
    fn run_command(&mut self, command: Command) {
        self.index += 1;
        let entry = Entry { wall_unix_ms: 0, command };
        let (mut events, mut twins) = (vec![], vec![]);
        let outcome = self.table.apply(self.index, self.term, &entry, &mut events);
        assert_eq!(outcome, self.twin.apply(self.index, self.term, &entry, &mut twins), "{entry:?}");
        events.iter().for_each(|event| self.observe(event));
        self.table.check_invariants().unwrap();
    }

    /// Everything that can be looked up.
    fn compare(&self) {
        let (table, twin) = (&self.table, &self.twin);
        assert_eq!(table.applied(), self.index);
        assert_eq!(table.last_token(), twin.last_token.map(Token::new));
        assert_eq!(table.horizon(), twin.horizon());
        let counts = table.counts();
        assert_eq!(counts.leases + counts.waiters, twin.claims.len());
        assert_eq!(counts.closed, twin.shut.len());
        assert_eq!(counts.ended_ids, twin.graves.len() - twin.forgotten());
        assert_eq!(table.all_live().count(), twin.claims.len() + twin.shut.len());
        for (id, live) in table.all_live() {
            let Some(claim) = twin.find(id) else {
                let shut = twin.shut.iter().find(|shut| shut.id == id).unwrap();
                let closed = Live { token: Some(shut.key), ttl_ms: shut.delay_ms, renewable: false };
                assert_eq!((live, table.live(&id)), (closed, None));
                continue;
            };
            assert_eq!((live.token, live.ttl_ms), (claim.token, claim.ttl_ms));
            assert_eq!(table.live(&id), Some(live));
        }
        for name in &self.names {
            assert_eq!(table.holder(name).map(|l| l.held_by()), twin.held_by(name));
            let closed: Vec<_> = table
                .holders(name)
                .map(|l| (l.lease.token, l.lease.mode, l.lease.transfers_closed))
                .collect();
            let twins: Vec<_> =
                twin.holders(name).iter().map(|c| (c.token.unwrap(), c.mode, c.closed)).collect();
            assert_eq!(closed, twins);
            let shut = twin.is_shut(name).map(|shut| (shut.agent.clone(), shut.token, shut.delay_ms));
            assert_eq!(table.closed(name).map(|by| (by.holder, by.token, by.delay_ms)), shut);
            let waiters: Vec<_> = table.waiters(name).map(|w| (w.lease_id, w.ttl_ms)).collect();
            let twins: Vec<_> = twin.waiters(name).iter().map(|c| (c.id, c.ttl_ms)).collect();
            assert_eq!(waiters, twins);
            let listed: Vec<_> =
                table.leases(name.as_str(), None).map(|l| (l.name.clone(), l.lease.token)).collect();
            let mut twins: Vec<_> =
                twin.claims.iter().filter_map(|c| Some((c.name.clone(), c.token?))).collect();
            twins.retain(|(other, _)| other.as_str().starts_with(name.as_str()));
            twins.sort();
            assert_eq!(listed, twins);
        }
        // A page begins after any lease.
        let page =
            |after| -> Vec<_> { table.leases("", after).map(|l| (l.name.clone(), l.lease.token)).collect() };
        let all = page(None);
        for (at, (name, token)) in all.iter().enumerate() {
            assert_eq!(page(Some((name, *token))), all[at + 1..]);
        }
        for id in &self.ids {
            match (table.state(id), twin.find(*id)) {
                (State::Holding(view), Some(claim)) => {
                    assert_eq!(
                        (view.name, Some(view.lease.token), view.lease.lease_id),
                        (&claim.name, claim.token, *id)
                    );
                    assert_eq!(table.lease(id), Some(view));
                }
                (State::Waiting { name, position }, Some(claim)) => {
                    assert_eq!((name, None, position), (&claim.name, claim.token, twin.position(*id)));
                    assert_eq!(table.lease(id), None);
                }
                (State::Ended(ending), None) => assert_eq!(Some(ending), twin.ending(*id)),
                (State::Unknown, None) => assert_eq!(None, twin.ending(*id)),
                (state, claim) => panic!("{id}: {state:?}, the twin has {claim:?}"),
            }
        }
    }

    /// The oracles that know nothing of either model.
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Granted { name, lease_id, token, .. } => {
                assert!(Some(*token) > self.last_token, "L2: {token} after {:?}", self.last_token);
                self.last_token = Some(*token);
                let first = self.granted.insert(*lease_id);
                assert!(first || self.liars.contains(lease_id), "L7: {lease_id} is granted twice");
                let mode = self.modes[lease_id];
                let holders = self.believed.entry(name.clone()).or_default();
                let together = holders.values().all(|(_, other)| match mode {
                    Mode::Exclusive => false,
                    Mode::Shared => *other == Mode::Shared,
                    Mode::Permits { of } => *other == mode && holders.len() < of as usize,
                });
                assert!(together, "L1: {name} is granted {mode} while it is held: {holders:?}");
                holders.insert(*lease_id, (*token, mode));
            }
            Event::Ended { name, lease_id, token, .. } => {
                let held = self.believed.entry(name.clone()).or_default().remove(lease_id);
                assert_eq!(held.map(|(token, _)| token), Some(*token), "L10: {name} ends for someone else");
            }
            Event::Founded { tokens_above } => {
                assert_eq!(self.last_token.replace(*tokens_above), None, "L2: founded twice");
            }
            Event::Queued { .. }
            | Event::Left { .. }
            | Event::Revoked { .. }
            | Event::Closed { .. }
            | Event::Opened { .. } => {}
        }
    }
}

/// The same command, outside of a batch.
fn unnested(command: Single) -> Command {
    match command {
        Command::Found { tokens_above } => Command::Found { tokens_above },
        Command::Acquire(acquire) => Command::Acquire(acquire),
        Command::Release { lease_id } => Command::Release { lease_id },
        Command::Cancel { lease_id } => Command::Cancel { lease_id },
        Command::Expire { term, ended } => Command::Expire { term, ended },
        Command::Transfer { lease_id, to, attempt } => Command::Transfer { lease_id, to, attempt },
        Command::Revoke { name, token, by, reason, heir } => {
            Command::Revoke { name, token, by, reason, heir }
        }
        Command::Batch(never) => match never {},
    }
}

/// At the end of a run: two replicas, one of which was filled by snapshots now and then, have the same bytes (L8); and
/// copies of everything that was ever sent, once nothing lives any more, grant nothing.
pub(super) fn conclude(world: &mut World) {
    assert_eq!(world.table.snapshot(), world.mirror.snapshot());
    replay_over_an_empty_table(world);
}

fn replay_over_an_empty_table(world: &mut World) {
    for id in world.ids.clone() {
        world.run_command(Command::Cancel { lease_id: id });
    }
    assert_eq!(world.table.counts().leases + world.table.counts().waiters, 0);
    for command in world.sent.clone() {
        let liar = matches!(&command, Command::Acquire(a) if world.liars.contains(&a.lease_id));
        if !liar {
            world.run_command(unnested(command));
        }
        assert_eq!(world.table.counts().leases, 0, "a copy was granted");
    }
}
