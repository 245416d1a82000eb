//! A network that swallows packets: no connection is refused or reset, there is only silence. The command of a holder
//! that is cut off so must be gone, with all that it has started, before the next one starts.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{Process, leasehold, until},
    namespaces,
};

/// How the names of namespaces begin.
const OURS: &str = "leasehold-";

const HOSTS: usize = 3;
const PORT: u16 = 7101;
/// A timestamp's resolution is 10 ms.
const TICK: f64 = 0.011;

/// Writes the time down again and again: a sign of life. The clock is the machine's own, monotonic, the same in every
/// namespace.
const SIGNS_OF_LIFE: &str = "
while :; do read now rest < /proc/uptime; echo $now >> $LOG.$1; sleep 0.02; done
";
/// A command that has to be killed, and what it starts: a child that has lost its parent, and one that has left the group
/// and the session, too. None of them minds SIGTERM.
const STUBBORN: &str = "
trap '' TERM
echo $LEASEHOLD_TOKEN > $LOG.token
(sh $SIGNS orphan &) &
(setsid sh -c 'sh $SIGNS daemon &') &
exec sh $SIGNS command
";

/// Hosts, each a network namespace with an agent's address, and a namespace between them that forwards. Gone when
/// dropped, with every process in them.
struct Hosts {
    own: String,
}

/// Whether it worked.
fn ip<S: AsRef<OsStr>>(args: &[S]) -> bool {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

impl Hosts {
    /// The reason why there are none, where this user or this machine can't have them.
    fn build() -> Result<Self, String> {
        namespaces::remove_stale(OURS);
        let hosts = Self { own: format!("{OURS}{}", std::process::id()) };
        let hub = hosts.hub();
        let run = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            if ip(&args) { Ok(()) } else { Err(format!("`ip {}` fails", args.join(" "))) }
        };
        run(&format!("netns add {hub}"))?;
        let forward = ["netns", "exec", &hub, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        if !ip(&forward) {
            return Err("forwarding can't be switched on".to_owned());
        }
        for host in 0..HOSTS {
            let name = hosts.name(host);
            run(&format!("netns add {name}"))?;
            run(&format!("-n {hub} link add to{host} type veth peer name eth0 netns {name}"))?;
            run(&format!("-n {hub} address add 10.77.{host}.1/24 dev to{host}"))?;
            run(&format!("-n {name} address add {}/24 dev eth0", address(host)))?;
            for (namespace, device) in
                [(&hub, format!("to{host}")), (&name, "eth0".into()), (&name, "lo".into())]
            {
                run(&format!("-n {namespace} link set {device} up"))?;
            }
            run(&format!("-n {name} route add default via 10.77.{host}.1"))?;
        }
        // The cut works, and is mended: else the test would fail for want of it.
        hosts.cut(0)?;
        run(&format!("-n {hub} rule del from {} blackhole", address(0)))?;
        run(&format!("-n {hub} rule del to {} blackhole", address(0)))?;
        Ok(hosts)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.own)
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.own)
    }

    /// From now on the namespace in between drops every packet from and to this host, without a word to anybody.
    fn cut(&self, host: usize) -> Result<(), String> {
        let hub = self.hub();
        for direction in ["from", "to"] {
            if !ip(&["-n", &hub, "rule", "add", direction, &address(host), "blackhole"]) {
                return Err("there are no routing rules that drop packets".to_owned());
            }
        }
        Ok(())
    }

    /// The command on this host.
    fn on(&self, host: usize, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name(host)]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => there.env(key, value),
                None => there.env_remove(key),
            };
        }
        there
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let names = (0..HOSTS).map(|host| self.name(host)).chain([self.hub()]);
        names.for_each(|name| namespaces::remove(&name));
    }
}

fn address(host: usize) -> String {
    format!("10.77.{host}.2")
}

fn agent_at(host: usize) -> String {
    format!("{}:{PORT}", address(host))
}

/// A `run` on a host, and what its command writes down.
struct There {
    process: Process,
    log: PathBuf,
}

impl There {
    /// The times at which this part of it gave a sign of life.
    fn signs(&self, part: &str) -> Vec<f64> {
        let text = fs::read_to_string(with(&self.log, part)).unwrap_or_default();
        // The last line may be half a line: the writer was killed.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}"))).collect()
    }

    fn token(&self) -> u64 {
        fs::read_to_string(with(&self.log, "token")).unwrap().trim().parse().unwrap()
    }

    #[track_caller]
    fn wait_signs_of_all(&self) {
        for part in ["command", "orphan", "daemon"] {
            until(part, || (self.signs(part).len() > 3).then_some(()));
        }
    }
}

fn with(path: &Path, end: &str) -> PathBuf {
    path.with_extension(end)
}

struct Fixture {
    runs: Vec<There>,
    agents: Vec<Process>,
    hosts: Hosts,
    dir: TempDir,
}

