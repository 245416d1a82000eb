//! sled, held to what it does not promise by itself. The only file that knows it.
//!
//! sled 0.34.7 as it is: `flush()` hands its buffer to the file with `pwrite` and `sync_file_range`; the file grows
//! by that, and on Linux nothing but an fsync makes the new size durable, nor empties the device's cache. So
//! [`Engine::sync`] does that, on a handle of its own, which reports the write-back errors since it was opened.
//!
//! sled reuses a segment (512 KiB of the file) once the pages in it were written elsewhere and *it* believes them
//! stable, which they are only after our next sync. It waits until the end of the log is a whole segment further.
//! So no more is written between two syncs than fits into a segment ([`UNSYNCED_BYTES_MAX`]): then what has
//! replaced those pages is on the device before anything overwrites them.
//!
//! sled recovers a prefix of what was inserted, over all trees: the order of inserts is the order of survival. Much
//! of what can be wrong with its files it passes over (see `record.rs`), and some makes it panic, on this thread or
//! on one of its own; [`guarded`] turns the former into an error.

use std::{
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use super::{
    error::StorageError,
    files,
    record::{Head, Record, Span},
};
use crate::{
    codec::{CodecError, FORMAT_VERSION},
    limits::UNSYNCED_BYTES_MAX,
};

const LOG_TREE: &[u8] = b"log";
const META_TREE: &[u8] = b"meta";
const HEAD: &[u8] = b"head";
const DB: &str = "db";
const CONF: &str = "conf";
const BLOBS: &str = "blobs";
const ACKNOWLEDGED: &str = "acknowledged";
/// What an idle agent keeps in memory of sled's pages. Nobody reads them; writing touches the newest few.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// What sled adds to a key and value, about.
const INSERT_OVERHEAD_BYTES: usize = 64;
/// What a removal writes, about: the page is written anew every ten changes.
const REMOVE_BYTES: usize = 1_024;

/// What sled hands out: its own bytes, not a copy.
pub(super) type StoredBytes = sled::IVec;

/// An open sled, and the file that says how far it was acknowledged.
#[derive(Debug)]
pub(super) struct Engine {
    db: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    folder: PathBuf,
    db_file: File,
    acknowledged: File,
    /// When something last changed in the folder `blobs/`, which was found empty after that.
    blobs_changed: SystemTime,
    /// About how much was handed to sled since the last sync.
    unsynced_bytes: usize,
    /// Always, but in the test that proves that it is needed.
    fdatasync: bool,
}

impl Engine {
    /// Makes a new one in this empty folder, with a first head. The caller syncs the folder.
    pub(super) fn create(folder: &Path) -> Result<(), StorageError> {
        let failed = |doing| move |error| StorageError::io(doing, folder)(error);
        let acknowledged = folder.join(ACKNOWLEDGED);
        File::create(&acknowledged)
            .and_then(|mut file| write_acknowledged(&mut file, 0))
            .map_err(StorageError::io("cannot write", &acknowledged))?;
        guarded(|| {
            let db = config(folder).open()?;
            let _ = db.open_tree(LOG_TREE)?;
            let _ = db.open_tree(META_TREE)?.insert(HEAD, Head::default().form())?;
            db.flush()
        })
        .map_err(failed("cannot create the log in"))?;
        wait_until_closed(&folder.join(DB))
    }

    /// Opens what [`create`](Self::create) made, and puts all that is found on the device.
    pub(super) fn open(folder: &Path, fdatasync: bool) -> Result<Self, StorageError> {
        let (db_path, acknowledged_path) = (folder.join(DB), folder.join(ACKNOWLEDGED));
        // sled would create what is missing.
        for path in [&db_path, &folder.join(CONF), &acknowledged_path] {
            if !files::exists(path)? {
                return Err(StorageError::missing(path, "it is a part of this member's log"));
            }
        }
        remove_half_snapshots(folder)?;
        wait_until_closed(&db_path)?;
        let (db, log, meta) = guarded(|| {
            let db = config(folder).open()?;
            let (log, meta) = (db.open_tree(LOG_TREE)?, db.open_tree(META_TREE)?);
            Ok((db, log, meta))
        })
        .map_err(|error| match error.raw_os_error() {
            // The system's own errors (no permission, no room) say nothing about the file's content.
            Some(_) => StorageError::io("cannot open", &db_path)(error),
            None => StorageError::corrupted(&db_path, format!("sled cannot open it ({error})")),
        })?;
        // Recovery has written to the files, and what an earlier process wrote may not be on the device yet.
        files::sync_tree(folder)?;
        let db_file = File::open(&db_path).map_err(StorageError::io("cannot open", &db_path))?;
        let acknowledged = File::options()
            .read(true)
            .write(true)
            .open(&acknowledged_path)
            .map_err(StorageError::io("cannot open", &acknowledged_path))?;
        let mut engine = Self {
            db,
            log,
            meta,
            folder: folder.to_owned(),
            db_file,
            acknowledged,
            blobs_changed: SystemTime::UNIX_EPOCH,
            unsynced_bytes: 0,
            fdatasync,
        };
        engine.check_blobs().map_err(|error| StorageError::corrupted(&db_path, error.to_string()))?;
        Ok(engine)
    }

    /// The head, which is not behind the one that was acknowledged.
    pub(super) fn head(&self) -> Result<Head, StorageError> {
        let db_path = self.folder.join(DB);
        let found = guarded(|| self.meta.get(HEAD)).map_err(|error| {
            StorageError::corrupted(&db_path, format!("its head can't be read ({error})"))
        })?;
        let bytes = found.ok_or_else(|| StorageError::corrupted(&db_path, "its head is gone"))?;
        let head = Head::parse(&bytes).map_err(|error| match error {
            CodecError::Version { found } => {
                StorageError::FormatVersion { path: db_path.clone(), found, known: FORMAT_VERSION }
            }
            other => StorageError::corrupted(&db_path, other.to_string()),
        })?;
        let acknowledged = self.read_acknowledged()?;
        if head.number < acknowledged {
            return Err(StorageError::corrupted(
                &db_path,
                format!(
                    "the newest state in it is number {}, and number {acknowledged} was acknowledged",
                    head.number
                ),
            ));
        }
        Ok(head)
    }

    /// All keys and values of the log, in order.
    pub(super) fn scan(&self) -> impl Iterator<Item = io::Result<(StoredBytes, StoredBytes)>> {
        let mut iter = self.log.iter();
        std::iter::from_fn(move || guarded(|| iter.next().transpose()).transpose())
    }

    /// The values of one record, with their keys.
    pub(super) fn read(&self, span: Span) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let value = |key: [u8; 10]| {
            let found = guarded(|| self.log.get(key))?;
            found.map(|value| (key.to_vec(), value.to_vec())).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the record of entry {} is gone", span.first),
                )
            })
        };
        span.keys().map(value).collect()
    }

    /// Inserts a record. It survives a power cut after the next [`sync`](Self::sync).
    pub(super) fn insert(&mut self, record: Record) -> io::Result<()> {
        for (key, value) in record.values {
            self.make_room(value.len() + INSERT_OVERHEAD_BYTES)?;
            let _ = guarded(|| self.log.insert(key, value))?;
        }
        Ok(())
    }

    /// Removes one key.
    pub(super) fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        self.make_room(REMOVE_BYTES)?;
        let _ = guarded(|| self.log.remove(key))?;
        Ok(())
    }

    /// Replaces the head, under the next number.
    pub(super) fn put_head(&mut self, head: &mut Head) -> io::Result<()> {
        head.number += 1;
        let form = head.form();
        self.make_room(form.len() + INSERT_OVERHEAD_BYTES)?;
        let _ = guarded(|| self.meta.insert(HEAD, form))?;
        Ok(())
    }

    /// Puts everything that was inserted and removed on the device.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let _ = guarded(|| self.db.flush())?;
        if self.fdatasync {
            self.db_file.sync_data()?;
        }
        self.check_blobs()?;
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// Notes that the head with this number is on the device, before anybody is told. The note itself is not
    /// synced: it is never ahead of the truth, so it may lag behind.
    pub(super) fn note_acknowledged(&mut self, number: u64) -> io::Result<()> {
        write_acknowledged(&mut self.acknowledged, number)
    }

    /// Lets go of the files; when it returns, they can be opened again.
    pub(super) fn close(self) -> io::Result<()> {
        let db_path = self.folder.join(DB);
        let synced = self.acknowledged.sync_all();
        let dropped = guarded(|| {
            drop(self);
            Ok(())
        });
        wait_until_closed(&db_path).map_err(io::Error::other)?;
        synced.and(dropped)
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if self.unsynced_bytes + bytes > UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        self.unsynced_bytes += bytes;
        Ok(())
    }

    /// sled never syncs what it puts into `blobs/`, so nothing may be there.
    ///
    /// A look into the folder costs five calls of the system, on the way of every acknowledgement; whether anything
    /// has changed in it costs one. Its time stamp is a matter of the file system, not of any clock here.
    fn check_blobs(&mut self) -> io::Result<()> {
        let blobs = self.folder.join(BLOBS);
        let changed = fs::metadata(&blobs)?.modified()?;
        if changed == self.blobs_changed {
            return Ok(());
        }
        if let Some(item) = fs::read_dir(&blobs)?.next() {
            let name = item?.file_name();
            let what = format!("sled has put {name:?} into {blobs:?}, which it never syncs");
            return Err(io::Error::other(what));
        }
        self.blobs_changed = changed;
        Ok(())
    }

    fn read_acknowledged(&self) -> Result<u64, StorageError> {
        let path = self.folder.join(ACKNOWLEDGED);
        let bytes = fs::read(&path).map_err(StorageError::io("cannot read", &path))?;
        parse_acknowledged(&path, &bytes)
    }
}

