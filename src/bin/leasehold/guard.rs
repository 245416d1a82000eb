//! The guard: a dead man's switch around the command that `run` holds a lease for.
//!
//! # The problem
//!
//! `run` must not let its command go on when the lease is over. But `run` itself may be killed (SIGKILL can't be
//! caught) or stopped, and then it can end nothing. A command that goes on alone would write while somebody else holds
//! the lease; only what refuses old tokens would notice.
//!
//! # The way
//!
//! `run` starts this program once more, as the leader of a new process group, and this one starts the command in that
//! group. So every descendant of the command is one of the guard's own, also those that lost their parents or left the
//! group ([`Family`]).
//!
//! The guard knows one thing, the deadline, and `run` tells it each later one. If none comes in time, for whatever
//! reason (no contact, `run` stopped), it ends the family: SIGKILL at `deadline − margin` (earlier by what it takes to
//! find who is to be killed, if that is much), and SIGTERM a grace before that. If the socket closes, `run` is gone:
//! SIGTERM at once, SIGKILL after the grace, and never later than that. Nobody has to be alive but the guard. As the
//! group's leader it also keeps the group's id from being taken by strangers.
//!
//! The deadline is a reading of this machine's clock, the same for both processes. Once it began to end the family it
//! doesn't stop: a command that was told to end must not be taken for a running one. And it does not start a command that
//! it would have to end at once: this process may be given the time to run so late that somebody else has the lease.
//!
//! Neither `run` nor the guard ever waits for the other to read: who waits can't look at the clock.
//!
//! If the guard is killed, `run` notices and ends the family, whose members are its own children then. If the guard is
//! stopped, `run` ends it shortly before the deadline, the guard with it.
//!
//! # What it can't do
//!
//! Everything goes on when the guard is killed or stopped together with `run`, or when the machine is too loaded to run
//! either. On other systems than Linux a process that left the group (`setsid`) is out of reach. Time can't close these
//! gaps: fencing does.
//!
//! # Rejected
//!
//! - *PR_SET_PDEATHSIG*: Linux only, needs code between fork and exec, reaches the child alone and not its
//!   descendants, and does nothing while the parent is merely stopped.
//! - *The command as a child of `run`*: then a descendant that left the group is nobody's as soon as `run` is killed.
//!
//! # The words on the socket
//!
//! It is the guard's standard input. The command's own input, output and errors come with the first word: they are not
//! the guard's. To it: `until <nanoseconds>`, a (later) deadline; `end`, end the command now. From it: `started`, or
//! `failed <errno>`, or `failed late` (the deadline is too near to start anything); `terminal`, somebody in the group
//! wants the terminal; `stopped <signal>`, `code <code>` and `signal <signal>`, what became of the command; `late`, it
//! begins to end the family because the deadline is near; `nobody`, no process of the family is left.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    future::ready,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as Socket,
    },
    process::{Command, Stdio},
    time::Duration,
};

use leasehold::{Clock as _, Moment, SystemClock};
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::{Pid, Signal, WaitOptions, wait},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
};

use crate::{
    args::GuardArgs,
    exit::Failed,
    family::{self, Family},
    group::Group,
    seam::{Either, Signals, select2, sleep, timeout},
    terminal,
    words::Words,
};

/// The longest sleep between two looks at the clock: timers don't count suspend, the clock does.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(250);
/// How long it listens at least, before it finds that no later deadline came.
const LISTEN_AT_LEAST: Duration = Duration::from_millis(5);
/// How often it looks whether anybody is left.
const LOOK_FOR_LEFT: Duration = Duration::from_millis(10);
/// How long it waits for who was killed to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// So many of the dead are buried at once: who forks all the time must not keep it from looking at the clock.
const BURIED_AT_ONCE: usize = 64;
/// Input, output and errors.
const STREAMS: usize = 3;
/// More than the first word is long.
const FIRST_BYTES_MAX: usize = 64;

/// The grace between SIGTERM and SIGKILL for a lease of this ttl, and whether it is shorter than what was wished.
///
/// It begins half a ttl before the deadline at the earliest: a renewal is sent after a third of the ttl, and has to have
/// the time for a second attempt before the command is ended for its want.
pub(crate) fn grace(ttl: Duration, wished: Option<Duration>) -> (Duration, bool) {
    let most = ttl / 2 - margin(ttl);
    // SIGTERM a quarter of the ttl before the deadline.
    let wished = wished.unwrap_or_else(|| (ttl / 4).min(Duration::from_secs(5)) - margin(ttl));
    (wished.min(most), wished > most)
}

/// The margin between SIGKILL and the deadline: the kill has to arrive, and what was under way to come to rest.
pub(crate) fn margin(ttl: Duration) -> Duration {
    (ttl / 16).min(Duration::from_millis(500))
}

/// `until`, for the socket.
pub(crate) fn until(deadline: Moment) -> String {
    format!("until {}\n", deadline.as_nanos())
}

