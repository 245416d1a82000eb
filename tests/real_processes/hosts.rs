//! Hosts: network namespaces, each with an agent on a file system of its own that can be full, and a worker. Gone when
//! dropped, with every process in them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    namespaces,
    skewed::{self, AGENT},
    switch::{Switch, address, ip},
    worker::WORKER,
};

const PORT: u16 = 7102;
const PATIENCE: Duration = Duration::from_secs(40);

/// They are dropped in this order.
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    pub(crate) switch: Switch,
    namespaces: Namespaces,
    pub(crate) dir: TempDir,
}

/// Removed when dropped.
struct Namespaces(Vec<String>);

struct Host {
    /// The rates of the agent's clock and of the worker's, in millionths off.
    rates: (i64, i64),
    agent: Option<Child>,
    worker: Option<Child>,
    /// How many workers there were.
    workers: usize,
    disk: PathBuf,
}

fn agent_at(host: usize) -> String {
    format!("{}:{PORT}", address(host))
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| namespaces::remove(name));
    }
}

/// How the names of namespaces and folders begin; the process's number follows.
const OURS: &str = "leasehold-real-";

/// What an earlier run left behind that was killed itself.
fn remove_stale() {
    namespaces::remove_stale(OURS);
    let is_stale = |name: &str| namespaces::is_stale(OURS, name);
    let folders = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name().to_str().is_some_and(is_stale)) {
        for disk in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if disk.file_name().to_str().is_some_and(|name| name.starts_with("disk-")) {
                unmount(&disk.path());
            }
        }
        let _ = fs::remove_dir_all(folder.path());
    }
}

fn unmount(disk: &Path) {
    let _ = Command::new("umount").arg("-l").arg(disk).stderr(Stdio::null()).status();
}

impl Drop for Host {
    fn drop(&mut self) {
        for mut child in [self.agent.take(), self.worker.take()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        unmount(&self.disk);
    }
}

impl Hosts {
    /// The reason why there are none, where this user or this machine can't have them.
    pub(crate) fn start(count: usize, seed: u64) -> Result<Self, String> {
        remove_stale();
        let prefix = format!("{OURS}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().map_err(|error| error.to_string())?;
        let mut namespaces = Namespaces(Vec::new());
        for host in 0..count {
            let name = format!("{OURS}{}-{host}", std::process::id());
            ip(&format!("netns add {name}"))?;
            namespaces.0.push(name.clone());
            ip(&format!("-n {name} link set lo up"))?;
        }
        let switch = Switch::between(&namespaces.0, seed)?;
        let mut hosts = Vec::new();
        let (agents, workers) = skewed::rates(count, seed);
        for (host, rates) in agents.into_iter().zip(workers).enumerate() {
            let disk = dir.path().join(format!("disk-{host}"));
            fs::create_dir(&disk).map_err(|error| error.to_string())?;
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&disk).status();
            if !mounted.is_ok_and(|status| status.success()) {
                return Err("no file system of memory can be mounted".to_owned());
            }
            hosts.push(Host { rates, agent: None, worker: None, workers: 0, disk });
        }
        let mut all = Self { switch, namespaces, hosts, dir };
        (0..count).for_each(|host| all.start_agent(host));
        Ok(all)
    }

    /// The rates of the agents' clocks and of the workers', in millionths off.
    pub(crate) fn rates(&self) -> Vec<(i64, i64)> {
        self.hosts.iter().map(|host| host.rates).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.hosts.len()
    }

