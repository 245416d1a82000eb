//! Process groups: what `run` and its guard signal.

use rustix::process::{Pid, Signal, kill_process_group};

/// A process group. Its id can't be taken over by strangers while its leader is not reaped.
#[derive(Clone, Copy)]
pub(crate) struct Group(Pid);

impl Group {
    /// The group that this process leads, by its process id.
    pub(crate) fn led_by(pid: u32) -> Option<Self> {
        i32::try_from(pid).ok().and_then(Pid::from_raw).map(Self)
    }

    /// This process's own group.
    pub(crate) fn own() -> Self {
        Self(rustix::process::getpgrp())
    }

    /// For [`std::process::Command`].
    pub(crate) fn id(self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Signals every process of the group. That nobody is left is no error.
    pub(crate) fn signal(self, signal: Signal) {
        let _ = kill_process_group(self.0, signal);
    }

    /// Asks all to end, also those that are stopped.
    pub(crate) fn ask_to_end(self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Whether anyone but its leader lives in it; `None` where the system doesn't tell (no `/proc`).
    pub(crate) fn has_others(self) -> Option<bool> {
        let processes = std::fs::read_dir("/proc").ok()?;
        let mut proc_is_linux = false;
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
            // "pid (name) state parent group …"; the name may contain anything, also parentheses.
            let Some((_, fields)) = stat.rsplit_once(')') else { continue };
            proc_is_linux = true;
            let mut fields = fields.split_ascii_whitespace();
            let (state, _parent, group) = (fields.next(), fields.next(), fields.next());
            let dead = matches!(state, Some("Z" | "X"));
            if pid != self.id() && !dead && group.and_then(|group| group.parse().ok()) == Some(self.id()) {
                return Some(true);
            }
        }
        proc_is_linux.then_some(false)
    }
}
