//! A value that tasks wait on, for builds that can simulate: it does what `tokio::sync::watch` does, as far as it is used
//! here, and wakes those who wait in the order in which they came.
//!
//! tokio spreads them over eight lists, each by a throw of the thread's dice, and wakes list by list: with the same
//! wakes the next task to run is another one in every process.
//!
//! # Why no change is missed
//!
//! A change counts the version up, and then takes everybody off the list of those who wait. Who wants to wait looks at
//! the version once more with the list locked. Either it sees the new version there; or it is on the list before the
//! change takes it off.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// In the order of their coming, each with its number.
    list: VecDeque<(u64, Waker)>,
    next: u64,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn wake_all(&self) {
        let woken = std::mem::take(&mut self.waiting().list);
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

/// The sender was dropped, and the last value has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sender is gone")]
pub(crate) struct RecvError;

/// Nobody receives; the value comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody receives")]
pub(crate) struct SendError<T>(pub(crate) T);

/// The present value, locked for reading. Not to be kept over an `await`.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value, and those who wait for its change.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

/// Changes the value.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// A value that nobody receives yet.
    pub(crate) fn new(value: T) -> Self {
        Self {
            shared: Arc::new(Shared {
                value: RwLock::new(value),
                version: AtomicU64::new(0),
                senders: AtomicUsize::new(1),
                receivers: AtomicUsize::new(0),
                waiting: Mutex::default(),
            }),
        }
    }

    /// Replaces the value if anybody receives.
    pub(crate) fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Replaces the value.
    pub(crate) fn send_replace(&self, value: T) -> T {
        let mut old = value;
        self.send_modify(|present| std::mem::swap(present, &mut old));
        old
    }

    /// Changes the value.
    pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value, and tells if the closure says that it did.
    pub(crate) fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.shared.value.write().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut value) {
                return false;
            }
            self.shared.version.fetch_add(1, Ordering::SeqCst);
        }
        self.shared.wake_all();
        true
    }

    /// The present value.
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// Hears of changes from now on.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        self.shared.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: Arc::clone(&self.shared), seen: self.shared.version() }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.wake_all();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

/// Hears of the value's changes.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The present value.
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The present value, which is then seen.
    pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        // Under the lock, so that it is the version of this value.
        self.seen = self.shared.version();
        value
    }

    /// Waits for a value that has not been seen; it is then. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Result<(), RecvError> {
        let mut place = Place { shared: &self.shared, number: None };
        poll_fn(|cx| place.poll(&mut self.seen, cx)).await
    }

    /// Waits until the value is so; it is then seen. Cancel-safe.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_so: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        let Self { shared, seen } = self;
        loop {
            // Before the look: a value that came before the sender went counts.
            let gone = shared.senders.load(Ordering::SeqCst) == 0;
            {
                let value = shared.read();
                *seen = shared.version();
                if is_so(&value) {
                    return Ok(value);
                }
            }
            if gone {
                return Err(RecvError);
            }
            let mut place = Place { shared, number: None };
            let _ = poll_fn(|cx| place.poll(seen, cx)).await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A place on the list of those who wait, given up when dropped.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Place<'_, T> {
    fn poll(&mut self, seen: &mut u64, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        let mut waiting = self.shared.waiting();
        let version = self.shared.version();
        if version != *seen {
            *seen = version;
            return Poll::Ready(Ok(()));
        }
        if self.shared.senders.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(Err(RecvError));
        }
        let number = self.number;
        let Waiting { list, next } = &mut *waiting;
        match list.iter_mut().find(|(own, _)| Some(*own) == number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                self.number = Some(*next);
                list.push_back((*next, cx.waker().clone()));
                *next += 1;
            }
        }
        Poll::Pending
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.waiting().list.retain(|(own, _)| *own != number);
        }
    }
}

#[cfg(test)]
mod tests;
