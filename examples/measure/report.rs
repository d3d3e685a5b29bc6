//! From lines to tables: medians over the repetitions, as Markdown that also reads well in a terminal.
//!
//! Owns what a line of the file holds, and the choice of the lines that count. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::peers::Peer;
use crate::rows::{Asked, Figures, Measured, Row, judge};

/// With more than this the measurement was disturbed: it is repeated, and left out where others of its kind were not.
pub(super) const FOREIGN_CORES_MAX: f64 = 0.25;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub row: String,
    pub peer: Peer,
    pub repetition: usize,
    /// What was built, and where it ran.
    pub commit: String,
    pub machine: String,
    pub seconds: f64,
    #[serde(flatten)]
    pub figures: Figures,
}

/// All that was measured of one row on one system, without what was disturbed.
fn of_one<'a>(lines: &[&'a Line], row: &Row, peer: Peer) -> Vec<&'a Figures> {
    let own = lines.iter().filter(|line| line.row == row.name && line.peer == peer).map(|line| &line.figures);
    let (quiet, disturbed): (Vec<_>, Vec<_>) = own.partition(|f| f.foreign_cores <= FOREIGN_CORES_MAX);
    if quiet.is_empty() { disturbed } else { quiet }
}

/// The median, the least and the most.
pub(super) fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    [(low + high) / 2.0, values[0], values[values.len() - 1]]
}

/// Figure by figure.
fn medians(all: &[&Figures]) -> Figures {
    let median = |get: fn(&Figures) -> f64| spread(all.iter().map(|figures| get(figures)))[0];
    Figures {
        operations: all.iter().map(|figures| figures.operations).sum(),
        errors: all.iter().map(|figures| figures.errors).sum(),
        first_error: all.iter().find_map(|figures| figures.first_error.clone()),
        per_second: median(|f| f.per_second),
        p50_us: median(|f| f.p50_us),
        p99_us: median(|f| f.p99_us),
        nodes_cpu_us: median(|f| f.nodes_cpu_us),
        leader_cpu_us: median(|f| f.leader_cpu_us),
        load_cpu_us: median(|f| f.load_cpu_us),
        foreign_cores: median(|f| f.foreign_cores),
    }
}

/// The whole report: where and when, a table for each group of rows (or one for all), and what is asked.
pub(super) fn report(rows: &[Row], lines: &[Line], by_group: bool) -> String {
    let lines: Vec<&Line> = lines.iter().filter(|line| rows.iter().any(|row| row.name == line.row)).collect();
    let mut text = provenance(&lines);
    let mut measured = Measured::new();
    let is_same_table = |a: &Row, b: &Row| !by_group || a.group() == b.group();
    for rows in rows.chunk_by(is_same_table) {
        let mut table = vec![HEAD.map(str::to_owned).to_vec()];
        for row in rows {
            for peer in row.peers {
                let own = of_one(&lines, row, *peer);
                if own.is_empty() {
                    continue;
                }
                let median = medians(&own);
                table.push(cells(row, *peer, &own, &median));
                measured.insert((row.name.clone(), *peer), median);
            }
        }
        if table.len() > 1 {
            let _ = write!(text, "\n{}", markdown(&table));
        }
    }
    let mut asked = vec![["work", "asked for", "bound", "measured", "met"].map(str::to_owned).to_vec()];
    for row in rows {
        for asked_for in &row.asked {
            let Some(verdict) = judge(asked_for, row, rows, &measured) else { continue };
            asked.push(vec![
                row.title.clone(),
                describe(asked_for, rows),
                number(verdict.bound),
                number(verdict.measured),
                yes_or_no(verdict.is_met),
            ]);
        }
    }
    if asked.len() > 1 {
        let _ = write!(text, "\n{}", markdown(&asked));
    }
    text
}

const HEAD: [&str; 11] = [
    "work",
    "system",
    "operations/s",
    "(least–most)",
    "p50 µs",
    "p99 µs",
    "CPU µs: nodes",
    "of it leader",
    "load",
    "errors",
    "runs",
];

fn cells(row: &Row, peer: Peer, own: &[&Figures], median: &Figures) -> Vec<String> {
    let [_, least, most] = spread(own.iter().map(|figures| figures.per_second));
    let mark = if median.foreign_cores > FOREIGN_CORES_MAX { "*" } else { "" };
    vec![
        row.title.clone(),
        format!("{peer}{mark}"),
        number(median.per_second),
        format!("{}–{}", number(least), number(most)),
        number(median.p50_us),
        number(median.p99_us),
        number(median.nodes_cpu_us),
        number(median.leader_cpu_us),
        number(median.load_cpu_us),
        median.errors.to_string(),
        own.len().to_string(),
    ]
}