/// Sends the first word, and this process's streams with it.
pub(crate) fn send_first(socket: impl AsFd, word: &str) -> std::io::Result<()> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams: [BorrowedFd<'_>; STREAMS] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&streams));
    // So few bytes go into an empty buffer at once.
    sendmsg(socket, &[IoSlice::new(word.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive_first(socket: &Socket) -> std::io::Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; FIRST_BYTES_MAX];
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut streams = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            streams.extend(sent);
        }
    }
    let word = bytes.get(..received.bytes).unwrap_or_default();
    Ok((String::from_utf8_lossy(word).trim_end().to_owned(), streams))
}

/// What the socket said.
enum Word {
    Until(Moment),
    End,
    /// `run` is gone, or says what nobody understands.
    Gone,
}

impl Word {
    fn of(line: &str) -> Self {
        match line.split_once(' ') {
            None if line == "end" => Self::End,
            Some(("until", nanos)) => {
                nanos.parse().map_or(Self::Gone, |nanos| Self::Until(Moment::from_nanos(nanos)))
            }
            _ => Self::Gone,
        }
    }
}

/// The way to `run`.
struct Line {
    lines: Lines<BufReader<OwnedReadHalf>>,
    words: Words,
}

impl Line {
    /// Cancel-safe.
    async fn next(&mut self) -> Word {
        match self.lines.next_line().await {
            Ok(Some(line)) => Word::of(&line),
            _ => Word::Gone,
        }
    }

    /// Nobody reads it when `run` is gone; that is found out elsewhere.
    fn say(&mut self, word: &str) {
        self.words.say(&format!("{word}\n"));
    }
}

/// Guards this process's own group.
pub(crate) async fn guard(args: GuardArgs) -> Result<(), Failed> {
    let group = Group::own();
    let mine = || {
        Failed::new("this is for `leasehold run` alone: it must lead a process group, and be told of a lease")
    };
    if group.id() != i32::try_from(std::process::id()).unwrap_or(-1) {
        return Err(mine());
    }
    // They go to the whole group, and this process must outlive them.
    let _deaf = Signals::of(&[
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TSTP,
    ])?;
    let wants_terminal = Signals::of(&[Signal::TTIN, Signal::TTOU])?;
    let child_changed = Signals::of(&[Signal::CHILD])?;
    // It was started by the name `/proc/self/exe`.
    let _ = std::fs::write("/proc/self/comm", "leasehold");
    family::adopt();
    // It has just begun: it has no children.
    let mut family = Family::around(group, BTreeSet::new());
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(Socket::from).map_err(|_| mine())?;
    let (word, streams) = receive_first(&socket).map_err(|_| mine())?;
    // Nothing is started before there is a deadline for it.
    let streams: [OwnedFd; STREAMS] = streams.try_into().map_err(|_| mine())?;
    let Word::Until(until) = Word::of(&word) else { return Err(mine()) };
    socket.set_nonblocking(true).map_err(|_| mine())?;
    let (read, words) = UnixStream::from_std(socket).map_err(|_| mine())?.into_split();
    let mut line = Line { lines: BufReader::new(read).lines(), words: Words::new(words) };
    let (grace, margin) = (Duration::from_millis(args.grace_ms), Duration::from_millis(args.margin_ms));
    if SystemClock.now() >= until - (grace + margin) {
        line.say("failed late");
        return Ok(());
    }
    let command = match start(&args.command, streams) {
        Ok(command) => command,
        Err(error) => {
            line.say(&format!("failed {}", error.raw_os_error().unwrap_or(0)));
            return Ok(());
        }
    };
    line.say("started");
    // What a look takes is known from now on.
    let does_tell = family.lives().is_some();
    let mut watch = Watch {
        command,
        line,
        wants_terminal,
        child_changed,
        unburied: false,
        until,
        due_since: None,
        grace,
        margin: margin + family.look_took().min(margin),
    };
    let why = watch.until_its_end().await;
    // Where the system doesn't tell whether anybody is left, an ordinary end must not take the whole grace.
    let is_over = matches!(why, Why::Ended) && !does_tell;
    let grace = if is_over { Duration::ZERO } else { grace };
    end(&mut family, (SystemClock.now() + grace).min(watch.until - watch.margin)).await;
    let homes: Vec<Group> =
        args.terminal_of.iter().filter_map(|&id| Pid::from_raw(id)).map(Group::of).collect();
    if matches!(why, Why::RunIsGone) {
        terminal::restore(group, homes.iter().copied());
    }
    family.kill(&homes);
    let gone = async {
        while family.kill_one_by_one() {
            sleep(LOOK_FOR_LEFT).await;
        }
    };
    if timeout(GONE_WITHIN, gone).await.is_some() && does_tell {
        watch.line.say("nobody");
    }
    // Its socket closes with this process.
    Ok(())
}

