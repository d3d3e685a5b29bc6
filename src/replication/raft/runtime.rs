//! What consensus runs on: tokio, but for chance and for the order in which those who wait are woken.
//!
//! openraft draws its election time-outs from the runtime it is given, and here that is [`fastrand`]'s generator of the
//! thread: random in production, from a seed in a simulation. Tokio's watch channel wakes those who wait on one value in
//! an order that it draws by lot; [`Watch`] wakes them in the order in which they came. With these two, a cluster on
//! tokio's paused clock takes the same way each time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::{self as contract, RecvError, SendError};
use openraft_rt_tokio::TokioRuntime;
use rand_core::TryRng;
use tokio::sync::{Notify, watch};

/// The runtime. Never built: openraft uses the functions only.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Chance {
        Chance
    }

    fn new(threads: usize) -> Runtime {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}

/// Draws from the thread's generator.
pub struct Chance;

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(fastrand::u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(fastrand::u64(..))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fastrand::fill(bytes);
        Ok(())
    }
}

/// A channel that holds one value and tells of its changes. The value is in tokio's; who waits for a change waits here.
pub struct Watch;

/// Those who wait for a change, first come, first woken.
#[derive(Clone, Default)]
struct Waiting(Arc<Notify>);

/// Wakes all when a sender is gone: it may have been the last.
#[derive(Clone)]
struct WakeAtEnd(Waiting);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.0.notify_waiters();
    }
}

/// Sets the value.
pub struct Sender<T> {
    // Dropped before those who wait are woken.
    value: watch::Sender<T>,
    end: WakeAtEnd,
}

/// Sees the value.
pub struct Receiver<T> {
    value: watch::Receiver<T>,
    waiting: Waiting,
}

/// A channel that holds `init`.
pub(super) fn channel<T>(init: T) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = watch::channel(init);
    let waiting = Waiting::default();
    (Sender { value: sender, end: WakeAtEnd(waiting.clone()) }, Receiver { value: receiver, waiting })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { value: self.value.clone(), end: self.end.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { value: self.value.clone(), waiting: self.waiting.clone() }
    }
}

impl contract::Watch for Watch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = watch::Ref<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: Send + Sync> contract::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value).map_err(|unsent| SendError(unsent.0))?;
        self.end.0.0.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let is_modified = self.value.send_if_modified(modify);
        if is_modified {
            self.end.0.0.notify_waiters();
        }
        is_modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), waiting: self.end.0.clone() }
    }
}

impl<T: Send + Sync> contract::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Waits from here on, so that no change falls between the look and the wait.
            let mut woken = std::pin::pin!(self.waiting.0.notified());
            woken.as_mut().enable();
            if self.value.has_changed().unwrap_or(true) {
                // Changed, or without a sender: in either case it has not to wait.
                return self.value.changed().await.map_err(|_| RecvError(()));
            }
            woken.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.value.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use contract::WatchReceiver;
    use openraft_rt::testing::Suite;
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn openrafts_own_suite() {
        Suite::<Runtime>::test_all();
    }

    /// Keeps out tokio's lot: it wakes those who wait in another order each time.
    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let tasks = crate::tasks::Tasks::new();
        for nth in 0..32 {
            let (mut receiver, woken) = (receiver.clone(), woken.clone());
            tasks.spawn("waiter", async move {
                let changed = receiver.changed().await;
                woken.lock().push((nth, changed.is_ok()));
            });
        }
        tokio::task::yield_now().await;
        contract::WatchSender::send(&sender, 1).unwrap();
        assert!(tasks.join(Duration::from_secs(1)).await);
        assert_eq!(*woken.lock(), (0..32).map(|nth| (nth, true)).collect::<Vec<_>>());
        drop(sender);
        assert!(receiver.clone().changed().await.is_ok(), "the last value is seen before the end");
    }
}