/// Whether what was asked is met.
pub(super) fn yes_or_no(is_met: bool) -> String {
    if is_met { "yes" } else { "**no**" }.to_owned()
}

/// In words: `operations/s ≥ 1.25 × redis`.
fn describe(asked: &Asked, rows: &[Row]) -> String {
    let sign = if asked.is_minimum { '≥' } else { '≤' };
    let bound = match asked.of {
        None => number(asked.bound),
        Some((peer, None)) => format!("{} × {peer}", asked.bound),
        Some((_, Some(name))) => {
            let title = rows.iter().find(|row| row.name == name).map_or(name, |row| &row.title);
            format!("{} × {title}", asked.bound)
        }
    };
    format!("{} {sign} {bound}", asked.figure.title())
}

fn provenance(lines: &[&Line]) -> String {
    let set = |get: fn(&Line) -> String| {
        lines.iter().map(|line| get(line)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let disturbed = lines.iter().filter(|line| line.figures.foreign_cores > FOREIGN_CORES_MAX).count();
    format!(
        "Commit {}; {}; {} s measured each time. {disturbed} of {} measurements were disturbed by other work on the \
         machine (more than {FOREIGN_CORES_MAX} processors) and are left out, or marked * where there are no others.\n",
        set(|line| line.commit.clone()).join(", "),
        set(|line| line.machine.clone()).join("; "),
        set(|line| line.seconds.to_string()).join(", "),
        lines.len(),
    )
}

/// Three digits or all before the point, thousands apart.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

/// A table, the first row its head. Columns are as wide as they need to be; but for the first two, they are numbers.
pub(super) fn markdown(table: &[Vec<String>]) -> String {
    let columns = table[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let is_text = |column: usize| column < 2;
    let mut text = String::new();
    for (nth, row) in table.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = match is_text(column) {
                true => write!(text, "| {cell:<width$} "),
                false => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if nth == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if is_text(column) { '-' } else { ':' };
                let _ = write!(text, "|{}{end}", "-".repeat(width + 1));
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Puts the report into a paper, between the marks that name it.
pub(super) fn put_into(paper: &str, name: &str, report: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- measured: {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = paper.split_once(&begin).ok_or_else(|| format!("there is no line {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("there is no line {end}"))?;
    Ok(format!("{before}{begin}{report}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::compare;

    fn line(row: &str, peer: Peer, per_second: f64, foreign_cores: f64) -> Line {
        let figures = Figures { per_second, foreign_cores, ..Figures::default() };
        let (commit, machine) = ("abc".to_owned(), "2 × x".to_owned());
        Line { row: row.into(), peer, repetition: 1, commit, machine, seconds: 3.0, figures }
    }

    #[test]
    fn a_report_has_the_median_of_what_was_not_disturbed_and_what_was_asked() {
        let mut lines: Vec<Line> =
            [100.0, 300.0, 200.0].map(|n| line("write-16", Peer::Quorate, n * 1e3, 0.0)).into();
        lines.push(line("write-16", Peer::Quorate, 900_000.0, 1.0));
        lines.push(line("write-16", Peer::Redis, 200_000.0, 1.0));
        let text = report(&compare(), &lines, false);
        let has = |cells: &[&str]| {
            text.lines().any(|row| {
                row.split('|').map(str::trim).collect::<Vec<_>>().windows(cells.len()).any(|w| w == cells)
            })
        };
        assert!(has(&["16 clients, no delay", "quorate", "200,000", "100,000–300,000"]), "{text}");
        assert!(has(&["redis*", "200,000", "200,000–200,000"]), "{text}");
        assert!(has(&["operations/s ≥ 1.1 × redis", "220,000", "200,000", "**no**"]), "{text}");
        assert!(!text.contains("0.9 × bare"), "nothing was measured for it: {text}");
        assert!(text.starts_with("Commit abc; 2 × x; 3 s measured each time. 2 of 5 "), "{text}");
    }

    #[test]
    fn figures_read_well() {
        let shown = [0.0, 1.234, 99.94, 100.4, 12_345.6, 1_234_567.0, -123.4].map(number);
        assert_eq!(shown, ["0.00", "1.23", "99.9", "100", "12,346", "1,234,567", "-123"]);
        assert_eq!(spread([4.0, 1.0, 2.0, 3.0].into_iter()), [2.5, 1.0, 4.0]);
    }

    #[test]
    fn a_paper_keeps_all_but_what_stands_between_its_marks() {
        let paper = "a\n<!-- measured: x -->\nold\n<!-- end of x -->\nb\n";
        let new = put_into(paper, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- measured: x -->\nnew\n<!-- end of x -->\nb\n");
        assert!(put_into(paper, "y", "").is_err());
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = line("write-16", Peer::Redis, 1.5, 0.0);
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap().figures, line.figures);
    }
}
