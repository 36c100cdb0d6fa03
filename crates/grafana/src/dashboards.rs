//! The dashboards.
//!
//! - *In*: nothing; they are data.
//! - *Out*: four dashboards: latency, traffic, engines, the gateway itself.
//! - *Never*: an expression written by hand, except by [`crate::query`].

mod engines;
mod gateway;
mod latency;
mod traffic;

use crate::dashboard::Dashboard;

/// All dashboards.
pub(crate) fn all() -> [Dashboard; 4] {
    [latency::dashboard(), traffic::dashboard(), engines::dashboard(), gateway::dashboard()]
}
