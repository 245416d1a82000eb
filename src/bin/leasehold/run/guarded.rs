//! The guard as `run` sees it; see [`guard`] for what it does.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as Socket},
    process::Stdio,
    time::Duration,
};

use leasehold::{Clock as _, Lease, Moment, SystemClock};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
};

use crate::{
    args::RunArgs,
    exit::{self, Failed},
    family::Family,
    group::Group,
    guard, seam,
};

/// How long the guard may take to start the command.
const STARTED_WITHIN: Duration = Duration::from_secs(5);
/// How long it is waited for the dead to be gone, and the pause between two looks.
const GONE_WITHIN: Duration = Duration::from_secs(1);
const LOOK_FOR_LEFT: Duration = Duration::from_millis(5);

/// How the command ended.
#[derive(Clone, Copy)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
}

/// What the guard says.
pub(super) enum Said {
    Ended(Ended),
    /// The command was stopped, by this signal.
    Stopped(i32),
    WantsTerminal,
    /// It begins to end the command, since the deadline is near.
    Late,
    /// It is gone.
    Gone,
}

/// A guard, and the command that it started.
pub(super) struct Guarded {
    child: Child,
    group: Group,
    family: Family,
    lines: Lines<BufReader<OwnedReadHalf>>,
    words: OwnedWriteHalf,
    /// The last deadline that it was told.
    told: Moment,
    margin: Duration,
}

impl Guarded {
    /// Starts the guard with the lease's present deadline, and the command by it.
    pub(super) async fn start(lease: &Lease, args: &RunArgs, grace: Duration) -> Result<Self, Failed> {
        let broken = |what: &str, error: io::Error| {
            Failed::new(format!("the guard beside the command {what}: {error}; nothing was started"))
        };
        let program = std::env::current_exe().map_err(|error| broken("is not found", error))?;
        let (own, its) = Socket::pair().map_err(|error| broken("has no socket", error))?;
        let ms = |span: Duration| span.as_millis().to_string();
        let margin = guard::margin(lease.ttl());
        let child = Command::new(program)
            .arg("__guard")
            .args(["--grace-ms", &ms(grace), "--margin-ms", &ms(margin)])
            .args(["--terminal-of", &format!("{},{}", Group::own().id(), parents_group()), "--"])
            .args(&args.command)
            .env("LEASEHOLD_NAME", lease.name().as_str())
            .env("LEASEHOLD_TOKEN", lease.token().to_string())
            .env("LEASEHOLD_LEASE_ID", lease.id().reveal())
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| broken("does not start", error))?;
        let Some(group) = child.id().and_then(Group::led_by) else {
            return Err(broken("has ended", io::ErrorKind::BrokenPipe.into()));
        };
        let family = Family::around(group);
        let deadline = SystemClock.now() + lease.remaining();
        let sent = guard::send_first(&own, &guard::until(deadline)).and_then(|()| own.set_nonblocking(true));
        let stream = sent.and_then(|()| UnixStream::from_std(own));
        let (read, words) = stream.map_err(|error| broken("can't be told anything", error))?.into_split();
        let lines = BufReader::new(read).lines();
        let mut guarded = Self { child, group, family, lines, words, told: deadline, margin };
        let said = seam::timeout(STARTED_WITHIN, guarded.lines.next_line()).await;
        let said = said.and_then(Result::ok).flatten();
        match said.as_deref().map(|said| said.split_once(' ').unwrap_or((said, ""))) {
            Some(("started", _)) => Ok(guarded),
            Some(("failed", errno)) => {
                guarded.end_all().await;
                Err(not_run(args, errno))
            }
            _ => {
                guarded.end_all().await;
                Err(broken("is not ready", io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// What it says next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let Ok(Some(line)) = self.lines.next_line().await else { return Said::Gone };
            let (word, number) = line.split_once(' ').unwrap_or((&line, ""));
            let number = number.parse().unwrap_or_default();
            match word {
                "code" => return Said::Ended(Ended::Code(number)),
                "signal" => return Said::Ended(Ended::Signal(number)),
                "stopped" => return Said::Stopped(number),
                "terminal" => return Said::WantsTerminal,
                "late" => return Said::Late,
                _ => {}
            }
        }
    }

    /// Tells it the lease's deadline, if that is later than what it knows.
    pub(super) async fn tell_deadline(&mut self, lease: &Lease) {
        // Read before the rest of the lease's life: if this process is stopped in between, the sum is too early.
        let now = SystemClock.now();
        let deadline = now + lease.remaining();
        // `remaining` and the clock are two readings: the sum of an unchanged deadline wanders by what lies between.
        if deadline > self.told && lease.check().is_ok() {
            self.told = deadline;
            self.say(&guard::until(deadline)).await;
        }
    }

    /// Half of the margin before the deadline that it knows: by then it has ended the command, unless it is stopped.
    pub(super) fn overdue_in(&self) -> Duration {
        (self.told - self.margin / 2).since(SystemClock.now())
    }

    /// Has it end the command, as when the deadline is near.
    pub(super) async fn end(&mut self) {
        self.say("end\n").await;
    }

    /// If it is gone, `next` tells.
    async fn say(&mut self, words: &str) {
        let _ = self.words.write_all(words.as_bytes()).await;
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    pub(super) fn group(&self) -> Group {
        self.group
    }

    /// SIGKILL to the command and all that it has started, and to the guard.
    pub(super) fn kill(&self) {
        self.family.kill();
    }

    /// The same, and waits until they are gone.
    pub(super) async fn end_all(&mut self) {
        self.family.kill();
        let _ = self.child.wait().await;
        let gone = async {
            while self.family.lives() == Some(true) {
                seam::sleep(LOOK_FOR_LEFT).await;
            }
        };
        let _ = seam::timeout(GONE_WITHIN, gone).await;
    }
}

/// The group of whoever started this process; 0 if nobody has.
fn parents_group() -> i32 {
    let group = rustix::process::getppid().and_then(|parent| rustix::process::getpgid(Some(parent)).ok());
    group.map_or(0, |group| group.as_raw_pid())
}

fn not_run(args: &RunArgs, errno: &str) -> Failed {
    let error = io::Error::from_raw_os_error(errno.parse().unwrap_or_default());
    let code = match error.kind() {
        io::ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::NOT_EXECUTABLE,
    };
    let program = args.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    Failed::with(code, format!("can't run {program:?}: {error}; check the command after --"))
}
