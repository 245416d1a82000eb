//! Network namespaces that tests make, and that must be gone afterwards: their names begin with a prefix and the number of
//! the process that made them.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A namespace, and every process in it.
pub(crate) fn remove(name: &str) {
    for _ in 0..100 {
        let pids = said(&["netns", "pids", name]);
        if pids.trim().is_empty() {
            break;
        }
        for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    said(&["netns", "del", name]);
}

/// Whether whoever made this is gone, and left it behind: a process that was killed itself.
pub(crate) fn is_stale(prefix: &str, name: &str) -> bool {
    let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
    let owner = owner.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    owner.is_some_and(|pid| test_kill_process(pid).is_err())
}

/// What earlier tests left behind.
pub(crate) fn remove_stale(prefix: &str) {
    let list = said(&["netns", "list"]);
    let names = list.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| is_stale(prefix, name)).for_each(remove);
}

/// What `ip` says; nothing, where it can't be run.
fn said(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
