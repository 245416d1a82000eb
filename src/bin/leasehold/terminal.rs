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

/// For the guard, when `run` is gone: a terminal that this group has, or nobody that lives any more, goes to the first of
/// these groups that lives. A shell that was the command takes it back for the group when it is told to end, whoever has
/// been given it meanwhile.
pub(crate) fn restore(group: Group, homes: impl IntoIterator<Item = Group>) {
    let lives = |group: &Group| test_kill_process_group(group.pid()).is_ok();
    let Some(home) = homes.into_iter().find(lives) else { return };
    let Some(terminal) = Terminal::of(home) else { return };
    if terminal.foreground().is_some_and(|has| has == group || !lives(&has)) {
        terminal.set_foreground(home);
    }
}
