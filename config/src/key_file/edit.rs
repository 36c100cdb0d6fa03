//! Changes of a key file: a new entry, or the revocation of one.
//!
//! - *In*: the text of a valid key file, in any layout of YAML.
//! - *Out*: its text with the change; comments and other entries stay as they are.
//! - *Never*: a text that does not parse, or has changed otherwise.

use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};
use traffic::keys::{Checker, Entry};
use traffic::settings::Limit;

use super::entries;
use yaml::{Problem, Problems};

/// First lines of a new file.
const HEAD: &str = "# API keys of llm-lens gateway, written by llm-lens key.\n";

/// The text of a key file with a new entry.
///
/// # Errors
/// The problems of the text, or of the new entry.
pub fn add_key(name: &str, text: &str, new: &Entry, limits: &[Limit]) -> Result<String, Problems> {
    let documents = MarkedYaml::load_from_str(text).unwrap_or_default();
    // The gateway refuses `keys:` without a value; the first key makes it valid.
    let is_empty = keys(&documents).is_some_and(|(_, keys)| keys.data.is_null());
    let known = if is_empty { Vec::new() } else { entries(name, text, limits)? };
    let mut checker = Checker::new(limits);
    for entry in &known {
        // They are valid.
        let _ = checker.key(entry);
    }
    checker.new_key(new).map_err(|wrong| {
        let problem = |(field, message)| Problem {
            path: format!("new key: {field}"),
            ..Problem::whole_file(message)
        };
        Problems::new(name, wrong.into_iter().map(problem).collect())
    })?;
    let wanted = known.iter().chain([new]);
    changed(name, text, |keys| insert(text, keys, new), (wanted.collect(), limits), "add the key")
}

/// The text of a key file with a revoked entry; `None` if there is no such entry, or if it is
/// revoked already.
///
/// # Errors
/// The problems of the text.
pub fn revoke_key(
    name: &str,
    text: &str,
    id: &str,
    limits: &[Limit],
) -> Result<Option<String>, Problems> {
    let mut known = entries(name, text, limits)?;
    let Some((at, entry)) =
        known.iter_mut().enumerate().find(|(_, entry)| entry.id == id && !entry.revoked)
    else {
        return Ok(None);
    };
    entry.revoked = true;
    let edit = |keys: Option<Keys<'_>>| revoke(text, keys?.1, at);
    changed(name, text, edit, (known.iter().collect(), limits), "revoke the key").map(Some)
}

/// The key `keys` and its value.
type Keys<'k> = (&'k MarkedYaml<'k>, &'k MarkedYaml<'k>);

