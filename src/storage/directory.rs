//! A data directory: who may use it (one process), and whom it belongs to (one member, for ever).
//!
//! ```text
//! identity        who this member is; written first, and never without an fsync
//! lock            held while an agent runs
//! log/            sled's files, and `acknowledged` (see engine.rs)
//! snapshots/      the newest snapshot (see snapshots.rs)
//! ```
//!
//! A forced recovery replaces the first and the last two at one moment (see successor.rs).
//!
//! The danger here is an empty start: a member that comes back under its old id without its vote or its log can
//! help to elect a second leader, or lose an entry that a majority was counted to have. So:
//!
//! - A directory that has files and no identity is refused, whatever the files.
//! - The identity says from when on there is a log; a log that is missing after that is an error.
//! - An identity that fails its checksum or has another format is an error; nothing is ever made up in its stead.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    error::StorageError,
    files,
    identity::{self, Identity, Stored},
    successor::{self, Step},
};
use crate::{AgentName, NodeId};

pub(super) const IDENTITY: &str = "identity";
const IDENTITY_TEMPORARY: &str = "identity.new";
pub(super) const LOCK: &str = "lock";
pub(super) const LOG: &str = "log";
const LOG_TEMPORARY: &str = "log.new";
pub(super) const SNAPSHOTS: &str = "snapshots";

/// A data directory, locked for this process until [`release`](Self::release) or drop.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once released.
    lock: Option<File>,
    /// What the identity file holds; `None` before [`DataDir::load_or_create`].
    stored: Option<Stored>,
}

