//! What `--help` and the man pages say beyond the single flags. Each text ends with an example, and
//! `tests/command_line/manual.rs` runs them all.

/// The program's.
pub(crate) const ALL: &str = "\
Exit codes:
  0    done
  1    an error, also that standard output can't be written; standard error says which, and what to do
  2    the command line is wrong, or the file given by --config
  74   agent: it stepped down, because its storage failed
  75   run: the lease was not acquired (held by another, or not in time)
  76   run: the lease was lost, and the command was ended (or could not be; standard error says so)
  126  run: the command can't be executed
  127  run: there is no such command
  Otherwise `run` ends with its command's own code, or 128 plus the number of the signal that ended it.

A file given by --config is TOML. Its keys are the long flags without their dashes: at the top for every command that has
such a flag, in a table of a command's name (as [run]) for that command alone. The command line wins over the
environment, and the environment over the file. A variable that is set to nothing is as good as not set.

Example:
  leasehold demo";

/// `agent`'s.
pub(crate) const AGENT: &str = "\
It prints one line, `ready …`, on standard output once it serves, and logs to standard error (RUST_LOG says what).

Where others than this machine can reach it, it needs certificates (--tls-…; `leasehold certs` makes them), as do all who
ask it. It reads them again while it runs, and warns when its own ends within 30 days.

It forms a cluster with the other founders, or joins one (--join): then it observes, and votes when there is room. What is
dead is replaced by itself; an agent that has lost its data directory, or keeps none, comes back as a new member.

Quotas (--quota NAME=N) and their defaults, sizes in bytes. Those of connections, requests and answers are each agent's
own; of the last four the leader's count, so give all agents the same:
  connections 1024, connections_per_peer 128, handshakes 256, handshakes_per_host 128, requests 8192,
  requests_per_peer 1024, request_bytes 262144, answer_bytes 268435456, answer_bytes_per_peer 33554432,
  leases 1000000, leases_per_agent 250000, waiters_per_name 100000, metadata_bytes 4096

Exit codes: 0 when it was told to stop or to leave, 74 when its storage failed and it stepped down, 1 for other errors, 2
for wrong settings.

Example:
  leasehold agent --name a --listen 127.0.0.1:7101 --founder 127.0.0.1:7101 --data-dir a";

/// `status`'s.
pub(crate) const STATUS: &str = "\
With --json, for each agent: address, reachable; if so agent, node, cluster, version, role, term, leader, applied, leases,
waiters, durable, stopped (why, or null), ttl_ms, certificate_expires (null without TLS); if not, detail. Tokens and node
ids are strings, since many readers of JSON keep only 53 bits of a number.

Example:
  leasehold status --connect 127.0.0.1:7101";

/// `holder`'s.
pub(crate) const HOLDER: &str = "\
With --json: name, held, holders and waiters (how many), held_by (agent, node, token, since, ttl_ms, mode, permits,
revoked, metadata of each), queue (position, agent, node, mode, permits, ttl_ms of each; position 1 is the next), closed
(null, or agent, token, delay_ms of the lease whose expiry closed the name). If it is held, the fields of the oldest
holder stand at the top as well.

Example:
  leasehold holder orders --connect 127.0.0.1:7101";

/// `leases`'.
pub(crate) const LEASES: &str = "\
With --json, for each lease: name, held (true), agent, node, token, since, ttl_ms, mode (exclusive, shared, permits),
permits (how many there are in all, or null), holders and waiters (of the name, how many), revoked, metadata.

Example:
  leasehold leases orders/ --connect 127.0.0.1:7101";

/// `watch`'s.
pub(crate) const WATCH: &str = "\
One line for each change, as it happens: the time at which it was heard of, the log index, the name, what happened, to
whom, and the token. It goes on at another agent when the one that it talks to is lost, without a gap. That no agent
answers (looked at every 5 s) and that one answers again is told on standard error. It ends with exit code 0 on SIGINT, on
SIGTERM, and when nobody reads its output any more.

With --json, for each change: time, index, event (granted, ended, revoked, queued, left, closed, opened, present), name;
agent and token, but for opened; and for granted ttl_ms and metadata, for ended how (released, given_up, expired,
transferred, revoked) with by and reason, for revoked by, reason and heir (or null), for closed delay_ms. For present,
instead of a name: held (as `leases` has them), complete, lagged (true: changes before this index are missing).

