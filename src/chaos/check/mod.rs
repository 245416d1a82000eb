//! The checkers: one for each rule, pure functions over a [`History`]. None of them knows how the product works.
//!
//! | checker | what it says |
//! | --- | --- |
//! | [`l1`] | at any instant at most one believes (of shared leases and permits: as many as may) |
//! | [`l2`] | tokens increase in the order of the log, and in the order in which clients got them |
//! | [`l3`] | what a client was granted is in the log, and what it reads of holders is what the log had at some moment of the call |
//! | [`l4`] | no lease ends while its holder believes, and none expires before its ttl is over |
//! | [`l5`] | nobody is granted what another still believes to hold |
//! | [`l6`] | first come, first served; no name is free while someone waits; the next grant comes within a bound |
//! | [`l7`] | an acquisition is queued once, granted once, and never after its end |
//! | [`l8`] | agents that applied the same entry were changed in the same way, and have the same table |
//! | [`l9`] | what was acknowledged is in the log, and every agent that lives has it in the end |
//! | [`l10`] | a holder is told one reason, and one that is true; watchers are told everything, in order |
//! | [`fence`] | what a protected resource let in has tokens that never go down |
//! | [`members`] | the membership changes one step at a time, no empty disk takes an old id, and in the end it is what it should be |
//!
//! Where clocks did not keep to the bound that the rules assume ([`History::drift_bounded`]), `l1`, `l4` and `l5` say
//! nothing about belief.

mod belief;
mod log;
mod members;
mod progress;
mod replicas;
mod sometimes;
mod tokens;
mod told;

#[cfg(test)]
pub(crate) mod example;

use std::{fmt, time::Duration};

pub use self::{
    belief::{l1, l4, l5},
    log::{l3, l7},
    members::{members, wrong_members},
    progress::l6,
    replicas::{l8, l9},
    sometimes::{Reached, SITUATIONS, situations},
    tokens::{fence, l2},
    told::l10,
};
use super::history::History;

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which: `L1` to `L10`, `fence`, `members`, or a check of the run's own.
    pub rule: &'static str,
    /// When.
    pub at: Duration,
    /// How.
    pub text: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, at: Duration, text: impl Into<String>) -> Self {
        Self { rule, at, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.6} s: {}", self.rule, self.at.as_secs_f64(), self.text)
    }
}

/// A checker.
pub type Checker = fn(&History) -> Vec<Violation>;

/// All checkers, by the rule's number.
pub const ALL: [Checker; 12] = [l1, l2, l3, l4, l5, l6, l7, l8, l9, l10, fence, members];

/// What all checkers find, in the order of time.
#[must_use]
pub fn all(history: &History) -> Vec<Violation> {
    let mut found: Vec<Violation> = ALL.iter().flat_map(|check| check(history)).collect();
    found.sort_by_key(|violation| violation.at);
    found
}
