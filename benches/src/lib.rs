//! Parts shared by the load benches: a mock engine, a client and a measurer.
//!
//! In: loopback addresses, and paths from the command line.
//! Out: the mock engine, the proxies it is compared with, the load cells and
//! the report that the binaries of this package are made of.
//! Never: connects beyond 127.0.0.1. The parts that measure proxies use only `traffic` of the
//! gateway's crates, to hash keys.

pub mod cells;
pub mod client;
pub mod engine;
pub mod machine;
pub mod metric;
pub mod peers;
pub mod plan;
pub mod procfs;
pub mod queries;
pub mod records;
pub mod report;
pub mod run;
pub mod stamp;
pub mod wire;
