//! The report of a run as one HTML file.
//!
//! - *In*: a [`Report`].
//! - *Out*: the page: figures first, then charts, then tables.
//! - *Never*: a percentile of too few samples, or a request to any host.

use charts::{Axis, Bar, Bars, Block, Chart, Page, Scale, Series, Shape, Table, Tile};
use lens::Micros;

use super::{PERCENTILES, Report, ms, percentile};
use crate::measure::Sample;

/// Rows of the waterfall.
const MAX_ROWS: usize = 60;
/// Points of a distribution.
const POINTS: u32 = 200;
/// Errors that are listed.
const MAX_ERRORS: usize = 20;

impl Report<'_> {
    /// The report as HTML.
    pub fn html(&self) -> String {
        let mut blocks = self.warnings();
        blocks.push(Block::Tiles(self.tiles()));
        blocks.push(Block::Heading("Latency".into()));
        blocks.push(Block::Table(self.latency_table()));
        blocks.extend(self.distributions().map(Block::Chart));
        blocks.push(Block::Heading("During the run".into()));
        blocks.extend(self.over_time().into_iter().map(Block::Chart));
        blocks.push(Block::Heading("Requests".into()));
        blocks.push(Block::Chart(self.over_prompt_length()));
        blocks.push(Block::Bars(self.waterfall()));
        blocks.extend(self.error_table().map(Block::Table));
        blocks.push(Block::Heading("This client".into()));
        blocks.push(Block::Text(self.outcome.client.text()));
        blocks.extend(self.client_charts().into_iter().map(Block::Chart));
        blocks.push(self.configuration());
        let started = self.outcome.started.and_then(super::document::timestamp);
        let subtitle = format!(
            "{}, {:.1} s{}",
            self.outcome.url,
            self.outcome.took.as_secs_f64(),
            started.map_or_else(String::new, |time| format!(", from {time}"))
        );
        Page { title: format!("Load test of {}", self.config.model), subtitle, blocks }.html()
    }

    fn warnings(&self) -> Vec<Block> {
        let mut out = Vec::new();
        let ending = self.ending();
        if !ending.is_empty() {
            out.push(Block::Warning(ending.trim().to_owned()));
        }
        let invalid = self.outcome.client.invalid().count();
        if invalid > 0 {
            let windows = self.outcome.client.windows.len();
            out.push(Block::Warning(format!(
                "In {invalid} of {windows} seconds this machine was too busy to measure. Times in \
                 them may be those of the client."
            )));
        }
        let offered = self.offered();
        if let Some((_, grew)) = offered.split_once('\n').filter(|(_, rest)| !rest.is_empty()) {
            out.push(Block::Warning(grew.trim().to_owned()));
        }
        out
    }

    fn tiles(&self) -> Vec<Tile> {
        let tile = |name: &str, value: String| Tile { name: name.to_owned(), value };
        let timing = |name: &str, micros: &Micros, percent: f64| {
            let shown = percentile(micros, percent).map(|us| format!("{} ms", short_ms(us)));
            tile(&format!("{name} p{percent}"), shown.unwrap_or_else(|| "-".into()))
        };
        let outcome = self.outcome;
        let mut tiles = vec![
            tile("requests", outcome.samples.len().to_string()),
            tile("failed", self.failed().to_string()),
            tile("requests/s", format!("{:.2}", self.per_second(self.ok() as f64))),
            tile("output tokens/s", format!("{:.1}", self.per_second(self.tokens() as f64))),
            timing("TTFT", &outcome.ttft, 50.0),
            timing("TTFT", &outcome.ttft, 95.0),
            timing("TPOT", &outcome.tpot, 50.0),
            timing("request", &outcome.total, 95.0),
        ];
        if let Some(good) = self.good() {
            let share = 100.0 * good as f64 / outcome.samples.len().max(1) as f64;
            tiles.push(tile("met the objectives", format!("{share:.1} %")));
        }
        tiles
    }

    fn latency_table(&self) -> Table {
        let percentiles = PERCENTILES.iter().map(|p| format!("p{p}"));
        let head = ["ms", "count", "mean"].map(str::to_owned).into_iter().chain(percentiles);
        let row = |(name, _, micros): (&str, &str, &Micros)| {
            let mut row =
                vec![name.to_owned(), micros.count().to_string(), ms(super::mean(micros))];
            row.extend(PERCENTILES.iter().map(|p| ms(percentile(micros, *p).map(|us| us as f64))));
            row
        };
        let rows = self.timings().into_iter().map(row).collect();
        Table { title: String::new(), head: head.collect(), rows }
    }

    /// Percentile curves and distributions.
    fn distributions(&self) -> impl Iterator<Item = Chart> {
        let o = self.outcome;
        let requests: [(&str, &Micros); 4] = [
            ("TTFT", &o.ttft),
            ("TTFT from send", &o.ttft_from_send),
            ("request", &o.total),
            ("request from send", &o.total_from_send),
        ];
        let tokens: [(&str, &Micros); 2] = [("TPOT", &o.tpot), ("ITL", &o.itl)];
        let log = || Axis::new("ms", Scale::Log);
        let chart = |title: &str, note: &str, x, y, series: Vec<Series>| Chart {
            title: title.into(),
            note: note.into(),
            x,
            y,
            series,
        };
        let curves = |of: &[(&str, &Micros)]| of.iter().map(|(n, m)| curve(n, m)).collect();
        let shares = |of: &[(&str, &Micros)]| of.iter().map(|(n, m)| cdf(n, m)).collect();
        let percentiles = || Axis::new("percentile", Scale::Percentile);
        let share = || Axis::new("share of values, %", Scale::Linear);
        [
            chart(
                "Percentiles of requests",
                "up to where samples suffice",
                percentiles(),
                log(),
                curves(&requests),
            ),
            chart(
                "Percentiles of tokens",
                "TPOT of requests, ITL of all gaps",
                percentiles(),
                log(),
                curves(&tokens),
            ),
            chart(
                "Distribution of TTFT",
                "share at or below a time",
                log(),
                share(),
                shares(&requests[..2]),
            ),
            chart(
                "Distribution of TPOT and ITL",
                "share at or below a time",
                log(),
                share(),
                shares(&tokens),
            ),
        ]
        .into_iter()
    }

    fn over_time(&self) -> Vec<Chart> {
        let seconds = |us: u64| us as f64 / 1e6;
        let samples = &self.outcome.samples;
        let ok = || samples.iter().filter(|s| s.is_ok());
        let dots = |name: &str, points: Vec<(f64, f64)>| Series {
            name: name.into(),
            shape: Shape::Dots,
            points,
        };
        let ttft = ok().filter_map(|s| Some((seconds(s.due_us), s.ttft_us? as f64 / 1e3)));
        let tpot = ok().filter_map(|s| Some((seconds(s.due_us), s.tpot_us? / 1e3)));
        let chart = |title: &str, note: &str, y: Axis, series| Chart {
            title: title.into(),
            note: note.into(),
            x: Axis::new("s since the start", Scale::Linear),
            y,
            series,
        };
        let (rates, failures) =
            (per_second(ok()), per_second(samples.iter().filter(|s| s.is_failed())));
        let steps = |name: &str, points| Series { name: name.into(), shape: Shape::Steps, points };
        vec![
            chart(
                "TTFT",
                "each dot is a request, at the time it was due",
                Axis::new("ms", Scale::Log),
                vec![dots("TTFT", ttft.collect())],
            ),
            chart(
                "TPOT",
                "each dot is a request",
                Axis::new("ms", Scale::Log),
                vec![dots("TPOT", tpot.collect())],
            ),
            chart(
                "Answers",
                "in each second",
                Axis::new("per second", Scale::Linear),
                vec![steps("answered", rates), steps("failed", failures)],
            ),
            chart(
                "In flight",
                "requests that were due and had not ended",
                Axis::new("requests", Scale::Linear),
                vec![steps("in flight", in_flight(samples))],
            ),
        ]
    }

    fn over_prompt_length(&self) -> Chart {
        let point = |s: &Sample| Some((s.prompt_tokens? as f64, s.ttft_us? as f64 / 1e3));
        let points = self.outcome.samples.iter().filter(|s| s.is_ok()).filter_map(point).collect();
        Chart {
            title: "TTFT over prompt length".into(),
            note: "prompt tokens as the engine counted them".into(),
            x: Axis::new("prompt tokens", Scale::Linear),
            y: Axis::new("TTFT, ms", Scale::Linear),
            series: vec![Series { name: "requests".into(), shape: Shape::Dots, points }],
        }
    }

    /// The first requests, from when they were due to their ends.
    fn waterfall(&self) -> Bars {
        let mut samples: Vec<&Sample> = self.outcome.samples.iter().collect();
        samples.sort_by_key(|sample| sample.due_us);
        samples.truncate(MAX_ROWS);
        let row = |s: &&Sample| {
            let at = |us: u64| (s.due_us + us) as f64 / 1e6;
            let first = s.ttft_us.unwrap_or(s.total_us).min(s.total_us);
            let late = s.late_us.min(first);
            let mut parts = vec![(0, at(0), at(late)), (1, at(late), at(first))];
            if s.total_us > first {
                parts.push((2, at(first), at(s.total_us)));
            }
            if s.is_failed() {
                parts.push((3, at(s.total_us), at(s.total_us)));
            }
            parts.retain(|(kind, from, to)| to > from || *kind == 3);
            let number = s.id.rsplit('-').next().unwrap_or_default();
            Bar { label: format!("request {number}"), parts }
        };
        Bars {
            title: "Waterfall".into(),
            note: format!("the first {} requests, from when they were due", samples.len()),
            x: Axis::new("s since the start", Scale::Linear),
            kinds: ["late, connecting", "waiting for the first token", "generating", "failed"]
                .map(str::to_owned)
                .to_vec(),
            rows: samples.iter().map(row).collect(),
            height: if samples.len() > 30 { 6.0 } else { 12.0 },
        }
    }

    fn error_table(&self) -> Option<Table> {
        let errors = self.errors();
        let row = |(error, count): &(String, usize)| {
            let message = self.outcome.messages.get(error).cloned().unwrap_or_default();
            vec![error.clone(), count.to_string(), message]
        };
        let rows: Vec<_> = errors.iter().take(MAX_ERRORS).map(row).collect();
        let head = ["error", "requests", "message"].map(str::to_owned).to_vec();
        (!rows.is_empty()).then(|| Table { title: "Errors".into(), head, rows })
    }

    /// What the client added, in each second.
    fn client_charts(&self) -> Vec<Chart> {
        let windows = &self.outcome.client.windows;
        if windows.len() < 2 {
            return Vec::new();
        }
        let series = |name: &str, get: &dyn Fn(&crate::client::Window) -> Option<f64>| Series {
            name: name.into(),
            shape: Shape::Steps,
            points: windows
                .iter()
                .filter_map(|w| Some((w.start_us as f64 / 1e6, get(w)?)))
                .collect(),
        };
        let ms = |us: Option<u64>| us.map(|us| us as f64 / 1e3);
        let percent = |share: Option<f64>| share.map(|share| share * 100.0);
        let chart = |title: &str, y: &str, series| Chart {
            title: title.into(),
            note: "in each second".into(),
            x: Axis::new("s since the start", Scale::Linear),
            y: Axis::new(y, Scale::Linear),
            series,
        };
        vec![
            chart(
                "Lateness of the client",
                "p99, ms",
                vec![
                    series("starts", &|w| ms(w.slip_p99_us)),
                    series("timer", &|w| ms(w.timer_p99_us)),
                ],
            ),
            chart(
                "Threads of the client",
                "%",
                vec![
                    series("busiest thread", &|w| percent(w.cpu_share)),
                    series("run queue", &|w| percent(w.run_queue_share)),
                ],
            ),
        ]
    }

    fn configuration(&self) -> Block {
        let json = self.settings_json();
        let text = serde_json::to_string_pretty(&json).unwrap_or_default();
        Block::Details("Configuration and machine".into(), text)
    }
}