/// The number in a file with this content; `path` is for the error.
pub(super) fn parse_acknowledged(path: &Path, bytes: &[u8]) -> Result<u64, StorageError> {
    let Ok(&[version, n0, n1, n2, n3, n4, n5, n6, n7, c0, c1, c2, c3]) = <&[u8; 13]>::try_from(bytes) else {
        return Err(StorageError::corrupted(path, format!("it has {} bytes, not 13", bytes.len())));
    };
    if crc32fast::hash(&bytes[..9]) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(StorageError::corrupted(path, "its checksum does not match its content"));
    }
    if version != FORMAT_VERSION {
        return Err(StorageError::FormatVersion {
            path: path.to_owned(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    Ok(u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]))
}

/// What the file has for this number.
pub(super) fn form_acknowledged(number: u64) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION];
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// 13 bytes in one write at the start of the file: within one sector, so the old or the new, never half.
fn write_acknowledged(file: &mut File, number: u64) -> io::Result<()> {
    let bytes = form_acknowledged(number);
    #[cfg(unix)]
    let written = std::os::unix::fs::FileExt::write_all_at(file, &bytes, 0);
    #[cfg(not(unix))]
    let written = io::Seek::rewind(file).and_then(|()| io::Write::write_all(file, &bytes));
    written
}

