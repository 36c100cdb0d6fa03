//! Who may pass, and how much.
//!
//! - *In*: credentials, what a request asks for, what its stream has taken, two clocks.
//! - *Out*: a [`Caller`]; a [`Charge`] or a [`Limited`] that says which limit and when; a place at a backend or a reason why not.
//! - *Never*: a connection, but for a file of keys; a state that grows with what strangers send; a charge that its request's end does not settle.
//!
//! `docs/traffic.md` tells it to operators, ADR 0007 says why it is made like this.

mod account;
mod caller;
mod charge;
#[cfg(feature = "jwt")]
pub mod jwks;
pub mod keys;
mod lease;
mod limits;
mod pattern;
mod prices;
mod remembered;
pub mod settings;
mod spend;
pub mod store;
mod sync;
mod turnstile;

pub use account::When;
pub use caller::{Caller, Identity, credential};
pub use charge::{Charge, Exhausted, Left};
pub use keys::{KeyHasher, Keys};
pub use lease::{Away, Chore, Wanted};
pub use limits::{Asked, Denied, LimitCounts, Limited, RateLimits, network};
pub use pattern::Pattern;
pub use prices::Used;
pub use remembered::{Expired, Remembered};
pub use spend::{Apart, Line, Spend, Totals};
pub use turnstile::{Place, Shed, ShedReason, Turnstile, TurnstileCounts, Waiting, Wish};
