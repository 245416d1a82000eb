//! What can go wrong with a change of the membership.

/// Why the membership was not changed. Each change is harmless to ask for again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// *Nothing happened*: it can't be, or could cost the cluster its majority.
    #[error("the membership stays as it is: {detail}")]
    Refused {
        /// Why, and what to do.
        detail: String,
    },
    /// *Nothing happened*: no leader could do it in time.
    #[error(
        "no leader changed the membership in time: {detail}; ask again when a majority of the voters is in reach"
    )]
    Unavailable {
        /// What was found.
        detail: String,
    },
    /// *It may have happened.*
    #[error("it is unknown whether the membership was changed: {detail}; look at the members, or ask again")]
    Unknown {
        /// What was found.
        detail: String,
    },
    /// *Nothing happened*: the agent that was asked has stopped.
    #[error("the agent has stopped: {detail}")]
    Stopped {
        /// Why.
        detail: String,
    },
}
