//! What `run` tells on standard error: sentences for people, or JSON for programs.
//!
//! Standard error is the command's too. So nothing is told of what goes well, unless it was asked for (`--json`), or
//! takes long. And it may be a pipe that nobody reads, where a write takes for ever: so a thread of its own writes, and
//! the task that keeps the lease never waits for it, but for a moment at its end.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, IsTerminal as _, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leasehold::{Client, HolderInfo, Lease};
use serde_json::{Value, json};

use crate::{
    exit::{self, Failed},
    output, seam,
};

/// What waits to be written to somebody who doesn't read. More than a `run` ever says beside its places in the queue, of
/// which only the last one waits.
const WAITING_MAX: usize = 64;
/// So long the end of `run` waits for what it said to be written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Tells of one `run`.
pub(super) struct Teller {
    json: bool,
    name: String,
    is_terminal: bool,
    /// A line without an end stands on the terminal.
    shows_place: Cell<bool>,
    voice: Arc<Voice>,
}

/// A place in the queue.
#[derive(PartialEq, Eq)]
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) waiters: u64,
    /// The oldest of those who hold the name.
    pub(super) holder: Option<HolderInfo>,
}

impl Teller {
    pub(super) fn new(json: bool, name: &str) -> Self {
        Self {
            json,
            name: name.to_owned(),
            is_terminal: io::stderr().is_terminal(),
            shows_place: Cell::new(false),
            voice: Arc::default(),
        }
    }

    fn say(&self, kind: Kind, text: String) {
        if self.voice.say(kind, text) {
            let voice = self.voice.clone();
            seam::begin(move || voice.write_all());
        }
    }

    /// Waits until all is written, for a moment.
    pub(super) async fn close(&self) {
        let voice = self.voice.clone();
        let written = seam::blocking(move || voice.wait_written());
        let _ = seam::timeout(WRITTEN_WITHIN, written).await;
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether it can be shown how a place in the queue changes.
    pub(super) fn shows_changes(&self) -> bool {
        self.json || self.is_terminal
    }

    fn event(&self, event: &str, more: Value) {
        self.event_of_kind(Kind::News, event, more);
    }

    fn event_of_kind(&self, kind: Kind, event: &str, mut more: Value) {
        more["event"] = event.into();
        more["name"] = self.name.as_str().into();
        self.say(kind, format!("{more}\n"));
    }

    fn sentence(&self, text: &str) {
        self.say(Kind::News, format!("leasehold: {text}\n"));
    }

    /// A sentence.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            self.event("note", json!({ "detail": text }));
        } else {
            self.sentence(text);
        }
    }

    /// Tells the place, unless that would be told twice.
    pub(super) fn queued(&self, place: &Place, before: Option<&Place>) {
        let Place { position, waiters, holder } = place;
        if self.json {
            if before.is_none_or(|before| (before.position, before.waiters) != (*position, *waiters)) {
                let more = json!({ "position": position, "waiters": waiters });
                self.event_of_kind(Kind::Place, "queued", more);
            }
            return;
        }
        let held = holder.as_ref().map_or_else(String::new, |holder| {
            let since = output::time(holder.since);
            format!(", held by {} since {since} with token {}", holder.agent, holder.token)
        });
        let text = format!("leasehold: waiting for {:?}{held}: place {position} of {waiters}", self.name);
        if self.is_terminal {
            self.shows_place.set(true);
            self.say(Kind::Place, format!("\r\x1b[K{text}"));
        } else {
            self.say(Kind::Place, format!("{text}\n"));
        }
    }

    /// The wait is over: the line that showed it goes.
    pub(super) fn waited(&self) {
        if self.shows_place.take() {
            self.say(Kind::News, "\r\x1b[K".to_owned());
        }
    }

    pub(super) fn acquired(&self, client: &Client, lease: &Lease) {
        if self.json {
            let more = json!({
                "agent": client.name().as_str(),
                "token": lease.token().to_string(),
                "ttl_ms": output::in_ms(lease.ttl()),
            });
            self.event("acquired", more);
        }
    }

    /// The lease is lost, or about to be; the command is ended.
    pub(super) fn lost(&self, reason: &str) {
        if self.json {
            self.event("lost", json!({ "reason": reason }));
        } else {
            self.sentence(reason);
        }
    }

    pub(super) fn released(&self) {
        if self.json {
            self.event("released", json!({}));
        }
    }

    pub(super) fn failed(&self, failed: &Failed) {
        if self.json {
            let event = if failed.code() == exit::NOT_ACQUIRED { "not_acquired" } else { "failed" };
            self.event(event, json!({ "detail": failed.text() }));
        } else {
            self.sentence(failed.text());
        }
    }
}

/// What is said.
#[derive(PartialEq, Eq)]
enum Kind {
    /// A place in the queue: the next one makes it old.
    Place,
    News,
}

/// What is to be written, and is not yet.
#[derive(Default)]
struct Voice {
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Kind, String)>,
    /// Somebody writes.
    is_writing: bool,
}

impl Voice {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has to be found who writes it.
    fn say(&self, kind: Kind, text: String) -> bool {
        let mut state = self.lock();
        if kind == Kind::Place {
            state.waiting.retain(|(kind, _)| *kind != Kind::Place);
        }
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push_back((kind, text));
        }
        !std::mem::replace(&mut state.is_writing, true)
    }

    /// Writes until nothing waits. That nobody reads it is no reason to end the command.
    fn write_all(&self) {
        let mut err = io::stderr();
        let mut state = self.lock();
        while let Some((_, text)) = state.waiting.pop_front() {
            drop(state);
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
            state = self.lock();
        }
        state.is_writing = false;
        self.written.notify_all();
    }

    fn wait_written(&self) {
        let mut state = self.lock();
        while state.is_writing {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_and_all_news_wait_for_a_reader() {
        let voice = Voice::default();
        assert!(voice.say(Kind::News, "first".to_owned()), "a writer is needed");
        for place in 0..WAITING_MAX * 2 {
            assert!(!voice.say(Kind::Place, place.to_string()), "one writer is enough");
        }
        assert!(!voice.say(Kind::News, "last".to_owned()));
        let waiting: Vec<String> = voice.lock().waiting.iter().map(|(_, text)| text.clone()).collect();
        assert_eq!(waiting, ["first".to_owned(), (WAITING_MAX * 2 - 1).to_string(), "last".to_owned()]);
    }
}
