//! What watchers are answered, from this node's replica.

use std::time::Duration;

use super::node::Node;
use crate::{
    change::{Change, ChangeKind, Changes, Filter},
    flaw::planted,
    limits::{WATCH_ANSWER_BYTES, WATCH_PRESENT_MAX},
    replica::Reading,
    runtime,
    table::LeaseView,
};

/// How long it may take to find out whether an index is ahead of the cluster, or only of this replica.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// The changes after this index: as soon as there are any, or none when the time is over. Without an index, what holds
/// now. Cancel-safe.
pub(super) async fn changes(node: &Node, filter: &Filter, after: Option<u64>, within: Duration) -> Changes {
    let Some(mut after) = after else {
        return present(&node.replica.read(), filter, false);
    };
    let began = node.clock.now();
    loop {
        let news = now(node, filter, after);
        let left = within.saturating_sub(node.clock.now().since(began));
        if !news.changes.is_empty() || left.is_zero() {
            return news;
        }
        // What was looked through is not looked through again. A watcher that comes from an agent which is further may
        // be ahead of this replica.
        after = after.max(news.upto);
        if runtime::timeout(left, node.replica.reach(after.saturating_add(1))).await.is_err() {
            let ahead = after > node.replica.read().index();
            if ahead && node.catch_up(CONFIRMED_WITHIN).await.is_ok() && after > node.replica.read().index() {
                // Nobody has told of that index: it is another cluster's, or the watcher made it up.
                return present(&node.replica.read(), filter, true);
            }
            return now(node, filter, after);
        }
    }
}

fn now(node: &Node, filter: &Filter, after: u64) -> Changes {
    // Held over both looks: the history ends where the table stands.
    let reading = node.replica.read();
    let history = node.hub.history();
    // With the flaw, an entry is missing whenever a watcher asks on.
    let skipped = u64::from(planted!(WatchWithGap) && after > 0);
    let Some(batches) = history.after(after + skipped) else {
        return present(&reading, filter, true);
    };
    let (mut changes, mut weight) = (Vec::new(), 0);
    for batch in batches {
        // The changes of an entry stay together: a watcher goes on after an index.
        let from = changes.len();
        changes.extend(batch.events.iter().filter_map(|event| Change::of(batch.index, event, filter)));
        weight += changes.iter().skip(from).map(Change::weight).sum::<usize>();
        if weight >= WATCH_ANSWER_BYTES {
            return Changes { changes, upto: batch.index };
        }
    }
    Changes { changes, upto: reading.index() }
}

/// What holds now.
fn present(reading: &Reading<'_>, filter: &Filter, lagged: bool) -> Changes {
    let row = |view: LeaseView<'_>| (view.name.clone(), view.held_by().into());
    let (held, complete) = match filter {
        Filter::Name(name) => some(reading.table().holders(name).map(row)),
        Filter::Prefix(prefix) => some(reading.table().leases(prefix, None).map(row)),
    };
    let index = reading.index();
    Changes {
        changes: vec![Change { index, kind: ChangeKind::Present { held, complete, lagged } }],
        upto: index,
    }
}

/// As many as a watcher is told of, and whether these are all.
fn some<T>(mut all: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    (all.by_ref().take(WATCH_PRESENT_MAX).collect(), all.next().is_none())
}
