//! The clocks of the gateway: the transport's, and both together for limits with calendar windows.

use traffic::Now;
pub use transport::clock::{now, wall_us};

/// Now, by both clocks.
pub fn when() -> Now {
    Now { tick: now(), wall_us: wall_us() }
}