Example:
  leasehold watch --prefix orders/ --connect 127.0.0.1:7101 --json";

/// `revoke`'s.
pub(crate) const REVOKE: &str = "\
A revoked lease can't be renewed any more. Its holder is told, stops, and gives it back; one that can't be reached stops
at its deadline, a ttl after its last renewal at most. Exit code 1 if nobody holds the name.

With --json: name, revoked (agent, node, token and the rest of each lease, as `leases` has it), and with --wait next (the
same of who holds the name then, or null if the wait was in vain: exit code 1).

Example:
  leasehold revoke orders --reason 'the host is being replaced' --connect 127.0.0.1:7101";

/// `transfer`'s.
pub(crate) const TRANSFER: &str = "\
The lease is revoked in favour of a waiter, who has it next, wherever it stands in the queue. Exit code 1 if nobody holds
the name, if several do, or if that agent doesn't wait for it.

With --json: as `revoke`.

Example:
  leasehold transfer orders --to standby --wait 30s --connect 127.0.0.1:7101";

/// `run`'s.
pub(crate) const RUN: &str = "\
The command gets LEASEHOLD_NAME, LEASEHOLD_TOKEN (larger with every grant: let what it writes to refuse smaller ones)
and LEASEHOLD_LEASE_ID (a secret: who knows it can release the lease) in its environment.

It runs in a process group of its own. SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH and SIGCONT are passed
on to the group. At a terminal, the group is given the terminal as soon as it wants to read from it. SIGTSTP (Ctrl-Z)
stops the command, and then `run`: a stopped `run` renews nothing, so let it go on within the ttl.

What the command leaves behind when it ends gets SIGTERM, and SIGKILL after the grace (--grace). When the lease can't be
renewed, all that the command has started gets SIGTERM and, after the grace, SIGKILL, both before the lease's deadline,
also while `run` itself is stopped. The same when the lease is revoked, or `run` is killed. When the cluster says that
the lease is over already: SIGKILL at once. On Linux that reaches every descendant; elsewhere not those that have left
the process group (setsid). If something can't be killed (it is another user's, or stands still inside the system), the
lease is not given back but runs out by its ttl. For what a process has sent off already, let the resource refuse old
tokens.

With --json, standard error has one object a line: event, name, and for queued position and waiters; for acquired agent,
token and ttl_ms; for lost reason; for released nothing else; for not_acquired and failed detail. What the command itself
writes there comes in between.

Exit codes: the command's own, or 128 plus the number of the signal that ended it; 75 when the lease was not acquired,
76 when it was lost (also before the command could be started) or something of the command could not be ended, 126 when
the command can't be executed, 127 when there is none, 1 for other errors, 2 for a wrong command line.

Example:
  leasehold run orders --wait 30s --connect 127.0.0.1:7101 -- sh -c 'echo token $LEASEHOLD_TOKEN'";

/// `members`'.
pub(crate) const MEMBERS: &str = "\
HEARD is how long ago the leader sent what the member has answered, LOG the index up to which its log is the leader's, and
BEHIND how many entries the leader has beyond that.

With --json, for each member: agent, node, address, role (leader, follower, observer), may_vote, heard_ms_ago (or null),
log_index, behind.

Example:
  leasehold members --connect 127.0.0.1:7101";

/// `promote`'s.
pub(crate) const PROMOTE: &str = "\
The leader does so by itself, two at a time, while fewer vote than --voters-max says; this is for one at once. Exit code 1
if it can't vote yet, or as many vote as may.

Example:
  leasehold promote agent-4 --connect 127.0.0.1:7101";

/// `remove`'s.
pub(crate) const REMOVE: &str = "\
The leader does so by itself after a while (--dead-after, --forget-after); this is for at once. A member in reach is told to
leave instead. One that comes back is a member again. Exit code 1 if it is in reach, or if the others would have no
majority.

Example:
  leasehold remove agent-4 --connect 127.0.0.1:7101";

/// `leave`'s.
pub(crate) const LEAVE: &str = "\
The agent gives its leases back, hands leadership over, ends being a member, and stops with exit code 0. Exit code 1 if it
could not leave within 10 s, because its vote is needed: then it goes on.

