//! Authentication of the admin listener: tokens, sessions of browsers, failed attempts.
//!
//! - *In*: header fields of requests, the tokens of the settings in force, the time.
//! - *Out*: a [`Grant`] with the token's name and role, or a [`Denial`]; counts of denials.
//! - *Never*: a token or a session id in a log, an error or a debug output; a token in a cookie; a
//!   comparison that ends at the first difference; a clock.
//!
//! A grant is a reference to a token of the settings. It is checked against those in force, so a
//! token that a reload removes ends its sessions and streams at once.

mod access;
pub use access::{Access, Grant};

mod attempts;

mod cookie;
pub use cookie::{removal, session_cookie};

mod denial;
pub use denial::Denial;

mod digest;

mod host;
pub use host::is_served;

mod origin;
pub use origin::is_cross_site;

mod sessions;
pub use sessions::SessionId;
