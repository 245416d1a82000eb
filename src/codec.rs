//! The one place that turns values into bytes and back: bincode in its serde mode.
//!
//! bincode 2.0.1 is finished rather than maintained. It stays behind this file, so that another encoding is one
//! file's change. What is stored or sent begins with [`FORMAT_VERSION`]; a reader refuses a version that it does
//! not know by name. Decoding is bounded: it reads no more than [`DECODED_BYTES_MAX`] bytes, a length field makes it
//! allocate nothing for bytes that are not there (`bounded.rs`), and bytes left over are an error.
//!
//! Enums are encoded by the position of the variant, structs by the position of the field: append variants, never
//! move or remove them; a new field needs a new format version. Golden files (`tests/golden`) hold both to it.

mod bounded;

use std::marker::PhantomData;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

use self::bounded::Bounded;
use crate::limits::DECODED_BYTES_MAX;

/// The version of every stored and sent form, the first byte of each.
pub(crate) const FORMAT_VERSION: u8 = 3;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes were written by a program whose format this one does not know.
    #[error(
        "format version {found}, this program reads version {FORMAT_VERSION}; use the program version that wrote it, or upgrade this one"
    )]
    Version {
        /// The version that the bytes name.
        found: u8,
    },
    /// The bytes are cut short, too many, or not of the form.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder said.
        detail: String,
    },
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>> =
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// The version byte, then the value.
///
/// Every type of ours encodes: bincode fails only where `Serialize` itself does, and ours don't. Should one, the
/// result is the version byte alone, which no decoder accepts.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(value, &mut bytes);
    bytes
}

/// Appends what [`encode`] returns.
pub(crate) fn append<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bytes.push(FORMAT_VERSION);
    let before = bytes.len();
    if let Err(error) = bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard()) {
        tracing::error!(what = std::any::type_name::<T>(), %error, "a value could not be encoded");
        bytes.truncate(before);
    }
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`CodecError`] for another format version, a malformed or oversized value, and bytes left over.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let what = std::any::type_name::<T>();
    let malformed = |detail: String| CodecError::Malformed { what, detail };
    let Some((&version, body)) = bytes.split_first() else {
        return Err(malformed("no bytes".to_owned()));
    };
    if version != FORMAT_VERSION {
        return Err(CodecError::Version { found: version });
    }
    let seed = Bounded { inner: PhantomData::<T>, bytes: body.len() };
    let (value, read) =
        bincode::serde::seed_decode_from_slice(seed, body, CONFIG).map_err(|e| malformed(e.to_string()))?;
    if read != body.len() {
        return Err(malformed(format!("{} bytes left over", body.len() - read)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let value = (7u64, "x".to_owned(), vec![1u8, 2, 3]);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&encode(&value)), Ok(value));
    }

    #[test]
    fn other_versions_remains_and_lies_are_refused() {
        let mut bytes = encode(&7u64);
        bytes.push(0);
        assert!(matches!(decode::<u64>(&bytes), Err(CodecError::Malformed { .. })));
        bytes[0] = FORMAT_VERSION + 1;
        assert_eq!(decode::<u64>(&bytes), Err(CodecError::Version { found: FORMAT_VERSION + 1 }));
        assert!(decode::<u64>(&[]).is_err());
    }

    /// That they allocate nothing is measured in `tests/fuzz_corpora.rs`.
    #[test]
    fn lengths_that_lie_are_refused() {
        for lie in [1u64 << 20, 1 << 25, 1 << 40, 1 << 63] {
            let lie = [&[FORMAT_VERSION, 253][..], &lie.to_le_bytes(), &[1]].concat();
            assert!(decode::<Vec<u64>>(&lie).is_err());
            assert!(decode::<String>(&lie).is_err());
            assert!(decode::<Bytes>(&lie).is_err());
            assert!(decode::<Arc<str>>(&lie).is_err());
            assert!(decode::<BTreeMap<u64, String>>(&lie).is_err());
            // Within others.
            let inner = [&[FORMAT_VERSION, 1][..], &lie[1..]].concat();
            assert!(decode::<Vec<Vec<String>>>(&inner).is_err());
            assert!(decode::<Option<Bytes>>(&inner).is_err());
            assert!(decode::<BTreeMap<u8, BTreeMap<u8, String>>>(&inner).is_err());
        }
    }

    #[test]
    fn every_shape_of_value_is_decoded() {
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        enum Shape {
            Unit,
            One(Bytes),
            Two(Option<i16>, Option<()>),
            Named { c: char, text: Arc<str>, map: BTreeMap<String, Vec<Bytes>> },
        }
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Whole(Shape, (bool, f64), Box<[Shape]>, std::marker::PhantomData<()>);
        let map = BTreeMap::from([("a".to_owned(), vec![Bytes::from_static(b"b"), Bytes::new()])]);
        let named = Shape::Named { c: 'é', text: "text".into(), map };
        let parts = [Shape::One(Bytes::from_static(b"x")), Shape::Two(Some(-7), None), named];
        let value = Whole(Shape::Unit, (true, 0.5), parts.into(), std::marker::PhantomData);
        assert_eq!(decode(&encode(&value)), Ok(value));
        let bad_text = [FORMAT_VERSION, 1, 0xff];
        assert!(matches!(decode::<String>(&bad_text), Err(CodecError::Malformed { .. })));
    }
}
