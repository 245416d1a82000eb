//! The command line's words.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use leasehold::Quotas;

use crate::{help, span};

/// An embedded, Raft-replicated write lease: a cluster of agents agrees on who may write.
#[derive(Parser)]
#[command(name = "leasehold", version, after_help = help::ALL, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show what a lease does: three agents in this process, one cut off while it holds (about 10 s)
    #[command(after_help = help::ALL)]
    Demo,
    /// Run an agent until it is told to stop (SIGTERM, SIGINT)
    #[command(after_help = help::AGENT)]
    Agent(AgentArgs),
    /// Show how the agents are
    #[command(after_help = help::STATUS)]
    Status(LookArgs),
    /// Show who holds a name, who waits for it, and whether it is closed
    #[command(after_help = help::HOLDER)]
    Holder(HolderArgs),
    /// List the leases that are held
    #[command(after_help = help::LEASES)]
    Leases(LeasesArgs),
    /// Tell what changes, as it happens
    #[command(after_help = help::WATCH)]
    Watch(WatchArgs),
    /// Run a command while holding a lease: flock for a cluster
    #[command(after_help = help::RUN)]
    Run(RunArgs),
    /// Take a lease from whoever holds it: the next waiter has it
    #[command(after_help = help::REVOKE)]
    Revoke(RevokeArgs),
    /// Hand a lease over to one of those who wait for it
    #[command(after_help = help::TRANSFER)]
    Transfer(TransferArgs),
    /// Show the members, as the leader sees them
    #[command(after_help = help::MEMBERS)]
    Members(LookArgs),
    /// Let an observer vote
    #[command(after_help = help::PROMOTE)]
    Promote(MemberArgs),
    /// Remove a member that is out of reach
    #[command(after_help = help::REMOVE)]
    Remove(MemberArgs),
    /// Tell an agent to leave the cluster, and to stop
    #[command(after_help = help::LEAVE)]
    Leave(MemberArgs),
    /// What is done deliberately, when nothing else is left: forced recovery
    #[command(after_help = help::DANGER)]
    Danger(crate::danger::DangerArgs),
    /// Try simulated clusters under faults of all kinds, seed by seed
    #[cfg(feature = "chaos")]
    #[command(after_help = help::CHAOS)]
    Chaos(crate::chaos::ChaosArgs),
    /// Make certificates: an authority of the cluster's own, and what it signs
    #[command(after_help = help::CERTS, subcommand_required = true, arg_required_else_help = true)]
    Certs(CertsArgs),
    /// Print what a shell needs to complete this program's words
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print a man page: the program's, or a command's
    #[command(after_help = help::MAN)]
    Man(ManArgs),
}

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
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// Who is at the other end, and who this is.
#[derive(Args)]
pub(crate) struct TlsArgs {
    /// TLS: the certificates of the authorities that are trusted (`leasehold certs`)
    #[arg(long, env = "LEASEHOLD_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// TLS: the certificate by which the others know this one
    #[arg(long, env = "LEASEHOLD_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// TLS: its key
    #[arg(long, env = "LEASEHOLD_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Danger: no TLS, also where others than this machine can read what travels, and ask anything
    #[arg(long)]
    pub(crate) danger_plaintext: bool,
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
    #[arg(long = "founder", value_delimiter = ',', conflicts_with = "join", value_name = "HOST:PORT,…")]
    pub(crate) founders: Vec<String>,
    /// Addresses of members of a cluster that is there, to join it
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) join: Vec<String>,
    /// Never vote
    #[arg(long, conflicts_with = "founders")]
    pub(crate) observer: bool,
    /// How many members vote, at most; the leader's setting counts [default: 5]
    #[arg(long, value_name = "N")]
    pub(crate) voters_max: Option<usize>,
    /// After what silence a voter is replaced by an observer; the leader's setting counts [default: 30s]
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) dead_after: Option<Duration>,
    /// After what silence an observer is removed; the leader's setting counts [default: 5m]
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) forget_after: Option<Duration>,
    /// Danger: nobody becomes a voter, or stops being one, but by hand
    #[arg(long)]
    pub(crate) danger_fixed_membership: bool,
    /// What peers may take of this agent, and of the cluster while it leads: `leases=50000`, `requests_per_peer=256`; see
    /// `leasehold help agent`. Repeat it, or separate them by commas
    #[arg(long = "quota", value_parser = quota, value_delimiter = ',', value_name = "NAME=N,…")]
    pub(crate) quotas: Vec<(&'static str, usize)>,
    /// The address under which the founders list this agent, if it is not the one it listens on
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Where the log and the identity are kept. Without it everything is in memory: a cluster that loses a majority of
    /// such agents at once has lost its leases
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// The members that may connect, by their certificates' names [default: all that the authority has signed]
    #[arg(long = "allow-member", value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) allow_members: Vec<String>,
    /// The clients that may connect [default: the same]
    #[arg(long = "allow-client", value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) allow_clients: Vec<String>,
    /// The readers that may connect [default: the same]
    #[arg(long = "allow-reader", value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) allow_readers: Vec<String>,
    /// How long a lease for which no ttl is asked outlives its holder [default: 10s, wan: 30s]
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,
    /// The cluster's timing: the same on every agent
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    pub(crate) profile: Profile,
}

