//! The pictures of a run: which ones there are, what each shows, and what has to be said about it.
//!
//! Pure: from rows to series. The pictures are always the same ones, so that those of a later run in the same folder
//! take the place of all earlier ones; what was not measured is missing in them. Refuses to know how they are drawn.

use super::axis::Axis;
use super::picture::{Colour, Look, Marker, Pen, Picture, SHADES, Series};
use super::{Report, Row, Settings};

/// What the pictures are called, in the order of [`pictures`].
pub(super) const NAMES: [&str; 5] = ["latency", "distribution", "tail", "throughput", "delay"];
/// Curves in one picture, at the most: there are no more markers to tell them apart.
const CURVES_MAX: usize = SHADES;
/// Shares of the writes at which a curve has its markers, if it goes so far.
const MARKED: [f64; 8] = [0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 0.9999];
const LATENCY_LABEL: &str = "latency of a write, ms";

/// All of them.
pub(super) fn pictures(report: &Report) -> [Picture; NAMES.len()] {
    let rows = &report.quorums;
    let mut pictures =
        [latency(rows), distribution(rows), tail(rows), throughput(rows, &report.settings), delay(rows)];
    for picture in &mut pictures {
        picture.subtitle = report.settings.describe();
    }
    pictures
}

fn latency(rows: &[Row]) -> Picture {
    // From top to bottom, as they lie in the picture.
    let series = vec![
        millis("p99", solid(5, Marker::Triangle), rows, |row| Some(row.latency?.p99_us)),
        millis("p95", solid(2, Marker::Square), rows, |row| Some(row.latency?.p95_us)),
        millis("p50", solid(0, Marker::Disc), rows, |row| Some(row.latency?.p50_us)),
        millis("p50, ideal", dashed(), rows, |row| Some(row.ideal?.p50_us)),
    ];
    Picture {
        name: "latency",
        title: "What waiting for one more follower costs".into(),
        subtitle: String::new(),
        caption: "Of the successful writes half took at most p50, 95 % at most p95, 99 % at most p99. The ideal \
                  is what the injected delays alone would take; what lies between is the price of the machinery."
            .into(),
        x: quorums(rows),
        y: Axis::fitting(LATENCY_LABEL, &ys(&series)),
        series,
    }
}

fn distribution(rows: &[Row]) -> Picture {
    // The rest would press this into a corner, and has a picture of its own.
    let series = curves(rows, |share| (share <= 0.99).then_some(share));
    Picture {
        name: "distribution",
        title: "How long writes took".into(),
        subtitle: String::new(),
        caption: format!(
            "So many of the successful writes had their answer within that time: up to 99 %, where the next picture \
             goes on. The markers are at 10, 30, 50, 70, 90 and 99 %.{}",
            left_out(rows.len())
        ),
        x: Axis::fitting(LATENCY_LABEL, &xs(&series)),
        y: Axis::shares("writes answered by then"),
        series,
    }
}

fn tail(rows: &[Row]) -> Picture {
    // On a logarithmic axis there is no place for none.
    let series = curves(rows, |share| (share < 1.0).then_some(1.0 - share));
    let fewest = ys(&series).into_iter().fold(0.1, f64::min);
    Picture {
        name: "tail",
        title: "How long the slowest writes took".into(),
        subtitle: String::new(),
        caption: format!(
            "The same from its other end: so many of the successful writes took longer than that. The markers are \
             those of the picture before, and further ones at 0.1 and 0.01 %: the p99.9 and the p99.99.{}",
            left_out(rows.len())
        ),
        x: Axis::fitting(LATENCY_LABEL, &xs(&series)),
        y: Axis::small_shares("writes that took longer", fewest),
        series,
    }
}

fn throughput(rows: &[Row], settings: &Settings) -> Picture {
    let series = vec![slots("writes a second", Look::Bars, rows, |row| Some(row.writes_per_s))];
    let caption = match settings.rate_per_s {
        None => {
            "Successful writes. In a closed loop each writer waits for its answer before it writes again: their \
             number divided by the mean latency."
        }
        Some(_) => {
            "Successful writes. In an open loop they arrive at the rate that was asked for, and the cluster keeps \
             up or does not."
        }
    };
    // With some room for a number above the highest bar.
    let high = 1.1 * ys(&series).into_iter().fold(0.0, f64::max);
    Picture {
        name: "throughput",
        title: "Writes a second".into(),
        subtitle: String::new(),
        caption: caption.into(),
        x: quorums(rows),
        y: Axis::from_zero("successful writes a second", high),
        series,
    }
}

