//! Redacts prompts, and restores the values in answers.
//!
//! - *In*: a body, and its findings.
//! - *Out*: the body with `[KIND_1]` in place of each finding, and a [`Vault`] with the original
//!   values.
//! - *Never*: a change of any other byte; two placeholders for one value, because the model may
//!   have to recognize it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use arguments::{Cut, Numbers};
use wire::Framing;
use wire::json::{self, Text};
use wire::rewrite::{Edit, apply};

use crate::patterns;
use crate::report::{Found, Name};
use crate::settings::Action;
use crate::subject::Subject;

/// Text redacted from a request. It lives as long as the request and is never printed.
#[derive(Default)]
pub struct Vault {
    /// What each placeholder stands for.
    values: HashMap<String, String>,
    /// The placeholder of each kind and value.
    names: HashMap<(String, String), String>,
    /// The last number of each kind.
    numbers: HashMap<String, u32>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({} entries)", self.values.len())
    }
}

impl Vault {
    /// What a placeholder stands for.
    pub fn open(&self, placeholder: &str) -> Option<&str> {
        self.values.get(placeholder).map(String::as_str)
    }

    /// Whether no value was redacted.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The placeholder of a value: its existing one, or a new one that does not occur in the
    /// prompt.
    fn placeholder(&mut self, kind: &str, value: &str, taken: &HashSet<&str>) -> String {
        let key = (kind.to_owned(), value.to_owned());
        if let Some(known) = self.names.get(&key) {
            return known.clone();
        }
        let number = self.numbers.entry(kind.to_owned()).or_default();
        let name = loop {
            *number += 1;
            let name = format!("[{kind}_{number}]");
            if !taken.contains(name.as_str()) {
                break name;
            }
        };
        self.values.insert(name.clone(), value.to_owned());
        self.names.insert(key, name.clone());
        name
    }
}

/// The parts of a prompt that look like placeholders. The client may have written them, so a
/// redacted value must not get one of them.
fn taken(subject: &Subject) -> HashSet<&str> {
    let mut taken = HashSet::new();
    for (_, text) in subject.texts() {
        for (at, _) in text.match_indices('[') {
            let rest = text.get(at..).unwrap_or_default();
            let end = rest.bytes().take(patterns::MAX_PLACEHOLDER).position(|byte| byte == b']');
            taken.extend(end.and_then(|end| rest.get(..=end)));
        }
    }
    taken
}

/// The result of a redaction.
#[derive(Debug)]
pub enum Redacted {
    /// Nothing is to be masked.
    Nothing,
    /// The body to send instead, and the values redacted from it.
    Body(Vec<u8>, Vault),
    /// A finding cannot be masked: the body must not be sent.
    Impossible,
}

/// Redact all findings with [`Action::Mask`] in a body. `numbers`: in texts that are JSON.
pub fn redact<'f>(
    body: &[u8],
    subject: &Subject,
    numbers: Numbers,
    found: impl Iterator<Item = &'f Found>,
) -> Redacted {
    let mut spans: Vec<(usize, Range<usize>, &Name)> = found
        .filter(|found| found.action == Action::Mask)
        .map(|found| (found.text, found.span.clone(), &found.kind))
        .collect();
    if spans.is_empty() {
        return Redacted::Nothing;
    }
    spans.sort_by_key(|(text, span, _)| (*text, span.start, Reverse(span.end)));
    let mut apart: Vec<(usize, Range<usize>, &Name)> = Vec::new();
    for (text, span, kind) in spans {
        match apart.last_mut().filter(|(before, last, _)| *before == text && last.end > span.start)
        {
            Some((_, last, _)) => last.end = last.end.max(span.end),
            None => apart.push((text, span, kind)),
        }
    }
    let (mut vault, mut edits, taken) =
        (Vault::default(), Vec::with_capacity(apart.len()), taken(subject));
    for of_text in apart.chunk_by(|one, other| one.0 == other.0) {
        let at = of_text.first().map_or(0, |(at, ..)| *at);
        let (place, text) = (subject.place(at), subject.text(at));
        let Some(raw) = body.get(place.body.clone()) else { return Redacted::Impossible };
        let raw = Text::new(raw, place.escaped);
        let Some(cuts) = cuts((text, numbers), of_text, &mut vault, &taken) else {
            return Redacted::Impossible;
        };
        let written = raw.raw_ranges(cuts.iter().map(|cut| cut.span.clone()));
        edits.extend(cuts.iter().zip(written).map(|(cut, written)| Edit {
            at: place.body.start + written.start..place.body.start + written.end,
            with: json::escaped(&cut.with).into_bytes(),
        }));
    }
    apply(Framing::Json, body, &mut edits)
        .map_or(Redacted::Impossible, |body| Redacted::Body(body, vault))
}

