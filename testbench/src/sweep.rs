//! Several runs of which some settings differ: grids, and the search for the highest rate.
//!
//! - *In*: a [`Config`], and the values of a [`Grid`].
//! - *Out*: a [`Point`] for each run, which of them no other one beats, and the knee.
//! - *Never*: figures of the warm-up: a point has those of its steady part.

mod isotonic;
mod page;
mod search;

pub use page::{csv, html, json, table};
pub use search::{Found, find_max_rate};

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use lens::Micros;
use serde::Serialize;
use serde_json::{Map, Value, json};
use workload::Slo;
use workload::arrival::Arrival;
use workload::length::Length;
use workload::prompts::Prompts;

use crate::measure::Sample;
use crate::report::percentile;
use crate::run::{Config, Ended, Outcome, RunError, run_load};
use crate::steady::{self, Steady};

/// Maximum points of a grid.
pub const MAX_POINTS: usize = 200;
/// Share of failures above which a server is overloaded.
const MAX_FAILURES: f64 = 0.05;

/// Values of settings. Each combination is a run. An empty list keeps the setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// Arrivals.
    pub arrivals: Vec<Arrival>,
    /// Lengths of prompts.
    pub prompt_lengths: Vec<Length>,
    /// Maximum tokens of answers.
    pub max_tokens: Vec<Length>,
}

/// The settings of a point that differ, and its configuration.
pub type Setting = (Map<String, Value>, Config);

/// Figures of a run. Times are microseconds; absent means too few samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// The settings that differ.
    pub settings: Map<String, Value>,
    /// Requests of the steady part, and those of them that failed.
    pub requests: usize,
    /// Failed requests.
    pub failed: usize,
    /// Requests per second that an open loop offered.
    pub offered: Option<f64>,
    /// Answers per second.
    pub requests_per_second: f64,
    /// Output tokens per second.
    pub tokens_per_second: f64,
    /// Share of requests that met the objectives, 0 to 1.
    pub good: Option<f64>,
    /// Time to first token.
    pub ttft_p50_us: Option<u64>,
    /// Time to first token.
    pub ttft_p95_us: Option<u64>,
    /// Time per output token.
    pub tpot_p50_us: Option<u64>,
    /// Time per output token.
    pub tpot_p95_us: Option<u64>,
    /// Mean time of whole requests.
    pub request_mean_us: Option<f64>,
    /// Whole requests.
    pub request_p95_us: Option<u64>,
    /// The steady part.
    pub steady: Option<Steady>,
    /// Whether the server did not keep up.
    pub overloaded: bool,
    /// Seconds in which the client was too busy to measure.
    pub invalid_windows: usize,
    /// Whether no other point has both more tokens per second and faster tokens.
    pub is_best: bool,
}

impl Grid {
    /// The configurations of all points, with the settings that differ.
    ///
    /// # Errors
    /// There are too many.
    pub fn configs(&self, base: &Config) -> Result<Vec<Setting>, RunError> {
        let mut all = vec![(Map::new(), base.clone())];
        all = product(all, &self.arrivals, |config, settings, arrival| {
            config.arrival = arrival.clone();
            match (arrival, arrival.rate()) {
                (Arrival::Closed { concurrency }, _) => {
                    settings.insert("concurrency".into(), json!(concurrency));
                }
                (_, Some(rate)) => {
                    settings.insert("rate".into(), json!(rate));
                }
                _ => {
                    settings.insert("arrival".into(), arrival.json());
                }
            }
        });
        all = product(all, &self.prompt_lengths, |config, settings, length| {
            Arc::make_mut(&mut config.workload).prompts = Prompts::Made(length.clone());
            settings.insert("prompt_length".into(), length.to_string().into());
        });
        all = product(all, &self.max_tokens, |config, settings, length| {
            Arc::make_mut(&mut config.workload).max_tokens = Some(length.clone());
            settings.insert("max_tokens".into(), length.to_string().into());
        });
        if all.len() > MAX_POINTS {
            let why = format!("the sweep has {} points; at most {MAX_POINTS} are run", all.len());
            return Err(RunError::Config(why));
        }
        // Prompts of an earlier point would be in caches.
        for (at, (_, config)) in all.iter_mut().enumerate() {
            config.seed = config.seed.wrapping_add(at as u64);
        }
        Ok(all)
    }
}

