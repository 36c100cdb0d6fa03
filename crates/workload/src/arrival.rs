//! When requests are sent, and when a run stops.
//!
//! - *In*: an [`Arrival`], and a seed.
//! - *Out*: [`Starts`]: the time of each start, from the start of the run.
//! - *Never*: a clock. A ramp is exact: the number of starts until a time is the integral of its
//!   rate, whatever the spacing.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::length::normal;

/// Maximum rate, in starts per second.
pub const MAX_RATE: f64 = 1e6;
/// Maximum starts of a burst.
pub const MAX_BURST: u32 = 15_000;

/// From the start to the first burst, if its interval is not shorter: its requests are made then.
const BURST_LEAD: Duration = Duration::from_millis(500);

/// How requests arrive. With conversations, these are the first requests of conversations.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// Closed loop: each user starts its next request when the last one ended, so a slow server
    /// receives fewer requests.
    Closed {
        /// Users.
        concurrency: usize,
    },
    /// Open loop: requests are sent whether or not the server keeps up. Latency is measured from
    /// when a request was due, so that a stall also counts for the requests that it delayed.
    Open {
        /// Distribution of the gaps.
        spacing: Spacing,
        /// Rates, one after the other. Only the last one may have no duration.
        stages: Vec<Stage>,
    },
    /// Open loop of bursts: many requests are due at the same instant.
    Burst {
        /// Requests of a burst.
        size: u32,
        /// From burst to burst.
        interval: Duration,
    },
    /// Open loop of the times of a trace, from its start, ascending.
    Trace(Arc<[Duration]>),
}

/// Distribution of the gaps of an open loop, at the mean that the rate gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Equal gaps.
    Constant,
    /// Exponential gaps, as from independent users.
    Poisson,
    /// Gamma-distributed gaps of this shape: 1 is Poisson, less is burstier, more is more regular.
    Gamma(f64),
}

/// A part of an open loop. Its rate changes linearly from start to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Starts per second at its start.
    pub from: f64,
    /// Starts per second at its end.
    pub to: f64,
    /// Its length. `None`: until the run stops; `from` and `to` are then the same.
    pub duration: Option<Duration>,
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    /// After that many requests.
    Requests(u64),
    /// After this time; requests in flight are completed.
    After(Duration),
    /// At the end of the stages or the trace.
    AtEnd,
}

impl Stop {
    /// Whether a run ends with that many requests.
    pub fn is_reached_by(self, requests: u64) -> bool {
        matches!(self, Stop::Requests(n) if n <= requests)
    }

    /// The condition as reports show it.
    pub fn json(self) -> Value {
        match self {
            Stop::Requests(n) => json!({"kind": "requests", "requests": n}),
            Stop::After(time) => json!({"kind": "duration", "seconds": time.as_secs_f64()}),
            Stop::AtEnd => json!({"kind": "end"}),
        }
    }
}

impl Arrival {
    /// An open loop of one rate.
    pub fn open(spacing: Spacing, rate: f64) -> Self {
        Arrival::Open { spacing, stages: vec![Stage { from: rate, to: rate, duration: None }] }
    }

