//! Stored contents: prompt and answer of a request, on routes that store them.
//!
//! - *In*: the texts of the prompt, and all findings in them, whatever their action.
//! - *Out*: a draft, to which the relay adds the answer; the recorder stores it when the request
//!   has ended.
//! - *Never*: a prompt that not every filter has checked: its findings are not known.

use contents::{Draft, Request, Span};
use filters::{Assessment, Category, Guardrail, Hooks, Subject, TextSource};
use lens::record::Outcome;
use wire::request::PromptRole;

use crate::exchange::Exchange;
use plan::clock;

/// A draft, if the route stores contents. The recorder counts requests that it has no memory for.
fn draft(exchange: &Exchange) -> Option<Box<Draft>> {
    let stores = exchange.routed.as_ref().is_some_and(|routed| routed.route.route.store_contents);
    // Before a restart, a route may store contents that the process has no folder for.
    if stores { exchange.shared.contents.as_ref()?.draft() } else { None }
}

/// Draft the prompt of a request that was checked.
pub fn draft_prompt(
    exchange: &mut Exchange,
    guardrail: &Guardrail,
    subject: &Subject,
    assessment: &Assessment,
) {
    let Some(mut draft) = draft(exchange) else { return };
    let has_tokens = exchange.inspected.facts.as_ref().is_none_or(|facts| facts.tokens);
    if has_tokens {
        draft.leave_prompt_out("not_parsed");
    } else if !is_checked(guardrail, assessment) {
        draft.leave_prompt_out("not_checked");
    } else {
        let mut spans: Vec<Vec<Span>> = Vec::new();
        spans.resize_with(subject.len(), Vec::new);
        // A size is not about the text.
        let found = assessment.found.iter().map(|(_, found)| found);
        for found in found.filter(|found| found.category != Category::Size) {
            let span = Span { range: found.span.clone(), kind: found.kind.clone() };
            spans.get_mut(found.text).into_iter().for_each(|spans| spans.push(span.clone()));
        }
        let texts: Vec<_> = subject
            .texts()
            .zip(spans)
            .map(|((source, text), spans)| (role(source), text, spans))
            .collect();
        draft.set_prompt(texts.into_iter());
    }
    exchange.guarded.contents = Some(draft);
}

/// Draft a request that is passed through: the content says that its texts are missing.
pub fn draft_unread(exchange: &mut Exchange) {
    if let Some(mut draft) = draft(exchange) {
        draft.leave_prompt_out("not_parsed");
        exchange.guarded.contents = Some(draft);
    }
}

/// Whether each filter of prompts has reported its findings. Judges are skipped if detectors refuse
/// the prompt, and a filter may fail open.
fn is_checked(guardrail: &Guardrail, assessment: &Assessment) -> bool {
    let links = guardrail.chain().links();
    let count = |hooks| links.iter().filter(|link| link.has(hooks)).count();
    let runs = count(Hooks::DETECT) + count(Hooks::JUDGE_PROMPT);
    let accounts = &assessment.accounts;
    accounts.len() == runs && accounts.iter().all(|account| account.failure.is_none())
}

fn role(source: TextSource) -> &'static str {
    match source {
        TextSource::Prompt(PromptRole::System) => "system",
        TextSource::Prompt(PromptRole::User) => "user",
        TextSource::Prompt(PromptRole::Assistant) | TextSource::Answer(_) => "assistant",
        TextSource::Prompt(PromptRole::Tool) => "tool",
        TextSource::Prompt(PromptRole::ToolDefinition) => "tool_definition",
    }
}

/// Store the content of a request that has ended.
pub fn store(exchange: &mut Exchange) {
    let Some(draft) = exchange.guarded.contents.take() else { return };
    let (Some(recorder), Some(routed)) = (&exchange.shared.contents, &exchange.routed) else {
        return;
    };
    let (accepted, incomplete) = (&exchange.accepted, incomplete(exchange, &draft));
    recorder.store(
        draft,
        Request {
            unique_id: accepted.unique_id.as_ref().unwrap_or(&accepted.id).clone(),
            id: accepted.id.clone(),
            at: clock::wall_us(),
            route: routed.route.route.name.clone(),
            incomplete: incomplete.map(Into::into),
        },
    );
}

/// Why the stored answer is not complete.
fn incomplete(exchange: &Exchange, draft: &Draft) -> Option<&'static str> {
    let answer = &exchange.answer;
    let is_unread = answer.not_parsed.is_some() || answer.lens.counts().not_understood > 0;
    match exchange.verdict.outcome().unwrap_or(Outcome::Ok) {
        _ if is_unread => Some("not_parsed"),
        Outcome::Ok if !draft.has_answer() => Some("not_parsed"),
        Outcome::Ok => None,
        outcome => Some(outcome.name()),
    }
}
