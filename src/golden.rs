//! Golden files: what is stored and sent, held to the bytes that earlier versions wrote (tests only).
//!
//! A golden file is the hexadecimal text of a value's bytes, under `tests/golden/v<format version>/<name>.hex`. A change
//! that moves a field or a variant turns the check red; then the format version must change, and the old files stay
//! beside the new ones: they are refused by their version. `LEASEHOLD_WRITE_GOLDEN=1 cargo test` writes the files that are missing, never one that is there.
//!
//! The files are also where hostile bytes start from: [`withstands`] and [`hostile`] damage them in every way that is
//! short to tell, because bytes that are nearly right come further into a decoder than random ones.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use proptest::{prelude::*, sample::Index};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec;

/// The value's encoding is what the file has, and the file decodes to the value. Returns the file's bytes.
pub(crate) fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) -> Vec<u8> {
    let golden = check_bytes(name, &codec::encode(value));
    let decoded: T = codec::decode(&golden).unwrap_or_else(|error| panic!("golden file {name}: {error}"));
    assert_eq!(&decoded, value, "golden file {name} decodes to something else");
    golden
}

/// Every variant that the decoder of this enum knows is among the golden files.
///
/// A `match` makes the compiler ask for a new variant's name; this makes sure that it has a file as well. It asks
/// the decoder itself: told of a variant that can't be, it answers how many there are.
pub(crate) fn covers_variants<T: DeserializeOwned>(goldens: &[Vec<u8>]) {
    let error = match codec::decode::<T>(&[codec::FORMAT_VERSION, 250]) {
        Ok(_) => panic!("the test's own assumption: no enum has 250 variants"),
        Err(error) => error.to_string(),
    };
    let digits = error.rsplit_once("0 <= i < ").map(|(_, rest)| rest.trim_end_matches(['"', ')']));
    let count: u8 = digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("not an enum of several variants: {error}"));
    let covered: BTreeSet<u8> = goldens.iter().map(|golden| golden[1]).collect();
    let missing: Vec<u8> = (0..count).filter(|variant| !covered.contains(variant)).collect();
    assert!(
        missing.is_empty(),
        "variants of {} without a golden file: {missing:?}",
        std::any::type_name::<T>()
    );
}

/// Damaged and arbitrary bytes never make the decoder panic, and what it accepts is a value: it is encoded to bytes
/// that decode to the same.
pub(crate) fn withstands<T: Serialize + DeserializeOwned + PartialEq + Debug>(goldens: &[Vec<u8>]) {
    for golden in goldens {
        for version in (0..=u8::MAX).filter(|version| *version != codec::FORMAT_VERSION) {
            let other = [&[version], &golden[1..]].concat();
            assert_eq!(codec::decode::<T>(&other), Err(codec::CodecError::Version { found: version }));
        }
        for length in 0..golden.len() {
            assert!(codec::decode::<T>(&golden[..length]).is_err(), "cut to {length} bytes");
        }
        assert!(codec::decode::<T>(&[&golden[..], &[0]].concat()).is_err(), "a byte too many");
    }
    hostile(goldens, |bytes| {
        if let Ok(value) = codec::decode::<T>(bytes) {
            assert_eq!(codec::decode(&codec::encode(&value)), Ok(value));
        }
    });
}

/// Hands these to `judge`: each golden with any one bit flipped; goldens with bytes replaced, or with another end;
/// arbitrary bytes.
pub(crate) fn hostile(goldens: &[Vec<u8>], judge: impl Fn(&[u8])) {
    assert!(!goldens.is_empty());
    for golden in goldens {
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            judge(&flipped);
        }
    }
    let any_bytes = || prop::collection::vec(any::<u8>(), 0..200);
    // Numbers at the edges of what a length or an index can be.
    let word = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            vec![0],
            vec![250],
            vec![251, 0xff, 0xff],
            vec![252, 0xff, 0xff, 0xff, 0xff],
            [&[253][..], &[0xff; 8]].concat(),
            [&[254][..], &[0xff; 16]].concat(),
            vec![0xff; 8],
        ]),
    ];
    let golden = || prop::sample::select(goldens.to_vec());
    let replaced =
        (golden(), prop::collection::vec((any::<Index>(), word), 1..5)).prop_map(|(mut bytes, words)| {
            for (at, word) in words {
                let at = at.index(bytes.len());
                bytes.splice(at..=at, word);
            }
            bytes
        });
    let another_end = (golden(), any::<Index>(), any_bytes()).prop_map(|(mut bytes, at, end)| {
        bytes.truncate(at.index(bytes.len()) + 1);
        bytes.extend(end);
        bytes
    });
    let body = any_bytes().prop_map(|bytes| [&[codec::FORMAT_VERSION], &bytes[..]].concat());
    // No file of past failures: it would be one for all forms. What was found once belongs into a test by name.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let bytes = prop_oneof![4 => replaced, 3 => another_end, 2 => body, 1 => any_bytes()];
    proptest!(config, |(bytes in bytes)| judge(&bytes));
}

/// The bytes are what the file of the present format version has; returns the file's.
pub(crate) fn check_bytes(name: &str, bytes: &[u8]) -> Vec<u8> {
    check_file(&folder(codec::FORMAT_VERSION).join(format!("{name}.hex")), bytes)
}

/// The same for a form that has a version of its own, and its files beside those of the format versions.
pub(crate) fn check_unversioned(name: &str, bytes: &[u8]) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    check_file(&folder.join(format!("{name}.hex")), bytes)
}

fn check_file(path: &Path, bytes: &[u8]) -> Vec<u8> {
    if !path.exists() && std::env::var_os("LEASEHOLD_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, to_hex(bytes)).unwrap();
    }
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        panic!("{}: {error}; LEASEHOLD_WRITE_GOLDEN=1 writes missing golden files", path.display())
    });
    let golden = from_hex(&text).unwrap_or_else(|| panic!("{} is not hexadecimal text", path.display()));
    assert_eq!(
        to_hex(bytes),
        to_hex(&golden),
        "{}: the form has changed; it needs a new format version, and this file stays",
        path.display()
    );
    golden
}

fn folder(version: u8) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

/// What older versions wrote is refused by the version that it names, never read as something else.
#[test]
fn older_forms_are_refused_by_their_version() {
    // Those that the codec made; the others name their version elsewhere, and have tests of their own.
    for version in 1..codec::FORMAT_VERSION {
        for kind in ["founding", "message", "raft"] {
            let files = fs::read_dir(folder(version).join(kind)).unwrap();
            for path in files.map(|file| file.unwrap().path()) {
                let bytes = from_hex(&fs::read_to_string(&path).unwrap()).unwrap();
                let refused = Err(codec::CodecError::Version { found: version });
                assert_eq!(codec::decode::<u8>(&bytes), refused, "{}", path.display());
            }
        }
    }
}

/// 32 bytes a line.
fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| Some((pair[0] * 16 + pair.get(1)?) as u8)).collect()
}

#[test]
fn hex_reads_what_it_wrote() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
    assert_eq!((from_hex("abc"), from_hex("zz")), (None, None));
}
