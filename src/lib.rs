//! An embedded lease that a cluster of agents agrees on by Raft.

mod clock;
mod codec;
mod id;
pub mod limits;
mod name;
mod runtime;
mod storage;
#[cfg(feature = "test-support")]
#[doc(hidden)]
pub mod test_support;
mod time;
mod token;

pub use crate::{
    clock::{Clock, ManualClock, SystemClock},
    codec::CodecError,
    id::{ClusterId, IdError, LeaseId, NodeId},
    name::{AgentName, Name, NameError},
    storage::StorageError,
    time::{Drift, Moment},
    token::Token,
};
