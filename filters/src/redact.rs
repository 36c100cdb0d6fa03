//! Taking things out of a prompt, and putting them back into its answer.
//!
//! - *In*: a body, what was found in it.
//! - *Out*: the body with `[KIND_1]` in the place of each finding, and a [`Vault`] that remembers what stood there.
//! - *Never*: a byte of the body changed besides; the same value under two names, because the model may have to see that it is the same.

use std::ops::Range;

use wire::Framing;
use wire::json::Text;
use wire::rewrite::{Edit, apply};

use crate::report::{Found, Name};
use crate::settings::Action;
use crate::subject::Subject;

/// What was taken out of one request. It is kept for as long as the request lives and printed by nobody.
#[derive(Default)]
pub struct Vault {
    /// Placeholder and what it stands for.
    entries: Vec<(String, String)>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({} entries)", self.entries.len())
    }
}

impl Vault {
    /// What a placeholder stands for.
    pub fn open(&self, placeholder: &str) -> Option<&str> {
        self.entries.iter().find(|(known, _)| known == placeholder).map(|(_, value)| value.as_str())
    }

    /// Whether nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The placeholder of a value: the one it has, or a new one that stands nowhere in the prompt yet.
    fn placeholder(&mut self, kind: &str, value: &str, subject: &Subject) -> String {
        let of_kind = |placeholder: &str| {
            placeholder.strip_prefix('[').and_then(|rest| rest.strip_prefix(kind)).is_some_and(|rest| rest.starts_with('_'))
        };
        if let Some((known, _)) = self.entries.iter().find(|(known, entry)| entry == value && of_kind(known)) {
            return known.clone();
        }
        let taken =
            |name: &String| self.entries.iter().any(|(known, _)| known == name) || subject.texts().any(|(_, text)| text.contains(name));
        let name = (1..).map(|number| format!("[{kind}_{number}]")).find(|name| !taken(name)).unwrap_or_default();
        self.entries.push((name.clone(), value.to_owned()));
        name
    }
}

/// The body without what is to be masked; `None`, when nothing is.
pub fn redact<'f>(body: &[u8], subject: &Subject, found: impl Iterator<Item = &'f Found>) -> Option<(Vec<u8>, Vault)> {
    let mut spans: Vec<(usize, Range<usize>, &Name)> = found
        .filter(|found| found.action == Action::Mask && !found.span.is_empty())
        .map(|found| (found.text, found.span.clone(), &found.kind))
        .collect();
    if spans.is_empty() {
        return None;
    }
    spans.sort_by_key(|(text, span, _)| (*text, span.start, std::cmp::Reverse(span.end)));
    let mut apart: Vec<(usize, Range<usize>, &Name)> = Vec::new();
    for (text, span, kind) in spans {
        match apart.last_mut().filter(|(before, last, _)| *before == text && last.end > span.start) {
            Some((_, last, _)) => last.end = last.end.max(span.end),
            None => apart.push((text, span, kind)),
        }
    }
    let mut vault = Vault::default();
    let mut edits: Vec<Edit> = Vec::new();
    for (at, span, kind) in apart {
        let place = subject.place(at);
        let (Some(raw), Some(value)) = (body.get(place.body.clone()), subject.text(at).get(span.clone())) else { continue };
        let written = Text::of(raw, place.escaped).raw_range(span);
        let placeholder = vault.placeholder(kind, value, subject);
        edits.push(Edit { at: place.body.start + written.start..place.body.start + written.end, with: placeholder.into_bytes() });
    }
    Some((apply(Framing::Json, body, &mut edits), vault))
}

#[cfg(test)]
mod tests {
    use wire::RequestFacts;

    use super::*;
    use crate::report::Category;
    use crate::subject::{Place, Side, Sizes, Voice};

    fn subject(body: &str) -> Subject {
        let facts = RequestFacts::scan(body.as_bytes()).unwrap();
        let mut builder = Subject::build(Side::Input, Sizes::default(), 0);
        for text in &facts.texts {
            let raw = &body.as_bytes()[text.range.clone()];
            let escaped = raw.contains(&b'\\');
            let place = Place { body: text.range.clone(), escaped };
            builder.text(Voice::Prompt(text.speaker), place, &Text::of(raw, escaped).decode());
        }
        builder.done()
    }

    fn find(subject: &Subject, needle: &str, kind: &'static str) -> Vec<Found> {
        let texts = subject.texts().enumerate();
        let places = texts
            .flat_map(|(at, (_, text))| text.match_indices(needle).map(|(start, _)| (at, start..start + needle.len())).collect::<Vec<_>>());
        places
            .map(|(text, span)| Found {
                rule: "r".into(),
                kind: kind.into(),
                category: Category::Pii,
                text,
                span,
                score: 1.0,
                action: Action::Mask,
            })
            .collect()
    }

    #[test]
    fn one_value_has_one_name_and_all_else_stays() {
        let body = r#"{ "model":"m",  "messages":[{"role":"user","content":"I am \u00e4 j@x.org, \"j@x.org\"; k@x.org"},{"role":"tool","content":"j@x.org"}], "x": 1.0 }"#;
        let subject = subject(body);
        let found = [find(&subject, "j@x.org", "EMAIL_ADDRESS"), find(&subject, "k@x.org", "EMAIL_ADDRESS")].concat();
        let (redacted, vault) = redact(body.as_bytes(), &subject, found.iter()).unwrap();
        let want = r#"{ "model":"m",  "messages":[{"role":"user","content":"I am \u00e4 [EMAIL_ADDRESS_1], \"[EMAIL_ADDRESS_1]\"; [EMAIL_ADDRESS_2]"},{"role":"tool","content":"[EMAIL_ADDRESS_1]"}], "x": 1.0 }"#;
        assert_eq!(String::from_utf8(redacted).unwrap(), want);
        assert_eq!(
            [vault.open("[EMAIL_ADDRESS_1]"), vault.open("[EMAIL_ADDRESS_2]"), vault.open("[EMAIL_ADDRESS_3]")],
            [Some("j@x.org"), Some("k@x.org"), None]
        );
        assert!(!format!("{vault:?}").contains("x.org"));
    }

    #[test]
    fn findings_that_overlap_are_one_and_names_that_stand_there_are_not_taken() {
        let body = r#"{"messages":[{"role":"user","content":"see [URL_1] or http://a.b/c@d"}]}"#;
        let subject = subject(body);
        let found = [find(&subject, "http://a.b/c", "URL"), find(&subject, "c@d", "EMAIL_ADDRESS")].concat();
        let (redacted, vault) = redact(body.as_bytes(), &subject, found.iter()).unwrap();
        assert_eq!(String::from_utf8(redacted).unwrap(), r#"{"messages":[{"role":"user","content":"see [URL_1] or [URL_2]"}]}"#);
        assert_eq!(vault.open("[URL_2]"), Some("http://a.b/c@d"));
        assert!(redact(body.as_bytes(), &subject, [].iter()).is_none());
    }
}
