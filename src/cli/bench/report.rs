//! What a run is reported as: a table for people, and JSON for programs.
//!
//! Pure: takes what was measured and makes text of it. Units stand in the names of the JSON fields and in the heads of
//! the table. A figure that is not known is a dash, and `null`.

use std::time::Duration;

use serde::Serialize;

use super::converge::Convergence;
use super::errors::Errors;
use super::health::Injected;
use super::ideal::Ideal;
use super::schedule::OpenLoop;
use crate::observe::{LatencyRecorder, LatencySummary};

/// Shares of the writes for which the JSON tells the latency, so that the distribution can be drawn.
const QUANTILES: [f64; 15] =
    [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999];

/// Everything that a run has to tell.
#[derive(Serialize)]
pub(super) struct Report {
    /// The program, and its version.
    pub program: String,
    /// What was asked for.
    pub settings: Settings,
    /// What was measured, quorum by quorum.
    pub quorums: Vec<Row>,
    /// Why it did not come to its end, if so.
    pub failure: Option<String>,
}

/// What was asked for, as far as it bears on the figures.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) struct Settings {
    pub leader: String,
    pub followers: Vec<String>,
    pub is_own_cluster: bool,
    pub writes: Option<u64>,
    pub duration_s: Option<f64>,
    pub rate_per_s: Option<f64>,
    pub warmup_writes: u64,
    pub writers: usize,
    pub keys: u64,
    pub value_bytes: usize,
    pub seed: u64,
    pub min_delay_us: Option<f64>,
    pub max_delay_us: Option<f64>,
}

/// What was measured with one quorum.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// Followers that a write waited for.
    pub quorum: usize,
    /// Of the successful writes.
    pub latency: Option<LatencySummary>,
    /// `[share, µs]`: that share of the writes took at most that long.
    pub quantiles_us: Vec<(f64, f64)>,
    /// Successful writes a second.
    pub writes_per_s: f64,
    /// From the first write to the last answer.
    pub seconds: f64,
    /// The writes that did not succeed.
    pub errors: Errors,
    /// What the injected delays alone would take.
    pub ideal: Option<Ideal>,
    /// How much longer half of the writes took than that.
    pub p50_above_ideal_us: Option<f64>,
    /// The delays that the leader injected.
    pub delay: Option<Injected>,
    /// How the open loop went, if it was one.
    pub open_loop: Option<OpenLoop>,
    /// CPU time of the load generator's process.
    pub generator_cpu: Cost,
    /// CPU time of all nodes together, if they were started for this.
    pub nodes_cpu: Option<Cost>,
    /// How the followers compared with the leader afterwards.
    pub convergence: Convergence,
}

/// CPU time, and per successful write.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    pub seconds: f64,
    pub us_per_write: Option<f64>,
}

impl Cost {
    /// The cost of `writes` writes.
    pub(super) fn new(cpu: Duration, writes: u64) -> Cost {
        let seconds = cpu.as_secs_f64();
        Cost { seconds, us_per_write: (writes > 0).then(|| seconds * 1e6 / writes as f64) }
    }
}

/// The distribution that the JSON tells.
pub(super) fn quantiles(latency: &LatencyRecorder) -> Vec<(f64, f64)> {
    let at = |share| latency.quantile(share).map(|latency| (share, latency.as_nanos() as f64 / 1e3));
    QUANTILES.into_iter().filter_map(at).collect()
}

