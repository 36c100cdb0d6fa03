//! The request scanner.

use proptest::prelude::*;
use serde_json::Value;
use wire::RequestFacts;
use wire::json::Text;
use wire::request::Refused;
use wire::request::StreamOptions;

use super::config;
use super::documents::{broken, object, strings_of, value};

/// Members whose strings are no words.
const NO_WORDS: [&str; 11] = [
    "type",
    "id",
    "tool_call_id",
    "tool_use_id",
    "call_id",
    "image_url",
    "source",
    "input_audio",
    "signature",
    "encrypted_content",
    "cache_control",
];

/// Every place is one: a text lies between quotes, offsets stand behind braces.
fn sound(body: &[u8], facts: &RequestFacts) {
    for text in &facts.texts {
        assert!(!text.range.is_empty() && text.range.end < body.len());
        assert_eq!(
            (body[text.range.start - 1], body[text.range.end]),
            (b'"', b'"'),
            "{:?}",
            String::from_utf8_lossy(body)
        );
    }
    assert!(facts.texts.is_sorted_by_key(|text| text.range.start));
    assert_eq!(body[facts.members_at - 1], b'{');
    match &facts.stream_options {
        StreamOptions::Open { at, .. } => assert_eq!(body[at - 1], b'{'),
        StreamOptions::Invalid(at) => assert_ne!(body[at.start], b'{'),
        StreamOptions::Declined(at) => assert_ne!(&body[at.clone()], b"true"),
        StreamOptions::Absent | StreamOptions::Requested => {}
    }
    assert!(facts.prompt_bytes() <= body.len());
}

fn decoded(body: &[u8], facts: &RequestFacts) -> Vec<String> {
    facts
        .texts
        .iter()
        .map(|text| Text::new(&body[text.range.clone()], true).decode().into_owned())
        .collect()
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn no_bytes_bring_it_down(body in broken()) {
        if let Ok(facts) = RequestFacts::scan(&body) {
            sound(&body, &facts);
            decoded(&body, &facts);
        }
    }

    /// What is a JSON object is read, or refused for what stands twice; and what is read is what
    /// `serde_json` reads.
    #[test]
    fn facts_are_those_of_the_document(body in object()) {
        let parsed: Value = serde_json::from_str(&body).unwrap();
        let facts = match RequestFacts::scan(body.as_bytes()) {
            Ok(facts) => facts,
            Err(refused) => {
                prop_assert!(matches!(refused, Refused::Duplicate(_)), "{}: {}", body, refused);
                return Ok(());
            }
        };
        sound(body.as_bytes(), &facts);
        prop_assert_eq!(facts.model.as_deref(), parsed["model"].as_str(), "{}", body);
        // Lenient engines read numbers and words as flags, too.
        let stream = match &parsed["stream"] {
            Value::Number(_) | Value::String(_) => facts.stream,
            value => value.as_bool(),
        };
        prop_assert_eq!(facts.stream, stream, "{}", body);
        prop_assert_eq!(facts.empty, parsed.as_object().unwrap().is_empty());
    }

    /// No prompt text passes unseen, wherever it stands in a message.
    #[test]
    fn every_prompt_text_is_found(content in value(), role in value(), shape in 0..5u8) {
        let body = match shape {
            0 => format!(r#"{{"messages":[{{"role":{role},"content":{content}}}]}}"#),
            1 => format!(r#"{{"messages":[{{"content":{content},"role":{role}}}],"tools":[]}}"#),
            2 => format!(r#"{{"pro\u006dpt":{content}}}"#),
            3 => format!(r#"{{"input":[{{"role":{role},"c\u006fntent":{content}}}]}}"#),
            _ => format!(r#"{{"system":{content},"messages":[]}}"#),
        };
        let facts = RequestFacts::scan(body.as_bytes()).unwrap();
        sound(body.as_bytes(), &facts);
        let mut found = decoded(body.as_bytes(), &facts);
        let mut want = Vec::new();
        strings_of(&serde_json::from_str(&content).unwrap(), &mut want, &NO_WORDS);
        for text in want.into_iter().filter(|text| !text.is_empty()) {
            let at = found.iter().position(|one| *one == text);
            prop_assert!(at.is_some(), "{:?} in {}", text, body);
            found.swap_remove(at.unwrap());
        }
    }
}

#[test]
fn a_hundred_thousand_brackets() {
    for piece in ["[", "{\"messages\":", "{\"messages\":[", "{\"prompt\":[[", "{\"a\":["] {
        let body = piece.repeat(100_000);
        assert_eq!(
            RequestFacts::scan(body.as_bytes()).unwrap_err().code(),
            "invalid_json",
            "{piece}"
        );
        let inside = format!("{{\"messages\":[{{\"content\":{body}");
        assert_eq!(
            RequestFacts::scan(inside.as_bytes()).unwrap_err().code(),
            "invalid_json",
            "{piece}"
        );
    }
}

#[test]
fn large_bodies_are_read_whole() {
    let text = "\\ud83d\\ude00 and words ".repeat(400_000);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let facts = RequestFacts::scan(body.as_bytes()).unwrap();
    assert_eq!(facts.prompt_bytes(), text.len());
    let many = format!(r#"{{"prompt":[{}"a"]}}"#, "\"a\",".repeat(1_000_000));
    assert_eq!(RequestFacts::scan(many.as_bytes()).unwrap().texts.len(), 1_000_001);
}
