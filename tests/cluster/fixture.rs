//! Clusters to test with: in one process over a network that can be cut, or over TCP with data directories.

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use leasehold::{Agent, Builder, InProcessNetwork, MemberRole, Timing};

/// No step of a test takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for the future, or fails the test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Waits until it is so, or fails the test.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    soon(what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Addresses that no other test uses: on Linux all of 127.0.0.0/8 is this machine.
pub fn addresses(count: usize) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    (0..count)
        .map(|_| {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            assert!(n < 250, "this process has used its addresses up");
            if cfg!(target_os = "linux") {
                format!("127.{}.{}.{n}:7101", 2 + process % 250, process / 250 % 250)
            } else {
                let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                probe.local_addr().unwrap().to_string()
            }
        })
        .collect()
}

/// Several agents that found a cluster together.
pub struct Cluster {
    pub network: Option<InProcessNetwork>,
    pub addresses: Vec<String>,
    pub agents: Vec<Agent>,
    pub timing: Timing,
    folder: Option<tempfile::TempDir>,
}

impl Cluster {
    /// In this process and in memory, with a network that can be cut.
    pub async fn in_process(count: usize) -> Self {
        let mut cluster = Self::in_process_stopped(count);
        cluster.start_all().await;
        cluster
    }

    /// The same, not started yet.
    pub fn in_process_stopped(count: usize) -> Self {
        Self {
            network: Some(InProcessNetwork::new(7)),
            addresses: (0..count).map(|n| format!("agent-{n}:7101")).collect(),
            agents: Vec::new(),
            timing: Timing { ttl: Duration::from_secs(2), ..Timing::fast_lan() },
            folder: None,
        }
    }

    /// Over TCP, with data directories.
    pub async fn durable(count: usize) -> Self {
        let mut cluster = Self::durable_stopped(count);
        cluster.start_all().await;
        cluster
    }

    /// The same, not started yet.
    pub fn durable_stopped(count: usize) -> Self {
        Self {
            network: None,
            addresses: addresses(count),
            agents: Vec::new(),
            timing: Timing { ttl: Duration::from_secs(2), ..Timing::fast_lan() },
            folder: Some(tempfile::tempdir().unwrap()),
        }
    }

    pub fn data_dir(&self, n: usize) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join(format!("agent-{n}")))
    }

    pub fn builder(&self, n: usize) -> Builder {
        let mut builder = Agent::builder(format!("agent-{n}"))
            .listen(&self.addresses[n])
            .founders(self.addresses.clone())
            .timing(self.timing)
            .start_within(PATIENCE);
        if let Some(network) = &self.network {
            builder = builder.network(network);
        }
        if let Some(dir) = self.data_dir(n) {
            builder = builder.data_dir(dir);
        }
        builder
    }

    pub async fn start_all(&mut self) {
        let starts = (0..self.addresses.len()).map(|n| self.builder(n).start());
        self.agents = futures_util::future::try_join_all(starts).await.unwrap();
    }

    pub async fn stop_all(&mut self) {
        let agents = std::mem::take(&mut self.agents);
        let stops = agents.iter().map(Agent::shutdown);
        soon("stopping", futures_util::future::join_all(stops)).await;
    }

    /// The number of the agent that leads.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.agents.len()).collect::<Vec<_>>()).await
    }

    /// The number of the agent that leads, among these.
    pub async fn leader_among(&self, agents: &[usize]) -> usize {
        let mut found = None;
        until("a leader", || {
            let leaders = agents.iter().map(|n| (self.agents[*n].status(), *n));
            // One that was cut off may go on believing that it leads: the largest term is the true one.
            found = leaders
                .filter(|(status, _)| status.role == MemberRole::Leader)
                .max_by_key(|(status, _)| status.term)
                .map(|(_, n)| n);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The numbers of the agents that don't lead.
    pub async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        (0..self.agents.len()).filter(|n| *n != leader).collect()
    }

    pub fn network(&self) -> &InProcessNetwork {
        self.network.as_ref().unwrap()
    }

    /// Cuts an agent off from all others.
    pub fn isolate(&self, n: usize) {
        self.network().isolate(&self.addresses[n]);
    }

    pub fn rejoin(&self, n: usize) {
        self.network().rejoin(&self.addresses[n]);
    }

    /// Waits until so many wait for the name, as this agent's replica has it.
    pub async fn until_waiting(&self, n: usize, name: &str, waiters: u64) {
        until("waiters", || {
            self.agents[n].holder_local(name).unwrap().is_some_and(|holder| holder.waiters == waiters)
        })
        .await;
    }
}
