//! What a run is reported as: a table and a page for people, JSON for programs.
//!
//! Pure: takes what was measured and makes text of it. Units stand in the names of the JSON fields, in the heads of the
//! tables and at the axes. A figure that is not known is a dash, and `null`. Refuses to know where the text goes.
//!
//! ```text
//!  text      the table on the terminal        page      report.html
//!  numbers   how numbers are written          gallery     which pictures there are, and of what
//!                                               picture     one of them as SVG
//!                                                 axis        scales and ticks
//! ```

mod axis;
mod gallery;
mod numbers;
mod page;
mod picture;
mod text;

use std::time::Duration;

use serde::Serialize;

use super::args::Mode;
use super::converge::Convergence;
use super::errors::Errors;
use super::health::Injected;
use super::ideal::Ideal;
use super::machine::Machine;
use super::schedule::OpenLoop;
use crate::observe::{LatencyRecorder, LatencySummary};

/// In a folder with a report: the page for people.
pub(super) const PAGE: &str = "report.html";
/// In a folder with a report: the figures for programs.
const RESULTS: &str = "results.json";

/// Everything that a run has to tell.
#[derive(Serialize)]
pub(super) struct Report {
    /// The program, and its version.
    pub program: String,
    /// When it began, by the machine's clock: UTC, as in RFC 3339.
    pub began: String,
    /// Where the load was made, and all nodes of its own cluster ran.
    pub machine: Machine,
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
    pub mode: Mode,
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
    pub request_timeout_s: f64,
    pub converge_timeout_s: f64,
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

/// Shares of `count` writes at which their distribution is told: every 2 % in the middle, and closer and closer towards
/// its ends, but none so close to all that no write would lie above it.
fn shares(count: u64) -> Vec<f64> {
    const LAST_TENTH: [u64; 8] = [100, 80, 60, 50, 40, 30, 20, 15];
    // Fractions of whole numbers: the double nearest to 0.999 and not one beside it.
    let body = [0.0, 0.002, 0.005, 0.01].into_iter().chain((1..45u64).map(|step| step as f64 / 50.0));
    let tail = [1000u64, 10_000, 100_000, 1_000_000].into_iter().flat_map(|of| {
        let slower = LAST_TENTH.into_iter().filter(move |slower| slower * count >= of);
        slower.map(move |slower| (of - slower) as f64 / of as f64)
    });
    body.chain(tail).chain([1.0]).collect()
}

/// The distribution that the JSON tells, and the pictures show.
pub(super) fn quantiles(latency: &LatencyRecorder) -> Vec<(f64, f64)> {
    let at = |share| latency.quantile(share).map(|latency| (share, latency.as_nanos() as f64 / 1e3));
    shares(latency.count()).into_iter().filter_map(at).collect()
}

impl Report {
    /// The report for programs.
    pub(super) fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| error.to_string())
    }

    /// Names of all files that a folder with a report has, the page first.
    pub(super) fn file_names() -> impl Iterator<Item = String> {
        let pictures = gallery::NAMES.iter().map(|name| format!("{name}.svg"));
        [PAGE.to_owned(), RESULTS.to_owned()].into_iter().chain(pictures)
    }

    /// The files of a folder with a report: names and texts, in the order of [`Report::file_names`].
    pub(super) fn files(&self) -> Result<Vec<(String, String)>, String> {
        let mut pictures = Vec::new();
        for picture in gallery::pictures(self) {
            let svg = picture.svg()?;
            pictures.push((picture, svg));
        }
        let texts = [page::page(self, &pictures), self.json()?];
        let pictures = pictures.into_iter().map(|(_, svg)| svg);
        Ok(Report::file_names().zip(texts.into_iter().chain(pictures)).collect())
    }
}

#[cfg(test)]
mod sample;

#[cfg(test)]
mod tests {
    use super::sample;
    use super::*;

    #[test]
    fn shares_end_where_no_write_stands_for_them() {
        assert_eq!(shares(1).len(), 49);
        assert!(
            shares(1000).ends_with(&[0.99, 0.992, 0.994, 0.995, 0.996, 0.997, 0.998, 0.9985, 0.999, 1.0])
        );
        let all = shares(1 << 40);
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert!(all.contains(&0.5) && all.contains(&0.9) && all.contains(&0.99) && all.contains(&0.9999));
        assert_eq!((all.len(), all[0]), (48 + 32 + 1, 0.0));
    }

    #[test]
    fn the_report_for_programs() {
        let report = sample::report(vec![sample::row(1)]);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["settings"]["writes"], 10_000);
        let p50_us = json["quorums"][0]["latency"]["p50_us"].as_f64().unwrap();
        assert!((p50_us - 500.0).abs() < 0.5, "{p50_us}");
        assert_eq!(json["quorums"][0]["convergence"]["outcome"], "equal");
        assert_eq!(json["quorums"][0]["nodes_cpu"]["us_per_write"], 25.0);
        let quantiles = json["quorums"][0]["quantiles_us"].as_array().unwrap();
        assert_eq!(quantiles.len(), shares(1000).len());
        assert_eq!(quantiles.last().unwrap(), &serde_json::json!([1.0, 1000.0]));
        assert_eq!(json["machine"]["cores"], 2);
        assert!(json["failure"].is_null());
    }
}
