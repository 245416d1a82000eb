//! The identity file: which member a data directory is.
//!
//! ```text
//! "leasehld"   8 bytes
//! body         codec form, which begins with the format version
//! crc32        4 bytes, little endian, of everything before it
//! ```
//!
//! The checksum stands last and covers everything in every format version, so that damage is told from age.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::StorageError;
use crate::{
    AgentName, ClusterId, NodeId,
    codec::{self, CodecError, FORMAT_VERSION},
};

const MAGIC: &[u8; 8] = b"leasehld";
const CRC_BYTES: usize = 4;

/// Which member a data directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The member's id, given when the directory was first used.
    pub(crate) node_id: NodeId,
    /// The cluster that it belongs to; `None` until it was founded or joined.
    pub(crate) cluster_id: Option<ClusterId>,
    /// What the agent is called.
    pub(crate) agent: AgentName,
    /// The founding that this member has promised itself to; opaque here, empty if none.
    pub(crate) founding: Bytes,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) identity: Identity,
    /// There is a log: from here on, its absence is a loss.
    pub(super) log_made: bool,
}

/// The bytes of the file.
pub(super) fn form(stored: &Stored) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&codec::encode(stored));
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Reads what [`form`] wrote; `path` is for the error.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Stored, StorageError> {
    let Some((head, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
        return Err(StorageError::corrupted(path, format!("it has {} bytes only", bytes.len())));
    };
    if crc32fast::hash(head) != u32::from_le_bytes(*crc) {
        return Err(StorageError::corrupted(path, "its checksum does not match its content"));
    }
    let Some(body) = head.strip_prefix(MAGIC) else {
        return Err(StorageError::corrupted(path, "it does not begin as an identity file does"));
    };
    codec::decode(body).map_err(|error| match error {
        CodecError::Version { found } => {
            StorageError::FormatVersion { path: path.to_owned(), found, known: FORMAT_VERSION }
        }
        other => StorageError::corrupted(path, other.to_string()),
    })
}