    fn there(&self, host: usize, program: &Path, what: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespaces.0[host]]).arg(program);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{what}-{host}.err")));
        let log = log.unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// The last host's is the command, which has the machine's clock.
    pub(crate) fn start_agent(&mut self, host: usize) {
        let founders: Vec<String> = (0..self.count()).map(agent_at).collect();
        let data = self.hosts[host].disk.join("data");
        if host + 1 < self.count() {
            let (name, rate) = (format!("agent-{host}"), self.hosts[host].rates.0);
            let (data, address, founders) = (data.display(), agent_at(host), founders.join(" "));
            let logbook = skewed::logbook(self.dir.path(), host);
            let asked = format!("{name} {data} {} {rate} {address} {founders}", logbook.display());
            let mut command = self.there(host, &std::env::current_exe().unwrap(), "agent");
            command.args(["agent", "--exact", "--nocapture"]).env(AGENT, asked);
            self.hosts[host].agent = Some(command.spawn().unwrap());
            return;
        }
        let mut command = self.there(host, Path::new(env!("CARGO_BIN_EXE_leasehold")), "agent");
        command.args(["agent", "--name", &format!("agent-{host}"), "--listen", &agent_at(host)]);
        command.args(["--founder", &founders.join(","), "--ttl", "2s", "--danger-plaintext", "--data-dir"]);
        command.arg(data);
        self.hosts[host].agent = Some(command.spawn().unwrap());
    }

    pub(crate) fn start_worker(&mut self, host: usize, seed: u64) {
        let number = self.hosts[host].workers;
        self.hosts[host].workers += 1;
        let log = self.dir.path().join(format!("worker-{host}-{number}.log"));
        let mut asked = format!("{} {seed} {}", log.display(), self.hosts[host].rates.1);
        // Its own host's agent first.
        for other in (host..self.count()).chain(0..host) {
            asked = format!("{asked} {}", agent_at(other));
        }
        let own = std::env::current_exe().unwrap();
        let mut command = self.there(host, &own, "worker");
        command.args(["worker", "--exact", "--nocapture"]).env(WORKER, asked);
        self.hosts[host].worker = Some(command.spawn().unwrap());
    }

    fn child(&mut self, host: usize, is_agent: bool) -> &mut Option<Child> {
        let host = &mut self.hosts[host];
        if is_agent { &mut host.agent } else { &mut host.worker }
    }

    /// A signal for the agent, or for the worker, of a host.
    pub(crate) fn signal(&mut self, host: usize, is_agent: bool, signal: Signal) {
        if let Some(child) = self.child(host, is_agent)
            && let Some(pid) = Pid::from_raw(child.id().cast_signed())
        {
            let _ = kill_process(pid, signal);
        }
    }

    pub(crate) fn kill(&mut self, host: usize, is_agent: bool) {
        if let Some(mut child) = self.child(host, is_agent).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How the agent ended, if it did so by itself.
    pub(crate) fn agent_ended(&mut self, host: usize) -> Option<Option<i32>> {
        let child = self.hosts[host].agent.as_mut()?;
        let status = child.try_wait().unwrap()?;
        self.hosts[host].agent = None;
        Some(status.code())
    }

    pub(crate) fn has(&mut self, host: usize, is_agent: bool) -> bool {
        self.child(host, is_agent).is_some()
    }

    /// Whether the host's disk is full.
    pub(crate) fn fill_disk(&self, host: usize, full: bool) {
        let ballast = self.hosts[host].disk.join("ballast");
        if full {
            // As much as fits.
            let written = fs::write(&ballast, vec![0; 64 << 20]);
            assert!(written.is_err(), "it is smaller than that");
        } else {
            let _ = fs::remove_file(&ballast);
        }
    }

    /// Waits until a leader answers through every agent.
    pub(crate) fn wait_settled(&self) {
        let began = Instant::now();
        while !(0..self.count()).all(|host| self.is_led(host)) {
            assert!(began.elapsed() < PATIENCE, "no leader:\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_led(&self, host: usize) -> bool {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespaces.0[host], env!("CARGO_BIN_EXE_leasehold")]);
        command
            .args(["leases", "--connect", &agent_at(host), "--danger-plaintext", "--json"])
            .stdin(Stdio::null());
        command.output().is_ok_and(|output| output.status.success())
    }

    /// The ends of what the agents wrote to standard error.
    pub(crate) fn last_words(&self) -> String {
        let of = |host| {
            let text =
                fs::read_to_string(self.dir.path().join(format!("agent-{host}.err"))).unwrap_or_default();
            let from = text.char_indices().rev().nth(1_500).map_or(0, |(at, _)| at);
            format!("--- agent {host}:\n{}\n", &text[from..])
        };
        (0..self.count()).map(of).collect()
    }
}
