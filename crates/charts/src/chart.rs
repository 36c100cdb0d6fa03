//! Charts of points and lines, as SVG.

use std::fmt::Write as _;

use crate::escape;
use crate::scale::{Axis, Range, label};

/// Size of a chart, in the units of its view box: about the pixels of a phone.
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 250.0;
/// Space for ticks and labels: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (50.0, 10.0, 12.0, 40.0);
/// Maximum points of a series that are drawn. Of more, every n-th is.
const MAX_POINTS: usize = 1_500;
/// Colors and dashes that distinguish series.
pub(crate) const COLORS: usize = 6;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A line from point to point.
    Line,
    /// Steps: the value holds until the next point.
    Steps,
    /// Dots.
    Dots,
    /// A line with dots.
    LineDots,
}

/// A series of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub shape: Shape,
    /// Its points, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Its series.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a figure; `None` if it has no points.
    pub(crate) fn html(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let x = Range::covering(self.x.scale, points().map(|(x, _)| *x))?;
        let y = Range::covering(self.y.scale, points().map(|(_, y)| *y))?;
        let mut out = String::new();
        let title = escape(&self.title);
        let _ = write!(
            out,
            "<figure><figcaption>{title}<small>{}</small></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">",
            escape(&self.note)
        );
        axes(&mut out, &self.x, &self.y, &x, &y);
        for (at, series) in self.series.iter().enumerate() {
            draw(&mut out, series, at % COLORS + 1, &x, &y);
        }
        out.push_str("</svg>");
        if self.series.len() > 1 {
            out.push_str(&legend(self.series.iter().map(|series| series.name.as_str())));
        }
        out.push_str("</figure>");
        Some(out)
    }
}

/// The names of colors.
pub(crate) fn legend<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for (at, name) in names.enumerate() {
        let _ = write!(out, "<span class=\"k{}\">{}</span> ", at % COLORS + 1, escape(name));
    }
    out + "</p>"
}

fn left(share: f64) -> f64 {
    MARGIN.0 + share * (WIDTH - MARGIN.0 - MARGIN.2)
}

fn top(share: f64) -> f64 {
    HEIGHT - MARGIN.3 - share * (HEIGHT - MARGIN.1 - MARGIN.3)
}

fn axes(out: &mut String, x_axis: &Axis, y_axis: &Axis, x: &Range, y: &Range) {
    let (bottom, end) = (top(0.0), left(1.0));
    for (share, label) in y.ticks() {
        let at = top(share);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{:.1} {at:.1}H{end:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            MARGIN.0,
            MARGIN.0 - 5.0,
            at + 3.5
        );
    }
    for (share, label) in x.ticks() {
        let at = left(share);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {:.1}V{bottom:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            MARGIN.1,
            bottom + 14.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"axis\" transform=\"translate(9 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        left(0.5),
        HEIGHT - 8.0,
        escape(&x_axis.label),
        top(0.5),
        escape(&y_axis.label)
    );
}

fn draw(out: &mut String, series: &Series, color: usize, x: &Range, y: &Range) {
    let every = series.points.len().div_ceil(MAX_POINTS).max(1);
    let placed: Vec<(f64, f64, f64, f64)> = series
        .points
        .iter()
        .step_by(every)
        .filter_map(|(a, b)| Some((left(x.share(*a)?), top(y.share(*b)?), *a, *b)))
        .collect();
    if series.shape != Shape::Dots {
        let mut path = String::new();
        for (at, (px, py, _, _)) in placed.iter().enumerate() {
            let _ = match (at, series.shape) {
                (0, _) => write!(path, "M{px:.1} {py:.1}"),
                (_, Shape::Steps) => write!(path, "H{px:.1}V{py:.1}"),
                _ => write!(path, "L{px:.1} {py:.1}"),
            };
        }
        let _ = write!(out, "<path class=\"line c{color}\" d=\"{path}\"/>");
    }
    if matches!(series.shape, Shape::Dots | Shape::LineDots) {
        let radius = if placed.len() > 300 { 1.5 } else { 2.6 };
        for (px, py, a, b) in placed {
            let (a, b) = (label(a), label(b));
            let _ = write!(
                out,
                "<circle class=\"f{color}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{radius}\"><title>{}: {a}, {b}</title></circle>",
                escape(&series.name)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::Scale;

    fn chart(points: Vec<(f64, f64)>, shape: Shape) -> Chart {
        Chart {
            title: "a <b>".into(),
            note: String::new(),
            x: Axis::new("x", Scale::Linear),
            y: Axis::new("y", Scale::Log),
            series: vec![Series { name: "s".into(), shape, points }],
        }
    }

    #[test]
    fn points_are_drawn_where_they_belong() {
        let html =
            chart(vec![(0.0, 1.0), (5.0, 10.0), (10.0, 100.0)], Shape::LineDots).html().unwrap();
        assert!(html.contains("d=\"M50.0 210.0L209.0 110.0L368.0 10.0\""), "{html}");
        assert_eq!(html.matches("<circle").count(), 3);
        assert!(html.contains("a &lt;b&gt;") && !html.contains("legend"));
    }

    #[test]
    fn what_has_no_place_is_left_out_and_much_is_thinned() {
        assert_eq!(chart(vec![], Shape::Line).html(), None);
        assert_eq!(chart(vec![(1.0, 0.0)], Shape::Line).html(), None);
        let many = (0..10_000).map(|n| (f64::from(n), 1.0 + f64::from(n))).collect();
        let circles = chart(many, Shape::Dots).html().unwrap().matches("<circle").count();
        assert!((1_000..=MAX_POINTS).contains(&circles), "{circles}");
    }
}
