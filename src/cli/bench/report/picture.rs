//! A picture as SVG text, and plotters' one address.
//!
//! Pure: series in, text out. Owns sizes, colours, markers and the legend, which stands beside the plot and never on it.
//! A picture must be readable on white paper without colours, so series differ in their markers and in how dark they
//! are as well. Letters come from the reader's own sans-serif font. Refuses to know what the series mean.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::numbers::thousands;

/// Width and height. Coordinates in the file are whole numbers: drawn twice as large as it is usually looked at, a
/// curve has no steps.
const SIZE: (u32, u32) = (1600, 880);
/// Where the plot ends and the legend begins, from the left.
const LEGEND_X: i32 = 1220;
/// From one line of the legend to the next.
const LEGEND_LINE: i32 = 52;
const MARGIN: i32 = 28;
const FONT: &str = "sans-serif";
/// Heights of letters, as plotters counts them: the file says about four fifths of it.
const TITLE_SIZE: i32 = 44;
const TEXT_SIZE: i32 = 33;
/// Below the x axis. Names are as far again below it: a marker at zero does not reach them.
const TICK: i32 = 10;
const SUBTITLE_SIZE: i32 = 28;
/// About as many as fit. Only the address of a leader elsewhere can be so long.
const SUBTITLE_CHARS: usize = 140;
/// Where the plot and the legend begin, from above.
const PLOT_Y: i32 = MARGIN + TITLE_SIZE + 12 + 2 * (SUBTITLE_SIZE + 2);
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(221, 221, 221);
/// Slots that are narrower have no room for a number above their bar.
const BAR_NUMBER_WIDTH: f64 = 120.0;
const BAR: RGBColor = RGBColor(158, 188, 218);

/// A picture before it is drawn.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// Of its file, without the ending.
    pub name: &'static str,
    /// What stands above it.
    pub title: String,
    /// Below that, smaller: what was measured how. It may have two lines.
    pub subtitle: String,
    /// What is said about it where there is room for it: not in the picture.
    pub caption: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// What the legend calls it.
    pub name: String,
    pub look: Look,
    /// In the order in which they are joined. `None` is a gap.
    pub points: Vec<Option<(f64, f64)>>,
    /// Where a line has its markers.
    pub marks: Vec<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Look {
    /// A line, with markers on it.
    Line(Pen),
    /// Bars from the bottom up, each with its value above it.
    Bars,
}

/// What a line is drawn with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pen {
    pub colour: Colour,
    pub marker: Marker,
    pub is_dashed: bool,
}

/// Eight colours, from dark to bright, each with a different grey; and one that stands out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Colour {
    /// From 0, the darkest, to [`SHADES`] − 1.
    Shade(usize),
    /// For what was not measured, but computed.
    Other,
}

/// How many shades there are, and how many markers.
pub(super) const SHADES: usize = 8;
/// Viridis (Smith and van der Walt, 2015) without its bright end, which is lost on white.
const COLOURS: [RGBColor; SHADES] = [
    RGBColor(68, 1, 84),
    RGBColor(70, 50, 126),
    RGBColor(54, 92, 141),
    RGBColor(39, 127, 142),
    RGBColor(31, 150, 139),
    RGBColor(60, 174, 110),
    RGBColor(110, 190, 70),
    RGBColor(170, 195, 30),
];

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Colour::Shade(shade) => COLOURS[shade % SHADES],
            Colour::Other => RGBColor(213, 94, 0),
        }
    }
}

/// What is drawn at a point. Shapes that are hard to tell apart are far from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Marker {
    Disc,
    Cross,
    Square,
    Ring,
    Triangle,
    Plus,
    Diamond,
    Frame,
}

impl Marker {
    pub(super) const ALL: [Marker; SHADES] = [
        Marker::Disc,
        Marker::Cross,
        Marker::Square,
        Marker::Ring,
        Marker::Triangle,
        Marker::Plus,
        Marker::Diamond,
        Marker::Frame,
    ];
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;
/// In pixels from the upper left corner.
type Pixel = (i32, i32);

impl Picture {
    /// The file. The error is one of plotters, which has no reason to make any.
    pub(super) fn svg(&self) -> Result<String, String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| format!("cannot draw {:?}: {error}", self.title))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Drawn {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let below = Pos::new(HPos::Left, VPos::Top);
        write(&area, &self.title, (MARGIN, MARGIN), TITLE_SIZE, below)?;
        for (nth, line) in self.subtitle.lines().enumerate() {
            let y = MARGIN + TITLE_SIZE + 12 + nth as i32 * (SUBTITLE_SIZE + 2);
            let line: String = line.chars().take(SUBTITLE_CHARS).collect();
            write(&area, &line, (MARGIN, y), SUBTITLE_SIZE, below)?;
        }
        let place = self.axes(&area)?;
        for series in &self.series {
            match series.look {
                Look::Bars => bars(&area, series, &place)?,
                Look::Line(pen) => line(&area, series, pen, &place)?,
            }
        }
        if self.series.iter().flat_map(|series| &series.points).flatten().count() == 0 {
            let middle = Pos::new(HPos::Center, VPos::Center);
            write(&area, "no figures", place.middle(), TEXT_SIZE, middle)?;
        }
        self.legend(&area)?;
        area.present()?;
        Ok(())
    }

