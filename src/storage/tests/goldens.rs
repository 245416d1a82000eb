//! Golden files of everything in a data directory that is ours, by its real writers and readers, and what hostile
//! bytes do. What sled makes of it is sled's, whose version is pinned.

use std::fs;

use super::{
    super::{
        DataDir, Identity,
        engine::Engine,
        identity::{self, Stored},
        record::{self, Head, Piece, Record},
        snapshots::Snapshots,
    },
    *,
};
use crate::{AgentName, ClusterId, NodeId, codec::FORMAT_VERSION, golden};

fn node() -> NodeId {
    NodeId::from_bits(0x0102_0304_0506_0708)
}

fn agent() -> AgentName {
    AgentName::new("agent-a").unwrap()
}

/// With its checksum at the end, as the identity and the head have it.
fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &crc32fast::hash(body).to_le_bytes()].concat()
}

/// Without the checksum.
fn bare(goldens: &[Vec<u8>]) -> Vec<Vec<u8>> {
    goldens.iter().map(|golden| golden[..golden.len() - 4].to_vec()).collect()
}

/// Each bit counts: none can flip unnoticed.
fn notices_any_flipped_bit(golden: &[u8], is_refused: impl Fn(&[u8]) -> bool) {
    for bit in 0..golden.len() * 8 {
        let mut flipped = golden.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&flipped), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn an_identity_is_stored_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity");
    let directory = DataDir::open(folder.path()).unwrap();
    let fresh = directory.load_or_create(node(), &agent()).unwrap();
    let given = golden::check_bytes("storage/identity_new", &fs::read(&path).unwrap());

    let founded = Identity {
        cluster_id: Some(ClusterId::from_bits(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        founding: Bytes::from_static(b"plan"),
        ..fresh.clone()
    };
    directory.save(&founded).unwrap();
    directory.ensure_log(|_| Ok(())).unwrap();
    let used = golden::check_bytes("storage/identity", &fs::read(&path).unwrap());
    drop(directory);

    for (golden, expected) in [(&given, fresh), (&used, founded)] {
        fs::write(&path, golden).unwrap();
        let directory = DataDir::open(folder.path()).unwrap();
        assert_eq!(directory.load_or_create(NodeId::from_bits(9), &agent()).unwrap(), expected);
    }
    let parse = |bytes: &[u8]| identity::parse(&path, bytes);
    assert!(!parse(&given).unwrap().log_made && parse(&used).unwrap().log_made);
    notices_any_flipped_bit(&used, |bytes| parse(bytes).is_err());
    golden::hostile(&[given.clone(), used.clone()], |bytes| drop(parse(bytes)));
    golden::hostile(&bare(&[given, used]), |body| {
        if let Ok(stored) = parse(&sealed(body)) {
            let again: Stored = parse(&identity::form(&stored)).unwrap();
            assert_eq!(again, stored);
        }
    });
}

fn head() -> Head {
    Head {
        number: 1 << 40,
        first: (1 << 41) + 1,
        end: 1 << 42,
        chain: 0x0102_0304,
        purged: Some((1 << 41, bytes("purge mark"))),
        vote: Some(bytes("vote")),
        committed: Some(bytes("commit mark")),
        snapshot: 1 << 43,
    }
}

#[test]
fn a_head_is_stored_as_ever() {
    let goldens = [
        golden::check_bytes("storage/head", &head().form()),
        golden::check_bytes("storage/head_new", &Head::default().form()),
    ];
    assert_eq!(Head::parse(&goldens[0]), Ok(head()));
    assert_eq!(Head::parse(&goldens[1]), Ok(Head::default()));
    notices_any_flipped_bit(&goldens[0], |bytes| Head::parse(bytes).is_err());
    golden::hostile(&goldens, |bytes| drop(Head::parse(bytes)));
    golden::hostile(&bare(&goldens), |body| {
        if let Ok(head) = Head::parse(&sealed(body)) {
            assert_eq!(Head::parse(&head.form()), Ok(head));
        }
    });
}

/// Two entries that share a record, and one that needs one of its own, in two parts.
fn records() -> (Vec<(u64, Bytes)>, Vec<Record>, u32) {
    let large: Vec<u8> = (0..5_000_u32).map(|at| at as u8).collect();
    let entries = vec![
        (1 << 40, bytes("an entry")),
        ((1 << 40) + 1, bytes("another")),
        ((1 << 40) + 2, Bytes::from(large)),
    ];
    let (records, chain) = record::pack(&entries, 0x0a0b_0c0d);
    (entries, records, chain)
}

fn unpack(values: &[(Vec<u8>, Vec<u8>)]) -> Result<(Vec<(u64, Bytes)>, u32), String> {
    let pieces: Vec<Piece<'_>> =
        values.iter().map(|(key, value)| record::parse_piece(key, value)).collect::<Result<_, _>>()?;
    record::unpack(pieces[0].span, &pieces)
}

/// The value, with the checksum that it asks for.
fn resealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let Some((_, rest)) = value.split_first_chunk::<4>() else { return value.to_vec() };
    [&crc32fast::hash(&[key, rest].concat()).to_le_bytes(), rest].concat()
}

#[test]
fn records_are_stored_as_ever() {
    let (entries, records, chain) = records();
    assert_eq!(records.iter().map(|record| record.values.len()).collect::<Vec<_>>(), [1, 2]);
    let mut read = Vec::new();
    let mut after = 0;
    for (number, record) in records.iter().enumerate() {
        let mut values = Vec::new();
        for (part, (key, value)) in record.values.iter().enumerate() {
            let name = format!("storage/record_{number}_part_{part}");
            let golden = golden::check_bytes(&name, &[&key[..], value].concat());
            let (key, value) = golden.split_at(key.len());
            values.push((key.to_vec(), value.to_vec()));
        }
        let (some, chain) = unpack(&values).unwrap();
        read.extend(some);
        after = chain;
    }
    assert_eq!((read, after), (entries, chain));
}

#[test]
fn hostile_records_are_refused_or_entries() {
    let (_, records, _) = records();
    for record in &records {
        for (key, value) in &record.values {
            let parse = |value: &[u8]| {
                let piece = record::parse_piece(key, value)?;
                let (entries, after) = record::unpack(piece.span, &[piece])?;
                Ok::<_, String>((record::parse_piece(key, value)?.span.before, entries, after))
            };
            golden::hostile(std::slice::from_ref(value), |bytes| drop(parse(bytes)));
            golden::hostile(std::slice::from_ref(value), |bytes| {
                let Ok((before, entries, after)) = parse(&resealed(key, bytes)) else { return };
                let (packed, chain) = record::pack(&entries, before);
                assert_eq!(chain, after);
                let all = packed.iter().map(|record| {
                    let values = record.values.iter().map(|(key, value)| (key.to_vec(), value.clone()));
                    unpack(&values.collect::<Vec<_>>()).unwrap().0
                });
                assert_eq!(all.flatten().collect::<Vec<_>>(), entries);
            });
        }
    }
    let (key, value) = &records[0].values[0];
    notices_any_flipped_bit(value, |bytes| record::parse_piece(key, bytes).is_err());
    notices_any_flipped_bit(key, |bytes| record::parse_piece(bytes, value).is_err());
    golden::hostile(&[key.to_vec()], |key| {
        let resealed = resealed(key, value);
        let Ok(piece) = record::parse_piece(key, &resealed) else { return };
        let _ = record::unpack(piece.span, &[piece]);
    });
    // Two entries from these on: there must be an index after the last.
    for (first, fits) in [(u64::MAX - 2, true), (u64::MAX - 1, false), (u64::MAX, false)] {
        let key = [&first.to_be_bytes()[..], &[0, 0]].concat();
        assert_eq!(unpack(&[(key.clone(), resealed(&key, value))]).is_ok(), fits, "from {first}");
    }
}

/// Under which names and keys all that stands in sled's files, and the file beside them.
#[test]
fn a_log_is_stored_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Engine::create(path).unwrap();
    let acknowledged = path.join("acknowledged");
    let made = golden::check_bytes("storage/acknowledged_new", &fs::read(&acknowledged).unwrap());
    assert_eq!(made.len(), 13);

    let mut engine = Engine::open(path, true).unwrap();
    let mut head = head();
    for record in records().1 {
        engine.insert(record).unwrap();
    }
    engine.put_head(&mut head).unwrap();
    engine.sync().unwrap();
    engine.note_acknowledged(head.number).unwrap();
    engine.close().unwrap();
    let noted = golden::check_bytes("storage/acknowledged", &fs::read(&acknowledged).unwrap());

    let db = sled::open(path).unwrap();
    let mut listing = Vec::new();
    for tree in ["log", "meta"] {
        for item in db.open_tree(tree).unwrap().iter() {
            let (key, value) = item.unwrap();
            listing.extend_from_slice(tree.as_bytes());
            listing.push(key.len() as u8);
            listing.extend_from_slice(&key);
            listing.extend_from_slice(&crc32fast::hash(&value).to_le_bytes());
        }
    }
    assert_eq!(db.tree_names().len(), 3, "sled's own and ours");
    drop(db);
    golden::check_bytes("storage/log_listing", &listing);

    // Read by the head that stands in sled: what is noted may be older, not newer, not damaged.
    let read = |bytes: &[u8]| {
        fs::write(&acknowledged, bytes).unwrap();
        let engine = Engine::open(path, true).unwrap();
        let head = engine.head();
        engine.close().unwrap();
        head
    };
    assert_eq!(read(&noted).unwrap(), head);
    assert_eq!(read(&made).unwrap(), head);
    for other in [FORMAT_VERSION - 1, FORMAT_VERSION + 1] {
        let version = sealed(&[&[other], &noted[1..9]].concat());
        assert!(matches!(read(&version), Err(StorageError::FormatVersion { found, .. }) if found == other));
    }
    for refused in [&[][..], &noted[..12], &[&noted[..], &[0]].concat(), &[0xff; 13]] {
        assert!(matches!(read(refused), Err(StorageError::Corrupted { .. })), "{refused:?}");
    }
    let ahead = sealed(&[&[FORMAT_VERSION][..], &(head.number + 1).to_le_bytes()].concat());
    assert!(read(&ahead).is_err());
}

