//! Checks a settings text whose author may not read this machine: a client of the admin listener.
//!
//! - *In*: the text; the references that the settings file has.
//! - *Out*: settings with placeholders for secrets, all problems, and what was not read.
//! - *Never*: a secret from a file or the environment. Another file, or another variable, except
//!   where the settings file has the same text in the same setting: its value is in force already,
//!   and `/api/settings` shows it. A text that takes much more memory than its size.

use std::collections::BTreeSet;
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use saphyr_parser::{Event, Parser};
use yaml::{Problem, Problems};

use crate::settings::Settings;
use crate::{build, tree};

/// Maximum size of the text, in bytes.
pub const MAX_REMOTE: usize = 1 << 20;
/// Maximum sections and lists within each other.
const MAX_DEPTH: usize = 32;
/// Maximum values of the text.
const MAX_VALUES: usize = 100_000;

/// What the text of a settings file refers to: values with `${NAME}`, and files of backends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References(BTreeSet<(String, String)>);

impl References {
    /// Those of a settings file. An invalid one has none.
    pub fn in_text(text: &str) -> Self {
        let mut references = References::default();
        for document in MarkedYaml::load_from_str(text).iter().flatten() {
            references.collect(document, "");
        }
        references
    }

    fn collect(&mut self, node: &MarkedYaml<'_>, path: &str) {
        match &node.data {
            YamlData::Mapping(mapping) => {
                for (key, node) in mapping {
                    if let YamlData::Value(Scalar::String(key)) = &key.data {
                        self.collect(node, &tree::join(path, key));
                    }
                }
            }
            YamlData::Sequence(list) => {
                list.iter().for_each(|node| self.collect(node, &format!("{path}[]")));
            }
            YamlData::Value(Scalar::String(text))
                if text.contains("${") || path.ends_with("backends_file") =>
            {
                self.0.insert((path.to_owned(), text.to_string()));
            }
            _ => {}
        }
    }

    /// Whether the settings file has this text in this setting, in any entry of its lists.
    fn has(&self, path: &str, text: &str) -> bool {
        let entries = path.split('[').enumerate().map(|(at, part)| match at {
            0 => part.to_owned(),
            _ => format!("[{}", part.trim_start_matches(|c: char| c.is_ascii_digit())),
        });
        self.0.contains(&(entries.collect(), text.to_owned()))
    }
}

/// What a text may refer to.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reading {
    /// All that this process can read.
    #[default]
    All,
    /// What the settings file refers to, except for secrets.
    Known(Arc<References>),
}

impl Reading {
    /// Whether secrets may be read.
    pub(crate) fn has_secrets(&self) -> bool {
        matches!(self, Reading::All)
    }

    /// Whether the variables, or the file, of a setting may be read.
    pub(crate) fn permits(&self, path: &str, text: &str) -> bool {
        match self {
            Reading::All => true,
            Reading::Known(references) => references.has(path, text),
        }
    }
}

/// A checked text.
#[derive(Debug)]
pub struct Remote {
    /// Settings of the text, which lack what has a problem. Their secrets are placeholders.
    pub settings: Option<Settings>,
    /// Problems.
    pub problems: Problems,
    /// Settings whose secret or file was not read.
    pub unread: Vec<String>,
}

impl Remote {
    /// A problem of a valid setting, with its place in the text, as [`crate::problem_at`].
    pub fn problem_at(&self, text: &str, path: &str, message: &str) -> Problem {
        crate::place_problem(text, &Reading::Known(Arc::default()), path, message)
    }
}

/// Check a text of at most [`MAX_REMOTE`] bytes; `name` is its name in problems.
pub fn examine_remote(name: &str, text: &str, references: References) -> Remote {
    let failed = |problems| Remote {
        settings: None,
        problems: Problems::new(name, problems),
        unread: vec![],
    };
    if let Err(why) = check_shape(text) {
        return failed(vec![Problem::whole_file(why)]);
    }
    let reading = Reading::Known(Arc::new(references));
    let read = match tree::read_with(text, &schema::ROOT, &reading) {
        Ok(read) => read,
        Err(problems) => return failed(problems),
    };
    let built = build::settings(read.root, read.problems, reading);
    // A placeholder is not wrong.
    let is_known = |problem: &Problem| !read.unread.contains(&problem.path);
    let problems = built.problems.into_iter().filter(is_known).collect();
    Remote {
        settings: Some(built.settings),
        problems: Problems::new(name, problems),
        unread: [read.unread, built.unread].concat(),
    }
}

