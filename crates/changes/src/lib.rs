//! What a change of the settings does.
//!
//! - *In*: the settings in force, those of the start, and the new ones.
//! - *Out*: the changed values; the settings that need a restart; the protection that is lost.
//! - *Never*: a secret, or whether two of them are equal, in a [`Change`].

mod difference;
pub use difference::{Change, differences};

mod protection;
pub use protection::removed;

mod restart;
pub use restart::{RESTART_ONLY, restart_only};
