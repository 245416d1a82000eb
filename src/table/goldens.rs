//! Golden files of every stored and sent form of this module, and what hostile bytes do.

use bytes::Bytes;

use super::{
    snapshot::{Header, Record},
    *,
};
use crate::{AgentName, NodeId, codec, golden, limits::REASON_BYTES_MAX};

fn id(n: u8) -> LeaseId {
    LeaseId::from_bits(u128::from_be_bytes([n; 16]))
}

fn holder(agent: &str) -> Holder {
    Holder { agent: AgentName::new(agent).unwrap(), node: NodeId::from_bits(0x0102_0304_0506_0708) }
}

fn name() -> Name {
    Name::new("orders.db").unwrap()
}

fn acquire() -> Acquire {
    Acquire {
        name: name(),
        lease_id: id(0x11),
        agent: holder("agent-a"),
        ttl_ms: 10_000,
        wait: true,
        metadata: Bytes::from_static(b"pid 7"),
        seen: 41,
        mode: Mode::Exclusive,
        lock_delay_ms: 0,
    }
}

fn revocation() -> Revocation {
    let heir = Some(AgentName::new("agent-2").unwrap());
    Revocation { by: AgentName::new("operator").unwrap(), reason: "maintenance".into(), heir }
}

fn revoke<B>(token: Token) -> Command<B> {
    let Revocation { by, reason, heir } = revocation();
    Command::Revoke { name: name(), token, by, reason, heir }
}

/// One of each; the match makes the compiler ask for a new one's.
fn commands<B>(batch: Option<B>) -> Vec<(&'static str, Command<B>)> {
    let token = Token::new(1 << 60);
    let mut all = vec![
        Command::Found { tokens_above: token },
        Command::Acquire(acquire()),
        Command::Release { lease_id: id(0x11) },
        Command::Cancel { lease_id: id(0x11) },
        Command::Expire { term: 3, ended: vec![(id(0x11), Some(token)), (id(0x22), None)] },
        Command::Transfer { lease_id: id(0x11), to: TransferTo::First, attempt: 1 },
        Command::Transfer {
            lease_id: id(0x11),
            to: TransferTo::Agent(AgentName::new("agent-b").unwrap()),
            attempt: 3,
        },
        revoke(token),
    ];
    all.extend(batch.map(Command::Batch));
    let named = |command: Command<B>| {
        let name = match &command {
            Command::Found { .. } => "found",
            Command::Acquire(_) => "acquire",
            Command::Release { .. } => "release",
            Command::Cancel { .. } => "cancel",
            Command::Expire { .. } => "expire",
            Command::Transfer { to: TransferTo::First, .. } => "transfer_first",
            Command::Transfer { to: TransferTo::Agent(_), .. } => "transfer_agent",
            Command::Revoke { .. } => "revoke",
            Command::Batch(_) => "batch",
        };
        (name, command)
    };
    all.into_iter().map(named).collect()
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NotFounded,
        Refusal::Ttl { ttl_ms: 0 },
        Refusal::Metadata { bytes: 5_000 },
        Refusal::Reason { bytes: 600 },
        Refusal::LeaseIdTaken,
        Refusal::SeenAhead { seen: 9, index: 8 },
        Refusal::TableFull { max: 1_000_000 },
        Refusal::QueueFull { max: 100_000 },
        Refusal::NoTokens,
        Refusal::ExpireTooLong { count: 513 },
        Refusal::BatchTooLong { count: 513 },
        Refusal::NestedBatch,
        Refusal::IndexNotAfter { index: 4, applied: 5 },
        Refusal::Permits { of: 0 },
        Refusal::LockDelay { lock_delay_ms: 5, mode: Mode::Shared },
    ]
}

