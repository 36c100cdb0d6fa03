//! The document of `/api/sketches`: the series of a window, to be merged with those of other
//! gateways.
//!
//! - *In*: a window; documents of gateways.
//! - *Out*: the document; windows, or why a document cannot be read.
//! - *Never*: trust in a document: its size, counts and histograms are checked.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::cell::{Cell, DecodeError};
use crate::labels::{Filter, Labels};
use crate::windows::{Window, WindowCells};

/// The version of the document.
const VERSION: u32 = 1;
/// Maximum series of a document: more than a gateway has.
const MAX_DOCUMENT_SERIES: usize = 16_384;

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sketches {
    /// Version of the document.
    version: u32,
    /// The window, by its name.
    window: String,
    /// The time that it covers, in seconds.
    seconds: f64,
    /// The series.
    series: Vec<SeriesSketch>,
}

/// A series.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SeriesSketch {
    route: String,
    backend: String,
    operation: String,
    model: String,
    owner: String,
    /// The cell in base64.
    sketch: String,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SketchError {
    /// It was written by another version.
    #[error("version {0} of the sketches is not {VERSION}; use a gateway of the same version")]
    Version(u32),
    /// It has no valid time.
    #[error("the time that the sketches cover is not valid")]
    Time,
    /// It has too many series.
    #[error("{0} series are too many")]
    TooMany(usize),
    /// A sketch is not base64.
    #[error("a sketch is not base64")]
    Base64,
    /// A sketch is damaged.
    #[error(transparent)]
    Sketch(#[from] DecodeError),
}

impl Sketches {
    /// The document of a window's selected series.
    pub fn new(window: Window, cells: &WindowCells, filter: &Filter) -> Self {
        let selected = cells.series.iter().filter(|(labels, _)| filter.selects(labels));
        let series = selected.map(|(labels, cell)| {
            let mut bytes = Vec::new();
            cell.encode(&mut bytes);
            SeriesSketch {
                route: labels.route.to_string(),
                backend: labels.backend.to_string(),
                operation: labels.operation.to_string(),
                model: labels.model.to_string(),
                owner: labels.owner.to_string(),
                sketch: STANDARD.encode(bytes),
            }
        });
        Sketches {
            version: VERSION,
            window: window.name().to_owned(),
            seconds: cells.seconds,
            series: series.collect(),
        }
    }

    /// The cells of the document.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(&self) -> Result<WindowCells, SketchError> {
        if self.version != VERSION {
            return Err(SketchError::Version(self.version));
        }
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err(SketchError::Time);
        }
        if self.series.len() > MAX_DOCUMENT_SERIES {
            return Err(SketchError::TooMany(self.series.len()));
        }
        let mut cells = WindowCells { seconds: self.seconds, ..WindowCells::default() };
        for series in &self.series {
            let bytes = STANDARD.decode(&series.sketch).map_err(|_| SketchError::Base64)?;
            let cell = Cell::decode(&mut bytes.as_slice())?;
            cells.series.entry(series.labels()).or_default().merge(&cell);
        }
        Ok(cells)
    }
}

impl SeriesSketch {
    fn labels(&self) -> Labels {
        Labels {
            route: self.route.as_str().into(),
            backend: self.backend.as_str().into(),
            operation: Cow::Owned(self.operation.clone()),
            model: self.model.as_str().into(),
            owner: self.owner.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lens::{Tick, Timing};

    use super::*;
    use crate::labels::Dimension;
    use crate::report::{Rows, TimingReport, group};
    use crate::statistics::Statistics;
    use crate::tests::record;

    fn statistics(totals: impl Iterator<Item = u64>) -> Statistics {
        let statistics = Statistics::new(Tick(0));
        let record = |total| Arc::new(lens::Record { total_us: total, ..record("r", "ok") });
        statistics.add(Tick(1), &totals.map(record).collect::<Vec<_>>());
        statistics
    }

    fn document(statistics: &Statistics) -> Sketches {
        let cells = statistics.window(Window::OneMinute, Tick(2_000_000_000));
        let document = Sketches::new(Window::OneMinute, &cells, &Filter::default());
        let text = serde_json::to_string(&document).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn total(rows: &Rows) -> TimingReport {
        TimingReport::new(rows[&vec!["r".to_owned()]].cell.timing(Timing::Total).unwrap()).unwrap()
    }

    /// A fast and a slow gateway: the merged percentiles are those of all requests, not a mean.
    #[test]
    fn two_gateways_merge_to_the_figures_of_one() {
        let (fast, slow) = (statistics(1_000..1_900), statistics(1_000_000..1_000_100));
        let both = statistics((1_000..1_900).chain(1_000_000..1_000_100));
        let (mut merged, mut one) = (Rows::new(), Rows::new());
        for gateway in [&fast, &slow] {
            let cells = document(gateway).decode().unwrap();
            group(&mut merged, &cells, &[Dimension::Route], &Filter::default());
        }
        let cells = document(&both).decode().unwrap();
        group(&mut one, &cells, &[Dimension::Route], &Filter::default());
        assert_eq!(merged[&vec!["r".to_owned()]].cell, one[&vec!["r".to_owned()]].cell);
        let total = total(&merged);
        assert!(total.p50_us < 2_000 && total.p95_us > 900_000, "{total:?}");
        assert!((merged[&vec!["r".to_owned()]].requests_per_s - 500.0).abs() < 1e-6);
    }

    #[test]
    fn damaged_documents_are_refused() {
        let good = document(&statistics(0..3));
        assert!(good.decode().is_ok());
        let mut bad = good.clone();
        bad.series[0].sketch.insert(0, '!');
        assert!(matches!(bad.decode(), Err(SketchError::Base64)));
        let mut bad = good.clone();
        bad.series[0].sketch.truncate(8);
        assert!(matches!(bad.decode(), Err(SketchError::Sketch(_))));
        let bad = Sketches { seconds: f64::NAN, ..good.clone() };
        assert!(matches!(bad.decode(), Err(SketchError::Time)));
        let bad = Sketches { version: 2, ..good };
        assert!(matches!(bad.decode(), Err(SketchError::Version(2))));
    }

    #[test]
    fn mean_and_deviation_are_exact() {
        let cells = document(&statistics([1_000_000_000, 1_000_000_002].into_iter()));
        let mut rows = Rows::new();
        group(&mut rows, &cells.decode().unwrap(), &[Dimension::Route], &Filter::default());
        let total = total(&rows);
        assert!((total.mean_us - 1_000_000_001.0).abs() < 1e-9, "{total:?}");
        assert!((total.deviation_us - 1.0).abs() < 1e-9, "{total:?}");
    }
}