impl Fixture {
    fn start(hosts: Hosts) -> Self {
        let founders: Vec<String> = (0..HOSTS).map(agent_at).collect();
        let founders = founders.join(",");
        let agent = |host: usize| {
            let name = format!("agent-{host}");
            let args = [
                "agent",
                "--name",
                &name,
                "--listen",
                &agent_at(host),
                "--founder",
                &founders,
                "--ttl",
                "2s",
                "--danger-plaintext",
            ];
            Process::start(&mut hosts.on(host, &leasehold(&args)))
        };
        let agents: Vec<Process> = (0..HOSTS).map(agent).collect();
        for agent in &agents {
            until("an agent", || agent.out().starts_with("ready ").then_some(()));
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("signs"), SIGNS_OF_LIFE).unwrap();
        Self { runs: Vec::new(), agents, hosts, dir }
    }

    /// Starts a `run` whose command gives signs of life; its number.
    fn run(&mut self, host: usize, name: &str, connect: &str) -> usize {
        let log = self.dir.path().join(format!("{name}-{host}"));
        let mut command =
            leasehold(&["run", name, "--connect", connect, "--danger-plaintext", "--", "sh", "-c", STUBBORN]);
        command.env("LOG", &log).env("SIGNS", self.dir.path().join("signs"));
        self.runs.push(There { process: Process::start(&mut self.hosts.on(host, &command)), log });
        self.runs.len() - 1
    }

    fn json(&self, host: usize, args: &[&str]) -> Value {
        let mut command = leasehold(args);
        command.args(["--connect", &agent_at(host), "--danger-plaintext", "--json"]);
        let ended = Process::start(&mut self.hosts.on(host, &command)).ended();
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.err);
        serde_json::from_str(ended.out.lines().next().unwrap()).unwrap()
    }

    /// A connection to the host that is cut off neither comes about nor is refused.
    fn is_silent(&self, from: usize, to: usize) -> bool {
        let knock = format!("exec 3<> /dev/tcp/{}/{PORT}", address(to));
        let mut command = Command::new("timeout");
        command.args(["0.5", "bash", "-c", &knock]);
        let status = self.hosts.on(from, &command).stderr(Stdio::null()).status().unwrap();
        status.code() == Some(124)
    }
}

#[test]
fn a_command_is_gone_before_the_next_one_starts_when_packets_vanish() {
    let hosts = match Hosts::build() {
        Ok(hosts) => hosts,
        Err(why) => {
            // Past the test harness, which shows what a test prints only when it fails.
            let text = format!(
                "\n*** SKIPPED: a network that drops packets was NOT tested: {why}; it needs root, and ip of iproute2 ***\n"
            );
            let _ = io::stderr().write_all(text.as_bytes());
            return;
        }
    };
    let mut fixture = Fixture::start(hosts);
    let everywhere = (0..HOSTS).map(agent_at).collect::<Vec<_>>().join(",");
    // Two holders on the host that is to be cut off: one knows all agents, one its own alone, which answers to the last.
    let pairs = [("orders", everywhere), ("invoices", agent_at(0))].map(|(name, connect)| {
        let first = fixture.run(0, name, &connect);
        fixture.runs[first].wait_signs_of_all();
        let second = fixture.run(1, name, &format!("{},{}", agent_at(1), agent_at(2)));
        until("the second to queue", || (fixture.json(1, &["holder", name])["waiters"] == 1).then_some(()));
        (first, second)
    });

    fixture.hosts.cut(0).unwrap();
    assert!(fixture.is_silent(0, 1) && fixture.is_silent(1, 0), "packets vanish, and nobody is told");
    for (first, second) in pairs {
        let (first, second) = (&fixture.runs[first], &fixture.runs[second]);
        second.wait_signs_of_all();
        let began = second.signs("command")[0];
        for part in ["command", "orphan", "daemon"] {
            let last = first.signs(part).pop().unwrap();
            assert!(
                last + TICK < began,
                "{part}: the last sign at {last}, the next holder's first at {began}"
            );
        }
        assert!(second.token() > first.token());
    }
    for (first, _) in pairs {
        let count = |there: &There| ["command", "orphan", "daemon"].map(|part| there.signs(part).len());
        let counted = count(&fixture.runs[first]);
        let ended =
            std::mem::replace(&mut fixture.runs[first].process, Process::start(&mut Command::new("true")));
        let ended = ended.ended();
        assert_eq!(ended.code, 76, "{ended:?}");
        assert!(ended.err.contains("before the deadline"), "{}", ended.err);
        assert_eq!(count(&fixture.runs[first]), counted, "nothing came after it");
    }
    for (_, second) in pairs {
        assert!(fixture.runs[second].process.runs());
    }
    assert_eq!(fixture.agents.len(), HOSTS);
    let hosts = fixture.hosts.own.clone();
    drop(fixture);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains(&hosts), "namespaces are left behind");
}
