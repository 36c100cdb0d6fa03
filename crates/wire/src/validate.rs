//! Strict validation of requests: rejects errors that an engine would reject late or ignore.
//!
//! - *In*: a body that [`RequestFacts::scan`](crate::RequestFacts::scan) accepted, and its dialect.
//! - *Out*: the first member with a wrong type or value, and the expected one.
//! - *Never*: a check of unknown members: engines have their own.
//!
//! Types and ranges follow the API references (OpenAI's chat, completions, embeddings and
//! Responses, Anthropic's messages).

use crate::dialect::Dialect;
use crate::json::{Malformed, Scan};

/// An invalid member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param:?} must be {wanted}{actual}")]
pub struct Invalid {
    /// Name of the member.
    pub param: &'static str,
    /// The expected type and range.
    pub wanted: &'static str,
    /// The type found actual. The value itself is not included.
    pub actual: &'static str,
}

/// Expected type and range of a member.
#[derive(Clone, Copy)]
enum Expected {
    Text,
    Flag,
    /// An integer in a range.
    Whole(i64, i64),
    /// A number in a range.
    Number(f64, f64),
    List,
    Object,
    /// A non-empty list.
    Filled,
    TextOrList,
    TextOrObject,
    FlagOrWhole,
}

/// Members with the same meaning in every dialect that has them. `null` counts as absent.
const MEMBERS: &[(&str, Expected)] = &[
    ("model", Expected::Text),
    ("messages", Expected::Filled),
    ("stream", Expected::Flag),
    ("max_tokens", Expected::Whole(1, i64::MAX)),
    ("max_completion_tokens", Expected::Whole(1, i64::MAX)),
    ("max_output_tokens", Expected::Whole(1, i64::MAX)),
    ("temperature", Expected::Number(0.0, 2.0)),
    ("top_p", Expected::Number(0.0, 1.0)),
    ("n", Expected::Whole(1, 128)),
    ("presence_penalty", Expected::Number(-2.0, 2.0)),
    ("frequency_penalty", Expected::Number(-2.0, 2.0)),
    ("seed", Expected::Whole(i64::MIN, i64::MAX)),
    ("logprobs", Expected::FlagOrWhole),
    ("top_logprobs", Expected::Whole(0, 20)),
    ("stop", Expected::TextOrList),
    ("tools", Expected::List),
    ("tool_choice", Expected::TextOrObject),
    ("response_format", Expected::Object),
    ("stream_options", Expected::Object),
    ("logit_bias", Expected::Object),
    ("user", Expected::Text),
    ("metadata", Expected::Object),
];

/// Check a body.
///
/// # Errors
/// The first invalid member, or a missing required one.
pub fn check(dialect: Dialect, body: &[u8]) -> Result<(), Invalid> {
    let mut wrong = None;
    let mut seen: Vec<&'static str> = Vec::new();
    let required = required(dialect);
    // The body has been scanned before, so it is valid JSON.
    let _ = Scan::new(body).object(|key, v| {
        let known = MEMBERS.iter().find(|(name, _)| name.as_bytes() == key);
        let needed = required.iter().find(|(name, _)| name.as_bytes() == key);
        let Some((name, wanted)) = needed.or(known).copied() else {
            let mut names = required.iter().chain(MEMBERS);
            if let Some((name, _)) = names.find(|(name, _)| differs_in_case(name, key)) {
                let wanted = "written in lower case";
                wrong.get_or_insert(Invalid { param: name, wanted, actual: "" });
            }
            return v.skip();
        };
        if v.peek() != Some(b'n') {
            seen.push(name);
        }
        let found = check_value(wanted, v)?;
        if wrong.is_none() {
            wrong = found.map(|actual| Invalid { param: name, wanted: wanted.describe(), actual });
        }
        Ok(())
    });
    let missing = || required.iter().find(|(name, _)| !seen.contains(name));
    match (wrong, missing()) {
        (Some(wrong), _) => Err(wrong),
        (None, Some((param, wanted))) => {
            Err(Invalid { param, wanted: wanted.describe(), actual: ", but is missing" })
        }
        (None, None) => Ok(()),
    }
}

/// Whether a key is a member's name in another case. Some engines, such as those written in Go,
/// read it like the member; these also fold the long s and the Kelvin sign.
fn differs_in_case(name: &str, key: &[u8]) -> bool {
    let Ok(key) = std::str::from_utf8(key) else { return false };
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    key != name && folded.eq(name.chars())
}

fn required(dialect: Dialect) -> &'static [(&'static str, Expected)] {
    match dialect {
        Dialect::OpenAiChat => &[("model", Expected::Text), ("messages", Expected::Filled)],
        Dialect::Anthropic => &[
            ("model", Expected::Text),
            ("messages", Expected::Filled),
            ("max_tokens", Expected::Whole(1, i64::MAX)),
        ],
        Dialect::OpenAiCompletions => {
            &[("model", Expected::Text), ("prompt", Expected::TextOrList)]
        }
        Dialect::OpenAiResponses | Dialect::Embeddings => {
            &[("model", Expected::Text), ("input", Expected::TextOrList)]
        }
        Dialect::Ollama => &[("model", Expected::Text)],
        Dialect::Generate | Dialect::LlamaCpp => &[],
    }
}

