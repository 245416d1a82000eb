//! The contract of [`Journal`](super::Journal), run on each of its implementations, and damaged directories.

mod cost;
mod damage;
mod goldens;
mod suite;

use std::{
    fs, io,
    path::Path,
    sync::{Arc, mpsc},
};

use bytes::Bytes;

use super::{DiskJournal, Done, Journal, MemoryJournal, Options, Recovered, StorageError, open_for_test};

fn open(path: &Path) -> Result<(DiskJournal, Recovered), StorageError> {
    open_for_test(path, &Options::default())
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// Entries with these indexes, whose content tells index and term.
fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<(u64, Bytes)> {
    range.map(|index| (index, bytes(format!("entry {index} of term {term}")))).collect()
}

/// Copies a folder, and what is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            fs::copy(item.path(), to).unwrap();
        }
    }
}

/// A callback, and where its answer arrives.
fn answer() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (tell, told) = mpsc::channel();
    (Box::new(move |outcome| drop(tell.send(outcome))), told)
}

/// Appends and waits until it is durable.
async fn append(journal: &dyn Journal, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    journal.append(entries, Box::new(move |outcome| drop(tell.send(outcome)))).await?;
    told.await.unwrap()
}

/// A journal under test: something that can be closed and opened again.
enum Subject {
    Disk(tempfile::TempDir, Arc<DiskJournal>),
    Memory(Arc<MemoryJournal>),
    #[cfg(feature = "chaos")]
    Simulated(crate::chaos::world::tests::Bare, Arc<crate::chaos::world::tests::DiskJournal>),
}

impl Subject {
    fn disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (journal, recovered) = open(folder.path()).unwrap();
        assert_eq!(recovered, Recovered::default());
        Self::Disk(folder, Arc::new(journal))
    }

    fn memory() -> Self {
        Self::Memory(Arc::new(MemoryJournal::new()))
    }

    #[cfg(feature = "chaos")]
    fn simulated(bare: crate::chaos::world::tests::Bare) -> Self {
        let (journal, recovered) = crate::chaos::world::tests::DiskJournal::open(&bare.disk).unwrap();
        assert_eq!(recovered, Recovered::default());
        Self::Simulated(bare, Arc::new(journal))
    }

    fn journal(&self) -> Arc<dyn Journal> {
        match self {
            Self::Disk(_, journal) => Arc::clone(journal) as _,
            Self::Memory(journal) => Arc::clone(journal) as _,
            #[cfg(feature = "chaos")]
            Self::Simulated(_, journal) => Arc::clone(journal) as _,
        }
    }

    async fn reopen(&mut self) -> (Arc<dyn Journal>, Recovered) {
        let recovered = match self {
            Self::Disk(folder, journal) => {
                journal.close().await.unwrap();
                let (reopened, recovered) = open(folder.path()).unwrap();
                *journal = Arc::new(reopened);
                recovered
            }
            Self::Memory(journal) => {
                let (reopened, recovered) = journal.restart();
                *journal = Arc::new(reopened);
                recovered
            }
            #[cfg(feature = "chaos")]
            Self::Simulated(bare, journal) => {
                journal.close().await.unwrap();
                let (reopened, recovered) =
                    crate::chaos::world::tests::DiskJournal::open(&bare.disk).unwrap();
                *journal = Arc::new(reopened);
                recovered
            }
        };
        (self.journal(), recovered)
    }
}
