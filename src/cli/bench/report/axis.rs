//! An axis: from where to where it goes, where its ticks are, and what stands beside them.
//!
//! Pure. Owns the choice between a linear and a logarithmic scale, and round numbers at the ticks. Refuses to know of
//! pixels: [`Axis::position`] gives a place between `low` and `high`, and `picture` makes pixels of it.

use super::numbers::{round, thousands};

/// Ticks of a linear axis, about.
const TICKS: f64 = 5.0;
/// Slots with a name beside them, at the most: more would run into one another.
const NAMED_SLOTS_MAX: usize = 16;
/// A logarithmic axis of more decades than this has ticks at powers of ten alone.
const DECADES_WITH_STEPS: f64 = 2.5;

/// A scale with ticks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// What is counted, with its unit.
    pub label: String,
    /// The position of the one end.
    pub low: f64,
    /// The position of the other end; above `low`.
    pub high: f64,
    /// Where something is written, and what.
    pub ticks: Vec<(f64, String)>,
    is_log: bool,
}

impl Axis {
    /// For these values: linear from zero, or logarithmic if they are more than a decade apart.
    pub(super) fn fitting(label: &str, values: &[f64]) -> Axis {
        let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(0.0, f64::max);
        if low > 0.0 && high > 10.0 * low {
            Axis::log(label, low, high, plain)
        } else {
            Axis::from_zero(label, high)
        }
    }

