//! What is done to leases by those who don't hold them: looking at a name, revoking its leases, handing them over.
//!
//! Revoking has two phases, and no way round them (`table/apply.rs` tells why): the lease can't be renewed any more, its
//! holder is told, stops and gives it back, which takes a round trip; a holder that can't be reached stops by its own
//! clock, and the lease ends at its deadline.

use std::time::Duration;

use super::requester::Requester;
use crate::{
    error::{ReadError, RevokeError},
    holder::{HolderInfo, NameReport},
    limits::{PAGE_MAX, REASON_BYTES_MAX},
    message::{Failure, Request, Response},
    name::{AgentName, Name},
    table::Outcome,
};

/// How long a question is asked.
const ASK_AT_MOST: Duration = Duration::from_secs(10);

/// All about one name. Linearizable; cancel-safe.
pub(crate) async fn inspect(requester: &dyn Requester, name: &str) -> Result<NameReport, ReadError> {
    let request = Request::Inspect { name: Name::new(name)? };
    match requester.ask(&request, ASK_AT_MOST).await.response {
        Response::Inspected(report) => Ok(*report),
        Response::Failed(Failure::Stopped(detail)) => Err(ReadError::Stopped { detail }),
        Response::Failed(failure) => Err(ReadError::Unavailable { detail: failure.to_string() }),
        other => Err(ReadError::Unavailable { detail: format!("an answer that fits no report: {other:?}") }),
    }
}

/// Revokes all leases on the name, as they are now; for this agent, if one is named. Returns who held them.
pub(crate) async fn revoke(
    requester: &dyn Requester,
    name: &str,
    reason: &str,
    heir: Option<AgentName>,
) -> Result<Vec<HolderInfo>, RevokeError> {
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return Err(RevokeError::Reason { bytes: reason.len() });
    }
    // A token names the grant that is meant: a late copy must not hit the next holder.
    let report = inspect(requester, name).await?;
    if let Some(to) = &heir {
        if report.holders.len() > 1 {
            return Err(RevokeError::Several { name: report.name, holders: report.holders_in_all });
        }
        if report.holders.iter().any(|holder| holder.revoked) {
            return Err(RevokeError::AlreadyRevoked { name: report.name, to: to.clone() });
        }
    }
    let holders = if report.holders_in_all > report.holders.len() as u64 {
        all_holders(requester, &report.name).await?
    } else {
        report.holders
    };
    let mut revoked = Vec::new();
    for holder in holders {
        let request = Request::Revoke {
            name: report.name.clone(),
            token: holder.token,
            by: requester.holder().agent.clone(),
            reason: reason.to_owned(),
            heir: heir.clone(),
        };
        let answered = requester.ask(&request, ASK_AT_MOST).await;
        match answered.response {
            Response::Outcome(Outcome::AlreadyRevoked) if heir.is_some() => {
                let Some(to) = heir else { continue };
                if !answered.repeated {
                    return Err(RevokeError::AlreadyRevoked { name: report.name, to });
                }
                let detail = "it was revoked meanwhile, by this call or by another".to_owned();
                return Err(RevokeError::Unknown { name: report.name, detail });
            }
            Response::Outcome(Outcome::Revoked | Outcome::AlreadyRevoked) => revoked.push(holder),
            // It has ended meanwhile.
            Response::Outcome(Outcome::NotHeld) => {}
            Response::Outcome(Outcome::NoSuchWaiter) => {
                let Some(to) = heir else { continue };
                return Err(RevokeError::NoSuchWaiter { name: report.name, to });
            }
            Response::Failed(Failure::Stopped(detail)) => return Err(RevokeError::Stopped { detail }),
            Response::Failed(Failure::Unavailable(detail)) => {
                return Err(RevokeError::Unavailable { name: report.name, detail });
            }
            Response::Failed(failure) => {
                return Err(RevokeError::Unknown { name: report.name, detail: failure.to_string() });
            }
            other => {
                let detail = format!("an answer that fits no revocation: {other:?}");
                return Err(RevokeError::Unknown { name: report.name, detail });
            }
        }
    }
    Ok(revoked)
}

/// The holders of a name that has more of them than a report tells, page by page.
async fn all_holders(requester: &dyn Requester, name: &Name) -> Result<Vec<HolderInfo>, RevokeError> {
    let mut all: Vec<HolderInfo> = Vec::new();
    loop {
        let request = Request::Leases {
            prefix: name.as_str().to_owned(),
            after: all.last().map(|holder| (name.clone(), holder.token)),
            limit: u32::try_from(PAGE_MAX).unwrap_or(u32::MAX),
        };
        let (page, more) = match requester.ask(&request, ASK_AT_MOST).await.response {
            Response::Leases { leases, more } => (leases, more),
            Response::Failed(Failure::Stopped(detail)) => return Err(ReadError::Stopped { detail }.into()),
            other => {
                let detail = format!("its holders could not be listed: {other:?}");
                return Err(ReadError::Unavailable { detail }.into());
            }
        };
        // Names come in order, and this one is the first with this prefix.
        let (of_page, before) = (page.len(), all.len());
        all.extend(page.into_iter().take_while(|(of, _)| of == name).map(|(_, held)| held.into()));
        let of_this = all.len() - before;
        if !more || of_this < of_page || of_this == 0 {
            return Ok(all);
        }
    }
}