fn delay(rows: &[Row]) -> Picture {
    let series = vec![
        millis("real, p99 so far", solid(5, Marker::Triangle), rows, |row| {
            row.delay?.injected_p99_us_since_start
        }),
        millis("real, mean", solid(0, Marker::Disc), rows, |row| Some(row.delay?.injected_mean_us)),
        millis("asked, mean", dashed(), rows, |row| Some(row.delay?.asked_mean_us)),
    ];
    Picture {
        name: "delay",
        title: "The delay before a message to a follower: asked and real".into(),
        subtitle: String::new(),
        caption: "For every write and follower the leader draws a delay. Then it waits: longer than asked where \
                  the machine is busy. The p99 is of all messages since the leader started, up to and with this \
                  quorum."
            .into(),
        x: quorums(rows),
        y: Axis::fitting("delay, ms", &ys(&series)),
        series,
    }
}

/// One slot for each row, in the order of measuring: a quorum may have been measured twice.
fn quorums(rows: &[Row]) -> Axis {
    let names: Vec<String> = rows.iter().map(|row| row.quorum.to_string()).collect();
    Axis::slots("quorum: followers that a write waits for", &names)
}

/// A curve for each quorum, or for some of them if there are too many: latency, and what `of` makes of the share of
/// writes that took no longer.
fn curves(rows: &[Row], of: fn(f64) -> Option<f64>) -> Vec<Series> {
    let chosen = chosen(rows.len());
    let curve = |(nth, row): (usize, &usize)| {
        let row = &rows[*row];
        let pen = Pen {
            // The fewer curves, the further apart their shades.
            colour: Colour::Shade(nth * (SHADES - 1) / (chosen.len() - 1).max(1)),
            marker: Marker::ALL[nth],
            is_dashed: false,
        };
        let point = |(share, us): &(f64, f64)| Some((us / 1e3, of(*share)?));
        let marked = row.quantiles_us.iter().filter(|(share, _)| MARKED.contains(share));
        Series {
            name: format!("quorum {}", row.quorum),
            look: Look::Line(pen),
            points: row.quantiles_us.iter().map(point).collect(),
            marks: marked.filter_map(point).collect(),
        }
    };
    chosen.iter().enumerate().map(curve).collect()
}

/// Which of `count` rows get a curve: the first, the last, and others evenly between.
fn chosen(count: usize) -> Vec<usize> {
    let curves = count.min(CURVES_MAX);
    (0..curves).map(|nth| nth * (count - 1) / (curves - 1).max(1)).collect()
}

fn left_out(count: usize) -> String {
    match count > CURVES_MAX {
        true => format!(" Of the {count} quorums {CURVES_MAX} are shown."),
        false => String::new(),
    }
}

fn solid(shade: usize, marker: Marker) -> Look {
    Look::Line(Pen { colour: Colour::Shade(shade), marker, is_dashed: false })
}

fn dashed() -> Look {
    Look::Line(Pen { colour: Colour::Other, marker: Marker::Ring, is_dashed: true })
}

/// One value in each slot.
fn slots(name: &str, look: Look, rows: &[Row], figure: impl Fn(&Row) -> Option<f64>) -> Series {
    let point = |(slot, row)| Some((slot as f64, figure(row)?));
    let points: Vec<Option<(f64, f64)>> = rows.iter().enumerate().map(point).collect();
    Series { name: name.to_owned(), look, marks: points.iter().copied().flatten().collect(), points }
}

/// The same, from microseconds to milliseconds.
fn millis(name: &str, look: Look, rows: &[Row], figure_us: fn(&Row) -> Option<f64>) -> Series {
    slots(name, look, rows, |row| Some(figure_us(row)? / 1e3))
}

fn xs(series: &[Series]) -> Vec<f64> {
    points(series).map(|(x, _)| x).collect()
}

fn ys(series: &[Series]) -> Vec<f64> {
    points(series).map(|(_, y)| y).collect()
}

fn points(series: &[Series]) -> impl Iterator<Item = (f64, f64)> {
    series.iter().flat_map(|series| series.points.iter().copied().flatten())
}

#[cfg(test)]
mod tests {
    use super::super::sample::{delayed_row, failed_row, report, row};
    use super::*;
    use crate::cli::bench::ideal::Ideal;

