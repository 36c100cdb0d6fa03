//! Keep-alives of an answer that is held for its first token, and another backend that answers.

use std::time::Duration;

use relay::{Context, End, FirstTokenProbe, InterruptedStream, ProbeParsing, TokenTimeouts};
use wire::{Dialect, Framing, ReaderLimits};

use crate::guardrail::guarded;
use crate::script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than an event, so that marks would be wrong if its bytes were counted as events.
const PING: &str = ": ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping \
    ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping ping\n\n";

fn event(delta: &str, reason: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":{reason}}}]}}\n\n"
    )
}

fn role() -> String {
    event("\"role\":\"assistant\"", "null")
}

/// Role, two tokens, the finish reason and the end marker. `usage`: an event before the marker.
fn answer(usage: &str) -> String {
    let words =
        ["The sea", " is wide"].map(|word| event(&format!("\"content\":\"{word}\""), "null"));
    format!("{}{}{}{usage}data: [DONE]\n\n", role(), words.concat(), event("", "\"stop\""))
}

fn read(text: &str) -> Step {
    Step::Read(text.as_bytes().to_vec())
}

/// Three pings, a second apart, with the role event behind the first.
fn pings() -> Vec<Step> {
    [PING, &role(), PING, PING]
        .into_iter()
        .flat_map(|text| [read(text), Step::Wait(SECOND)])
        .collect()
}

/// A source that is held until its first token.
fn held(framing: Framing, steps: Vec<Step>) -> FirstTokenProbe<ScriptedSource> {
    let (dialect, limits) = (Dialect::OpenAiChat, ReaderLimits::default());
    let parsing = ProbeParsing { dialect, limits, echo: false, request_bytes: 0 };
    FirstTokenProbe::new(ScriptedSource::new(framing, steps), Some(parsing))
}

/// Relay a held answer.
async fn relay(
    (request, sink): (&mut ScriptedRequest, &mut ScriptedSink),
    context: Context,
    (framing, steps): (Framing, Vec<Step>),
    cut: Option<Box<InterruptedStream>>,
) -> (End, Option<Box<InterruptedStream>>) {
    run(request, context, &mut held(framing, steps), sink, cut).await
}

/// What the pipeline resets between two attempts.
fn next_attempt(request: &mut ScriptedRequest) {
    (request.answer, request.sent) = Default::default();
}

