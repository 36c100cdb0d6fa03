//! Where to?
//!
//! - *In*: what is known of backends (how they answered, what they are busy with), what a request needs, the time.
//! - *Out*: a backend and the reason; whether to ask again, or a second one at the same time.
//! - *Never*: a socket, a clock of its own, a lock that a choice waits for. The same seed, time and answers give the same choices.
//!
//! `docs/routing.md` tells it to operators, ADR 0008 says why it is made like this.

pub mod settings;

mod random;
mod window;

pub mod member;
pub use member::{Attempt, AttemptResult, Member};
mod ewma;
pub mod health;
mod sync;
mod tail;

pub mod signals;
pub use signals::Signals;

pub mod pool;
pub use pool::{BalanceRequest, Choice, Pool, Reason};
mod balance;
pub use balance::prefix::blocks;

pub mod budget;
pub use budget::Budget;
pub mod predict;
pub use predict::{AnswerTimes, Busy, MedianErrors, Predicted, Predictor, Question};
pub mod offload;
pub use offload::{Offload, Offloaded, RequestTraits, TierOffer};
pub mod release;
pub use release::{Release, Rollback, Side, VersionResult};
