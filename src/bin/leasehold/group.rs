//! Process groups: what `run` and its guard signal.

use rustix::process::{Pid, Signal, kill_process_group};

/// A process group. Its id can't be taken over by strangers while its leader is not reaped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group(Pid);

impl Group {
    /// The group of this id.
    pub(crate) fn of(pid: Pid) -> Self {
        Self(pid)
    }

    /// The group that this process leads, by its process id.
    pub(crate) fn led_by(pid: u32) -> Option<Self> {
        i32::try_from(pid).ok().and_then(Pid::from_raw).map(Self)
    }

    /// This process's own group.
    pub(crate) fn own() -> Self {
        Self(rustix::process::getpgrp())
    }

    pub(crate) fn pid(self) -> Pid {
        self.0
    }

    /// As a number.
    pub(crate) fn id(self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Signals every process of the group. That nobody is left is no error.
    pub(crate) fn signal(self, signal: Signal) {
        let _ = kill_process_group(self.0, signal);
    }
}
