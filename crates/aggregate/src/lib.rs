//! The statistics of many gateways as those of one: `llm-lens aggregate`.
//!
//! - *In*: requests for statistics; the admin listeners of gateways, by URL or by a name with an
//!   address for each.
//! - *Out*: merged statistics and sketches, and how many gateways they are of.
//! - *Never*: state: each request reads the gateways. A credential of its own: the caller's token
//!   is sent to the gateways, which accept it or not. An average of percentiles.

mod members;
pub use members::{Members, read_gateway};

mod pages;
mod server;
pub use server::Aggregator;
