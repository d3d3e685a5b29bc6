//! A recorder of latencies, and hdrhistogram's one address.
//!
//! Owns the choice of range, resolution and memory. Refuses to know what is measured, which clock was read, and who
//! shares a recorder: it has no lock of its own, so that a caller who needs none pays for none.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations below this are told apart no further.
const FINEST_NS: u64 = 64;
/// Longer durations count as this long in the quantiles (the mean and the maximum take them as they are).
const LONGEST_NS: u64 = 120_000_000_000;
/// Decimal digits that quantiles are good for: 0.1 %.
const DIGITS: u8 = 3;

/// Records durations from 64 ns to 120 s in about 180 kB, however many there are.
///
/// [`LatencyRecorder::record`] costs some nanoseconds and never allocates. Quantiles are good to 0.1 % (64 ns below
/// 131 µs); count, mean and maximum are exact.
#[derive(Clone)]
pub struct LatencyRecorder {
    histogram: Histogram<u64>,
    sum_ns: u128,
    max_ns: u64,
}

impl LatencyRecorder {
    /// A recorder with nothing in it.
    #[expect(clippy::expect_used, reason = "the bounds are constants, and a test makes one")]
    pub fn new() -> LatencyRecorder {
        let histogram =
            Histogram::new_with_bounds(FINEST_NS, LONGEST_NS, DIGITS).expect("the bounds are in order");
        LatencyRecorder { histogram, sum_ns: 0, max_ns: 0 }
    }

    /// Takes note of one duration.
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes note of one duration in nanoseconds.
    pub fn record_ns(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
        self.sum_ns += u128::from(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Adds what another recorder has.
    pub fn merge(&mut self, other: &LatencyRecorder) {
        // Recorders all have the same bounds, so this cannot fail.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok());
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.sum_ns = 0;
        self.max_ns = 0;
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Their exact mean; `None` without any.
    pub fn mean(&self) -> Option<Duration> {
        let mean_ns = self.sum_ns.checked_div(u128::from(self.count()))?;
        Some(Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX)))
    }

    /// The longest, exactly; `None` without any.
    pub fn max(&self) -> Option<Duration> {
        (self.count() > 0).then_some(Duration::from_nanos(self.max_ns))
    }

    /// The duration that a share `quantile` (0 to 1) of all recorded ones does not exceed; `None` without any.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        // The histogram answers the upper end of a bucket, which may lie above everything recorded.
        let value_ns = self.histogram.value_at_quantile(quantile.clamp(0.0, 1.0)).min(self.max_ns);
        (self.count() > 0).then_some(Duration::from_nanos(value_ns))
    }

    /// The usual figures at once; `None` without any recorded.
    pub fn summary(&self) -> Option<LatencySummary> {
        let quantile_us = |quantile| self.quantile(quantile).map(micros);
        Some(LatencySummary {
            count: self.count(),
            mean_us: self.sum_ns as f64 / self.count() as f64 / 1e3,
            p50_us: quantile_us(0.50)?,
            p95_us: quantile_us(0.95)?,
            p99_us: quantile_us(0.99)?,
            max_us: micros(self.max()?),
        })
    }
}

impl Default for LatencyRecorder {
    fn default() -> LatencyRecorder {
        LatencyRecorder::new()
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

/// What a [`LatencyRecorder`] has seen, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many were recorded.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half of them took at most this long.
    pub p50_us: f64,
    /// 95 % of them took at most this long.
    pub p95_us: f64,
    /// 99 % of them took at most this long.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_recorded_has_no_figures() {
        let mut recorder = LatencyRecorder::new();
        assert_eq!((recorder.count(), recorder.mean(), recorder.max()), (0, None, None));
        assert_eq!(recorder.quantile(0.5), None);
        assert_eq!(recorder.summary(), None);
        recorder.record(Duration::from_millis(1));
        recorder.clear();
        assert_eq!(recorder.summary(), None);
    }

    #[test]
    fn one_recorded_is_every_figure() {
        let mut recorder = LatencyRecorder::new();
        recorder.record(Duration::from_micros(1234));
        let summary = recorder.summary().unwrap();
        assert_eq!((summary.count, summary.mean_us, summary.max_us), (1, 1234.0, 1234.0));
        assert_eq!((summary.p50_us, summary.p99_us), (1234.0, 1234.0));
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut recorder = LatencyRecorder::new();
        recorder.record(Duration::from_millis(1));
        recorder.record(Duration::from_secs(3600));
        assert_eq!(recorder.count(), 2);
        assert_eq!(recorder.max(), Some(Duration::from_secs(3600)));
        let p99_s = recorder.quantile(0.99).unwrap().as_secs_f64();
        assert!((119.9..150.0).contains(&p99_s), "{p99_s}");
    }

    proptest! {
        #[test]
        fn figures_agree_with_a_sorted_list(
            mut latencies_ns in prop::collection::vec(0u64..10_000_000_000, 1..300),
            quantile in 0.0f64..=1.0,
            split in any::<prop::sample::Index>(),
        ) {
            // Two recorders merged know what one would.
            let (mut recorder, mut other) = (LatencyRecorder::new(), LatencyRecorder::new());
            let split = split.index(latencies_ns.len());
            latencies_ns[..split].iter().for_each(|latency| recorder.record_ns(*latency));
            latencies_ns[split..].iter().for_each(|latency| other.record_ns(*latency));
            recorder.merge(&other);

            latencies_ns.sort_unstable();
            let count = latencies_ns.len();
            let rank = ((quantile * count as f64).ceil() as usize).clamp(1, count);
            let exact_ns = latencies_ns[rank - 1] as f64;
            let found_ns = recorder.quantile(quantile).unwrap().as_nanos() as f64;
            prop_assert!((found_ns - exact_ns).abs() <= exact_ns / 1000.0 + 64.0, "{found_ns}, not {exact_ns}");
            let mean_ns = latencies_ns.iter().sum::<u64>() / count as u64;
            prop_assert_eq!(recorder.mean().unwrap().as_nanos(), u128::from(mean_ns));
            prop_assert_eq!(recorder.max().unwrap().as_nanos(), u128::from(latencies_ns[count - 1]));
            prop_assert_eq!(recorder.count(), count as u64);
        }
    }
}
