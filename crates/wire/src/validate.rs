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
#[error("{param:?} must be {wanted}{instead}")]
pub struct Invalid {
    /// Name of the member.
    pub param: &'static str,
    /// The expected type and range.
    pub wanted: &'static str,
    /// The type found instead. The value itself is not included.
    pub instead: &'static str,
}

/// Expected type and range of a member.
#[derive(Clone, Copy)]
enum Wanted {
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
const MEMBERS: &[(&str, Wanted)] = &[
    ("model", Wanted::Text),
    ("messages", Wanted::Filled),
    ("stream", Wanted::Flag),
    ("max_tokens", Wanted::Whole(1, i64::MAX)),
    ("max_completion_tokens", Wanted::Whole(1, i64::MAX)),
    ("max_output_tokens", Wanted::Whole(1, i64::MAX)),
    ("temperature", Wanted::Number(0.0, 2.0)),
    ("top_p", Wanted::Number(0.0, 1.0)),
    ("n", Wanted::Whole(1, 128)),
    ("presence_penalty", Wanted::Number(-2.0, 2.0)),
    ("frequency_penalty", Wanted::Number(-2.0, 2.0)),
    ("seed", Wanted::Whole(i64::MIN, i64::MAX)),
    ("logprobs", Wanted::FlagOrWhole),
    ("top_logprobs", Wanted::Whole(0, 20)),
    ("stop", Wanted::TextOrList),
    ("tools", Wanted::List),
    ("tool_choice", Wanted::TextOrObject),
    ("response_format", Wanted::Object),
    ("stream_options", Wanted::Object),
    ("logit_bias", Wanted::Object),
    ("user", Wanted::Text),
    ("metadata", Wanted::Object),
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
        let Some((name, wanted)) = needed.or(known).copied() else { return v.skip() };
        if v.peek() != Some(b'n') {
            seen.push(name);
        }
        let found = look(wanted, v)?;
        if wrong.is_none() {
            wrong =
                found.map(|instead| Invalid { param: name, wanted: wanted.describe(), instead });
        }
        Ok(())
    });
    let missing = || required.iter().find(|(name, _)| !seen.contains(name));
    match (wrong, missing()) {
        (Some(wrong), _) => Err(wrong),
        (None, Some((param, wanted))) => {
            Err(Invalid { param, wanted: wanted.describe(), instead: ", but is missing" })
        }
        (None, None) => Ok(()),
    }
}

fn required(dialect: Dialect) -> &'static [(&'static str, Wanted)] {
    match dialect {
        Dialect::OpenAiChat => &[("model", Wanted::Text), ("messages", Wanted::Filled)],
        Dialect::Anthropic => &[
            ("model", Wanted::Text),
            ("messages", Wanted::Filled),
            ("max_tokens", Wanted::Whole(1, i64::MAX)),
        ],
        Dialect::OpenAiCompletions => &[("model", Wanted::Text), ("prompt", Wanted::TextOrList)],
        Dialect::OpenAiResponses | Dialect::Embeddings => {
            &[("model", Wanted::Text), ("input", Wanted::TextOrList)]
        }
        Dialect::Ollama => &[("model", Wanted::Text)],
        Dialect::Generate | Dialect::LlamaCpp => &[],
    }
}

/// Check a value. Returns a description of what was found instead, if it does not fit.
fn look(wanted: Wanted, v: &mut Scan<'_>) -> Result<Option<&'static str>, Malformed> {
    let kind = v.peek().unwrap_or_default();
    if kind == b'n' {
        return v.skip().map(|()| None);
    }
    let (text, list, object, flag) =
        (kind == b'"', kind == b'[', kind == b'{', matches!(kind, b't' | b'f'));
    let fits = match wanted {
        Wanted::Text => text,
        Wanted::Flag => flag,
        Wanted::List => list,
        Wanted::Object => object,
        Wanted::TextOrList => text || list,
        Wanted::TextOrObject => text || object,
        Wanted::FlagOrWhole if flag => true,
        Wanted::Filled if list => {
            let mut filled = false;
            v.array(|_, v| {
                filled = true;
                v.skip()
            })?;
            return Ok((!filled).then_some(", but is empty"));
        }
        Wanted::Filled => false,
        Wanted::FlagOrWhole | Wanted::Whole(..) | Wanted::Number(..) => {
            let number = v.verbatim()?.raw();
            let number = std::str::from_utf8(number)
                .ok()
                .filter(|_| matches!(kind, b'-' | b'0'..=b'9'))
                .and_then(|text| text.parse::<f64>().ok());
            return Ok(match number {
                None => Some(name_of(kind)),
                Some(number) => (!wanted.holds(number)).then_some(""),
            });
        }
    };
    v.skip()?;
    Ok((!fits).then(|| name_of(kind)))
}

fn name_of(kind: u8) -> &'static str {
    match kind {
        b'"' => ", not a string",
        b'[' => ", not an array",
        b'{' => ", not an object",
        b't' | b'f' => ", not true or false",
        _ => ", not a number",
    }
}

impl Wanted {
    fn holds(self, number: f64) -> bool {
        match self {
            Wanted::Whole(least, most) => {
                number.fract() == 0.0 && (least as f64..=most as f64).contains(&number)
            }
            Wanted::Number(least, most) => (least..=most).contains(&number),
            Wanted::FlagOrWhole => number.fract() == 0.0 && number >= 0.0,
            _ => false,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Wanted::Text => "a string",
            Wanted::Flag => "true or false",
            Wanted::Whole(1, 128) => "an integer from 1 to 128",
            Wanted::Whole(1, _) => "an integer of at least 1",
            Wanted::Whole(0, 20) => "an integer from 0 to 20",
            Wanted::Whole(..) => "an integer",
            Wanted::Number(0.0, 1.0) => "a number from 0 to 1",
            Wanted::Number(0.0, _) => "a number from 0 to 2",
            Wanted::Number(..) => "a number from -2 to 2",
            Wanted::List => "an array",
            Wanted::Object => "an object",
            Wanted::Filled => "a non-empty array",
            Wanted::TextOrList => "a string or an array",
            Wanted::TextOrObject => "a string or an object",
            Wanted::FlagOrWhole => "true, false or an integer",
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
