//! Reads sections of a YAML file: every problem with its place, and no key that is not known.
//!
//! - *In*: the text.
//! - *Out*: [`Section`]s, whose values their user parses.
//! - *Never*: an unknown key that is dropped, or a problem that hides the others.

use std::cell::RefCell;
use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::Value;
use yaml::{Problem, Problems, hint};

/// Maximum depth of a value that is passed on as JSON.
const MAX_DEPTH: u32 = 32;

/// The problems so far.
type Found = RefCell<Vec<Problem>>;

/// A section of the file.
pub(crate) struct Section<'d> {
    path: String,
    line: usize,
    column: usize,
    fields: BTreeMap<String, &'d MarkedYaml<'d>>,
    found: &'d Found,
}

/// Reads a file: `build` reads its root section, and reports problems to it.
///
/// # Errors
/// All problems.
pub(crate) fn read<T>(
    name: &str,
    text: &str,
    known: &[&str],
    build: impl FnOnce(&Section<'_>) -> T,
) -> Result<T, Problems> {
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|error| Problems::one(name, yaml::explain(text, &error)))?;
    let [document] = documents.as_slice() else {
        let message = "the file must have one YAML document".to_owned();
        return Err(Problems::one(name, Problem::whole_file(message)));
    };
    let found = Found::default();
    let root = Section::open(document, String::new(), known, &found);
    let built = root.as_ref().map(build);
    match (built, found.into_inner()) {
        (Some(built), problems) if problems.is_empty() => Ok(built),
        (_, problems) => Err(Problems::new(name, problems)),
    }
}

fn problem(node: &MarkedYaml<'_>, path: &str, message: String) -> Problem {
    let start = node.span.start;
    Problem { line: start.line(), column: start.col() + 1, path: path.to_owned(), message }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl<'d> Section<'d> {
    fn open(
        node: &'d MarkedYaml<'d>,
        path: String,
        known: &[&str],
        found: &'d Found,
    ) -> Option<Self> {
        let YamlData::Mapping(mapping) = &node.data else {
            let message = format!("expected a section with keys such as {:?}", known.first()?);
            found.borrow_mut().push(problem(node, &path, message));
            return None;
        };
        let mut fields = BTreeMap::new();
        for (key, value) in mapping {
            let name = text_of(key).unwrap_or_default();
            if known.contains(&name.as_str()) {
                fields.insert(name, value);
            } else {
                let message = format!("unknown key; {}", hint(&name, known));
                found.borrow_mut().push(problem(key, &join(&path, &name), message));
            }
        }
        let (line, column) = (node.span.start.line(), node.span.start.col() + 1);
        Some(Section { path, line, column, fields, found })
    }

    /// Reports a problem of a field, at its value, or at the section if it has none.
    pub(crate) fn wrong(&self, name: &str, message: impl Into<String>) {
        let path = if name.is_empty() { self.path.clone() } else { join(&self.path, name) };
        let message = message.into();
        let problem = match self.fields.get(name) {
            Some(node) => problem(node, &path, message),
            None => Problem { line: self.line, column: self.column, path, message },
        };
        self.found.borrow_mut().push(problem);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A value, if it is there and right.
    pub(crate) fn get<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.fields.get(name)?;
        let text = text_of(node);
        let parsed = text.ok_or_else(|| "expected a single value".into()).and_then(|t| parse(&t));
        parsed.map_err(|why| self.wrong(name, why)).ok()
    }

    /// A value of a type that reads itself.
    pub(crate) fn value<T: std::str::FromStr>(&self, name: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        self.get(name, |text| text.parse().map_err(|why: T::Err| why.to_string()))
    }

    /// A whole number in a range.
    pub(crate) fn count(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        self.get(name, |text| {
            text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
                format!("{text:?} is not a whole number from {} to {}", range.start(), range.end())
            })
        })
    }

    /// A number in a range.
    pub(crate) fn number(&self, name: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        self.get(name, |text| {
            text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
                format!("{text:?} is not a number from {} to {}", range.start(), range.end())
            })
        })
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{text:?} is not true or false")),
        })
    }

    /// A duration above zero.
    pub(crate) fn duration(&self, name: &str) -> Option<std::time::Duration> {
        self.get(name, |text| {
            let time = lens::duration::parse(text).map_err(|bad| bad.to_string())?;
            if time.is_zero() { Err("must be above 0".into()) } else { Ok(time) }
        })
    }

    /// A section, if it is there.
    pub(crate) fn section(&self, name: &str, known: &[&str]) -> Option<Section<'d>> {
        let node = self.fields.get(name)?;
        Section::open(node, join(&self.path, name), known, self.found)
    }

    /// A list of sections.
    pub(crate) fn sections(&self, name: &str, known: &[&str]) -> Vec<Section<'d>> {
        let Some(node) = self.fields.get(name) else { return Vec::new() };
        let YamlData::Sequence(items) = &node.data else {
            self.wrong(name, "expected a list; begin each entry with \"- \"");
            return Vec::new();
        };
        let open = |(at, item): (usize, &'d MarkedYaml<'d>)| {
            let path = format!("{}[{at}]", join(&self.path, name));
            Section::open(item, path, known, self.found)
        };
        items.iter().enumerate().filter_map(open).collect()
    }

    /// A list of values.
    pub(crate) fn values<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(node) = self.fields.get(name) else { return Vec::new() };
        let YamlData::Sequence(items) = &node.data else {
            self.wrong(name, "expected a list, for example [1, 2, 4]");
            return Vec::new();
        };
        let value = |(at, item): (usize, &MarkedYaml<'_>)| {
            let text = text_of(item).ok_or_else(|| "expected a single value".to_owned());
            let failed = |why| {
                let path = format!("{}[{at}]", join(&self.path, name));
                self.found.borrow_mut().push(problem(item, &path, why));
            };
            text.and_then(|text| parse(&text)).map_err(failed).ok()
        };
        items.iter().enumerate().filter_map(value).collect()
    }

    /// Any value, as JSON.
    pub(crate) fn json(&self, name: &str) -> Option<Value> {
        let node = self.fields.get(name)?;
        let value = json(node, MAX_DEPTH);
        if value.is_none() {
            self.wrong(name, "cannot be written as JSON: keys must be texts, numbers finite");
        }
        value
    }
}

/// A scalar as its text.
fn text_of(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(n)) => Some(n.to_string()),
        YamlData::Value(Scalar::FloatingPoint(n)) => Some(n.to_string()),
        YamlData::Value(Scalar::Boolean(flag)) => Some(flag.to_string()),
        YamlData::Representation(text, _, _) => Some(text.to_string()),
        _ => None,
    }
}

fn json(node: &MarkedYaml<'_>, depth: u32) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    Some(match &node.data {
        YamlData::Value(Scalar::Null) => Value::Null,
        YamlData::Value(Scalar::Boolean(flag)) => Value::Bool(*flag),
        YamlData::Value(Scalar::Integer(n)) => (*n).into(),
        YamlData::Value(Scalar::FloatingPoint(n)) => {
            Value::Number(serde_json::Number::from_f64(**n)?)
        }
        YamlData::Value(Scalar::String(text)) => Value::String(text.to_string()),
        YamlData::Sequence(items) => {
            items.iter().map(|item| json(item, depth)).collect::<Option<Vec<_>>>()?.into()
        }
        YamlData::Mapping(mapping) => mapping
            .iter()
            .map(|(key, value)| Some((text_of(key)?, json(value, depth)?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
        _ => return None,
    })
}
