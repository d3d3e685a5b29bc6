//! `report.html`: everything that a run has to tell, on one page that needs nothing else.
//!
//! Pure, and maud's one address, which escapes whatever is put into the page: error messages and names of machines are
//! other people's text. Owns what is told in which order. Refuses to run anything: there are no scripts in it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::numbers::{millis, more_millis, round, thousands};
use super::picture::Picture;
use super::text::equality;
use super::{Report, Row, Settings};
use crate::cli::bench::args::Mode;
use crate::cli::bench::converge::Convergence;
use crate::cli::bench::machine::Machine;
use crate::observe::LatencySummary;

const STYLE: &str = include_str!("page.css");

/// The page, with these pictures in it as they are drawn.
pub(super) fn page(report: &Report, pictures: &[(Picture, String)]) -> String {
    let figure = |name: &str| {
        let picture = pictures.iter().find(|(picture, _)| picture.name == name);
        picture.map_or_else(Markup::default, figure)
    };
    let rows = &report.quorums;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "quorate bench, " (report.began) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What each write quorum costs" }
                p.settings { (report.settings.describe()) }
                @if let Some(failure) = &report.failure {
                    p.warning { "This run failed. What is below was measured before.\n" (failure) }
                }
                @if report.machine.build == Some("debug") {
                    p.warning { "This was a debug build. Its figures say little about a release build." }
                }
                @if let Some(summary) = summary(rows) { p { (summary) } }
                h2 { "Latency" }
                (figure("latency"))
                (latency(rows))
                h2 { "Distribution" }
                (figure("distribution"))
                (figure("tail"))
                h2 { "Throughput and its cost" }
                (figure("throughput"))
                (throughput(rows))
                @if report.settings.rate_per_s.is_some() { (open_loop(rows)) }
                @if report.settings.mode == Mode::Quorum {
                    h2 { "Injected delay" }
                    (figure("delay"))
                    (delay(rows))
                }
                h2 { "Are the followers equal to the leader?" }
                (convergence(rows))
                h2 { "Errors" }
                (errors(rows))
                h2 { "Settings" }
                (pairs(&settings(&report.settings)))
                h2 { "Machine" }
                @if !report.settings.is_own_cluster {
                    p { "The one that made the load. The nodes may have been elsewhere." }
                }
                (pairs(&machine(report)))
            }
        }
    };
    markup.into_string()
}

fn figure((picture, svg): &(Picture, String)) -> Markup {
    html! {
        figure {
            (PreEscaped(svg))
            figcaption { (picture.caption) }
        }
    }
}

/// The first and the last quorum in one sentence, and whether the store passed.
fn summary(rows: &[Row]) -> Option<String> {
    let median = |row: &Row| Some((row.quorum, row.latency?.p50_us));
    let told = |(quorum, us)| format!("{} ms with quorum {quorum}", millis(Some(us)));
    let (first, last) = (rows.iter().find_map(median)?, rows.iter().rev().find_map(median)?);
    let and_last = if first == last { String::new() } else { format!(" and {}", told(last)) };
    let equal = equality(rows).map_or(String::new(), |line| format!("; {line}"));
    Some(format!("Half of the writes took at most {}{and_last}{equal}.", told(first)))
}

/// A table with a line for each quorum.
fn table(head: &[&str], rows: &[Row], cells: impl Fn(&Row) -> Vec<String>) -> Markup {
    html! {
        div.wide {
            table {
                tr { th { "quorum" } @for name in head { th { (name) } } }
                @for row in rows {
                    tr { td { (row.quorum) } @for cell in cells(row) { td { (cell) } } }
                }
            }
        }
    }
}

fn latency(rows: &[Row]) -> Markup {
    let head = [
        "writes",
        "mean, ms",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "longest, ms",
        "ideal p50, ms",
        "above it, ms",
        "ideal p99, ms",
    ];
    table(&head, rows, |row| {
        let of = |figure: fn(&LatencySummary) -> f64| millis(row.latency.as_ref().map(figure));
        vec![
            thousands(row.latency.map_or(0.0, |latency| latency.count as f64)),
            of(|latency| latency.mean_us),
            of(|latency| latency.p50_us),
            of(|latency| latency.p95_us),
            of(|latency| latency.p99_us),
            of(|latency| latency.max_us),
            millis(row.ideal.map(|ideal| ideal.p50_us)),
            more_millis(row.p50_above_ideal_us),
            millis(row.ideal.map(|ideal| ideal.p99_us)),
        ]
    })
}

fn throughput(rows: &[Row]) -> Markup {
    let head = ["writes/s", "errors", "seconds", "load: CPU µs a write", "nodes: CPU µs a write"];
    table(&head, rows, |row| {
        let micros = |us: Option<f64>| us.map_or("-".into(), |us| format!("{us:.1}"));
        vec![
            thousands(row.writes_per_s),
            thousands(row.errors.count() as f64),
            format!("{:.2}", row.seconds),
            micros(row.generator_cpu.us_per_write),
            micros(row.nodes_cpu.and_then(|cost| cost.us_per_write)),
        ]
    })
}