fn start(command: &[OsString], streams: [OwnedFd; STREAMS]) -> std::io::Result<Pid> {
    let [program, rest @ ..] = command else { return Err(std::io::ErrorKind::NotFound.into()) };
    let [stdin, stdout, stderr] = streams.map(Stdio::from);
    let child = Command::new(program).args(rest).stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Why the family is to end.
enum Why {
    /// The command has: what it left behind ends too.
    Ended,
    RunIsGone,
    /// The deadline is near, or `run` says so.
    Over,
}

/// What happened.
enum Heard {
    Word(Word),
    ChildChanged,
    WantsTerminal,
    Time,
}

/// The guard while all is well.
struct Watch {
    command: Pid,
    line: Line,
    wants_terminal: Signals,
    child_changed: Signals,
    /// Not all of the dead are buried.
    unburied: bool,
    until: Moment,
    /// Since when it has listened in vain for a later deadline.
    due_since: Option<Moment>,
    /// How long before the deadline it begins to end the family is the sum of these.
    grace: Duration,
    margin: Duration,
}

impl Watch {
    /// Why it is over.
    async fn until_its_end(&mut self) -> Why {
        loop {
            // Before anything else, whatever happens how often.
            if self.is_late() {
                self.line.say("late");
                return Why::Over;
            }
            match self.next().await {
                Heard::Word(Word::Until(later)) => {
                    if later > self.until {
                        self.until = later;
                        // More may have come while it was stopped.
                        self.due_since = None;
                    }
                }
                Heard::Word(Word::End) => return Why::Over,
                Heard::Word(Word::Gone) => return Why::RunIsGone,
                Heard::ChildChanged => {
                    if self.reap() {
                        return Why::Ended;
                    }
                }
                Heard::WantsTerminal => self.line.words.mention("terminal\n"),
                Heard::Time => drop(self.line.words.flush()),
            }
        }
    }

    /// Whether it is time to end the family. Its own being stopped is no reason for that: what `run` said meanwhile is
    /// heard first.
    fn is_late(&mut self) -> bool {
        let now = SystemClock.now();
        if now < self.until - (self.grace + self.margin) {
            self.due_since = None;
            return false;
        }
        now >= *self.due_since.get_or_insert(now) + LISTEN_AT_LEAST
    }

    async fn next(&mut self) -> Heard {
        if self.unburied {
            let Either::First(word) = select2(self.line.next(), ready(())).await else {
                self.unburied = false;
                return Heard::ChildChanged;
            };
            return Heard::Word(word);
        }
        let left = (self.until - (self.grace + self.margin)).since(SystemClock.now());
        let nap = left.min(LOOK_AT_LEAST_EVERY).max(LISTEN_AT_LEAST);
        let told = select2(self.line.next(), self.child_changed.next());
        match select2(told, select2(self.wants_terminal.next(), sleep(nap))).await {
            Either::First(Either::First(word)) => Heard::Word(word),
            Either::First(Either::Second(_)) => Heard::ChildChanged,
            Either::Second(Either::First(_)) => Heard::WantsTerminal,
            Either::Second(Either::Second(())) => Heard::Time,
        }
    }

    /// Buries the dead, its own and those that became its own; whether the command is among them.
    fn reap(&mut self) -> bool {
        for _ in 0..BURIED_AT_ONCE {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) else {
                return false;
            };
            if pid != self.command {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                self.line.words.mention(&format!("stopped {signal}\n"));
            } else if let Some(signal) = status.terminating_signal() {
                self.line.say(&format!("signal {signal}"));
                return true;
            } else if let Some(code) = status.exit_status() {
                self.line.say(&format!("code {code}"));
                return true;
            }
        }
        self.unburied = true;
        false
    }
}

/// Asks the family to end, and waits until it has, or until this moment.
async fn end(family: &mut Family, kill_at: Moment) {
    if family.lives() != Some(false) {
        family.ask_to_end();
    }
    while family.lives() != Some(false) && SystemClock.now() < kill_at {
        sleep(kill_at.since(SystemClock.now()).min(LOOK_FOR_LEFT)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_fits_before_the_deadline_whatever_is_wished() {
        let ms = Duration::from_millis;
        for ttl in [ms(1_100), ms(2_000), ms(10_000), ms(86_400_000)] {
            for wished in [None, Some(Duration::ZERO), Some(ms(300)), Some(ttl), Some(Duration::MAX)] {
                let (grace, is_cut) = grace(ttl, wished);
                assert!(grace + margin(ttl) <= ttl / 2, "{ttl:?} {wished:?}");
                assert_eq!(is_cut, wished.is_some_and(|wished| wished != grace), "{ttl:?} {wished:?}");
            }
        }
        assert_eq!(grace(ms(10_000), None), (ms(2_000), false));
        assert_eq!(grace(ms(100_000), None), (ms(4_500), false));
        assert_eq!(grace(ms(10_000), Some(ms(9_000))), (ms(4_500), true));
    }
}