    fn of(rows: Vec<Row>) -> [Picture; NAMES.len()] {
        let pictures = pictures(&report(rows));
        assert_eq!(pictures.each_ref().map(|picture| picture.name), NAMES);
        for picture in &pictures {
            let svg = picture.svg().unwrap();
            assert!(roxmltree::Document::parse(&svg).is_ok() && !svg.contains("NaN"), "{svg}");
            assert!(picture.subtitle.starts_with("10,000 writes of 64 bytes"), "{}", picture.subtitle);
            for (x, y) in points(&picture.series) {
                let is_there = picture.x.position(x).is_some() && picture.y.position(y).is_some();
                assert!(is_there, "({x}, {y}) has no place in {}", picture.name);
            }
        }
        pictures
    }

    fn values(series: &Series) -> Vec<Option<f64>> {
        series.points.iter().map(|point| point.map(|(_, y)| y)).collect()
    }

    #[test]
    fn latency_and_delay_are_in_milliseconds_and_in_their_slots() {
        let [latency, .., throughput, delay] = of(vec![delayed_row(1), failed_row(2), delayed_row(4)]);
        let names: Vec<&str> = latency.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["p99", "p95", "p50", "p50, ideal"]);
        let p50 = values(&latency.series[2]);
        assert!(
            matches!(p50[..], [Some(a), None, Some(b)] if (a - 0.5).abs() < 0.001 && (b - 2.0).abs() < 0.004),
            "{p50:?}"
        );
        let first = |series: &Series| values(series)[0].map(|ms| (ms * 100.0).round() / 100.0);
        assert_eq!([first(&latency.series[0]), first(&latency.series[1])], [Some(0.99), Some(0.95)]);
        assert_eq!(values(&latency.series[3]), [Some(0.4); 3]);
        assert_eq!(latency.series[2].points[2].map(|(x, _)| latency.x.name_at(x)).as_deref(), Some("4"));
        assert_eq!(values(&throughput.series[0]), [Some(12_345.6), Some(0.0), Some(12_345.6)]);
        assert_eq!(values(&delay.series[0]), [Some(2.3), None, Some(2.3)]);
        assert_eq!([first(&delay.series[1]), first(&delay.series[2])], [Some(0.64), Some(0.55)]);
    }

    #[test]
    fn a_curve_rises_to_its_p99_and_its_tail_falls_to_the_last_write() {
        let [_, distribution, tail, ..] = of(vec![row(1), row(3)]);
        for (nth, quorum) in [1.0, 3.0].into_iter().enumerate() {
            let curve: Vec<(f64, f64)> = distribution.series[nth].points.iter().copied().flatten().collect();
            assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1), "{curve:?}");
            let (ms, share) = *curve.last().unwrap();
            assert!((ms - 0.99 * quorum).abs() < 0.002 * quorum && share == 0.99, "{curve:?}");
            let tail_marks = &tail.series[nth].marks;
            let tail: Vec<(f64, f64)> = tail.series[nth].points.iter().copied().flatten().collect();
            assert!(tail.is_sorted_by(|a, b| a.0 <= b.0 && a.1 > b.1), "{tail:?}");
            // The thousandth of a thousand writes has none above it.
            assert!(tail.last().is_some_and(|(_, share)| (0.001..0.002).contains(share)), "{tail:?}");
            assert_eq!(distribution.series[nth].marks.len(), 6);
            assert_eq!(tail_marks.len(), 7, "{tail_marks:?}");
        }
    }

    #[test]
    fn any_run_has_pictures() {
        let at_once = Ideal { mean_us: 0.0, p50_us: 0.0, p95_us: 0.0, p99_us: 0.0 };
        let undelayed = || Row { ideal: Some(at_once), ..row(1) };
        for rows in [
            vec![],
            vec![row(1)],
            vec![failed_row(1)],
            vec![undelayed(), undelayed()],
            vec![row(3), row(3), row(1)],
            vec![Row { ideal: None, p50_above_ideal_us: None, ..row(2) }],
            (1..=64).map(delayed_row).collect(),
        ] {
            let slots = rows.len();
            let pictures = of(rows);
            assert!(pictures[0].series.iter().all(|series| series.points.len() == slots));
            assert_eq!(pictures[1].series.len(), slots.min(CURVES_MAX));
        }
    }

    #[test]
    fn of_many_quorums_the_first_the_last_and_some_between_have_curves() {
        assert_eq!(chosen(0), Vec::<usize>::new());
        assert_eq!(chosen(1), [0]);
        assert_eq!(chosen(8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chosen(64), [0, 9, 18, 27, 36, 45, 54, 63]);
        let [_, distribution, ..] = of((1..=64).map(row).collect());
        assert_eq!(distribution.series[7].name, "quorum 64");
        assert!(distribution.caption.ends_with("Of the 64 quorums 8 are shown."));
    }
}
