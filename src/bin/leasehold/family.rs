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
//! So every descendant can be found by `/proc`, for as long as the guard lives; and `run` is one too, for the time after.
//! Elsewhere there is the group alone.
//!
//! A list of processes is old when it has been read: who forks meanwhile may not be on it. So ending a family is repeated
//! until nobody is left. Who is killed can't fork any more, and what it had forked is found the next time.
//!
//! # The time that it takes
//!
//! SIGKILL comes shortly before the deadline, so it must not wait for a long list. The group goes first, by one call.
//! The guard leads that group, and would go with it: it joins another one before. Then those who were known to have left
//! the group, then those who are found. Where the kernel tells whose children are whose, finding them costs as much as
//! there are of them; where it doesn't (`CONFIG_PROC_CHILDREN`), all processes of the machine are looked at. What a look
//! has taken is known ([`Family::look_took`]), and the guard begins so much earlier.
//!
//! # Who is none of it
//!
//! A shell that replaces itself by `run` (`exec leasehold run …`) leaves it its children: they were there before, and are
//! none of the command's, nor is what they start. One thing can't be told apart: when the guard was killed, what lost its
//! parent below such a child is a child of `run`, as is what the command had started. It ends with the family, since to
//! leave somebody out could make two write at once.
//!
//! # Rejected
//!
//! - *A mark in the environment*: a process is free to start another without it.
//! - *A control group*: whose kill would be atomic, but making one needs rights that a command line doesn't have.
//! - *A process id namespace*: the same, and the command would see other process ids than everybody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    time::Duration,
};

use leasehold::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process, setpgid};

use crate::group::Group;

/// Who is killed may take a moment to be gone, but forks no more: it is over when nobody is found that was not killed
/// before. Twice, since who hands itself on from child to child may be missed once.
const QUIET_PASSES: u32 = 2;
/// More than what is read of `/proc/<pid>/stat` is long: a name, and numbers.
const STAT_MAX: usize = 1024;

/// A process, and not another one that has its number later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pid: i32,
    /// When it began, as the system counts.
    began: u64,
}

impl Id {
    fn lives(self) -> bool {
        let now = Proc::default().read(self.pid);
        now.is_some_and(|process| process.began == self.began && !process.is_dead)
    }

    fn signal(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.lives()) {
            let _ = kill_process(pid, signal);
        }
    }

    fn has_left(self, group: Group) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| getpgid(Some(pid)).is_ok_and(|its| its != group.pid()))
    }
}

/// What `/proc` says of a process.
struct Process {
    parent: i32,
    group: i32,
    is_dead: bool,
    began: u64,
}

impl Process {
    /// "pid (name) state parent group …"; the name may contain anything, also parentheses and what is no UTF-8.
    fn of_stat(stat: &[u8]) -> Option<Self> {
        let behind_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
        // The last field may be cut off.
        let fields = std::str::from_utf8(stat.get(behind_name..)?).ok()?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |at: usize| fields.get(at).copied();
        // A process whose first thread has ended is shown as a zombie, also while its other threads go on.
        let threads: u32 = field(17)?.parse().ok()?;
        Some(Self {
            parent: field(1)?.parse().ok()?,
            group: field(2)?.parse().ok()?,
            is_dead: matches!(field(0)?, "Z" | "X") && threads <= 1,
            began: field(19)?.parse().ok()?,
        })
    }
}

/// What the system tells of processes.
struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self("/proc".into())
    }
}

impl Proc {
    fn read(&self, pid: i32) -> Option<Process> {
        let mut stat = [0; STAT_MAX];
        let count = File::open(self.0.join(format!("{pid}/stat"))).ok()?.read(&mut stat).ok()?;
        Process::of_stat(stat.get(..count)?)
    }

