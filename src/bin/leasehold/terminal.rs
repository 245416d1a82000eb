//! The terminal: whose turn it is to read from it.
//!
//! A terminal has one process group in its foreground; who reads from it in another group is stopped (SIGTTIN). The
//! command that `run` starts is in a group of its own, so it would never get a word. It is given the terminal when it
//! first wants it, and not before: until then Ctrl-C and Ctrl-Z mean the whole job that the shell knows, as if there
//! were no `run` in between, and the other end of a pipe (`leasehold run … | less`) keeps the terminal that it reads.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    process::test_kill_process_group,
    termios::{tcgetpgrp, tcsetpgrp},
};

use crate::group::Group;

/// The terminal of this process's session.
pub(crate) struct Terminal {
    tty: File,
    /// Whose it is to be when the command doesn't have it.
    home: Group,
    is_given: bool,
}

impl Terminal {
    /// The session's terminal, for this group; `None` if it has none.
    pub(crate) fn of(home: Group) -> Option<Self> {
        // Reading is enough to ask whose it is and to say whose it shall be.
        let tty = File::open("/dev/tty").ok()?;
        Some(Self { tty, home, is_given: false })
    }

    /// Gives it to the group, if it is in this process's hands to do so; whether the group has it then.
    pub(crate) fn give_to(&mut self, group: Group) -> bool {
        match self.foreground() {
            Some(has) if has == self.home => self.is_given = self.set_foreground(group),
            // The wish is older than the gift.
            Some(has) if has == group => self.is_given = true,
            _ => return false,
        }
        self.is_given
    }

    /// Takes it back, if it was given away, whoever has it now: a shell that was given it has groups of its own.
    pub(crate) fn take_back(&mut self) {
        if self.is_given {
            self.set_foreground(self.home);
            self.is_given = false;
        }
    }

    /// The same for one that `run` had given to this group, or to nobody that lives any more.
    pub(crate) fn take_back_from(&mut self, group: Group) {
        let is_left = |has: Group| has == group || test_kill_process_group(has.pid()).is_err();
        if self.foreground().is_some_and(is_left) {
            self.set_foreground(self.home);
        }
    }

    /// Whether it was given away.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given
    }

    fn foreground(&self) -> Option<Group> {
        tcgetpgrp(&self.tty).ok().map(Group::of)
    }

    fn set_foreground(&self, group: Group) -> bool {
        // Who is not in the foreground itself is stopped for this, unless it blocks the signal.
        let tostop = SigSet::from(Signal::SIGTTOU);
        let before = tostop.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let is_set = tcsetpgrp(&self.tty, group.pid()).is_ok();
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
        is_set
    }
}
