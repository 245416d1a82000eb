//! Acquiring, and the place in the queue for people to see.

use std::{convert::Infallible, time::Duration};

use leasehold::{Client, Lease, LeaseRequest, Mode, Name};

use super::teller::{Place, Teller};
use crate::{
    args::RunArgs,
    exit::Failed,
    seam::{self, Either, select2},
};

/// People are told that they wait after so long.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// The place is asked for at least so often: no change of the name need tell of it when an answer was lost.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

fn wish(client: &Client, name: &Name, args: &RunArgs) -> LeaseRequest {
    let mode = match args.permits {
        Some(of) => Mode::Permits { of },
        None if args.shared => Mode::Shared,
        None => Mode::Exclusive,
    };
    // Renewed by `keep.rs`, which knows when to stop.
    let mut wish = client.lease(name.as_str()).mode(mode).without_renewal();
    if let Some(ttl) = args.ttl {
        wish = wish.ttl(ttl);
    }
    if let Some(span) = args.lock_delay {
        wish = wish.lock_delay(span);
    }
    if let Some(text) = &args.metadata {
        wish = wish.metadata(text.clone());
    }
    match args.wait {
        Some(wait) if !args.no_wait => wish.wait_at_most(wait),
        _ => wish,
    }
}

/// The lease, when it is this process's turn.
pub(super) async fn acquire(
    client: &Client,
    name: &Name,
    args: &RunArgs,
    teller: &Teller,
) -> Result<Lease, Failed> {
    let wish = wish(client, name, args);
    if args.no_wait {
        return Ok(wish.try_acquire().await?);
    }
    // Dropped when the wait is given up, too.
    let _clear = Clear(teller);
    match select2(wish.acquire(), show_place(client, name, teller)).await {
        Either::First(lease) => Ok(lease?),
        Either::Second(never) => match never {},
    }
}

struct Clear<'a>(&'a Teller);

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.0.waited();
    }
}

/// Tells the place in the queue, each time that it changes. Nothing hangs on it: what can't be asked is not told.
async fn show_place(client: &Client, name: &Name, teller: &Teller) -> Infallible {
    if !teller.is_json() {
        seam::sleep(SAY_AFTER).await;
    }
    let mut told = None;
    let mut changes = client.watch(name.as_str()).await.ok();
    loop {
        if let Some(place) = own_place(client, name).await {
            teller.queued(&place, told.as_ref());
            told = Some(place);
            if !teller.shows_changes() {
                std::future::pending::<()>().await;
            }
        }
        match &mut changes {
            Some(changes) => drop(seam::timeout(LOOK_AT_LEAST_EVERY, changes.next()).await),
            None => seam::sleep(LOOK_AT_LEAST_EVERY).await,
        }
    }
}

async fn own_place(client: &Client, name: &Name) -> Option<Place> {
    let report = client.inspect(name.as_str()).await.ok()?;
    let own = report.waiters.iter().find(|waiter| waiter.node == client.node())?;
    let (position, waiters) = (own.position, report.waiters_in_all);
    Some(Place { position, waiters, holder: report.holders.into_iter().next() })
}
