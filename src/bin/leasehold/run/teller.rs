//! What `run` tells on standard error: sentences for people, or JSON for programs.
//!
//! Standard error is the command's too. So nothing is told of what goes well, unless it was asked for (`--json`), or
//! takes long.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _, Write as _},
};

use leasehold::{Client, HolderInfo, Lease};
use serde_json::{Value, json};

use crate::{
    exit::{self, Failed},
    output,
};

/// Tells of one `run`.
pub(super) struct Teller {
    json: bool,
    name: String,
    is_terminal: bool,
    /// A line without an end stands on the terminal.
    shows_place: Cell<bool>,
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
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether it can be shown how a place in the queue changes.
    pub(super) fn shows_changes(&self) -> bool {
        self.json || self.is_terminal
    }

    fn event(&self, event: &str, mut more: Value) {
        more["event"] = event.into();
        more["name"] = self.name.as_str().into();
        write(&format!("{more}\n"));
    }

    /// A sentence.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            self.event("note", json!({ "detail": text }));
        } else {
            exit::tell(text);
        }
    }

    /// Tells the place, unless that would be told twice.
    pub(super) fn queued(&self, place: &Place, before: Option<&Place>) {
        let Place { position, waiters, holder } = place;
        if self.json {
            if before.is_none_or(|before| (before.position, before.waiters) != (*position, *waiters)) {
                self.event("queued", json!({ "position": position, "waiters": waiters }));
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
            write(&format!("\r\x1b[K{text}"));
        } else {
            write(&format!("{text}\n"));
        }
    }

    /// The wait is over: the line that showed it goes.
    pub(super) fn waited(&self) {
        if self.shows_place.take() {
            write("\r\x1b[K");
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
            exit::tell(reason);
        }
    }

    pub(super) fn released(&self) {
        if self.json {
            self.event("released", json!({}));
        }
    }

    pub(super) fn failed(&self, failed: &Failed) {
        let event = if failed.code() == exit::NOT_ACQUIRED { "not_acquired" } else { "failed" };
        self.event(event, json!({ "detail": failed.text() }));
    }
}

/// That nobody reads it is no reason to end the command.
fn write(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
