//! The command line's words.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{exit, span};

/// An embedded, Raft-replicated write lease: a cluster of agents agrees on who may write.
#[derive(Parser)]
#[command(name = "leasehold", version, after_help = exit::HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show what a lease does: three agents in this process, one cut off while it holds (about 10 s)
    Demo,
    /// Run an agent until it is told to stop (SIGTERM, SIGINT)
    #[command(after_help = exit::HELP)]
    Agent(AgentArgs),
    /// Show how the agents are
    Status(LookArgs),
    /// Show who holds a name
    Holder(HolderArgs),
    /// List the leases that are held
    Leases(LeasesArgs),
    /// Run a command while holding a lease: flock for a cluster
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Ends a command whose lease runs out; `run` starts it beside the command
    #[command(name = "__guard", hide = true)]
    Guard(GuardArgs),
}

const RUN_HELP: &str = "\
The command gets LEASEHOLD_NAME, LEASEHOLD_TOKEN (larger with every grant: let what it writes to refuse smaller ones)
and LEASEHOLD_LEASE_ID (a secret: who knows it can release the lease) in its environment.

It runs in a process group of its own. SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the
group. What the command leaves behind in it when it ends gets SIGTERM, and SIGKILL after a grace of ttl/4, at most 5 s.

When the lease can't be renewed, the group gets SIGTERM that grace before the lease's deadline and SIGKILL shortly
before it, also while `run` itself is stopped; when `run` is killed, SIGTERM at once, and SIGKILL after the grace, before
the deadline as well; when the lease is lost while in contact with the cluster, SIGKILL at once. A process that has
left the group (setsid) is not reached: for that, and for whatever a process has sent off already, let the resource
refuse old tokens.

Exit codes: the command's own, or 128 plus the number of the signal that ended it; 75 when the lease was not acquired,
76 when it was lost, 126 when the command can't be executed, 127 when there is none, 1 for other errors, 2 for a wrong
command line.";

/// How to reach the cluster.
#[derive(Args)]
pub(crate) struct ConnectArgs {
    /// Addresses of agents, separated by commas; any one that answers will do
    #[arg(
        long,
        env = "LEASEHOLD_CONNECT",
        value_delimiter = ',',
        required = true,
        value_name = "HOST:PORT,…"
    )]
    pub(crate) connect: Vec<String>,
}

#[derive(Args)]
pub(crate) struct AgentArgs {
    /// The agent's name, shown to people as the holder of its leases
    #[arg(long)]
    pub(crate) name: String,
    /// The address to listen on
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// The addresses of all agents that form the cluster, this one's among them: the same on every agent. Repeat it, or
    /// separate them by commas
    #[arg(long = "founder", value_delimiter = ',', required = true, value_name = "HOST:PORT,…")]
    pub(crate) founders: Vec<String>,
    /// The address under which the founders list this agent, if it is not the one it listens on
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Where the log and the identity are kept. Without it everything is in memory: a cluster that loses a majority of
    /// such agents at once has lost its leases
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How long a lease for which no ttl is asked outlives its holder [default: 10s, wan: 30s]
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,
    /// The cluster's timing: the same on every agent
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    pub(crate) profile: Profile,
}

/// See [`leasehold::Timing`].
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Profile {
    /// A data centre: a dead leader is replaced in about 1 s
    Default,
    /// One network segment and a fast disk: about 0.4 s
    FastLan,
    /// Round trips up to 300 ms
    Wan,
}

#[derive(Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct HolderArgs {
    /// What the lease is on
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct LeasesArgs {
    /// Only names that begin with this
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// What to hold the lease on: 1 to 512 bytes
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// How long the lease outlives this process when it dies [default: the cluster's]
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,
    /// Wait for the lease at most this long [default: without end]
    #[arg(long, value_parser = span::parse, value_name = "SPAN", conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Don't wait when another holds the lease
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The name under which others see this holder [default: host/pid]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) holder: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args)]
pub(crate) struct GuardArgs {
    /// Milliseconds between SIGTERM and the deadline
    #[arg(long)]
    pub(crate) grace_ms: u64,
    /// Milliseconds between SIGKILL and the deadline
    #[arg(long)]
    pub(crate) margin_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn founders_come_repeated_or_in_a_list() {
        let parse = |founders: &[&str]| {
            let args = [&["leasehold", "agent", "--name", "a", "--listen", "h:1"], founders].concat();
            match Cli::try_parse_from(args).unwrap().command {
                Command::Agent(args) => args.founders,
                _ => unreachable!(),
            }
        };
        assert_eq!(parse(&["--founder", "h:1,h:2"]), parse(&["--founder", "h:1", "--founder", "h:2"]));
    }
}