/// Check a value. Returns a description of what was found actual, if it does not fit.
fn check_value(wanted: Expected, v: &mut Scan<'_>) -> Result<Option<&'static str>, Malformed> {
    let kind = v.peek().unwrap_or_default();
    if kind == b'n' {
        return v.skip().map(|()| None);
    }
    let (text, list, object, flag) =
        (kind == b'"', kind == b'[', kind == b'{', matches!(kind, b't' | b'f'));
    let fits = match wanted {
        Expected::Text => text,
        Expected::Flag => flag,
        Expected::List => list,
        Expected::Object => object,
        Expected::TextOrList => text || list,
        Expected::TextOrObject => text || object,
        Expected::FlagOrWhole if flag => true,
        Expected::Filled if list => {
            let mut filled = false;
            v.array(|_, v| {
                filled = true;
                v.skip()
            })?;
            return Ok((!filled).then_some(", but is empty"));
        }
        Expected::Filled => false,
        Expected::FlagOrWhole | Expected::Whole(..) | Expected::Number(..) => {
            let number = v.verbatim()?.raw();
            let number = std::str::from_utf8(number)
                .ok()
                .filter(|_| matches!(kind, b'-' | b'0'..=b'9'))
                .and_then(|text| text.parse::<f64>().ok());
            return Ok(match number {
                None => Some(describe_actual(kind)),
                Some(number) => (!wanted.holds(number)).then_some(""),
            });
        }
    };
    v.skip()?;
    Ok((!fits).then(|| describe_actual(kind)))
}

fn describe_actual(kind: u8) -> &'static str {
    match kind {
        b'"' => ", not a string",
        b'[' => ", not an array",
        b'{' => ", not an object",
        b't' | b'f' => ", not true or false",
        _ => ", not a number",
    }
}

impl Expected {
    fn holds(self, number: f64) -> bool {
        match self {
            Expected::Whole(least, most) => {
                number.fract() == 0.0 && (least as f64..=most as f64).contains(&number)
            }
            Expected::Number(least, most) => (least..=most).contains(&number),
            Expected::FlagOrWhole => number.fract() == 0.0 && number >= 0.0,
            _ => false,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Expected::Text => "a string",
            Expected::Flag => "true or false",
            Expected::Whole(1, 128) => "an integer from 1 to 128",
            Expected::Whole(1, _) => "an integer of at least 1",
            Expected::Whole(0, 20) => "an integer from 0 to 20",
            Expected::Whole(..) => "an integer",
            Expected::Number(0.0, 1.0) => "a number from 0 to 1",
            Expected::Number(0.0, _) => "a number from 0 to 2",
            Expected::Number(..) => "a number from -2 to 2",
            Expected::List => "an array",
            Expected::Object => "an object",
            Expected::Filled => "a non-empty array",
            Expected::TextOrList => "a string or an array",
            Expected::TextOrObject => "a string or an object",
            Expected::FlagOrWhole => "true, false or an integer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_requests_pass_with_whatever_engines_know_besides() {
        for (dialect, body) in [
            (
                Dialect::OpenAiChat,
                r#"{"model":"m","messages":[{"role":"user"}],"temperature":0.7,"n":2,"stop":["a"],"logprobs":true,"top_k":"any","seed":-5,"max_tokens":null,"tool_choice":"auto"}"#,
            ),
            (Dialect::OpenAiCompletions, r#"{"prompt":[1,2],"model":"m","logprobs":3}"#),
            (Dialect::OpenAiResponses, r#"{"input":"x","model":"m","max_output_tokens":9}"#),
            (
                Dialect::Anthropic,
                r#"{"model":"m","messages":[1],"max_tokens":1,"tool_choice":{"type":"auto"}}"#,
            ),
            (Dialect::Generate, r#"{"inputs":"x","parameters":{"max_new_tokens":3}}"#),
        ] {
            assert_eq!(check(dialect, body.as_bytes()), Ok(()), "{body}");
        }
    }

    #[test]
    fn wrong_ones_are_told_with_the_member() {
        for (body, want) in [
            (r#"{"messages":[1]}"#, "\"model\" must be a string, but is missing"),
            (r#"{"model":null,"messages":[1]}"#, "\"model\" must be a string, but is missing"),
            (r#"{"model":7,"messages":[1]}"#, "\"model\" must be a string, not a number"),
            (
                r#"{"model":"m","messages":[]}"#,
                "\"messages\" must be a non-empty array, but is empty",
            ),
            (
                r#"{"model":"m","messages":"hi"}"#,
                "\"messages\" must be a non-empty array, not a string",
            ),
            (
                r#"{"model":"m","messages":[1],"temperature":"hot"}"#,
                "\"temperature\" must be a number from 0 to 2, not a string",
            ),
            (
                r#"{"model":"m","messages":[1],"temperature":3}"#,
                "\"temperature\" must be a number from 0 to 2",
            ),
            (r#"{"model":"m","messages":[1],"n":0}"#, "\"n\" must be an integer from 1 to 128"),
            (
                r#"{"model":"m","messages":[1],"max_tokens":1.5}"#,
                "\"max_tokens\" must be an integer of at least 1",
            ),
            (
                r#"{"model":"m","messages":[1],"stream":"yes"}"#,
                "\"stream\" must be true or false, not a string",
            ),
            (
                r#"{"model":"m","messages":[1],"stream":1}"#,
                "\"stream\" must be true or false, not a number",
            ),
            (
                r#"{"model":"m","messages":[1],"Stream":true}"#,
                "\"stream\" must be written in lower case",
            ),
            (
                r#"{"model":"m","messages":[1],"\u017ftream":true}"#,
                "\"stream\" must be written in lower case",
            ),
            (
                r#"{"model":"m","messages":[1],"MESSAGES":[2]}"#,
                "\"messages\" must be written in lower case",
            ),
            (
                r#"{"model":"m","messages":[1],"tools":{}}"#,
                "\"tools\" must be an array, not an object",
            ),
        ] {
            assert_eq!(
                check(Dialect::OpenAiChat, body.as_bytes()).unwrap_err().to_string(),
                want,
                "{body}"
            );
        }
    }
}
