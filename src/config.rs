//! Settings, and what is wrong with them. Every fault is listed, not just the first.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{ADDRESS_BYTES_MAX, FOUNDERS_MAX, TTL_MAX, VOTERS_MAX},
    name::{AgentName, NameError},
    role::Role,
    time::Drift,
};

/// The cluster's timing. Every agent of a cluster must have the same; the defaults suit a data centre.
///
/// | setting | default | [`fast_lan`](Self::fast_lan) | [`wan`](Self::wan) |
/// | --- | --- | --- | --- |
/// | `heartbeat` | 100 ms | 50 ms | 500 ms |
/// | `election_timeout_min` | 400 ms | 150 ms | 2.5 s |
/// | `election_timeout_max` | 550 ms | 200 ms | 3 s |
/// | `ttl` | 10 s | 10 s | 30 s |
/// | `clock_drift_max` | 1 % | 1 % | 1 % |
/// | for round trips, disk included, up to | 60 ms | 30 ms | 300 ms |
///
/// An answer to a heartbeat that takes longer than three quarters of `heartbeat` counts as none: where most do, no leader
/// stays, and nothing is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often the leader says that it lives. Default 100 ms.
    ///
    /// Hazard: near `election_timeout_min`, one lost packet causes an election. With round trips longer than three quarters
    /// of it, no leader stays.
    pub heartbeat: Duration,
    /// The shortest silence of a leader after which an agent stands for election. Default 400 ms.
    ///
    /// Hazard: shorter than the disk's worst stall (an `fdatasync` of 270 ms has been seen), healthy leaders are
    /// replaced. It costs availability, never safety.
    pub election_timeout_min: Duration,
    /// The longest such silence, and the leader lease of openraft. Default 550 ms.
    ///
    /// Hazard: a large maximum costs twice, once until votes are granted and once until one stands for election.
    pub election_timeout_max: Duration,
    /// The ttl of a lease for which none is asked. Default 10 s.
    pub ttl: Duration,
    /// The largest difference in rate between two agents' clocks. Default 1 % (10 000 ppm; a quartz has 100 ppm).
    ///
    /// Hazard: rule L1 stands on it. With a larger true drift, only fencing protects.
    pub clock_drift_max: Drift,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(550),
            ttl: Duration::from_secs(10),
            clock_drift_max: ONE_PERCENT,
        }
    }
}

const ONE_PERCENT: Drift = match Drift::from_ppm(10_000) {
    Some(drift) => drift,
    None => unreachable!(),
};

impl Timing {
    /// For one network segment and a disk whose `fdatasync` stays under 50 ms: a dead leader is replaced in about
    /// 0.4 s. Hazard: a slower disk causes elections.
    #[must_use]
    pub fn fast_lan() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(200),
            ..Self::default()
        }
    }

    /// For agents far apart (round trips up to 300 ms).
    #[must_use]
    pub fn wan() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_timeout_min: Duration::from_millis(2_500),
            election_timeout_max: Duration::from_secs(3),
            ttl: Duration::from_secs(30),
            ..Self::default()
        }
    }

    /// The shortest ttl: two of the longest election timeouts, so that a lease can outlive its leader.
    #[must_use]
    pub fn ttl_min(&self) -> Duration {
        // An agent's timing comes over the wire as well: no number may make this panic.
        self.election_timeout_max.saturating_mul(2)
    }

    /// Whether a lease may have this ttl.
    ///
    /// # Errors
    /// [`TtlError`] when it is shorter than [`ttl_min`](Self::ttl_min) or longer than 24 h.
    pub fn check_ttl(&self, ttl: Duration) -> Result<(), TtlError> {
        if ttl < self.ttl_min() {
            return Err(TtlError::TooShort { ttl, least: self.ttl_min() });
        }
        if ttl > TTL_MAX {
            return Err(TtlError::TooLong { ttl, most: TTL_MAX });
        }
        Ok(())
    }

    pub(crate) fn faults(&self, faults: &mut Vec<ConfigFault>) {
        let spans = [
            ("heartbeat", self.heartbeat),
            ("election_timeout_min", self.election_timeout_min),
            ("election_timeout_max", self.election_timeout_max),
            ("ttl", self.ttl),
        ];
        let odd = |span: &Duration| !span.subsec_nanos().is_multiple_of(1_000_000) || *span > SPAN_MAX;
        faults.extend(
            spans
                .into_iter()
                .filter(|(_, span)| odd(span))
                .map(|(what, span)| ConfigFault::Span { what, span }),
        );
        if self.heartbeat < Duration::from_millis(1) {
            faults.push(ConfigFault::Heartbeat { heartbeat: self.heartbeat });
        }
        let least = self.heartbeat.saturating_mul(2);
        if self.election_timeout_min < least {
            faults.push(ConfigFault::ElectionBesideHeartbeat {
                least,
                election_timeout_min: self.election_timeout_min,
            });
        }
        if self.election_timeout_max <= self.election_timeout_min {
            faults.push(ConfigFault::ElectionRange {
                min: self.election_timeout_min,
                max: self.election_timeout_max,
            });
        }
        if let Err(error) = self.check_ttl(self.ttl) {
            faults.push(ConfigFault::Ttl(error));
        }
    }
}

