//! A command and everything that it has started, wherever that went: what must be gone before a lease ends.
//!
//! # The problem
//!
//! A process group is signalled at once and as a whole, but a process leaves it at will: a daemon does (`setsid`), and so
//! does every job of an interactive shell. And a child whose parent has ended is init's: nothing shows any more whose it
//! was.
//!
//! # The way
//!
//! On Linux the guard, which starts the command, is a *subreaper*: whoever loses its parent below it becomes its child.
//! So every descendant can be found by going from children to parents in `/proc`, for as long as the guard lives; and
//! `run` is one too, for the time after. Elsewhere there is the group alone.
//!
//! A list of processes is old when it has been read: who forks meanwhile may not be on it. So ending a family is repeated
//! until nobody is left. Who is killed can't fork any more, and what it had forked is found the next time.
//!
//! # Rejected
//!
//! - *A mark in the environment*: a process is free to start another without it.
//! - *A control group*: whose kill would be atomic, but making one needs rights that a command line doesn't have.
//! - *A process id namespace*: the same, and the command would see other process ids than everybody else.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Pid, Signal, kill_process};

use crate::group::Group;

/// Who is killed may take a moment to be gone, but forks no more: it is over when nobody is found that was not killed
/// before. Twice, since who hands itself on from child to child may be missed once.
const QUIET_PASSES: u32 = 2;

/// The group that the guard leads, and all descendants of this process. This process itself is not one of them.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    group: Group,
}

/// What `/proc` says of a process.
struct Process {
    parent: i32,
    group: i32,
    is_dead: bool,
}

impl Family {
    /// The family around this group. From now on those who lose their parent below this process are its children.
    pub(crate) fn around(group: Group) -> Self {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::debug!(%error, "not a subreaper: only the process group is reached");
        }
        Self { group }
    }

    /// Who of it lives, without this process and without zombies; `None` where the system doesn't tell.
    fn members(self) -> Option<Vec<Pid>> {
        let processes = processes()?;
        let own = rustix::process::getpid().as_raw_pid();
        let is_below = |mut pid: i32| {
            // A list that was read while processes came and went may have a circle in it.
            for _ in 0..processes.len() {
                match processes.get(&pid) {
                    Some(process) if process.parent == own => return true,
                    Some(process) => pid = process.parent,
                    None => return false,
                }
            }
            false
        };
        let of_it = processes.iter().filter(|&(&pid, process)| {
            pid != own && !process.is_dead && (process.group == self.group.id() || is_below(pid))
        });
        Some(of_it.filter_map(|(&pid, _)| Pid::from_raw(pid)).collect())
    }

    /// Whether anyone of it lives; `None` where the system doesn't tell.
    pub(crate) fn lives(self) -> Option<bool> {
        self.members().map(|members| !members.is_empty())
    }

    /// Asks all to end, also those that are stopped.
    pub(crate) fn ask_to_end(self) {
        self.group.signal(Signal::TERM);
        self.group.signal(Signal::CONT);
        for pid in self.strays() {
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Those who have left the group.
    fn strays(self) -> Vec<Pid> {
        let has_left =
            |pid: &Pid| rustix::process::getpgid(Some(*pid)).is_ok_and(|its| its != self.group.pid());
        self.members().unwrap_or_default().into_iter().filter(has_left).collect()
    }

    /// Ends all at once. The group's end comes last: the guard is its leader, and has to see to it that nobody is left.
    pub(crate) fn kill(self) {
        let mut killed = BTreeSet::new();
        let mut quiet = 0;
        while quiet < QUIET_PASSES {
            let members = self.members().unwrap_or_default();
            let mut news = 0;
            for pid in members {
                if pid != self.group.pid() && killed.insert(pid.as_raw_pid()) {
                    let _ = kill_process(pid, Signal::KILL);
                    news += 1;
                }
            }
            quiet = if news == 0 { quiet + 1 } else { 0 };
        }
        self.group.signal(Signal::KILL);
    }
}

/// Whether somebody can let this process's group go on when it is stopped: a shell with job control, in the same session
/// and another group. Where nobody can, stopping it would be for ever; a terminal's Ctrl-Z does nothing then.
pub(crate) fn is_a_job() -> bool {
    let (own, session) = (rustix::process::getpgrp(), rustix::process::getsid(None).ok());
    let processes = processes().unwrap_or_default();
    let mut parent = rustix::process::getppid();
    for _ in 0..=processes.len() {
        let Some(pid) = parent else { return false };
        if rustix::process::getpgid(Some(pid)).is_ok_and(|group| group != own) {
            return session.is_some() && rustix::process::getsid(Some(pid)).ok() == session;
        }
        parent = processes.get(&pid.as_raw_pid()).and_then(|process| Pid::from_raw(process.parent));
    }
    false
}

/// All processes; `None` where there is no `/proc` that is Linux's.
fn processes() -> Option<BTreeMap<i32, Process>> {
    let mut all = BTreeMap::new();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        if let Some(process) = read_stat(&stat) {
            all.insert(pid, process);
        }
    }
    (!all.is_empty()).then_some(all)
}

/// "pid (name) state parent group …"; the name may contain anything, also parentheses.
fn read_stat(stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    Some(Process { parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()?, is_dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest() {
        let process = read_stat("12 (a) Z 1 (b)) S 7 9 9 0").unwrap();
        assert_eq!((process.parent, process.group, process.is_dead), (7, 9, false));
        assert!(read_stat("12 (a) Z 7 9").unwrap().is_dead);
        assert!(read_stat("12 a S").is_none() && read_stat("12 (a) S x 9").is_none());
    }
}
