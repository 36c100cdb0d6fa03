//! Load generator: measures a gateway or an engine as a client.
//!
//! - *In*: a base URL and a workload; or what a simulated engine shall be like.
//! - *Out*: figures made with the same readers and definitions as the gateway's own ([`wire`],
//!   [`lens`]), so that the two ends can be held against each other; reports as a table, JSON, CSV
//!   and Markdown.
//! - *Never*: the gateway's insides. Its figures come from its admin listener.

pub mod simulate;

mod http1;

pub mod prompts;
pub mod schedule;

mod measure;
pub use measure::Sample;
pub mod run;
pub use run::{Config, Outcome, RunError};

pub mod join;
pub mod report;

pub mod demo;
