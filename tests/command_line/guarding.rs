//! The command and all that it has started end, whoever is killed or stopped, and wherever a descendant has gone.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    harness::{Cluster, Process, lives, until},
    solo::Solo,
};

/// A command with a child that has lost its parent, and one that has left the group and the session, too. None of them
/// minds SIGTERM. Each writes down its process id.
const STUBBORN: &str = "
trap '' TERM
echo $$ > $DIR/command
(sh -c 'echo $$ > $DIR/orphan; exec sleep 600' &) &
(setsid sh -c 'sh -c \"echo \\$\\$ > $DIR/daemon; exec sleep 600\" &' &) &
while ! test -s $DIR/orphan -a -s $DIR/daemon; do sleep 0.01; done
echo all
";

/// The process ids that it writes down.
struct Pids(TempDir);

impl Pids {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// Of the command, the orphan and the daemon, once all have started.
    #[track_caller]
    fn of(&self, run: &Process) -> [i32; 3] {
        until("all to have started", || run.out().contains("all").then_some(()));
        let pids = ["command", "orphan", "daemon"];
        let pids = pids.map(|who| fs::read_to_string(self.path().join(who)).unwrap().trim().parse().unwrap());
        assert!(pids.iter().all(|&pid| lives(pid)), "{pids:?}");
        pids
    }
}

/// A test that fails leaves none of them behind.
impl Drop for Pids {
    fn drop(&mut self) {
        let own = format!("DIR={}\0", self.path().display());
        for file in fs::read_dir(self.path()).unwrap() {
            let Ok(pid) = fs::read_to_string(file.unwrap().path()).unwrap().trim().parse() else { continue };
            if fs::read_to_string(format!("/proc/{pid}/environ")).is_ok_and(|all| all.contains(&own)) {
                kill(pid, Signal::KILL);
            }
        }
    }
}

fn stat(pid: i32, field: usize) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(field).unwrap().parse().unwrap()
}

fn parent(pid: i32) -> i32 {
    stat(pid, 1)
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn nobody_lives(pids: &[i32]) -> Option<()> {
    (!pids.iter().any(|&pid| lives(pid))).then_some(())
}

/// A command that goes on when all have started, and the pids.
fn stubborn(solo: &Solo, options: &[&str], then: &str) -> (Process, Pids) {
    let pids = Pids::new();
    let script = format!("{STUBBORN}{then}");
    let args = [&["run", "x"], options, &["--", "sh", "-c", &script]].concat();
    (Process::start(solo.command(&args).env("DIR", pids.path())), pids)
}

const GO_ON: &str = "while :; do sleep 0.05; done";

#[test]
fn nothing_is_left_behind() {
    let solo = Solo::start("4s");
    let (run, pids) = stubborn(&solo, &["--grace", "300ms"], "sleep 0.5; exit 7");
    let [command, orphan, daemon] = pids.of(&run);
    let (group, session) = (stat(command, 2), stat(command, 3));
    assert_eq!((stat(orphan, 2), stat(orphan, 3)), (group, session));
    assert!(stat(daemon, 2) != group && stat(daemon, 3) != session, "it has left them");
    until("the command's end", || nobody_lives(&[command]));
    let ended = Instant::now();
    // They have the grace, and the lease is held meanwhile.
    until("the others' end", || nobody_lives(&[orphan, daemon]));
    assert!(ended.elapsed() > Duration::from_millis(200), "{:?}", ended.elapsed());
    assert_eq!(run.ended().code, 7);
}

#[test]
fn run_is_killed() {
    let solo = Solo::start("4s");
    let (run, pids) = stubborn(&solo, &["--grace", "300ms"], GO_ON);
    let all = pids.of(&run);
    let guard = parent(all[0]);
    run.kill();
    until("all to end", || nobody_lives(&all));
    until("the guard to end", || nobody_lives(&[guard]));
}

#[test]
fn run_is_stopped() {
    let solo = Solo::start("2s");
    let (run, pids) = stubborn(&solo, &[], GO_ON);
    let all = pids.of(&run);
    let stopped = Instant::now();
    run.signal(Signal::STOP);
    until("all to end", || nobody_lives(&all));
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    run.signal(Signal::CONT);
    assert_eq!(run.ended().code, 76);
}

#[test]
fn the_guard_is_killed() {
    let solo = Solo::start("20s");
    let (run, pids) = stubborn(&solo, &[], GO_ON);
    let all = pids.of(&run);
    kill(parent(all[0]), Signal::KILL);
    let ended = run.ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("the guard beside the command was killed"), "{}", ended.err);
    assert_eq!(nobody_lives(&all), Some(()));
    assert_eq!(solo.json(&["holder", "x"])["held"], false, "the lease is given back");
}

