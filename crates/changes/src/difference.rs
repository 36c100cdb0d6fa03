//! The values that differ between two settings.
//!
//! - *In*: settings as JSON, in which secrets are masked.
//! - *Out*: a [`Change`] for each value. Entries of lists are compared by their names.
//! - *Never*: more than a list of values: an entry that is new or gone is one change.

use std::collections::BTreeMap;

use config::Settings;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::restart::needs_restart;

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The setting: `routes[chat].stall`.
    pub path: String,
    /// The value in force; null if absent.
    pub before: Value,
    /// The new value; null if absent.
    pub after: Value,
    /// It takes effect at the next start, and not with a reload.
    pub needs_restart: bool,
}

/// What differs from the settings in force. Those that need a restart are compared with those of
/// the `start`, which are in force until then.
pub fn differences(start: &Settings, current: &Settings, after: &Settings) -> Vec<Change> {
    let [start, current, after] = [start, current, after].map(readable);
    let of = |before: &Value, is_restart: bool| {
        let mut changes = Vec::new();
        compare(String::new(), Some(before), Some(&after), &mut changes);
        changes.retain(|change| change.needs_restart == is_restart);
        changes
    };
    let mut all = [of(&current, false), of(&start, true)].concat();
    all.sort_by(|one, other| one.path.cmp(&other.path));
    all
}

/// Settings as JSON, with the URL of each backend as it is written.
fn readable(settings: &Settings) -> Value {
    let mut settings = serde_json::to_value(settings).unwrap_or_default();
    for list in ["backends", "routes"] {
        let entries = settings.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.remove("index");
            if list == "backends" {
                name_url(entry);
            }
        }
    }
    settings
}

