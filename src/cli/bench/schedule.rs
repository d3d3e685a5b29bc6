//! The open loop: writes arrive on a fixed schedule, whether or not earlier ones have been answered.
//!
//! In a closed loop a slow answer keeps its writer from asking again, so that a stall of a second shows as one slow
//! write instead of the many it would have hit (coordinated omission; Tene, *How NOT to Measure Latency*, 2013). Here
//! write `i` is due at `start + i / rate`, any free writer sends it, and its latency counts from when it was due.
//!
//! Owns the schedule, kept with an exact timer: a millisecond is longer than a write takes. Refuses to know what is
//! sent. Nothing queues up: what is due and not yet sent is the difference of two counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::timer::{ExactTimers, Timers};

/// Arrivals `0..total`, evenly spaced.
pub(super) struct Schedule {
    start: Instant,
    rate: f64,
    total: u64,
    due: Semaphore,
    taken: AtomicU64,
}

impl Schedule {
    /// `total` arrivals, `rate` (> 0) a second, from `start`.
    pub(super) fn new(start: Instant, rate: f64, total: u64) -> Schedule {
        Schedule { start, rate, total, due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// When this arrival is due.
    pub(super) fn due_at(&self, arrival: u64) -> Instant {
        self.start + Duration::from_secs_f64(arrival as f64 / self.rate)
    }

    /// How many arrivals are due by `now`.
    fn due_by(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_secs_f64();
        ((since * self.rate) as u64).saturating_add(1).min(self.total)
    }

    /// Waits for an arrival that nobody has taken, and takes it; `None` when all are taken.
    pub(super) async fn take(&self) -> Option<u64> {
        // Never closed, so never an error.
        self.due.acquire().await.ok()?.forget();
        let arrival = self.taken.fetch_add(1, Ordering::Relaxed);
        (arrival < self.total).then_some(arrival)
    }

    /// Lets the arrivals happen on time. Then lets `writers` of them know that there are no more.
    pub(super) async fn run(&self, writers: usize) {
        let mut timer = ExactTimers.timer();
        let mut released = 0;
        while released < self.total {
            let due = self.due_by(Instant::now());
            self.due.add_permits((due - released.min(due)) as usize);
            released = released.max(due);
            if released < self.total {
                timer.sleep_until(self.due_at(released).into()).await;
                // A timer that is late already does not wait: others still get their turn.
                tokio::task::yield_now().await;
            }
        }
        self.due.add_permits(writers);
    }
}

/// What the open loop says of itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct OpenLoop {
    /// Writes a second that were asked for.
    pub rate: f64,
    /// Writes a second that were begun.
    pub begun_per_s: f64,
    /// Whether that is the rate asked for, to 1 %, with none left out.
    pub is_held: bool,
    /// Arrivals that had not been begun when time was up, and never were. Latency knows nothing of them.
    pub not_begun: u64,
    /// How long after they were due writes were begun: because all writers were busy, or the timer late.
    pub mean_lag_us: f64,
    /// The worst of that.
    pub max_lag_us: f64,
}

impl OpenLoop {
    /// Judges a run that began `begun` writes, the last one `last_begun` after the first was due.
    pub(super) fn judge(
        rate: f64,
        begun: u64,
        not_begun: u64,
        last_begun: Duration,
        lag: Option<(Duration, Duration)>,
    ) -> OpenLoop {
        // n arrivals span n − 1 intervals.
        let begun_per_s = match begun {
            0 => 0.0,
            1 => rate.min(1.0 / last_begun.as_secs_f64()),
            _ => (begun - 1) as f64 / last_begun.as_secs_f64(),
        };
        let (mean, max) = lag.unwrap_or_default();
        OpenLoop {
            rate,
            begun_per_s,
            is_held: begun > 0 && not_begun == 0 && begun_per_s >= 0.99 * rate,
            not_begun,
            mean_lag_us: mean.as_nanos() as f64 / 1e3,
            max_lag_us: max.as_nanos() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_due_one_after_the_other() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1000.0, 5);
        assert_eq!(schedule.due_at(0), start);
        assert_eq!(schedule.due_at(3), start + Duration::from_millis(3));
        assert_eq!(schedule.due_by(start), 1);
        assert_eq!(schedule.due_by(start + Duration::from_micros(2500)), 3);
        assert_eq!(schedule.due_by(start + Duration::from_secs(9)), 5);
    }

    #[tokio::test]
    async fn each_arrival_is_taken_once_and_not_before_it_is_due() {
        let schedule = Schedule::new(Instant::now(), 5000.0, 100);
        let writer = || async {
            let mut taken = vec![];
            while let Some(arrival) = schedule.take().await {
                assert!(Instant::now() >= schedule.due_at(arrival));
                taken.push(arrival);
            }
            taken
        };
        let ((), a, b, c) = tokio::join!(schedule.run(3), writer(), writer(), writer());
        let mut all = [a, b, c].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u64>>());
    }

    #[test]
    fn a_rate_is_held_or_it_is_not() {
        let judge = |begun, not_begun, last_ms| {
            OpenLoop::judge(100.0, begun, not_begun, Duration::from_millis(last_ms), None)
        };
        assert!(judge(101, 0, 1000).is_held);
        assert!(judge(101, 0, 1009).is_held);
        assert!(!judge(101, 0, 1020).is_held);
        assert!(!judge(101, 1, 1000).is_held);
        assert!(!judge(0, 0, 0).is_held);
        assert!(judge(1, 0, 0).is_held);
    }
}
