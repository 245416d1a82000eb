//! What happened, in order, with its moment; and its digest, by which two runs are compared.
//!
//! Everything that leaves a machine or enters it is traced, and everything that an agent makes durable or applies. So two
//! runs with the same digest have done the same, message by message and byte by byte; the kernel's
//! [pulse](super::kernel) is mixed in at the end, and covers what happened in between.
//!
//! The digest is of the events themselves, not of their text, and covers all of them; the last
//! [`EVENTS_KEPT_MAX`] are kept for people.

use std::{
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::kernel::{BEGINNING, Clocks};
use crate::fault_point::Point;

/// How many events a trace keeps, at most.
pub const EVENTS_KEPT_MAX: usize = 100_000;

/// One thing that happened. Agents are named by their numbers, from 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An agent's process was started.
    Started {
        /// The agent.
        agent: usize,
        /// How often it was, this time included.
        life: u32,
    },
    /// An agent serves.
    Ready {
        /// The agent.
        agent: usize,
    },
    /// An agent did not start.
    NotStarted {
        /// The agent.
        agent: usize,
        /// Why.
        error: String,
    },
    /// An agent applied an entry that sets the membership.
    Reconfigured {
        /// The agent.
        agent: usize,
        /// The entry's index.
        index: u64,
        /// How many vote; two numbers where a change of them is half done.
        voters: Vec<usize>,
        /// How many members there are.
        members: usize,
    },
    /// Something was done to the world.
    Fault(
        /// What.
        String,
    ),
    /// A message was sent, and is under way or will never arrive.
    Sent {
        /// Names the message. Its answer and its copies have the same number.
        message: u64,
        /// Which way it goes.
        leg: Leg,
        /// From this agent
        from: usize,
        /// to this one.
        to: usize,
        /// The transport's method.
        method: u8,
        /// The length of its payload.
        bytes: usize,
        /// A digest of its payload.
        digest: u64,
    },
    /// A message arrived.
    Arrived {
        /// Names the message.
        message: u64,
        /// Which way it went.
        leg: Leg,
    },
    /// A message will not arrive.
    Lost {
        /// Names the message.
        message: u64,
        /// Which way it went.
        leg: Leg,
        /// Why.
        why: Loss,
    },
    /// Writes were handed to an agent's disk.
    Written {
        /// The agent.
        agent: usize,
        /// How many calls.
        calls: usize,
        /// A digest of what they say.
        digest: u64,
    },
    /// What was written before is on the device, or is said to be.
    Synced {
        /// The agent.
        agent: usize,
        /// Whether it is only said to be.
        lying: bool,
    },
    /// A write or a sync failed.
    DiskFailed {
        /// The agent.
        agent: usize,
        /// How.
        error: String,
    },
    /// What a disk held that was not synced when its power went.
    PowerCut {
        /// The agent.
        agent: usize,
        /// How many calls survived.
        kept: usize,
        /// How many did not.
        lost: usize,
    },
    /// An agent applied a committed entry.
    Applied {
        /// The agent.
        agent: usize,
        /// The entry's index.
        index: u64,
        /// The entry's term.
        term: u64,
        /// A digest of the table's changes.
        digest: u64,
    },
    /// A lease changed, in an agent's table.
    Lease {
        /// The agent.
        agent: usize,
        /// The entry's index.
        index: u64,
        /// How.
        change: String,
    },
    /// An agent took a snapshot for its table.
    Installed {
        /// The agent.
        agent: usize,
        /// The index that it stands for.
        index: u64,
    },
    /// The script of the run had something to say.
    Note(
        /// What.
        String,
    ),
    /// Something happens to an agent at a fault point.
    AtPoint {
        /// The agent.
        agent: usize,
        /// Where.
        point: Point,
        /// What.
        effect: String,
    },
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// A request.
    Request,
    /// Another copy of a request: a caller that asked again.
    Copy,
    /// An answer.
    Answer,
}

