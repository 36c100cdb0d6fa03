//! Where settings are written.
//!
//! - *In*: the text of a settings file.
//! - *Out*: the line of each section, and of each named entry of a list.
//! - *Never*: a value.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// Lines, from 1, by path: `routes`, `routes[chat]`. Empty if the text is not valid.
pub fn lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let documents = MarkedYaml::load_from_str(text).unwrap_or_default();
    let Some(YamlData::Mapping(root)) = documents.first().map(|document| &document.data) else {
        return lines;
    };
    for (key, node) in root {
        let Some(section) = text_of(key) else { continue };
        lines.insert(section.to_owned(), key.span.start.line());
        let YamlData::Sequence(entries) = &node.data else { continue };
        for entry in entries {
            let YamlData::Mapping(fields) = &entry.data else { continue };
            let name = fields.iter().find(|(key, _)| text_of(key) == Some("name"));
            if let Some(name) = name.and_then(|(_, name)| text_of(name)) {
                lines.insert(format!("{section}[{name}]"), entry.span.start.line());
            }
        }
    }
    lines
}

fn text_of<'n>(node: &'n MarkedYaml<'_>) -> Option<&'n str> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_entries_have_lines() {
        let text = "# first\nworkers: 2\nroutes:\n- {name: a}\n- match: {}\n  name: b\n- c\n";
        let lines = lines(text);
        let of = |path| lines.get(path).copied();
        assert_eq!((of("workers"), of("routes")), (Some(2), Some(3)));
        assert_eq!((of("routes[a]"), of("routes[b]")), (Some(4), Some(5)));
        assert_eq!(lines.len(), 4);
        assert!(super::lines("a: [").is_empty());
    }
}
