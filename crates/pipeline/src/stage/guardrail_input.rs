//! Stage 6: the guardrail checks the prompt.
//!
//! All texts of the request are checked, of any role: system and user, earlier answers, tool
//! results, tool definitions. Where findings change or refuse a request, `inspect` refuses bodies
//! that cannot be parsed.
//!
//! - *In*: the body, and the filters of the route.
//! - *Out*: the body, redacted if needed; or a refusal.
//! - *Never*: the text of a finding in an error, a log or a record.

use std::sync::Arc;

use filters::{
    Assessment, Category, Failure, Guardrail, Hooks, Place, Redacted, RequestHead, Side, Sizes,
    Subject, TextSource, Verdict,
};
use http1::head::{Head, RequestLine};
use http1::path::decode;
use lens::State;
use relay::Note;
use wire::RequestFacts;
use wire::json::{Text, nesting};

use crate::exchange::Exchange;
use crate::stage::accept;
use crate::stage::audit;
use crate::stage::contents;
use crate::stage::endpoint::{self, Endpoint};
use refusal::Refusal;

/// Maximum texts of a request with a guardrail: enough for thousands of turns, and a bound on the
/// cost of many empty texts.
const MAX_TEXTS: usize = 16 << 10;
/// Maximum choices of an answer with a guardrail: each has its own texts.
const MAX_CHOICES: u64 = 64;

/// Check the head, with the filters that check heads.
pub fn check_head(
    exchange: &mut Exchange,
    head: &Head<'_, RequestLine<'_>>,
) -> Result<(), Refusal> {
    let Some(guardrail) = exchange.guardrail() else { return Ok(()) };
    if !guardrail.chain().has(Hooks::CHECK_HEAD) {
        return Ok(());
    }
    exchange.enter(State::GuardrailInput);
    let fields: Vec<(&str, &[u8])> =
        head.fields.iter().map(|field| (field.name, field.value)).collect();
    let head = RequestHead {
        method: head.line.method,
        path: accept::path(head.line.target),
        fields: &fields,
    };
    let looked = guardrail.chain().check_head(&head).map_err(Refusal::by_filter);
    exchange.enter(State::Gateway);
    looked
}

/// Refuse a pass-through request if the guardrail acts on content, unless its path is exempt. Reads
/// of public facts pass, but a GET, HEAD or OPTIONS with a body does not: the body is a way around
/// the guardrail.
pub fn must_not_pass_unread(
    exchange: &Exchange,
    head: &Head<'_, RequestLine<'_>>,
    has_body: bool,
) -> Result<(), Refusal> {
    let Some(guardrail) = exchange.guardrail().filter(|guardrail| acts(guardrail)) else {
        return Ok(());
    };
    let (method, path) = (head.line.method, &*decode(accept::path(head.line.target)));
    let is_read_with_body = has_body && method != "POST";
    if (endpoint::classify(method, path) == Endpoint::ReadOnly && !is_read_with_body)
        || endpoint::is_exempt(&guardrail.settings, path)
    {
        return Ok(());
    }
    let message = "The guardrail cannot read this API. Use a supported one, or ask the operator to \
    add the path to the guardrail's `passthrough`.";
    Err(Refusal::blocked(403, "guardrail_unreadable_endpoint", message))
}

/// Whether a guardrail acts on prompts or answers, so that nothing may pass unread.
pub fn acts(guardrail: &Guardrail) -> bool {
    guardrail.alters_answers() || guardrail.settings.acts_on_input()
}

/// Check the prompt, if the route has a guardrail. Returns the redacted body, if any.
///
/// # Cancel safety
/// Dropping the future cancels the calls to judges.
pub async fn check_prompt(
    exchange: &mut Exchange,
    body: &[u8],
) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(guardrail) = exchange.guardrail() else { return Ok(None) };
    if let Some(facts) = &exchange.inspected.facts {
        readable(facts, &guardrail)?;
    }
    if !guardrail.chain().has(Hooks::DETECT) && !guardrail.chain().has(Hooks::JUDGE_PROMPT) {
        return Ok(None);
    }
    let subject = Arc::new(subject(exchange.inspected.facts.as_ref(), &guardrail, body));
    let host = exchange.plan.host.clone();
    let assessment = guardrail.chain().prompt(&subject, &*host).await;
    contents::draft_prompt(exchange, &guardrail, &subject, &assessment);
    let verdict = assessment.verdict.clone();
    let redacted = match verdict {
        Verdict::Mask => {
            let found = assessment.found.iter().map(|(_, found)| found);
            filters::redact(body, &subject, guardrail.settings.numbers(), found)
        }
        _ => Redacted::Nothing,
    };
    let category = |kind: &str| {
        let mut found = assessment.found.iter().map(|(_, found)| found);
        found.find(|found| found.kind == kind).map(|found| found.category)
    };
    let blocked = match &verdict {
        Verdict::Block { kind } => complaint(category(kind), kind),
        _ => String::new(),
    };
    note(exchange, &subject, assessment);
    match verdict {
        Verdict::Pass => Ok(None),
        Verdict::Block { .. } => Err(refusal(&guardrail, &blocked)),
        Verdict::Failed { failure: Failure::TooLong, filter } => {
            Err(Refusal::prompt_too_long_to_check(&filter))
        }
        Verdict::Failed { filter, failure } => {
            Err(Refusal::guardrail_unavailable(&filter, failure))
        }
        Verdict::Mask => match redacted {
            Redacted::Body(body, vault) => {
                // Redaction moved the offsets in the body. The model may be that of the path.
                let mut facts =
                    RequestFacts::scan(&body).map_err(|refused| Refusal::bad_body(&refused))?;
                facts.model = exchange.inspected.facts.take().and_then(|facts| facts.model);
                exchange.inspected.facts = Some(facts);
                exchange.guarded.vault = Some(Arc::new(vault));
                Ok(Some(body))
            }
            Redacted::Nothing => Ok(None),
            Redacted::Impossible => Err(refusal(&guardrail, "it cannot be redacted")),
        },
    }
}