fn product<T>(
    all: Vec<Setting>,
    values: &[T],
    apply: impl Fn(&mut Config, &mut Map<String, Value>, &T),
) -> Vec<Setting> {
    if values.is_empty() {
        return all;
    }
    let with = |(settings, config): &Setting, value: &T| {
        let (mut settings, mut config) = (settings.clone(), config.clone());
        apply(&mut config, &mut settings, value);
        (settings, config)
    };
    all.iter().flat_map(|one| values.iter().map(|value| with(one, value))).collect()
}

/// Runs all points of a grid, or as many as are complete when `stop` is ready. `done` is called
/// after each.
///
/// # Errors
/// [`RunError`] if a configuration is invalid.
pub async fn run_grid(
    grid: &Grid,
    base: &Config,
    slo: Option<Slo>,
    mut done: impl FnMut(&Point),
    stop: impl Future<Output = ()>,
) -> Result<(Vec<Point>, Ended), RunError> {
    let mut stop = pin!(stop);
    let mut points = Vec::new();
    let mut ended = Ended::Completed;
    for (settings, config) in grid.configs(base)? {
        let outcome = run_load(config.clone(), stop.as_mut()).await?;
        if outcome.ended != Ended::Completed {
            ended = outcome.ended;
            break;
        }
        let point = Point::new(settings, &config, &outcome, slo);
        done(&point);
        points.push(point);
    }
    mark_best(&mut points);
    Ok((points, ended))
}

impl Point {
    /// The figures of a run.
    pub fn new(
        settings: Map<String, Value>,
        config: &Config,
        outcome: &Outcome,
        slo: Option<Slo>,
    ) -> Self {
        let steady = steady::find(&outcome.samples);
        let from = steady.map_or(0, |steady| steady.from_us);
        let part: Vec<&Sample> =
            outcome.samples.iter().filter(|s| s.due_us >= from && !s.cancelled).collect();
        let seconds = (outcome.took.as_secs_f64() - from as f64 / 1e6).max(1e-9);
        let ok: Vec<&Sample> = part.iter().copied().filter(|s| s.is_ok()).collect();
        let of = |value: fn(&Sample) -> Option<u64>| {
            let mut micros = Micros::default();
            ok.iter().filter_map(|sample| value(sample)).for_each(|us| micros.record(us));
            micros
        };
        let ttft = of(|s| s.ttft_us);
        let tpot = of(|s| s.tpot_us.map(|us| us.round() as u64));
        let total = of(|s| Some(s.total_us));
        let tokens: u64 = ok.iter().filter_map(|sample| sample.tokens).sum();
        let good = |slo: Slo| part.iter().filter(|s| meets(s, &slo)).count() as f64;
        Point {
            settings,
            requests: part.len(),
            failed: part.len() - ok.len(),
            offered: config.arrival.rate(),
            requests_per_second: ok.len() as f64 / seconds,
            tokens_per_second: tokens as f64 / seconds,
            good: slo.map(|slo| good(slo) / part.len().max(1) as f64),
            ttft_p50_us: percentile(&ttft, 50.0),
            ttft_p95_us: percentile(&ttft, 95.0),
            tpot_p50_us: percentile(&tpot, 50.0),
            tpot_p95_us: percentile(&tpot, 95.0),
            request_mean_us: crate::report::mean(&total),
            request_p95_us: percentile(&total, 95.0),
            steady,
            overloaded: is_overloaded(outcome, config.arrival.rate()),
            invalid_windows: outcome.client.invalid().count(),
            is_best: false,
        }
    }

    /// Answers per second for each second that a request takes: highest at the knee, where more
    /// load begins to cost more time than it gives answers (Kleinrock's power).
    fn power(&self) -> Option<f64> {
        Some(self.requests_per_second / self.request_mean_us.filter(|us| *us > 0.0)?)
    }
}