fn outcomes<B>(batch: Option<B>) -> Vec<(String, Outcome<B>)> {
    let token = Token::new(1 << 60);
    let successor = || Successor { holder: holder("agent-b"), token };
    let mut all = vec![
        Outcome::Founded,
        Outcome::AlreadyFounded,
        Outcome::Granted { token },
        Outcome::Waiting { position: 2 },
        Outcome::Held(HeldBy {
            holder: holder("agent-a"),
            token,
            since_unix_ms: 1_700_000_000_000,
            ttl_ms: 10_000,
            metadata: Bytes::from_static(b"pid 7"),
            revoked: true,
            waiters: 3,
            mode: Mode::Permits { of: 5 },
            holders: 4,
        }),
        Outcome::TooOld { horizon: 77 },
        Outcome::Released { next: Some(successor()) },
        Outcome::Left,
        Outcome::Forbidden,
        Outcome::Expired { ended: 2 },
        Outcome::OtherTerm { entry_term: 4 },
        Outcome::Transferred { to: successor() },
        Outcome::NoSuchWaiter,
        Outcome::NotHolding,
        Outcome::Revoked,
        Outcome::AlreadyRevoked,
        Outcome::NotHeld,
        Outcome::Closed(ClosedBy { holder: holder("agent-a"), token, delay_ms: 15_000 }),
    ];
    all.extend(
        [
            Ending::Released,
            Ending::Cancelled,
            Ending::Expired,
            Ending::Transferred,
            Ending::Revoked,
            Ending::Forbidden,
            Ending::Refused,
            Ending::NoTokens,
        ]
        .map(|ending| Outcome::Ended { ending }),
    );
    all.extend(refusals().into_iter().map(Outcome::Refused));
    all.extend(batch.map(Outcome::Batch));
    let named = |outcome: Outcome<B>| {
        let name = match &outcome {
            Outcome::Founded => "founded",
            Outcome::AlreadyFounded => "already_founded",
            Outcome::Granted { .. } => "granted",
            Outcome::Waiting { .. } => "waiting",
            Outcome::Held(_) => "held",
            Outcome::Ended { ending } => return (format!("ended_{ending:?}").to_lowercase(), outcome),
            Outcome::TooOld { .. } => "too_old",
            Outcome::Released { .. } => "released",
            Outcome::Left => "left",
            Outcome::Forbidden => "forbidden",
            Outcome::Expired { .. } => "expired",
            Outcome::OtherTerm { .. } => "other_term",
            Outcome::Transferred { .. } => "transferred",
            Outcome::NoSuchWaiter => "no_such_waiter",
            Outcome::NotHolding => "not_holding",
            Outcome::Revoked => "revoked",
            Outcome::AlreadyRevoked => "already_revoked",
            Outcome::NotHeld => "not_held",
            Outcome::Refused(refusal) => {
                let text = format!("{refusal:?}");
                let word = text.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                return (format!("refused_{word}").to_lowercase(), outcome);
            }
            Outcome::Batch(_) => "batch",
            Outcome::Closed(_) => "closed",
        };
        (name.to_owned(), outcome)
    };
    all.into_iter().map(named).collect()
}

#[test]
fn every_command_is_encoded_as_ever() {
    let batch: Vec<Single> = commands(None).into_iter().map(|(_, command)| command).collect();
    let mut goldens = Vec::new();
    let mut bare = Vec::new();
    for (name, command) in commands(Some(batch)) {
        let entry = Entry { wall_unix_ms: 1_700_000_000_000, command };
        goldens.push(golden::check(&format!("table/command_{name}"), &entry));
        bare.push(codec::encode(&entry.command));
        assert!(!entry.to_string().contains(&id(0x11).reveal()), "{entry} tells the lease id");
    }
    golden::covers_variants::<Command>(&bare);
    golden::withstands::<Entry>(&goldens);
}

#[test]
fn every_outcome_is_encoded_as_ever() {
    let batch: Vec<SingleOutcome> = outcomes(None).into_iter().map(|(_, outcome)| outcome).collect();
    let all = outcomes(Some(batch)).into_iter();
    let goldens: Vec<_> =
        all.map(|(name, outcome)| golden::check(&format!("table/outcome_{name}"), &outcome)).collect();
    golden::covers_variants::<Outcome>(&goldens);
    golden::withstands::<Outcome>(&goldens);
    let refusals: Vec<_> = refusals().iter().map(codec::encode).collect();
    golden::covers_variants::<Refusal>(&refusals);
}

