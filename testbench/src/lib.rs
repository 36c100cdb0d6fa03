//! Load generator: measures a gateway or an engine as a client.
//!
//! - *In*: a base URL and a workload.
//! - *Out*: figures made with the same readers and definitions as the gateway's own ([`wire`],
//!   [`lens`]), so that both ends are comparable; reports as a table, JSON, CSV and Markdown.
//! - *Never*: access to the gateway's internals. Its figures come from its admin listener.

mod failure;
mod http1;
mod page;
pub use page::models;

mod measure;
pub use measure::Sample;
pub mod client;
pub mod run;
pub use run::{Config, Ended, Outcome, RunError};

pub mod definitions;
pub mod interleave;
pub mod join;
pub mod report;
mod steady;
pub use steady::Steady;
pub mod sweep;

pub mod demo;
