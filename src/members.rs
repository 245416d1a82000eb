//! Asking for the members, and for changes of them, on behalf of agents and clients.

use std::time::Duration;

use crate::{
    error::{MemberError, ReadError},
    lease::Requester,
    message::{Failure, MemberReport, Request, Response},
};

/// How long a question is asked.
const ASK_AT_MOST: Duration = Duration::from_secs(10);

/// The members, as the leader sees them. Cancel-safe.
pub(crate) async fn members(requester: &dyn Requester) -> Result<Vec<MemberReport>, ReadError> {
    match requester.ask(&Request::Members, ASK_AT_MOST).await.response {
        Response::Members(members) => Ok(members),
        Response::Failed(Failure::Stopped(detail)) => Err(ReadError::Stopped { detail }),
        Response::Failed(failure) => Err(ReadError::Unavailable { detail: failure.to_string() }),
        other => Err(ReadError::Unavailable {
            detail: format!("an answer that fits no question for members: {other:?}"),
        }),
    }
}

/// Asks the leader for a change, which is harmless to repeat.
pub(crate) async fn change(requester: &dyn Requester, request: &Request) -> Result<(), MemberError> {
    Ok(changed(requester.ask(request, ASK_AT_MOST).await.response)?)
}

/// What the answer to a change says.
pub(crate) fn changed(response: Response) -> Result<(), Failure> {
    match response {
        Response::Done => Ok(()),
        Response::Failed(failure) => Err(failure),
        other => Err(Failure::Unknown(format!("an answer that fits no change: {other:?}"))),
    }
}

impl From<Failure> for MemberError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(detail) => Self::Refused { detail },
            Failure::Stopped(detail) => Self::Stopped { detail },
            Failure::Unknown(detail) => Self::Unknown { detail },
            other => Self::Unavailable { detail: other.to_string() },
        }
    }
}