/// A table with a bit of everything that a snapshot can have.
fn table() -> Table {
    let bounds = Bounds { ended_ids: 3, ..Bounds::default() };
    let mut table = Table::with_bounds(bounds);
    let asks = |n: u8, text: &str| {
        Command::Acquire(Acquire {
            name: Name::new(text).unwrap(),
            lease_id: id(n),
            agent: holder(&format!("agent-{n}")),
            seen: 0,
            ..acquire()
        })
    };
    let shares = |n: u8, mode, lock_delay_ms| {
        let (name, lease_id) = (Name::new("shared").unwrap(), id(n));
        Command::Acquire(Acquire { name, lease_id, mode, lock_delay_ms, seen: 0, ..acquire() })
    };
    let log = [
        Command::Found { tokens_above: Token::new(1 << 60) },
        Command::Cancel { lease_id: id(0x99) },
        asks(1, "orders.db"),
        asks(2, "orders.db"),
        asks(3, "orders.db"),
        asks(4, "users"),
        Command::Transfer {
            lease_id: id(1),
            to: TransferTo::Agent(AgentName::new("nobody").unwrap()),
            attempt: 5,
        },
        revoke(Token::new((1 << 60) + 1)),
        asks(5, "stock"),
        Command::Release { lease_id: id(5) },
        Command::Cancel { lease_id: id(6) },
        shares(7, Mode::Permits { of: 5 }, 0),
        shares(8, Mode::Permits { of: 5 }, 0),
        Command::Acquire(Acquire {
            name: Name::new("closed").unwrap(),
            lease_id: id(9),
            lock_delay_ms: 1 << 24,
            seen: 0,
            ..acquire()
        }),
        Command::Expire { term: 1, ended: vec![(id(9), Some(Token::new((1 << 60) + 6)))] },
    ];
    for (index, command) in log.into_iter().enumerate() {
        let entry = Entry { wall_unix_ms: 1_700_000_000_000, command };
        let outcome = table.apply(index as u64 + 1, 1, &entry, &mut vec![]);
        assert!(!matches!(outcome, Outcome::Refused(_) | Outcome::TooOld { .. }), "{entry}: {outcome:?}");
    }
    table
}

fn restore(bytes: &[u8]) -> Result<Table, SnapshotError> {
    Table::restore_within(bytes, table().bounds)
}

#[test]
fn a_snapshot_is_encoded_as_ever() {
    let table = table();
    let golden = golden::check_bytes("table/snapshot", &table.snapshot());
    let restored = restore(&golden).unwrap();
    assert_eq!(restored.snapshot(), table.snapshot());
    assert_eq!(restored.lease(&id(1)), table.lease(&id(1)));
    assert_eq!(restored.state(&id(3)), table.state(&id(3)));
    assert_eq!(restored.counts(), Counts { leases: 4, waiters: 2, closed: 1, ended_ids: 3 });
    assert_eq!(restored.horizon(), 2);
    assert_eq!(Table::restore(&Table::new().snapshot()).unwrap().snapshot(), Table::new().snapshot());
}

#[test]
fn a_snapshot_of_many_records_comes_back() {
    let count = crate::limits::SNAPSHOT_RECORDS_MAX as u64 * 2 + 1;
    let mut table = Table::new();
    let found = Command::Found { tokens_above: Token::new(0) };
    table.apply(1, 1, &Entry { wall_unix_ms: 0, command: found }, &mut vec![]);
    for n in 0..count {
        let lease_id = |kind: u128| LeaseId::from_bits(u128::from(n) << 8 | kind);
        let request = |name: String, kind| {
            let (name, lease_id) = (Name::new(name).unwrap(), lease_id(kind));
            Single::Acquire(Acquire { name, lease_id, seen: 0, ..acquire() })
        };
        let batch = vec![
            request(format!("name-{n}"), 0),
            request("queue".to_owned(), 1),
            Single::Cancel { lease_id: lease_id(2) },
        ];
        let entry = Entry { wall_unix_ms: 0, command: Command::Batch(batch) };
        table.apply(n + 2, 1, &entry, &mut vec![]);
    }
    let bytes = table.snapshot();
    let restored = Table::restore(&bytes).unwrap();
    assert_eq!(restored.snapshot(), bytes);
    assert_eq!(
        restored.counts(),
        Counts {
            leases: count as usize + 1,
            waiters: count as usize - 1,
            closed: 0,
            ended_ids: count as usize
        }
    );
}

