//! Starting: from settings to a node that serves. What goes wrong on the way leaves nothing behind.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Agent,
    ground::Ground,
    starting::{Armed, Checked, Origin, Starting},
};
#[cfg(feature = "chaos")]
use crate::replica::Applied;
use crate::{
    clock::{Clock, SystemClock},
    config::{self, ConfigError, ConfigFault, Timing},
    error::StartError,
    limits::{FOUNDERS_MAX, VOTERS_MAX},
    name::AgentName,
    plan::Care,
    quotas::Quotas,
    role::Role,
    runtime,
    transport::InProcessNetwork,
};

/// See [`Builder::voters_max`].
const VOTERS: usize = 5;
/// See [`Builder::dead_after`].
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// See [`Builder::forget_after`].
const FORGET_AFTER: Duration = Duration::from_secs(5 * 60);
/// A member that was heard within so many of the longest election timeouts is in touch.
const IN_TOUCH_ELECTIONS: u32 = 2;
/// The shortest silence after which a voter counts as dead, in the longest election timeouts.
const DEAD_ELECTIONS: u32 = 10;

/// How an agent starts; made by [`Agent::builder`].
///
/// | setting | default | |
/// | --- | --- | --- |
/// | [`listen`](Self::listen) | none, must be given | where the agent is reached |
/// | [`founders`](Self::founders) | none | who forms the cluster: the same list on every agent of it |
/// | [`join`](Self::join) | none | members of the cluster to join; one of the two must be given |
/// | [`observer`](Self::observer) | no | whether it never wants to vote |
/// | [`advertise`](Self::advertise) | the listening address | the address under which the founders list this agent |
/// | [`data_dir`](Self::data_dir) | none: in memory | where log, vote and identity are kept |
/// | [`timing`](Self::timing) | [`Timing::default`] | the cluster's timing: the same on every agent |
/// | [`voters_max`](Self::voters_max) | 5 | how many members vote, at most |
/// | [`dead_after`](Self::dead_after) | 30 s | after what silence a voter is replaced |
/// | [`forget_after`](Self::forget_after) | 5 min | after what silence an observer is removed |
/// | [`quotas`](Self::quotas) | [`Quotas::default`] | what one peer, and all together, may take of the agent |
/// | [`ttl`](Self::ttl) | 10 s | the ttl of a lease for which none is asked |
/// | [`start_within`](Self::start_within) | without end | how long to wait for the other founders |
/// | [`clock`](Self::clock) | [`SystemClock`] | the clock by which leases run out |
/// | `tls` (feature `tls`) | none: plaintext, on loopback alone | the certificates |
/// | [`allow`](Self::allow) | everybody with a certificate | which names may connect, for each role |
/// | [`network`](Self::network) | TCP | an in-process network instead |
#[must_use = "nothing starts until start() is awaited"]
pub struct Builder {
    name: String,
    listen: Option<String>,
    advertise: Option<String>,
    founders: Vec<String>,
    join: Vec<String>,
    observer: bool,
    voters_max: usize,
    dead_after: Duration,
    forget_after: Duration,
    fixed_membership: bool,
    timing: Timing,
    start_within: Option<Duration>,
    allowed: Vec<(Role, String)>,
    clock: Arc<dyn Clock>,
    ground: Ground,
}

