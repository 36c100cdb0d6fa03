//! Two servers in turn: what changes slowly on the machine is the same for both.
//!
//! - *In*: a [`Config`] for each server, with the length of a block as its end.
//! - *Out*: pairs of outcomes. Which server is first in a pair is random.
//! - *Never*: a pair of which one block is incomplete; prompts that both servers get, because a
//!   cache behind both would serve the second one.

use std::future::Future;
use std::pin::pin;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::run::{Config, Ended, Outcome, RunError, run_load};

/// A block of each server, one right after the other.
#[derive(Debug)]
pub struct Pair {
    /// Of the server that is compared with.
    pub base: Outcome,
    /// Of the server that is judged.
    pub candidate: Outcome,
}

/// Runs `count` pairs, or as many as are complete when `stop` is ready or a block fails.
///
/// # Errors
/// [`RunError`] if a configuration is invalid.
pub async fn run_interleaved(
    base: &Config,
    candidate: &Config,
    count: u32,
    stop: impl Future<Output = ()>,
) -> Result<(Vec<Pair>, Ended), RunError> {
    let mut random = SmallRng::seed_from_u64(base.seed);
    let mut stop = pin!(stop);
    let mut pairs = Vec::new();
    for number in 0..u64::from(count) {
        let base_first: bool = random.random();
        let mut blocks = Vec::new();
        for is_base in [base_first, !base_first] {
            let mut config = if is_base { base.clone() } else { candidate.clone() };
            config.seed = config.seed.wrapping_add(2 * number + u64::from(is_base));
            config.warm_up = if number == 0 { config.warm_up } else { 0 };
            let outcome = run_load(config, stop.as_mut()).await?;
            if outcome.ended != Ended::Completed {
                return Ok((pairs, outcome.ended));
            }
            blocks.push(outcome);
        }
        let (Some(second), Some(first)) = (blocks.pop(), blocks.pop()) else { continue };
        let (base, candidate) = if base_first { (first, second) } else { (second, first) };
        pairs.push(Pair { base, candidate });
    }
    Ok((pairs, Ended::Completed))
}
