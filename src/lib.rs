#![doc = include_str!("../README.md")]
//!
//! # Where to go from here
//!
//! - [`guide`]: choosing a ttl, fencing with recipes, what you see when things break, and the way here from etcd,
//!   ZooKeeper, Consul, Hazelcast, Redisson, client-go and hiqlite.
//! - [`Agent::builder`] starts an agent; [`Timing`] has its settings, [`limits`] every bound.
//! - [`Agent::acquire`] and [`Agent::lease`] acquire; [`Lease`] is what they give, [`LeaseLost`] how it ends.
//! - [`Client`] does the same from a process that embeds no agent.
//! - [`Fence`] and [`Token`] protect what is written to.
//! - [`WriteLease`] and [`WriteLeaseProvider`] are the interface for code that doesn't care who grants; [`RaftLease`] and
//!   [`LocalLease`] grant.
//! - [`Access`] is many readers and one writer over any of them; [`WriteGuard`] is what it gives, [`WriteLost`] how that
//!   ends.
//! - [`Error`] gathers the errors; each kind of call has its own, and each variant says whether something may have
//!   happened.
//! - [`danger`] recovers a cluster whose majority is gone for good, by force.
//! - [`InProcessNetwork`] and [`ManualClock`] are for your tests. With the feature `chaos` whole clusters can be simulated,
//!   and each run replayed from its seed.

mod access;
mod agent;
mod backlog;
mod change;
#[cfg(feature = "chaos")]
pub mod chaos;
mod client;
mod clock;
mod codec;
mod config;
pub mod danger;
mod deadlines;
mod dense;
mod error;
mod fault_point;
mod flaw;
#[cfg(feature = "test-support")]
mod fuzz;
#[cfg(test)]
mod golden;
mod holder;
mod id;
mod lease;
pub mod limits;
mod members;
mod message;
mod mode;
#[cfg(test)]
mod model;
mod name;
mod plan;
mod provider;
mod quotas;
mod raft;
mod replica;
mod role;
mod runtime;
mod session;
mod storage;
mod table;
mod tasks;
#[cfg(feature = "test-support")]
#[doc(hidden)]
pub mod test_support;
mod time;
mod token;
mod transport;

pub use crate::{
    access::{Access, WriteGuard},
    agent::{Agent, Builder},
    change::{Change, ChangeKind, EndKind},
    client::{Client, ClientBuilder},
    clock::{Clock, ManualClock, SystemClock},
    codec::CodecError,
    config::{ConfigError, ConfigFault, Timing, TlsError, TlsFault, TtlError},
    error::{
        AccessError, AcquireError, ConnectError, Error, MemberError, ReadError, RecoverError, ReleaseError,
        RenewError, Result, RevokeError, StartError, TransferError, WriteLost,
    },
    holder::{ClosureInfo, HolderInfo, NameReport, WaiterInfo},
    id::{ClusterId, IdError, LeaseId, NodeId},
    lease::{
        Election, Fence, FenceError, Heir, Leader, Leadership, Lease, LeaseRequest, Observer, Released,
        TransferTo, Transferred, Watch,
    },
    message::{MemberReport, MemberRole, MemberStatus, StatusReport},
    mode::Mode,
    name::{AgentName, Name, NameError},
    provider::{LeaseGuard, LocalLease, RaftLease, WriteLease, WriteLeaseProvider},
    quotas::Quotas,
    role::{Role, RoleError},
    session::{LeaseLost, LossReason},
    storage::StorageError,
    time::{Drift, DriftError, Moment},
    token::Token,
    transport::{BindError, InProcessNetwork},
};

#[cfg(feature = "tls")]
pub use crate::transport::{Certificate, Tls};

#[cfg(feature = "metrics")]
pub mod metrics;

#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
