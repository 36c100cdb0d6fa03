//! A settings file, checked against the schema: every field has its type, and there are no others.
//!
//! - *In*: YAML text.
//! - *Out*: a tree of typed [`Value`]s, each with its place, defaults filled in, and all problems.
//! - *Never*: the meaning of a field, which is the builder's.

use std::collections::BTreeMap;
use std::time::Duration;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use crate::remote::Reading;
use crate::secret;
use schema::{Field, Kind, Section};
use yaml::Secret;
use yaml::value;
use yaml::{Problem, nearest};

/// A position in the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    line: usize,
    column: usize,
    path: String,
}

impl Place {
    fn new(node: &MarkedYaml<'_>, path: String) -> Self {
        Place { line: node.span.start.line(), column: node.span.start.col() + 1, path }
    }

    /// The path of the setting: `routes[2].timeouts.connect`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// A problem here.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            line: self.line,
            column: self.column,
            path: self.path.clone(),
            message: message.into(),
        }
    }
}

/// A checked value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Absent,
    /// The file has a value that is not valid. The problem is reported.
    Invalid,
    Text(String),
    Flag(bool),
    Count(u64),
    Share(f32),
    Number(f64),
    Duration(Duration),
    Secret(Secret),
    Texts(Vec<String>),
    TextMap(BTreeMap<String, String>),
    Table(Table),
    List(Vec<Table>),
}

/// A checked section.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) place: Place,
    fields: BTreeMap<&'static str, (Value, Place)>,
    /// Whether the file has something else than a section here.
    is_invalid: bool,
    /// For each unknown key, the field that it may stand for; `None`: any.
    misspelled: Vec<Option<&'static str>>,
}

impl Table {
    pub(crate) fn place(&self, name: &str) -> Place {
        self.fields.get(name).map_or_else(|| self.place.clone(), |(_, place)| place.clone())
    }