/// Replaces the parts of a backend's URL by the URL.
fn name_url(backend: &mut Map<String, Value>) {
    let text = |backend: &Map<String, Value>, name: &str| {
        backend.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let tls = backend.get("tls").and_then(Value::as_object);
    let scheme = if tls.is_some() { "https" } else { "http" };
    // The name to verify is that of the URL unless it is set.
    let host = text(backend, "host");
    let is_derived = tls.is_none_or(|tls| {
        tls.get("ca").is_none_or(Value::is_null)
            && tls.get("server_name").and_then(Value::as_str) == Some(&host)
    });
    let (authority, prefix) = (text(backend, "authority"), text(backend, "prefix"));
    let parts = ["host", "port", "authority", "prefix"];
    backend.retain(|name, _| !parts.contains(&name.as_str()));
    if is_derived {
        backend.remove("tls");
    }
    backend.insert("url".into(), format!("{scheme}://{authority}{prefix}").into());
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    match (before, after) {
        _ if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys: BTreeMap<&String, ()> =
                before.keys().chain(after.keys()).map(|key| (key, ())).collect();
            for key in keys.into_keys() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(path, before.get(key), after.get(key), changes);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => match (named(one), named(other)) {
            (Some(before), Some(after)) => compare_lists(&path, &before, &after, changes),
            _ => push(path, json!(one), json!(other), changes),
        },
        (before, after) => {
            let value = |value: Option<&Value>| value.cloned().unwrap_or_default();
            push(path, value(before), value(after), changes);
        }
    }
}

/// The entries of a list by their names, if each has one.
fn named(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    list.iter().map(|entry| Some((entry.get("name")?.as_str()?, entry))).collect()
}

fn compare_lists(
    path: &str,
    before: &[(&str, &Value)],
    after: &[(&str, &Value)],
    changes: &mut Vec<Change>,
) {
    let find =
        |list: &[(&str, &Value)], name: &str| list.iter().position(|(known, _)| *known == name);
    for (name, entry) in before {
        let now = find(after, name).map(|at| after[at].1);
        compare(format!("{path}[{name}]"), Some(entry), now, changes);
    }
    let is_new = |name: &str| find(before, name).is_none();
    for (name, entry) in after.iter().filter(|(name, _)| is_new(name)) {
        compare(format!("{path}[{name}]"), None, Some(entry), changes);
    }
    // Entries that stay are tried in their order, such as routes.
    let order = |list: &[(&str, &Value)], other: &[(&str, &Value)]| -> Vec<String> {
        let stays = list.iter().filter(|(name, _)| find(other, name).is_some());
        stays.map(|(name, _)| (*name).to_owned()).collect()
    };
    let (was, is) = (order(before, after), order(after, before));
    if was != is {
        push(format!("{path} (order)"), json!(was), json!(is), changes);
    }
}

fn push(path: String, before: Value, after: Value, changes: &mut Vec<Change>) {
    let needs_restart = needs_restart(&path);
    changes.push(Change { path, before, after, needs_restart });
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "
admin: {auth: {tokens: [{name: ops, token: the-token-of-operators, role: operator}]}}
workers: 2
backends: [{name: b, url: 'http://127.0.0.1:1', api_key: k-1}, {name: c, url: 'http://127.0.0.1:2'}]
routes:
- {name: one, backend: b, match: {path: /one}}
- {name: two, backend: b}
";

    fn parse(text: &str) -> Settings {
        config::parse("test", text).unwrap_or_else(|problems| panic!("{text}: {problems}"))
    }

    fn changes(replaced: &[(&str, &str)]) -> Vec<Change> {
        let before = parse(BEFORE);
        let mut text = BEFORE.to_owned();
        for (old, new) in replaced {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        differences(&before, &before, &parse(&text))
    }

    fn paths(replaced: &[(&str, &str)]) -> Vec<(String, bool)> {
        changes(replaced).into_iter().map(|change| (change.path, change.needs_restart)).collect()
    }

    #[test]
    fn values_are_compared_by_the_names_of_their_entries() {
        assert!(changes(&[]).is_empty());
        let [url] = &changes(&[("http://127.0.0.1:2", "http://engine.test/v2")])[..] else {
            panic!()
        };
        assert_eq!((&*url.path, url.needs_restart), ("backends[c].url", false));
        assert_eq!(
            (&url.before, &url.after),
            (&json!("http://127.0.0.1:2"), &json!("http://engine.test/v2"))
        );
        // Its URL says that it has TLS.
        let https = paths(&[("http://127.0.0.1:2", "https://engine.test")]);
        assert!(https.contains(&("backends[c].url".to_owned(), false)), "{https:?}");
        assert!(https.iter().all(|(path, _)| !path.contains("tls")), "{https:?}");
        // An entry before the others moves none of them.
        let first = ("routes:", "routes:\n- {name: new, backend: c, match: {path: /n}}");
        let [new] = &changes(&[first])[..] else { panic!("{:?}", changes(&[first])) };
        assert_eq!((&*new.path, &new.before), ("routes[new]", &Value::Null));
        assert_eq!(new.after["name"], "new");
        let swapped =
            [("name: one", "name: x"), ("name: two", "name: one"), ("name: x", "name: two")];
        assert!(
            paths(&swapped).iter().any(|(path, _)| path == "routes (order)"),
            "{:?}",
            paths(&swapped)
        );
    }

    #[test]
    fn what_needs_a_restart_says_so() {
        assert_eq!(paths(&[("workers: 2", "workers: 3")]), [("workers".to_owned(), true)]);
        let listeners =
            paths(&[("workers: 2", "workers: 2\nlisteners: [{address: '127.0.0.1:9'}]")]);
        assert_eq!(listeners, [("listeners".to_owned(), true)]);
        let limits = paths(&[("workers: 2", "workers: 2\nlimits: {records: 9, connections: 9}")]);
        assert_eq!(
            limits,
            [("limits.connections".to_owned(), false), ("limits.records".to_owned(), true)]
        );
    }

    /// A restart-only setting that was changed before is in force as it was at the start.
    #[test]
    fn what_needs_a_restart_is_compared_with_the_start() {
        let (start, current) = (parse(BEFORE), parse(&BEFORE.replace("workers: 2", "workers: 3")));
        assert!(differences(&start, &current, &start).is_empty());
        assert_eq!(differences(&start, &current, &current)[0].path, "workers");
    }

    #[test]
    fn secrets_are_neither_shown_nor_compared() {
        assert!(
            changes(&[("k-1", "k-2"), ("the-token-of-operators", "another-token-of-them")])
                .is_empty()
        );
        let [gone] = &changes(&[(", api_key: k-1", "")])[..] else { panic!() };
        assert_eq!((&*gone.path, &gone.before), ("backends[b].api_key", &json!("***")));
    }

    #[test]
    fn paths_of_the_table_are_paths_of_settings() {
        let settings = serde_json::to_value(parse(BEFORE)).expect("JSON");
        for path in crate::RESTART_ONLY {
            let found = path.split('.').try_fold(&settings, |value, name| value.get(name));
            assert!(found.is_some(), "{path}");
        }
        assert!(
            needs_restart("audit.file") && !needs_restart("audits") && !needs_restart("limits")
        );
    }
}