/// Refuse what takes more memory, or a deeper stack, than its size suggests.
fn check_shape(text: &str) -> Result<(), String> {
    if text.len() > MAX_REMOTE {
        return Err(format!("the text has more than {MAX_REMOTE} bytes; {ELSEWHERE}"));
    }
    let (mut depth, mut values) = (0_usize, 0);
    // An error of the parser is reported with its place afterwards.
    for (event, _) in Parser::new_from_str(text).map_while(Result::ok) {
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            Event::Alias(_) => {
                return Err(format!("aliases (*name) are not expanded here; {ELSEWHERE}"));
            }
            _ => {}
        }
        values += 1;
        if depth > MAX_DEPTH || values > MAX_VALUES {
            return Err(format!(
                "the text has more than {MAX_DEPTH} levels or {MAX_VALUES} values; {ELSEWHERE}"
            ));
        }
    }
    Ok(())
}

/// What to do with a text that is not checked here.
const ELSEWHERE: &str = "check it with `llm-lens check` on the gateway's machine";

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
backends: [{name: a, url: 'http://${HOME}:1', api_key: '${PATH}'}, {name: b, url: 'http://b'}]
routes: [{name: r, backend: a}]
";

    fn examine(text: &str) -> Remote {
        examine_remote("page", text, References::in_text(FILE))
    }

    #[test]
    fn references_are_those_of_the_same_setting() {
        let references = References::in_text(FILE);
        assert!(references.has("backends[7].url", "http://${HOME}:1"));
        for (path, text) in [
            ("backends[0].url", "http://${HOME}:2"),
            ("backends[0].name", "http://${HOME}:1"),
            ("backends[1].url", "http://b"),
        ] {
            assert!(!references.has(path, text), "{path} {text}");
        }
        assert_eq!(References::in_text("a: ["), References::default());
    }

    /// The value of a variable must not get into a problem or a setting that is shown.
    #[test]
    fn other_variables_are_not_read() {
        let known = examine(&FILE.replace("name: b", "name: c"));
        let text = known.problems.to_string();
        assert!(!text.contains("is not read"), "{text}");
        for (variable, setting) in [("${HOME}", "zone"), ("${NO_SUCH_VARIABLE}", "zone")] {
            let checked = examine(&format!("{FILE}{setting}: '{variable}'\n"));
            let told = checked.problems.to_string();
            let home = std::env::var("HOME").unwrap_or_default();
            assert!(
                told.contains("zone: is not read") && told.contains("llm-lens check"),
                "{told}"
            );
            assert!(
                !told.lines().any(|line| line.contains("zone") && line.contains(&home)),
                "{told}"
            );
            assert_eq!(checked.settings.expect("a section").zone, None);
        }
    }

    /// A file that exists and one that does not have the same answer.
    #[test]
    fn files_and_secrets_are_not_read() {
        let answer = |file: &str| {
            let checked = examine(&format!(
                "backends: [{{name: a, url: 'http://a', api_key: 'file:{file}'}}]\n\
                 pools: [{{name: p, template: a, backends_file: '{file}'}}]\n\
                 routes: [{{name: r, backend: a}}]\nstore: {{url: 'file:{file}'}}\n\
                 contents: {{path: x, key: '${{NO_SUCH_VARIABLE}}'}}\naudit: {{file: y}}\n\
                 admin: {{auth: {{tokens: [{{name: a, token: 'file:{file}'}}, {{name: b, token: '${{PATH}}'}}]}}}}\n\
                 listeners: [{{address: '127.0.0.1:1', tls: {{cert: '{file}', key: '{file}'}}}}]\n"
            ));
            (checked.problems.to_string().replace(file, "FILE"), checked.unread)
        };
        let unread = answer(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert_eq!(unread, answer("/no/such/file"));
        let (problems, mut unread) = unread;
        unread.sort();
        assert_eq!(problems, "");
        assert_eq!(
            unread,
            [
                "admin.auth.tokens[0].token",
                "admin.auth.tokens[1].token",
                "backends[0].api_key",
                "contents.key",
                "listeners[0].tls.cert",
                "listeners[0].tls.key",
                "pools[0].backends_file",
                "store.url",
            ]
        );
    }

    #[test]
    fn a_secret_in_the_text_is_checked_and_not_shown() {
        let told = examine("admin: {auth: {tokens: [{name: a, token: short-token}]}}").problems;
        let told = told.to_string();
        assert!(told.contains("must have at least") && !told.contains("short-token"), "{told}");
    }

    #[test]
    fn a_text_that_would_grow_is_refused() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\n";
        let deep = format!("zone: {}{}", "[".repeat(100), "]".repeat(100));
        let deeper = format!("zone: {}", "[".repeat(100_000));
        let block = format!("zone:\n  {}x", "- ".repeat(100_000));
        let many = "- x\n".repeat(MAX_VALUES);
        for (text, want) in [
            (bomb, "aliases"),
            (&deep, "levels"),
            (&deeper, "recursion limit"),
            (&block, "levels"),
            (&many, "values"),
            (&"#".repeat(MAX_REMOTE + 1), "bytes"),
        ] {
            let checked = examine(text);
            let told = checked.problems.to_string();
            assert!(checked.settings.is_none() && told.contains(want), "{want}: {told}");
        }
    }
}
