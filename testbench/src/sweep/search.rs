//! The highest rate at which a server meets objectives.
//!
//! - *In*: a [`Config`] whose arrivals are an open loop, and objectives.
//! - *Out*: a [`Found`]: the rate with its interval, and every run on the way.
//! - *Never*: a higher rate after one that overloads the server.

use std::future::Future;
use std::pin::pin;

use serde::Serialize;
use serde_json::{Map, json};
use workload::Slo;
use workload::arrival::{Arrival, Stage};

use super::isotonic::{Measured, max_rate};
use super::{Point, mark_best, meets};
use crate::run::{Config, Ended, Outcome, RunError, run_load};
use crate::steady;

/// Factor between rates while the objectives are met.
const FACTOR: f64 = 2.0;
/// Maximum runs of the first part, which doubles the rate.
const MAX_DOUBLED: u32 = 24;
/// Runs between the last rate that met the objectives and the first one that did not.
const REFINED: u32 = 5;
/// Factor between rates below which no further run is made.
const NEAR: f64 = 1.03;

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that meets the objectives, in requests per second; `None` if not even the
    /// lowest one does, or the search was interrupted before it knew.
    pub rate: Option<f64>,
    /// The interval that has it with a probability of 95 %.
    pub interval: Option<(f64, f64)>,
    /// Whether a rate was found that misses the objectives. If not, the server can do more.
    pub is_bounded: bool,
    /// All runs, in their order.
    pub points: Vec<Point>,
}

/// Searches from the rate of the configuration on. `done` is called after each run.
///
/// # Errors
/// [`RunError`] if a configuration is invalid.
pub async fn find_max_rate(
    base: &Config,
    slo: Slo,
    mut done: impl FnMut(&Point),
    stop: impl Future<Output = ()>,
) -> Result<(Found, Ended), RunError> {
    let Arrival::Open { spacing, .. } = base.arrival else {
        return Err(RunError::Config("the search needs a rate to begin with".into()));
    };
    let Some(start) = base.arrival.rate() else {
        return Err(RunError::Config("the search needs one rate, not stages".into()));
    };
    let mut stop = pin!(stop);
    let mut search = Search::new(slo, start);
    let mut ended = Ended::Completed;
    while let Some(rate) = search.next() {
        let number = search.measured.len() as u64;
        let stages = vec![Stage { from: rate, to: rate, duration: None }];
        let config = Config {
            arrival: Arrival::Open { spacing, stages },
            seed: base.seed.wrapping_add(number),
            ..base.clone()
        };
        let outcome = run_load(config.clone(), stop.as_mut()).await?;
        if outcome.ended == Ended::Interrupted {
            ended = Ended::Interrupted;
            break;
        }
        let settings: Map<_, _> = [("rate".to_owned(), json!(rate))].into_iter().collect();
        let point = Point::new(settings, &config, &outcome, Some(slo));
        done(&point);
        search.add(rate, &outcome, point);
    }
    Ok((search.found(base.seed), ended))
}

struct Search {
    slo: Slo,
    start: f64,
    measured: Vec<Measured>,
    points: Vec<Point>,
    /// The highest rate that met the objectives, and the lowest that did not.
    low: Option<f64>,
    high: Option<f64>,
    refined: u32,
}

impl Search {
    fn new(slo: Slo, start: f64) -> Self {
        let (measured, points) = (Vec::new(), Vec::new());
        Search { slo, start, measured, points, low: None, high: None, refined: 0 }
    }

    /// The next rate to run.
    fn next(&mut self) -> Option<f64> {
        match (self.low, self.high) {
            (None, None) => Some(self.start),
            (Some(low), None) => {
                let rate = low * FACTOR;
                let may = (self.measured.len() as u32) < MAX_DOUBLED;
                (may && rate <= workload::arrival::MAX_RATE).then_some(rate)
            }
            // Not even the first rate: go down instead.
            (None, Some(high)) => {
                let may = (self.measured.len() as u32) < MAX_DOUBLED / 2;
                may.then_some(high / FACTOR)
            }
            (Some(low), Some(high)) => {
                let may = self.refined < REFINED && high / low > NEAR;
                self.refined += 1;
                may.then_some((low * high).sqrt())
            }
        }
    }

