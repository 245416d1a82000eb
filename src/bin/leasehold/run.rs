//! `run`: flock for a cluster. It holds a lease while a command runs, and no longer lets the command run than that.
//!
//! Who ends the command when:
//!
//! | what happens | who | how |
//! | --- | --- | --- |
//! | renewals fail, the deadline comes near | the [guard](crate::guard) | SIGTERM, then SIGKILL before the deadline |
//! | this process is stopped, or too slow | the guard, which hears of no later deadline | the same |
//! | this process is killed | the guard, whose pipe closes | the same, at once |
//! | the lease ends in contact (revoked, released elsewhere) | this process | SIGKILL at once |
//! | a signal to this process | this process | passes it on to the group |
//! | the command ends | the guard, told so | SIGTERM to what it left behind, then SIGKILL |
//!
//! So the lease's end never waits for this process to run, and rule L1 holds for the command as far as it can without
//! fencing: what believes in the lease is gone before the deadline.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use leasehold::{Client, Clock as _, Lease, Moment, Name, Released, SystemClock};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    args::RunArgs,
    exit::{self, Failed, tell},
    group::Group,
    guard,
    seam::{self, Either, Signals, select2},
};

/// After so long a wait it is said who holds the lease.
const SAY_WHO_AFTER: Duration = Duration::from_secs(1);
/// How long the guard may take to be ready. It only starts.
const GUARD_READY_WITHIN: Duration = Duration::from_secs(5);
/// The guard is told a later deadline so often within a ttl.
const TELLS_PER_TTL: u32 = 24;

const PASSED_ON: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Runs the command; the exit code is this program's.
pub(crate) async fn run(args: RunArgs) -> Result<u8, Failed> {
    // What can be wrong without asking anybody, before anybody is asked.
    let name = Name::new(&args.name).map_err(|error| Failed::with(exit::USAGE, error))?;
    if args.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Failed::with(
            exit::USAGE,
            "a ttl of 0 is no lease at all; ask for --ttl 10s, or leave it out",
        ));
    }
    let mut signals = Signals::of(&PASSED_ON)?;
    let holder = args.holder.clone().unwrap_or_else(holder_name);
    let connecting = Client::builder(holder).agents(&args.connect.connect).connect();
    let client = match select2(connecting, signals.next()).await {
        Either::First(connected) => connected?,
        Either::Second(signal) => return Ok(seam::code_of(signal.as_raw())),
    };
    let result = match select2(acquire(&client, &name, &args), signals.next()).await {
        Either::First(Ok(lease)) => hold(&lease, &args, &mut signals).await.map(|code| (code, Some(lease))),
        Either::First(Err(failed)) => Err(failed),
        Either::Second(signal) => Ok((seam::code_of(signal.as_raw()), None)),
    };
    let result = match result {
        Ok((code, Some(lease))) => {
            give_back(lease).await;
            Ok(code)
        }
        Ok((code, None)) => Ok(code),
        Err(failed) => Err(failed),
    };
    client.close().await;
    result
}

/// `host/pid`, unless the host's name can't be part of an agent's.
fn holder_name() -> String {
    let pid = std::process::id();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = format!("{host}/{pid}");
    leasehold::AgentName::new(&name).map_or_else(|_| format!("run/{pid}"), |name| name.as_str().to_owned())
}

async fn acquire(client: &Client, name: &Name, args: &RunArgs) -> Result<Lease, Failed> {
    let mut wish = client.lease(name.as_str());
    if let Some(ttl) = args.ttl {
        wish = wish.ttl(ttl);
    }
    if args.no_wait {
        return Ok(wish.try_acquire().await?);
    }
    if let Some(wait) = args.wait {
        wish = wish.wait_at_most(wait);
    }
    let acquiring = std::pin::pin!(wish.acquire());
    let mut acquiring = acquiring;
    match select2(acquiring.as_mut(), seam::sleep(SAY_WHO_AFTER)).await {
        Either::First(lease) => return Ok(lease?),
        Either::Second(()) => {}
    }
    let asking = async {
        if let Ok(Some(holder)) = client.holder(name.as_str()).await {
            tell(&format!("waiting for {name:?}, {holder}"));
        }
        std::future::pending::<()>().await;
    };
    match select2(acquiring, asking).await {
        Either::First(lease) => Ok(lease?),
        Either::Second(()) => Err(Failed::new("the wait ended without a word")),
    }
}

async fn give_back(lease: Lease) {
    let name = lease.name().clone();
    match lease.release().await {
        Ok(Released::Released | Released::WasLost(_)) => {}
        Err(error) => tell(&format!("{name:?}: {error}")),
    }
}

/// The guard as this process sees it.
struct Guard {
    child: Child,
    group: Group,
    words: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// The last deadline that it was told.
    told: Moment,
    /// It began to end the group, because the deadline was near.
    late: bool,
}

