//! The one place that turns values into bytes and back: bincode in its serde mode.
//!
//! bincode 2.0.1 is finished rather than maintained. It stays behind this file, so that another encoding is one
//! file's change. What is stored or sent begins with [`FORMAT_VERSION`]; a reader refuses a version that it does
//! not know by name. Decoding is bounded: a length field can make it neither allocate nor read more than
//! [`DECODED_BYTES_MAX`] bytes, and bytes left over are an error.
//!
//! Enums are encoded by the position of the variant, structs by the position of the field: append variants, never
//! move or remove them; a new field needs a new format version. Golden files (`tests/golden`) hold both to it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

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

type Bounded = Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>>;

const CONFIG: Bounded = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

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
    let (value, read) = bincode::serde::decode_from_slice::<T, Bounded>(body, CONFIG)
        .map_err(|e| malformed(e.to_string()))?;
    if read != body.len() {
        return Err(malformed(format!("{} bytes left over", body.len() - read)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
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
        // A length field of 2^63 elements: refused, nothing allocated.
        let mut lie = vec![FORMAT_VERSION, 253];
        lie.extend_from_slice(&(1u64 << 63).to_le_bytes());
        assert!(decode::<Vec<u64>>(&lie).is_err());
        assert!(decode::<String>(&lie).is_err());
    }
}