    /// Draws axes and grid, and tells where points come to lie.
    fn axes(&self, area: &Area<'_>) -> Result<Place<'_>, Box<dyn std::error::Error>> {
        let right = if self.has_legend() { SIZE.0 as i32 - LEGEND_X } else { MARGIN };
        let plot = area.margin(PLOT_Y, MARGIN, MARGIN, right);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(MARGIN)
            .set_label_area_size(LabelAreaPosition::Left, 150)
            .set_label_area_size(LabelAreaPosition::Bottom, 96)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let text = (FONT, TEXT_SIZE).into_font().color(&INK);
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(INK.stroke_width(2))
            .set_tick_mark_size(LabelAreaPosition::Bottom, TICK)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|at| self.x.name_at(*at))
            .y_label_formatter(&|at| self.y.name_at(*at))
            .draw()?;
        let (left, top) = chart.backend_coord(&(self.x.low, self.y.high));
        let (right, bottom) = chart.backend_coord(&(self.x.high, self.y.low));
        Ok(Place { x: &self.x, y: &self.y, left, right, top, bottom })
    }

    /// Bars are alone, and the y axis says what they are.
    fn has_legend(&self) -> bool {
        self.series.iter().any(|series| series.look != Look::Bars)
    }

    fn legend(&self, area: &Area<'_>) -> Drawn {
        let mut y = PLOT_Y + MARGIN + LEGEND_LINE / 2;
        let left = LEGEND_X + MARGIN;
        for series in &self.series {
            let Look::Line(pen) = series.look else { continue };
            stroke(area, &[(left, y), (left + 80, y)], pen)?;
            mark(area, (left + 40, y), pen)?;
            let beside = Pos::new(HPos::Left, VPos::Center);
            write(area, &series.name, (left + 100, y), TEXT_SIZE, beside)?;
            y += LEGEND_LINE;
        }
        Ok(())
    }
}

/// What plotters wants to know of an axis. Its values are positions.
impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, position: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (position - self.low) / (self.high - self.low);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.iter().map(|tick| tick.0).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// From values to pixels: the axes, and where they begin and end.
struct Place<'a> {
    x: &'a Axis,
    y: &'a Axis,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Place<'_> {
    fn pixel(&self, (x, y): (f64, f64)) -> Option<Pixel> {
        let (x, y) = (self.x.position(x)?, self.y.position(y)?);
        Some((self.x.map(&x, (self.left, self.right)), self.y.map(&y, (self.bottom, self.top))))
    }

    fn middle(&self) -> Pixel {
        ((self.left + self.right) / 2, (self.top + self.bottom) / 2)
    }

    /// The width of one of the slots on the x axis.
    fn slot(&self) -> f64 {
        f64::from(self.right - self.left) / (self.x.high - self.x.low)
    }
}

fn line(area: &Area<'_>, series: &Series, pen: Pen, place: &Place<'_>) -> Drawn {
    let pixels: Vec<Option<Pixel>> =
        series.points.iter().map(|point| point.and_then(|point| place.pixel(point))).collect();
    for piece in pixels.split(Option::is_none) {
        let piece: Vec<Pixel> = piece.iter().copied().flatten().collect();
        if piece.len() > 1 {
            stroke(area, &piece, pen)?;
        }
    }
    for pixel in series.marks.iter().filter_map(|point| place.pixel(*point)) {
        mark(area, pixel, pen)?;
    }
    Ok(())
}

fn bars(area: &Area<'_>, series: &Series, place: &Place<'_>) -> Drawn {
    let half = (place.slot() * 0.3) as i32;
    for point in series.points.iter().flatten() {
        let Some((middle, top)) = place.pixel(*point) else { continue };
        let corners = [(middle - half, top), (middle + half, place.bottom)];
        area.draw(&Rectangle::new(corners, BAR.filled()))?;
        area.draw(&Rectangle::new(corners, INK.stroke_width(1)))?;
        if place.slot() >= BAR_NUMBER_WIDTH {
            let above = Pos::new(HPos::Center, VPos::Bottom);
            write(area, &thousands(point.1), (middle, top - 6), TEXT_SIZE, above)?;
        }
    }
    Ok(())
}

