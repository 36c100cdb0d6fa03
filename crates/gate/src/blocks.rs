//! Cuts a run into blocks of time.
//!
//! - *In*: a run.
//! - *Out*: 20 to 40 blocks of equal length. Latencies of neighbouring requests are correlated:
//!   they share batches, caches and queues. Blocks that are longer than this correlation are
//!   nearly independent, so blocks are what is resampled.
//! - *Never*: a request that was under way while the client was too busy.

use crate::run::{Request, Run};

/// Maximum blocks.
const MAX_BLOCKS: u64 = 40;
/// Minimum blocks. With fewer, the spread of the blocks is not known well enough.
pub(crate) const MIN_BLOCKS: usize = 20;
/// Minimum length of a block, in microseconds.
const MIN_LENGTH_US: u64 = 1_000_000;

/// A part of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Block {
    /// Requests that were due in it.
    pub(crate) requests: Vec<Request>,
    /// Its length without invalid windows.
    pub(crate) seconds: f64,
}

/// Cuts a run.
///
/// # Errors
/// That it is too short, and how long it has to be.
pub(crate) fn cut(run: &Run) -> Result<Vec<Block>, String> {
    let span = run.requests.iter().map(|request| request.due_us).max().unwrap_or(0) + 1;
    let mut times: Vec<u64> = run.requests.iter().map(|request| request.total_us).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or(0);
    // Two requests that overlap are in the same block or in neighbours.
    let length = (span / MAX_BLOCKS).max(MIN_LENGTH_US).max(median.saturating_mul(2));
    let count = span / length;
    if count < MIN_BLOCKS as u64 {
        let needed = (length.saturating_mul(MIN_BLOCKS as u64) as f64 / 1e6).ceil();
        return Err(format!(
            "{} is too short: it has {:.1} s, and needs at least {needed:.0} s (20 blocks of 1 s, or of \
             twice the median time of a request)",
            run.name,
            span as f64 / 1e6
        ));
    }
    let length = span / count;
    let mut blocks = vec![Block::default(); count as usize];
    for (at, block) in blocks.iter_mut().enumerate() {
        let from = at as u64 * length;
        block.seconds = valid_seconds(run, from, from + length);
    }
    for request in run.requests.iter().filter(|request| run.is_valid(request)) {
        let at = (request.due_us / length).min(count - 1);
        blocks[at as usize].requests.push(*request);
    }
    Ok(blocks)
}

/// A whole run as one block, with its length.
pub(crate) fn whole(run: &Run) -> Block {
    let end = run.requests.iter().map(|request| request.due_us).max().unwrap_or(0) + 1;
    let requests = run.requests.iter().filter(|request| run.is_valid(request)).copied().collect();
    Block { requests, seconds: valid_seconds(run, 0, end) }
}

/// The time between two moments that is in no invalid window.
fn valid_seconds(run: &Run, from: u64, to: u64) -> f64 {
    let overlap = |(start, end): &(u64, u64)| to.min(*end).saturating_sub(from.max(*start));
    let invalid: u64 = run.invalid.iter().map(overlap).sum();
    (to - from).saturating_sub(invalid) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: u64, total_us: u64) -> Run {
        let requests = (0..seconds * 10)
            .map(|n| Request { due_us: n * 100_000, total_us, ..Request::default() })
            .collect();
        Run { name: "new.json".into(), requests, ..Run::default() }
    }

    #[test]
    fn blocks_are_equal_and_lose_no_request() {
        for (seconds, total_us, wanted) in
            [(300, 50_000, 40), (60, 50_000, 40), (25, 50_000, 24), (300, 5_000_000, 29)]
        {
            let run = run(seconds, total_us);
            let blocks = cut(&run).unwrap();
            assert_eq!(blocks.len(), wanted, "{seconds} {total_us}");
            let requests: usize = blocks.iter().map(|block| block.requests.len()).sum();
            assert_eq!(requests, run.requests.len());
            let counts = blocks.iter().map(|block| block.requests.len());
            let (min, max) = (counts.clone().min().unwrap(), counts.max().unwrap());
            assert!(max - min <= 12, "{seconds} {total_us}: {min} {max}");
        }
    }

    #[test]
    fn a_short_run_says_how_long_it_has_to_be() {
        let error = cut(&run(10, 50_000)).unwrap_err();
        assert!(
            error.contains("new.json is too short") && error.contains("at least 20 s"),
            "{error}"
        );
        let error = cut(&run(60, 4_000_000)).unwrap_err();
        assert!(error.contains("at least 160 s"), "{error}");
        assert!(cut(&Run::default()).is_err());
    }

    #[test]
    fn trap_requests_of_invalid_windows_do_not_count() {
        let mut run = run(40, 50_000);
        run.invalid = vec![(10_000_000, 11_000_000)];
        let blocks = cut(&run).unwrap();
        let requests: usize = blocks.iter().map(|block| block.requests.len()).sum();
        // Ten were due in the window, and the one before it was under way until then.
        assert_eq!(requests, 400 - 10);
        let seconds: f64 = blocks.iter().map(|block| block.seconds).sum();
        assert!((seconds - 38.9).abs() < 0.01, "{seconds}");
        assert!((whole(&run).seconds - 38.9).abs() < 0.01);
    }
}
