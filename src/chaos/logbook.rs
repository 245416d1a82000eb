//! What real agents apply, in files, for the checkers: they look at real processes then as they look at simulated ones.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    history::{Applied, Changed, Committed, History},
    recorder::{Terms, table_digest, texts},
    trace::digest,
};
use crate::{
    agent::Builder,
    change::{Change, ChangeKind},
    clock::{Clock as _, SystemClock},
    id::LeaseId,
    mode::Mode,
    replica,
    table::{Event, Table},
};

/// A file in which a real agent writes what it applies, a line for each entry of the log, with the machine's time
/// ([`SystemClock`]). For tests: applying waits for each line, and none is synced.
///
/// Of a lease id there is a digest, since the id itself is a secret.
///
/// ```
/// use leasehold::{
///     Agent, InProcessNetwork,
///     chaos::{History, Logbook, check},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("agent-0.log");
/// let network = InProcessNetwork::new(1);
/// let builder = Agent::builder("agent-0").listen("agent-0:7101").founders(["agent-0:7101"]).network(&network);
/// let agent = Logbook::append_to(&path)?.keep(builder).start().await?;
/// agent.acquire("orders.db").await?.release().await?;
/// agent.shutdown().await;
///
/// let history = History::of_logbooks([&path])?;
/// assert_eq!(history.missing(), None);
/// assert_eq!(check::l6(&history), []);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Logbook(File);

/// What a line says.
#[derive(Serialize, Deserialize)]
enum Line {
    /// A process began to write.
    Began,
    Applied {
        at_ns: u64,
        index: u64,
        term: u64,
        digest: u64,
        table: Option<u64>,
        changes: Vec<Noted>,
    },
    /// A snapshot took the place of the table.
    Replaced {
        at_ns: u64,
        index: u64,
        table: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Noted {
    kind: ChangeKind,
    lease: u64,
    from_queue: bool,
    mode: Mode,
    lock_delay_ms: u64,
}

impl Logbook {
    /// Opens a file, or makes one; what is in it stays.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn append_to(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // The line before it may have been cut off.
        file.write_all(format!("\n{}\n", serde_json::to_string(&Line::Began)?).as_bytes())?;
        Ok(Self(file))
    }

    /// The agent that is built by this writes it.
    pub fn keep(self, builder: Builder) -> Builder {
        builder.onlooker(Arc::new(Writer(Mutex::new(State { file: Some(self.0), terms: Terms::default() }))))
    }
}

struct Writer(Mutex<State>);

struct State {
    /// `None` after the first failure.
    file: Option<File>,
    terms: Terms,
}

impl Writer {
    fn write(&self, line: impl FnOnce(&mut Terms) -> Line) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { file: Some(file), terms } = &mut *state else { return };
        let text = serde_json::to_string(&line(terms)).map_err(io::Error::from);
        // One call: a line is there or not.
        if let Err(error) = text.and_then(|text| file.write_all(format!("{text}\n").as_bytes())) {
            tracing::error!(%error, "the logbook can't be written, and ends here");
            state.file = None;
        }
    }
}

impl replica::Applied for Writer {
    fn applied(&self, index: u64, term: u64, events: &[Event], table: &Table) {
        let at_ns = SystemClock.now().as_nanos();
        self.write(|terms| {
            let noted = |changed: Changed| Noted {
                kind: changed.change.kind,
                lease: digest(&changed.lease_id),
                from_queue: changed.from_queue,
                mode: changed.mode,
                lock_delay_ms: u64::try_from(changed.lock_delay.as_millis()).unwrap_or(u64::MAX),
            };
            Line::Applied {
                at_ns,
                index,
                term,
                digest: texts(events).1,
                table: table_digest(index, table),
                changes: terms.changed(index, events, table).into_iter().map(noted).collect(),
            }
        });
    }

    fn replaced(&self, index: u64, table: &Table) {
        let at_ns = SystemClock.now().as_nanos();
        self.write(|terms| {
            terms.replaced(table);
            Line::Replaced { at_ns, index, table: digest(&table.snapshot()) }
        });
    }
}

