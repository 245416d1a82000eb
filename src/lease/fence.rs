//! The fence: what a protected resource keeps, so that a writer whose lease is over can do it no harm.
//!
//! # The problem
//!
//! No clock protects a process that is stopped between `check()` and its write. When it goes on, someone else holds
//! the lease and may have written already. Only the resource can tell the two apart: every grant has a larger token
//! (rule L2), so the resource remembers the largest token it has seen and refuses smaller ones.
//!
//! # The argument
//!
//! - The mark only grows, and it is remembered *before* the token is admitted: on the device, where the resource is
//!   durable. Whatever crashes in between, no token below an admitted one is admitted later.
//! - A file is replaced as a whole (written beside it, fsync, rename, fsync of the folder), never changed in place.
//!   So after a crash it holds the old mark or the new one, and anything else in it is damage. Damage refuses
//!   everything, since the mark that was there might have been any.
//! - A mark that is found in the file may have been put there by a process that was killed before its rename was
//!   durable. So each fence syncs the folder once for a mark that it finds, before it admits by it.
//! - Reading, comparing and replacing happen under a lock of the operating system, on a file of its own that is never
//!   renamed: several processes, and several fences in one, share one mark. Nothing is cached.
//!
//! # Rejected
//!
//! - *Two slots, written in turn*: one fsync less, but a slot that is damaged later looks like one that was torn
//!   while being written, and the other slot holds an older mark: it would admit what must be refused.
//! - *A missing file as a mark of zero at any time*: someone who deletes it would lower the mark unnoticed. It is
//!   made, durably, when the fence is opened; missing afterwards, it is an error.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::token::Token;

/// The file begins with this; the last byte is the version of the form.
const MAGIC: [u8; 8] = *b"LHFENCE\x01";
/// Magic, token (little endian), CRC-32 of both.
const FILE_BYTES: usize = 8 + 8 + 4;