    /// The children of all threads of a process; `None` where the kernel doesn't tell.
    fn children_of(&self, pid: i32) -> Option<Vec<i32>> {
        if !self.0.join("thread-self/children").exists() {
            return None;
        }
        let mut children = Vec::new();
        for thread in fs::read_dir(self.0.join(format!("{pid}/task"))).into_iter().flatten().flatten() {
            // A thread that has ended meanwhile has left its children to another one: the next look finds them.
            let pids = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.extend(pids.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        Some(children)
    }

    /// All processes; `None` where there is no `/proc` that is Linux's.
    fn all(&self) -> Option<BTreeMap<i32, Process>> {
        let mut all = BTreeMap::new();
        for process in fs::read_dir(&self.0).ok()?.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(process) = self.read(pid) {
                all.insert(pid, process);
            }
        }
        (!all.is_empty()).then_some(all)
    }

    /// All below this process that live, but for strangers and what is below them: from parents to children.
    fn find_below(&self, own: i32, strangers: &BTreeSet<Id>) -> Option<Vec<Id>> {
        let mut found = BTreeMap::new();
        let mut left = self.children_of(own)?;
        while let Some(pid) = left.pop() {
            let Some(process) = self.read(pid) else { continue };
            let id = Id { pid, began: process.began };
            // A list that was read while processes came and went may have a circle in it.
            if !strangers.contains(&id) && found.insert(id, process.is_dead).is_none() {
                left.extend(self.children_of(pid).unwrap_or_default());
            }
        }
        Some(found.into_iter().filter(|(_, is_dead)| !is_dead).map(|(id, _)| id).collect())
    }

    /// The same, and all of this group: from children to parents.
    fn find_among_all(&self, own: i32, group: i32, strangers: &BTreeSet<Id>) -> Option<Vec<Id>> {
        let processes = self.all()?;
        let is_below = |mut pid: i32| {
            // As above.
            for _ in 0..processes.len() {
                match processes.get(&pid) {
                    Some(process) if process.parent == own => {
                        return !strangers.contains(&Id { pid, began: process.began });
                    }
                    Some(process) => pid = process.parent,
                    None => return false,
                }
            }
            false
        };
        let of_it = processes.iter().filter(|&(&pid, process)| {
            pid != own && !process.is_dead && (process.group == group || is_below(pid))
        });
        Some(of_it.map(|(&pid, process)| Id { pid, began: process.began }).collect())
    }
}

/// The children that this process has now.
pub(crate) fn children() -> BTreeSet<Id> {
    let proc = Proc::default();
    let own = rustix::process::getpid().as_raw_pid();
    let of_own =
        |pid: i32, process: &Process| (process.parent == own).then_some(Id { pid, began: process.began });
    if let Some(pids) = proc.children_of(own) {
        return pids.into_iter().filter_map(|pid| of_own(pid, &proc.read(pid)?)).collect();
    }
    let all = proc.all().unwrap_or_default();
    all.iter().filter_map(|(&pid, process)| of_own(pid, process)).collect()
}

/// The group that the guard leads, and all descendants of this process. This process itself is not one of them.
pub(crate) struct Family {
    group: Group,
    /// Children of this process that are none of it, with all that is below them.
    strangers: BTreeSet<Id>,
    /// Who lived when it was last looked.
    known: Vec<Id>,
    look_took: Duration,
}

impl Family {
    /// The family around this group.
    pub(crate) fn around(group: Group, strangers: BTreeSet<Id>) -> Self {
        Self { group, strangers, known: Vec::new(), look_took: Duration::ZERO }
    }

    /// Looks who of it lives, without this process and without zombies; whether anyone does, `None` where the system
    /// doesn't tell.
    fn look(&mut self) -> Option<bool> {
        let began = SystemClock.now();
        let (proc, own) = (Proc::default(), rustix::process::getpid().as_raw_pid());
        let found = proc
            .find_below(own, &self.strangers)
            .or_else(|| proc.find_among_all(own, self.group.id(), &self.strangers));
        self.look_took = SystemClock.now().since(began);
        self.known = found?;
        Some(!self.known.is_empty())
    }

    /// Whether anyone of it lives; `None` where the system doesn't tell.
    pub(crate) fn lives(&mut self) -> Option<bool> {
        // Mostly this is asked again and again until somebody is gone who is known: no need to look for others.
        if self.known.iter().any(|id| id.lives()) { Some(true) } else { self.look() }
    }

    /// The process ids of those who lived when it was last looked.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.known.iter().map(|id| id.pid).collect()
    }

    /// How long the last look at who lives has taken.
    pub(crate) fn look_took(&self) -> Duration {
        self.look_took
    }

    /// Asks all to end, also those that are stopped.
    pub(crate) fn ask_to_end(&mut self) {
        self.group.signal(Signal::TERM);
        self.group.signal(Signal::CONT);
        self.look();
        for id in self.known.iter().filter(|id| id.has_left(self.group)) {
            id.signal(Signal::TERM);
            id.signal(Signal::CONT);
        }
    }

    /// Ends all at once, but for this process. If it is one of the group, it joins one of the others for that; if none
    /// lets it in, the group's processes are ended one by one.
    pub(crate) fn kill(&mut self, others: &[Group]) {
        let join = |other: &Group| setpgid(None, Some(other.pid())).is_ok();
        if getpgrp() != self.group.pid() || others.iter().any(join) {
            self.group.signal(Signal::KILL);
        }
        self.known.iter().for_each(|id| id.signal(Signal::KILL));
        self.kill_one_by_one();
    }