/// A batch in a batch in a batch, so deep that decoding it recursively would overflow the stack.
#[test]
fn nested_batches_are_refused_before_they_are_decoded() {
    for (batch, shape) in [(7, "command"), (19, "outcome")] {
        for depth in [2, 1_000_000] {
            let mut bytes = vec![codec::FORMAT_VERSION];
            if shape == "command" {
                bytes.push(0);
            }
            for _ in 0..depth {
                bytes.extend([batch, 1]);
            }
            bytes.extend([batch, 0]);
            let error = if shape == "command" {
                codec::decode::<Entry>(&bytes).map(|_| ())
            } else {
                codec::decode::<Outcome>(&bytes).map(|_| ())
            };
            assert!(error.is_err(), "{shape} of depth {depth}");
            // Without the nesting the same bytes are good: it is the nesting that is refused.
            let flat = [&bytes[..bytes.len() - 2 * depth - 2], &[batch, 0]].concat();
            let flat = if shape == "command" {
                codec::decode::<Entry>(&flat).map(|_| ())
            } else {
                codec::decode::<Outcome>(&flat).map(|_| ())
            };
            assert_eq!(flat, Ok(()), "{shape}");
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let bytes = table().snapshot();
    assert_eq!(restore(b"").err(), Some(SnapshotError::NotASnapshot));
    assert_eq!(restore(b"something else").err(), Some(SnapshotError::NotASnapshot));
    for length in 0..bytes.len() {
        assert!(restore(&bytes[..length]).is_err(), "cut to {length}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(restore(&flipped).is_err(), "bit flipped in byte {at}");
    }
}

/// Forged bytes, whose checksum is right: nothing panics, and what is accepted is a table in order.
#[test]
fn a_forged_snapshot_is_refused_or_in_order() {
    let bytes = table().snapshot();
    let body = &bytes[..bytes.len() - 4];
    for at in 0..body.len() {
        for value in [0, 1, 5, 0x7f, 0xfb, 0xfd, 0xff] {
            let mut forged = body.to_vec();
            forged[at] = value;
            forged.extend(crc32fast::hash(&forged).to_le_bytes());
            if let Ok(table) = restore(&forged) {
                table.check_invariants().unwrap();
            }
        }
    }
}

/// The records of a snapshot, in the order of names: "closed" (closed), "orders.db" (held, two wait), "shared" (two
/// permits), "users" (held).
struct Forged {
    header: Header,
    leases: Vec<(Name, Lease)>,
    closures: Vec<(Name, Closure)>,
    waiters: Vec<(Name, Waiter)>,
}

/// What is found wrong with a snapshot that was changed so, with the checksum that it asks for.
fn forge(change: impl Fn(&mut Forged)) -> SnapshotError {
    let table = table();
    let header = Header {
        applied: table.applied,
        last_token: table.last_token,
        horizon: table.ended.horizon(),
        leases: 4,
        waiters: 2,
        ended: 0,
        closed: 1,
    };
    let leases = table.leases("", None).map(|l| (l.name.clone(), l.lease.clone())).collect();
    let closed = Name::new("closed").unwrap();
    let closure = (**table.names[&closed].closure.as_ref().unwrap()).clone();
    let waiters = table.waiters(&name()).map(|w| (name(), w.clone())).collect();
    let mut forged = Forged { header, leases, closures: vec![(closed, closure)], waiters };
    change(&mut forged);
    let Forged { header, leases, closures, waiters } = forged;
    let mut bytes = b"LHTABLE\n".to_vec();
    for record in
        [Record::Header(header), Record::Leases(leases), Record::Closures(closures), Record::Waiters(waiters)]
    {
        let record = codec::encode(&record);
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    restore(&bytes).map_or_else(|error| error, |_| panic!("it was accepted"))
}

#[test]
fn what_no_log_leads_to_is_refused_by_the_invariant_that_it_breaks() {
    fn broken(change: impl Fn(&mut Forged)) -> u8 {
        match forge(change) {
            SnapshotError::Impossible(violation) => violation.number,
            other => panic!("{other}"),
        }
    }
    // Somebody waits who might have it, or for whom the name is not closed.
    assert_eq!(
        broken(|f| {
            f.waiters[0].0 = f.closures[0].0.clone();
            f.waiters[0].1.holder = f.closures[0].1.holder.clone().into();
        }),
        2
    );
    assert_eq!(
        broken(|f| {
            f.waiters[0].0 = Name::new("shared").unwrap();
            f.waiters[0].1.mode = Mode::Permits { of: 5 };
        }),
        2
    );
    assert_eq!(broken(|f| f.header.last_token = Some(Token::new(1 << 60))), 4);
    assert_eq!(broken(|f| f.header.last_token = None), 4);
    assert_eq!(broken(|f| f.leases[0].1.token = f.leases[3].1.token), 4);
    assert_eq!(broken(|f| f.leases[0].1.granted_at_index = 7), 4);
    assert_eq!(broken(|f| f.closures[0].1.token = Token::new(1 << 61)), 4);
    assert_eq!(broken(|f| f.closures[0].1.key = Token::new(1 << 61)), 4);
    assert_eq!(broken(|f| f.header.horizon = 16), 5);
    assert_eq!(broken(|f| f.leases[0].1.ttl_ms = 0), 6);
    assert_eq!(broken(|f| f.leases[0].1.mode = Mode::Permits { of: 0 }), 6);
    assert_eq!(broken(|f| f.leases[1].1.lock_delay_ms = 1), 6);
    assert_eq!(broken(|f| f.closures[0].1.delay_ms = 0), 6);
    for reason in ["r".repeat(REASON_BYTES_MAX + 1), "main\0tenance".to_owned()] {
        let by = AgentName::new("operator").unwrap();
        let revocation = Revocation { by, reason: reason.into(), heir: None };
        assert_eq!(broken(|f| f.closures[0].1.revocation = Some(Box::new(revocation.clone()))), 6);
        assert_eq!(broken(|f| f.leases[0].1.revoked = Some(Box::new(revocation.clone()))), 6);
    }
    assert_eq!(broken(|f| f.waiters[0].1.ttl_ms = u64::MAX), 6);
    assert_eq!(broken(|f| f.waiters[0].1.metadata = Bytes::from(vec![0; 5_000]).into()), 6);
    assert_eq!(broken(|f| f.leases[2].1.granted_at_index = 16), 7);
    assert_eq!(broken(|f| f.closures[0].1.closed_at_index = 16), 7);
    assert_eq!(broken(|f| f.waiters.swap(0, 1)), 7);
    // Those who exclude each other hold together, or a name that is held is closed.
    assert_eq!(broken(|f| f.leases[1].1.mode = Mode::Exclusive), 8);
    assert_eq!(broken(|f| f.leases[2].1.mode = Mode::Permits { of: 6 }), 8);
    assert_eq!(broken(|f| f.closures[0].0 = Name::new("users").unwrap()), 8);

    let contradicts = |error| matches!(error, SnapshotError::Contradiction { .. });
    assert!(contradicts(forge(|f| f.header.leases = 3)));
    assert!(contradicts(forge(|f| f.header.waiters = 1)));
    assert!(contradicts(forge(|f| f.header.ended = 1)));
    assert!(contradicts(forge(|f| f.header.closed = 0)));
    assert!(contradicts(forge(|f| f.waiters[0].1.lease_id = f.leases[0].1.lease_id)));
    assert!(contradicts(forge(|f| f.leases.swap(1, 2))));
    assert!(contradicts(forge(|f| f.closures.push(f.closures[0].clone()))));
    assert!(contradicts(forge(|f| f.waiters[0].0 = Name::new("free").unwrap())));
}
