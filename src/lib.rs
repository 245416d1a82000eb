//! An embedded lease that a cluster of agents agrees on by Raft.

mod clock;
mod codec;
mod deadlines;
mod error;
mod id;
pub mod limits;
mod lease {
    //! What a holder has in hand.

    mod fence;
    mod held;
    pub use fence::{Fence, FenceError};
    pub(crate) use held::Held;
}
mod name;
mod provider;
mod runtime;
mod session;
mod time;
mod token;

pub use crate::{
    clock::{Clock, ManualClock, SystemClock},
    codec::CodecError,
    error::{Error, Result},
    id::{ClusterId, IdError, LeaseId, NodeId},
    lease::{Fence, FenceError},
    name::{AgentName, Name, NameError},
    provider::{LeaseGuard, WriteLease, WriteLeaseProvider},
    session::{LeaseLost, LossReason},
    time::{Drift, Moment},
    token::Token,
};
