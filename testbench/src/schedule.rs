//! When requests are sent, and when a run stops.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Serialize;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Arrival {
    /// Closed loop: each worker starts its next request when the last one ended, so a slow server
    /// receives fewer requests.
    Closed {
        /// Workers.
        concurrency: usize,
    },
    /// Open loop with exponential gaps at a mean rate: requests are sent whether or not the server
    /// keeps up. Latency is measured from when a request was due, so that a stall also counts for
    /// the requests that it delayed.
    Poisson {
        /// Requests a second.
        rate: f64,
    },
    /// Open loop with equal gaps.
    Constant {
        /// Requests a second.
        rate: f64,
    },
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    /// After that many requests.
    Requests(u64),
    /// After this time; requests in flight are completed.
    After(Duration),
}

impl Stop {
    /// Whether a run ends with that many requests.
    pub(crate) fn is_reached_by(self, requests: u64) -> bool {
        matches!(self, Stop::Requests(n) if n <= requests)
    }
}

impl Arrival {
    /// The mean rate of an open loop, in requests per second.
    pub(crate) fn rate(self) -> Option<f64> {
        match self {
            Arrival::Closed { .. } => None,
            Arrival::Poisson { rate } | Arrival::Constant { rate } => Some(rate),
        }
    }

    /// The gap before the next request of an open loop.
    pub(crate) fn gap(self, random: &mut SmallRng) -> Duration {
        match self {
            Arrival::Closed { .. } => Duration::ZERO,
            Arrival::Constant { rate } => Duration::from_secs_f64(1.0 / rate),
            Arrival::Poisson { rate } => {
                let share: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
                Duration::from_secs_f64(-share.ln() / rate)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let mut random = SmallRng::seed_from_u64(7);
        let gaps: Vec<f64> = (0..20_000)
            .map(|_| Arrival::Poisson { rate: 50.0 }.gap(&mut random).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation =
            (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!(
            (mean - 0.02).abs() < 0.001 && (deviation - 0.02).abs() < 0.001,
            "{mean} {deviation}"
        );
    }
}
