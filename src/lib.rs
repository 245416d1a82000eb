#![doc = include_str!("../README.md")]
//!
//! # Where to go from here
//!
//! - [`Agent::builder`] starts an agent; [`Timing`] has its settings, [`limits`] every bound.
//! - [`Agent::acquire`] and [`Agent::lease`] acquire; [`Lease`] is what they give, [`LeaseLost`] how it ends.
//! - [`Client`] does the same from a process that embeds no agent.
//! - [`Fence`] and [`Token`] protect what is written to.
//! - [`WriteLease`] and [`WriteLeaseProvider`] are the interface for code that doesn't care who grants.
//! - [`Error`] gathers the errors; each kind of call has its own, and each variant says whether something may have
//!   happened.
//! - [`InProcessNetwork`] and [`ManualClock`] are for your tests.

mod agent;
mod change;
mod client;
mod clock;
mod codec;
mod config;
mod deadlines;
mod error;
#[cfg(test)]
mod golden;
mod holder;
mod id;
mod lease;
pub mod limits;
mod message;
mod mode;
#[cfg(test)]
mod model;
mod name;
mod provider;
mod raft;
mod replica;
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
    agent::{Agent, Builder},
    change::{Change, ChangeKind, EndKind},
    client::{Client, ClientBuilder},
    clock::{Clock, ManualClock, SystemClock},
    codec::CodecError,
    config::{ConfigError, ConfigFault, Timing, TtlError},
    error::{
        AcquireError, ConnectError, Error, ReadError, ReleaseError, RenewError, Result, RevokeError,
        StartError,
    },
    holder::{ClosureInfo, HolderInfo, NameReport, WaiterInfo},
    id::{ClusterId, IdError, LeaseId, NodeId},
    lease::{
        Election, Fence, FenceError, Leader, Leadership, Lease, LeaseRequest, Observer, Released, Watch,
    },
    message::{MemberRole, MemberStatus, StatusReport},
    mode::Mode,
    name::{AgentName, Name, NameError},
    provider::{LeaseGuard, RaftLease, WriteLease, WriteLeaseProvider},
    session::{LeaseLost, LossReason},
    storage::StorageError,
    time::{Drift, DriftError, Moment},
    token::Token,
    transport::{BindError, InProcessNetwork},
};