    fn add(&mut self, rate: f64, outcome: &Outcome, point: Point) {
        let from = steady::find(&outcome.samples).map_or(0, |steady| steady.from_us);
        let mut samples: Vec<_> =
            outcome.samples.iter().filter(|s| s.due_us >= from && !s.cancelled).collect();
        samples.sort_by_key(|sample| sample.due_us);
        let missed = |slo: &Slo| samples.iter().map(|sample| !meets(sample, slo)).collect();
        let objectives = self.slo.single();
        let mut missed: Vec<Vec<bool>> = objectives.iter().map(|(slo, _)| missed(slo)).collect();
        let share = |missed: &[bool]| {
            missed.iter().filter(|missed| **missed).count() as f64 / missed.len().max(1) as f64
        };
        let is_met = !point.overloaded
            && !samples.is_empty()
            && missed
                .iter()
                .zip(&objectives)
                .all(|(missed, (_, percent))| share(missed) <= permitted(*percent));
        if point.overloaded {
            // Requests that an overloaded server answered in time were those of its first seconds.
            missed.iter_mut().for_each(|missed| missed.fill(true));
        }
        if is_met {
            self.low = Some(self.low.map_or(rate, |low| low.max(rate)));
        } else {
            self.high = Some(self.high.map_or(rate, |high| high.min(rate)));
        }
        // A lower rate that missed the objectives by chance does not end below one that met them.
        if let (Some(low), Some(high)) = (self.low, self.high)
            && low >= high
        {
            self.low = Some(high / NEAR);
        }
        self.measured.push(Measured { rate, missed });
        self.points.push(point);
    }

    fn found(mut self, seed: u64) -> Found {
        let permitted: Vec<f64> = self.slo.single().iter().map(|(_, p)| permitted(*p)).collect();
        let estimate = max_rate(&self.measured, &permitted, seed);
        mark_best(&mut self.points);
        Found {
            rate: estimate.map(|estimate| estimate.rate),
            interval: estimate.map(|estimate| (estimate.low, estimate.high)),
            is_bounded: self.high.is_some(),
            points: self.points,
        }
    }
}

/// The share of requests that may miss an objective.
fn permitted(percent: f64) -> f64 {
    1.0 - percent / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Sample;

    /// An outcome in which a share of requests has a TTFT above 1 ms.
    fn outcome(slow_share: f64) -> Outcome {
        let samples = (0..1_000).map(|n: u64| Sample {
            due_us: n * 1_000,
            ttft_us: Some(if (n % 100) as f64 >= slow_share * 100.0 { 500 } else { 5_000 }),
            ..crate::measure::example()
        });
        Outcome { samples: samples.collect(), ..Outcome::default() }
    }

    fn search(slow_share: impl Fn(f64) -> f64) -> (Vec<f64>, Found) {
        let mut search = Search::new("ttft.p95=1ms".parse().unwrap(), 1.0);
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.add(rate, &outcome(slow_share(rate)), Point::default());
        }
        (rates, search.found(1))
    }

    #[test]
    fn the_rate_is_doubled_until_the_objectives_are_missed_and_then_refined() {
        let (rates, found) = search(|rate| if rate <= 21.0 { 0.02 } else { 0.5 });
        assert_eq!(rates[..6], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        assert_eq!(rates.len(), 11);
        let rate = found.rate.unwrap();
        assert!(found.is_bounded && (20.0..22.0).contains(&rate), "{found:?}");
        let (low, high) = found.interval.unwrap();
        assert!(low <= rate && rate <= high);
    }

    #[test]
    fn the_search_goes_down_if_the_first_rate_is_too_high_and_ends() {
        let (rates, found) = search(|rate| if rate <= 0.3 { 0.0 } else { 1.0 });
        assert_eq!(rates[..3], [1.0, 0.5, 0.25]);
        assert!((0.25..0.5).contains(&found.rate.unwrap()), "{found:?}");
        let (rates, found) = search(|_| 1.0);
        assert_eq!((rates.len(), found.rate), (MAX_DOUBLED as usize / 2, None));
        let (_, found) = search(|_| 0.0);
        assert!(!found.is_bounded && found.rate.unwrap() >= 500_000.0);
    }
}