/// A ttl out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TtlError {
    /// It could not outlive an election.
    #[error(
        "a ttl of {ttl:?} is too short: the shortest is {least:?} (two election timeouts, so that a lease outlives its leader)"
    )]
    TooShort {
        /// What was asked.
        ttl: Duration,
        /// The shortest.
        least: Duration,
    },
    /// It would block a dead holder's name for too long.
    #[error(
        "a ttl of {ttl:?} is too long: the longest is {most:?}; leases are renewed in the background, a short ttl is enough"
    )]
    TooLong {
        /// What was asked.
        ttl: Duration,
        /// The longest.
        most: Duration,
    },
}

/// No span of the timing is longer.
const SPAN_MAX: Duration = TTL_MAX;

/// One thing that is wrong with an agent's settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The agent's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No address to listen on.
    #[error("no address to listen on; call listen(\"host:port\")")]
    NoListen,
    /// No agents for a client to talk to.
    #[error("no agent to connect to; give the address of one agent or more, as in 127.0.0.1:7101")]
    NoAgents,
    /// An address that has no port, or no host.
    #[error("{what} {addr:?} is not an address; write host:port, as in 127.0.0.1:7101")]
    Address {
        /// What the address is for.
        what: &'static str,
        /// The text.
        addr: String,
    },
    /// No founders.
    #[error(
        "neither founders nor members to join; call founders([…]) with the same list of addresses on every agent that forms the cluster, this one's among them, or join([…]) with addresses of members of one that is there"
    )]
    NoFounders,
    /// Both.
    #[error(
        "founders and members to join; an agent forms the cluster with the founders, or joins one that is there: give one of the two"
    )]
    FoundersAndJoin,
    /// A founder that doesn't want to vote.
    #[error("an observer among the founders; all founders vote, so let it join([…]) them instead")]
    ObserverFounds,
    /// The number of voters is out of its bounds.
    #[error("voters_max is {voters_max}; it must be from 1 to {VOTERS_MAX}, and 3 or 5 is wise")]
    VotersMax {
        /// What was asked.
        voters_max: usize,
    },
    /// A member would be replaced before it can have been heard.
    #[error(
        "dead_after is {dead_after:?}; it must be at least {least:?} (ten of the longest election timeouts), and not longer than forget_after, {forget_after:?}"
    )]
    DeadAfter {
        /// What was asked.
        dead_after: Duration,
        /// The shortest allowed.
        least: Duration,
        /// After what silence an observer is removed.
        forget_after: Duration,
    },
    /// Too many founders.
    #[error("{count} founders, the most are {FOUNDERS_MAX}; let 3 or 5 found the cluster")]
    TooManyFounders {
        /// How many were given.
        count: usize,
    },
    /// A founder is listed twice.
    #[error("the founder {addr} is listed twice; each vote must be an agent of its own")]
    FounderTwice {
        /// Its address.
        addr: String,
    },
    /// The agent itself is missing among the founders.
    #[error(
        "this agent is reached at {advertise}, which is not among the founders {founders:?}; add it, or call advertise(\"host:port\") with the address under which the others list it"
    )]
    NotAFounder {
        /// The address under which the others reach this agent.
        advertise: String,
        /// The founders.
        founders: Vec<String>,
    },
    /// It would tell the others an address of every machine, at which each would find itself.
    #[error(
        "this agent listens on {listen}, which is no address at which others reach it; call advertise(\"host:port\") with one that is"
    )]
    NoAdvertise {
        /// Where it listens.
        listen: String,
    },
    /// A span that isn't whole milliseconds, or absurdly long.
    #[error("{what} is {span:?}; give it whole milliseconds, at most 24 h")]
    Span {
        /// Which setting.
        what: &'static str,
        /// What was asked.
        span: Duration,
    },
    /// The heartbeat is too fast.
    #[error("a heartbeat of {heartbeat:?} is too short; the shortest is 1ms")]
    Heartbeat {
        /// What was asked.
        heartbeat: Duration,
    },
    /// The election timeout leaves no room for a lost heartbeat.
    #[error(
        "election_timeout_min {election_timeout_min:?} is too short for the heartbeat; it must be at least {least:?} (two heartbeats)"
    )]
    ElectionBesideHeartbeat {
        /// The shortest allowed.
        least: Duration,
        /// What was asked.
        election_timeout_min: Duration,
    },
    /// The range of the election timeout is empty.
    #[error(
        "election_timeout_max {max:?} must be longer than election_timeout_min {min:?}, or elections split"
    )]
    ElectionRange {
        /// The minimum.
        min: Duration,
        /// The maximum.
        max: Duration,
    },
    /// A quota out of its bounds.
    #[error("the quota {what} is {asked}; it must be from {least} to {most}")]
    Quota {
        /// Which one.
        what: &'static str,
        /// What was asked.
        asked: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
    /// The default ttl.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// What travels could be read and changed on the way, and whoever reaches the port could ask.
    #[error(
        "{} can be reached from elsewhere, and without TLS whoever does can read all and ask anything; give certificates with tls(…) (`leasehold certs` makes them), or call danger_plaintext() on a network where nobody is that you don't trust",
        addresses.join(", ")
    )]
    Plaintext {
        /// Those of the listening, the advertised, the founders' and the members' addresses that are not on loopback.
        addresses: Vec<String>,
    },
    /// Without certificates everybody has the name that he says.
    #[error(
        "names are allowed for a role, and without TLS anybody can take any name; give tls(…) as well, or no names"
    )]
    AllowWithoutTls,
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

