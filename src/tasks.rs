//! The one door for tasks: every task has a name and an owner, and ends with its node.
//!
//! A node's tasks stop in two steps: [`Tasks::cancel`] tells all of them, [`Tasks::join`] waits until they are gone,
//! and aborts what is not gone by the deadline. A task that panics stops its node: half a node is worse than none.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks with one end. Cheap to clone; clones share the group.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Tasks {
    /// A group without tasks.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Starts a task. It should end soon after [`Tasks::stopping`]; if it panics, the whole group is told to stop.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        self.tracker.spawn(async move {
            let fuse = PanicFuse { name, stop };
            abort.run_until_cancelled(task).await;
            drop(fuse);
        });
    }

    /// Whether the group has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Completes when the group is told to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Tells all tasks to stop.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Waits until all tasks have ended, at most `deadline`; aborts the rest. Returns whether none had to be.
    pub async fn join(&self, deadline: Duration) -> bool {
        self.tracker.close();
        let in_time = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        self.abort.cancel();
        self.tracker.wait().await;
        in_time
    }
}

/// Dropped by a panic's unwinding only.
struct PanicFuse {
    name: &'static str,
    stop: CancellationToken,
}

impl Drop for PanicFuse {
    fn drop(&mut self) {
        // A runtime that shuts down drops its tasks as well: that is no panic.
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked: the node stops");
            self.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_end_when_told_and_stragglers_are_aborted() {
        let tasks = Tasks::new();
        tasks.spawn("polite", tasks.stopping());
        tasks.cancel();
        assert!(tasks.join(Duration::from_secs(1)).await);

        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.cancel();
        assert!(!tasks.join(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_panic_stops_the_group() {
        let tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("on purpose") });
        tasks.stopping().await;
    }
}
