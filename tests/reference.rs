//! The reference of all settings as Markdown, made from the table: `docs/configuration.md`.

use config::schema::{Field, KEY, Kind, ROOT, Section};

/// A table for each section, with key, type, default and meaning.
pub fn reference() -> String {
    let mut out = String::new();
    section(&mut out, "The settings file", "", &ROOT);
    section(&mut out, "The key file: `keys[]`", "keys[]", &KEY);
    out
}

fn section(out: &mut String, title: &str, path: &str, section: &Section) {
    out.push_str(&format!(
        "## {title}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
        section.doc
    ));
    for Field { name, kind, default, doc, .. } in section.fields {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        out.push_str(&format!(
            "| `{name}` | {} | {default} | {} |\n",
            type_of(kind),
            doc.replace('|', "\\|")
        ));
    }
    out.push('\n');
    for field in section.fields {
        let inner = match field.kind {
            Kind::Section(inner) => (inner, ""),
            Kind::List(inner) => (inner, "[]"),
            _ => continue,
        };
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}{}", field.name, inner.1);
        self::section(out, &format!("`{path}`"), &path, inner.0);
    }
}

fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::RequiredText => "text, required".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Count(min, max) => format!("whole number, {min} to {max}"),
        Kind::Share => "number, 0 to 1".to_owned(),
        Kind::Number => "number".to_owned(),
        Kind::Duration => "duration".to_owned(),
        Kind::DurationOrAuto => "duration or `auto`".to_owned(),
        Kind::Size => "size".to_owned(),
        Kind::Secret => "secret".to_owned(),
        Kind::Word(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Texts => "list of texts".to_owned(),
        Kind::TextMap => "map of texts".to_owned(),
        Kind::Section(_) => "section".to_owned(),
        Kind::List(_) => "list of sections".to_owned(),
    }
}
