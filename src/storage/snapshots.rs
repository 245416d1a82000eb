//! The newest snapshot, as a file of its own.
//!
//! ```text
//! "leasesnp"    8 bytes        meta length   u32, little endian    data length   u64, little endian
//! version       1 byte         crc32         u32, of all others    meta, data
//! ```
//!
//! A snapshot stands for entries that were purged on its strength. So it is on the device, under its name, before
//! the one that it replaces is removed, and before the caller hears of it; and its number is in the head of the log,
//! so that its disappearance is noticed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{error::StorageError, files};
use crate::codec::FORMAT_VERSION;

const MAGIC: &[u8; 8] = b"leasesnp";
const HEADER_BYTES: usize = 8 + 1 + 4 + 8 + 4;
const PREFIX: &str = "snapshot-";
const TEMPORARY: &str = "snapshot.new";

/// A folder of snapshots: one, and while it is being replaced, two.
#[derive(Debug)]
pub(super) struct Snapshots {
    folder: PathBuf,
    /// The number of the newest one; 0 for none.
    newest: u64,
}

impl Snapshots {
    /// Looks for the newest, which must not be older than the one that was acknowledged. Removes the others.
    pub(super) fn open(folder: PathBuf, acknowledged: u64) -> Result<Self, StorageError> {
        files::make_folder(&folder)?;
        files::remove_if_there(&folder.join(TEMPORARY))?;
        let newest = numbers(&folder)?.into_iter().max().unwrap_or(0);
        let snapshots = Self { folder, newest };
        if newest < acknowledged {
            return Err(StorageError::missing(
                &snapshots.path(acknowledged),
                "it holds what the log entries removed on its strength had made",
            ));
        }
        snapshots.remove_older()?;
        files::sync_tree(&snapshots.folder)?;
        Ok(snapshots)
    }

    /// The number of the newest; 0 for none.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Writes the next one, durably; the older one stays.
    pub(super) fn write(&mut self, meta: &[u8], data: &[u8]) -> io::Result<()> {
        let header = header(meta, data)?;
        let number = self.newest + 1;
        files::replace(&self.folder, TEMPORARY, &name(number), &[&header, meta, data])?;
        self.newest = number;
        Ok(())
    }

    /// Reads the newest.
    pub(super) fn load(&self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        if self.newest == 0 {
            return Ok(None);
        }
        let path = self.path(self.newest);
        let bytes = fs::read(&path).map_err(StorageError::io("cannot read", &path))?;
        parse(&path, bytes.into()).map(Some)
    }

    /// Removes all but the newest. Whether that is durable does not matter: the next opening does it again.
    pub(super) fn remove_older(&self) -> Result<(), StorageError> {
        for number in numbers(&self.folder)? {
            if number < self.newest {
                files::remove_if_there(&self.path(number))?;
            }
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(name(number))
    }
}

/// What stands before meta and data.
pub(super) fn header(meta: &[u8], data: &[u8]) -> io::Result<[u8; HEADER_BYTES]> {
    let meta_bytes = u32::try_from(meta.len()).map_err(io::Error::other)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8] = FORMAT_VERSION;
    header[9..13].copy_from_slice(&meta_bytes.to_le_bytes());
    header[13..21].copy_from_slice(&(data.len() as u64).to_le_bytes());
    let crc = checksum(&header, meta, data);
    header[21..].copy_from_slice(&crc.to_le_bytes());
    Ok(header)
}

/// Meta and data of a file with this content; `path` is for the error.
pub(super) fn parse(path: &Path, mut bytes: Bytes) -> Result<(Bytes, Bytes), StorageError> {
    if bytes.len() < HEADER_BYTES {
        return Err(StorageError::corrupted(path, format!("it has {} bytes only", bytes.len())));
    }
    let header = bytes.split_to(HEADER_BYTES);
    if !header.starts_with(MAGIC) {
        return Err(StorageError::corrupted(path, "it does not begin as a snapshot does"));
    }
    let number = |from: usize, to: usize| {
        header[from..to].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let (meta_bytes, data_bytes, crc) = (number(9, 13), number(13, 21), number(21, 25));
    if meta_bytes.checked_add(data_bytes) != Some(bytes.len() as u64) {
        return Err(StorageError::corrupted(
            path,
            format!("its content has {} bytes, not {meta_bytes} + {data_bytes}", bytes.len()),
        ));
    }
    let meta = bytes.split_to(meta_bytes as usize);
    if u64::from(checksum(&header, &meta, &bytes)) != crc {
        return Err(StorageError::corrupted(path, "its checksum does not match its content"));
    }
    if header[8] != FORMAT_VERSION {
        let path = path.to_owned();
        return Err(StorageError::FormatVersion { path, found: header[8], known: FORMAT_VERSION });
    }
    Ok((meta, bytes))
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

fn checksum(header: &[u8], meta: &[u8], data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..21]);
    hasher.update(meta);
    hasher.update(data);
    hasher.finalize()
}

fn numbers(folder: &Path) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    for item in fs::read_dir(folder).map_err(StorageError::io("cannot list", folder))? {
        let file_name = item.map_err(StorageError::io("cannot list", folder))?.file_name();
        let digits = file_name.to_str().and_then(|text| text.strip_prefix(PREFIX));
        numbers.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
    }
    Ok(numbers)
}