/// Whether a request met the objectives.
pub(crate) fn meets(sample: &Sample, slo: &Slo) -> bool {
    let within = |value: Option<u64>, max: Option<std::time::Duration>| match max {
        Some(max) => value.is_some_and(|us| u128::from(us) <= max.as_micros()),
        None => true,
    };
    let tpot = slo
        .tpot
        .is_none_or(|max| sample.tpot_us.is_none_or(|us| us.round() <= max.as_micros() as f64));
    sample.is_ok()
        && within(sample.ttft_us, slo.ttft)
        && tpot
        && within(Some(sample.total_us), slo.total)
}

/// Whether the server did not keep up: many failures, or latencies that grow while answers lag
/// behind the offered rate.
pub(crate) fn is_overloaded(outcome: &Outcome, rate: Option<f64>) -> bool {
    let samples = &outcome.samples;
    let failed = samples.iter().filter(|s| s.is_failed()).count();
    if failed as f64 > MAX_FAILURES * samples.len().max(1) as f64 {
        return true;
    }
    rate.is_some_and(|rate| crate::report::lag(outcome, rate).is_some())
}

/// Marks the points that no other one beats in both tokens per second and time per token.
fn mark_best(points: &mut [Point]) {
    let axes: Vec<Option<(f64, u64)>> =
        points.iter().map(|point| Some((point.tokens_per_second, point.tpot_p50_us?))).collect();
    for (at, point) in points.iter_mut().enumerate() {
        let Some((tokens, tpot)) = axes[at] else { continue };
        let beats = |other: &(f64, u64)| {
            other.0 >= tokens && other.1 <= tpot && (other.0 > tokens || other.1 < tpot)
        };
        point.is_best = !axes.iter().flatten().any(beats);
    }
}

/// The number of the point at the knee.
pub fn knee(points: &[Point]) -> Option<usize> {
    let powers = points.iter().enumerate().filter_map(|(at, p)| Some((at, p.power()?)));
    let best = powers.max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|_| points.len() > 2).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(tokens: f64, tpot: u64) -> Point {
        Point { tokens_per_second: tokens, tpot_p50_us: Some(tpot), ..Point::default() }
    }

    #[test]
    fn the_best_points_are_those_that_none_beats() {
        let mut points = vec![point(10.0, 5), point(20.0, 6), point(15.0, 7), point(30.0, 20)];
        points.push(Point { tokens_per_second: 99.0, ..Point::default() });
        mark_best(&mut points);
        let best: Vec<bool> = points.iter().map(|point| point.is_best).collect();
        assert_eq!(best, [true, true, false, true, false]);
    }

    #[test]
    fn the_knee_has_the_most_answers_for_their_time() {
        let at = |rate, mean_us| Point {
            requests_per_second: rate,
            request_mean_us: Some(mean_us),
            ..Point::default()
        };
        let points = [at(1.0, 100.0), at(2.0, 110.0), at(4.0, 150.0), at(5.0, 900.0)];
        assert_eq!(knee(&points), Some(2));
        assert_eq!(knee(&points[..2]), None);
    }

    #[test]
    fn a_grid_has_every_combination_with_seeds_of_their_own() {
        let base = crate::report::tests::config();
        let grid = Grid {
            arrivals: vec![Arrival::Closed { concurrency: 1 }, Arrival::Closed { concurrency: 4 }],
            prompt_lengths: vec![Length::Fixed(8), Length::Uniform(8, 16), Length::Fixed(99)],
            max_tokens: vec![],
        };
        let configs = grid.configs(&base).unwrap();
        assert_eq!(configs.len(), 6);
        let (settings, config) = &configs[4];
        assert_eq!(json!(settings), json!({"concurrency": 4, "prompt_length": "8..16"}));
        assert_eq!((&config.arrival, config.seed), (&grid.arrivals[1], base.seed + 4));
        let many = Grid { max_tokens: vec![Length::Fixed(1); 201], ..Grid::default() };
        assert!(many.configs(&base).unwrap_err().to_string().contains("201 points"));
    }

    #[test]
    fn objectives_are_judged_by_request() {
        let sample = crate::measure::example();
        let slo = |text: &str| text.parse::<Slo>().unwrap();
        assert!(meets(&sample, &slo("ttft=1ms,tpot=1ms,total=2ms")));
        assert!(!meets(&sample, &slo("ttft=999us")));
        assert!(!meets(&Sample { error: Some("x".into()), ..sample }, &slo("total=1s")));
    }
}