Example:
  leasehold leave agent-4 --connect 127.0.0.1:7101";

/// `danger`'s.
pub(crate) const DANGER: &str = "\
`danger recover` is for a cluster whose majority is gone for good, disks and all; `danger survey` shows what it would go on
from. Both work on the data directory of an agent that is stopped.

Example:
  leasehold danger survey --data-dir a";

/// `danger survey`'s.
pub(crate) const SURVEY: &str = "\
Nothing is changed. Of several directories that are left, recover the one with the largest last_term, and of those the one
with the largest last_index.

With --json: cluster, generation, agent, node, term, last_term, last_index, committed_index, last_token, leases, waiters,
longest_ttl_ms, members (agent, node, address, voter).

Example:
  leasehold danger survey --data-dir a";

/// `danger recover`'s.
pub(crate) const RECOVER: &str = "\
First it shows what the directory has. Then it asks for the cluster's id, or wants --yes and --cluster.

The directory becomes a cluster of this agent alone, of the next generation: with the leases and the queue that it knows
of, and tokens above all earlier ones. The others join it with empty directories. A directory of the old generation is
refused by name. What the lost majority had answered, and this directory doesn't know of, is forgotten. If that majority
comes back after all, it goes on by itself: two clusters, two holders of a name. So be sure, and let what you protect
refuse old tokens.

Somebody may hold a lease that this directory doesn't know of, and believes until its ttl is over. So either say that
nobody does (--holders-gone: all processes that held leases are stopped, or their longest ttl is over since the majority
was lost), or let it wait (--wait-out).

A crash leaves what was there or what was to be there. What was there is kept in the directory.

With --json: recovered, cluster, generation, tokens_above, address, kept.

Exit codes: 0 when it is recovered, 1 when it can't be, 2 when something was not said; then nothing was done.

Example:
  leasehold danger recover --data-dir a --wait-out 10s --yes --cluster 00007c2ad4a86d4f1c9b2f0e6a5d3b18";

/// `certs`'.
pub(crate) const CERTS: &str = "\
Two commands make what agents and clients need: `certs init`, once, on a machine that is none of theirs; then `certs issue`
with the names of all agents, and with --role for those who only ask. Each gets ca.crt and the two files of its name, by
--tls-ca, --tls-cert and --tls-key (or LEASEHOLD_TLS_CA, LEASEHOLD_TLS_CERT, LEASEHOLD_TLS_KEY). A certificate counts for
its name and its role alone, at any address.

Files are read again while agents run, so a new certificate is put in the old one's place. To change the authority: let
--tls-ca be a file with both certificates, everywhere; issue all certificates anew; then take the old one out.

Exit codes: 0 done, 1 an error, 2 a wrong command line.

Example:
  leasehold certs init --dir certs";

/// `certs init`'s.
pub(crate) const CERTS_INIT: &str = "\
What is there is not overwritten.

Example:
  leasehold certs init --dir certs";

/// `certs issue`'s.
pub(crate) const CERTS_ISSUE: &str = "\
In file names, what is no letter, digit, '-', '.', '_' or '~' is written as %XX.

Example:
  leasehold certs issue a b c --dir certs";

/// `certs show`'s.
pub(crate) const CERTS_SHOW: &str = "\
With --json, for each certificate: file, role (authority, member, client, reader, or null), name (or null), expires,
days_left (negative when it has expired), fingerprint (SHA-256).

Example:
  leasehold certs show certs";

/// `completions`'.
pub(crate) const COMPLETIONS: &str = "\
Example:
  leasehold completions bash > leasehold.bash";

/// `man`'s.
pub(crate) const MAN: &str = "\
Example:
  leasehold man run > leasehold-run.1";

/// `chaos`'s.
#[cfg(feature = "chaos")]
pub(crate) const CHAOS: &str = "\
Whole clusters run in this process over a simulated clock, network and disks, among faults that follow from the seed; clients
try everything, and a checker for each of the rules L1 to L10 says whether it held. A seed that fails is printed with the line
that replays it.

Exit codes: 0 when no rule was broken, 1 when one was, 2 for wrong settings.

Example:
  leasehold chaos run --seeds 0..2";
