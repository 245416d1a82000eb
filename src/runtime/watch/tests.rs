//! The same as tokio's, and in the order of arrival.

use std::{sync::atomic::AtomicBool, task::Wake, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};

use super::*;

/// Notes its name when it is woken.
struct Named(usize, Arc<Mutex<Vec<usize>>>);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

#[test]
fn they_are_woken_in_the_order_of_their_arrival() {
    let (sender, receiver) = channel(0);
    let woken = Arc::new(Mutex::new(Vec::new()));
    let wait = || {
        let mut receiver = receiver.clone();
        async move { receiver.changed().await }.boxed()
    };
    let mut waiting: Vec<_> = (0..100).map(|_| wait()).collect();
    let poll = |future: &mut BoxFuture<'_, _>, name: usize| {
        let waker = Waker::from(Arc::new(Named(name, woken.clone())));
        future.poll_unpin(&mut Context::from_waker(&waker)).is_ready()
    };
    let order = (0..100).map(|at| at * 37 % 100);
    for at in order.clone() {
        assert!(!poll(&mut waiting[at], at));
    }
    // Polled again it keeps its place, under its new name; dropped it gives it up.
    assert!(!poll(&mut waiting[74], 1_074));
    waiting[37] = wait();
    sender.send(1).unwrap();
    let expected: Vec<usize> =
        order.filter(|at| *at != 37).map(|at| if at == 74 { 1_074 } else { at }).collect();
    assert_eq!(*woken.lock().unwrap(), expected);
    assert!(waiting.iter_mut().all(|future| poll(future, 0)));
}

#[test]
fn what_is_seen_and_what_is_not() {
    let (sender, mut receiver) = channel(1);
    assert!(receiver.changed().now_or_never().is_none());
    sender.send_replace(2);
    assert_eq!((*receiver.borrow(), *sender.borrow()), (2, 2));
    assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
    assert!(receiver.changed().now_or_never().is_none());
    assert!(!sender.send_if_modified(|_| false));
    assert!(receiver.changed().now_or_never().is_none());
    sender.send_modify(|value| *value += 1);
    assert_eq!(*receiver.borrow_and_update(), 3);
    assert!(receiver.changed().now_or_never().is_none());
    // A clone has seen what the original has; a subscriber, what there is.
    sender.send_replace(4);
    assert!(receiver.clone().changed().now_or_never().is_some());
    assert!(sender.subscribe().changed().now_or_never().is_none());
    // `wait_for` looks at the present value first, and sees it.
    assert_eq!(receiver.wait_for(|value| *value == 4).now_or_never().map(|found| *found.unwrap()), Some(4));
    assert!(receiver.changed().now_or_never().is_none());
}

#[test]
fn the_last_value_outlives_its_sender_and_nobody_waits_for_another() {
    let (sender, mut receiver) = channel(1);
    let other = sender.clone();
    sender.send_replace(2);
    drop(sender);
    assert!(receiver.wait_for(|value| *value == 3).now_or_never().is_none());
    other.send_replace(3);
    drop(other);
    assert_eq!(receiver.changed().now_or_never(), Some(Ok(())), "an unseen value comes first");
    assert_eq!(receiver.changed().now_or_never(), Some(Err(RecvError)));
    assert_eq!(*receiver.wait_for(|value| *value == 3).now_or_never().unwrap().unwrap(), 3);
    assert!(receiver.wait_for(|value| *value == 4).now_or_never().unwrap().is_err());
    let (sender, receiver) = channel(1);
    drop(receiver);
    assert_eq!(sender.send(2), Err(SendError(2)));
    assert_eq!((sender.send_replace(3), *sender.borrow()), (1, 3));
}

/// Threads that send and threads that wait: nobody misses the last value.
#[test]
fn no_change_is_missed_by_another_thread() {
    for _ in 0..50 {
        let (sender, receiver) = channel(0);
        let late = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let mut receiver = receiver.clone();
                let late = &late;
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let last = receiver.wait_for(|value| *value == 200);
                    let found = runtime.block_on(crate::runtime::timeout(Duration::from_secs(20), async {
                        last.await.is_ok()
                    }));
                    if found != Ok(true) {
                        late.store(true, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..2 {
                let sender = sender.clone();
                scope.spawn(move || (0..100).for_each(|_| sender.send_modify(|value| *value += 1)));
            }
        });
        assert!(!late.load(Ordering::SeqCst));
    }
}