fn stroke(area: &Area<'_>, pixels: &[Pixel], pen: Pen) -> Drawn {
    let style = pen.colour.rgb().stroke_width(4);
    match pen.is_dashed {
        true => area.draw(&DashedPathElement::new(pixels.to_vec(), 16, 12, style))?,
        false => area.draw(&PathElement::new(pixels.to_vec(), style))?,
    }
    Ok(())
}

fn mark(area: &Area<'_>, (x, y): Pixel, pen: Pen) -> Drawn {
    const R: i32 = 11;
    let (fill, line) = (pen.colour.rgb().filled(), pen.colour.rgb().stroke_width(4));
    let square =
        vec![(x - R + 1, y - R + 1), (x + R - 1, y - R + 1), (x + R - 1, y + R - 1), (x - R + 1, y + R - 1)];
    match pen.marker {
        Marker::Disc => area.draw(&Circle::new((x, y), R, fill))?,
        Marker::Ring => {
            area.draw(&Circle::new((x, y), R, WHITE.filled()))?;
            area.draw(&Circle::new((x, y), R, line))?;
        }
        Marker::Square => area.draw(&Polygon::new(square, fill))?,
        Marker::Frame => {
            area.draw(&Polygon::new(square.clone(), WHITE.filled()))?;
            let closed: Vec<Pixel> = square.iter().chain(&square[..2]).copied().collect();
            area.draw(&PathElement::new(closed, line))?;
        }
        Marker::Triangle => {
            area.draw(&Polygon::new(
                vec![(x, y - R - 3), (x + R + 2, y + R - 2), (x - R - 2, y + R - 2)],
                fill,
            ))?;
        }
        Marker::Diamond => {
            let r = R + 4;
            area.draw(&Polygon::new(vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill))?;
        }
        Marker::Cross => {
            area.draw(&PathElement::new(vec![(x - R, y - R), (x + R, y + R)], line))?;
            area.draw(&PathElement::new(vec![(x - R, y + R), (x + R, y - R)], line))?;
        }
        Marker::Plus => {
            area.draw(&PathElement::new(vec![(x - R - 3, y), (x + R + 3, y)], line))?;
            area.draw(&PathElement::new(vec![(x, y - R - 3), (x, y + R + 3)], line))?;
        }
    }
    Ok(())
}