fn config(folder: &Path) -> sled::Config {
    sled::Config::new()
        .path(folder)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        // Nothing is written behind the writer's back, and nothing is called durable by the clock.
        .flush_every_ms(None)
}

/// Runs a call into sled. A panic inside becomes an error: the caller gives sled up at the first one, so no state
/// that the panic left half done is ever used.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error),
        Ok(Err(other)) => Err(io::Error::other(other.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(io::Error::other(format!("sled panicked: {text}")))
        }
    }
}

/// sled writes its own recovery snapshot under a temporary name first, and takes a half-written one for the newest
/// at the next opening. Without any it reads the whole log instead, which is always right.
fn remove_half_snapshots(folder: &Path) -> Result<(), StorageError> {
    for item in fs::read_dir(folder).map_err(StorageError::io("cannot list", folder))? {
        let path = item.map_err(StorageError::io("cannot list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            files::remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// sled's own threads hold its file, and the lock on it, a little longer than its handle lives. Only this process
/// can hold it: the data directory is locked.
#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of our own, below the seam: nothing simulated waits here"
)]
fn wait_until_closed(db_path: &Path) -> Result<(), StorageError> {
    const PAUSE: Duration = Duration::from_millis(1);
    const TRIES: usize = 5_000;
    let file = File::open(db_path).map_err(StorageError::io("cannot open", db_path))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(StorageError::io("cannot lock", db_path)(error)),
        }
    }
    Err(StorageError::Locked { path: db_path.to_owned() })
}