/// Why a message doesn't arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The way is cut.
    Cut,
    /// By chance, as a connection breaks.
    Chance,
    /// Nobody is there.
    Nobody,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { agent, life } => write!(f, "agent {agent} is started, for the {life}. time"),
            Self::Ready { agent } => write!(f, "agent {agent} serves"),
            Self::NotStarted { agent, error } => write!(f, "agent {agent} did not start: {error}"),
            Self::Reconfigured { agent, index, voters, members } => {
                write!(f, "agent {agent} applies entry {index}: {voters:?} vote, of {members}")
            }
            Self::Fault(text) => write!(f, "fault: {text}"),
            Self::Sent { message, leg, from, to, method, bytes, digest } => write!(
                f,
                "#{message} {leg}, method {method}, from {from} to {to}: {bytes} bytes, {digest:016x}"
            ),
            Self::Arrived { message, leg } => write!(f, "#{message} {leg} arrived"),
            Self::Lost { message, leg, why } => write!(f, "#{message} {leg} lost: {why:?}"),
            Self::Written { agent, calls, digest } => {
                write!(f, "agent {agent} wrote {calls} calls, {digest:016x}")
            }
            Self::Synced { agent, lying: false } => write!(f, "agent {agent} synced"),
            Self::Synced { agent, lying: true } => write!(f, "agent {agent} believes that it synced"),
            Self::DiskFailed { agent, error } => write!(f, "the disk of agent {agent} failed: {error}"),
            Self::PowerCut { agent, kept, lost } => {
                write!(f, "the disk of agent {agent} kept {kept} calls that were not synced, and lost {lost}")
            }
            Self::Applied { agent, index, term, digest } => {
                write!(f, "agent {agent} applied {index} of term {term}, {digest:016x}")
            }
            Self::Lease { agent, index, change } => write!(f, "agent {agent}, entry {index}: {change}"),
            Self::Installed { agent, index } => write!(f, "agent {agent} installed a snapshot up to {index}"),
            Self::Note(text) => write!(f, "note: {text}"),
            Self::AtPoint { agent, point, effect } => write!(f, "agent {agent}, {point}: {effect}"),
        }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Copy => "copy",
            Self::Answer => "answer",
        })
    }
}

/// FNV-1a with 64 bits, whole numbers at one go: the same in every process. The standard library's hasher has a key that
/// no process shares.
#[derive(Debug, Clone)]
pub(crate) struct Digest(u64);

impl Digest {
    fn mix(&mut self, number: u64) {
        // What a multiplication moves up only is brought down again for the next.
        self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(27);
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.mix(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The digest of one value.
pub(crate) fn digest(value: &(impl Hash + ?Sized)) -> u64 {
    let mut digest = Digest::default();
    value.hash(&mut digest);
    digest.finish()
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<(Duration, Event)>,
    count: u64,
    digest: Digest,
}

/// Where events are noted. Clones are the same trace.
#[derive(Clone)]
pub(crate) struct Tracer {
    clocks: Arc<Clocks>,
    inner: Arc<Mutex<Inner>>,
}

impl Tracer {
    pub(crate) fn new(clocks: &Arc<Clocks>) -> Self {
        Self { clocks: Arc::clone(clocks), inner: Arc::default() }
    }

    /// The true time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.clocks.now() - BEGINNING)
    }

    /// Notes an event of this moment.
    pub(crate) fn note(&self, event: Event) {
        let now = self.now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (now, &event).hash(&mut inner.digest);
        inner.count += 1;
        if inner.kept.len() == EVENTS_KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back((now, event));
    }

    /// The trace so far; with what the kernel did.
    pub(crate) fn trace(&self, pulse: u64) -> Trace {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = digest(&(inner.digest.finish(), inner.count, pulse));
        Trace { events: inner.kept.iter().cloned().collect(), count: inner.count, hash }
    }

    /// The whole trace, at the end: its events go with it.
    pub(crate) fn finish(&self, pulse: u64) -> Trace {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = digest(&(inner.digest.finish(), inner.count, pulse));
        Trace { events: std::mem::take(&mut inner.kept).into(), count: inner.count, hash }
    }
}

/// What happened in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// The last events, at most [`EVENTS_KEPT_MAX`], each with the true time since the beginning.
    pub events: Vec<(Duration, Event)>,
    /// How many there were in all.
    pub count: u64,
    /// The digest of everything that happened. Two runs of one program with the same seed have the same.
    pub hash: u64,
}

/// One line an event.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.iter().try_for_each(|(at, event)| writeln!(f, "{:13.6} {event}", at.as_secs_f64()))
    }
}
