//! Processes that don't outlive their test, and clusters of them.

use std::{
    ffi::OsStr,
    fmt::Debug,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What should happen has happened by then, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The program under test.
pub(crate) fn leasehold<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.args(args).env_remove("LEASEHOLD_CONNECT").env_remove("LEASEHOLD_CONFIG").env_remove("RUST_LOG");
    for what in ["CA", "CERT", "KEY"] {
        command.env_remove(format!("LEASEHOLD_TLS_{what}"));
    }
    command
}

/// Polls until the closure finds something.
#[track_caller]
pub(crate) fn until<T>(what: impl Debug, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "in vain: {what:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process with its output in files. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    dir: TempDir,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; 128 and the signal's number if it was ended by one.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::saying_to(command, None, None)
    }

    /// The same, with another output, or other errors.
    pub(crate) fn saying_to(command: &mut Command, out: Option<Stdio>, err: Option<Stdio>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name| Stdio::from(File::create(dir.path().join(name)).unwrap());
        let (own_out, own_err) = (file("out"), file("err"));
        command.stdin(Stdio::null()).stdout(out.unwrap_or(own_out)).stderr(err.unwrap_or(own_err));
        let child = command.spawn().unwrap();
        Self { child, dir }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
                return Ended { code, out: self.out(), err: self.err() };
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {}{}", self.out(), self.err());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, as `kill -9`.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.ended().code, 128 + 9);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process lives that is not ours to wait for.
pub(crate) fn lives(pid: i32) -> bool {
    let dead = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !dead()
}

/// Addresses on which nobody listens: each call has a loopback address of its own, so that tests which run at the same
/// time don't take each other's.
pub(crate) fn free_addresses<const N: usize>() -> [String; N] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = if cfg!(target_os = "linux") {
        let process = u8::try_from(std::process::id() % 200).unwrap() + 10;
        format!("127.{process}.0.{}", NEXT.fetch_add(1, Ordering::Relaxed))
    } else {
        "127.0.0.1".to_owned()
    };
    let ports: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind(format!("{host}:0")).unwrap());
    std::array::from_fn(|at| ports[at].local_addr().unwrap().to_string())
}

/// Three agents with data directories, each a process.
pub(crate) struct Cluster {
    addresses: [String; 3],
    agents: [Option<Process>; 3],
    ttl: &'static str,
    dir: TempDir,
}

impl Cluster {
    /// Founded and ready.
    pub(crate) fn start(ttl: &'static str) -> Self {
        let mut cluster = Self {
            addresses: free_addresses(),
            agents: [None, None, None],
            ttl,
            dir: tempfile::tempdir().unwrap(),
        };
        cluster.start_all();
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        (0..3).for_each(|at| self.launch(at));
        (0..3).for_each(|at| self.ready(at));
    }

    fn launch(&mut self, at: usize) {
        let data_dir = self.dir.path().join(at.to_string());
        let name = format!("agent-{at}");
        let founders = self.addresses.join(",");
        self.agents[at] = Some(Process::start(
            leasehold(&["agent", "--name", &name, "--listen", &self.addresses[at], "--founder", &founders])
                .args(["--ttl", self.ttl, "--data-dir"])
                .arg(data_dir),
        ));
    }

    fn ready(&self, at: usize) {
        let agent = self.agents[at].as_ref().unwrap();
        until(at, || agent.out().starts_with(&format!("ready agent=agent-{at} ")).then_some(()));
    }

    pub(crate) fn restart(&mut self, at: usize) {
        self.launch(at);
        self.ready(at);
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.agents[at].take().unwrap().kill();
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        self.agents[at].as_ref().unwrap().signal(signal);
    }

    pub(crate) fn take(&mut self, at: usize) -> Process {
        self.agents[at].take().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command line that talks to this cluster.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = leasehold(args);
        command.env("LEASEHOLD_CONNECT", self.addresses.join(","));
        command
    }

    /// The objects that a command prints with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let ended = Process::start(self.command(args).arg("--json")).ended();
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.err);
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn holder(&self, name: &str) -> Value {
        self.json(&["holder", name]).remove(0)
    }

    /// Which agent leads, once one does.
    pub(crate) fn leader(&self) -> usize {
        until("a leader", || {
            let all = self.json(&["status"]);
            let leader = all.iter().find(|status| status["role"] == "leader")?;
            self.addresses.iter().position(|address| leader["address"] == **address)
        })
    }

    /// A `run` whose command writes down its process id and its token, and then goes on until it is ended.
    pub(crate) fn run(&self, name: &str, log: &str, options: &[&str]) -> Run {
        let log = self.path(log);
        // `sleep` in the background: a shell runs its traps only between commands.
        let script = "echo $$ $LEASEHOLD_TOKEN > $LOG.new; mv $LOG.new $LOG; sleep 600 & wait";
        let mut command = self.command(&["run", name]);
        command.args(options).args(["--", "sh", "-c", script]).env("LOG", &log);
        Run { process: Process::start(&mut command), log }
    }
}

/// See [`Cluster::run`].
pub(crate) struct Run {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Run {
    /// The command's process id and token, if it has started.
    pub(crate) fn started(&self) -> Option<(i32, u64)> {
        read_started(&self.log)
    }

    /// The same, once it has.
    #[track_caller]
    pub(crate) fn wait_started(&self) -> (i32, u64) {
        until("the command to start", || self.started())
    }
}

fn read_started(log: &Path) -> Option<(i32, u64)> {
    let text = fs::read_to_string(log).ok()?;
    let (pid, token) = text.trim().split_once(' ')?;
    Some((pid.parse().unwrap(), token.parse().unwrap()))
}