fn open_loop(rows: &[Row]) -> Markup {
    let head = ["asked, writes/s", "begun, writes/s", "late on average, ms", "late at most, ms", "not begun"];
    let complaints = rows.iter().filter_map(|row| {
        let open_loop = row.open_loop.as_ref().filter(|open_loop| !open_loop.is_held)?;
        Some(format!("With quorum {} {}.", row.quorum, open_loop.complaint()))
    });
    html! {
        (table(&head, rows, |row| match &row.open_loop {
            None => vec!["-".to_owned(); head.len()],
            Some(open_loop) => vec![
                thousands(open_loop.rate),
                thousands(open_loop.begun_per_s),
                millis(Some(open_loop.mean_lag_us)),
                millis(Some(open_loop.max_lag_us)),
                thousands(open_loop.not_begun as f64),
            ],
        }))
        @for complaint in complaints { p.warning { (complaint) } }
    }
}

fn delay(rows: &[Row]) -> Markup {
    let head = [
        "messages",
        "asked, mean, ms",
        "real, mean, ms",
        "longer by, ms",
        "real, p50 so far, ms",
        "real, p99 so far, ms",
    ];
    table(&head, rows, |row| {
        let delay = row.delay.as_ref();
        vec![
            delay.map_or("-".into(), |delay| thousands(delay.count as f64)),
            millis(delay.map(|delay| delay.asked_mean_us)),
            millis(delay.map(|delay| delay.injected_mean_us)),
            more_millis(delay.map(|delay| delay.injected_mean_us - delay.asked_mean_us)),
            millis(delay.and_then(|delay| delay.injected_p50_us_since_start)),
            millis(delay.and_then(|delay| delay.injected_p99_us_since_start)),
        ]
    })
}

fn convergence(rows: &[Row]) -> Markup {
    let told = |convergence: &Convergence| match convergence {
        Convergence::Equal { keys, version, waited_ms } => format!(
            "yes: {} keys, values and versions, up to version {}; waited {} ms",
            thousands(*keys as f64),
            thousands(*version as f64),
            round(waited_ms.ceil(), 0)
        ),
        other => format!("NO: {}", other.failure().unwrap_or_default()),
    };
    sentences("after quorum", rows.iter().map(|row| (row.quorum, told(&row.convergence))).collect())
}

fn errors(rows: &[Row]) -> Markup {
    let told: Vec<(usize, String)> =
        rows.iter().filter_map(|row| Some((row.quorum, row.errors.describe()?))).collect();
    match told.is_empty() {
        true => html! { p { "No write that was measured failed." } },
        false => html! {
            p { "No latency includes these writes." }
            (sentences("quorum", told))
        },
    }
}

fn sentences(head: &str, told: Vec<(usize, String)>) -> Markup {
    html! {
        table {
            tr { th { (head) } th.text {} }
            @for (quorum, sentence) in told { tr { td { (quorum) } td.text { (sentence) } } }
        }
    }
}

fn pairs(pairs: &[(&str, String)]) -> Markup {
    html! {
        table {
            @for (name, value) in pairs { tr { td.text { (name) } td.text { (value) } } }
        }
    }
}

fn settings(settings: &Settings) -> Vec<(&'static str, String)> {
    let amount = match (settings.writes, settings.duration_s) {
        (Some(writes), _) => ("writes for each quorum", thousands(writes as f64)),
        (None, seconds) => ("time for each quorum", format!("{} s", round(seconds.unwrap_or_default(), 3))),
    };
    let delay = match settings.min_delay_us.zip(settings.max_delay_us) {
        Some((min_us, max_us)) => format!("{} to {} ms", round(min_us / 1e3, 3), round(max_us / 1e3, 3)),
        None if settings.mode == Mode::Raft => "none".into(),
        None => "not known".into(),
    };
    vec![
        ("mode", settings.mode.as_str().to_owned()),
        ("cluster", if settings.is_own_cluster { "its own, started for this" } else { "given" }.into()),
        ("leader", settings.leader.clone()),
        ("followers", settings.followers.join("\n")),
        ("delay to each follower", delay),
        amount,
        ("warm-up writes before them", thousands(settings.warmup_writes as f64)),
        (
            "loop",
            match settings.rate_per_s {
                None => "closed: a writer waits for its answer".into(),
                Some(rate) => format!("open: {} writes/s, latency from when each was due", thousands(rate)),
            },
        ),
        ("writers", thousands(settings.writers as f64)),
        ("keys", thousands(settings.keys as f64)),
        ("bytes of a value", thousands(settings.value_bytes as f64)),
        ("seed of keys and values", settings.seed.to_string()),
        ("time for a write", format!("{} s", round(settings.request_timeout_s, 3))),
        ("time for followers to become equal", format!("{} s", round(settings.converge_timeout_s, 3))),
    ]
}