impl Report {
    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut text = self.settings.describe();
        text.push_str("\n\n");
        text.push_str(&table(&self.quorums));
        text.push('\n');
        for row in &self.quorums {
            let quorum = row.quorum;
            if let Some(errors) = row.errors.describe() {
                let without = if row.latency.is_some() { ", which no latency includes" } else { "" };
                text.push_str(&format!("quorum {quorum}: errors{without}: {errors}\n"));
            }
            if let Some(open_loop) = row.open_loop.as_ref().filter(|open_loop| !open_loop.is_held) {
                text.push_str(&format!("quorum {quorum}: {}\n", open_loop.complaint()));
            }
        }
        if let Some(line) = equality(&self.quorums) {
            text.push_str(&line);
            text.push('\n');
        }
        if let Some(line) = costs(&self.quorums) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

impl Settings {
    fn describe(&self) -> String {
        let amount = match (self.writes, self.duration_s) {
            (Some(writes), _) => format!("{} writes", thousands(writes as f64)),
            (None, seconds) => format!("{} s of writes", seconds.unwrap_or_default()),
        };
        let (keys, bytes, writers) = (thousands(self.keys as f64), self.value_bytes, self.writers);
        let load = match self.rate_per_s {
            None if writers == 1 => "closed loop, 1 writer".to_owned(),
            None => format!("closed loop, {writers} writers"),
            Some(rate) => format!(
                "open loop, {} writes/s over {writers} writers, latency from when a write was due",
                thousands(rate)
            ),
        };
        let cluster = match self.is_own_cluster {
            true => format!("a cluster of its own: a leader and {} followers", self.followers.len()),
            false => format!("the leader {} and {} followers", self.leader, self.followers.len()),
        };
        let delays = match (self.min_delay_us, self.max_delay_us) {
            (Some(min_us), Some(max_us)) => {
                format!(", {} to {} ms delay to each", round(min_us / 1e3), round(max_us / 1e3))
            }
            _ => String::new(),
        };
        format!("{amount} of {bytes} bytes on {keys} keys for each quorum; {load}\n{cluster}{delays}")
    }
}

impl OpenLoop {
    fn complaint(&self) -> String {
        let not_begun = match self.not_begun {
            0 => String::new(),
            count => format!(", and {} were not begun when time was up", thousands(count as f64)),
        };
        format!(
            "the rate was not held: {} of {} writes/s were begun, up to {} ms late{not_begun}",
            thousands(self.begun_per_s),
            thousands(self.rate),
            millis(Some(self.max_lag_us))
        )
    }
}

/// The table: a line for each quorum.
fn table(rows: &[Row]) -> String {
    const HEAD: [[&str; 12]; 2] = [
        ["", "mean", "p50", "p95", "p99", "", "", "ideal", "above", "delay", "delay", "delay"],
        [
            "quorum", "ms", "ms", "ms", "ms", "writes/s", "errors", "p50 ms", "ideal", "asked", "real",
            "p99 ms",
        ],
    ];
    let mut lines: Vec<Vec<String>> = HEAD.iter().map(|line| line.map(str::to_owned).to_vec()).collect();
    for row in rows {
        let latency = |of: fn(&LatencySummary) -> f64| millis(row.latency.as_ref().map(of));
        let delay = row.delay.as_ref();
        lines.push(vec![
            row.quorum.to_string(),
            latency(|latency| latency.mean_us),
            latency(|latency| latency.p50_us),
            latency(|latency| latency.p95_us),
            latency(|latency| latency.p99_us),
            thousands(row.writes_per_s),
            thousands(row.errors.count() as f64),
            millis(row.ideal.map(|ideal| ideal.p50_us)),
            row.p50_above_ideal_us.map_or("-".into(), |us| format!("{:+.3}", us / 1e3)),
            millis(delay.map(|delay| delay.asked_mean_us)),
            millis(delay.map(|delay| delay.injected_mean_us)),
            millis(delay.and_then(|delay| delay.injected_p99_us_since_start)),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// That all followers equal the leader, if they do after each quorum.
fn equality(rows: &[Row]) -> Option<String> {
    let mut slowest_ms: f64 = 0.0;
    let mut last = None;
    for row in rows {
        let Convergence::Equal { keys, waited_ms, .. } = row.convergence else { return None };
        slowest_ms = slowest_ms.max(waited_ms);
        last = Some(keys);
    }
    Some(format!(
        "every follower equals the leader after each quorum: {} keys, values and versions (waited at most {} ms)",
        thousands(last? as f64),
        round(slowest_ms.ceil())
    ))
}

/// What the load cost, and what it cost the nodes.
fn costs(rows: &[Row]) -> Option<String> {
    let writes: u64 = rows.iter().filter_map(|row| row.latency).map(|latency| latency.count).sum();
    let total = |seconds: f64| Cost::new(Duration::from_secs_f64(seconds), writes).us_per_write;
    let generator_s: f64 = rows.iter().map(|row| row.generator_cpu.seconds).sum();
    let nodes_s: Option<f64> = rows.iter().map(|row| row.nodes_cpu.map(|cost| cost.seconds)).sum();
    let generator = format!("the load took {generator_s:.2} s CPU, {:.1} µs a write", total(generator_s)?);
    Some(match nodes_s.and_then(|seconds| Some((seconds, total(seconds)?))) {
        Some((seconds, us)) => format!("{generator}; all nodes together {seconds:.2} s, {us:.1} µs a write"),
        None => generator,
    })
}

fn millis(us: Option<f64>) -> String {
    us.map_or("-".into(), |us| format!("{:.3}", us / 1e3))
}

/// Without zeros at the end that say nothing.
fn round(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with its thousands apart.
fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(quorum: usize) -> Row {
        let mut latency = LatencyRecorder::new();
        (1..=1000u64).for_each(|us| latency.record_ns(us * 1000 * quorum as u64));
        Row {
            quorum,
            latency: latency.summary(),
            quantiles_us: quantiles(&latency),
            writes_per_s: 12_345.6,
            seconds: 1.0,
            errors: Errors::default(),
            ideal: Some(Ideal { mean_us: 300.0, p50_us: 400.0, p95_us: 500.0, p99_us: 600.0 }),
            p50_above_ideal_us: Some(-1.5),
            delay: None,
            open_loop: None,
            generator_cpu: Cost::new(Duration::from_millis(10), 1000),
            nodes_cpu: Some(Cost::new(Duration::from_millis(25), 1000)),
            convergence: Convergence::Equal { keys: 100, version: 9, waited_ms: 3.2 },
        }
    }

    fn report(quorums: Vec<Row>) -> Report {
        let settings = Settings {
            leader: "http://127.0.0.1:8000".into(),
            followers: vec![String::new(); 5],
            is_own_cluster: true,
            writes: Some(10_000),
            duration_s: None,
            rate_per_s: None,
            warmup_writes: 300,
            writers: 16,
            keys: 100,
            value_bytes: 64,
            seed: 1,
            min_delay_us: Some(100.0),
            max_delay_us: Some(1000.0),
        };
        Report { program: "quorate".into(), settings, quorums, failure: None }
    }

    #[test]
    fn the_report_for_people() {
        let text = report(vec![row(1), row(2)]).text();
        let expected = "\
10,000 writes of 64 bytes on 100 keys for each quorum; closed loop, 16 writers
a cluster of its own: a leader and 5 followers, 0.1 to 1 ms delay to each

         mean    p50    p95    p99                     ideal   above  delay  delay   delay
quorum     ms     ms     ms     ms  writes/s  errors  p50 ms   ideal  asked   real  p99 ms
     1  0.500  0.500  0.950  0.990    12,346       0   0.400  -0.002      -      -       -
     2  1.001  1.000  1.901  1.981    12,346       0   0.400  -0.002      -      -       -

every follower equals the leader after each quorum: 100 keys, values and versions (waited at most 4 ms)
the load took 0.02 s CPU, 10.0 µs a write; all nodes together 0.05 s, 25.0 µs a write
";
        // Quantiles are good to 0.1 %: the last digit may be another one.
        let blur = |text: &str| text.replace("1.901", "1.900").replace("1.981", "1.980");
        assert_eq!(blur(&text), blur(expected), "\n{text}");
    }

    #[test]
    fn errors_and_a_rate_not_held_are_told() {
        let mut failed = row(3);
        failed.latency = None;
        failed.errors.count_one("503 unavailable".into(), "too few".into());
        failed.nodes_cpu = None;
        failed.open_loop = Some(OpenLoop::judge(1000.0, 101, 7, Duration::from_millis(500), None));
        let mut report = report(vec![failed]);
        report.settings.rate_per_s = Some(1000.0);
        let text = report.text();
        assert!(text.contains("open loop, 1,000 writes/s over 16 writers"), "{text}");
        assert!(text.contains("\n     3     -"), "{text}");
        assert!(text.contains("quorum 3: errors: 1 × 503 unavailable; the first: 503 unavailable: too few"));
        assert!(
            text.contains(
                "the rate was not held: 200 of 1,000 writes/s were begun, up to 0.000 ms late, and 7"
            )
        );
        assert!(!text.contains("CPU"), "{text}");
    }

    #[test]
    fn a_difference_is_not_called_equal() {
        let mut different = row(1);
        different.convergence = Convergence::Different { keys: 3, different: 1, first: vec!["k".into()] };
        assert!(!report(vec![different, row(2)]).text().contains("equals"));
    }

    #[test]
    fn the_report_for_programs() {
        let json: serde_json::Value = serde_json::to_value(report(vec![row(1)])).unwrap();
        assert_eq!(json["settings"]["writes"], 10_000);
        let p50_us = json["quorums"][0]["latency"]["p50_us"].as_f64().unwrap();
        assert!((p50_us - 500.0).abs() < 0.5, "{p50_us}");
        assert_eq!(json["quorums"][0]["convergence"]["outcome"], "equal");
        assert_eq!(json["quorums"][0]["nodes_cpu"]["us_per_write"], 25.0);
        assert_eq!(json["quorums"][0]["quantiles_us"].as_array().unwrap().len(), QUANTILES.len());
        assert!(json["failure"].is_null());
    }

    #[test]
    fn numbers_are_readable() {
        let shown = [0.0, 999.0, 1000.0, 1_234_567.4].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.1, 1.0, 10.0].map(round), ["0.1", "1", "10"]);
    }
}
