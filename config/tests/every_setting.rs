//! Every setting has an effect: `settings/all.yaml` has each with a value of its own, and without
//! it the settings are others, or invalid.

use std::collections::{BTreeMap, BTreeSet};

use config::schema::{KEYS, Kind, ROOT, Section};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;

const SETTINGS: &str = include_str!("settings/all.yaml");
const OTHERS: &str = include_str!("settings/others.yaml");
const KEY_FILE: &str = include_str!("settings/keys.yaml");

fn read(text: &str) -> Value {
    fn value(node: &Yaml<'_>) -> Value {
        if let Some(map) = node.as_mapping() {
            let entry = |(key, inner): (&Yaml<'_>, &Yaml<'_>)| {
                (key.as_str().expect("a text as key").to_owned(), value(inner))
            };
            return map.iter().map(entry).collect();
        }
        match (node.as_vec(), node.as_bool(), node.as_integer(), node.as_floating_point()) {
            (Some(list), ..) => list.iter().map(value).collect(),
            (_, Some(flag), ..) => flag.into(),
            (_, _, Some(number), _) => number.into(),
            (.., Some(number)) => number.into(),
            _ => node.as_str().expect("a scalar").into(),
        }
    }
    value(&Yaml::load_from_str(text).expect("YAML")[0])
}

/// Paths of all fields below a section, such as `routes[].match.path`.
fn fields(section: &Section, path: &str, all: &mut BTreeSet<String>) {
    for field in section.fields {
        let path = format!("{path}.{}", field.name);
        match field.kind {
            Kind::Section(inner) => fields(inner, &path, all),
            Kind::List(inner) => fields(inner, &format!("{path}[]"), all),
            _ => {}
        }
        all.insert(path);
    }
}

/// Every place of a document as a JSON pointer, by its path in the table.
fn places(value: &Value, pointer: &str, path: &str, all: &mut BTreeMap<String, Vec<String>>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let (pointer, path) = (format!("{pointer}/{key}"), format!("{path}.{key}"));
                all.entry(path.clone()).or_default().push(pointer.clone());
                places(inner, &pointer, &path, all);
            }
        }
        Value::Array(list) => {
            for (at, inner) in list.iter().enumerate() {
                places(inner, &format!("{pointer}/{at}"), &format!("{path}[]"), all);
            }
        }
        _ => {}
    }
}

fn without(document: &Value, pointer: &str) -> Value {
    let mut changed = document.clone();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = changed.pointer_mut(parent).and_then(Value::as_object_mut).expect("a mapping");
    parent.remove(key).expect("the field is there");
    changed
}

/// The fields of a section that `document` lacks, or that change nothing in what `parse` makes.
fn idle(section: &Section, document: &Value, parse: impl Fn(&str) -> String) -> Vec<String> {
    let whole = parse(&document.to_string());
    let (mut known, mut written) = (BTreeSet::new(), BTreeMap::new());
    fields(section, "", &mut known);
    places(document, "", "", &mut written);
    let mut idle = Vec::new();
    for path in known {
        let pointers = written.get(&path).map_or(&[][..], Vec::as_slice);
        let acts = |pointer: &String| parse(&without(document, pointer).to_string()) != whole;
        if !pointers.iter().any(acts) {
            idle.push(path);
        }
    }
    idle
}

fn parsed(text: &str) -> String {
    config::parse("f", text).map_or_else(|problems| problems.to_string(), |s| format!("{s:?}"))
}

/// The settings that `document` lacks, or that change nothing, there and with the sections of
/// others.yaml in place of its own.
fn idle_settings(document: &Value) -> Vec<String> {
    let mut other = document.clone();
    for (name, section) in read(OTHERS).as_object().expect("a mapping") {
        other[name] = section.clone();
    }
    config::parse("f", &other.to_string()).unwrap_or_else(|problems| panic!("{problems}"));
    let idle_there = idle(&ROOT, &other, parsed);
    let mut idle = idle(&ROOT, document, parsed);
    idle.retain(|path| idle_there.contains(path));
    idle
}

#[test]
fn every_setting_has_an_effect() {
    let document = read(SETTINGS);
    config::parse("all.yaml", SETTINGS).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        idle_settings(&document),
        Vec::<String>::new(),
        "add them to all.yaml, or to others.yaml"
    );
}

#[test]
fn every_field_of_a_key_has_an_effect() {
    let document = read(KEY_FILE);
    let settings = config::parse("all.yaml", SETTINGS).unwrap();
    let parse = |text: &str| match config::parse_keys("keys", text, &settings.rate_limits) {
        Ok(keys) => format!("{keys:?}"),
        Err(problems) => problems.to_string(),
    };
    config::parse_keys("keys.yaml", KEY_FILE, &settings.rate_limits)
        .unwrap_or_else(|problems| panic!("{problems}"));
    // The time of creation is for people alone.
    assert_eq!(idle(&KEYS, &document, parse), [".keys[].created"], "add them to keys.yaml");
}

/// A field that is not in the document is found.
#[test]
fn a_missing_field_is_found() {
    let mut document = read(SETTINGS);
    document.as_object_mut().unwrap().remove("workers");
    assert_eq!(idle_settings(&document), [".workers"]);
}
