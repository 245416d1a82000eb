//! What decides how these deadlines behave from here on, as the model in `src/model/` needs it to tell one state from
//! another: nothing of it is read by the product.

use super::*;

/// One deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) id: LeaseId,
    pub(crate) token: Option<Token>,
    pub(crate) at: Moment,
    pub(crate) renewable: bool,
    /// Its expiry is being proposed: until that fails, its deadline isn't looked at.
    pub(crate) expiring: bool,
}

/// The moments that the whole has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) largest: Moment,
    pub(crate) last_wake: Moment,
    pub(crate) frozen_since: Option<Moment>,
}

impl Deadlines {
    /// Every deadline, by lease id.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Kept> + '_ {
        self.entries.iter().map(|(id, entry)| Kept {
            id: *id,
            token: entry.token(),
            at: self.moment(entry.at),
            renewable: entry.state == State::Renewable,
            expiring: entry.state == State::Expiring,
        })
    }

    pub(crate) fn moments(&self) -> Moments {
        Moments { largest: self.largest, last_wake: self.last_wake, frozen_since: self.frozen_since }
    }

    /// Whether [`due`](Self::due) would hand something out.
    pub(crate) fn has_due(&self, now: Moment) -> bool {
        self.frozen_since.is_none()
            && self.queue.first().is_some_and(|(slot, ())| self.moment(slot.at) <= now)
    }
}
