//! The spread of a change, by resampling blocks.
//!
//! - *In*: the blocks of both sides, and a metric.
//! - *Out*: the value of each side, and the standard error of the change.
//! - *Never*: requests resampled one by one, which would take correlated ones for independent.
//!
//! Each resample draws as many blocks as there are, with replacement (Carlstein 1986, Kunsch
//! 1989), computes the figure of the pooled requests, and so a change. The standard error is the
//! deviation of these changes, corrected for the number of blocks (Hesterberg 2015). The generator
//! starts from a constant, so that the same reports give the same verdict.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::blocks::Block;
use crate::metric::{Metric, Statistic, Timing};
use crate::run::Request;

/// Resamples. The standard error is then known to 2 %.
const RESAMPLES: usize = 1_000;
/// Seed of the generator.
const SEED: u64 = 29;
/// Widths of the part of a sorted list that a resampled percentile is looked for in, in standard
/// deviations of independent requests. Outside of it, the whole list is read.
const SEARCH_WIDTH: f64 = 12.0;

/// A figure of one side, for any number of copies of each block.
pub(crate) enum Estimator {
    Quantile(Quantile),
    /// The sum of the first over the sum of the second, times a factor.
    Ratio {
        parts: Vec<(f64, f64)>,
        factor: f64,
    },
}

/// A percentile of values that have a block.
pub(crate) struct Quantile {
    /// Value and block, ascending by value.
    sorted: Vec<(f64, u32)>,
    share: f64,
    /// The part of `sorted` that is searched first.
    from: usize,
    to: usize,
    /// Values of each block: in all, and before `from`.
    counts: Vec<(u64, u64)>,
}

impl Estimator {
    /// The figure of a metric; `None` if no request has it.
    pub(crate) fn new(metric: Metric, blocks: &[Block], rate: Option<f64>) -> Option<Self> {
        let parts = |part: fn(&Block) -> (f64, f64)| blocks.iter().map(part).collect::<Vec<_>>();
        match metric {
            Metric::Time(timing, Statistic::Percentile(percent)) => {
                Quantile::new(timing, percent / 100.0, blocks).map(Estimator::Quantile)
            }
            Metric::Time(timing, Statistic::Mean) => {
                let part = |block: &Block| {
                    let values = block.requests.iter().filter_map(|r| value(timing, r));
                    values.fold((0.0, 0.0), |(sum, n), us| (sum + us, n + 1.0))
                };
                Estimator::ratio(blocks.iter().map(part).collect(), 1.0)
            }
            Metric::Goodput => match rate {
                Some(rate) => Estimator::ratio(parts(|b| (good(b), b.requests.len() as f64)), rate),
                None => Estimator::ratio(parts(|b| (good(b), b.seconds)), 1.0),
            },
            Metric::Failures => {
                Estimator::ratio(parts(|b| (failed(b), b.requests.len() as f64)), 1.0)
            }
        }
    }

    fn ratio(parts: Vec<(f64, f64)>, factor: f64) -> Option<Self> {
        let whole: f64 = parts.iter().map(|(_, below)| below).sum();
        (whole > 0.0).then_some(Estimator::Ratio { parts, factor })
    }

    /// Number of requests that have the figure.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Estimator::Quantile(quantile) => quantile.sorted.len() as u64,
            Estimator::Ratio { parts, .. } => {
                parts.iter().map(|(_, below)| *below).sum::<f64>() as u64
            }
        }
    }

    /// The figure of the run as it is.
    pub(crate) fn point(&self) -> Option<f64> {
        self.value(&vec![1; self.blocks()])
    }

    fn blocks(&self) -> usize {
        match self {
            Estimator::Quantile(quantile) => quantile.counts.len(),
            Estimator::Ratio { parts, .. } => parts.len(),
        }
    }

    /// The figure, with each block taken that many times.
    fn value(&self, copies: &[u32]) -> Option<f64> {
        match self {
            Estimator::Quantile(quantile) => quantile.value(copies),
            Estimator::Ratio { parts, factor } => {
                let sum = |part: fn(&(f64, f64)) -> f64| -> f64 {
                    parts.iter().zip(copies).map(|(both, n)| part(both) * f64::from(*n)).sum()
                };
                let (above, below) = (sum(|both| both.0), sum(|both| both.1));
                (below > 0.0).then(|| factor * above / below)
            }
        }
    }
}

fn good(block: &Block) -> f64 {
    block.requests.iter().filter(|request| request.good).count() as f64
}

fn failed(block: &Block) -> f64 {
    block.requests.iter().filter(|request| request.failed).count() as f64
}

