//! What a settings file is made of: scalars with units, secrets, and problems with their places.
//!
//! - *In*: the text of a scalar; an error of the YAML parser.
//! - *Out*: durations, sizes, secrets; problems with line, column and a fix.
//! - *Never*: a section or a field: `config` has the table of settings.
#![deny(clippy::indexing_slicing)]

mod explain;
pub use explain::explain;

mod problem;
pub use problem::{Problem, Problems, hint, nearest};

pub mod value;
pub use value::Secret;
