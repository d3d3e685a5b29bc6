//! The report on the terminal: a table, and a line for whatever a table has no room for. Pure.

use std::time::Duration;

use super::numbers::{millis, more_millis, round, thousands};
use super::{Cost, Report, Row, Settings};
use crate::cli::bench::args::Mode;
use crate::cli::bench::converge::Convergence;
use crate::cli::bench::schedule::OpenLoop;
use crate::observe::LatencySummary;

impl Report {
    /// The report for people.
    pub(in crate::cli::bench) fn text(&self) -> String {
        let mut text = self.settings.describe();
        text.push_str("\n\n");
        text.push_str(&table(&self.quorums, self.settings.mode));
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
    /// In two lines: the load, and the cluster.
    pub(super) fn describe(&self) -> String {
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
            true if self.mode == Mode::Raft => {
                format!(
                    "a raft cluster of its own: {} members, each with its log on disk",
                    self.followers.len() + 1
                )
            }
            true => format!("a cluster of its own: a leader and {} followers", self.followers.len()),
            false => format!("the leader {} and {} followers", self.leader, self.followers.len()),
        };
        let delays = match (self.min_delay_us, self.max_delay_us) {
            (Some(min_us), Some(max_us)) => {
                format!(", {} to {} ms delay to each", round(min_us / 1e3, 3), round(max_us / 1e3, 3))
            }
            _ => String::new(),
        };
        format!("{amount} of {bytes} bytes on {keys} keys for each quorum; {load}\n{cluster}{delays}")
    }
}

impl OpenLoop {
    /// Why it cannot be said to have asked for its rate.
    pub(super) fn complaint(&self) -> String {
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
fn table(rows: &[Row], mode: Mode) -> String {
    const UNDELAYED_COLUMNS: usize = 7;
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
            more_millis(row.p50_above_ideal_us),
            millis(delay.map(|delay| delay.asked_mean_us)),
            millis(delay.map(|delay| delay.injected_mean_us)),
            millis(delay.and_then(|delay| delay.injected_p99_us_since_start)),
        ]);
    }
    if mode == Mode::Raft {
        // Nothing is delayed there: what is left are the figures of the writes themselves.
        lines.iter_mut().for_each(|line| line.truncate(UNDELAYED_COLUMNS));
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
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
pub(super) fn equality(rows: &[Row]) -> Option<String> {
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
        round(slowest_ms.ceil(), 0)
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

#[cfg(test)]
mod tests {
    use super::super::sample::{failed_row, report, row};
    use super::*;

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
    fn in_raft_mode_the_table_has_no_delays() {
        let mut report = report(vec![Row { ideal: None, p50_above_ideal_us: None, ..row(2) }]);
        report.settings.mode = Mode::Raft;
        (report.settings.min_delay_us, report.settings.max_delay_us) = (None, None);
        let text = report.text();
        assert!(
            text.contains("\na raft cluster of its own: 6 members, each with its log on disk\n"),
            "{text}"
        );
        assert!(text.contains("\nquorum     ms     ms     ms     ms  writes/s  errors\n"), "{text}");
        assert!(!text.contains("delay") && !text.contains("ideal"), "{text}");
    }

    #[test]
    fn errors_and_a_rate_not_held_are_told() {
        let mut failed = failed_row(3);
        failed.open_loop = Some(OpenLoop::judge(1000.0, 101, 7, Duration::from_millis(500), None));
        let mut report = report(vec![failed]);
        report.settings.rate_per_s = Some(1000.0);
        let text = report.text();
        assert!(text.contains("open loop, 1,000 writes/s over 16 writers"), "{text}");
        assert!(text.contains("\n     3     -"), "{text}");
        assert!(
            text.contains("quorum 3: errors: 1 × 503 unavailable; the first: 503 unavailable: too <few>")
        );
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
}
