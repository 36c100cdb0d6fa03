//! The settings file: parsing, checking and schema.
//!
//! - *In*: the text of a settings file, or the flags of a gateway without one; the environment and
//!   the files that secrets name.
//! - *Out*: [`Settings`], or every problem at once, each with line, column and a fix.
//! - *Never*: a default hidden in code that reads it. [`schema`] is the one table of sections and
//!   fields; checking, the commented example, the JSON Schema and the documentation are all made
//!   from it.
#![deny(clippy::indexing_slicing)]

pub use yaml::{Problem, Problems, Secret};

pub use schema;
pub use schema::{STARTER, example, json_schema, reference};

mod secret;
mod tree;

mod lines;
pub use lines::lines;

mod remote;
pub use remote::{MAX_REMOTE, References, Remote, examine_remote};

mod build;
pub mod settings;
pub use settings::Settings;

mod discovery;
pub use discovery::{Discovery, Endpoint, Found, MAX_DISCOVERED, Source};

mod key_file;
pub use key_file::{add_key, load_key_entries, load_keys, parse_keys, revoke_key};

use std::path::Path;

use remote::Reading;

/// Maximum size of a settings file, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// Read and check a settings file.
///
/// # Errors
/// All problems of the file, or the one that kept it from being read.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    parse(&path.display().to_string(), &read_settings(path)?)
}

/// Read the text of a settings file.
///
/// # Errors
/// Why it cannot be read.
pub fn read_settings(path: &Path) -> Result<String, Problems> {
    read(path, MAX_FILE).map_err(|e| {
        let problem = Problem::whole_file(format!("cannot read the file: {e}"));
        Problems::one(&path.display().to_string(), problem)
    })
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
    match examine(name, text) {
        (Some(settings), problems) if problems.is_empty() => Ok(settings),
        (_, problems) => Err(problems),
    }
}

/// Check the text of a settings file, and build what can be built of it, so that checks outside of
/// this crate can go on if there are problems. The settings then lack what has a problem.
pub fn examine(name: &str, text: &str) -> (Option<Settings>, Problems) {
    match tree::read_partial(text, &schema::ROOT) {
        Ok((root, problems)) => {
            let built = build::settings(root, problems, Reading::All);
            (Some(built.settings), Problems::new(name, built.problems))
        }
        Err(problems) => (None, Problems::new(name, problems)),
    }
}

/// A problem of a valid setting, such as a file that it names, with its place in the text. `path`
/// is that of the setting, for example `routes[2].tokenizer`, or empty.
pub fn problem_at(name: &str, text: &str, path: &str, message: &str) -> Problems {
    Problems::one(name, place_problem(text, &Reading::All, path, message))
}

fn place_problem(text: &str, reading: &Reading, path: &str, message: &str) -> Problem {
    let place = tree::read_with(text, &schema::ROOT, reading).ok();
    match place.as_ref().and_then(|read| read.root.find(path)) {
        Some(place) => Problem { path: path.to_owned(), ..place.problem(message) },
        None => Problem { path: path.to_owned(), ..Problem::whole_file(message.to_owned()) },
    }
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
    parse("command line", &text).map_err(|problems| {
        let problems = problems.iter().cloned().map(of_flag).collect();
        Problems::new("command line", problems)
    })
}

/// The problem of a flag. The text made of the flags, with its lines, is not the operator's.
fn of_flag(problem: Problem) -> Problem {
    let path = match problem.path.as_str() {
        "backends[0].url" => "--upstream",
        "listeners[0].address" => "--listen",
        "admin.address" => "--admin",
        "workers" => "--workers",
        path => path,
    };
    Problem { path: path.to_owned(), ..Problem::whole_file(problem.message) }
}
