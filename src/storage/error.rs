//! Why a data directory can't be opened.
//!
//! Every variant names the path, what is wrong with it and what to do. Nothing was changed on disk when one is
//! returned, but for the leftovers of an interrupted write, which are removed first.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A data directory that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The directory has files, and no identity among them: it isn't an agent's.
    #[error(
        "{path:?} is not an agent's data directory: it has {found} and no file \"identity\"; give an empty directory or one that an agent made, and if this one was an agent's, remove it whole and start as a new member"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it has instead.
        found: String,
    },
    /// Another agent uses the directory.
    #[error(
        "another agent is running on {path:?}: it holds the file \"lock\" there; stop that agent, or give this one a directory of its own"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the directory is damaged.
    #[error(
        "{path:?} is damaged: {detail}; an agent does not go on under its old id with less than it had promised, so move the data directory away and start this agent with an empty one, as a new member"
    )]
    Corrupted {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A file or folder that the directory must have is gone.
    #[error(
        "{path:?} is missing: {detail}; put it back, or move the data directory away and start this agent with an empty one, as a new member"
    )]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// What it held.
        detail: String,
    },
    /// A file was written by a program whose format this one does not know.
    #[error(
        "{path:?} has format version {found}, this program knows version {known}; use the program version that wrote it, or upgrade this one"
    )]
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// The version that it names.
        found: u8,
        /// The version that this program writes.
        known: u8,
    },
    /// The identity that is to be saved is not that of the directory.
    #[error(
        "{path:?} belongs to another member: it says {found}, the program says {given}; a directory keeps its id, give this agent another directory"
    )]
    OtherMember {
        /// The identity file.
        path: PathBuf,
        /// The id in the file.
        found: crate::NodeId,
        /// The id that was given.
        given: crate::NodeId,
    },
    /// The operating system refused.
    #[error(
        "{doing} {path:?}: {source}; check that the path is right, that this user may write there, and that the disk has room and is healthy"
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done with it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StorageError {
    /// For `map_err`: the operation on the path failed.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, doing, source }
    }

    pub(super) fn corrupted(path: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupted { path: path.to_owned(), detail: detail.into() }
    }

    pub(super) fn missing(path: &Path, detail: impl Into<String>) -> Self {
        Self::Missing { path: path.to_owned(), detail: detail.into() }
    }
}