/// What a quota's name is, and how much.
fn quota(text: &str) -> Result<(&'static str, usize), String> {
    let (name, number) = text.split_once('=').unwrap_or((text, ""));
    let names = Quotas::names();
    let Some(name) = names.iter().copied().find(|known| *known == name) else {
        return Err(format!("there is no quota {name:?}; there are {}", names.join(", ")));
    };
    let number = number.parse().map_err(|_| format!("{name}={number} is no number; say, {name}=1000"))?;
    Ok((name, number))
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

/// A member, and how to reach the cluster.
#[derive(Args)]
pub(crate) struct MemberArgs {
    /// Its agent's name, its address or its node id
    pub(crate) member: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
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
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct WatchArgs {
    /// The name to watch [default: all names]
    pub(crate) name: Option<String>,
    /// All names that begin with this
    #[arg(long, conflicts_with = "name")]
    pub(crate) prefix: Option<String>,
    /// The changes after this log index, instead of those from now on: to go on where another watch has ended
    #[arg(long, value_name = "INDEX")]
    pub(crate) since: Option<u64>,
    /// At first what holds now
    #[arg(long, conflicts_with = "since")]
    pub(crate) present: bool,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// What revoking and handing over have in common.
#[derive(Args)]
pub(crate) struct ByHandArgs {
    /// Wait at most this long until the lease is over, and say who has the name then
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) wait: Option<Duration>,
    /// The name under which others see who did it [default: host/pid]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) by: Option<String>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    /// What the lease is on
    pub(crate) name: String,
    /// What the holder and the watchers are told: up to 512 bytes
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) by_hand: ByHandArgs,
}

#[derive(Args)]
pub(crate) struct TransferArgs {
    /// What the lease is on
    pub(crate) name: String,
    /// The agent that is to have it: it has to wait for the name
    #[arg(long, value_name = "AGENT")]
    pub(crate) to: String,
    /// What the holder and the watchers are told: up to 512 bytes
    #[arg(long, value_name = "TEXT", default_value = "handed over by hand")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) by_hand: ByHandArgs,
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
    /// Wait for the lease at most this long; 0 is --no-wait [default: without end]
    #[arg(long, value_parser = span::parse, value_name = "SPAN", conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Don't wait when another holds the lease
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Hold it beside other shared leases, and beside no other ones
    #[arg(long, conflicts_with = "permits")]
    pub(crate) shared: bool,
    /// Hold one of so many permits, beside others that name the same number
    #[arg(long, value_name = "N")]
    pub(crate) permits: Option<u32>,
    /// How long the name stays closed to others after this holder died
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) lock_delay: Option<Duration>,
    /// What others see beside this holder's name: up to 4 KiB
    #[arg(long, value_name = "TEXT")]
    pub(crate) metadata: Option<String>,
    /// How long the command has between SIGTERM and SIGKILL [default: 3/16 of the ttl, at most 4.5s]. It is cut to what
    /// fits before the deadline: 7/16 of the ttl, if that is short
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub(crate) grace: Option<Duration>,
    /// The name under which others see this holder [default: host/pid]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) holder: Option<String>,
    /// Tell what happens as JSON on standard error, one object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    pub(crate) command: CertsCommand,
}

#[derive(Subcommand)]
pub(crate) enum CertsCommand {
    /// Make an authority: ca.crt for everybody, ca.key for nobody else
    #[command(after_help = help::CERTS_INIT)]
    Init(InitArgs),
    /// Issue certificates: NAME.crt and NAME.key for each name
    #[command(after_help = help::CERTS_ISSUE)]
    Issue(IssueArgs),
    /// Show whose certificates are, and until when they hold
    #[command(after_help = help::CERTS_SHOW)]
    Show(ShowArgs),
}

#[derive(Args)]
pub(crate) struct InitArgs {
    /// Where the files go; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// How long the authority holds
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) days: u16,
}

#[derive(Args)]
pub(crate) struct IssueArgs {
    /// The names of agents or clients, as they call themselves
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Where the authority is, and where the files go
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What they may do
    #[arg(long, value_enum, default_value_t = CertRole::Member)]
    pub(crate) role: CertRole,
    /// How long they hold
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) days: u16,
    /// Put them in the place of what is there
    #[arg(long)]
    pub(crate) replace: bool,
}

/// See [`leasehold::Role`].
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CertRole {
    /// An agent: everything
    Member,
    /// A process without a node: leases, and reading
    Client,
    /// Reading alone
    Reader,
}

impl From<CertRole> for leasehold::Role {
    fn from(role: CertRole) -> Self {
        match role {
            CertRole::Member => Self::Member,
            CertRole::Client => Self::Client,
            CertRole::Reader => Self::Reader,
        }
    }
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// A file, or a directory for all in it that end in .crt
    pub(crate) path: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    pub(crate) shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// The command whose page it is
    pub(crate) command: Option<String>,
}

/// What `run` starts beside its command; for nobody else, so neither help nor completions know of it.
#[derive(Parser)]
#[command(name = "leasehold __guard")]
pub(crate) struct GuardArgs {
    /// Milliseconds between SIGTERM and SIGKILL
    #[arg(long)]
    pub(crate) grace_ms: u64,
    /// Milliseconds between SIGKILL and the deadline
    #[arg(long)]
    pub(crate) margin_ms: u64,
    /// The process groups of `run` and of what started it: the first that lives gets the terminal when `run` is gone
    #[arg(long, value_delimiter = ',')]
    pub(crate) terminal_of: Vec<i32>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        GuardArgs::command().debug_assert();
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
