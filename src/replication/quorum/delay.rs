//! When an entry may leave for a follower: the injected delay, drawn, kept and reported.
//!
//! [`Schedule`] is pure: it is told the time and the random numbers. [`Timers`] is how a link waits for an instant
//! exactly: `tokio::time::sleep` wakes on whole milliseconds, ten times the smallest delay, so production uses
//! a timerfd ([`ExactTimers`]) and the simulation tokio's own, which it controls.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::store::Version;

/// Uniform in `[min, max]`.
#[derive(Clone, Copy, Debug)]
pub struct DelayRange {
    /// The shortest delay.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl DelayRange {
    /// Draws one delay.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Duration {
        if self.max.is_zero() {
            return Duration::ZERO;
        }
        self.min + (self.max - self.min).mul_f64(rng.f64())
    }
}

/// An entry that may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its version.
    pub version: Version,
    /// Whether it had a delay to wait for.
    pub delayed: bool,
}

/// The entries a link has yet to send, each with the instant at which it may leave. PURE.
#[derive(Debug, Default)]
pub struct Schedule {
    /// May leave at once: no delay, sent before without an answer, or overdue since the link was broken.
    ready: VecDeque<Version>,
    waiting: BinaryHeap<Reverse<(Instant, Version)>>,
}

impl Schedule {
    /// Whether it has room for another entry within `entries_max`.
    pub fn has_room(&self, entries_max: usize) -> bool {
        self.ready.len() + self.waiting.len() < entries_max
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.waiting.clear();
    }

    /// `version` may leave at `at`, or at once if there is no such instant.
    pub fn add(&mut self, version: Version, at: Option<Instant>) {
        match at {
            Some(at) => self.waiting.push(Reverse((at, version))),
            None => self.ready.push_back(version),
        }
    }

    /// Takes the next version that may leave by `now`, in the order of their instants.
    pub fn pop_due(&mut self, now: Instant) -> Option<Due> {
        if let Some(version) = self.ready.pop_front() {
            return Some(Due { version, delayed: false });
        }
        let Reverse((at, _)) = self.waiting.peek()?;
        if *at > now {
            return None;
        }
        self.waiting.pop().map(|Reverse((_, version))| Due { version, delayed: true })
    }

    /// When the next entry may leave. Only asked once nothing is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }
}

/// Makes the timers of links.
pub trait Timers: Send + Sync + 'static {
    /// One timer, for one link.
    fn timer(&self) -> Box<dyn Timer>;
}

/// Waits for an instant, as exactly as it can.
pub trait Timer: Send {
    /// Completes at `at`, or soon after. Cancelling it and asking again is fine.
    fn sleep_until(&mut self, at: Instant) -> BoxFuture<'_, ()>;
}

/// Timers on tokio's own clock: whole milliseconds, but under the control of a test that pauses time.
pub struct TokioTimers;

impl Timers for TokioTimers {
    fn timer(&self) -> Box<dyn Timer> {
        Box::new(TokioTimer)
    }
}

struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep_until(&mut self, at: Instant) -> BoxFuture<'_, ()> {
        tokio::time::sleep_until(at).boxed()
    }
}

/// Timers on Linux's timerfd: a hundred microseconds take about 125 (docs/ARCHITECTURE.md, "The delay is real").
pub struct ExactTimers;

impl Timers for ExactTimers {
    fn timer(&self) -> Box<dyn Timer> {
        match ExactTimer::new() {
            Ok(timer) => Box::new(timer),
            Err(error) => {
                // Out of file descriptors, say. Late is better than never, but it must not pass unnoticed.
                tracing::warn!(%error, "no exact timer: injected delays will be whole milliseconds");
                Box::new(TokioTimer)
            }
        }
    }
}

struct ExactTimer {
    fd: AsyncFd<OwnedFd>,
}

impl ExactTimer {
    fn new() -> std::io::Result<ExactTimer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(unsafe_code, reason = "tokio has no safe way to register a descriptor of another kind")]
        // SAFETY: an `OwnedFd` stays open, and the same, for as long as the `AsyncFd` that owns it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(ExactTimer { fd })
    }

    async fn sleep_for(&self, duration: Duration) -> std::io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        };
        // Setting the timer also takes back an expiry of an earlier, cancelled wait that nobody has read.
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
        loop {
            let mut guard = self.fd.readable().await?;
            let mut expiries = [0u8; 8];
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expiries)?)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => continue,
            }
        }
    }
}

impl Timer for ExactTimer {
    fn sleep_until(&mut self, at: Instant) -> BoxFuture<'_, ()> {
        async move {
            let duration = at.saturating_duration_since(Instant::now());
            // A timerfd set to zero is disarmed and would never fire.
            if !duration.is_zero()
                && let Err(error) = self.sleep_for(duration).await
            {
                tracing::warn!(%error, "the exact timer failed");
                tokio::time::sleep_until(at).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_leave_in_the_order_of_their_instants_and_never_early(
            delays_ms in proptest::collection::vec(0u64..20, 0..50),
        ) {
            let start = Instant::now();
            let mut schedule = Schedule::default();
            for (version, delay) in (1..).zip(&delays_ms) {
                schedule.add(version, Some(start + Duration::from_millis(*delay)));
            }
            let mut left = Vec::new();
            for ms in 0..20 {
                let now = start + Duration::from_millis(ms);
                while let Some(Due { version, delayed }) = schedule.pop_due(now) {
                    prop_assert!(delayed);
                    prop_assert_eq!(delays_ms[version as usize - 1], ms);
                    left.push(version);
                }
                prop_assert!(schedule.next_at().is_none_or(|at| at > now));
            }
            left.sort_unstable();
            prop_assert_eq!(left, (1..=delays_ms.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn draws_stay_within_the_range(seed in any::<u64>(), min_us in 0u64..1_000, width_us in 0u64..1_000) {
            let range = DelayRange { min: Duration::from_micros(min_us), max: Duration::from_micros(min_us + width_us) };
            let mut rng = fastrand::Rng::with_seed(seed);
            let draws: Vec<_> = (0..50).map(|_| range.draw(&mut rng)).collect();
            prop_assert!(draws.iter().all(|d| (range.min..=range.max).contains(d)));
            prop_assert!(width_us < 100 || draws.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }

    /// Keeps out the millisecond wheel: `tokio::time::sleep(0.2 ms)` takes more than 1 ms.
    #[tokio::test]
    async fn the_exact_timer_is_never_early_and_mostly_well_below_a_millisecond() {
        let mut timer = ExactTimers.timer();
        let asked = Duration::from_micros(200);
        let mut real = Vec::new();
        for _ in 0..51 {
            let start = Instant::now();
            timer.sleep_until(start + asked).await;
            real.push(start.elapsed());
        }
        real.sort_unstable();
        assert!(real[0] >= asked, "early: {:?}", real[0]);
        assert!(real[10] < Duration::from_micros(900), "late: {real:?}");
    }

    #[tokio::test]
    async fn a_cancelled_wait_does_not_shorten_the_next() {
        let mut timer = ExactTimers.timer();
        let start = Instant::now();
        let mut short = timer.sleep_until(start + Duration::from_micros(500));
        assert!(futures::poll!(&mut short).is_pending());
        drop(short);
        let at = start + Duration::from_millis(5);
        timer.sleep_until(at).await;
        assert!(Instant::now() >= at);
    }
}
