//! Pages of the admin listener: queries in, JSON or a live stream out.
//!
//! - *In*: requests, their tokens and sessions, the state that all requests share.
//! - *Out*: JSON, or server-sent events. A wrong query is an error that names the parameter.
//! - *Never*: a listener, pingora; work on the threads of the data path. Pages are built on
//!   blocking threads, at most [`MAX_PAGES`] at a time.

pub mod access;

mod page;
pub use page::{MAX_PAGES, json_page, json_response, off_thread};

mod params;
pub use params::{ApiError, Params};

pub mod contents;
pub mod live;
pub mod playground;
pub mod requests;
pub mod routing;
pub mod settings;
pub mod sinks;
pub mod statistics;
pub mod usage;
