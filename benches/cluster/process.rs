//! Three agents in processes of their own: what needs a SIGKILL, or numbers of one agent alone.
//!
//! The benchmark starts itself again with [`CHILD`] as its first argument. Such a process is one agent; it does what
//! it is told on standard input, a line each, answers a line each, and ends when its input ends: so none outlives the
//! benchmark.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use leasehold::{Agent, Lease, MemberRole, Timing};

use crate::local;

/// The first argument of a process that is an agent.
pub(crate) const CHILD: &str = "--one-agent";

fn timing_of(name: &str) -> Timing {
    if name == "fast_lan" { Timing::fast_lan() } else { Timing::default() }
}

/// The life of a process that is an agent.
pub(crate) fn child(args: &[String]) {
    let [at, addresses, folder, timing] = args else {
        panic!("{CHILD} AT ADDRESSES FOLDER TIMING, got {args:?}")
    };
    let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
    let folder = (folder != "-").then(|| PathBuf::from(folder));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let at = at.parse().expect("a number");
    let agent = runtime
        .block_on(local::builder(at, &addresses, folder.as_deref(), timing_of(timing)).start())
        .expect("an agent");
    println!("ready");
    let mut held = Vec::new();
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        println!("{}", runtime.block_on(obey(&agent, &line, &mut held)));
    }
    // As abruptly as it came: nothing here is worth a clean end.
    std::process::exit(0);
}

async fn obey(agent: &Agent, line: &str, held: &mut Vec<Lease>) -> String {
    const AT_ONCE: usize = 256;
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["leading"] => (agent.status().role == MemberRole::Leader).to_string(),
        ["pair", name] => {
            let lease = agent.acquire(name).await.expect("a lease");
            tokio::spawn(lease.release());
            "done".to_owned()
        }
        ["hold", part, count] => {
            let count: usize = count.parse().expect("a number");
            held.reserve(count);
            let mut names = (0..count).map(|n| format!("bench/held/{part}/{n:07}"));
            loop {
                let some: Vec<String> = names.by_ref().take(AT_ONCE).collect();
                if some.is_empty() {
                    return "done".to_owned();
                }
                let asking = some.iter().map(|name| agent.acquire(name));
                held.extend(futures_util::future::try_join_all(asking).await.expect("free names"));
            }
        }
        ["intact"] => held.iter().filter(|lease| lease.check().is_ok()).count().to_string(),
        other => format!("unknown: {other:?}"),
    }
}

/// One agent's process.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(at: usize, addresses: &[String], folder: Option<&Path>, timing: &str) -> Self {
        let folder = folder.map_or_else(|| "-".to_owned(), |folder| folder.display().to_string());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([CHILD, &at.to_string(), &addresses.join(","), &folder, timing])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("a process that lives");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("an answer");
        assert!(read > 0, "an agent's process ended before its time");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What one process has used so far.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: f64,
}

/// Three processes that are a cluster.
pub(crate) struct Processes {
    addresses: Vec<String>,
    folder: Option<PathBuf>,
    timing: &'static str,
    all: Vec<Process>,
}

impl Processes {
    pub(crate) fn start(folder: Option<&Path>, timing: &'static str) -> Self {
        let addresses = local::free_addresses(3);
        let mut all: Vec<_> = (0..3).map(|at| Process::start(at, &addresses, folder, timing)).collect();
        for process in &mut all {
            assert_eq!(process.answer(), "ready");
        }
        Self { addresses, folder: folder.map(Path::to_owned), timing, all }
    }

    fn leader(&mut self) -> usize {
        loop {
            if let Some(at) = self.all.iter_mut().position(|process| process.ask("leading") == "true") {
                return at;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the leader with SIGKILL. How long it takes until an agent that survived has a lease; then it is started
    /// again, so that there are three.
    pub(crate) fn kill_the_leader(&mut self, round: usize) -> Duration {
        let leader = self.leader();
        let survivor = (leader + 1 + round % 2) % 3;
        // It has a connection to the leader, and has been served over it.
        self.all[survivor].ask("pair bench/before");
        // Not in step with the heartbeats.
        thread::sleep(Duration::from_millis(400 + (round as u64 * 37) % 100));
        let began = Instant::now();
        self.all[leader].kill();
        self.all[survivor].ask(&format!("pair bench/after/{round}"));
        let after = began.elapsed();
        self.all[leader] = Process::start(leader, &self.addresses, self.folder.as_deref(), self.timing);
        assert_eq!(self.all[leader].answer(), "ready");
        after
    }

    /// Has so many leases held, all renewed in the background: by the leader's agent, or by all three, a third each.
    pub(crate) fn hold(&mut self, count: usize, spread: bool) {
        let leader = self.leader();
        let by = if spread { vec![0, 1, 2] } else { vec![leader] };
        for at in &by {
            self.all[*at].tell(&format!("hold {at} {}", count / by.len()));
        }
        for at in by {
            assert_eq!(self.all[at].answer(), "done");
        }
    }

    /// How many leases are held.
    pub(crate) fn intact(&mut self) -> usize {
        self.all.iter_mut().map(|process| process.ask("intact").parse::<usize>().expect("a number")).sum()
    }

    /// What each process has used, the leader's first.
    pub(crate) fn usage(&mut self) -> Vec<Usage> {
        let leader = self.leader();
        (0..3).map(|at| usage(self.all[(leader + at) % 3].child.id())).collect()
    }
}

/// The unit of times in `/proc`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    // After the command's name in brackets: state is the first field, utime and stime the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: f64 = resident.trim().trim_end_matches(" kB").trim().parse().expect("KiB");
    Usage { cpu_seconds: ticks / TICKS_PER_SECOND, resident_mib: kib / 1024.0 }
}

/// What a folder takes on the disk, with all that is in it, in MiB.
pub(crate) fn folder_mib(folder: &Path) -> f64 {
    fn bytes(folder: &Path) -> u64 {
        let Ok(items) = fs::read_dir(folder) else { return 0 };
        let size = |item: fs::DirEntry| match item.metadata() {
            Ok(data) if data.is_dir() => bytes(&item.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        };
        items.flatten().map(size).sum()
    }
    bytes(folder) as f64 / 1024.0 / 1024.0
}
