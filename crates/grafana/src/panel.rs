//! Panels of a dashboard.
//!
//! - *In*: queries, a unit.
//! - *Out*: the JSON of a panel. Its description is what the catalog says about its metrics.
//! - *Never*: a panel without a unit or a description.

use serde_json::{Value, json};

use crate::query;

/// Columns of Grafana's grid.
pub(crate) const COLUMNS: u64 = 24;

/// A query, and the name of its series.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    expression: String,
    legend: String,
}

/// What a panel looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lines,
    Stacked,
    HeatMap,
    Number,
}

/// A panel.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    title: &'static str,
    kind: Kind,
    unit: &'static str,
    queries: Vec<Query>,
    note: &'static str,
    pub(crate) width: u64,
    pub(crate) height: u64,
}

impl Chart {
    fn new(
        title: &'static str,
        kind: Kind,
        unit: &'static str,
        (width, height): (u64, u64),
    ) -> Self {
        Chart { title, kind, unit, queries: Vec::new(), note: "", width, height }
    }

    /// Lines over time.
    pub(crate) fn lines(title: &'static str, unit: &'static str) -> Self {
        Chart::new(title, Kind::Lines, unit, (8, 8))
    }

    /// Areas over time that add up.
    pub(crate) fn stacked(title: &'static str, unit: &'static str) -> Self {
        Chart::new(title, Kind::Stacked, unit, (8, 8))
    }

    /// A distribution over time.
    pub(crate) fn heat_map(title: &'static str, unit: &'static str, expression: String) -> Self {
        Chart::new(title, Kind::HeatMap, unit, (8, 8)).query(expression, "{{le}}")
    }

    /// One number.
    pub(crate) fn number(title: &'static str, unit: &'static str, expression: String) -> Self {
        Chart::new(title, Kind::Number, unit, (4, 4)).query(expression, "")
    }

    /// The same with one more query.
    pub(crate) fn query(mut self, expression: String, legend: &str) -> Self {
        self.queries.push(Query { expression, legend: legend.into() });
        self
    }

    /// The median, p95 and p99 of a timing.
    pub(crate) fn percentiles(mut self, timing: query::Timing) -> Self {
        for (value, name) in [("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99")] {
            self = self.query(query::quantile(value, timing, &[]), name);
        }
        self
    }

    /// The same with a sentence before those of the catalog.
    pub(crate) fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// The same, wider.
    pub(crate) fn wide(mut self) -> Self {
        self.width = COLUMNS / 2;
        self
    }

    fn description(&self) -> String {
        let mut sentences: Vec<&str> = Vec::new();
        sentences.extend(Some(self.note).filter(|note| !note.is_empty()));
        for query in &self.queries {
            for sentence in query::meaning(&query.expression) {
                if !sentences.contains(&sentence) {
                    sentences.push(sentence);
                }
            }
        }
        assert!(!sentences.is_empty(), "{}: the panel has no description", self.title);
        sentences.join("\n\n")
    }

    /// Its JSON at a place of the grid.
    pub(crate) fn to_json(&self, id: usize, (x, y): (u64, u64)) -> Value {
        let targets: Vec<Value> =
            self.queries.iter().zip('A'..='Z').map(|(q, id)| self.target(q, id)).collect();
        let (kind, custom, options) = match self.kind {
            Kind::Lines => ("timeseries", lines("none"), time_series()),
            Kind::Stacked => ("timeseries", lines("normal"), time_series()),
            Kind::HeatMap => ("heatmap", json!({}), heat_map(self.unit)),
            Kind::Number => ("stat", json!({}), number()),
        };
        json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.description(),
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, "min": 0, "custom": custom, "noValue": "no data"},
                "overrides": []
            },
            "options": options,
            "targets": targets
        })
    }

    fn target(&self, query: &Query, id: char) -> Value {
        json!({
            "refId": id,
            "expr": query.expression,
            "legendFormat": query.legend,
            "editorMode": "code",
            "format": if self.kind == Kind::HeatMap { "heatmap" } else { "time_series" },
            "range": self.kind != Kind::Number,
            "instant": self.kind == Kind::Number,
            // They lead from a slow request to its trace.
            "exemplar": self.kind == Kind::Lines && query.expression.contains("histogram_quantile"),
        })
    }
}

fn lines(stacking: &str) -> Value {
    json!({
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": if stacking == "none" { 0 } else { 40 },
        "showPoints": "never",
        // A gap says that there were no requests.
        "spanNulls": false,
        "stacking": {"mode": stacking, "group": "A"}
    })
}

fn time_series() -> Value {
    json!({
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"], "showLegend": true},
        "tooltip": {"mode": "multi", "sort": "desc"}
    })
}

fn heat_map(unit: &str) -> Value {
    json!({
        "calculate": false,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
        "cellGap": 0,
        "filterValues": {"le": 1e-9},
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "tooltip": {"mode": "single", "yHistogram": true}
    })
}

fn number() -> Value {
    json!({
        "colorMode": "none",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}
    })
}
