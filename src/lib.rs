//! An embedded lease that a cluster of agents agrees on by Raft.

mod agent;
mod clock;
mod codec;
mod config;
mod deadlines;
mod error;
#[cfg(test)]
mod golden;
mod id;
mod lease;
pub mod limits;
mod message;
mod name;
mod provider;
mod raft;
mod replica;
mod runtime;
mod session;
mod storage;
mod table;
mod time;
mod token;
mod transport;

#[cfg(feature = "test-support")]
#[doc(hidden)]
pub use crate::table::bench::TableBench;
pub use crate::{
    agent::{Agent, Builder, Change, ChangeKind, Watch},
    clock::{Clock, ManualClock, SystemClock},
    codec::CodecError,
    config::{ConfigError, ConfigFault, Timing, TtlError},
    error::{
        AcquireError, ConnectError, Error, HolderInfo, ReadError, ReleaseError, RenewError, Result, StartError,
    },
    id::{ClusterId, IdError, LeaseId, NodeId},
    lease::{Fence, FenceError, Lease, LeaseRequest, Released},
    message::{MemberRole, MemberStatus, StatusReport},
    name::{AgentName, Name, NameError},
    provider::{LeaseGuard, RaftLease, WriteLease, WriteLeaseProvider},
    session::{LeaseLost, LossReason},
    storage::StorageError,
    time::{Drift, Moment},
    token::Token,
    transport::{BindError, InProcessNetwork},
};