    /// The place of a value by its path from here, such as `routes[2].tokenizer`.
    pub(crate) fn find(&self, path: &str) -> Option<&Place> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let (name, index) = match first.strip_suffix(']').and_then(|first| first.split_once('[')) {
            Some((name, index)) => (name, Some(index.parse::<usize>().ok()?)),
            None => (first, None),
        };
        let (value, place) = self.fields.get(name)?;
        let (table, place) = match (value, index) {
            (Value::List(entries), Some(at)) => entries.get(at).map(|t| (Some(t), &t.place))?,
            (Value::Table(table), None) => (Some(table), place),
            (_, _) => (None, place),
        };
        if rest.is_empty() { Some(place) } else { table?.find(rest) }
    }

    fn value(&self, name: &str) -> &Value {
        // The checker enters every field of a section, so an unknown name is a bug in the builder.
        debug_assert!(
            self.fields.is_empty() || self.fields.contains_key(name),
            "no field {name:?} in {:?}",
            self.place
        );
        self.fields.get(name).map_or(&Value::Absent, |(value, _)| value)
    }

    /// Whether the field has an invalid value, which is reported already.
    pub(crate) fn is_invalid(&self, name: &str) -> bool {
        self.is_invalid || matches!(self.value(name), Value::Invalid)
    }

    /// Whether a reported problem explains that the field has no value: an invalid value, or an
    /// unknown key that may be this field's.
    pub(crate) fn is_explained(&self, name: &str) -> bool {
        let misspelled = self.misspelled.iter().any(|field| field.is_none_or(|f| f == name));
        self.is_invalid(name) || (misspelled && !self.has(name))
    }

    /// Whether the field has a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        !matches!(self.value(name), Value::Absent)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Flag(true))
    }

    /// A flag, if it is given or has a default.
    pub(crate) fn given_flag(&self, name: &str) -> Option<bool> {
        match self.value(name) {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Count(n) => *n,
            _ => 0,
        }
    }

    pub(crate) fn share(&self, name: &str) -> f32 {
        match self.value(name) {
            Value::Share(share) => *share,
            _ => 0.0,
        }
    }

    /// A share, if it is given or has a default.
    pub(crate) fn given_share(&self, name: &str) -> Option<f32> {
        match self.value(name) {
            Value::Share(share) => Some(*share),
            _ => None,
        }
    }

    /// A number, if it is given or has a default.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A count or size as `usize`.
    pub(crate) fn size(&self, name: &str) -> usize {
        usize::try_from(self.count(name)).unwrap_or(usize::MAX)
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(d) => *d,
            _ => Duration::ZERO,
        }
    }

    /// A duration, if it is given or has a default.
    pub(crate) fn given_duration(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Value::Duration(d) => Some(*d),
            _ => None,
        }
    }

    pub(crate) fn secret(&self, name: &str) -> Option<&Secret> {
        match self.value(name) {
            Value::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    pub(crate) fn texts(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::Texts(texts) => texts,
            _ => &[],
        }
    }

    pub(crate) fn map(&self, name: &str) -> BTreeMap<String, String> {
        match self.value(name) {
            Value::TextMap(map) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        match self.value(name) {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// This table, with the sections of another added.
    pub(crate) fn with_sections_of(mut self, other: &Table) -> Table {
        let sections =
            other.fields.iter().filter(|(_, (value, _))| matches!(value, Value::Table(_)));
        self.fields.extend(sections.map(|(name, field)| (*name, field.clone())));
        self
    }

    pub(crate) fn list(&self, name: &str) -> &[Table] {
        match self.value(name) {
            Value::List(list) => list,
            _ => &[],
        }
    }
}

/// Read and check a whole file of a kind.
pub(crate) fn read_as(text: &str, root: &'static Section) -> Result<Table, Vec<Problem>> {
    let (table, problems) = read_partial(text, root)?;
    if problems.is_empty() { Ok(table) } else { Err(problems) }
}

/// Read and check a whole file of a kind. What has no problem can be used if the rest has some.
///
/// # Errors
/// The problem that keeps the file from being read at all.
pub(crate) fn read_partial(
    text: &str,
    root: &'static Section,
) -> Result<(Table, Vec<Problem>), Vec<Problem>> {
    read_with(text, root, &Reading::All).map(|read| (read.root, read.problems))
}

/// A checked file.
pub(crate) struct Read {
    pub(crate) root: Table,
    pub(crate) problems: Vec<Problem>,
    /// Settings with placeholders for their secrets.
    pub(crate) unread: Vec<String>,
}

/// As [`read_partial`], with references that may be read.
pub(crate) fn read_with(
    text: &str,
    root: &'static Section,
    reading: &Reading,
) -> Result<Read, Vec<Problem>> {
    let documents = MarkedYaml::load_from_str(text).map_err(|e| vec![yaml::explain(text, &e)])?;
    let mut checker = Checker { problems: Vec::new(), reading, unread: Vec::new() };
    let root = match documents.as_slice() {
        [] => checker.defaults(root, &Place::default()),
        [document] => checker.section(document, root, String::new()),
        _ => {
            return Err(vec![Problem::whole_file(
                "the file has more than one YAML document; write only one".into(),
            )]);
        }
    };
    Ok(Read { root, problems: checker.problems, unread: checker.unread })
}

struct Checker<'r> {
    problems: Vec<Problem>,
    reading: &'r Reading,
    unread: Vec<String>,
}

impl Checker<'_> {
    fn wrong(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(place.problem(message));
    }

    /// An empty section, with its defaults.
    fn defaults(&mut self, section: &'static Section, place: &Place) -> Table {
        let mut table = Table { place: place.clone(), ..Table::default() };
        for field in section.fields {
            self.default(field, &mut table);
        }
        table
    }

    fn default(&mut self, field: &'static Field, table: &mut Table) {
        let mut place = table.place.clone();
        place.path = join(&place.path, field.name);
        let value = match field.kind {
            // The presence of an optional section can matter, so the builder fills in its defaults.
            Kind::Section(_) | Kind::List(_) | Kind::Texts | Kind::TextMap | Kind::Secret => {
                Value::Absent
            }
            Kind::RequiredText if table.misspelled.contains(&Some(field.name)) => Value::Absent,
            Kind::RequiredText => {
                let at = table.place.clone();
                self.wrong(&at, format!("{:?} is missing: {}", field.name, field.doc));
                Value::Absent
            }
            _ if field.default.is_empty() => Value::Absent,
            _ => self.scalar(field.default, field, &place),
        };
        table.fields.insert(field.name, (value, place));
    }

    fn section(&mut self, node: &MarkedYaml<'_>, section: &'static Section, path: String) -> Table {
        let place = Place::new(node, path);
        let YamlData::Mapping(mapping) = &node.data else {
            if matches!(node.data, YamlData::Value(Scalar::Null)) {
                return self.defaults(section, &place);
            }
            self.wrong(
                &place,
                format!(
                    "expected a section with keys such as {:?}",
                    section.fields.first().map_or("", |f| f.name)
                ),
            );
            return Table { place, is_invalid: true, ..Table::default() };
        };
        let mut table = Table { place, ..Table::default() };
        for (key, node) in mapping {
            let name = text_of(key).unwrap_or_default();
            let path = join(&table.place.path, &name);
            match section.fields.iter().find(|f| f.name == name) {
                Some(field) => {
                    let value = self.value(node, field, path.clone());
                    table.fields.insert(field.name, (value, Place::new(node, path)));
                }
                None => table.misspelled.push(self.unknown(key, &name, path, section)),
            }
        }
        for field in section.fields {
            if !table.fields.contains_key(field.name) {
                self.default(field, &mut table);
            }
        }
        table
    }

    /// Reports an unknown key; returns the field that it may stand for.
    fn unknown(
        &mut self,
        key: &MarkedYaml<'_>,
        name: &str,
        path: String,
        section: &'static Section,
    ) -> Option<&'static str> {
        let names = || section.fields.iter().map(|f| f.name);
        let renamed = section.fields.iter().find(|field| field.was == name && !name.is_empty());
        let near = nearest(name, names());
        let hint = match (renamed, near) {
            (Some(field), _) => format!("it was renamed to {:?}", field.name),
            (None, Some(near)) => format!("did you mean {near:?}?"),
            (None, None) => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
        };
        self.wrong(&Place::new(key, path), format!("unknown key; {hint}"));
        renamed.map(|field| field.name).or(near)
    }

    fn value(&mut self, node: &MarkedYaml<'_>, field: &'static Field, path: String) -> Value {
        let place = Place::new(node, path.clone());
        match &field.kind {
            Kind::Section(section) => Value::Table(self.section(node, section, path)),
            Kind::List(section) => match &node.data {
                YamlData::Sequence(items) => Value::List(
                    items
                        .iter()
                        .enumerate()
                        .map(|(at, item)| self.section(item, section, format!("{path}[{at}]")))
                        .collect(),
                ),
                _ => self.fail(&place, "expected a list; begin each entry with \"- \""),
            },
            Kind::Texts => match &node.data {
                YamlData::Sequence(items) => {
                    Value::Texts(items.iter().filter_map(|item| self.plain(item, &path)).collect())
                }
                _ => self.fail(&place, "expected a list of texts, for example [\"a\", \"b\"]"),
            },
            Kind::TextMap => match &node.data {
                YamlData::Mapping(map) => Value::TextMap(
                    map.iter()
                        .filter_map(|(k, v)| Some((self.plain(k, &path)?, self.plain(v, &path)?)))
                        .collect(),
                ),
                _ => self.fail(&place, "expected keys with texts, for example {team: search}"),
            },
            _ => match text_of(node) {
                Some(text) => self.scalar(&text, field, &place),
                None => self.fail(&place, "expected a single value"),
            },
        }
    }

    fn plain(&mut self, node: &MarkedYaml<'_>, path: &str) -> Option<String> {
        let text = text_of(node);
        if text.is_none() {
            self.wrong(&Place::new(node, path.to_owned()), "expected a text");
        }
        text
    }

    fn scalar(&mut self, text: &str, field: &Field, place: &Place) -> Value {
        let parsed = match &field.kind {
            Kind::Flag => match text {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                _ => Err(format!("{text:?} is not true or false")),
            },
            Kind::Count(min, max) => match text.parse::<u64>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(Value::Count(n)),
                _ => Err(format!("{text:?} is not a whole number from {min} to {max}")),
            },
            Kind::Share => match text.parse::<f32>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(Value::Share(share)),
                _ => Err(format!("{text:?} is not a number from 0 to 1")),
            },
            Kind::Number => match text.parse::<f64>() {
                Ok(number) if (0.0..1e18).contains(&number) => Ok(Value::Number(number)),
                _ => Err(format!("{text:?} is not a number of 0 or more")),
            },
            Kind::DurationOrAuto if text == "auto" => Ok(Value::Text(text.to_owned())),
            Kind::Duration | Kind::DurationOrAuto if text == "0" => {
                Ok(Value::Duration(Duration::ZERO))
            }
            Kind::Duration | Kind::DurationOrAuto => value::duration(text).map(Value::Duration),
            Kind::Size => value::size(text).map(Value::Count),
            Kind::Secret if secret::is_reference(text) && !self.reading.has_secrets() => {
                self.unread.push(place.path.clone());
                Ok(Value::Secret(secret::placeholder(&place.path)))
            }
            Kind::Secret => secret::read(text).map(Value::Secret),
            Kind::Word(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Word(words) => Err(format!("{text:?} is not one of: {}", words.join(", "))),
            _ if text.contains("${") && !self.reading.permits(&place.path, text) => Err(
                "is not read here: the settings file has no such text in this setting; check it \
                 with `llm-lens check` on the gateway's machine"
                    .into(),
            ),
            _ => value::expand(text, |name| std::env::var(name).ok()).map(Value::Text),
        };
        parsed.unwrap_or_else(|message| self.fail(place, message))
    }

    fn fail(&mut self, place: &Place, message: impl Into<String>) -> Value {
        self.wrong(place, message);
        Value::Invalid
    }
}

fn text_of(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(s)) => Some(s.to_string()),
        YamlData::Value(Scalar::Integer(i)) => Some(i.to_string()),
        YamlData::Value(Scalar::Boolean(b)) => Some(b.to_string()),
        YamlData::Value(Scalar::FloatingPoint(f)) => Some(f.to_string()),
        _ => None,
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
