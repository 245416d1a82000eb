//! The guard as `run` sees it; see [`guard`] for what it does.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as Socket},
    path::Path,
    process::Stdio,
    time::Duration,
};

use leasehold::{Clock as _, Lease, Moment, SystemClock};
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
    process::{Child, Command},
};

use crate::{
    args::RunArgs,
    exit::{self, Failed},
    family::{self, Family},
    group::Group,
    guard, seam,
    words::Words,
};

/// How long the guard may take to start the command, if the lease lasts as long.
const STARTED_WITHIN: Duration = Duration::from_secs(5);
/// How long it is waited for the dead to be gone, whether there is a lease or not.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// The pause between two looks whether anybody is left; the longer one for who takes his time.
const LOOK_FOR_LEFT: Duration = Duration::from_millis(5);
const LOOK_FOR_LEFT_MAX: Duration = Duration::from_millis(250);

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
    words: Words,
    /// The last deadline that it was told.
    told: Moment,
    margin: Duration,
    /// Nobody of the family is left, it says.
    nobody_left: bool,
}

impl Guarded {
    /// Starts the guard. The command is started by it when it is told of the lease ([`started`](Self::started)).
    pub(super) fn start(lease: &Lease, args: &RunArgs, grace: Duration) -> Result<Self, Failed> {
        let (own, its) = Socket::pair().map_err(|error| broken("has no socket", error))?;
        let own = own.set_nonblocking(true).and_then(|()| UnixStream::from_std(own));
        let own = own.map_err(|error| broken("can't be told anything", error))?;
        let ms = |span: Duration| span.as_millis().to_string();
        let margin = guard::margin(lease.ttl());
        // Who is there already was not started by the command. (`exec leasehold run` in a shell with background jobs.)
        let strangers = family::children();
        family::adopt();
        let mut command = program();
        let mut child = command
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
            let _ = child.start_kill();
            return Err(broken("has ended", io::ErrorKind::BrokenPipe.into()));
        };
        let family = Family::around(group, strangers);
        let (read, words) = own.into_split();
        let (lines, words) = (BufReader::new(read).lines(), Words::new(words));
        Ok(Self { child, group, family, lines, words, told: Moment::ZERO, margin, nobody_left: false })
    }

    /// Tells the guard of the lease, and waits until it has started the command. Whether that fails or not, it may have
    /// started it: what has begun is to be ended by [`end_all`](Self::end_all).
    pub(super) async fn started(&mut self, lease: &Lease, args: &RunArgs) -> Result<(), Failed> {
        let now = SystemClock.now();
        self.told = now + lease.remaining();
        let sent = guard::send_first(self.words.socket(), &guard::until(self.told));
        sent.map_err(|error| broken("can't be told anything", error))?;
        // Later it must not start anything: by then nobody would notice that the lease is over.
        let said = seam::timeout(STARTED_WITHIN.min(self.overdue_in()), self.lines.next_line()).await;
        let said = said.and_then(Result::ok).flatten();
        match said.as_deref().map(|said| said.split_once(' ').unwrap_or((said, ""))) {
            Some(("started", _)) => Ok(()),
            Some(("failed", "late")) => Err(too_late(lease)),
            Some(("failed", errno)) => Err(not_run(args, errno)),
            _ if self.overdue_in().is_zero() => Err(too_late(lease)),
            _ => Err(broken("is not ready", io::ErrorKind::TimedOut.into())),
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
                "nobody" => self.nobody_left = true,
                _ => {}
            }
        }
    }

    /// Tells it the lease's deadline, if that is later than what it knows. If it is stopped and its ears are full, the
    /// deadline that it knows stays what it is, and comes near.
    pub(super) fn tell_deadline(&mut self, lease: &Lease) {
        // Read before the rest of the lease's life: if this process is stopped in between, the sum is too early.
        let now = SystemClock.now();
        let deadline = now + lease.remaining();
        // `remaining` and the clock are two readings: the sum of an unchanged deadline wanders by what lies between.
        if deadline > self.told
            && lease.check().is_ok()
            && self.words.flush()
            && self.words.say(&guard::until(deadline))
        {
            self.told = deadline;
        }
    }

    /// Half of the margin before the deadline that it knows: by then it has ended the command, unless it is stopped.
    pub(super) fn overdue_in(&self) -> Duration {
        (self.told - self.margin / 2).since(SystemClock.now())
    }

    /// Has it end the command, as when the deadline is near. If it is gone, `next` tells; if it is stopped, it is overdue
    /// some time.
    pub(super) fn end(&mut self) {
        self.words.say("end\n");
    }

    /// What there was no room for.
    pub(super) fn say_the_rest(&mut self) {
        self.words.flush();
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    pub(super) fn group(&self) -> Group {
        self.group
    }

    /// SIGKILL to the command and all that it has started, and to the guard.
    pub(super) fn kill(&mut self) {
        self.family.kill(&[]);
    }

    /// The same, unless the guard has done it, and waits for a while until they are gone. [`left`](Self::left) tells who is
    /// not.
    pub(super) async fn end_all(&mut self) {
        if !self.nobody_left {
            self.kill();
        }
        if seam::timeout(GONE_WITHIN, self.child.wait()).await.is_none() {
            let _ = self.child.start_kill();
            let _ = seam::timeout(GONE_WITHIN, self.child.wait()).await;
        }
        let gone = async {
            while !self.left().is_empty() {
                seam::sleep(LOOK_FOR_LEFT).await;
            }
        };
        let _ = seam::timeout(GONE_WITHIN, gone).await;
    }

    /// Waits on, for as long as the lease lasts. Cancel-safe.
    pub(super) async fn wait_for_left(&mut self, lease: &Lease) {
        while !self.left().is_empty() && !lease.remaining().is_zero() {
            seam::sleep(LOOK_FOR_LEFT_MAX.min(lease.remaining())).await;
        }
    }

    /// The process ids of those who live although they were killed: SIGKILL waits for the system (a disk, a network's
    /// file system), or they are another user's. What they have started meanwhile is killed, too: not by the group any
    /// more, whose number nobody keeps now.
    pub(super) fn left(&mut self) -> Vec<i32> {
        if self.nobody_left || !self.family.kill_one_by_one() { Vec::new() } else { self.family.pids() }
    }
}

/// This program once more, also when a package's upgrade has replaced or removed its file meanwhile: a wait for a lease
/// may take days.
fn program() -> Command {
    // The file that this process runs, whatever its name is now. In the new process as well: it is a copy of this one
    // until it becomes the program.
    const OWN: &str = "/proc/self/exe";
    if cfg!(target_os = "linux") && Path::new(OWN).exists() {
        let mut command = Command::new(OWN);
        command.arg0("leasehold");
        return command;
    }
    // No other system has such a name; the path is the best there is.
    Command::new(std::env::current_exe().unwrap_or_else(|_| "leasehold".into()))
}

fn broken(what: &str, error: io::Error) -> Failed {
    Failed::new(format!("the guard beside the command {what}: {error}; nothing was started"))
}

fn too_late(lease: &Lease) -> Failed {
    Failed::with(
        exit::LOST,
        format!(
            "the command was not started: with a ttl of {:?} there was no time left for it on this machine; ask for a longer one with --ttl",
            lease.ttl()
        ),
    )
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
