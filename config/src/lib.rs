//! The settings file: parsing, checking, reference and schema.
//!
//! - *In*: the text of a settings file, or the flags of a gateway without one; the environment and
//!   the files that secrets name.
//! - *Out*: [`Settings`], or every problem at once, each with line, column and a fix.
//! - *Never*: a default hidden in code that reads it. [`schema`] is the one table of sections and
//!   fields; checking, the commented example, the JSON Schema and the documentation are all made
//!   from it.
#![deny(clippy::indexing_slicing)]

mod problem;
pub use problem::{Problem, Problems};

pub mod schema;
mod value;
pub use value::Secret;
mod tree;

mod build;
pub mod settings;
pub use settings::Settings;

mod discovery;
pub use discovery::{Discovery, Endpoint, Found, MAX_DISCOVERED, Source};

mod key_file;
pub use key_file::{add_key, load_key_entries, load_keys, parse_keys, revoke_key};

mod example;
pub use example::{STARTER, example};
mod json_schema;
pub use json_schema::json_schema;

mod reference;
pub use reference::reference;

use std::path::Path;

/// Maximum size of a settings file, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// Read and check a settings file.
///
/// # Errors
/// All problems of the file, or the one that kept it from being read.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    let name = path.display().to_string();
    let text = read(path, MAX_FILE).map_err(|e| {
        Problems::one(&name, Problem::whole_file(format!("cannot read the file: {e}")))
    })?;
    parse(&name, &text)
}

fn read(path: &Path, most: u64) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > most {
        return Err(std::io::Error::other(format!("larger than the limit of {} MiB", most >> 20)));
    }
    std::fs::read_to_string(path)
}

/// Check the text of a settings file; `name` is its name in problems.
///
/// # Errors
/// All problems of the text.
pub fn parse(name: &str, text: &str) -> Result<Settings, Problems> {
    tree::read(text).and_then(build::settings).map_err(|problems| Problems::new(name, problems))
}

/// Settings of a gateway that is started with flags instead of a file. The flags become the text of
/// a file, so that the same checks and defaults apply.
///
/// # Errors
/// The problems of the flags.
pub fn from_flags(
    upstream: &str,
    listen: &str,
    admin: &str,
    workers: Option<usize>,
) -> Result<Settings, Problems> {
    let quote = |s: &str| serde_json::Value::from(s).to_string();
    let workers = workers.map_or(String::new(), |n| format!("workers: {n}\n"));
    let text = format!(
        "listeners: [{{address: {}}}]\nadmin: {{address: {}}}\n{workers}backends: [{{name: default, url: {}}}]\nroutes: [{{name: default, backend: default}}]\n",
        quote(listen),
        quote(admin),
        quote(upstream),
    );
    parse("command line", &text)
}
