//! Detectors: filters that use the tables and classifiers of `shield` and call no server.
//!
//! One file for each filter. A filter has its own settings and reports each finding with its
//! action.

mod classify_text;
mod find_patterns;
mod limit_sizes;
mod match_rules;
mod match_topics;
mod stop_loops;

pub use classify_text::{ClassifyText, scores};
pub use find_patterns::FindPatterns;
pub use limit_sizes::LimitSizes;
pub use match_rules::MatchRules;
pub use match_topics::MatchTopics;
pub use stop_loops::StopLoops;