fn machine(report: &Report) -> Vec<(&'static str, String)> {
    let Machine { processor, cores, memory_bytes, system, kernel, .. } = &report.machine;
    let known = |value: Option<String>| value.unwrap_or_else(|| "not known".into());
    let gib = |bytes: u64| format!("{} GiB", round(bytes as f64 / f64::from(1 << 30), 1));
    vec![
        ("processor", known(processor.clone())),
        ("processors it may use", known(cores.map(|cores| cores.to_string()))),
        ("memory", known(memory_bytes.map(gib))),
        ("system", known(system.clone())),
        ("kernel", known(kernel.clone())),
        ("architecture", report.machine.architecture.to_owned()),
        ("load average when it began", known(report.machine.load_average_1m.map(|load| load.to_string()))),
        ("program", report.program.clone()),
        ("compiler", known(report.machine.compiler.map(str::to_owned))),
        ("build", known(report.machine.build.map(str::to_owned))),
        ("began (UTC)", report.began.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::sample::{delayed_row, failed_row, report, row};
    use super::*;
    use crate::cli::bench::schedule::OpenLoop;

    fn page_of(report: &Report) -> String {
        let page = report.files().unwrap().swap_remove(0).1;
        // It needs nothing else, and runs nothing.
        for word in ["<script", "<link", "<img", "<iframe", " src=", " href=", "url(", "@import", "onload"] {
            assert!(!page.contains(word), "{word} is in it");
        }
        assert_eq!(page.matches("<svg ").count(), 5);
        assert!(!page.contains("NaN"));
        for tag in ["html", "body", "table", "tr", "td", "th", "figure", "svg", "h2", "p"] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}> and </{tag}>");
        }
        page
    }

    #[test]
    fn everything_that_was_measured_is_told() {
        let mut report = report(vec![delayed_row(1), delayed_row(2)]);
        let page = page_of(&report);
        for told in [
            "10,000 writes of 64 bytes on 100 keys for each quorum; closed loop, 16 writers",
            "Half of the writes took at most 0.500 ms with quorum 1 and 1.000 ms with quorum 2; every follower equals",
            "<td>2</td><td>1,000</td><td>1.001</td><td>1.000</td>",
            "<td>0.400</td><td>-0.002</td><td>0.600</td>",
            "<td>12,346</td><td>0</td><td>1.00</td><td>10.0</td><td>25.0</td>",
            "<td>5,000</td><td>0.551</td><td>0.640</td><td>+0.089</td><td>0.610</td><td>2.300</td>",
            "yes: 100 keys, values and versions, up to version 9; waited 4 ms",
            "No write that was measured failed.",
            "0.1 to 1 ms",
            "http://127.0.0.1:8005",
            "Model &lt;T&gt; &amp; Sons",
            "8 GiB",
            "Linux 6.1.0",
            "rustc 1.95.0",
            "2026-01-02T03:04:05Z",
        ] {
            assert!(page.contains(told), "{told:?} is not in\n{page}");
        }
        assert!(!page.contains("class=\"warning\""));
        report.machine.build = Some("debug");
        assert!(page_of(&report).contains("debug build"));
    }

    #[test]
    fn what_went_wrong_is_told_and_escaped() {
        let different = Convergence::Different { keys: 100, different: 1, first: vec!["<b>: …".into()] };
        let mut report = report(vec![failed_row(1), Row { convergence: different, ..row(2) }]);
        report.failure = Some("after quorum 2: <oh> & no".into());
        let page = page_of(&report);
        for told in [
            "<p class=\"warning\">This run failed",
            "after quorum 2: &lt;oh&gt; &amp; no",
            "1 × 503 unavailable; the first: 503 unavailable: too &lt;few&gt;",
            "NO: 1 of 100 key differs between the leader and its followers:\n  &lt;b&gt;: …",
            "<td>1</td><td>0</td><td>-</td>",
        ] {
            assert!(page.contains(told), "{told:?} is not in\n{page}");
        }
        assert!(!page.contains("every follower equals"));
    }

    #[test]
    fn a_run_that_measured_nothing_or_one_quorum_has_a_page() {
        let mut nothing = report(Vec::new());
        nothing.failure = Some("interrupted".into());
        let page = page_of(&nothing);
        assert!(page.contains("interrupted") && !page.contains("Half of the writes"), "{page}");
        let page = page_of(&report(vec![row(3)]));
        assert!(page.contains("Half of the writes took at most 1.500 ms with quorum 3; every"), "{page}");
    }

    #[test]
    fn an_open_loop_is_judged_and_a_cluster_elsewhere_is_told_apart() {
        let lag = std::time::Duration::from_millis(500);
        let open_loop = OpenLoop::judge(1000.0, 101, 7, lag, Some((lag / 100, lag)));
        let mut report = report(vec![Row { open_loop: Some(open_loop), ..row(1) }]);
        report.settings.rate_per_s = Some(1000.0);
        report.settings.is_own_cluster = false;
        let page = page_of(&report);
        assert!(
            page.contains("<td>1,000</td><td>200</td><td>5.000</td><td>500.000</td><td>7</td>"),
            "{page}"
        );
        assert!(page.contains("With quorum 1 the rate was not held"), "{page}");
        assert!(page.contains("The one that made the load."), "{page}");
    }
}