/// The lines of a file. One that was cut off is followed by a beginning, or by nothing.
fn lines(path: &Path) -> io::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    let mut texts = text.lines().enumerate().filter(|(_, text)| !text.is_empty()).peekable();
    let mut lines = Vec::new();
    while let Some((at, text)) = texts.next() {
        match serde_json::from_str(text) {
            Ok(line) => lines.push(line),
            Err(error) => {
                let next = texts.peek().map(|(_, next)| serde_json::from_str(next));
                if !matches!(next, None | Some(Ok(Line::Began))) {
                    let text = format!("{}, line {}: {error}", path.display(), at + 1);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
    }
    Ok(lines)
}

impl History {
    /// What the agents with these logbooks applied, numbered in this order. Clients' and watchers' views are for the caller to
    /// add; times are those of the machine's clock. Each lease is known by its token, as clients know it
    /// ([`Call::granted`](super::history::Call::granted), [`Belief::seen`](super::history::Belief::seen)).
    ///
    /// # Errors
    ///
    /// Those of the file system, and [`InvalidData`](io::ErrorKind::InvalidData) where something else than a logbook is
    /// found. A last line that was cut off is left out.
    pub fn of_logbooks(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<Self> {
        let mut history = Self { drift_bounded: true, ..Self::default() };
        for (agent, path) in paths.into_iter().enumerate() {
            history.agents = agent + 1;
            let mut life = 0;
            for line in lines(path.as_ref())? {
                let (at, index, entry, table, changes) = match line {
                    Line::Began => {
                        life += 1;
                        continue;
                    }
                    Line::Replaced { at_ns, index, table } => (at_ns, index, None, Some(table), None),
                    Line::Applied { at_ns, index, term, digest, table, changes } => {
                        (at_ns, index, Some((term, digest)), table, Some(changes))
                    }
                };
                let at = Duration::from_nanos(at);
                history.applied.push(Applied { at, agent, life, index, entry, table });
                history.happened_by(index, at);
                if let (Some((term, digest)), Some(changes)) = (entry, changes) {
                    let changes = || changes.into_iter().map(|noted| noted.at(index)).collect();
                    let committed = || Committed { term, at, digest, changes: changes() };
                    history.log.entry(index).or_insert_with(committed);
                }
            }
        }
        history.know_by_token();
        Ok(history)
    }

    /// The first entry after the first one that is known, and before the last, that is not: whoever applied it wrote no
    /// logbook, and the others took a snapshot in its place. Rules about the log can't be checked then.
    #[must_use]
    pub fn missing(&self) -> Option<u64> {
        let (first, last) = (*self.log.first_key_value()?.0, *self.log.last_key_value()?.0);
        (first..=last).find(|index| !self.log.contains_key(index))
    }

    fn know_by_token(&mut self) {
        let granted = self.changes().filter_map(|(_, _, changed)| match &changed.change.kind {
            ChangeKind::Granted { token, .. } => Some((changed.lease_id, *token)),
            _ => None,
        });
        let tokens: BTreeMap<LeaseId, _> = granted.collect();
        for changed in self.log.values_mut().flat_map(|entry| &mut entry.changes) {
            if let Some(token) = tokens.get(&changed.lease_id) {
                changed.lease_id = LeaseId::from_bits(token.get().into());
            }
        }
    }
}

impl Noted {
    fn at(self, index: u64) -> Changed {
        // Above all tokens.
        let lease_id = LeaseId::from_bits(u128::from(self.lease) << 64);
        let (change, lock_delay) =
            (Change { index, kind: self.kind }, Duration::from_millis(self.lock_delay_ms));
        Changed { change, lease_id, from_queue: self.from_queue, mode: self.mode, lock_delay }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Agent, InProcessNetwork, chaos::check};

    /// Leases of one agent in two of its lives, and whoever waits; and the file.
    async fn written(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("logbook");
        for _ in 0..2 {
            let builder =
                Agent::builder("one").listen("one:7101").founders(["one:7101"]).ttl(Duration::from_secs(2));
            let builder = builder.network(&InProcessNetwork::new(1)).data_dir(folder.join("data"));
            let agent = Logbook::append_to(&path).unwrap().keep(builder).start().await.unwrap();
            let held = agent.acquire("x").await.unwrap();
            let mut waiting = Box::pin(agent.lease("x").queue_behind_own().acquire());
            assert!(futures_util::poll!(&mut waiting).is_pending());
            held.release().await.unwrap();
            waiting.await.unwrap().release().await.unwrap();
            agent.shutdown().await;
        }
        path
    }

    fn broken(history: &History) -> Vec<&'static str> {
        let mut rules: Vec<_> = check::all(history).iter().map(|violation| violation.rule).collect();
        rules.dedup();
        rules
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_an_agent_applied_is_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path()).await;
        let history = History::of_logbooks([&path]).unwrap();
        assert_eq!((broken(&history), history.missing()), (vec![], None));
        let lives: Vec<u32> = history.applied.iter().map(|applied| applied.life).collect();
        assert!(lives.contains(&1) && lives.contains(&2), "{lives:?}");
        let grants = |(_, _, changed): &(u64, Duration, &Changed)| {
            matches!(&changed.change.kind, ChangeKind::Granted { token, .. }
                if changed.lease_id == LeaseId::from_bits(token.get().into()))
        };
        assert_eq!(history.changes().filter(grants).count(), 4);

        // The same, as another agent had it that was changed in another way.
        let text = fs::read_to_string(&path).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, text.replacen("\"from_queue\":true", "\"from_queue\":false", 1)).unwrap();
        assert_eq!(
            broken(&History::of_logbooks([&other]).unwrap()),
            [] as [&str; 0],
            "no rule is about that alone"
        );
        // In the last life, which no other has replayed.
        let grant = text.lines().rfind(|line| line.contains("Granted")).unwrap();
        fs::write(&other, text.replace(&format!("{grant}\n"), "")).unwrap();
        let history = History::of_logbooks([&other]).unwrap();
        assert!(history.missing().is_some());
        fs::write(&other, text.replacen("\"digest\":", "\"digest\":1", 1)).unwrap();
        assert_eq!(broken(&History::of_logbooks([&path, &other]).unwrap()), ["L8"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_line_that_was_cut_off_is_left_out_and_anything_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path()).await;
        let text = fs::read_to_string(&path).unwrap();
        let whole = History::of_logbooks([&path]).unwrap();
        fs::write(&path, format!("{text}{{\"Applied\":{{\"at_ns\":7")).unwrap();
        assert_eq!(History::of_logbooks([&path]).unwrap().log, whole.log);
        drop(Logbook::append_to(&path).unwrap());
        assert_eq!(
            History::of_logbooks([&path]).unwrap().log,
            whole.log,
            "another process goes on behind it"
        );
        fs::write(&path, format!("what is this?\n{}", text.trim_start().split_once('\n').unwrap().1))
            .unwrap();
        let error = History::of_logbooks([&path]).unwrap_err();
        assert!(error.to_string().contains("logbook, line 1: "), "{error}");
    }
}