/// The placeholders to write into a text, in its order. In a text that is JSON, such as the
/// arguments of an earlier tool call, only values are replaced. `None`: a finding cannot be masked.
fn cuts(
    (text, numbers): (&str, Numbers),
    found: &[(usize, Range<usize>, &Name)],
    vault: &mut Vault,
    taken: &HashSet<&str>,
) -> Option<Vec<Cut>> {
    if !arguments::is_json(text) {
        let cut = |(_, span, kind): &(usize, Range<usize>, &Name)| {
            let value = text.get(span.clone()).filter(|value| !value.is_empty())?;
            Some(Cut { span: span.clone(), with: vault.placeholder(kind, value, taken) })
        };
        return found.iter().map(cut).collect();
    }
    let is_sound = |(_, span, _): &(usize, Range<usize>, &Name)| {
        text.get(span.clone()).is_some_and(|value| !value.is_empty())
    };
    let spans: Vec<_> = found.iter().map(|(_, span, _)| span.clone()).collect();
    let mut replaced = vec![false; spans.len()];
    let cuts = arguments::cut_all(text, &spans, numbers, &mut |number, value, _| {
        if let Some(replaced) = replaced.get_mut(number) {
            *replaced = true;
        }
        found
            .get(number)
            .map_or_else(String::new, |(_, _, kind)| vault.placeholder(kind, value, taken))
    });
    let is_kept = |span: &Range<usize>| {
        let is_number = |text: &str| text.parse::<f64>().is_ok();
        numbers == Numbers::Kept && text.get(span.clone()).is_some_and(is_number)
    };
    let are_done = replaced.iter().zip(&spans).all(|(replaced, span)| *replaced || is_kept(span));
    (found.iter().all(is_sound) && are_done).then_some(cuts)
}

#[cfg(test)]
mod tests {
    use wire::RequestFacts;

    use super::*;
    use crate::report::Category;
    use crate::subject::{Place, Side, Sizes, TextSource};

    fn subject(body: &str) -> Subject {
        let facts = RequestFacts::scan(body.as_bytes()).unwrap();
        let mut builder = Subject::build(Side::Input, Sizes::default(), 0);
        for text in &facts.texts {
            let raw = &body.as_bytes()[text.range.clone()];
            let escaped = raw.contains(&b'\\');
            let place = Place { body: text.range.clone(), escaped };
            builder.text(
                TextSource::Prompt(text.speaker),
                place,
                &Text::new(raw, escaped).decode(),
            );
        }
        builder.done()
    }

