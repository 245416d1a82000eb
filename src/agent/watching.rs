//! What watchers are answered, from this node's replica.

use std::time::Duration;

use super::node::Node;
use crate::{
    change::{Change, ChangeKind, Changes, Filter},
    limits::{WATCH_ANSWER_BYTES, WATCH_PRESENT_MAX},
    replica::Reading,
    runtime,
    table::LeaseView,
};

/// The changes after this index: as soon as there are any, or none when the time is over. Cancel-safe.
pub(super) async fn changes(node: &Node, filter: &Filter, mut after: u64, within: Duration) -> Changes {
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
    let Some(batches) = history.after(after) else {
        let upto = reading.index();
        return Changes { changes: vec![Change { index: upto, kind: present(&reading, filter) }], upto };
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

/// What holds now, for a watcher that lags.
fn present(reading: &Reading<'_>, filter: &Filter) -> ChangeKind {
    let row = |view: LeaseView<'_>| (view.name.clone(), view.held_by().into());
    match filter {
        Filter::Name(name) => {
            let present = reading.table().holder(name).map(row).into_iter().collect();
            ChangeKind::Lagged { present, complete: true }
        }
        Filter::Prefix(prefix) => {
            let mut held = reading.table().leases(prefix, None);
            let present = held.by_ref().take(WATCH_PRESENT_MAX).map(row).collect();
            ChangeKind::Lagged { present, complete: held.next().is_none() }
        }
    }
}
