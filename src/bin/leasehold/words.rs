//! What `run` and its guard say to each other, without ever waiting for each other: who is stopped reads nothing, and who
//! waits for that can't look at the clock.

use tokio::net::{UnixStream, unix::OwnedWriteHalf};

/// So many bytes are kept for a reader that is stopped.
const UNSENT_MAX: usize = 1024;

/// The writing end of a socket.
pub(crate) struct Words {
    socket: OwnedWriteHalf,
    /// What found no room in the socket: whole words, but for the first, the end of one that was begun.
    unsent: Vec<u8>,
}

impl Words {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Self {
        Self { socket, unsent: Vec::new() }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        self.socket.as_ref()
    }

    /// Says it now, or when there is room for it; whether all that was said is in the socket. Beyond a bound it is not
    /// said at all: by then nothing is told to a reader that is stopped but what it has been told before.
    pub(crate) fn say(&mut self, word: &str) -> bool {
        if self.unsent.len() + word.len() <= UNSENT_MAX {
            self.unsent.extend_from_slice(word.as_bytes());
        } else {
            tracing::debug!(word, "nobody reads");
        }
        self.flush()
    }

    /// Says it if there is room for it now: what would be said again, or is of no use later.
    pub(crate) fn mention(&mut self, word: &str) {
        if self.flush() {
            self.say(word);
        }
    }

    /// Sends what had no room; whether nothing of it is left. Nobody reads it when the other is gone: who listens to the
    /// other hears of that.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            // Not `try_write`, which finds no room before the runtime has looked for some.
            match rustix::io::write(self.socket(), &self.unsent) {
                Ok(count) if count > 0 => drop(self.unsent.drain(..count)),
                _ => return false,
            }
        }
        true
    }
}