/// Milliseconds with three digits.
fn short_ms(us: u64) -> String {
    let ms = us as f64 / 1e3;
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

/// Lowest percentile of curves, and of distributions: below, single values stretch the axis.
const MIN_CURVE: f64 = 5.0;
const MIN_SHARE: u32 = 2;

/// Values over percentiles, up to where samples suffice.
fn curve(name: &str, micros: &Micros) -> Series {
    let percents =
        (0..=POINTS).map(|n| 100.0 * (1.0 - 10_f64.powf(-4.0 * f64::from(n) / f64::from(POINTS))));
    let point = |percent: f64| Some((percent, percentile(micros, percent)? as f64 / 1e3));
    Series {
        name: name.into(),
        shape: Shape::Line,
        points: percents.filter(|p| *p >= MIN_CURVE).filter_map(point).collect(),
    }
}

/// Shares of values at or below a time.
fn cdf(name: &str, micros: &Micros) -> Series {
    let point = |n: u32| {
        let percent = 100.0 * f64::from(n) / f64::from(POINTS);
        Some((micros.percentile(percent)? as f64 / 1e3, percent))
    };
    Series {
        name: name.into(),
        shape: Shape::Line,
        points: (MIN_SHARE..=POINTS).filter_map(point).collect(),
    }
}

/// Ends of requests in each second.
fn per_second<'s>(samples: impl Iterator<Item = &'s Sample>) -> Vec<(f64, f64)> {
    let mut counts: Vec<f64> = Vec::new();
    for sample in samples {
        let second = usize::try_from((sample.due_us + sample.total_us) / 1_000_000).unwrap_or(0);
        // A run of more than a day has no chart of its seconds.
        if second < 86_400 {
            if counts.len() <= second {
                counts.resize(second + 1, 0.0);
            }
            counts[second] += 1.0;
        }
    }
    counts.iter().enumerate().map(|(second, count)| (second as f64, *count)).collect()
}

