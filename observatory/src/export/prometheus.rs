//! The Prometheus exposition.
//!
//! - *In*: metrics, through [`MetricWriter`](super::MetricWriter).
//! - *Out*: metric families in the format negotiated with the scraper. The texts have classic
//!   buckets with the bounds of the catalog; protobuf has native histograms, a twelfth of the
//!   bytes. OpenMetrics and protobuf have exemplars.
//! - *Never*: a second count of the same thing. Native buckets are copies. Classic buckets are
//!   computed from them on each scrape, so their bounds are exact to 2.2 %; sums and counts are
//!   exact.

mod families;
mod format;
mod labels;
mod proto;
mod text;

pub(super) use families::Families;
pub use format::Format;

#[cfg(test)]
mod tests;
