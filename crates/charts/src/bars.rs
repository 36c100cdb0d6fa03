//! Bars with a beginning and an end: waterfalls, and intervals.

use std::fmt::Write as _;

use crate::chart::{COLORS, legend};
use crate::escape;
use crate::scale::{Axis, Range, label};

const WIDTH: f64 = 380.0;
/// Width of the labels.
const LABELS: f64 = 78.0;
const RIGHT: f64 = 12.0;

/// A row of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its label.
    pub label: String,
    /// Parts: number of the name of its kind, from, to. A part without length is a mark.
    pub parts: Vec<(usize, f64, f64)>,
}

/// Rows of bars on one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What they show.
    pub title: String,
    /// How to read them.
    pub note: String,
    /// The axis.
    pub x: Axis,
    /// Names of the kinds of parts.
    pub kinds: Vec<String>,
    /// The rows.
    pub rows: Vec<Bar>,
    /// Height of a row.
    pub height: f64,
}

impl Bars {
    /// The rows as a figure; `None` without rows.
    pub(crate) fn html(&self) -> Option<String> {
        let ends = self.rows.iter().flat_map(|row| row.parts.iter().flat_map(|p| [p.1, p.2]));
        let x = Range::covering(self.x.scale, ends)?;
        let bottom = 4.0 + self.rows.len() as f64 * self.height;
        let title = escape(&self.title);
        let mut out = format!(
            "<figure class=\"wide\"><figcaption>{title}<small>{}</small></figcaption><svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{title}\">",
            escape(&self.note),
            bottom + 38.0
        );
        let left = |share: f64| LABELS + share * (WIDTH - LABELS - RIGHT);
        for (share, label) in x.ticks() {
            let at = left(share);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} 2V{bottom:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 14.0
            );
        }
        for (at, row) in self.rows.iter().enumerate() {
            let y = 4.0 + at as f64 * self.height;
            if self.height >= 9.0 {
                let _ = write!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LABELS - 5.0,
                    y + self.height * 0.5 + 3.0,
                    escape(&row.label)
                );
            }
            for (kind, from, to) in &row.parts {
                let (Some(start), Some(end)) = (x.share(*from), x.share(*to)) else { continue };
                let name = self.kinds.get(*kind).map_or("", String::as_str);
                let _ = write!(
                    out,
                    "<rect class=\"f{}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}, {}: {} to {}</title></rect>",
                    kind % COLORS + 1,
                    left(start),
                    ((end - start) * (WIDTH - LABELS - RIGHT)).max(1.2),
                    self.height * 0.8,
                    escape(&row.label),
                    escape(name),
                    label(*from),
                    label(*to)
                );
            }
        }
        let _ = write!(
            out,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></svg>{}</figure>",
            left(0.5),
            bottom + 31.0,
            escape(&self.x.label),
            legend(self.kinds.iter().map(String::as_str))
        );
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::Scale;

    #[test]
    fn bars_have_their_lengths() {
        let row = |label: &str, parts| Bar { label: label.into(), parts };
        let mut bars = Bars {
            title: "t".into(),
            note: String::new(),
            x: Axis::new("s", Scale::Linear),
            kinds: vec!["wait".into(), "text".into()],
            rows: vec![row("<1>", vec![(0, 0.0, 5.0), (1, 5.0, 10.0)])],
            height: 10.0,
        };
        let html = bars.html().unwrap();
        let width = (WIDTH - LABELS - RIGHT) / 2.0;
        assert_eq!(html.matches(&format!("width=\"{width:.1}\"")).count(), 2, "{html}");
        assert!(html.contains("&lt;1&gt;, text: 5 to 10"), "{html}");
        bars.rows.clear();
        assert_eq!(bars.html(), None);
    }
}
