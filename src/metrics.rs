//! What is counted, through the facade of the crate `metrics`: it costs next to nothing where no recorder is installed.
//!
//! | metric | kind | labels | what |
//! | --- | --- | --- | --- |
//! | `leasehold_acquire_seconds` | histogram | `outcome` | how long an acquisition took, from the call to the lease or the error; `granted`, `held`, `timed_out`, `unavailable`, `unknown`, `refused` or `stopped` |
//! | `leasehold_held` | gauge | | leases in hand, lost ones that are not dropped yet included |
//! | `leasehold_ended_total` | counter | `reason` | leases that ended: `released`, `expired_without_contact`, `expired_in_contact`, `revoked`, `transferred`, `clock_went_back` or `stopped` |
//! | `leasehold_renewals_total` | counter | `outcome` | what became of renewals of leases and of places in queues: `extended`, `gone`, or `unanswered` and tried again |
//! | `leasehold_leader` | gauge | `agent` | 1 while this agent leads the cluster, otherwise 0 |
//! | `leasehold_term` | gauge | `agent` | the term of the consensus: every election raises it |
//!
//! What to be alarmed by: renewals that stay `unanswered`, a term that keeps rising, ends by `expired_without_contact`.
//! The name of a lease is no label, since there may be any number of names.

use std::time::Duration;

use crate::{error::AcquireError, name::AgentName, session::LossReason};

/// An acquisition came to its end, after so long.
pub(crate) fn acquired(outcome: Result<(), &AcquireError>, took: Duration) {
    let outcome = match outcome {
        Ok(()) => "granted",
        Err(AcquireError::Held { .. } | AcquireError::Closed { .. }) => "held",
        Err(AcquireError::TimedOut { .. }) => "timed_out",
        Err(AcquireError::Unavailable { .. }) => "unavailable",
        Err(AcquireError::Unknown { .. }) => "unknown",
        Err(AcquireError::Stopped { .. }) => "stopped",
        Err(_) => "refused",
    };
    ::metrics::histogram!("leasehold_acquire_seconds", "outcome" => outcome).record(took.as_secs_f64());
}

/// So many leases more are in hand.
pub(crate) fn in_hand(more: f64) {
    ::metrics::gauge!("leasehold_held").increment(more);
}

/// A lease ended.
pub(crate) fn ended(reason: &LossReason) {
    let reason = match reason {
        LossReason::Released => "released",
        LossReason::ExpiredWithoutContact { .. } => "expired_without_contact",
        LossReason::ExpiredInContact => "expired_in_contact",
        LossReason::Revoked { .. } => "revoked",
        LossReason::Transferred { .. } => "transferred",
        LossReason::ClockWentBack { .. } => "clock_went_back",
        LossReason::AgentStopped | LossReason::ClientClosed | LossReason::AccessClosed => "stopped",
    };
    ::metrics::counter!("leasehold_ended_total", "reason" => reason).increment(1);
}

/// So many renewals had this outcome.
pub(crate) fn renewals(outcome: &'static str, count: usize) {
    if count > 0 {
        ::metrics::counter!("leasehold_renewals_total", "outcome" => outcome).increment(count as u64);
    }
}

/// Where this agent stands in the consensus.
pub(crate) fn leadership(agent: &AgentName, leading: bool, term: u64) {
    let agent = agent.as_str().to_owned();
    ::metrics::gauge!("leasehold_leader", "agent" => agent.clone()).set(if leading { 1.0 } else { 0.0 });
    // Exact below 2^53.
    ::metrics::gauge!("leasehold_term", "agent" => agent).set(term as f64);
}
