//! Golden files: what is stored and sent, held to the bytes that earlier versions wrote (tests only).
//!
//! A golden file is the hexadecimal text of a value's bytes, under `tests/golden/<name>.hex`. A change that moves a
//! field or a variant turns the check red; then the format version must change, and the old files stay beside the
//! new ones. `LEASEHOLD_WRITE_GOLDEN=1 cargo test` writes the files that are missing, never one that is there.

use std::{fmt::Debug, fmt::Write as _, fs, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::codec;

/// The value's encoding is what the file has, and the file decodes to the value.
pub(crate) fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let golden = check_bytes(name, &codec::encode(value));
    let decoded: T = codec::decode(&golden).unwrap_or_else(|error| panic!("golden file {name}: {error}"));
    assert_eq!(&decoded, value, "golden file {name} decodes to something else");
}

/// The bytes are what the file has; returns the file's.
pub(crate) fn check_bytes(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    if !path.exists() && std::env::var_os("LEASEHOLD_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, to_hex(bytes)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
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
