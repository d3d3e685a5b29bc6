//! What a quorum would cost if nothing but the injected delays took time: order statistics of uniform delays.
//!
//! A write goes to N followers at once, each with its own delay, uniform in `[min, max]`, and is answered at the k-th
//! acknowledgement: it takes the k-th smallest of N independent uniforms. Scaled to `[0, 1]` that is Beta(k, N + 1 − k)
//! distributed (David and Nagaraja, *Order Statistics*, section 2.1), whose distribution function at `x`, the
//! regularised incomplete beta function, is the chance that at least k of N uniforms lie below `x`: a binomial tail.
//! Pure; knows neither the network nor the CPU, which is why measured figures lie above it.

use std::time::Duration;

use serde::Serialize;

/// Delays drawn anew for each follower and write, uniform in `[min, max]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uniform {
    pub min: Duration,
    pub max: Duration,
}

/// Latency of a quorum if only the injected delays took time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ideal {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
}

/// The ideal latency of the `quorum`-th of `followers` acknowledgements.
pub(super) fn ideal(quorum: usize, followers: usize, delay: Uniform) -> Ideal {
    let (min_us, max_us) = (micros(delay.min), micros(delay.max));
    let scaled = |x: f64| min_us + (max_us - min_us) * x;
    Ideal {
        mean_us: scaled(quorum as f64 / (followers + 1) as f64),
        p50_us: scaled(quantile(0.50, quorum, followers)),
        p95_us: scaled(quantile(0.95, quorum, followers)),
        p99_us: scaled(quantile(0.99, quorum, followers)),
    }
}

/// The `x` in `[0, 1]` that the `k`-th smallest of `n` uniforms does not exceed with probability `p`.
fn quantile(p: f64, k: usize, n: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Each step halves the interval: after 60 it is narrower than a double can tell.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if at_least(k, n, middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The probability that at least `k` of `n` uniforms lie below `x`. A sum of positive terms: nothing cancels.
fn at_least(k: usize, n: usize, x: f64) -> f64 {
    let mut choose = 1.0; // C(n, j), from j = 0 upwards
    let mut sum = 0.0;
    for j in 0..=n {
        if j >= k {
            sum += choose * x.powi(j as i32) * (1.0 - x).powi((n - j) as i32);
        }
        choose *= (n - j) as f64 / (j + 1) as f64;
    }
    sum
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_and_the_last_have_closed_forms() {
        for n in 1..=9 {
            for p in [0.01, 0.5, 0.95, 0.99] {
                // P(min ≤ x) = 1 − (1 − x)^n and P(max ≤ x) = x^n.
                let first = 1.0 - (1.0f64 - p).powf(1.0 / n as f64);
                let last = p.powf(1.0 / n as f64);
                assert!((quantile(p, 1, n) - first).abs() < 1e-12);
                assert!((quantile(p, n, n) - last).abs() < 1e-12);
            }
        }
        // The middle one of an odd number is symmetric about 1/2.
        assert!((quantile(0.5, 3, 5) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_ideal_of_the_defaults() {
        let delay = Uniform { min: Duration::from_micros(100), max: Duration::from_millis(1) };
        let p50_us: Vec<f64> = (1..=5).map(|k| ideal(k, 5, delay).p50_us.round()).collect();
        assert_eq!(p50_us, [217.0, 382.0, 550.0, 718.0, 883.0]);
        assert!((ideal(3, 5, delay).mean_us - 550.0).abs() < 1e-9);
        let exactly = Uniform { min: Duration::from_millis(2), max: Duration::from_millis(2) };
        assert_eq!(ideal(1, 5, exactly).p99_us, 2000.0);
    }

    #[test]
    fn quantiles_agree_with_drawn_delays() {
        const DRAWS: usize = 40_000;
        let mut random = fastrand::Rng::with_seed(7);
        let n = 5;
        let mut kth = vec![vec![]; n];
        for _ in 0..DRAWS {
            let mut delays: Vec<f64> = (0..n).map(|_| random.f64()).collect();
            delays.sort_by(f64::total_cmp);
            delays.into_iter().enumerate().for_each(|(k, delay)| kth[k].push(delay));
        }
        for (index, sample) in kth.iter_mut().enumerate() {
            sample.sort_by(f64::total_cmp);
            for p in [0.5, 0.95, 0.99] {
                let drawn = sample[(p * DRAWS as f64) as usize];
                let computed = quantile(p, index + 1, n);
                assert!((drawn - computed).abs() < 0.01, "k = {}: {drawn}, not {computed}", index + 1);
            }
        }
    }

    proptest! {
        #[test]
        fn more_acknowledgements_take_longer_and_all_lie_within_the_delays(
            n in 1usize..40, p in 0.001f64..0.999, min_us in 0u64..1000, width_us in 0u64..10_000,
        ) {
            let quantiles: Vec<f64> = (1..=n).map(|k| quantile(p, k, n)).collect();
            prop_assert!(quantiles.is_sorted());
            for (index, x) in quantiles.iter().enumerate() {
                prop_assert!((at_least(index + 1, n, *x) - p).abs() < 1e-9);
            }
            let delay =
                Uniform { min: Duration::from_micros(min_us), max: Duration::from_micros(min_us + width_us) };
            for k in 1..=n {
                let Ideal { mean_us, p50_us, p95_us, p99_us } = ideal(k, n, delay);
                let (min_us, max_us) = (min_us as f64, (min_us + width_us) as f64);
                prop_assert!(min_us <= p50_us && p50_us <= p95_us && p95_us <= p99_us && p99_us <= max_us);
                prop_assert!((min_us..=max_us).contains(&mean_us));
            }
        }
    }
}