#[test]
fn a_snapshot_is_stored_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot-0000000000000001");
    let mut snapshots = Snapshots::open(folder.path().to_owned(), 0).unwrap();
    snapshots.write(b"the meta", b"and the data").unwrap();
    let golden = golden::check_bytes("storage/snapshot", &fs::read(&path).unwrap());

    let snapshots = Snapshots::open(folder.path().to_owned(), 1).unwrap();
    let load = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        snapshots.load()
    };
    let (meta, data) = load(&golden).unwrap().unwrap();
    assert_eq!((&meta[..], &data[..]), (&b"the meta"[..], &b"and the data"[..]));
    notices_any_flipped_bit(&golden, |bytes| load(bytes).is_err());
    golden::hostile(std::slice::from_ref(&golden), |bytes| drop(load(bytes)));
    // The right checksum over wrong lengths: what is read is what is there, and nothing is lost of it.
    golden::hostile(std::slice::from_ref(&golden), |bytes| {
        let mut bytes = bytes.to_vec();
        if bytes.len() >= 25 {
            let crc = crc32fast::hash(&[&bytes[..21], &bytes[25..]].concat());
            bytes[21..25].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(Some((meta, data))) = load(&bytes) {
            assert_eq!([meta, data].concat(), bytes[25..]);
        }
    });
}
