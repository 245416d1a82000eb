//! The guard: a dead man's switch beside the command that `run` started.
//!
//! # The problem
//!
//! `run` must not let its command go on when the lease is over. But `run` itself may be killed (SIGKILL can't be
//! caught) or stopped, and then it can end nothing. A command that goes on alone would write while somebody else holds
//! the lease; only what refuses old tokens would notice.
//!
//! # The way
//!
//! `run` starts this program once more, as the leader of a new process group, and puts the command into that group.
//! The guard knows one thing, the deadline, and `run` tells it each later one. If none comes in time, for whatever
//! reason (no contact, `run` stopped), it ends the group: SIGTERM at `deadline − grace`, SIGKILL at
//! `deadline − margin`. If the pipe closes, `run` is gone: SIGTERM at once, SIGKILL after the grace, and never later than
//! `deadline − margin`. Nobody has to be alive but the guard. As the group's leader it also keeps the group's id from
//! being taken by strangers, and SIGKILL to its own group ends it too.
//!
//! The deadline is a reading of this machine's clock, the same for both processes. Once it began to end the group it
//! doesn't stop: a command that was told to end must not be taken for a running one.
//!
//! # What it can't do
//!
//! A process that left the group (`setsid`) is out of reach, and so is everything when the guard itself is killed or
//! stopped together with `run`, or the machine is too loaded to run it. Time can't close that gap: fencing does.
//!
//! # Rejected
//!
//! - *PR_SET_PDEATHSIG*: Linux only, needs code between fork and exec, reaches the child alone and not its
//!   descendants, and does nothing while the parent is merely stopped.
//! - *The guard as the command's parent*: then signals, exit codes and the terminal pass through one more process.
//!
//! # The words on the pipes
//!
//! To the guard: `until <nanoseconds>`, a later deadline; `finish`, the command has ended: end what it left behind.
//! From it: `ready`, it catches signals; `late`, it begins to end the group because the deadline is near.

use std::{io::Write as _, os::fd::AsFd as _, time::Duration};

use leasehold::{Clock as _, Moment, SystemClock};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::unix::pipe,
};

use crate::{
    args::GuardArgs,
    exit::Failed,
    group::Group,
    seam::{Either, Signals, select2, sleep},
};

/// The longest sleep between two looks at the clock: timers don't count suspend, the clock does.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(250);
/// How long it listens at least, before it finds that no later deadline came.
const LISTEN_AT_LEAST: Duration = Duration::from_millis(5);
/// How often it looks whether anybody is left.
const LOOK_FOR_LEFT: Duration = Duration::from_millis(10);

/// The grace between SIGTERM and the deadline for a lease of this ttl.
pub(crate) fn grace(ttl: Duration) -> Duration {
    (ttl / 4).min(Duration::from_secs(5))
}

/// The margin between SIGKILL and the deadline: the kill has to arrive, and what was under way to come to rest.
pub(crate) fn margin(ttl: Duration) -> Duration {
    (ttl / 16).min(Duration::from_millis(500))
}

/// What the pipe said.
enum Word {
    Until(Moment),
    Finish,
    /// `run` is gone, or says what nobody understands.
    Gone,
}

async fn next_word(lines: &mut Lines<BufReader<pipe::Receiver>>) -> Word {
    let Ok(Some(line)) = lines.next_line().await else { return Word::Gone };
    match line.split_once(' ') {
        None if line == "finish" => Word::Finish,
        Some(("until", nanos)) => {
            nanos.parse().map_or(Word::Gone, |nanos| Word::Until(Moment::from_nanos(nanos)))
        }
        _ => Word::Gone,
    }
}

/// Nobody reads it when `run` is gone; that is found out elsewhere.
fn say(word: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
}

/// Guards this process's own group.
pub(crate) async fn guard(args: GuardArgs) -> Result<(), Failed> {
    let group = Group::own();
    if group.id() != i32::try_from(std::process::id()).unwrap_or(-1) {
        return Err(Failed::new("this is for `leasehold run` alone: it must lead a process group"));
    }
    let (grace, margin) = (Duration::from_millis(args.grace_ms), Duration::from_millis(args.margin_ms));
    // They go to the whole group, and this process must outlive them.
    let _signals = Signals::of(&[
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
    ])?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd);
    let stdin = stdin.map_err(|error| Failed::new(format!("this is for `leasehold run` alone: {error}")))?;
    let mut lines = BufReader::new(stdin).lines();
    // Nothing is to be guarded before the first deadline is known.
    let Word::Until(mut until) = next_word(&mut lines).await else { return Ok(()) };
    say("ready");
    let finished = loop {
        let now = SystemClock.now();
        // Its own being stopped is no reason to end anything: what `run` said meanwhile is heard first.
        let nap = (until - grace).since(now).min(LOOK_AT_LEAST_EVERY).max(LISTEN_AT_LEAST);
        match select2(next_word(&mut lines), sleep(nap)).await {
            Either::First(Word::Until(later)) => until = later.max(until),
            Either::First(Word::Finish) => break true,
            Either::First(Word::Gone) => break false,
            Either::Second(()) if SystemClock.now() >= until - grace => {
                say("late");
                break false;
            }
            Either::Second(()) => {}
        }
    };
    // Where the system doesn't tell whether anybody is left, an ordinary end must not take the whole grace.
    let grace = if finished && group.has_others().is_none() { Duration::ZERO } else { grace };
    end(group, (SystemClock.now() + grace).min(until - margin)).await;
    Ok(())
}

/// Ends the group: politely, and at this moment for good, together with this process.
///
/// It ends with SIGKILL to the group also when nobody else was found: who forks while the list of processes is read
/// may not be on it, but is in the group.
async fn end(group: Group, kill_at: Moment) {
    if group.has_others() != Some(false) {
        group.ask_to_end();
    }
    while group.has_others() != Some(false) && SystemClock.now() < kill_at {
        sleep(kill_at.since(SystemClock.now()).min(LOOK_FOR_LEFT)).await;
    }
    group.signal(Signal::KILL);
}
