//! Replacing all that a data directory holds, at one moment: for a forced recovery, and nothing else.
//!
//! ```text
//! successor.new/          being made: not there, as far as anybody cares; the next opening removes it
//! successor/              whole, on the device, and what counts from now on: identity, log, snapshots
//! before-generation-1/    what it has replaced, kept for people: identity, log, snapshots
//! ```
//!
//! The successor is made beside what is there, which is not touched meanwhile, and synced whole. One rename, from
//! `successor.new` to `successor`, is the moment. From then on whoever opens the directory first finishes: puts what was
//! there aside, and the successor's parts in their places ([`finish`]), each by a rename, in an order in which any
//! beginning of it can be gone on from. So a power cut at any point leaves the old content or the new one, and what is
//! between the two can't be used before it is finished.
//!
//! The identity is the first to go and the last to come: between the two even a program that knows nothing of successors
//! refuses the directory, as one that has files and no identity.
//!
//! Rejected: to rename the directory itself, which may be a mount point, and whose place would be empty for a moment: an
//! agent that starts just then would begin anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    directory::{IDENTITY, LOCK, LOG, SNAPSHOTS},
    error::StorageError,
    files, identity,
};

const MADE: &str = "successor.new";
const WHOLE: &str = "successor";
/// What replaces what, but for the identity.
const PARTS: [&str; 2] = [LOG, SNAPSHOTS];

/// Called before each step that changes the disk, with what is about to be done; an error ends the work there. For tests,
/// which end it everywhere.
pub(crate) type Step<'a> = &'a mut (dyn FnMut(&str) -> io::Result<()> + Send);

/// Where the successor of this directory's content is made.
pub(super) fn made(directory: &Path) -> PathBuf {
    directory.join(MADE)
}

/// Whether this directory has a successor which counts and is not in its place yet: then what else is there is not
/// somebody else's.
pub(super) fn is_there(directory: &Path) -> Result<bool, StorageError> {
    files::exists(&directory.join(WHOLE).join(IDENTITY))
}

/// Removes what an interrupted making has left.
pub(super) fn clear(directory: &Path) -> Result<(), StorageError> {
    let leftover = made(directory);
    if files::exists(&leftover)? {
        fs::remove_dir_all(&leftover).map_err(StorageError::io("cannot remove the leftover", &leftover))?;
    }
    Ok(())
}

/// The moment: from when this returns without an error, the successor counts. The caller has the directory's lock, and
/// nothing in it is open.
pub(super) fn decide(directory: &Path, step: Step<'_>) -> Result<(), StorageError> {
    let (made, whole) = (made(directory), directory.join(WHOLE));
    let failed = |path: &Path| StorageError::io("cannot write", path);
    files::remove_if_there(&made.join(LOCK))?;
    step("sync the successor").map_err(failed(&made))?;
    files::sync_tree(&made)?;
    step("rename the successor").map_err(failed(&made))?;
    fs::rename(&made, &whole).map_err(StorageError::io("cannot rename to \"successor\"", &made))?;
    step("sync the directory").map_err(failed(&whole))?;
    files::sync_folder(directory).map_err(StorageError::io("cannot sync", directory))
}

/// Puts a successor that counts in its place, if there is one, and returns where what it has replaced is. The caller has
/// the directory's lock, and nothing in it is open.
pub(super) fn finish(directory: &Path, step: Step<'_>) -> Result<Option<PathBuf>, StorageError> {
    let whole = directory.join(WHOLE);
    let new = whole.join(IDENTITY);
    if !files::exists(&new)? {
        // The last thing that an interrupted finishing had to do.
        if files::exists(&whole)? {
            fs::remove_dir(&whole).map_err(StorageError::io("cannot remove the leftover", &whole))?;
        }
        return Ok(None);
    }
    // A rename that was not yet durable when the power went must not be built upon.
    files::sync_folder(directory).map_err(StorageError::io("cannot sync", directory))?;
    let bytes = fs::read(&new).map_err(StorageError::io("cannot read", &new))?;
    let stored = identity::parse(&new, &bytes)?;
    let generation = stored.identity.cluster_id.map_or(0, crate::ClusterId::generation);
    let aside = directory.join(format!("before-generation-{generation}"));
    files::make_folder(&aside)?;

    let mut shift = |from: PathBuf, to: PathBuf| {
        step("rename").map_err(StorageError::io("cannot rename", &from))?;
        fs::rename(&from, &to).map_err(StorageError::io("cannot rename", &from))?;
        // In order: the next one must not be on the device before this one.
        for folder in [to.parent(), from.parent()].into_iter().flatten() {
            files::sync_folder(folder).map_err(StorageError::io("cannot sync", folder))?;
        }
        Ok::<(), StorageError>(())
    };
    if files::exists(&directory.join(IDENTITY))? {
        shift(directory.join(IDENTITY), aside.join(IDENTITY))?;
    }
    for part in PARTS {
        // Where the successor's is in its place already, what is there is not the old one.
        if files::exists(&whole.join(part))? {
            if files::exists(&directory.join(part))? {
                shift(directory.join(part), aside.join(part))?;
            }
            shift(whole.join(part), directory.join(part))?;
        }
    }
    shift(new, directory.join(IDENTITY))?;
    fs::remove_dir(&whole).map_err(StorageError::io("cannot remove the leftover", &whole))?;
    tracing::warn!(path = ?directory, generation, kept = ?aside, "this directory was recovered by force");
    Ok(Some(aside))
}
