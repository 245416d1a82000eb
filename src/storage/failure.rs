//! The first failure, which is also the last.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

/// Remembers the first failed write. From then on no write is acknowledged: after a failed fsync the system may
/// have dropped what was not written, and the next fsync would succeed without it.
#[derive(Debug, Default)]
pub(crate) struct Failure(Mutex<Option<(io::ErrorKind, String)>>);

impl Failure {
    /// Records a failure, unless there was one before. Returns the error to answer with.
    pub(crate) fn record(&self, error: &io::Error) -> io::Error {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, text) = first.get_or_insert_with(|| {
            tracing::error!(%error, "storage failed; nothing is written any more until the process restarts");
            (error.kind(), error.to_string())
        });
        of(*kind, text)
    }

    /// An error from the first failure on.
    pub(crate) fn check(&self) -> io::Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((kind, text)) => Err(of(*kind, text)),
            None => Ok(()),
        }
    }

    /// What the first failure was.
    pub(crate) fn text(&self) -> Option<String> {
        self.check().err().map(|error| error.to_string())
    }
}

/// The kind that says "nothing was done, go on" is not one that a failed write may have.
fn of(kind: io::ErrorKind, text: &str) -> io::Error {
    let kind = if kind == io::ErrorKind::InvalidInput { io::ErrorKind::Other } else { kind };
    io::Error::new(kind, text.to_owned())
}
