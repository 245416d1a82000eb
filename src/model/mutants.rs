//! Known mistakes, each one switch: the checker has to find every one of them.
//!
//! The product's machines stay as they are. A mutant drives them otherwise, as a program with the mistake would.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A renewal is acknowledged by whoever believes that it leads: openraft's `LeaseRead`.
    NoQuorum,
    /// The holder counts from the answer's arrival, not from before it sent.
    CountsFromAnswer,
    /// The holder believes for the whole ttl on its clock, however slow that is.
    HolderWithoutMargin,
    /// The leader waits for no more than the ttl on its clock, however fast that is.
    LeaderWithoutMargin,
    /// A leader that leads again goes on with the deadlines of its earlier term.
    KeepsDeadlines,
    /// An expiry counts in whatever term it was appended.
    NoTermCheck,
    /// What is being expired is renewed.
    RenewsExpiring,
    /// Ended lease ids are forgotten, and a late copy passes for a new request.
    ForgetsEnded,
    /// Who waited has the lease in hand as soon as it hears of its turn.
    NoConfirmation,
    /// A leader that stood still takes that for the holders' silence.
    NoCompensation,
}

impl Mutant {
    pub(super) const ALL: [Self; 10] = [
        Self::NoQuorum,
        Self::CountsFromAnswer,
        Self::HolderWithoutMargin,
        Self::LeaderWithoutMargin,
        Self::KeepsDeadlines,
        Self::NoTermCheck,
        Self::RenewsExpiring,
        Self::ForgetsEnded,
        Self::NoConfirmation,
        Self::NoCompensation,
    ];
}
