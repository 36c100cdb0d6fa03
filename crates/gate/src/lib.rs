//! Decides whether a load test is a regression against a baseline.
//!
//! - *In*: reports of `llm-lens run --json`, or pairs of interleaved blocks, and the checks.
//! - *Out*: a [`Decision`]: pass, regression, not comparable, or invalid, with the figures of each
//!   check; as text, Markdown, JUnit XML and JSON.
//! - *Never*: a pass without a comparison. What is missing, different, incomplete or too noisy has
//!   a verdict of its own. Never a clock, a socket or a file: the caller reads and writes.
//!
//! `docs/adr/0029-gate.md` has the statistics with their sources.

mod samples;
pub use samples::min_samples;

mod metric;
pub use metric::{Metric, Statistic, Timing};

mod check;
pub use check::{Bound, Threshold, parse_bounds, parse_thresholds};

mod student;

mod blocks;
mod run;
pub use run::{Request, Run, pairs_from_json};

mod bootstrap;

mod judge;
pub use judge::{Decision, FIELDS, Options, judge, judge_pairs};

mod verdict;
pub use verdict::{Figures, Outcome, Verdict};

mod output;
mod page;
