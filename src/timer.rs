//! Timers that keep to the microsecond, and how to replace them in a simulation.
//!
//! `tokio::time::sleep` wakes on whole milliseconds, ten times the smallest delay a node injects (docs/ARCHITECTURE.md,
//! "The delay is real"). [`ExactTimers`] use Linux's timerfd; [`TokioTimers`] tokio's own clock, which a test can pause.

use std::os::fd::OwnedFd;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Makes timers.
pub trait Timers: Send + Sync + 'static {
    /// One timer, for one task.
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
    /// What it is set to, and has not rung for yet: whoever is woken by something else and waits on asks for it again.
    set_to: Option<Instant>,
}

impl ExactTimer {
    fn new() -> std::io::Result<ExactTimer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // What takes its place is an `unsafe fn`. The deprecated one is unsound for types that lie about the descriptor they
        // own, and `OwnedFd` does not.
        #[expect(deprecated, reason = "sound for OwnedFd, and without unsafe code")]
        let fd = AsyncFd::new(fd)?;
        Ok(ExactTimer { fd, set_to: None })
    }

    fn set(&mut self, at: Instant, duration: Duration) -> std::io::Result<()> {
        if self.set_to == Some(at) {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        };
        // Setting the timer also takes back an expiry of an earlier, cancelled wait that nobody has read.
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
        self.set_to = Some(at);
        Ok(())
    }

    async fn wait(&mut self) -> std::io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut expiries = [0u8; 8];
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expiries)?)) {
                Ok(read) => {
                    self.set_to = None;
                    return read.map(drop);
                }
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
            if duration.is_zero() {
                return;
            }
            let rung = match self.set(at, duration) {
                Ok(()) => self.wait().await,
                Err(error) => Err(error),
            };
            if let Err(error) = rung {
                tracing::warn!(%error, "the exact timer failed");
                tokio::time::sleep_until(at).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