fn keys<'k>(documents: &'k [MarkedYaml<'k>]) -> Option<Keys<'k>> {
    match &documents.first()?.data {
        YamlData::Mapping(fields) => fields.iter().next(),
        _ => None,
    }
}

/// Apply an edit to the node of `keys`. The result must have exactly the wanted entries, in any
/// order.
fn changed(
    name: &str,
    text: &str,
    edit: impl FnOnce(Option<Keys<'_>>) -> Option<String>,
    (mut wanted, limits): (Vec<&Entry>, &[Limit]),
    act: &str,
) -> Result<String, Problems> {
    let documents = MarkedYaml::load_from_str(text).unwrap_or_default();
    let after = edit(keys(&documents)).filter(|after| {
        let Ok(mut found) = entries(name, after, limits) else { return false };
        found.sort_by(|one, other| one.id.cmp(&other.id));
        wanted.sort_by(|one, other| one.id.cmp(&other.id));
        found.iter().eq(wanted)
    });
    after.ok_or_else(|| {
        let message = format!(
            "cannot {act} in this layout; write the entries below \"keys:\", each on its own line, \
             as {{id: ..., owner: ...}} after \"- \""
        );
        Problems::one(name, Problem::whole_file(message))
    })
}

/// The text with an entry at the end of the list, or at the beginning of a list in brackets.
fn insert(text: &str, keys: Option<Keys<'_>>, new: &Entry) -> Option<String> {
    let line = new.line();
    let Some((key, keys)) = keys else {
        let head = if text.trim().is_empty() { HEAD } else { text };
        return Some(format!("{}keys:\n{line}\n", with_newline(head)));
    };
    let start = byte(text, &keys.span.start);
    match &keys.data {
        YamlData::Sequence(items) if text.get(start..)?.starts_with('[') => {
            let more = if items.is_empty() { "" } else { ", " };
            let entry = line.strip_prefix("- ")?;
            Some(spliced(text, start + 1, 0, &format!("{entry}{more}")))
        }
        YamlData::Sequence(_) => {
            // A list that is not indented is marked behind its first "-".
            let is_indented = text.get(start..)?.starts_with('-');
            let column = if is_indented { keys.span.start.col() } else { key.span.start.col() };
            Some(format!("{}{}{line}\n", with_newline(text), " ".repeat(column)))
        }
        // `keys:` without a value, or with a written null.
        data if data.is_null() => {
            let written = ["null", "Null", "NULL", "~"]
                .into_iter()
                .find(|null| text.get(start..).is_some_and(|rest| rest.starts_with(null)));
            let text = spliced(text, start, written.map_or(0, str::len), "");
            Some(format!("{}{line}\n", with_newline(&text)))
        }
        _ => None,
    }
}

/// The text with the entry at that position revoked.
fn revoke(text: &str, keys: &MarkedYaml<'_>, at: usize) -> Option<String> {
    let YamlData::Sequence(items) = &keys.data else { return None };
    let entry = items.get(at)?;
    let YamlData::Mapping(fields) = &entry.data else { return None };
    let is_field = |key: &MarkedYaml<'_>| matches!(&key.data, YamlData::Value(Scalar::String(name)) if name == "revoked");
    if let Some((_, value)) = fields.iter().find(|(key, _)| is_field(key)) {
        let start = byte(text, &value.span.start);
        text.get(start..)?.strip_prefix("false")?;
        return Some(spliced(text, start, "false".len(), "true"));
    }
    let start = byte(text, &entry.span.start);
    if text.get(start..)?.starts_with('{') {
        return Some(spliced(text, start + 1, 0, "revoked: true, "));
    }
    let indent = " ".repeat(entry.span.start.col());
    Some(spliced(text, start, 0, &format!("revoked: true\n{indent}")))
}

/// Byte position of a mark, which counts characters.
fn byte(text: &str, mark: &Marker) -> usize {
    text.char_indices().nth(mark.index()).map_or(text.len(), |(at, _)| at)
}

/// The text with `removed` bytes at a position replaced.
fn spliced(text: &str, at: usize, removed: usize, new: &str) -> String {
    let mut out = text.to_owned();
    out.replace_range(at..at + removed, new);
    out
}

fn with_newline(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: &str) -> Entry {
        let hash = Some(format!("{:02x}", id.bytes().fold(0, u8::wrapping_add)).repeat(32));
        Entry { id: id.into(), hash, owner: "tëam".into(), priority: 5, ..Entry::default() }
    }

    fn flow(id: &str) -> String {
        new(id).line().trim_start_matches("- ").to_owned()
    }

    fn layouts() -> Vec<String> {
        let (a, b) = (flow("a"), flow("b"));
        let block = |indent: &str| {
            let hash = new("a").hash.unwrap_or_default();
            format!("{indent}- id: a # ä\n{indent}  owner: tëam\n{indent}  hash: '{hash}'\n")
        };
        vec![
            String::new(),
            "\n".into(),
            "# only a comment".into(),
            "---\n# nothing yet\n".into(),
            "keys: []\n".into(),
            "# ünïcode\nkeys: [ ] # none\n".into(),
            "{keys: []}".into(),
            format!("keys: [{a}]\n"),
            format!("keys: [{a}, {b}]\n"),
            format!("# ä\nkeys: [ # first\n  {a}, # a\n  {b},\n]\n"),
            format!("keys:\n- {a}\n- {b}"),
            format!("keys:\n    - {a}\n    # a comment\n    - {b}\n\n"),
            format!("keys:\n-   {a}\n"),
            format!("keys:\n{}", block("")),
            format!("keys:\n{}  - {b}\n", block("  ")),
            format!("keys:\n\n  # ä\n{}# the end\n", block("  ")),
        ]
    }

    #[test]
    fn keys_are_added_to_any_layout() {
        let empty = ["keys:", "keys: # none yet\n", "keys: null\n", "keys: ~ # none"];
        for text in layouts().into_iter().chain(empty.map(str::to_owned)) {
            let before = match entries("k", &text, &[]) {
                Ok(entries) => entries,
                Err(_) if empty.contains(&&*text) => Vec::new(),
                Err(why) => panic!("{text}\n{why}"),
            };
            let mut after = text.clone();
            for id in ["x", "y"] {
                after = add_key("k", &after, &new(id), &[])
                    .unwrap_or_else(|why| panic!("{text}\n{why}"));
            }
            let found = entries("k", &after, &[]).unwrap();
            assert_eq!(found.len(), before.len() + 2, "{text}\n{after}");
            assert!(text.lines().filter(|line| line.contains('#')).all(|line| {
                let comment = line.split('#').next_back().unwrap_or_default();
                after.contains(comment)
            }));
        }
    }

    #[test]
    fn keys_are_revoked_in_any_layout() {
        for text in layouts() {
            for id in ["a", "b"] {
                let is = |entry: &Entry| entry.id == id;
                let known = entries("k", &text, &[]).unwrap();
                let revoked =
                    revoke_key("k", &text, id, &[]).unwrap_or_else(|why| panic!("{text}\n{why}"));
                assert_eq!(revoked.is_some(), known.iter().any(is), "{text}");
                let Some(after) = revoked else { continue };
                for entry in entries("k", &after, &[]).unwrap() {
                    assert_eq!(entry.revoked, is(&entry), "{after}");
                }
                assert_eq!(revoke_key("k", &after, id, &[]), Ok(None), "it is revoked already");
            }
        }
        let written = format!("keys:\n- {}\n", flow("a").replacen('{', "{revoked: false, ", 1));
        let after = revoke_key("k", &written, "a", &[]).unwrap().unwrap();
        assert!(entries("k", &after, &[]).unwrap()[0].revoked, "{after}");
    }

    #[test]
    fn errors_name_lines_of_the_file_or_the_new_key() {
        let text = format!("keys:\n- {}\n- {{id: b, owner: x}}\n", flow("a"));
        let problems = add_key("k.yaml", &text, &new("c"), &[]).unwrap_err().to_string();
        assert!(problems.starts_with("k.yaml:3:"), "{problems}");
        let text = format!("keys:\n- {}\n", flow("a"));
        let twice = add_key("k.yaml", &text, &new("a"), &[]).unwrap_err().to_string();
        assert!(twice.contains("k.yaml: new key: id: the id \"a\" is used twice"), "{twice}");
        let limits = [("fast".to_owned(), "3".to_owned())].into();
        let unknown = add_key("k.yaml", &text, &Entry { limits, ..new("c") }, &[]).unwrap_err();
        let want = "k.yaml: new key: limits: the settings have no rate limit \"fast\"";
        assert!(unknown.to_string().contains(want), "{unknown}");
    }
}
