//! The clocks of the gateway: the transport's, and both together for limits with calendar windows.

use traffic::When;
pub use transport::clock::{now, wall_us};

/// Now, by both clocks.
pub fn when() -> When {
    When { tick: now(), wall_us: wall_us() }
}