/// Why a token was not admitted. Nothing was: the resource must not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// A larger token was admitted before: the writer's lease is over and someone else has held it since.
    #[error(
        "token {token} is stale: {largest} was admitted already; stop writing and acquire the lease anew"
    )]
    Stale {
        /// The token that was refused.
        token: Token,
        /// The largest token admitted so far.
        largest: Token,
    },
    /// The file is not what a fence wrote. Nothing is admitted, since its mark might have been any.
    #[error(
        "the fence's file {} is damaged ({detail}); put back a copy that is not older than the last write to the resource, or find the largest token in the resource itself, remove the file, and admit that token first",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file was there when the fence was opened and is gone.
    #[error(
        "the fence's file {} is gone, and the largest token with it; put it back, or open the fence anew and admit the largest token in the resource first",
        path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be locked, read or written. If writing failed, the token may be remembered all the same:
    /// that refuses older ones and harms nobody. Try again.
    #[error("the fence's file {}: cannot {doing}: {source}; free the cause and try again", path.display())]
    Io {
        /// The file, or the folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Admits tokens that are not smaller than the largest seen: the part of fencing that the protected resource keeps.
///
/// Ask it with the token of each write, in the same order in which the writes reach the resource; where other
/// processes may write in between, write inside [`admit_then`](Self::admit_then).
///
/// All calls block: in memory for a mutex; in a file also for other processes at the same fence, and, when the token
/// is larger than any before (once a grant, not once a write), for two fsyncs. From async code, call them on a thread
/// that may block.
///
/// Dropping a fence keeps what is in its file, and forgets what is in memory.
///
/// ```
/// use leasehold::{Fence, FenceError, Token};
///
/// let fence = Fence::in_memory();
/// fence.admit(Token::new(7))?;
/// fence.admit(Token::new(7))?; // The same holder goes on writing.
/// fence.admit(Token::new(9))?; // The next holder.
/// assert!(matches!(fence.admit(Token::new(7)), Err(FenceError::Stale { .. })));
/// # Ok::<(), FenceError>(())
/// ```
#[derive(Debug)]
pub struct Fence {
    mark: Mark,
}

#[derive(Debug)]
enum Mark {
    Memory(Mutex<Option<Token>>),
    File(Mutex<MarkFile>),
}

impl Fence {
    /// A fence for a resource that does not outlive this process. It has seen no token yet.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { mark: Mark::Memory(Mutex::new(None)) }
    }

    /// A fence whose mark is in this file, as durable as the file system under it. The file is made if it is
    /// missing; its folder must exist. Beside it lies another, with `.lock` appended.
    ///
    /// Keep the two files with the resource: whoever removes them forgets the mark. Processes that share the fence
    /// must see the same file under the same path, on a file system that has locks (over NFS, see its manual).
    ///
    /// # Errors
    /// [`FenceError::Damaged`] if the file is not a fence's, [`FenceError::Io`] if it can't be read or made.
    pub fn in_file(path: impl AsRef<Path>) -> Result<Self, FenceError> {
        Ok(Self { mark: Mark::File(Mutex::new(MarkFile::open(path.as_ref())?)) })
    }

    /// Admits the token if it is not smaller than the largest seen, and remembers it first.
    ///
    /// # Errors
    /// [`FenceError::Stale`] for a smaller token; with a file, the other variants as well.
    pub fn admit(&self, token: Token) -> Result<(), FenceError> {
        self.admit_then(token, || ())
    }

    /// Admits the token and runs `write` before anybody else's token is admitted: no newer holder's write can come
    /// between the check and this one, from this process or any other at the same file.
    ///
    /// `write` must not call the same fence: it would wait for itself. If `write` panics the token stays admitted.
    ///
    /// # Errors
    /// As [`admit`](Self::admit); `write` was not run.
    pub fn admit_then<T>(&self, token: Token, write: impl FnOnce() -> T) -> Result<T, FenceError> {
        match &self.mark {
            Mark::Memory(mark) => {
                let mut mark = locked(mark);
                refuse_stale(token, *mark)?;
                *mark = Some(token);
                Ok(write())
            }
            Mark::File(file) => {
                let file = locked(file);
                let _lock = file.lock()?;
                let mark = file.read()?.ok_or_else(|| file.gone())?;
                refuse_stale(token, mark.token())?;
                if mark == FileMark::of(token) {
                    file.make_durable(mark)?;
                } else {
                    file.replace(FileMark::of(token))?;
                }
                Ok(write())
            }
        }
    }

    /// The largest token admitted so far, `None` before the first.
    ///
    /// # Errors
    /// With a file: if it is damaged, gone or can't be read.
    pub fn largest(&self) -> Result<Option<Token>, FenceError> {
        match &self.mark {
            Mark::Memory(mark) => Ok(*locked(mark)),
            Mark::File(file) => {
                let file = locked(file);
                let _lock = file.lock()?;
                Ok(file.read()?.ok_or_else(|| file.gone())?.token())
            }
        }
    }
}

fn refuse_stale(token: Token, largest: Option<Token>) -> Result<(), FenceError> {
    match largest {
        Some(largest) if token < largest => Err(FenceError::Stale { token, largest }),
        _ => Ok(()),
    }
}

/// What the mutex guards is whole at any moment (a mark, or a handle): a panic of someone's `write` spoils nothing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mark as it stands in the file: the token's value, where 0 is the mark of a new fence.
///
/// Token 0 admits what no token admits, and the cluster grants none; so the two need not be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileMark(u64);

impl FileMark {
    const NEW: Self = Self(0);

    fn of(token: Token) -> Self {
        Self(token.get())
    }

    fn token(self) -> Option<Token> {
        (self != Self::NEW).then(|| Token::new(self.0))
    }

    fn to_bytes(self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.0.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() >= MAGIC.len() && bytes[..7] == MAGIC[..7] && bytes[7] != MAGIC[7] {
            return Err(format!("its format is version {}, this program knows {}", bytes[7], MAGIC[7]));
        }
        let Ok(bytes) = <&[u8; FILE_BYTES]>::try_from(bytes) else {
            return Err(format!("its length is not {FILE_BYTES} bytes"));
        };
        if bytes[..8] != MAGIC {
            return Err("it does not begin as a fence's file does".to_owned());
        }
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[8..16]);
        if crc32fast::hash(&bytes[..16]).to_le_bytes() != bytes[16..] {
            return Err("its checksum does not match".to_owned());
        }
        Ok(Self(u64::from_le_bytes(word)))
    }
}

