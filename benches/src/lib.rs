//! Parts shared by the load benches: a mock engine, a client and a measurer.
//!
//! In: nothing but loopback addresses and paths given on a command line.
//! Out: the mock engine, the proxies it is compared with, the load cells and
//! the report that the binaries of this package are made of.
//! Never: reaches beyond 127.0.0.1, nor depends on the gateway's own crates.

pub mod cells;
pub mod client;
pub mod engine;
pub mod machine;
pub mod metric;
pub mod peers;
pub mod plan;
pub mod procfs;
pub mod report;
pub mod run;
pub mod stamp;
pub mod wire;