fn write(area: &Area<'_>, text: &str, at: Pixel, size: i32, pos: Pos) -> Drawn {
    area.draw(&Text::new(text.to_owned(), at, (FONT, size).into_font().color(&INK).pos(pos)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use roxmltree::{Document, Node};

    use super::*;

    fn picture(series: Vec<Series>) -> Picture {
        let names = ["1", "2", "3", "4"].map(str::to_owned);
        Picture {
            name: "test",
            title: "Less < more & \"so on\"".into(),
            subtitle: "first\nsecond".into(),
            caption: String::new(),
            x: Axis::slots("quorum", &names),
            y: Axis::from_zero("latency, ms", 4.0),
            series,
        }
    }

    fn line(marker: Marker, values: &[Option<f64>]) -> Series {
        let points = values.iter().enumerate().map(|(slot, value)| Some((slot as f64, (*value)?)));
        let points: Vec<Option<(f64, f64)>> = points.collect();
        let look = Look::Line(Pen { colour: Colour::Shade(1), marker, is_dashed: false });
        Series { name: "a name".into(), look, marks: points.iter().copied().flatten().collect(), points }
    }

    /// The elements of a drawn picture with this name.
    fn with<T>(picture: &Picture, tag: &str, test: impl FnOnce(Vec<Node<'_, '_>>) -> T) -> T {
        let svg = picture.svg().unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let document = Document::parse(&svg).unwrap();
        test(
            document
                .descendants()
                .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", tag)))
                .collect(),
        )
    }

    fn texts(picture: &Picture) -> Vec<String> {
        let of = |node: &Node<'_, '_>| node.text().unwrap_or_default().trim().to_owned();
        with(picture, "text", |nodes| nodes.iter().map(of).collect())
    }

    /// Where circles lie.
    fn circles(picture: &Picture) -> Vec<(f64, f64)> {
        let number = |node: &Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse().unwrap();
        with(picture, "circle", |nodes| {
            nodes.iter().map(|node| (number(node, "cx"), number(node, "cy"))).collect()
        })
    }

    /// Lines in the colour of the series, the one in the legend included, each with its points.
    fn strokes(picture: &Picture) -> Vec<usize> {
        let RGBColor(r, g, b) = Colour::Shade(1).rgb();
        let colour = format!("#{r:02X}{g:02X}{b:02X}");
        with(picture, "polyline", |nodes| {
            let own = nodes.iter().filter(|node| node.attribute("stroke") == Some(&colour));
            own.map(|node| node.attribute("points").unwrap().split_whitespace().count()).collect()
        })
    }

    #[test]
    fn every_point_is_marked_where_its_value_is() {
        let values = [Some(0.0), Some(1.0), Some(4.0), Some(2.0)];
        let found = circles(&picture(vec![line(Marker::Disc, &values)]));
        // The last one is in the legend.
        let [a, b, c, d, legend] = found[..] else { panic!("{found:?}") };
        let (slot, unit) = ((d.0 - a.0) / 3.0, (a.1 - c.1) / 4.0);
        for (nth, (point, value)) in [a, b, c, d].iter().zip([0.0, 1.0, 4.0, 2.0]).enumerate() {
            let off = (point.0 - (a.0 + slot * nth as f64), point.1 - (a.1 - unit * value));
            assert!(off.0.abs() <= 1.0 && off.1.abs() <= 1.0, "not to scale: {found:?}");
        }
        assert!(slot > 100.0 && unit > 100.0, "{found:?}");
        assert!(d.0 < f64::from(LEGEND_X) && legend.0 > f64::from(LEGEND_X), "the legend hides the plot");
        // A value that has no place on the axis is left out.
        let odd = line(Marker::Disc, &[Some(9.0), Some(f64::NAN), Some(1.0)]);
        assert_eq!(circles(&picture(vec![odd])).len(), 2);
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_was_measured() {
        let all = picture(vec![line(Marker::Plus, &[Some(1.0), Some(2.0), Some(3.0), Some(2.0)])]);
        // A plus is two strokes of two points.
        let pluses = |count: usize| vec![2; count * 2];
        assert_eq!(strokes(&all), [vec![4], pluses(4), vec![2], pluses(1)].concat());
        let gap = picture(vec![line(Marker::Plus, &[Some(1.0), None, Some(3.0), Some(2.0)])]);
        assert_eq!(strokes(&gap), [vec![2], pluses(3), vec![2], pluses(1)].concat());
    }

    #[test]
    fn what_is_written_is_there_and_escaped() {
        let mut picture = picture(vec![line(Marker::Disc, &[Some(1.0)])]);
        picture.subtitle.push_str(&"!".repeat(1000));
        let texts = texts(&picture);
        for text in ["Less < more & \"so on\"", "first", "quorum", "latency, ms", "a name", "1", "4", "3"] {
            assert!(texts.iter().any(|found| found == text), "{text} is not in {texts:?}");
        }
        assert!(texts.iter().all(|text| text.chars().count() <= SUBTITLE_CHARS), "{texts:?}");
        assert_eq!(texts.iter().filter(|text| *text == "a name").count(), 1);
    }

    #[test]
    fn bars_have_their_numbers_above_them() {
        let points =
            [12_345.0, 0.0].into_iter().enumerate().map(|(slot, y)| Some((slot as f64, y))).collect();
        let mut picture =
            picture(vec![Series { name: "writes".into(), look: Look::Bars, points, marks: Vec::new() }]);
        picture.y = Axis::from_zero("writes/s", 12_345.0);
        assert!(texts(&picture).contains(&"12,345".to_owned()));
        let heights = with(&picture, "rect", |nodes| {
            let filled = nodes.into_iter().filter(|node| node.attribute("fill") == Some("#9EBCDA"));
            filled.map(|node| node.attribute("height").unwrap().parse().unwrap()).collect::<Vec<i32>>()
        });
        assert!(heights[0] > 300 && heights[1] == 0 && heights.len() == 2, "{heights:?}");
    }

    #[test]
    fn markers_and_greys_differ() {
        let drawn: BTreeSet<String> = Marker::ALL
            .iter()
            .map(|marker| picture(vec![line(*marker, &[Some(1.0)])]).svg().unwrap())
            .collect();
        assert_eq!(drawn.len(), SHADES);
        let grey = |colour: &RGBColor| {
            0.2126 * f64::from(colour.0) + 0.7152 * f64::from(colour.1) + 0.0722 * f64::from(colour.2)
        };
        let greys: Vec<f64> = COLOURS.iter().map(grey).collect();
        assert!(
            greys.windows(2).all(|pair| pair[1] - pair[0] > 8.0) && greys[SHADES - 1] < 190.0,
            "{greys:?}"
        );
    }

    #[test]
    fn a_picture_of_nothing_says_so() {
        assert!(texts(&picture(Vec::new())).contains(&"no figures".to_owned()));
        assert!(texts(&picture(vec![line(Marker::Disc, &[None, None])])).contains(&"no figures".to_owned()));
        assert!(!texts(&picture(vec![line(Marker::Disc, &[Some(1.0)])])).contains(&"no figures".to_owned()));
    }
}
