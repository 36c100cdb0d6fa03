//! The rate at which too many requests begin to miss an objective.
//!
//! More load never makes a server faster, but measured shares go up and down by chance. An isotonic
//! fit is the nondecreasing curve nearest to them; where it crosses the permitted share is the
//! estimate, and the bootstrap shows how sure it is.
//!
//! - *In*: for each rate, whether each request missed the objective, in the order of their times.
//! - *Out*: an [`Estimate`].
//! - *Never*: requests taken for independent: blocks of neighbors are drawn together.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Draws of the bootstrap.
const DRAWS: usize = 1_000;

/// Requests at a rate.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) rate: f64,
    /// For each objective, whether each request missed it.
    pub(super) missed: Vec<Vec<bool>>,
}

/// A rate, and the interval that has it with a probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) rate: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The highest rate at which each objective is missed by no more than its permitted share. `None`
/// if even the lowest rate misses one. The highest measured rate, if none is missed.
pub(super) fn max_rate(measured: &[Measured], permitted: &[f64], seed: u64) -> Option<Estimate> {
    let mut sorted: Vec<&Measured> = measured.iter().filter(|m| count(m) > 0).collect();
    sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let rates: Vec<f64> = sorted.iter().map(|m| m.rate).collect();
    let sums: Vec<Vec<Vec<u32>>> = sorted
        .iter()
        .map(|m| m.missed.iter().map(|missed| prefix_sums(missed)).collect())
        .collect();
    let weights: Vec<f64> = sorted.iter().map(|m| count(m) as f64).collect();
    let shares = |point: usize, objective: usize| {
        f64::from(sums[point][objective].last().copied().unwrap_or(0)) / weights[point]
    };
    let crossing_of = |share: &dyn Fn(usize, usize) -> f64| {
        let of_objective = |objective: usize| {
            let values: Vec<f64> = (0..rates.len()).map(|point| share(point, objective)).collect();
            crossing(&rates, &fit(&values, &weights), permitted[objective])
        };
        (0..permitted.len()).map(of_objective).fold(f64::INFINITY, f64::min)
    };
    let rate = crossing_of(&shares);
    if rate <= 0.0 || !rate.is_finite() {
        return None;
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            // Objectives of the same requests are drawn together.
            let blocks: Vec<Vec<usize>> =
                weights.iter().map(|n| starts(*n as usize, &mut random)).collect();
            crossing_of(&|point, objective| drawn_share(&sums[point][objective], &blocks[point]))
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[((DRAWS - 1) as f64 * share).round() as usize];
    Some(Estimate { rate, low: at(0.025).min(rate), high: at(0.975).max(rate) })
}

fn count(measured: &Measured) -> usize {
    measured.missed.first().map_or(0, Vec::len)
}

fn prefix_sums(missed: &[bool]) -> Vec<u32> {
    let mut sum = 0;
    let sums = missed.iter().map(|missed| {
        sum += u32::from(*missed);
        sum
    });
    std::iter::once(0).chain(sums).collect()
}

/// Length of the blocks of this many requests.
fn block(requests: usize) -> usize {
    ((requests as f64).sqrt().ceil() as usize).max(1)
}

/// Where the blocks of a draw begin.
fn starts(requests: usize, random: &mut SmallRng) -> Vec<usize> {
    let length = block(requests);
    let blocks = requests.div_ceil(length);
    (0..blocks).map(|_| random.random_range(0..=requests - length)).collect()
}

fn drawn_share(sums: &[u32], starts: &[usize]) -> f64 {
    let length = block(sums.len() - 1);
    let missed: u32 = starts.iter().map(|start| sums[start + length] - sums[*start]).sum();
    f64::from(missed) / (starts.len() * length) as f64
}

/// The nondecreasing values nearest to these, by pooling adjacent violators.
fn fit(values: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (value, weight) in values.iter().zip(weights) {
        pools.push((*value, *weight, 1));
        while let [.., before, last] = pools.as_slice() {
            if before.0 <= last.0 {
                break;
            }
            let weight = before.1 + last.1;
            let mean = (before.0 * before.1 + last.0 * last.1) / weight;
            let pooled = (mean, weight, before.2 + last.2);
            pools.truncate(pools.len() - 2);
            pools.push(pooled);
        }
    }
    pools.into_iter().flat_map(|(value, _, count)| std::iter::repeat_n(value, count)).collect()
}

/// The rate at which a fit crosses the permitted share; 0 below the lowest rate, the highest rate
/// if it does not.
fn crossing(rates: &[f64], fitted: &[f64], permitted: f64) -> f64 {
    let Some(above) = fitted.iter().position(|share| *share > permitted) else {
        return rates.last().copied().unwrap_or(0.0);
    };
    let Some(below) = above.checked_sub(1) else { return 0.0 };
    let part = (permitted - fitted[below]) / (fitted[above] - fitted[below]);
    // Rates differ by factors.
    (rates[below].ln() + part * (rates[above] / rates[below]).ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_never_falls_and_keeps_the_mean() {
        assert_eq!(fit(&[1.0, 3.0, 2.0, 4.0], &[1.0; 4]), [1.0, 2.5, 2.5, 4.0]);
        assert_eq!(fit(&[3.0, 1.0], &[1.0, 3.0]), [1.5, 1.5]);
        assert_eq!(fit(&[4.0, 3.0, 2.0], &[1.0; 3]), [3.0; 3]);
        assert!(fit(&[], &[]).is_empty());
    }

    #[test]
    fn the_crossing_is_between_the_rates_around_it() {
        let rates = [1.0, 10.0, 100.0];
        assert_eq!(crossing(&rates, &[0.0, 0.0, 0.1], 0.05).round(), 32.0);
        assert_eq!(crossing(&rates, &[0.0, 0.0, 0.0], 0.05), 100.0);
        assert_eq!(crossing(&rates, &[0.2, 0.2, 0.3], 0.05), 0.0);
    }

    /// Servers whose share of slow requests grows with the rate. Each simulated search must have
    /// the true rate in its interval, but for a few.
    #[test]
    fn intervals_have_the_true_rate() {
        let mut random = SmallRng::seed_from_u64(11);
        let share = |rate: f64| (rate / 40.0).powi(3) * 0.05;
        let searches = 150;
        let mut hits = 0;
        for seed in 0..searches {
            let measured: Vec<Measured> = [10.0, 20.0, 30.0, 35.0, 40.0, 45.0, 60.0]
                .into_iter()
                .map(|rate| {
                    let missed = (0..1_500).map(|_| random.random::<f64>() < share(rate)).collect();
                    Measured { rate, missed: vec![missed] }
                })
                .collect();
            let found = max_rate(&measured, &[0.05], seed).unwrap();
            assert!((30.0..=55.0).contains(&found.rate), "{found:?}");
            hits += u32::from((found.low..=found.high).contains(&40.0));
        }
        assert!(f64::from(hits) >= 0.88 * searches as f64, "{hits} of {searches}");
    }

    #[test]
    fn the_strictest_objective_counts() {
        let point = |rate, missed: [bool; 2]| Measured {
            rate,
            missed: missed.map(|missed| vec![missed; 100]).to_vec(),
        };
        let measured =
            [point(1.0, [false, false]), point(2.0, [false, true]), point(4.0, [true, true])];
        let found = max_rate(&measured, &[0.05, 0.05], 1).unwrap();
        assert!((1.0..1.1).contains(&found.rate), "{found:?}");
        assert_eq!(max_rate(&measured[1..], &[0.05, 0.05], 1), None);
    }
}