    fn find(subject: &Subject, needle: &str, kind: &'static str) -> Vec<Found> {
        let texts = subject.texts().enumerate();
        let places = texts.flat_map(|(at, (_, text))| {
            text.match_indices(needle)
                .map(|(start, _)| (at, start..start + needle.len()))
                .collect::<Vec<_>>()
        });
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
    fn number_in_arguments_is_replaced_or_kept() {
        let arguments = r#"{\"n\":4111111111111111,\"to\":\"ann@x.org\"}"#;
        let body = format!(
            r#"{{"messages":[{{"role":"assistant","tool_calls":[{{"function":{{"arguments":"{arguments}"}}}}]}}]}}"#
        );
        let subject = subject(&body);
        let mut found = find(&subject, "4111111111111111", "CREDIT_CARD");
        found.extend(find(&subject, "ann@x.org", "EMAIL_ADDRESS"));
        assert_eq!(found.len(), 2);
        for (numbers, number) in
            [(Numbers::Replaced, r#"\"[CREDIT_CARD_1]\""#), (Numbers::Kept, "4111111111111111")]
        {
            let Redacted::Body(redacted, _) =
                redact(body.as_bytes(), &subject, numbers, found.iter())
            else {
                panic!("{numbers:?}");
            };
            let want =
                body.replace("4111111111111111", number).replace("ann@x.org", "[EMAIL_ADDRESS_1]");
            assert_eq!(String::from_utf8(redacted).unwrap(), want);
        }
    }

    #[test]
    fn same_value_has_one_placeholder_and_other_bytes_are_unchanged() {
        let body = r#"{ "model":"m",  "messages":[{"role":"user","content":"I am \u00e4 j@x.org, \"j@x.org\"; k@x.org"},{"role":"tool","content":"j@x.org"}], "x": 1.0 }"#;
        let subject = subject(body);
        let found = [
            find(&subject, "j@x.org", "EMAIL_ADDRESS"),
            find(&subject, "k@x.org", "EMAIL_ADDRESS"),
        ]
        .concat();
        let Redacted::Body(redacted, vault) =
            redact(body.as_bytes(), &subject, Numbers::Replaced, found.iter())
        else {
            panic!("a body")
        };
        let want = r#"{ "model":"m",  "messages":[{"role":"user","content":"I am \u00e4 [EMAIL_ADDRESS_1], \"[EMAIL_ADDRESS_1]\"; [EMAIL_ADDRESS_2]"},{"role":"tool","content":"[EMAIL_ADDRESS_1]"}], "x": 1.0 }"#;
        assert_eq!(String::from_utf8(redacted).unwrap(), want);
        assert_eq!(
            [
                vault.open("[EMAIL_ADDRESS_1]"),
                vault.open("[EMAIL_ADDRESS_2]"),
                vault.open("[EMAIL_ADDRESS_3]")
            ],
            [Some("j@x.org"), Some("k@x.org"), None]
        );
        assert!(!format!("{vault:?}").contains("x.org"));
    }

    #[test]
    fn overlapping_findings_merge_and_existing_placeholders_are_not_reused() {
        let body = r#"{"messages":[{"role":"user","content":"see [URL_1] or http://a.b/c@d"}]}"#;
        let subject = subject(body);
        let found = [find(&subject, "http://a.b/c", "URL"), find(&subject, "c@d", "EMAIL_ADDRESS")]
            .concat();
        let Redacted::Body(redacted, vault) =
            redact(body.as_bytes(), &subject, Numbers::Replaced, found.iter())
        else {
            panic!("a body")
        };
        assert_eq!(
            String::from_utf8(redacted).unwrap(),
            r#"{"messages":[{"role":"user","content":"see [URL_1] or [URL_2]"}]}"#
        );
        assert_eq!(vault.open("[URL_2]"), Some("http://a.b/c@d"));
        assert!(matches!(
            redact(body.as_bytes(), &subject, Numbers::Replaced, [].iter()),
            Redacted::Nothing
        ));
        let mut torn = find(&subject, "see", "X");
        torn[0].span = 0..9999;
        assert!(matches!(
            redact(body.as_bytes(), &subject, Numbers::Replaced, torn.iter()),
            Redacted::Impossible
        ));
    }

    #[test]
    fn arguments_of_an_earlier_call_stay_json() {
        let filter = crate::detect::FindPatterns::all();
        for (arguments, want, value) in [
            (
                r#"{"konto":"wirt","passwd":"mo9!Rauchquarz","tisch":4}"#,
                r#"{"konto":"wirt","passwd":"[GENERIC_SECRET_1]","tisch":4}"#,
                "mo9!Rauchquarz",
            ),
            (r#"{"karte":5500000000000004}"#, r#"{"karte":"[CREDIT_CARD_1]"}"#, "5500000000000004"),
            (
                r#"{"b":"{\"to\":\"joe\\u0040mail.example.org\"}"}"#,
                r#"{"b":"{\"to\":\"[EMAIL_ADDRESS_1]\"}"}"#,
                "joe@mail.example.org",
            ),
        ] {
            let call = serde_json::json!({"function": {"name": "f", "arguments": arguments}});
            let message = serde_json::json!({"role": "assistant", "tool_calls": [call]});
            let body = serde_json::json!({"messages": [message]}).to_string();
            let subject = subject(&body);
            let mut found = crate::filter::Filter::detect(&filter, &subject).found;
            found.iter_mut().for_each(|found| found.action = Action::Mask);
            let Redacted::Body(redacted, vault) =
                redact(body.as_bytes(), &subject, Numbers::Replaced, found.iter())
            else {
                panic!("a body")
            };
            let redacted: serde_json::Value = serde_json::from_slice(&redacted).unwrap();
            let call = &redacted["messages"][0]["tool_calls"][0]["function"];
            assert_eq!(call["arguments"], want);
            let name = &want[want.find('[').unwrap()..=want.find(']').unwrap()];
            assert_eq!(vault.open(name), Some(value));
        }
    }

    /// Twenty thousand values, and one value twenty thousand times: the work grows with the text,
    /// not with its square.
    #[test]
    fn cost_is_linear_in_the_number_of_findings() {
        let many: String = (0..20_000).map(|n| format!("u{n}@x.org \\u00e4 ")).collect();
        for text in [many, "j@x.org \\u00e4 ".repeat(20_000)] {
            let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}");
            let subject = subject(&body);
            let decoded = subject.text(0);
            let found: Vec<Found> = decoded
                .match_indices("@x.org")
                .map(|(at, _)| (decoded[..at].rfind(' ').map_or(0, |space| space + 1), at + 6))
                .map(|(start, end)| Found {
                    rule: "r".into(),
                    kind: "EMAIL_ADDRESS".into(),
                    category: Category::Pii,
                    text: 0,
                    span: start..end,
                    score: 1.0,
                    action: Action::Mask,
                })
                .collect();
            let began = std::time::Instant::now();
            let Redacted::Body(redacted, _) =
                redact(body.as_bytes(), &subject, Numbers::Replaced, found.iter())
            else {
                panic!("a body")
            };
            assert!(!String::from_utf8(redacted).unwrap().contains("@x.org"));
            assert!(
                began.elapsed() < std::time::Duration::from_secs(5),
                "quadratic work takes minutes: {:?}",
                began.elapsed()
            );
        }
    }
}
