//! What can go wrong, by who is to blame and by what may have happened.

/// What the seed interface and everything at the crate's root returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Gathers the errors of the single calls.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A [`WriteLeaseProvider`](crate::WriteLeaseProvider) failed, in its own words. Whether it had an effect before,
    /// only its documentation can say.
    #[error(transparent)]
    Provider(Box<dyn std::error::Error + Send + Sync>),
    /// This build has no such kind of write lease. Nothing happened.
    #[error("{what} is not available in this build of leasehold; {remedy}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What to use instead.
        remedy: &'static str,
    },
}

impl Error {
    /// What a provider returns that has an error of its own, or just a message.
    ///
    /// ```
    /// let held = leasehold::Error::provider("agent-b is writing; try again after 12:00");
    /// assert_eq!(held.to_string(), "agent-b is writing; try again after 12:00");
    /// ```
    pub fn provider(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Provider(error.into())
    }
}

/// So that `?` works on an error that is boxed already.
impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Provider(error)
    }
}