    /// Linear, from zero to `high` or a little above.
    pub(super) fn from_zero(label: &str, high: f64) -> Axis {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let raw = high / TICKS;
        let power = raw.log10().floor();
        let unit = 10f64.powf(power);
        let multiple = [1.0, 2.0, 5.0].into_iter().find(|multiple| multiple * unit >= raw).unwrap_or(10.0);
        let step = multiple * unit;
        let steps = (high / step).ceil().max(1.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let name = |value: f64| match decimals {
            0 => thousands(value),
            _ => format!("{value:.decimals$}"),
        };
        let ticks = (0..=steps as u32).map(|index| f64::from(index) * step);
        Axis {
            label: label.to_owned(),
            low: 0.0,
            high: steps * step,
            ticks: ticks.map(|value| (value, name(value))).collect(),
            is_log: false,
        }
    }

    /// Shares from nothing to all.
    pub(super) fn shares(label: &str) -> Axis {
        let ticks = (0..=5u32).map(|fifths| (f64::from(fifths) / 5.0, format!("{} %", fifths * 20)));
        Axis { label: label.to_owned(), low: 0.0, high: 1.0, ticks: ticks.collect(), is_log: false }
    }

    /// Shares from `low` (> 0, and below 1) to all, a decade as long as the other.
    pub(super) fn small_shares(label: &str, low: f64) -> Axis {
        Axis::log(label, low, 1.0, |share| format!("{} %", plain(share * 100.0)))
    }

    /// Logarithmic, from the tick at or below `low` to the one at or above `high`; 0 < `low` ≤ `high`.
    fn log(label: &str, low: f64, high: f64, name: impl Fn(f64) -> String) -> Axis {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let multiples: &[f64] =
            if (high / low).log10() > DECADES_WITH_STEPS { &[1.0] } else { &[1.0, 2.0, 5.0] };
        // Dividing by a power of ten gives the double nearest to 0.2; multiplying with 0.1 may not.
        let power = |multiple: f64, decade: i32| match decade {
            0.. => multiple * 10f64.powi(decade),
            _ => multiple / 10f64.powi(-decade),
        };
        let mut values: Vec<f64> = (first..=last)
            .flat_map(|decade| multiples.iter().map(move |multiple| power(*multiple, decade)))
            .collect();
        // A hair of slack, or the tick that should be the end would be missed by the last bit.
        let (low, high) = (low * (1.0 + 1e-9), high * (1.0 - 1e-9));
        let start = values.iter().rposition(|value| *value <= low).unwrap_or(0);
        let end = values.iter().position(|value| *value >= high).unwrap_or(values.len() - 1);
        values = values[start..=end.max(start)].to_vec();
        let ticks: Vec<(f64, String)> = values.iter().map(|value| (value.log10(), name(*value))).collect();
        let ends = (ticks.first().map(|tick| tick.0), ticks.last().map(|tick| tick.0));
        let (low, high) = (ends.0.unwrap_or(0.0), ends.1.unwrap_or(1.0));
        Axis {
            label: label.to_owned(),
            low,
            // One tick alone is no scale.
            high: if high > low { high } else { low + 1.0 },
            ticks,
            is_log: true,
        }
    }

    /// Places side by side, one for each name, at 0, 1, 2, …
    pub(super) fn slots(label: &str, names: &[String]) -> Axis {
        let every = names.len().div_ceil(NAMED_SLOTS_MAX).max(1);
        let ticks = names.iter().enumerate().step_by(every);
        Axis {
            label: label.to_owned(),
            low: -0.5,
            high: names.len().max(1) as f64 - 0.5,
            ticks: ticks.map(|(index, name)| (index as f64, name.clone())).collect(),
            is_log: false,
        }
    }

    /// Where a value lies; `None` if it has no place on this axis.
    pub(super) fn position(&self, value: f64) -> Option<f64> {
        let position = if self.is_log { value.log10() } else { value };
        (position.is_finite() && (self.low..=self.high).contains(&position)).then_some(position)
    }

    /// What stands at the tick at this position.
    pub(super) fn name_at(&self, position: f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| *at == position);
        tick.map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

/// A number of the kind 1, 2, 5 times a power of ten.
fn plain(number: f64) -> String {
    if number >= 1000.0 { thousands(number) } else { round(number, 6) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn close_values_are_counted_from_zero() {
        assert_eq!(names(&Axis::fitting("ms", &[1.1, 2.9])), ["0", "1", "2", "3"]);
        assert_eq!(names(&Axis::fitting("ms", &[0.3, 0.7])), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        let axis = Axis::fitting("writes/s", &[48_000.0, 61_000.0]);
        assert_eq!(names(&axis), ["0", "20,000", "40,000", "60,000", "80,000"]);
        assert_eq!(axis.position(48_000.0), Some(48_000.0));
        assert_eq!(axis.position(81_000.0), None);
    }

    #[test]
    fn values_far_apart_get_decades() {
        let axis = Axis::fitting("ms", &[0.217, 11.387]);
        assert_eq!(names(&axis), ["0.2", "0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(axis.position(1.0), Some(0.0));
        assert_eq!(axis.position(0.0), None);
        assert_eq!(names(&Axis::fitting("ms", &[0.01, 90.0])), ["0.01", "0.1", "1", "10", "100"]);
        // What is zero cannot be far from anything on such an axis.
        assert_eq!(Axis::fitting("ms", &[0.0, 100.0]).low, 0.0);
    }

    #[test]
    fn shares_end_with_all() {
        assert_eq!(names(&Axis::small_shares("", 0.001)), ["0.1 %", "1 %", "10 %", "100 %"]);
        assert_eq!(names(&Axis::shares("")), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(Axis::small_shares("", 0.5).position(1.0), Some(0.0));
    }

    #[test]
    fn there_is_an_axis_without_values() {
        for values in [&[][..], &[0.0], &[f64::NAN, f64::INFINITY]] {
            let axis = Axis::fitting("ms", values);
            assert_eq!((axis.low, axis.high), (0.0, 1.0), "{values:?}");
        }
        let axis = Axis::slots("quorum", &[]);
        assert_eq!((axis.low, axis.high, axis.ticks.len()), (-0.5, 0.5, 0));
    }

    #[test]
    fn many_slots_are_not_all_named() {
        let quorums: Vec<String> = (1..=64).map(|quorum: u32| quorum.to_string()).collect();
        let axis = Axis::slots("quorum", &quorums);
        assert_eq!(axis.ticks.len(), NAMED_SLOTS_MAX);
        assert_eq!(axis.name_at(4.0), "5");
        assert_eq!(axis.position(63.0), Some(63.0));
    }

    proptest! {
        #[test]
        fn every_value_has_its_place_and_ticks_are_few_and_in_order(
            values in prop::collection::vec(1e-4f64..1e7, 1..20),
        ) {
            let axis = Axis::fitting("x", &values);
            for value in &values {
                prop_assert!(axis.position(*value).is_some(), "{value} is not on {axis:?}");
            }
            prop_assert!(axis.low < axis.high);
            prop_assert!((2..=13).contains(&axis.ticks.len()), "{axis:?}");
            prop_assert!(axis.ticks.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "{axis:?}");
            prop_assert!(axis.ticks.iter().all(|(at, _)| (axis.low..=axis.high).contains(at)));
        }
    }
}
