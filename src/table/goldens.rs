//! Golden files of every stored and sent form of this module, and what hostile bytes do.

use bytes::Bytes;

use super::{
    snapshot::{Header, Record},
    *,
};
use crate::{AgentName, NodeId, codec, golden};

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
    }
}

fn revocation() -> Revocation {
    Revocation { by: AgentName::new("operator").unwrap(), reason: "maintenance".into() }
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
        Command::Transfer { lease_id: id(0x11), to: TransferTo::Waiter(id(0x22)), attempt: 2 },
        Command::Transfer {
            lease_id: id(0x11),
            to: TransferTo::Agent(AgentName::new("agent-b").unwrap()),
            attempt: 3,
        },
        Command::Revoke { name: name(), token, by: revocation().by, reason: revocation().reason },
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
            Command::Transfer { to: TransferTo::Waiter(_), .. } => "transfer_waiter",
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
        };
        (name.to_owned(), outcome)
    };
    all.into_iter().map(named).collect()
}

fn events() -> Vec<(&'static str, Event)> {
    let (token, lease_id) = (Token::new(1 << 60), id(0x11));
    let ended = |reason| Event::Ended { name: name(), lease_id, token, holder: holder("agent-a"), reason };
    let left = |reason| Event::Left { name: name(), lease_id, holder: holder("agent-a"), reason };
    vec![
        ("founded", Event::Founded { tokens_above: token }),
        ("queued", Event::Queued { name: name(), lease_id, holder: holder("agent-a"), ttl_ms: 10_000 }),
        (
            "granted",
            Event::Granted {
                name: name(),
                lease_id,
                token,
                holder: holder("agent-a"),
                ttl_ms: 10_000,
                from_queue: true,
            },
        ),
        ("ended_released", ended(EndReason::Released)),
        ("ended_cancelled", ended(EndReason::Cancelled)),
        ("ended_expired", ended(EndReason::Expired)),
        ("ended_transferred", ended(EndReason::Transferred)),
        ("ended_revoked", ended(EndReason::Revoked(revocation()))),
        ("left_cancelled", left(LeftReason::Cancelled)),
        ("left_expired", left(LeftReason::Expired)),
        ("left_no_tokens", left(LeftReason::NoTokens)),
        (
            "revoked",
            Event::Revoked {
                name: name(),
                lease_id,
                token,
                holder: holder("agent-a"),
                revocation: revocation(),
            },
        ),
    ]
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

#[test]
fn every_event_is_encoded_as_ever() {
    let goldens: Vec<_> =
        events().iter().map(|(name, event)| golden::check(&format!("table/event_{name}"), event)).collect();
    golden::covers_variants::<Event>(&goldens);
}

/// A table with a bit of everything that a snapshot can have.
fn table() -> Table {
    let bounds = Bounds { ended_ids: 2, ..Bounds::default() };
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
        Command::Revoke {
            name: name(),
            token: Token::new((1 << 60) + 1),
            by: revocation().by,
            reason: revocation().reason,
        },
        asks(5, "stock"),
        Command::Release { lease_id: id(5) },
        Command::Cancel { lease_id: id(6) },
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
    assert_eq!(restored.counts(), Counts { leases: 2, waiters: 2, ended_ids: 2 });
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
        Counts { leases: count as usize + 1, waiters: count as usize - 1, ended_ids: count as usize }
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

/// A snapshot of these records, with the checksum and the counts that they ask for.
fn forge(change: impl Fn(&mut Header, &mut Vec<(Name, Lease)>, &mut Vec<(Name, Waiter)>)) -> SnapshotError {
    let table = table();
    let mut header = Header {
        applied: table.applied,
        last_token: table.last_token,
        horizon: table.ended.horizon(),
        leases: 2,
        waiters: 2,
        ended: 0,
    };
    let mut leases: Vec<_> = table.leases("", None).map(|l| (l.name.clone(), l.lease.clone())).collect();
    let mut waiters: Vec<_> = table.waiters(&name()).map(|w| (name(), w.clone())).collect();
    change(&mut header, &mut leases, &mut waiters);
    let mut bytes = b"LHTABLE\n".to_vec();
    for record in [Record::Header(header), Record::Leases(leases), Record::Waiters(waiters)] {
        let record = codec::encode(&record);
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    restore(&bytes).map_or_else(|error| error, |_| panic!("it was accepted"))
}

#[test]
fn what_no_log_leads_to_is_refused_by_the_invariant_that_it_breaks() {
    let number = |error| match error {
        SnapshotError::Impossible(violation) => violation.number,
        other => panic!("{other}"),
    };
    assert_eq!(number(forge(|h, _, _| h.last_token = Some(Token::new(1 << 60)))), 4);
    assert_eq!(number(forge(|h, _, _| h.last_token = None)), 4);
    assert_eq!(number(forge(|_, l, _| l[0].1.token = l[1].1.token)), 4);
    assert_eq!(number(forge(|_, l, _| l[0].1.granted_at_index = 7)), 4);
    assert_eq!(number(forge(|h, _, _| h.horizon = 12)), 5);
    assert_eq!(number(forge(|_, l, _| l[0].1.ttl_ms = 0)), 6);
    assert_eq!(number(forge(|_, _, w| w[0].1.ttl_ms = u64::MAX)), 6);
    assert_eq!(number(forge(|_, _, w| w[0].1.metadata = Bytes::from(vec![0; 5_000]).into())), 6);
    assert_eq!(number(forge(|_, l, _| l[1].1.granted_at_index = 12)), 7);
    assert_eq!(number(forge(|_, _, w| w.swap(0, 1))), 7);

    let contradicts = |error| matches!(error, SnapshotError::Contradiction { .. });
    assert!(contradicts(forge(|h, _, _| h.leases = 3)));
    assert!(contradicts(forge(|h, _, _| h.waiters = 1)));
    assert!(contradicts(forge(|h, _, _| h.ended = 1)));
    assert!(contradicts(forge(|_, l, w| w[0].1.lease_id = l[0].1.lease_id)));
    assert!(contradicts(forge(|_, l, _| l[1].0 = l[0].0.clone())));
    assert!(contradicts(forge(|_, _, w| w[0].0 = Name::new("free").unwrap())));
}
