//! Why a request is denied.

use std::time::Duration;

/// Why the admin listener denies a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has neither a token nor a session.
    NoCredential,
    /// Its token is not one of the settings.
    WrongToken,
    /// Its address has made too many attempts with wrong tokens. Its token was not checked.
    TooManyAttempts {
        /// The time until the address may make another one.
        wait: Duration,
    },
    /// Its token has a lower role than the request needs.
    Role,
    /// A page of another site sent it.
    CrossSite,
}

impl Denial {
    /// All names, in the order of [`Denial::index`].
    pub const NAMES: [&str; 5] =
        ["no_credential", "wrong_token", "too_many_attempts", "role", "cross_site"];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        Denial::NAMES[self.index()]
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Denial::NoCredential => 0,
            Denial::WrongToken => 1,
            Denial::TooManyAttempts { .. } => 2,
            Denial::Role => 3,
            Denial::CrossSite => 4,
        }
    }
}
