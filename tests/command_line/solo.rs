//! One agent, in memory: enough for what does not ask how many there are, and quickly there.

use std::{ffi::OsStr, process::Command};

use serde_json::Value;

use crate::harness::{Ended, Process, free_addresses, leasehold, until};

/// One agent. Killed when dropped.
pub(crate) struct Solo {
    pub(crate) address: String,
    _agent: Process,
}

impl Solo {
    /// Founded and ready.
    pub(crate) fn start(ttl: &str) -> Self {
        let [address] = free_addresses();
        let args = ["agent", "--name", "solo", "--listen", &address, "--founder", &address, "--ttl", ttl];
        let agent = Process::start(&mut leasehold(&args));
        until("the agent", || agent.out().starts_with("ready ").then_some(()));
        Self { address, _agent: agent }
    }

    /// A command line that talks to it.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = leasehold(args);
        command.env("LEASEHOLD_CONNECT", &self.address);
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Process {
        Process::start(&mut self.command(args))
    }

    /// The command, from its beginning to its end.
    pub(crate) fn ended(&self, args: &[&str]) -> Ended {
        self.spawn(args).ended()
    }

    /// The only object that a command prints with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ended = Process::start(self.command(args).arg("--json")).ended();
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.err);
        serde_json::from_str(ended.out.trim()).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    /// A `run` under this holder's name, whose command has started and goes on until it is ended.
    pub(crate) fn hold(&self, name: &str, holder: &str, options: &[&str]) -> Process {
        let run = self.queue(name, holder, options);
        until("the command to start", || run.out().contains("on").then_some(()));
        run
    }

    /// The same, queued behind somebody.
    pub(crate) fn queue(&self, name: &str, holder: &str, options: &[&str]) -> Process {
        let command = ["--", "sh", "-c", "echo on $LEASEHOLD_TOKEN; sleep 600 & wait"];
        let run = self.spawn(&[&["run", name, "--as", holder], options, &command].concat());
        until("it to hold or to queue", || {
            let report = self.json(&["holder", name]);
            let is_in =
                |list: &str| report[list].as_array().unwrap().iter().any(|one| one["agent"] == holder);
            (is_in("held_by") || is_in("queue")).then_some(())
        });
        run
    }
}

/// The objects that were printed so far, one a line.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}
