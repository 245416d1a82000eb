//! Roles: what somebody may ask of the cluster, and which names may have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use crate::name::AgentName;

/// What somebody is to the cluster. With TLS it is bound into its certificate.
///
/// Not to be mixed up with an observer, which is a member that has no vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An agent with a node of its own, or one that is about to have it. It may ask everything: votes, log entries and
    /// snapshots, founding, changes of the membership.
    Member,
    /// A process that embeds no node. It may ask for leases and all that belongs to them, and may read.
    Client,
    /// A process that only reads: status, holders, leases, members, changes. It can neither acquire nor revoke.
    Reader,
}

impl Role {
    /// All of them, the one that may most first.
    pub const ALL: [Self; 3] = [Self::Member, Self::Client, Self::Reader];

    /// Whether who has this role may do what the other one may.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        match self {
            Self::Member => true,
            Self::Client => !matches!(other, Self::Member),
            Self::Reader => matches!(other, Self::Reader),
        }
    }

    /// As it stands in certificates and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Client => "client",
            Self::Reader => "reader",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no role; it is one of member, client, reader")]
pub struct RoleError {
    /// The word.
    pub word: String,
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(word: &str) -> Result<Self, RoleError> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == word);
        role.ok_or_else(|| RoleError { word: word.to_owned() })
    }
}

/// The names that may connect, for each role; a role without a list admits every name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowed(BTreeMap<Role, BTreeSet<AgentName>>);

impl Allowed {
    /// Adds names to a role's list.
    pub(crate) fn add(&mut self, role: Role, names: impl IntoIterator<Item = AgentName>) {
        let mut names = names.into_iter().peekable();
        if names.peek().is_some() {
            self.0.entry(role).or_default().extend(names);
        }
    }

    /// Whether who has this role, by its certificate, may be here.
    pub(crate) fn admits(&self, role: Role, name: &AgentName) -> bool {
        self.0.get(&role).is_none_or(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_covers_itself_and_what_may_less() {
        for (at, role) in Role::ALL.into_iter().enumerate() {
            for (other_at, other) in Role::ALL.into_iter().enumerate() {
                assert_eq!(role.covers(other), at <= other_at, "{role} {other}");
            }
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        let error = "observer".parse::<Role>().unwrap_err().to_string();
        assert!(error.contains("\"observer\"") && error.contains("reader"), "{error}");
    }

    #[test]
    fn a_list_counts_for_its_role_alone() {
        let name = |name: &str| AgentName::new(name).unwrap();
        let mut allowed = Allowed::default();
        assert!(allowed.admits(Role::Member, &name("x")));
        allowed.add(Role::Member, []);
        assert!(allowed.admits(Role::Member, &name("x")), "an empty list is none");
        allowed.add(Role::Member, [name("a")]);
        allowed.add(Role::Member, [name("b")]);
        assert!(allowed.admits(Role::Member, &name("a")) && allowed.admits(Role::Member, &name("b")));
        assert!(!allowed.admits(Role::Member, &name("c")) && allowed.admits(Role::Client, &name("c")));
    }
}