impl DataDir {
    /// Takes the directory for this process, and creates it if it isn't there. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] and [`StorageError::Locked`], and [`StorageError::Io`].
    pub(crate) fn open(path: &Path) -> Result<Self, StorageError> {
        files::make_folder(path)?;
        // Looked at before anything is put there, so that a stranger's directory stays as it is.
        let found = foreign_content(path)?;
        if !files::exists(&path.join(IDENTITY))? && !found.is_empty() && !successor::is_there(path)? {
            return Err(StorageError::Foreign { path: path.to_owned(), found: found.join(", ") });
        }
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(StorageError::io("cannot open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => {
                return Err(StorageError::io("cannot lock", &lock_path)(error));
            }
        }
        successor::finish(path, &mut |_| Ok(()))?;
        successor::clear(path)?;
        let state = State { lock: Some(lock), stored: None };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Takes a directory that is a member's already; otherwise nothing is put there. Blocks on the disk.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`StorageError::Missing`] where there is no directory, or an empty one.
    pub(crate) fn open_existing(path: &Path) -> Result<Self, StorageError> {
        let detail = "it is no member's data directory";
        if !files::exists(path)? {
            return Err(StorageError::missing(path, detail));
        }
        if !files::exists(&path.join(IDENTITY))? && foreign_content(path)?.is_empty() {
            return Err(StorageError::missing(&path.join(IDENTITY), detail));
        }
        Self::open(path)
    }

    /// Reads whom the directory belongs to, and whether there is a log. Makes nothing.
    ///
    /// # Errors
    /// [`StorageError::Missing`] where there is none or no log yet, and as
    /// [`load_or_create`](Self::load_or_create).
    pub(crate) fn load(&self) -> Result<Identity, StorageError> {
        let path = self.path.join(IDENTITY);
        if !files::exists(&path)? {
            return Err(StorageError::missing(&path, "it says which member the directory is"));
        }
        let bytes = fs::read(&path).map_err(StorageError::io("cannot read", &path))?;
        let stored = identity::parse(&path, &bytes)?;
        if !stored.log_made {
            return Err(StorageError::missing(&self.log(), "this member has never had a log"));
        }
        Ok(self.state().stored.insert(stored).identity.clone())
    }

    /// Where another content for this directory is made; see [`replace`](Self::replace).
    pub(crate) fn successor(&self) -> PathBuf {
        successor::made(&self.path)
    }

    /// Removes what was made there and did not come to count.
    pub(crate) fn clear_successor(&self) -> Result<(), StorageError> {
        successor::clear(&self.path)
    }

    /// Replaces identity, log and snapshots by what was made, and closed, at [`successor`](Self::successor). Returns where
    /// the old ones are. Blocks on the disk. Nothing in the directory may be open; the directory is closed after it.
    ///
    /// # Errors
    /// The old content is there, or the new one: the next opening says which.
    pub(crate) fn replace(self, step: Step<'_>) -> Result<PathBuf, StorageError> {
        if self.state().lock.is_none() {
            return Err(self.not_ours("the directory is closed"));
        }
        successor::decide(&self.path, step)?;
        let aside = successor::finish(&self.path, step)?;
        aside.ok_or_else(|| self.not_ours("what was made for it is gone"))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads whom the directory belongs to. An empty one is given to a new member with this id, durably.
    ///
    /// The agent's name is what the directory was given to; a caller that wants another name
    /// [`save`](Self::save)s it.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`], [`StorageError::FormatVersion`] and [`StorageError::Io`].
    pub(crate) fn load_or_create(
        &self,
        new_node_id: NodeId,
        agent: &AgentName,
    ) -> Result<Identity, StorageError> {
        let path = self.path.join(IDENTITY);
        let mut state = self.state();
        files::remove_if_there(&self.path.join(IDENTITY_TEMPORARY))?;
        let stored = if files::exists(&path)? {
            let bytes = fs::read(&path).map_err(StorageError::io("cannot read", &path))?;
            // A rename that was not yet durable when the power went must not be built upon.
            files::sync_folder(&self.path).map_err(StorageError::io("cannot sync", &self.path))?;
            identity::parse(&path, &bytes)?
        } else {
            let identity = Identity {
                node_id: new_node_id,
                cluster_id: None,
                agent: agent.clone(),
                founding: Bytes::new(),
            };
            let stored = Stored { identity, log_made: false };
            self.write(&stored)?;
            stored
        };
        Ok(state.stored.insert(stored).identity.clone())
    }

    /// Replaces the identity; it is durable when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::OtherMember`] when the node id is not that of the directory, and [`StorageError::Io`];
    /// after that the old identity stands.
    pub(crate) fn save(&self, identity: &Identity) -> Result<(), StorageError> {
        let mut state = self.state();
        let Some(old) = state.stored.as_ref().filter(|_| state.lock.is_some()) else {
            return Err(self.not_ours("the identity was not read before, or the directory is closed"));
        };
        if old.identity.node_id != identity.node_id {
            return Err(StorageError::OtherMember {
                path: self.path.join(IDENTITY),
                found: old.identity.node_id,
                given: identity.node_id,
            });
        }
        let new = Stored { identity: identity.clone(), log_made: old.log_made };
        self.write(&new)?;
        state.stored = Some(new);
        Ok(())
    }

    /// Gives the directory free for another process. The identity can't be saved after it.
    pub(crate) fn release(&self) {
        self.state().lock = None;
    }

    /// Where the log is.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where snapshots are.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Makes sure that there is a log: creates it with `create` the first time, and misses it afterwards.
    ///
    /// It is created under another name, and renamed when it is whole: what is called `log` was complete once, and
    /// nothing that is called so is ever removed.
    pub(super) fn ensure_log(
        &self,
        create: impl FnOnce(&Path) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut state = self.state();
        let Some(old) = state.stored.clone().filter(|_| state.lock.is_some()) else {
            return Err(self.not_ours("the identity was not read before, or the directory is closed"));
        };
        let log = self.log();
        let there = files::exists(&log)?;
        if old.log_made {
            return if there {
                Ok(())
            } else {
                Err(StorageError::missing(&log, "it held this member's votes and log entries"))
            };
        }
        if !there {
            let temporary = self.path.join(LOG_TEMPORARY);
            if files::exists(&temporary)? {
                fs::remove_dir_all(&temporary)
                    .map_err(StorageError::io("cannot remove the leftover", &temporary))?;
            }
            files::make_folder(&temporary)?;
            create(&temporary)?;
            files::sync_tree(&temporary)?;
            fs::rename(&temporary, &log).map_err(StorageError::io("cannot rename to \"log\"", &temporary))?;
        }
        files::make_folder(&self.snapshots())?;
        files::sync_folder(&self.path).map_err(StorageError::io("cannot sync", &self.path))?;
        let new = Stored { log_made: true, ..old };
        self.write(&new)?;
        state.stored = Some(new);
        Ok(())
    }

    fn write(&self, stored: &Stored) -> Result<(), StorageError> {
        files::replace(&self.path, IDENTITY_TEMPORARY, IDENTITY, &[&identity::form(stored)])
            .map_err(StorageError::io("cannot write", &self.path.join(IDENTITY)))
    }

    fn not_ours(&self, why: &'static str) -> StorageError {
        StorageError::io("cannot write", &self.path.join(IDENTITY))(std::io::Error::other(why))
    }

    /// A panic elsewhere leaves the state as it was: it is replaced only after the file is.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in the directory beyond what a fresh one may have: the first few names.
fn foreign_content(path: &Path) -> Result<Vec<String>, StorageError> {
    const SHOWN: usize = 3;
    let failed = || StorageError::io("cannot list", path);
    let mut found = Vec::new();
    for item in fs::read_dir(path).map_err(failed())? {
        let item = item.map_err(failed())?;
        let name = item.file_name();
        // An agent that was killed during its very first start leaves the lock and half an identity; a file
        // system of its own has `lost+found`.
        if [LOCK, IDENTITY_TEMPORARY, "lost+found"].iter().all(|ours| name != *ours) {
            found.push(format!("{name:?}"));
        }
    }
    found.sort();
    if found.len() > SHOWN {
        let more = found.len() - SHOWN;
        found.truncate(SHOWN);
        found.push(format!("{more} more"));
    }
    Ok(found)
}