impl Builder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            listen: None,
            advertise: None,
            founders: Vec::new(),
            join: Vec::new(),
            observer: false,
            voters_max: VOTERS,
            dead_after: DEAD_AFTER,
            forget_after: FORGET_AFTER,
            fixed_membership: false,
            timing: Timing::default(),
            start_within: None,
            allowed: Vec::new(),
            clock: Arc::new(SystemClock),
            ground: Ground::default(),
        }
    }

    /// The address to listen on, `host:port`. Port 0 takes a free one, which is of use with `advertise` only.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The address at which the others reach this agent, when it isn't the one it listens on.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// The addresses of the agents that form the cluster, this one's among them: the same list on every agent. Three
    /// or five; a cluster of `n` goes on while more than half of them run and are connected.
    ///
    /// An agent that comes back without its directory, or keeps none, joins what the others have. Hazard: founders that have
    /// *all* lost what they had found a cluster anew, also where agents that joined later go on with the old one. One founder
    /// alone without a data directory is in that place at each restart: let it [`join`](Self::join) the others then.
    pub fn founders<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.founders = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Addresses of members of a cluster that is there: the agent joins it through any of them. It observes at first, and
    /// votes when it has caught up and there is room ([`voters_max`](Self::voters_max)).
    ///
    /// One that has joined before, and has its data directory, is itself again, at whatever address it is now.
    pub fn join<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.join = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Whether the agent never wants to vote: it has everything that is committed, answers local reads and watches, and
    /// holds leases as every other, but no majority waits for it. For agents that come and go, or are far away.
    pub fn observer(mut self, observer: bool) -> Self {
        self.observer = observer;
        self
    }

    /// How many members vote, at most: 1 to 9. The others observe, and take the places of voters that die. Each entry
    /// waits for a majority of the voters. The leader's setting counts: give all agents the same.
    pub fn voters_max(mut self, voters: usize) -> Self {
        self.voters_max = voters;
        self
    }

    /// After what silence the leader lets an observer vote in the place of a voter. At least ten of the longest election
    /// timeouts. The leader's setting counts.
    ///
    /// Hazard: too short, voters that merely restart lose their votes; it costs a change or two, never safety.
    pub fn dead_after(mut self, span: Duration) -> Self {
        self.dead_after = span;
        self
    }

    /// After what silence the leader removes an observer. It comes back by itself when it is in reach again.
    pub fn forget_after(mut self, span: Duration) -> Self {
        self.forget_after = span;
        self
    }

    /// **Danger.** The membership stays as it was founded: nobody joins, no dead voter is replaced, and an agent without
    /// its data directory does not come back. For clusters whose members an operator counts himself. Give all agents the
    /// same.
    pub fn danger_fixed_membership(mut self) -> Self {
        self.fixed_membership = true;
        self
    }

    /// The directory that keeps this member's log, vote and identity. It is made if it isn't there.
    ///
    /// Without one everything is kept in memory, and each start is a new member. Hazard: a cluster that loses a
    /// majority of such agents at once has lost its leases.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.ground.data_dir = Some(path.into());
        self
    }

    /// The cluster's timing.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The ttl of a lease for which none is asked.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.timing.ttl = ttl;
        self
    }

    /// What one peer, and all of them together, may take of this agent: connections, requests, leases and more. The
    /// simulated network, and the one inside a process, have no connections to count.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.ground.quotas = quotas;
        self
    }

    /// Certificates: everything that this agent sends and takes is encrypted, and who is at the other end has shown a
    /// certificate of the same authority. Give all agents and clients of a cluster theirs. Without it every address must be
    /// on loopback.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.ground.security.tls = Some(tls);
        self
    }

    /// The names that may connect in this role, by their certificates: everybody else of that role is refused, and a member
    /// that is not listed is not called either. Called again, it adds. A role without a list admits every certificate of the
    /// authority. Needs TLS. Give all agents the same.
    pub fn allow<S: Into<String>>(mut self, role: Role, names: impl IntoIterator<Item = S>) -> Self {
        self.allowed.extend(names.into_iter().map(|name| (role, name.into())));
        self
    }

    /// **Danger.** Without TLS, also where others than this machine can reach it: whoever does can read everything, change it
    /// on the way, and ask anything, also to take leases away. For a network where nobody is that you don't trust. It
    /// changes nothing when there are certificates.
    pub fn danger_plaintext(mut self) -> Self {
        self.ground.security.plaintext_anywhere = true;
        self
    }

    /// Gives up starting after this long, with [`StartError::NotReady`].
    pub fn start_within(mut self, span: Duration) -> Self {
        self.start_within = Some(span);
        self
    }

    /// The clock by which leases run out. For tests; a clock that doesn't count suspend breaks rule L1.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A network inside this process instead of TCP, for tests and demonstrations.
    pub fn network(mut self, network: &InProcessNetwork) -> Self {
        self.ground.network = Some(network.clone());
        self
    }

    /// A simulated network and storage.
    #[cfg(feature = "chaos")]
    pub(crate) fn site(mut self, site: Arc<dyn super::Site>) -> Self {
        self.ground.site = Some(site);
        self
    }

    /// Who looks on at what is applied, and hears of it before anybody else.
    #[cfg(feature = "chaos")]
    pub(crate) fn onlooker(mut self, onlooker: Arc<dyn Applied>) -> Self {
        self.ground.onlooker = Some(onlooker);
        self
    }

    /// `tls` is what is wrong with the certificates.
    fn check(mut self, tls: Vec<ConfigFault>) -> Result<Checked, ConfigError> {
        let mut faults = Vec::new();
        let name = AgentName::new(&self.name).map_err(|error| faults.push(error.into())).ok();
        faults.extend(tls);
        if !self.ground.security.is_tls() && self.ground.is_tcp() {
            if !self.ground.security.plaintext_anywhere {
                let own = self.listen.iter().chain(&self.advertise);
                faults.extend(config::plaintext_fault(own.chain(&self.founders).chain(&self.join), true));
            }
            if !self.allowed.is_empty() {
                faults.push(ConfigFault::AllowWithoutTls);
            }
        }
        for (role, name) in std::mem::take(&mut self.allowed) {
            match AgentName::new(&name) {
                Ok(name) => self.ground.security.allowed.add(role, [name]),
                Err(error) => faults.push(error.into()),
            }
        }
        let listen = self.listen.unwrap_or_default();
        if listen.is_empty() {
            faults.push(ConfigFault::NoListen);
        } else if !config::is_address(&listen, true) {
            faults.push(ConfigFault::Address { what: "the listening address", addr: listen.clone() });
        }
        if let Some(advertise) = self.advertise.as_ref().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the advertised address", addr: advertise.clone() });
        }
        let address = self.advertise.unwrap_or_else(|| listen.clone());
        let mut founders = self.founders;
        founders.sort();
        for addr in founders.iter().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the founder", addr: addr.clone() });
        }
        for pair in founders.windows(2).filter(|pair| pair[0] == pair[1]) {
            faults.push(ConfigFault::FounderTwice { addr: pair[0].clone() });
        }
        let mut join = self.join;
        join.sort();
        join.dedup();
        for addr in join.iter().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the member to join", addr: addr.clone() });
        }
        match (founders.is_empty(), join.is_empty()) {
            (true, true) => faults.push(ConfigFault::NoFounders),
            (false, false) => faults.push(ConfigFault::FoundersAndJoin),
            (true, false) if config::is_everywhere(&address) => {
                faults.push(ConfigFault::NoAdvertise { listen: listen.clone() });
            }
            (true, false) => {}
            (false, true) if founders.len() > FOUNDERS_MAX => {
                faults.push(ConfigFault::TooManyFounders { count: founders.len() });
            }
            (false, true) if !listen.is_empty() && !founders.contains(&address) => {
                faults.push(ConfigFault::NotAFounder {
                    advertise: address.clone(),
                    founders: founders.clone(),
                });
            }
            (false, true) if self.observer => faults.push(ConfigFault::ObserverFounds),
            (false, true) => {}
        }
        if !(1..=VOTERS_MAX).contains(&self.voters_max) {
            faults.push(ConfigFault::VotersMax { voters_max: self.voters_max });
        }
        let election = self.timing.election_timeout_max;
        let (dead_after, forget_after) = (self.dead_after, self.forget_after);
        let least = election.saturating_mul(DEAD_ELECTIONS);
        if dead_after < least || dead_after > forget_after {
            faults.push(ConfigFault::DeadAfter { dead_after, least, forget_after });
        }
        self.timing.faults(&mut faults);
        self.ground.quotas.faults(&mut faults);
        match name {
            Some(name) if faults.is_empty() => Ok(Checked {
                name,
                listen,
                address,
                origin: if join.is_empty() { Origin::Founders(founders) } else { Origin::Join(join) },
                observer: self.observer,
                care: Care {
                    voters_max: self.voters_max,
                    in_touch_within: election * IN_TOUCH_ELECTIONS,
                    dead_after,
                    forget_after,
                },
                fixed_membership: self.fixed_membership,
                timing: self.timing,
                clock: self.clock,
                ground: self.ground,
            }),
            _ => Err(ConfigError { faults }),
        }
    }

    /// Starts the agent, and returns when it serves: the cluster is formed or joined, has a leader, and this agent has
    /// caught up with its founding. The other founders must be started as well; while they are not, an `info` event tells
    /// every 5 s who is missing.
    ///
    /// Needs a tokio runtime with time and, for TCP, I/O enabled. Dropping the future stops what has been started.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left behind.
    pub async fn start(self) -> Result<Agent, StartError> {
        let within = self.start_within;
        let tls = self.ground.security.faults(Role::Member, &self.name).await;
        let starting = Arc::new(Starting::new(self.check(tls)?).await?);
        let mut armed = Armed(Some(starting.clone()));
        let result = match within {
            None => starting.run().await,
            Some(within) => {
                runtime::timeout(within, starting.run()).await.unwrap_or_else(|runtime::TimedOut| {
                    Err(StartError::NotReady { within, waiting_for: starting.waiting_for() })
                })
            }
        };
        armed.0 = None;
        match result {
            Ok(node) => Ok(Agent::of(node, starting.tasks.clone())),
            Err(error) => {
                starting.undo().await;
                Err(error)
            }
        }
    }
}
