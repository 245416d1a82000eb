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
        if runtime::timeout(left, node.replica.reach(after + 1)).await.is_err() {
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
        Filter::Name(name) => (reading.table().holder(name).map(row).into_iter().collect(), true),
        Filter::Prefix(prefix) => {
            let mut held = reading.table().leases(prefix, None);
            (held.by_ref().take(WATCH_PRESENT_MAX).map(row).collect(), held.next().is_none())
        }
    };
    let index = reading.index();
    Changes {
        changes: vec![Change { index, kind: ChangeKind::Present { held, complete, lagged } }],
        upto: index,
    }
}