/// One thing that is wrong with certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// A file that can't be read.
    #[error("can't read the {what} {file}: {detail}; check the path, and that this user may read it")]
    Unreadable {
        /// What it should hold.
        what: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        detail: String,
    },
    /// It holds something else.
    #[error("{file} holds no {what} in PEM ({detail}); give the file that `leasehold certs` wrote")]
    Malformed {
        /// What it should hold.
        what: &'static str,
        /// The file.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// Two files that don't belong together.
    #[error("the key {key} is not the key of the certificate {cert}; give the two that were issued together")]
    WrongKey {
        /// The key's file.
        key: String,
        /// The certificate's.
        cert: String,
    },
    /// Another cluster's, or a bundle that lacks one.
    #[error(
        "the certificate {cert} is not signed by an authority in {ca}; issue it with that authority, or add its authority's certificate to {ca}"
    )]
    UnknownAuthority {
        /// The certificate's file.
        cert: String,
        /// The authorities'.
        ca: String,
    },
    /// It has expired.
    #[error("the certificate {cert} has expired ({detail}); issue a new one, `leasehold certs issue`")]
    Expired {
        /// The certificate's file.
        cert: String,
        /// When.
        detail: String,
    },
    /// It can't be used, for another reason.
    #[error("the certificate {cert} can't be used: {detail}; issue a new one, `leasehold certs issue`")]
    Unfit {
        /// The certificate's file.
        cert: String,
        /// Why.
        detail: String,
    },
    /// It is nobody's.
    #[error(
        "the certificate {cert} names no agent: it needs one URI leasehold://ROLE/NAME among its alternative names; issue one, `leasehold certs issue NAME`"
    )]
    NoBearer {
        /// The certificate's file.
        cert: String,
    },
    /// It is somebody else's.
    #[error(
        "the certificate {cert} is that of the {role} {bearer}, and this is the {needs} {name}; issue one with `leasehold certs issue {name} --role {needs}`, or take its name"
    )]
    NotItsBearer {
        /// The certificate's file.
        cert: String,
        /// Its role.
        role: Role,
        /// Its name.
        bearer: AgentName,
        /// The role that is needed.
        needs: Role,
        /// Who would use it.
        name: AgentName,
    },
}

/// All that is wrong with certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    /// The faults; at least one.
    pub faults: Vec<TlsFault>,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        listed(f, "certificates are wrong", &self.faults)
    }
}

impl std::error::Error for TlsError {}

