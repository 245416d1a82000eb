//! The target `table` of the fuzzer, and half of its target `snapshots` (feature `test-support`).

use super::{
    Bounds, Command, Entry, Table,
    world::{Op, Pick, World, conclude},
};
use crate::{
    codec::FORMAT_VERSION,
    fuzz::{Choices, sealed},
};

/// So many operations of one input are carried out: each looks at everything, which grows with them.
const OPS_MAX: usize = 400;

/// Arbitrary commands, with copies of earlier ones, in arbitrary order: the table does what its naive twin does, and keeps
/// its invariants.
pub(crate) fn table(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let bounds = Bounds {
        ended_ids: choices.below(6),
        leases: 2 + choices.below(10),
        waiters_per_name: 1 + choices.below(4),
    };
    let mut world = World::new(bounds);
    if choices.chance(16) {
        world.begin_at(choices.number() / 2);
    }
    if choices.chance(240) {
        world.run(&Op::Found(choices.byte()));
    }
    for _ in 0..OPS_MAX {
        if choices.is_over() {
            break;
        }
        let op = op(&mut choices);
        world.run(&op);
    }
    conclude(&mut world);
}

fn op(choices: &mut Choices<'_>) -> Op {
    match choices.byte() {
        0..=199 => single(choices),
        200..=229 => Op::Batch((0..choices.below(8)).map(|_| single(choices)).collect()),
        230..=239 => Op::Restore,
        _ => Op::Skip,
    }
}

fn pick(choices: &mut Choices<'_>) -> Pick {
    let which = usize::from(choices.byte());
    if which < 64 { Pick::Any(which) } else { Pick::Live(which - 64) }
}

fn single(choices: &mut Choices<'_>) -> Op {
    match choices.byte() % 16 {
        0 => Op::Found(choices.byte()),
        1..=4 => {
            let (who, how) = (choices.byte(), choices.byte());
            Op::Acquire {
                name: usize::from(who % 3),
                agent: usize::from(who / 3 % 4),
                wait: how & 1 == 0,
                lag: u64::from(how >> 1 & 3),
                sent: who < 224,
                mode: if how < 192 { 0 } else { how % 6 },
                delays: how & 8 != 0,
            }
        }
        5 => Op::Odd { like: choices.byte().into(), kind: choices.byte() },
        6 | 7 => Op::Copy(choices.byte().into()),
        8 | 9 => Op::Release(pick(choices)),
        10 => Op::Cancel(pick(choices)),
        11 => {
            let own_term = choices.chance(220);
            let picks = (0..choices.below(6)).map(|_| (pick(choices), choices.byte() % 3)).collect();
            Op::Expire { own_term, picks }
        }
        12 => Op::Transfer { from: pick(choices), how: choices.byte(), attempt: choices.number() },
        13 => {
            let which = choices.byte();
            let heir = choices.byte();
            Op::Revoke {
                name: usize::from(which % 3),
                of: usize::from(which / 3 % 4),
                heir: (heir < 192).then_some(usize::from(heir % 4)),
            }
        }
        14 => Op::Open { right: choices.chance(200) },
        _ => {
            let length = choices.byte().into();
            Op::Encoded(choices.bytes(length).to_vec())
        }
    }
}

/// Whatever a snapshot says, it is refused, or a table in order: the same after it was written and read again, and still in
/// order after whatever ends all that is in it.
pub(crate) fn snapshot(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let how = choices.byte();
    let bytes = match how % 4 {
        0 => choices.rest().to_vec(),
        1 => sealed(&[b"LHTABLE\n", choices.rest()].concat()),
        _ => of_records(&mut choices),
    };
    let Ok(mut table) = Table::restore(&bytes) else { return };
    in_order(&table);
    let again = table.snapshot();
    match Table::restore(&again) {
        Ok(same) => assert!(same.snapshot() == again, "L8: a restored table has another snapshot"),
        Err(error) => assert!(again.is_empty(), "a table's own snapshot is refused: {error}"),
    }
    end_all(&mut table, how);
}

/// Records as they stand in a snapshot, with their lengths and the checksum that all of them ask for.
fn of_records(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = b"LHTABLE\n".to_vec();
    while !choices.is_over() {
        let length = usize::from(choices.byte()) | usize::from(choices.byte()) << 8;
        let record = choices.bytes(length);
        bytes.extend_from_slice(&(record.len() as u32 + 1).to_le_bytes());
        bytes.push(FORMAT_VERSION);
        bytes.extend_from_slice(record);
    }
    sealed(&bytes)
}

fn in_order(table: &Table) {
    if let Err(violation) = table.check_invariants() {
        assert_eq!(violation.to_string(), "", "a table is not in order");
    }
}

/// Ends all that lives, one after the other.
fn end_all(table: &mut Table, how: u8) {
    const TERM: u64 = 1;
    let mut events = Vec::new();
    for _ in 0..64 {
        let Some((id, live)) = table.all_live().next() else { break };
        let Some(index) = table.applied().checked_add(1) else { return };
        let command = match how / 4 % 3 {
            // A closed name ends in one way only.
            0 if live.token.is_none() || table.lease(&id).is_some() => Command::Release { lease_id: id },
            1 if live.token.is_none() || table.lease(&id).is_some() => Command::Cancel { lease_id: id },
            _ => Command::Expire { term: TERM, ended: vec![(id, live.token)] },
        };
        let before = table.counts();
        table.apply(index, TERM, &Entry { wall_unix_ms: 0, command }, &mut events);
        assert!(table.counts() != before, "{id} does not end");
        in_order(table);
    }
}