impl Guard {
    /// Starts it with the lease's present deadline, and waits until it is ready.
    async fn start(lease: &Lease) -> Result<Self, Failed> {
        let failed =
            |what: &str| Failed::new(format!("the guard beside the command {what}; nothing was started"));
        let program = std::env::current_exe().map_err(|error| failed(&format!("is not found: {error}")))?;
        let ms = |span: Duration| span.as_millis().to_string();
        let mut child = Command::new(program)
            .arg("__guard")
            .args(["--grace-ms", &ms(guard::grace(lease.ttl()))])
            .args(["--margin-ms", &ms(guard::margin(lease.ttl()))])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&format!("does not start: {error}")))?;
        let group = child.id().and_then(Group::led_by);
        let (Some(group), Some(words), Some(out)) = (group, child.stdin.take(), child.stdout.take()) else {
            return Err(failed("has no pipes"));
        };
        let lines = BufReader::new(out).lines();
        let mut guard = Self { child, group, words, lines, told: Moment::ZERO, late: false };
        guard.tell_deadline(lease).await;
        match seam::timeout(GUARD_READY_WITHIN, guard.lines.next_line()).await {
            Some(Ok(Some(line))) if line == "ready" => Ok(guard),
            _ => {
                guard.group.signal(Signal::KILL);
                Err(failed("is not ready"))
            }
        }
    }

    /// Tells it the lease's deadline, if that is later than what it knows.
    async fn tell_deadline(&mut self, lease: &Lease) {
        // Read before the rest of the lease's life: if this process is stopped in between, the sum is too early.
        let now = SystemClock.now();
        let deadline = now + lease.remaining();
        // `remaining` and the clock are two readings: the sum of an unchanged deadline wanders by what lies between.
        if deadline > self.told && lease.check().is_ok() {
            self.told = deadline;
            let word = format!("until {}\n", deadline.as_nanos());
            // If it is gone, `heard` tells.
            let _ = self.words.write_all(word.as_bytes()).await;
        }
    }

    /// Resolves when the guard is gone, which is not to happen while the command runs. Notes what it says.
    async fn gone(&mut self) {
        while let Ok(Some(line)) = self.lines.next_line().await {
            if line == "late" {
                self.late = true;
                tell("the lease could not be renewed in time; ending the command before the deadline");
            }
        }
    }

    /// The command has ended: the guard ends what it left behind, and itself.
    async fn finish(&mut self) {
        let _ = self.words.write_all(b"finish\n").await;
        self.gone().await;
        let _ = self.child.wait().await;
    }
}

/// Why the command's wait was interrupted.
enum Heard {
    Ended(io::Result<ExitStatus>),
    GuardGone,
    Lost(leasehold::LeaseLost),
    Signal(Signal),
    Time,
}

/// Runs the command under the lease. Nothing of it is left when this returns.
async fn hold(lease: &Lease, args: &RunArgs, signals: &mut Signals) -> Result<u8, Failed> {
    let [program, rest @ ..] = args.command.as_slice() else {
        return Err(Failed::with(exit::USAGE, "no command to run; put it after --"));
    };
    let mut guard = Guard::start(lease).await?;
    let spawned = Command::new(program)
        .args(rest)
        .env("LEASEHOLD_NAME", lease.name().as_str())
        .env("LEASEHOLD_TOKEN", lease.token().to_string())
        .env("LEASEHOLD_LEASE_ID", lease.id().reveal())
        .process_group(guard.group.id())
        .spawn();
    let mut command = match spawned {
        Ok(command) => command,
        Err(error) => {
            guard.finish().await;
            let code = match error.kind() {
                io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_EXECUTABLE,
            };
            return Err(Failed::with(
                code,
                format!("can't run {program:?}: {error}; check the command after --"),
            ));
        }
    };
    let tick = lease.ttl() / TELLS_PER_TTL;
    let mut lost = None;
    let ended = loop {
        match next(&mut command, &mut guard, lease, lost.is_some(), signals, tick).await {
            Heard::Ended(status) => break status,
            Heard::Time => guard.tell_deadline(lease).await,
            Heard::Signal(signal) => guard.group.signal(signal),
            Heard::Lost(reason) => {
                // Who is granted it next may be at work already.
                guard.group.signal(Signal::KILL);
                lost = Some(reason);
            }
            Heard::GuardGone => {
                guard.group.signal(Signal::KILL);
                if lost.is_none() && !guard.late {
                    let _ = command.wait().await;
                    return Err(Failed::new(
                        "the guard beside the command was killed, so the command was ended too; start it again",
                    ));
                }
                break command.wait().await;
            }
        }
    };
    let lost = lost.or_else(|| lease.check().err());
    guard.finish().await;
    if let Some(lost) = lost {
        tell(&format!("{lost}; the command was ended"));
        return Ok(exit::LOST);
    }
    if guard.late {
        return Ok(exit::LOST);
    }
    let status = ended.map_err(|error| Failed::new(format!("the command can't be waited for: {error}")))?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(exit::ERROR),
        (None, Some(signal)) => seam::code_of(signal),
        (None, None) => exit::ERROR,
    })
}

/// What happens next, in the order in which it matters.
async fn next(
    command: &mut Child,
    guard: &mut Guard,
    lease: &Lease,
    told_lost: bool,
    signals: &mut Signals,
    tick: Duration,
) -> Heard {
    let lost = async {
        if told_lost {
            std::future::pending::<()>().await;
        }
        lease.lost().await
    };
    let others = select2(select2(lost, guard.gone()), select2(signals.next(), seam::sleep(tick)));
    match select2(command.wait(), others).await {
        Either::First(status) => Heard::Ended(status),
        Either::Second(Either::First(Either::First(lost))) => Heard::Lost(lost),
        Either::Second(Either::First(Either::Second(()))) => Heard::GuardGone,
        Either::Second(Either::Second(Either::First(signal))) => Heard::Signal(signal),
        Either::Second(Either::Second(Either::Second(()))) => Heard::Time,
    }
}