/// A timing of a request that succeeded.
fn value(timing: Timing, request: &Request) -> Option<f64> {
    match timing {
        _ if request.failed => None,
        Timing::Ttft => request.ttft_us,
        Timing::Tpot => request.tpot_us,
        Timing::Request => Some(request.total_us as f64),
    }
}

impl Quantile {
    fn new(timing: Timing, share: f64, blocks: &[Block]) -> Option<Self> {
        let mut sorted: Vec<(f64, u32)> = Vec::new();
        for (block, at) in blocks.iter().zip(0_u32..) {
            sorted.extend(block.requests.iter().filter_map(|r| Some((value(timing, r)?, at))));
        }
        if sorted.is_empty() {
            return None;
        }
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let n = sorted.len() as f64;
        let (middle, width) = (n * share, SEARCH_WIDTH * (n * share * (1.0 - share)).sqrt());
        let from = (middle - width).max(0.0) as usize;
        let to = ((middle + width) as usize).min(sorted.len());
        let mut counts = vec![(0, 0); blocks.len()];
        for (at, (_, block)) in sorted.iter().enumerate() {
            let (all, before) = &mut counts[*block as usize];
            *all += 1;
            *before += u64::from(at < from);
        }
        Some(Quantile { sorted, share, from, to, counts })
    }

    /// The smallest value at or below which the share of the values is.
    fn value(&self, copies: &[u32]) -> Option<f64> {
        let (mut all, mut before) = (0, 0);
        for ((n, first), copies) in self.counts.iter().zip(copies) {
            all += n * u64::from(*copies);
            before += first * u64::from(*copies);
        }
        let wanted = ((all as f64 * self.share).ceil() as u64).max(1);
        if all == 0 {
            return None;
        }
        let search = |part: &[(f64, u32)], mut seen: u64| {
            part.iter().find_map(|(value, block)| {
                seen += u64::from(copies[*block as usize]);
                (seen >= wanted).then_some(*value)
            })
        };
        let near =
            if before < wanted { search(&self.sorted[self.from..self.to], before) } else { None };
        near.or_else(|| search(&self.sorted, 0))
    }
}

/// How a change is expressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Logarithm of the ratio: times.
    Log,
    /// Difference over the baseline: rates.
    Relative,
    /// Difference: shares.
    Difference,
}

impl Scale {
    pub(crate) fn for_metric(metric: Metric) -> Self {
        match metric {
            Metric::Time(..) => Scale::Log,
            Metric::Goodput => Scale::Relative,
            Metric::Failures => Scale::Difference,
        }
    }

    /// The change on this scale; `None` if there is nothing to compare with.
    pub(crate) fn change(self, base: f64, new: f64) -> Option<f64> {
        match self {
            Scale::Log => (base > 0.0 && new > 0.0).then(|| (new / base).ln()),
            Scale::Relative => (base > 0.0).then(|| new / base - 1.0),
            Scale::Difference => Some(new - base),
        }
    }

    /// A change on this scale as a share of the baseline, or as points of a share.
    pub(crate) fn shown(self, change: f64) -> f64 {
        if self == Scale::Log { change.exp_m1() } else { change }
    }
}

/// The standard error of the change; `None` if too many resamples have no change. With `paired`,
/// both sides draw the same blocks.
pub(crate) fn standard_error(
    base: &Estimator,
    new: &Estimator,
    scale: Scale,
    paired: bool,
) -> Option<f64> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut of_base, mut of_new) = (vec![0; base.blocks()], vec![0; new.blocks()]);
    let mut changes = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        draw(&mut of_base, &mut random);
        if paired {
            of_new.copy_from_slice(&of_base);
        } else {
            draw(&mut of_new, &mut random);
        }
        let change =
            base.value(&of_base).zip(new.value(&of_new)).and_then(|(a, b)| scale.change(a, b));
        changes.extend(change);
    }
    if changes.len() < RESAMPLES * 99 / 100 {
        return None;
    }
    let fewest = base.blocks().min(new.blocks()) as f64;
    Some(deviation(&changes) * (fewest / (fewest - 1.0).max(1.0)).sqrt())
}

/// Draws as many blocks as there are, with replacement: how often each one was drawn.
fn draw(copies: &mut [u32], random: &mut SmallRng) {
    copies.fill(0);
    for _ in 0..copies.len() {
        let at = random.random_range(0..copies.len());
        copies[at] += 1;
    }
}

