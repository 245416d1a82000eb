//! A client's settings, and its first contact: the agents tell it the cluster's id and timing before it may ask for
//! a lease. Its deadlines count with their drift bound (a smaller one of its own would break rule L1), and from then
//! on it talks to no agent of another cluster, whatever the addresses lead to.

use std::{sync::Arc, time::Duration};

use super::{Client, line::Line};
use crate::{
    clock::{Clock, SystemClock},
    config::{self, ConfigError, ConfigFault},
    error::ConnectError,
    id::NodeId,
    lease::ask_once,
    message::{Request, Response, StatusReport},
    name::AgentName,
    runtime::{self, watch},
    table::Holder,
    tasks::Tasks,
    transport::{Identity, InProcessNetwork, Role, Security, Settings, TcpTransport, Transport},
};

/// How long one agent is asked at the first contact.
const GREETING_AT_MOST: Duration = Duration::from_secs(1);
/// The pause between two rounds of first contact.
const PAUSE: Duration = Duration::from_millis(100);

/// How a client connects; made by [`Client::builder`].
///
/// | setting | default | |
/// | --- | --- | --- |
/// | [`agents`](Self::agents) | none, must be given | the addresses of agents, one or more |
/// | [`connect_within`](Self::connect_within) | 5 s | how long to look for an agent that answers |
/// | [`clock`](Self::clock) | [`SystemClock`] | the clock by which leases run out |
/// | `tls` (feature `tls`) | none: plaintext, on loopback alone | the certificates |
/// | [`network`](Self::network) | TCP | an in-process network instead |
#[must_use = "nothing is connected until connect() is awaited"]
pub struct ClientBuilder {
    name: String,
    addresses: Vec<String>,
    connect_within: Duration,
    clock: Arc<dyn Clock>,
    network: Option<InProcessNetwork>,
    security: Security,
}

impl ClientBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            addresses: Vec::new(),
            connect_within: Duration::from_secs(5),
            clock: Arc::new(SystemClock),
            network: None,
            security: Security::default(),
        }
    }

    /// The addresses of agents of one cluster, `host:port`. One is enough to connect; with more of them the client
    /// gets along without any single agent.
    pub fn agents<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.addresses = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Gives up connecting after this long, with [`ConnectError::Unreachable`]. Default 5 s.
    pub fn connect_within(mut self, span: Duration) -> Self {
        self.connect_within = span;
        self
    }

    /// The clock by which leases run out. For tests; a clock that doesn't count suspend breaks rule L1.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A network inside this process instead of TCP, for tests and demonstrations. There the client's name is its
    /// address.
    pub fn network(mut self, network: &InProcessNetwork) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Certificates: a client's, whose name is this client's. With a reader's it reads and no more, with a member's it may
    /// change the membership as well. Without it every address must be on loopback.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.security.tls = Some(tls);
        self
    }

    /// **Danger.** Without TLS, also where others than this machine can reach what is sent. See
    /// [`Builder::danger_plaintext`](crate::Builder::danger_plaintext).
    pub fn danger_plaintext(mut self) -> Self {
        self.security.plaintext_anywhere = true;
        self
    }

    /// `faults` are those of the certificates.
    fn check(&self, mut faults: Vec<ConfigFault>) -> Result<AgentName, ConfigError> {
        let name = AgentName::new(&self.name).map_err(|error| faults.push(error.into())).ok();
        if !self.security.is_tls() && self.network.is_none() && !self.security.plaintext_anywhere {
            faults.extend(config::plaintext_fault(&self.addresses, false));
        }
        if self.addresses.is_empty() {
            faults.push(ConfigFault::NoAgents);
        }
        for addr in self.addresses.iter().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the agent's address", addr: addr.clone() });
        }
        match name {
            Some(name) if faults.is_empty() => Ok(name),
            _ => Err(ConfigError { faults }),
        }
    }

    /// Connects to the first agent that answers, and goes round the addresses until one does.
    ///
    /// Needs a tokio runtime with time and, for TCP, I/O enabled. Cancel-safe: dropping the future leaves nothing
    /// behind.
    ///
    /// # Errors
    /// [`ConnectError`]. Nothing is left behind.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let tls = self.security.faults(Role::Reader, &self.name).await;
        let name = self.check(tls)?;
        // Who may only read says so.
        let role = if self.security.covers(Role::Client) { Role::Client } else { Role::Reader };
        let (identity, identity_changes) =
            watch::channel(Identity { cluster: None, node: None, role, agent: name.clone() });
        let transport: Arc<dyn Transport> = match &self.network {
            Some(network) => Arc::new(network.caller(name.as_str(), identity_changes)),
            None => {
                let settings = Settings { security: self.security.clone(), ..Settings::default() };
                Arc::new(TcpTransport::caller(identity_changes, settings))
            }
        };
        let (at, report) = match self.first_contact(transport.as_ref()).await {
            Ok(met) => met,
            Err(error) => {
                transport.shutdown().await;
                return Err(error);
            }
        };
        identity.send_modify(|identity| identity.cluster = Some(report.cluster));
        let holder = Holder { agent: name, node: NodeId::from_bits(runtime::random_u64()) };
        let tasks = Tasks::new();
        let line = Line::new(self.addresses, at, transport, self.clock, report.timing, holder, tasks.clone());
        Ok(Client::new(line, tasks))
    }

    async fn first_contact(&self, transport: &dyn Transport) -> Result<(usize, StatusReport), ConnectError> {
        let began = self.clock.now();
        let mut detail = "none was asked in time".to_owned();
        loop {
            for (at, address) in self.addresses.iter().enumerate() {
                let left = self.connect_within.saturating_sub(self.clock.now().since(began));
                if left.is_zero() {
                    return Err(ConnectError::Unreachable { addresses: self.addresses.clone(), detail });
                }
                let within = left.min(GREETING_AT_MOST);
                match ask_once(transport, address, &Request::Status, within).await {
                    Response::Status(report) => return Ok((at, *report)),
                    Response::Failed(failure) => detail = failure.to_string(),
                    other => detail = format!("{address} gave an answer that fits no status: {other:?}"),
                }
            }
            runtime::sleep(PAUSE).await;
        }
    }
}
