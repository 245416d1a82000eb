//! Those who hold one name, in the order of their tokens: one in most cases, several where they share it, none while
//! the name is closed.

use std::{collections::BTreeMap, ops::Bound};

use super::Lease;
use crate::{Token, mode::Mode};

/// See the file's head. The one holder of most names costs no map.
#[derive(Debug, Clone, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(Lease),
    /// At least two.
    Many(BTreeMap<Token, Lease>),
}

impl Holders {
    fn one(&self) -> Option<&Lease> {
        match self {
            Self::One(lease) => Some(lease),
            Self::None | Self::Many(_) => None,
        }
    }

    fn many(&self) -> Option<&BTreeMap<Token, Lease>> {
        match self {
            Self::Many(leases) => Some(leases),
            Self::None | Self::One(_) => None,
        }
    }

    /// How many hold.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(leases) => leases.len(),
        }
    }

    /// All, in the order of their tokens.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Lease> + '_ {
        self.one().into_iter().chain(self.many().into_iter().flat_map(BTreeMap::values))
    }

    /// Those with a larger token than this, in order.
    pub(super) fn after(&self, token: Token) -> impl Iterator<Item = &Lease> + '_ {
        let beyond = (Bound::Excluded(token), Bound::Unbounded);
        let many = self.many().into_iter().flat_map(move |leases| leases.range(beyond));
        self.one().into_iter().filter(move |lease| lease.token > token).chain(many.map(|(_, lease)| lease))
    }

    /// The one that was granted first.
    pub(super) fn first(&self) -> Option<&Lease> {
        self.iter().next()
    }

    /// The one with this token.
    pub(super) fn get(&self, token: Token) -> Option<&Lease> {
        match self {
            Self::None => None,
            Self::One(lease) => Some(lease).filter(|lease| lease.token == token),
            Self::Many(leases) => leases.get(&token),
        }
    }

    /// The one with this token.
    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Lease> {
        match self {
            Self::None => None,
            Self::One(lease) => Some(lease).filter(|lease| lease.token == token),
            Self::Many(leases) => leases.get_mut(&token),
        }
    }

    /// Whether a lease of this mode may be granted beside those who hold. They are all of one mode.
    pub(super) fn admit(&self, mode: Mode) -> bool {
        self.first().is_none_or(|first| mode.fits_beside(first.mode, self.len()))
    }

    /// Another one, with a token of its own.
    pub(super) fn insert(&mut self, lease: Lease) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(lease),
            Self::One(first) => Self::Many([first, lease].map(|lease| (lease.token, lease)).into()),
            Self::Many(mut leases) => {
                leases.insert(lease.token, lease);
                Self::Many(leases)
            }
        };
    }

    /// Takes the one with this token away.
    pub(super) fn remove(&mut self, token: Token) -> Option<Lease> {
        self.get(token)?;
        let (rest, lease) = match std::mem::take(self) {
            Self::None => return None,
            Self::One(lease) => (Self::None, Some(lease)),
            Self::Many(mut leases) => {
                let lease = leases.remove(&token);
                let last = if leases.len() == 1 { leases.pop_first() } else { None };
                (last.map_or(Self::Many(leases), |(_, last)| Self::One(last)), lease)
            }
        };
        *self = rest;
        lease
    }
}