/// The deviation of a sample.
pub(crate) fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (n - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P95: Metric = Metric::Time(Timing::Ttft, Statistic::Percentile(95.0));
    const MEAN: Metric = Metric::Time(Timing::Ttft, Statistic::Mean);

    /// Blocks of requests with these times.
    fn blocks(times: impl Fn(u64, u64) -> f64, count: u64, each: u64) -> Vec<Block> {
        let request = |ttft: f64| Request { ttft_us: Some(ttft), ..Request::default() };
        (0..count)
            .map(|block| Block {
                requests: (0..each).map(|n| request(times(block, n))).collect(),
                seconds: 1.0,
            })
            .collect()
    }

    /// Scrambles, as a generator.
    fn noise(n: u64) -> f64 {
        let x = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11) as f64 / (1_u64 << 53) as f64
    }

    #[test]
    fn a_percentile_is_that_of_the_resampled_requests() {
        let blocks = blocks(|block, n| noise(block * 100 + n), 20, 50);
        let Some(Estimator::Quantile(quantile)) = Estimator::new(P95, &blocks, None) else {
            panic!("a percentile");
        };
        let mut random = SmallRng::seed_from_u64(1);
        let mut copies = vec![0; 20];
        for round in 0..200 {
            draw(&mut copies, &mut random);
            if round == 0 {
                // Far outside of what is searched first.
                copies.fill(0);
                copies[3] = 1;
            }
            let mut all: Vec<f64> = Vec::new();
            for (block, n) in blocks.iter().zip(&copies) {
                for _ in 0..*n {
                    all.extend(block.requests.iter().filter_map(|r| r.ttft_us));
                }
            }
            all.sort_by(f64::total_cmp);
            let rank = (all.len() as f64 * 0.95).ceil() as usize - 1;
            assert_eq!(quantile.value(&copies), Some(all[rank]));
        }
        assert_eq!(quantile.value(&[0; 20]), None);
    }

    #[test]
    fn the_standard_error_of_a_mean_is_that_of_the_theory() {
        let estimator = |seed: u64| {
            let times = |block: u64, n: u64| 100.0 + noise(seed + block * 50 + n);
            Estimator::new(MEAN, &blocks(times, 40, 50), None).unwrap()
        };
        let got =
            standard_error(&estimator(0), &estimator(90_000), Scale::Difference, false).unwrap();
        // The deviation of a uniform value, of 2,000 on each side.
        let theory = (2.0_f64 / 12.0 / 2_000.0).sqrt();
        assert!((0.75..1.3).contains(&(got / theory)), "{got} {theory}");
    }

    /// Requests that share a block share their luck: taken one by one, the error would be 7 times
    /// smaller than it is.
    #[test]
    fn trap_correlated_requests_are_not_taken_for_independent() {
        let shared = |block: u64, n: u64| 100.0 + noise(block) + 0.01 * noise(block * 50 + n);
        let estimator = Estimator::new(MEAN, &blocks(shared, 40, 50), None).unwrap();
        let other = |block: u64, n: u64| shared(block + 500, n);
        let other = Estimator::new(MEAN, &blocks(other, 40, 50), None).unwrap();
        let got = standard_error(&estimator, &other, Scale::Difference, false).unwrap();
        let of_blocks = (2.0_f64 / 12.0 / 40.0).sqrt();
        assert!((0.7..1.4).contains(&(got / of_blocks)), "{got} {of_blocks}");
        // Drawn in pairs, what both sides share cancels.
        let slower = |block: u64, n: u64| 1.0 + shared(block, n);
        let slower = Estimator::new(MEAN, &blocks(slower, 40, 50), None).unwrap();
        let paired = standard_error(&estimator, &slower, Scale::Difference, true).unwrap();
        assert!(paired < 1e-9, "{paired}");
    }

    #[test]
    fn rates_and_shares_are_ratios_of_sums() {
        let request = |good, failed| Request { good, failed, ..Request::default() };
        let block = |good: usize, failed: usize, seconds| Block {
            requests: [vec![request(true, false); good], vec![request(false, true); failed]]
                .concat(),
            seconds,
        };
        let blocks = [block(30, 10, 2.0), block(10, 0, 2.0), block(0, 0, 0.0)];
        let point = |metric, rate| Estimator::new(metric, &blocks, rate).unwrap().point().unwrap();
        assert_eq!(point(Metric::Goodput, None), 10.0);
        assert_eq!(point(Metric::Goodput, Some(20.0)), 16.0);
        assert_eq!(point(Metric::Failures, None), 0.2);
        assert!(Estimator::new(P95, &blocks, None).is_none(), "no request has the timing");
    }
}