    /// Ends all that are found, until nobody is that was not found before; whether anybody was found.
    pub(crate) fn kill_one_by_one(&mut self) -> bool {
        let mut killed = BTreeSet::new();
        let mut quiet = 0;
        while quiet < QUIET_PASSES {
            self.look();
            let mut news = 0;
            for id in &self.known {
                if killed.insert(*id) {
                    id.signal(Signal::KILL);
                    news += 1;
                }
            }
            quiet = if news == 0 { quiet + 1 } else { 0 };
        }
        !killed.is_empty()
    }
}

/// From now on those who lose their parent below this process are its children.
pub(crate) fn adopt() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::debug!(%error, "not a subreaper: only the process group is reached");
    }
}

/// Whether somebody can let this process's group go on when it is stopped: a shell with job control, in the same session
/// and another group. Where nobody can, stopping it would be for ever; a terminal's Ctrl-Z does nothing then.
pub(crate) fn is_a_job() -> bool {
    let (own, session) = (rustix::process::getpgrp(), rustix::process::getsid(None).ok());
    let processes = Proc::default().all().unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "7 9 9 0 -1 0 0 0 0 0 0 0 0 0 20 0";

    #[test]
    fn a_name_may_look_like_the_rest() {
        let read = |stat: &str| Process::of_stat(stat.as_bytes());
        let process = read(&format!("12 (a) Z 1 (b)) S {REST} 1 0 77 8")).unwrap();
        assert_eq!((process.parent, process.group, process.is_dead, process.began), (7, 9, false, 77));
        let mut stat = format!("12 (a) S {REST} 1 0 77 8").into_bytes();
        stat[4] = 0xff;
        assert_eq!(Process::of_stat(&stat).map(|process| process.parent), Some(7), "no UTF-8");
        assert!(read("12 a S").is_none() && read("12 (a) S x 9").is_none());
    }

    /// pid, parent, group, state, threads, and of each thread the children.
    type Told<'a> = (i32, i32, i32, char, u32, &'a [(i32, &'a str)]);

    fn told(all: &[Told<'_>], tells_children: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: String, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for &(pid, parent, group, state, threads, children) in all {
            let stat = format!(
                "{pid} (a) {state} {parent} {group} 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {} 8",
                pid * 10
            );
            write(format!("{pid}/stat"), &stat);
            for (thread, pids) in children {
                let name = if tells_children { "children" } else { "comm" };
                write(format!("{pid}/task/{thread}/{name}"), pids);
            }
        }
        if tells_children {
            write("thread-self/children".to_owned(), "");
        }
        dir
    }

    #[test]
    fn a_family_is_found_whether_the_kernel_tells_of_children_or_not() {
        let all: &[Told<'_>] = &[
            (1, 0, 1, 'S', 1, &[(1, "5 90")]),
            (5, 1, 5, 'S', 2, &[(5, "10 "), (6, "20 30 ")]),
            (10, 5, 10, 'S', 1, &[(10, "11 12 ")]),
            (11, 10, 10, 'S', 1, &[(11, "")]),
            (12, 10, 10, 'Z', 1, &[(12, "")]),
            // Its first thread has ended; another one goes on, and has a child.
            (20, 5, 20, 'Z', 2, &[(20, ""), (21, "22 ")]),
            (22, 20, 22, 'S', 1, &[(22, "")]),
            // A stranger, and what is below it.
            (30, 5, 5, 'S', 1, &[(30, "31 ")]),
            (31, 30, 5, 'S', 1, &[(31, "")]),
            (90, 1, 90, 'S', 1, &[(90, "")]),
        ];
        let strangers = BTreeSet::from([Id { pid: 30, began: 300 }]);
        let pids = |ids: Vec<Id>| ids.into_iter().map(|id| id.pid).collect::<Vec<_>>();
        for tells_children in [true, false] {
            let dir = told(all, tells_children);
            let proc = Proc(dir.path().to_owned());
            assert_eq!(
                proc.find_below(5, &strangers).map(pids),
                tells_children.then(|| vec![10, 11, 20, 22])
            );
            assert_eq!(proc.find_among_all(5, 10, &strangers).map(pids), Some(vec![10, 11, 20, 22]));
        }
        // The number is another process's now.
        let strangers = BTreeSet::from([Id { pid: 30, began: 1 }]);
        let proc_dir = told(all, true);
        let found = Proc(proc_dir.path().to_owned()).find_below(5, &strangers);
        assert_eq!(found.map(pids), Some(vec![10, 11, 20, 22, 30, 31]));
    }

    /// Of a process whose first thread has ended, only the number of threads tells that others go on.
    #[test]
    fn who_has_threads_is_not_dead() {
        let is_dead = |state: char, threads: u32| {
            let stat = format!("12 (a) {state} {REST} {threads} 0 77 8");
            Process::of_stat(stat.as_bytes()).unwrap().is_dead
        };
        assert!(is_dead('Z', 1) && is_dead('X', 0) && !is_dead('Z', 2) && !is_dead('S', 1));
    }
}