/// Requests in flight, at each start and end.
fn in_flight(samples: &[Sample]) -> Vec<(f64, f64)> {
    let mut changes: Vec<(u64, i32)> =
        samples.iter().flat_map(|s| [(s.due_us, 1), (s.due_us + s.total_us, -1)]).collect();
    changes.sort_unstable();
    let mut count = 0;
    changes
        .into_iter()
        .map(|(at, change)| {
            count += change;
            (at as f64 / 1e6, f64::from(count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Outcome;

    #[test]
    fn the_page_has_every_chart_and_no_percentile_of_too_few_samples() {
        let mut outcome = Outcome { url: "http://h/v1".into(), ..Outcome::default() };
        for n in 0..40_u64 {
            outcome.ttft.record(1_000 + n * 10);
            outcome.ttft_from_send.record(1_000 + n * 10);
            outcome.total.record(2_000);
            outcome.total_from_send.record(2_000);
            outcome.tpot.record(100);
            outcome.itl.record(100 + n);
            outcome.samples.push(Sample {
                due_us: n * 50_000,
                prompt_tokens: Some(10 + n),
                error: (n == 3).then(|| "<script>".into()),
                ..crate::measure::example()
            });
        }
        let config = super::super::tests::config();
        let report = Report { config: &config, outcome: &outcome, slo: None, joined: None };
        let html = report.html();
        for title in [
            "Percentiles of requests",
            "Distribution of TTFT",
            "TTFT over prompt length",
            "Waterfall",
            "In flight",
            "Errors",
        ] {
            assert!(html.contains(title), "{title} is not in the page");
        }
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"));
        // 40 samples are enough for p90 and too few for p95.
        assert!(html.contains("<b>-</b><span>TTFT p95</span>"), "{html}");
    }

    #[test]
    fn requests_in_flight_are_counted() {
        let sample = |due_us, total_us| Sample { due_us, total_us, ..crate::measure::example() };
        let counts: Vec<f64> =
            in_flight(&[sample(0, 100), sample(50, 100)]).iter().map(|p| p.1).collect();
        assert_eq!(counts, [1.0, 2.0, 1.0, 0.0]);
    }
}