/// Out of contact, with a guard that can do nothing.
#[test]
fn the_guard_is_stopped() {
    let cluster = Cluster::start("2s");
    let pids = Pids::new();
    let script = format!("{STUBBORN}{GO_ON}");
    let mut command = cluster.command(&["run", "x", "--", "sh", "-c", &script]);
    let run = Process::start(command.env("DIR", pids.path()));
    let all = pids.of(&run);
    kill(parent(all[0]), Signal::STOP);
    (0..3).for_each(|at| cluster.signal(at, Signal::STOP));
    let silent = Instant::now();
    until("all to end", || nobody_lives(&all));
    assert!(silent.elapsed() < Duration::from_secs(2), "{:?}", silent.elapsed());
    (0..3).for_each(|at| cluster.signal(at, Signal::CONT));
    assert_eq!(run.ended().code, 76);
}

/// Whatever is asked, SIGKILL comes before the deadline, and what is asked is what comes if it fits.
#[test]
fn the_grace_is_what_was_asked_for_if_it_fits() {
    let cluster = Cluster::start("2s");
    let script = "trap 'read now rest < /proc/uptime; echo asked $now' TERM; echo up; \
                  while :; do read now rest < /proc/uptime; echo $now; sleep 0.02; done";
    let start = |grace: &str, name: &str| {
        let run =
            Process::start(&mut cluster.command(&["run", name, "--grace", grace, "--", "sh", "-c", script]));
        until("the command to start", || run.out().contains("up").then_some(()));
        run
    };
    let runs = [("1h", 0.7, 1.0, true), ("400ms", 0.3, 0.6, false), ("0s", -0.1, 0.15, false)]
        .map(|(grace, least, most, is_cut)| (start(grace, grace), grace, least, most, is_cut));
    (0..3).for_each(|at| cluster.signal(at, Signal::STOP));
    let silent = Instant::now();
    until("the commands to end", || {
        runs.iter().all(|(run, ..)| run.err().contains("before the deadline")).then_some(())
    });
    let pids: Vec<i32> = runs.iter().map(|(run, ..)| run.pid()).collect();
    until("their last words", || {
        let signs: Vec<_> = runs.iter().map(|(run, ..)| run.out().lines().count()).collect();
        let (later, began) = (Duration::from_millis(300), Instant::now());
        until("a while", || (began.elapsed() > later).then_some(()));
        let now: Vec<_> = runs.iter().map(|(run, ..)| run.out().lines().count()).collect();
        (signs == now).then_some(())
    });
    assert!(silent.elapsed() < Duration::from_secs(3), "{pids:?}");
    (0..3).for_each(|at| cluster.signal(at, Signal::CONT));
    for (run, grace, least, most, is_cut) in runs {
        let ended = run.ended();
        assert_eq!(ended.code, 76, "{ended:?}");
        let times: Vec<f64> = ended.out.lines().filter_map(|line| line.parse().ok()).collect();
        let asked = ended.out.lines().find_map(|line| line.strip_prefix("asked "));
        let last = times.last().unwrap();
        // SIGKILL may be there before the shell has written that it was asked.
        let took = asked.map_or(0.0, |asked| last - asked.parse::<f64>().unwrap());
        assert!(took > least && took < most, "--grace {grace}: {took} s between SIGTERM and SIGKILL");
        assert_eq!(ended.err.contains("it is cut to"), is_cut, "{}", ended.err);
    }
}
