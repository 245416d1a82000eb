//! Fairness among clients: what the clients of one name have worked on at once is bounded, and the rest of theirs waits its
//! turn behind it, in the order of arrival. So whoever floods an agent waits for itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{message::Request, name::AgentName};

/// What is worked on at once for the clients of one name, in units: a change, or a question about one name, takes one.
const WORK_AT_ONCE: u32 = 64;
/// A page of a listing: up to a thousand leases are looked up, copied and encoded.
const PAGE_UNITS: u32 = 32;
/// So many renewals make a unit.
const RENEWALS_PER_UNIT: usize = 128;

/// See the file's head.
#[derive(Default)]
pub(super) struct Turns {
    /// Of those who have something under way or waiting.
    peers: Mutex<BTreeMap<AgentName, Weak<Semaphore>>>,
}

impl Turns {
    /// Waits for a turn, and has it until what is returned is dropped. What only waits for news takes none. Cancel-safe.
    pub(super) async fn take(&self, peer: &AgentName, request: &Request) -> Option<OwnedSemaphorePermit> {
        let units = units(request)?;
        let work = {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            match peers.get(peer).and_then(Weak::upgrade) {
                Some(work) => work,
                None => {
                    peers.retain(|_, work| work.strong_count() > 0);
                    let work = Arc::new(Semaphore::new(WORK_AT_ONCE as usize));
                    peers.insert(peer.clone(), Arc::downgrade(&work));
                    work
                }
            }
        };
        work.acquire_many_owned(units).await.ok()
    }
}

fn units(request: &Request) -> Option<u32> {
    match request {
        Request::Await { .. } | Request::Watch { .. } => None,
        Request::Leases { .. } | Request::Inspect { .. } => Some(PAGE_UNITS),
        Request::Renew { leases } => {
            let units = 1 + leases.len() / RENEWALS_PER_UNIT;
            Some(u32::try_from(units).unwrap_or(WORK_AT_ONCE).min(WORK_AT_ONCE))
        }
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{LeaseId, limits::RENEW_MAX};

    fn page() -> Request {
        Request::Leases { prefix: String::new(), after: None, limit: 1 }
    }

    #[test]
    fn who_floods_waits_for_itself_and_nobody_else_does() {
        let (turns, [one, other]) = (Turns::default(), ["one", "other"].map(|n| AgentName::new(n).unwrap()));
        let first = turns.take(&one, &page()).now_or_never().unwrap();
        let _second = turns.take(&one, &page()).now_or_never().unwrap();
        assert!(turns.take(&one, &Request::Status).now_or_never().is_none());
        assert!(turns.take(&other, &Request::Status).now_or_never().is_some());
        drop(first);
        assert!(turns.take(&one, &Request::Status).now_or_never().is_some());
    }

    #[test]
    fn the_largest_request_has_a_turn_and_what_is_over_is_forgotten() {
        let turns = Turns::default();
        let renew = Request::Renew { leases: vec![LeaseId::from_bits(0); RENEW_MAX] };
        for n in 0..100 {
            let peer = AgentName::new(format!("peer-{n}")).unwrap();
            assert!(turns.take(&peer, &renew).now_or_never().unwrap().is_some());
        }
        assert_eq!(turns.peers.lock().unwrap().len(), 1);
    }
}