/// Everything that is wrong with an agent's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The faults; at least one.
    pub faults: Vec<ConfigFault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        listed(f, "settings are wrong", &self.faults)
    }
}

fn listed(f: &mut fmt::Formatter<'_>, what: &str, faults: &[impl fmt::Display]) -> fmt::Result {
    match faults {
        [fault] => write!(f, "{fault}"),
        faults => {
            write!(f, "{} {what}:", faults.len())?;
            faults.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
        }
    }
}

impl std::error::Error for ConfigError {}

/// Whether the text has the form `host:port`, with a port that is not 0 unless `any_port`.
pub(crate) fn is_address(addr: &str, any_port: bool) -> bool {
    addr.len() <= ADDRESS_BYTES_MAX
        && addr.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| any_port || port != 0)
        })
}

/// Whether it stands for all addresses of a machine: good to listen on, and nobody can be called there.
pub(crate) fn is_everywhere(addr: &str) -> bool {
    addr.parse::<SocketAddr>().is_ok_and(|addr| addr.ip().to_canonical().is_unspecified())
}

/// What is wrong if what goes to and from these addresses is plaintext.
pub(crate) fn plaintext_fault<'a>(
    addresses: impl IntoIterator<Item = &'a String>,
    any_port: bool,
) -> Option<ConfigFault> {
    // What is no address is a fault of its own.
    let beyond = addresses.into_iter().filter(|addr| is_address(addr, any_port) && !is_loopback(addr));
    let mut addresses: Vec<String> = beyond.cloned().collect();
    addresses.sort();
    addresses.dedup();
    (!addresses.is_empty()).then_some(ConfigFault::Plaintext { addresses })
}

/// Whether nobody beyond this machine can be at the other end. A name other than `localhost` may mean anything.
pub(crate) fn is_loopback(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_are_valid() {
        for timing in [Timing::default(), Timing::fast_lan(), Timing::wan()] {
            let mut faults = Vec::new();
            timing.faults(&mut faults);
            assert_eq!(faults, []);
        }
    }

    #[test]
    fn all_faults_are_listed() {
        let mut faults = Vec::new();
        let bad = Timing {
            heartbeat: Duration::ZERO,
            election_timeout_min: Duration::from_millis(5),
            election_timeout_max: Duration::from_millis(5),
            ttl: Duration::ZERO,
            ..Timing::default()
        };
        bad.faults(&mut faults);
        assert_eq!(faults.len(), 3, "{faults:?}");
        let text = ConfigError { faults }.to_string();
        assert!(text.contains("3 settings") && text.contains("ttl of 0ns"), "{text}");
    }

    #[test]
    fn the_longest_times_are_faults_and_no_panic() {
        let max = Duration::MAX;
        let bad = Timing {
            heartbeat: max,
            election_timeout_min: max,
            election_timeout_max: max,
            ttl: max,
            ..Timing::default()
        };
        let mut faults = Vec::new();
        bad.faults(&mut faults);
        // Each of the four, the empty range of the election timeout, and a ttl below its least.
        assert_eq!(faults.len(), 6, "{faults:?}");
        assert!(bad.check_ttl(Duration::from_secs(10)).is_err());
    }

    #[test]
    fn the_edges_of_a_ttl() {
        let timing = Timing::default();
        assert!(timing.check_ttl(timing.ttl_min()).is_ok());
        assert!(timing.check_ttl(timing.ttl_min() - Duration::from_nanos(1)).is_err());
        assert!(timing.check_ttl(TTL_MAX).is_ok());
        assert!(timing.check_ttl(TTL_MAX + Duration::from_nanos(1)).is_err());
    }

    #[test]
    fn addresses() {
        assert!(
            is_address("127.0.0.1:7101", false)
                && is_address("[::1]:7101", false)
                && is_address("a:1", false)
        );
        assert!(!is_address("127.0.0.1", false) && !is_address(":1", false) && !is_address("a:0", false));
        assert!(is_address("a:0", true) && !is_address("a:70000", true));
    }

    #[test]
    fn loopback_is_what_nobody_else_can_reach() {
        for here in
            ["127.0.0.1:1", "127.9.8.7:0", "[::1]:1", "localhost:1", "LocalHost:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(is_loopback(here), "{here}");
        }
        for there in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:1",
            "128.0.0.1:1",
            "[::ffff:10.0.0.1]:1",
            "localhost.example:1",
            "a:1",
            "127.0.0.1.example:1",
        ] {
            assert!(!is_loopback(there), "{there}");
        }
    }
}