/// The mark's file, and the file by which processes take turns at it.
#[derive(Debug)]
struct MarkFile {
    path: PathBuf,
    folder: PathBuf,
    lock: File,
    /// The largest mark whose rename this fence knows to be durable. A `Cell`: it is used under the fence's mutex.
    durable: Cell<Option<FileMark>>,
    /// How often the folder was synced.
    #[cfg(test)]
    syncs: Cell<u32>,
}

/// The lock of the operating system, until dropped.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a fence's lock could not be given back; closing the fence does");
        }
    }
}

impl MarkFile {
    fn open(path: &Path) -> Result<Self, FenceError> {
        let path = resolved(path)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let lock_path = beside(&path, ".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed(&lock_path, "open it for locking"))?;
        let file = Self {
            path,
            folder,
            lock,
            durable: Cell::new(None),
            #[cfg(test)]
            syncs: Cell::new(0),
        };
        {
            let _lock = file.lock()?;
            if file.read()?.is_none() {
                file.replace(FileMark::NEW)?;
            }
        }
        Ok(file)
    }

    fn lock(&self) -> Result<Locked<'_>, FenceError> {
        self.lock.lock().map_err(failed(&self.path, "lock it"))?;
        Ok(Locked(&self.lock))
    }

    fn gone(&self) -> FenceError {
        FenceError::Gone { path: self.path.clone() }
    }

    /// The mark, or `None` if there is no file. Called with the lock held.
    fn read(&self) -> Result<Option<FileMark>, FenceError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&self.path, "open it")(error)),
        };
        let mut bytes = Vec::with_capacity(FILE_BYTES + 1);
        // One byte more than it should have is enough to know; it may be any file, of any size.
        file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed(&self.path, "read it"))?;
        match FileMark::from_bytes(&bytes) {
            Ok(mark) => Ok(Some(mark)),
            Err(detail) => Err(FenceError::Damaged { path: self.path.clone(), detail }),
        }
    }

    /// Makes this the mark, durably. Called with the lock held.
    fn replace(&self, mark: FileMark) -> Result<(), FenceError> {
        let new_path = beside(&self.path, ".new");
        let mut new = File::create(&new_path).map_err(failed(&new_path, "create it"))?;
        new.write_all(&mark.to_bytes()).map_err(failed(&new_path, "write it"))?;
        new.sync_all().map_err(failed(&new_path, "sync it to the device"))?;
        drop(new);
        fs::rename(&new_path, &self.path).map_err(failed(&self.path, "rename its successor to it"))?;
        self.make_durable(mark)
    }

    /// Makes the rename durable that brought this mark, unless this fence knows that it is.
    fn make_durable(&self, mark: FileMark) -> Result<(), FenceError> {
        if self.durable.get() != Some(mark) {
            self.sync_folder()?;
            self.durable.set(Some(mark));
        }
        Ok(())
    }

    #[cfg(unix)]
    fn sync_folder(&self) -> Result<(), FenceError> {
        #[cfg(test)]
        self.syncs.set(self.syncs.get() + 1);
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed(&self.folder, "sync the folder to the device"))
    }

    /// Elsewhere a folder can't be synced; NTFS journals its renames.
    #[cfg(not(unix))]
    fn sync_folder(&self) -> Result<(), FenceError> {
        let _ = &self.folder;
        Ok(())
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> FenceError {
    let path = path.to_path_buf();
    move |source| FenceError::Io { path, doing, source }
}

/// The one path of the file, whatever it is called by: two names of one fence must lead to one lock. Absolute, so
/// that a change of the working directory doesn't lead elsewhere.
fn resolved(path: &Path) -> Result<PathBuf, FenceError> {
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path, "find it")(error)),
    }
    if path.is_symlink() {
        // Somebody else may have made the file meanwhile. If not, what is made here would take the link's place, and not
        // be the file that it means.
        return path.canonicalize().map_err(failed(path, "follow it, a link to a file that is not there"));
    }
    let Some(name) = path.file_name() else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(failed(path, "make it")(error));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(failed(folder, "find the folder"))?;
    Ok(folder.join(name))
}

/// The path with this at the end of the file's name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
