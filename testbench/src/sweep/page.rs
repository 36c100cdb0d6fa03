//! The points of a sweep or a search as a table, JSON, CSV and HTML.

use std::fmt::Write as _;

use charts::{Axis, Block, Chart, Page, Scale, Series, Shape, Table, Tile};
use serde_json::{Value, json};

use super::{Found, Point, knee};
use crate::report::ms;
use crate::run::Config;

/// Version of the document.
const SCHEMA: u32 = 1;

/// Heads of the columns of figures.
const COLUMNS: [&str; 12] = [
    "requests",
    "failed",
    "answers/s",
    "tokens/s",
    "good %",
    "TTFT p50",
    "TTFT p95",
    "TPOT p50",
    "TPOT p95",
    "request p95",
    "steady s",
    "notes",
];

/// Names of the settings that differ, in the order in which they appear.
fn settings(points: &[Point]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in points.iter().flat_map(|point| point.settings.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn setting(point: &Point, name: &str) -> String {
    match point.settings.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(value) if value.fract() != 0.0 => format!("{value:.2}"),
            Some(value) => format!("{value:.0}"),
            None => number.to_string(),
        },
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn cells(point: &Point) -> [String; 12] {
    let time = |us: Option<u64>| ms(us.map(|us| us as f64));
    let steady = point.steady.map_or_else(
        || "-".into(),
        |steady| match steady.is_steady {
            true => format!("{:.1}", steady.from_us as f64 / 1e6),
            false => "drifts".into(),
        },
    );
    [
        point.requests.to_string(),
        point.failed.to_string(),
        format!("{:.2}", point.requests_per_second),
        format!("{:.1}", point.tokens_per_second),
        point.good.map_or_else(|| "-".into(), |good| format!("{:.1}", good * 100.0)),
        time(point.ttft_p50_us),
        time(point.ttft_p95_us),
        time(point.tpot_p50_us),
        time(point.tpot_p95_us),
        time(point.request_p95_us),
        steady,
        notes(point),
    ]
}

fn notes(point: &Point) -> String {
    let mut notes = Vec::new();
    if point.overloaded {
        notes.push("overloaded".to_owned());
    }
    if point.invalid_windows > 0 {
        notes.push(format!("{} invalid s", point.invalid_windows));
    }
    if point.is_best {
        notes.push("best".to_owned());
    }
    notes.join(", ")
}

/// The points as a text table. Times are milliseconds.
pub fn table(points: &[Point]) -> String {
    let names = settings(points);
    let mut rows: Vec<Vec<String>> =
        vec![names.iter().cloned().chain(COLUMNS.map(str::to_owned)).collect()];
    rows.extend(
        points.iter().map(|point| {
            names.iter().map(|name| setting(point, name)).chain(cells(point)).collect()
        }),
    );
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    if let Some(knee) = knee(points).and_then(|at| points.get(at)) {
        let _ = writeln!(out, "knee: {}", describe(knee));
    }
    if points.iter().filter(|point| point.is_best).count() > 1 {
        out.push_str("best: no other point has both more tokens/s and a lower TPOT p50\n");
    }
    out
}

fn describe(point: &Point) -> String {
    let pairs: Vec<String> =
        point.settings.keys().map(|name| format!("{name} {}", setting(point, name))).collect();
    format!("{}, {:.2} answers/s", pairs.join(", "), point.requests_per_second)
}

/// What a search found, as a line.
pub(super) fn found_text(found: &Found, objectives: &str) -> String {
    let text = match (found.rate, found.interval) {
        (Some(rate), Some((low, high))) if found.is_bounded => format!(
            "max rate: {rate:.2} requests/s meet {objectives} (95 % interval {low:.2} to {high:.2})"
        ),
        (Some(rate), _) => format!("max rate: at least {rate:.2} requests/s meet {objectives}"),
        (None, _) => format!("max rate: no rate that was tried meets {objectives}"),
    };
    match found.points.iter().filter(|point| point.invalid_windows > 0).count() {
        0 => text,
        invalid => format!(
            "{text}; in {invalid} of {} runs this machine was too busy to measure for a second or more",
            found.points.len()
        ),
    }
}

/// The points as JSON.
pub fn json(config: &Config, points: &[Point], found: Option<&Found>) -> Value {
    let report = crate::report::Report {
        config,
        outcome: &crate::run::Outcome::default(),
        slo: None,
        joined: None,
    };
    json!({
        "sweep": {
            "schema": SCHEMA,
            "base": report.settings_json(),
            "points": points,
            "knee": knee(points),
            "max_rate": found.map(|found| json!({
                "requests_per_second": found.rate, "interval": found.interval,
                "is_bounded": found.is_bounded,
            })),
        }
    })
}

/// The points as CSV, times in milliseconds.
pub fn csv(points: &[Point]) -> String {
    let names = settings(points);
    let quote = |cell: String| format!("\"{}\"", cell.replace('"', "'"));
    let head = names.iter().cloned().chain(COLUMNS.map(str::to_owned)).map(quote);
    let mut out = head.collect::<Vec<_>>().join(",") + "\n";
    for point in points {
        let row = names.iter().map(|name| setting(point, name)).chain(cells(point)).map(quote);
        out.push_str(&(row.collect::<Vec<_>>().join(",") + "\n"));
    }
    out
}

/// The points as an HTML page.
pub fn html(config: &Config, points: &[Point], found: Option<(&Found, &str)>) -> String {
    let mut blocks = Vec::new();
    let tile = |name: &str, value: String| Tile { name: name.into(), value };
    let mut tiles = vec![tile("runs", points.len().to_string())];
    if let Some((found, objectives)) = found {
        let rate = found.rate.map_or_else(|| "-".into(), |rate| format!("{rate:.2}"));
        tiles.push(tile("max rate, requests/s", rate));
        if let Some((low, high)) = found.interval.filter(|_| found.is_bounded) {
            tiles.push(tile("95 % interval", format!("{low:.2} to {high:.2}")));
        }
        blocks.push(Block::Text(found_text(found, objectives)));
    }
    if let Some(knee) = knee(points).and_then(|at| points.get(at)) {
        tiles.push(tile("knee, answers/s", format!("{:.2}", knee.requests_per_second)));
        blocks.push(Block::Text(format!("Knee: {}", describe(knee))));
    }
    let invalid = points.iter().filter(|point| point.invalid_windows > 0).count();
    if invalid > 0 {
        blocks.push(Block::Warning(format!(
            "In {invalid} of {} runs there are seconds in which this machine was too busy to \
             measure.",
            points.len()
        )));
    }
    blocks.insert(0, Block::Tiles(tiles));
    blocks.push(Block::Heading("Curves".into()));
    blocks.extend(curves(points).into_iter().map(Block::Chart));
    blocks.push(Block::Heading("Runs".into()));
    blocks.push(Block::Table(html_table(points)));
    blocks.push(Block::Text("Times are milliseconds, of the steady part of each run.".into()));
    let subtitle = format!("{}, model {}", config.base_url, config.model);
    Page { title: "Sweep".into(), subtitle, blocks }.html()
}

fn html_table(points: &[Point]) -> Table {
    let names = settings(points);
    let head = names.iter().cloned().chain(COLUMNS.map(str::to_owned)).collect();
    let row =
        |point: &Point| names.iter().map(|name| setting(point, name)).chain(cells(point)).collect();
    Table { title: String::new(), head, rows: points.iter().map(row).collect() }
}

fn curves(points: &[Point]) -> Vec<Chart> {
    let us = |us: Option<u64>| us.map(|us| us as f64 / 1e3);
    let over_load = |name: &str, get: &dyn Fn(&Point) -> Option<f64>| {
        by_other_settings(points, name, &|p| Some((load(p), get(p)?)))
    };
    let x = || Axis::new(load_name(points), Scale::Linear);
    let chart = |title: &str, note: &str, x, y: Axis, series| Chart {
        title: title.into(),
        note: note.into(),
        x,
        y,
        series,
    };
    let joined = |mut first: Vec<Series>, second: Vec<Series>| {
        first.extend(second);
        first
    };
    vec![
        chart(
            "TTFT over load",
            "",
            x(),
            Axis::new("ms", Scale::Log),
            joined(
                over_load("p50", &|p| us(p.ttft_p50_us)),
                over_load("p95", &|p| us(p.ttft_p95_us)),
            ),
        ),
        chart(
            "TPOT over load",
            "",
            x(),
            Axis::new("ms", Scale::Linear),
            joined(
                over_load("p50", &|p| us(p.tpot_p50_us)),
                over_load("p95", &|p| us(p.tpot_p95_us)),
            ),
        ),
        chart(
            "Throughput over load",
            "",
            x(),
            Axis::new("output tokens/s", Scale::Linear),
            over_load("tokens/s", &|p| Some(p.tokens_per_second)),
        ),
        chart(
            "Requests within the objectives",
            "",
            x(),
            Axis::new("%", Scale::Linear),
            over_load("good", &|p| p.good.map(|good| good * 100.0)),
        ),
        pareto(points),
    ]
}

/// Tokens per second of the server over those of a user, with the line of the best runs.
fn pareto(points: &[Point]) -> Chart {
    let speed = |p: &Point| Some((1e6 / p.tpot_p50_us? as f64, p.tokens_per_second));
    let mut series = by_other_settings(points, "runs", &speed);
    series.iter_mut().for_each(|series| series.shape = Shape::Dots);
    let best = points.iter().filter(|point| point.is_best);
    let mut front: Vec<(f64, f64)> = best.filter_map(speed).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    series.push(Series { name: "best".into(), shape: Shape::Line, points: front });
    Chart {
        title: "Throughput and speed".into(),
        note: "best: no other run has more of both".into(),
        x: Axis::new("tokens/s of a user (1 / TPOT p50)", Scale::Linear),
        y: Axis::new("output tokens/s of the server", Scale::Linear),
        series,
    }
}

fn load(point: &Point) -> f64 {
    let setting = |name: &str| point.settings.get(name).and_then(Value::as_f64);
    setting("rate").or_else(|| setting("concurrency")).unwrap_or(point.requests_per_second)
}

fn load_name(points: &[Point]) -> &'static str {
    let has = |name: &str| points.iter().any(|point| point.settings.contains_key(name));
    match (has("rate"), has("concurrency")) {
        (true, _) => "requests/s offered",
        (_, true) => "concurrency",
        _ => "answers/s",
    }
}

/// A series for each combination of the settings that are not the load.
fn by_other_settings(
    points: &[Point],
    name: &str,
    get: &dyn Fn(&Point) -> Option<(f64, f64)>,
) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for point in points {
        let others: Vec<String> = point
            .settings
            .keys()
            .filter(|key| *key != "rate" && *key != "concurrency")
            .map(|key| format!("{key} {}", setting(point, key)))
            .collect();
        let name = if others.is_empty() {
            name.to_owned()
        } else {
            format!("{name}, {}", others.join(", "))
        };
        let Some(value) = get(point) else { continue };
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(value),
            None => all.push(Series { name, shape: Shape::LineDots, points: vec![value] }),
        }
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

impl Found {
    /// What was found, as a line.
    pub fn text(&self, objectives: &str) -> String {
        found_text(self, objectives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rate: f64, tokens: f64) -> Point {
        Point {
            settings: [("rate".to_owned(), json!(rate))].into_iter().collect(),
            requests: 100,
            requests_per_second: rate,
            tokens_per_second: tokens,
            ttft_p50_us: Some(10_000),
            tpot_p50_us: Some(5_000),
            request_mean_us: Some(100_000.0 * rate),
            overloaded: rate > 3.0,
            ..Point::default()
        }
    }

    #[test]
    fn tables_name_the_settings_and_what_is_wrong() {
        let points = [point(1.0, 10.0), point(2.5, 25.0), point(4.0, 30.0)];
        let text = table(&points);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].trim_start().starts_with("rate  requests"), "{text}");
        assert!(lines[2].trim_start().starts_with("2.50"), "{text}");
        assert!(lines[3].ends_with("overloaded") && lines[4].starts_with("knee: rate"), "{text}");
        assert_eq!(csv(&points).lines().count(), 4);
        let config = crate::report::tests::config();
        assert_eq!(json(&config, &points, None)["sweep"]["points"][1]["settings"]["rate"], 2.5);
        let html = html(&config, &points, None);
        assert!(html.contains("TTFT over load") && html.contains("overloaded"));
    }

    #[test]
    fn what_was_found_is_said_with_its_interval() {
        let mut found = Found {
            rate: Some(12.4),
            interval: Some((11.0, 13.0)),
            is_bounded: true,
            points: Vec::new(),
        };
        let text = found_text(&found, "ttft=1s");
        assert!(text.ends_with("12.40 requests/s meet ttft=1s (95 % interval 11.00 to 13.00)"));
        found.is_bounded = false;
        assert!(found_text(&found, "x").contains("at least 12.40"));
        found.rate = None;
        assert!(found_text(&found, "x").contains("no rate that was tried"));
    }
}
