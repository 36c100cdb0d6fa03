//! Simulated load tests with a known truth.
//!
//! Requests arrive at random. The logarithm of a request's time to first token is the sum of its
//! own noise, of a load that neighbouring requests share, and of the machine's drift, which stays
//! for a whole run. The truth of a regression is a factor.

#![allow(dead_code, reason = "each user needs a part")]

use gate::{Options, Request, Run, parse_thresholds};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Median time to first token, in microseconds.
const MEDIAN_US: f64 = 200_000.0;

/// A load test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Requests per second.
    pub rate: f64,
    /// Length in seconds.
    pub seconds: f64,
    /// Deviation of a request's own noise, of the logarithm.
    pub noise: f64,
    /// Deviation of the load that neighbours share.
    pub load: f64,
    /// Time in which the load loses its memory, in seconds.
    pub memory: f64,
    /// Deviation of the machine's drift from run to run.
    pub drift: f64,
}

impl Test {
    /// The recommended size: 8,000 requests in 400 s, on a quiet machine.
    pub const RECOMMENDED: Test =
        Test { rate: 20.0, seconds: 400.0, noise: 0.25, load: 0.1, memory: 2.0, drift: 0.0 };

    /// A run of a server that is slower by `factor`.
    pub fn simulate(&self, factor: f64, seed: u64) -> Run {
        let mut random = SmallRng::seed_from_u64(seed);
        let drift = self.drift * normal(&mut random);
        self.block(factor, drift, &mut random)
    }

    /// A run with this drift.
    fn block(&self, factor: f64, drift: f64, random: &mut SmallRng) -> Run {
        let (mut due, mut load) = (0.0, normal(random));
        let mut requests = Vec::new();
        loop {
            let gap = -random.random_range(f64::MIN_POSITIVE..1.0_f64).ln() / self.rate;
            due += gap;
            if due >= self.seconds {
                break;
            }
            // An Ornstein-Uhlenbeck process at random times.
            let kept = (-gap / self.memory).exp();
            load = kept * load + (1.0 - kept * kept).sqrt() * normal(random);
            let log = self.noise * normal(random) + self.load * load + drift;
            let ttft = MEDIAN_US * factor * log.exp();
            requests.push(Request {
                due_us: (due * 1e6) as u64,
                total_us: ttft as u64 + 300_000,
                ttft_us: Some(ttft),
                tpot_us: Some(10_000.0 * log.exp()),
                failed: false,
                good: ttft < 500_000.0,
            });
        }
        Run {
            name: "simulated".into(),
            rate: Some(self.rate),
            has_objectives: true,
            ended: "completed".into(),
            windows: self.seconds as usize,
            requests,
            ..Run::default()
        }
    }

    /// Interleaved blocks on a machine that drifts from block to block as it does from run to run,
    /// but slowly: within ten pairs.
    pub fn pairs(&self, count: usize, factor: f64, seed: u64) -> Vec<(Run, Run)> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut drift = normal(&mut random);
        let mut step = |random: &mut SmallRng| {
            let kept = (-1.0_f64 / 20.0).exp();
            drift = kept * drift + (1.0 - kept * kept).sqrt() * normal(random);
            self.drift * drift
        };
        (0..count)
            .map(|_| {
                let now = step(&mut random);
                let base = self.block(1.0, now, &mut random);
                let now = step(&mut random);
                (base, self.block(factor, now, &mut random))
            })
            .collect()
    }
}

/// Box-Muller.
fn normal(random: &mut SmallRng) -> f64 {
    let (u, v): (f64, f64) = (random.random_range(f64::MIN_POSITIVE..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// The check of the documentation.
pub fn options() -> Options {
    let thresholds = parse_thresholds("ttft.p95=+5%").expect("valid");
    Options { thresholds, ..Options::default() }
}