    /// The rate of an open loop that does not change, in starts per second.
    pub fn rate(&self) -> Option<f64> {
        match self {
            Arrival::Open { stages, .. } => match stages.as_slice() {
                [stage] if stage.from == stage.to => Some(stage.from),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether there is an end without a [`Stop`].
    pub fn has_end(&self) -> bool {
        match self {
            Arrival::Closed { .. } | Arrival::Burst { .. } => false,
            Arrival::Open { stages, .. } => stages.iter().all(|stage| stage.duration.is_some()),
            Arrival::Trace(_) => true,
        }
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let is_rate = |rate: f64| (0.0..=MAX_RATE).contains(&rate);
        match self {
            Arrival::Closed { concurrency: 0 } => Err("the concurrency must be at least 1".into()),
            Arrival::Open { spacing: Spacing::Gamma(shape), .. }
                if !(0.01..=1_000.0).contains(shape) =>
            {
                Err("the burstiness must be from 0.01 to 1000".into())
            }
            Arrival::Open { stages, .. } => {
                let ok = |stage: &Stage| {
                    is_rate(stage.from) && is_rate(stage.to) && stage.from.max(stage.to) > 0.0
                };
                if stages.is_empty() || !stages.iter().all(ok) {
                    return Err(
                        "the rate must be above 0 and at most 1000000 requests per second".into()
                    );
                }
                let (last, earlier) = stages.split_last().ok_or("there is no stage")?;
                if earlier.iter().any(|stage| stage.duration.is_none()) {
                    return Err("only the last stage may lack a duration".into());
                }
                if last.duration.is_none() && last.from != last.to {
                    return Err("a ramp needs a duration".into());
                }
                Ok(())
            }
            Arrival::Burst { size, interval } => {
                if !(1..=MAX_BURST).contains(size) || interval.is_zero() {
                    return Err(format!(
                        "a burst has from 1 to {MAX_BURST} requests, and an interval above 0"
                    ));
                }
                Ok(())
            }
            Arrival::Trace(times) if times.is_empty() => Err("the trace has no requests".into()),
            _ => Ok(()),
        }
    }

    /// The arrivals as reports show them.
    pub fn json(&self) -> Value {
        match self {
            Arrival::Closed { concurrency } => {
                json!({"kind": "closed", "concurrency": concurrency})
            }
            Arrival::Open { spacing, stages } => {
                let mut value = match spacing {
                    Spacing::Constant => json!({"kind": "constant"}),
                    Spacing::Poisson => json!({"kind": "poisson"}),
                    Spacing::Gamma(shape) => json!({"kind": "gamma", "burstiness": shape}),
                };
                match self.rate() {
                    Some(rate) => value["rate"] = json!(rate),
                    None => value["stages"] = stages.iter().map(Stage::json).collect(),
                }
                value
            }
            Arrival::Burst { size, interval } => {
                json!({"kind": "burst", "size": size, "interval_s": interval.as_secs_f64()})
            }
            Arrival::Trace(times) => {
                let last = times.last().copied().unwrap_or_default();
                let bytes = times.iter().flat_map(|time| time.as_nanos().to_le_bytes());
                json!({"kind": "trace", "requests": times.len(), "seconds": last.as_secs_f64(), "digest": crate::digest(bytes)})
            }
        }
    }
}

impl Stage {
    fn json(&self) -> Value {
        let seconds = self.duration.map(|time| time.as_secs_f64());
        json!({"from": self.from, "to": self.to, "seconds": seconds})
    }

    /// The time at which `starts` of it have begun; `None` if it ends before.
    fn time_of(&self, starts: f64) -> Option<f64> {
        let Some(duration) = self.duration.map(|time| time.as_secs_f64()) else {
            return Some(starts / self.from);
        };
        let change = (self.to - self.from) / duration;
        // starts = from * t + change * t * t / 2, solved without a difference of like values.
        let root = (self.from * self.from + 2.0 * change * starts).max(0.0).sqrt();
        let time = if self.from + root > 0.0 { 2.0 * starts / (self.from + root) } else { 0.0 };
        (starts <= self.total() && time <= duration).then_some(time)
    }

    /// Starts of all of it.
    fn total(&self) -> f64 {
        self.duration.map_or(f64::INFINITY, |time| (self.from + self.to) / 2.0 * time.as_secs_f64())
    }
}

/// The times of starts, from the start of the run; ends with the stages or the trace. Empty for a
/// closed loop.
#[derive(Debug)]
pub struct Starts {
    arrival: Arrival,
    random: SmallRng,
    /// Starts so far of the stage, as the integral of its rate; a whole number in an even spacing.
    starts: f64,
    /// Number of the stage, and when it began, in seconds.
    stage: usize,
    began: f64,
    /// Starts so far.
    count: u64,
}

impl Starts {
    /// The starts of an arrival. The same seed gives the same times.
    pub fn new(arrival: &Arrival, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Starts { arrival: arrival.clone(), random, starts: 0.0, stage: 0, began: 0.0, count: 0 }
    }

    fn open(&mut self) -> Option<Duration> {
        let Arrival::Open { spacing, stages } = &self.arrival else { return None };
        self.starts += spacing.gap(&mut self.random);
        loop {
            let stage = stages.get(self.stage)?;
            if let Some(time) = stage.time_of(self.starts) {
                return Duration::try_from_secs_f64(self.began + time).ok();
            }
            // The rest of the gap is in the next stage.
            self.starts -= stage.total();
            self.began += stage.duration.map_or(0.0, |time| time.as_secs_f64());
            self.stage += 1;
        }
    }
}

impl Iterator for Starts {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let number = self.count;
        self.count += 1;
        match &self.arrival {
            Arrival::Closed { .. } => None,
            Arrival::Open { .. } => self.open(),
            Arrival::Burst { size, interval } => {
                let burst = u32::try_from(number / u64::from(*size)).ok()?;
                interval.checked_mul(burst)?.checked_add(BURST_LEAD.min(*interval))
            }
            Arrival::Trace(times) => times.get(usize::try_from(number).ok()?).copied(),
        }
    }
}

impl Spacing {
    /// A gap with the mean 1.
    fn gap(self, random: &mut SmallRng) -> f64 {
        match self {
            Spacing::Constant => 1.0,
            Spacing::Poisson => {
                let share: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
                -share.ln()
            }
            Spacing::Gamma(shape) => gamma(shape, random) / shape,
        }
    }
}

/// A value of the gamma distribution of this shape and the scale 1, by Marsaglia and Tsang.
fn gamma(shape: f64, random: &mut SmallRng) -> f64 {
    if shape < 1.0 {
        let share: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
        return gamma(shape + 1.0, random) * share.powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        let share: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
        if v > 0.0 && share.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(spacing: Spacing) -> (f64, f64) {
        let mut last = 0.0;
        let gaps: Vec<f64> = Starts::new(&Arrival::open(spacing, 50.0), 7)
            .take(40_000)
            .map(|time| time.as_secs_f64() - std::mem::replace(&mut last, time.as_secs_f64()))
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_their_distribution() {
        // The coefficient of variation of a gamma distribution is the root of 1 / shape.
        for (spacing, deviation) in [
            (Spacing::Constant, 0.0),
            (Spacing::Poisson, 0.02),
            (Spacing::Gamma(0.25), 0.04),
            (Spacing::Gamma(4.0), 0.01),
        ] {
            let (mean, got) = gaps(spacing);
            assert!((mean - 0.02).abs() < 0.001, "{spacing:?}: mean {mean}");
            assert!((got - deviation).abs() < 0.002, "{spacing:?}: deviation {got}");
        }
    }

    fn stage(from: f64, to: f64, seconds: u64) -> Stage {
        Stage { from, to, duration: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_ramp_has_the_integral_of_its_rate_and_steps_follow_each_other() {
        let stages = vec![stage(0.0, 100.0, 10), stage(20.0, 20.0, 5), stage(50.0, 0.0, 4)];
        let arrival = Arrival::Open { spacing: Spacing::Constant, stages };
        assert!(arrival.has_end());
        let times: Vec<f64> = Starts::new(&arrival, 1).map(|time| time.as_secs_f64()).collect();
        let until = |end: f64| times.iter().filter(|time| **time <= end).count();
        assert_eq!((until(5.0), until(10.0), until(15.0)), (125, 500, 600));
        assert!((699..=700).contains(&times.len()), "{}", times.len());
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(times.iter().all(|time| (0.0..=19.0).contains(time)));
    }

    #[test]
    fn the_same_seed_gives_the_same_starts() {
        let arrival = Arrival::open(Spacing::Gamma(0.5), 100.0);
        let times = |seed| Starts::new(&arrival, seed).take(100).collect::<Vec<_>>();
        assert_eq!(times(3), times(3));
        assert_ne!(times(3), times(4));
    }

    #[test]
    fn a_burst_is_due_at_one_instant() {
        let arrival = Arrival::Burst { size: 3, interval: Duration::from_secs(2) };
        let times: Vec<u128> = Starts::new(&arrival, 1).take(7).map(|t| t.as_millis()).collect();
        assert_eq!(times, [500, 500, 500, 2_500, 2_500, 2_500, 4_500]);
        assert_eq!(Starts::new(&Arrival::Closed { concurrency: 1 }, 1).next(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let open = |stages| Arrival::Open { spacing: Spacing::Poisson, stages };
        let endless = |from, to| Stage { from, to, duration: None };
        for bad in [
            Arrival::Closed { concurrency: 0 },
            Arrival::open(Spacing::Poisson, 0.0),
            Arrival::open(Spacing::Poisson, f64::NAN),
            Arrival::open(Spacing::Poisson, 2e6),
            Arrival::open(Spacing::Gamma(0.0), 1.0),
            open(vec![]),
            open(vec![endless(1.0, 2.0)]),
            open(vec![endless(1.0, 1.0), stage(1.0, 1.0, 1)]),
            Arrival::Burst { size: 0, interval: Duration::from_secs(1) },
            Arrival::Burst { size: 1, interval: Duration::ZERO },
            Arrival::Trace(Arc::default()),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(open(vec![stage(1.0, 2.0, 1), endless(3.0, 3.0)]).check(), Ok(()));
    }
}