#[tokio::test(start_paused = true)]
async fn comments_pass_and_another_backend_sends_the_events() {
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    // With and without what counts the bytes of the body: usage that is stripped, a guardrail that
    // acts, one that observes, a rate limit.
    for (way, guardrail) in ["plain", "usage", "resumable", "charged", "masked", "observed"]
        .into_iter()
        .zip(["", "", "", "", "output_pii: mask", "output_pii: mask, mode: observe"])
    {
        let context = || match guardrail {
            "" => context(Dialect::OpenAiChat),
            text => guarded(text),
        };
        let (mut request, mut sink) =
            (ScriptedRequest::new(), ScriptedSink::new(Takes::Slowly(5, Duration::from_millis(1))));
        request.resumable = way == "resumable";
        request.budget = (way == "charged").then_some(1_000);
        let first = [pings(), vec![Step::Die]].concat();
        let (end, cut) =
            relay((&mut request, &mut sink), context(), (Framing::Sse, first), None).await;
        assert!(matches!(end, End::Unanswered(_)) && !request.committed, "{way}: {end:?}");
        assert!(cut.as_ref().is_some_and(|cut| !cut.has_events()), "{way}");
        assert!(sink.head.is_some() && sink.ended.is_none(), "{way}");
        assert_eq!(String::from_utf8_lossy(&sink.taken), PING.repeat(3), "{way}");
        assert_eq!(request.answer.lens.counts().comments, 3, "{way}");
        next_attempt(&mut request);
        request.sent.usage_injected = way == "usage";
        let stream = answer(if way == "usage" { usage } else { "" });
        let events = stream.split_inclusive("\n\n").map(read);
        let second = [read(PING), Step::Wait(SECOND)].into_iter().chain(events).collect();
        let (end, cut) =
            relay((&mut request, &mut sink), context(), (Framing::Sse, second), cut).await;
        assert!(matches!(end, End::Complete) && request.committed, "{way}: {end:?}");
        assert!(cut.is_none() && sink.ended == Some(true), "{way}");
        let want = PING.repeat(4) + &answer("");
        assert_eq!(String::from_utf8_lossy(&sink.taken), want, "{way}");
        let answer = &request.answer;
        assert_eq!(answer.bytes_to_client, want.len() as u64, "{way}");
        assert_eq!(
            (answer.lens.counts().comments, answer.lens.counts().events),
            (1, if way == "usage" { 6 } else { 5 }),
            "{way}"
        );
        // The client got the first token after the comments, and all events in the end.
        let marks = answer.lens.final_marks();
        let [first, last] = [marks.first_token, marks.last_token].map(|mark| {
            mark.written.expect("written").micros_since(mark.arrival.expect("it came")) / 1000
        });
        // The client takes five bytes in a millisecond.
        let near = |took: u64, word| {
            let (before, rest) = want.split_at(want.find(word).expect("a word"));
            let end = before.len() + rest.find("\n\n").expect("an event") + 2;
            took.abs_diff((end - 4 * PING.len()) as u64 / 5) <= 2
        };
        // A guardrail that masks holds the last words until the next event.
        let end = if way == "masked" { "\"stop\"" } else { " is wide" };
        assert!(near(first, "The sea") && near(last, end), "{way}: {first} {last} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_backend_may_answer_and_its_own_error_passes() {
    let error = "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n";
    for rest in [answer("").split_off(role().len()), error.to_owned()] {
        let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
        let steps = [pings(), vec![read(&rest)]].concat();
        let (end, cut) = relay(
            (&mut request, &mut sink),
            context(Dialect::OpenAiChat),
            (Framing::Sse, steps),
            None,
        )
        .await;
        assert!(matches!(end, End::Complete) && cut.is_none(), "{end:?}");
        let want = PING.repeat(3) + &role() + &rest;
        assert_eq!(String::from_utf8_lossy(&sink.taken), want);
        assert_eq!(request.answer.lens.counts().comments, 3);
        let waits = request.ledger.nanos(lens::State::AwaitFirstToken) / 1_000_000;
        assert!((3_990..=4_010).contains(&waits), "{waits} ms");
    }
}

/// An error in place of the first token is retried, as without comments.
#[tokio::test(start_paused = true)]
async fn an_early_error_is_retried_behind_comments() {
    let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
    request.resumable = true;
    let error = "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n";
    let steps = [pings(), vec![read(error)]].concat();
    let (end, cut) =
        relay((&mut request, &mut sink), context(Dialect::OpenAiChat), (Framing::Sse, steps), None)
            .await;
    assert!(matches!(end, End::Again { status: 500, .. }), "{end:?}");
    assert!(cut.is_some_and(|cut| !cut.has_events()));
    assert_eq!(String::from_utf8_lossy(&sink.taken), PING.repeat(3));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_event_stream_cannot_follow_comments() {
    let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
    let first = [pings(), vec![Step::Die]].concat();
    let context = || context(Dialect::OpenAiChat);
    let (_, cut) = relay((&mut request, &mut sink), context(), (Framing::Sse, first), None).await;
    next_attempt(&mut request);
    let whole = vec![read("{\"error\":{\"message\":\"busy\"}}")];
    let (end, cut) = relay((&mut request, &mut sink), context(), (Framing::Json, whole), cut).await;
    assert!(matches!(end, End::Unusable { status: 500 }), "{end:?}");
    assert!(cut.is_some_and(|cut| !cut.has_events()) && !request.committed);
    assert_eq!(String::from_utf8_lossy(&sink.taken), PING.repeat(3));
}

/// The deadlines of a held answer are those without comments, and nothing passes without them.
#[tokio::test(start_paused = true)]
async fn a_late_first_token_lets_another_backend_answer() {
    for (text, passed) in [(PING, true), (&*role(), false)] {
        let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
        let steps = [read(text), Step::Wait(SECOND)].into_iter().cycle().take(60).collect();
        let mut context = context(Dialect::OpenAiChat);
        context.token_timeouts = TokenTimeouts { first: 5 * SECOND, between: 5 * SECOND };
        let began = tokio::time::Instant::now();
        let (end, cut) =
            relay((&mut request, &mut sink), context, (Framing::Sse, steps), None).await;
        assert!(
            matches!(&end, End::Refused(failure) if failure.code() == "upstream_first_token_timeout"),
            "{end:?}"
        );
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!((cut.is_some(), sink.head.is_some()), (passed, passed));
    }
}