/// Refuse prompts that the guardrail cannot check, or not within its bounds.
fn readable(facts: &RequestFacts, guardrail: &Guardrail) -> Result<(), Refusal> {
    if guardrail.settings.acts_on_input() && facts.tokens {
        let message = "The guardrail checks text. Send the prompt as text, not as token ids or \
        embeddings.";
        return Err(Refusal::blocked(400, "guardrail_unreadable_prompt", message));
    }
    if facts.texts.len() > MAX_TEXTS {
        return Err(Refusal::blocked(
            413,
            "too_many_texts",
            format!("The guardrail checks at most {MAX_TEXTS} texts in a request."),
        ));
    }
    if guardrail.alters_answers() && facts.n.is_some_and(|n| n > MAX_CHOICES) {
        return Err(Refusal::blocked(
            400,
            "too_many_choices",
            format!("The guardrail checks at most {MAX_CHOICES} choices of an answer."),
        ));
    }
    Ok(())
}

/// The texts of the request.
fn subject(facts: Option<&RequestFacts>, guardrail: &Guardrail, body: &[u8]) -> Subject {
    let nothing = RequestFacts::default();
    let facts = facts.unwrap_or(&nothing);
    let sizes = Sizes {
        messages: facts.messages as u64,
        tools: facts.tools,
        nesting: if guardrail.settings.sizes.nesting > 0 { nesting(body) } else { 0 },
        output_tokens: facts.max_tokens,
    };
    let mut builder = Subject::build(Side::Input, sizes, facts.prompt_bytes());
    for text in &facts.texts {
        let raw = body.get(text.range.clone()).unwrap_or_default();
        let escaped = memchr::memchr(b'\\', raw).is_some();
        let place = Place { body: text.range.clone(), escaped };
        builder.text(TextSource::Prompt(text.speaker), place, &Text::new(raw, escaped).decode());
    }
    builder.done()
}

/// Keep the result for the record, and write the audit log.
fn note(exchange: &mut Exchange, subject: &Subject, assessment: Assessment) {
    let Assessment { word, found, risk, level, accounts, judged, .. } = assessment;
    for (_, found) in &found {
        *exchange.guarded.input.entry(found.rule.clone()).or_default() += 1;
    }
    if let (Some(audit), false) = (&exchange.shared.audit, found.is_empty()) {
        let hash = |found: &filters::Found| {
            let text = subject.text(found.text);
            text.get(found.span.clone())
                .filter(|matched| !matched.is_empty() && matched.len() < text.len())
                .map(|matched| audit.hasher.hash(matched))
        };
        let note = |(filter, found)| Note {
            side: Side::Input,
            hash: hash(&found),
            filter,
            found,
            channel: None,
        };
        let notes: Vec<Note> = found.into_iter().map(note).collect();
        audit::write_findings(exchange, &notes);
    }
    let guarded = &mut exchange.guarded;
    (guarded.word, guarded.risk, guarded.level) = (word, risk.value(), level.name());
    guarded.accounts = accounts;
    guarded.judged = judged;
}

/// The client gets the kind of the finding, never the text.
fn refusal(guardrail: &Guardrail, complaint: &str) -> Refusal {
    let name = &guardrail.settings.name;
    Refusal::blocked(
        400,
        "content_blocked",
        format!("The guardrail {name:?} refused this prompt: {complaint}."),
    )
}

/// What is wrong with a prompt, by the finding that blocks it; without one, its risk is too high.
fn complaint(category: Option<Category>, kind: &str) -> String {
    let what = category.map_or("its risk is too high", Category::complaint);
    format!("{what} ({kind})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_a_prompt_looks_like() {
        for (category, kind, want) in [
            (
                Some(Category::Injection),
                "PROMPT_INJECTION",
                "it looks like an attempt to override instructions (PROMPT_INJECTION)",
            ),
            (Some(Category::Pii), "EMAIL_ADDRESS", "it contains personal data (EMAIL_ADDRESS)"),
            (None, "HIGH_RISK", "its risk is too high (HIGH_RISK)"),
        ] {
            assert_eq!(complaint(category, kind), want);
        }
    }
}
