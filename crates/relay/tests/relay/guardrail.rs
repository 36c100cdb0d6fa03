//! The output side of a guardrail.

use std::sync::Arc;
use std::time::Duration;

use filters::{Guardrail, Registry};
use lens::record::Outcome;
use relay::{Context, End};
use wire::{Dialect, Framing};

use crate::script::{
    ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run, settings,
};

pub fn guarded(guardrail: &str) -> Context {
    let settings = settings(&format!("guardrails: [{{name: s, {guardrail}}}]\n"));
    let load = |_: &filters::settings::Judge| Err("no models in tests".to_owned());
    let guardrail = settings.guardrails.first().expect("one");
    let guardrail = Guardrail::build(guardrail, &Registry::standard(), &load).expect("a guardrail");
    Context { guardrail: Some(Arc::new(guardrail)), ..context(Dialect::OpenAiChat) }
}

fn event(content: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// The text of all events.
fn text(taken: &[u8]) -> String {
    let all = String::from_utf8_lossy(taken).into_owned();
    let data =
        all.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| {
        let event: serde_json::Value = serde_json::from_str(data).expect("JSON");
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_masked_never_reaches_the_client_however_it_is_cut() {
    let words = ["Write to ", "ann.", "lee@", "example", ".com", " and be", " well."];
    let body: String =
        words.iter().map(|word| event(word)).chain([": ping\n\n".into(), END.into()]).collect();
    for size in [1, 3, 10, 64, body.len()] {
        let mut request = ScriptedRequest::new();
        let steps = body.as_bytes().chunks(size).map(|piece| Step::Read(piece.to_vec())).collect();
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let (end, _) =
            run(&mut request, guarded("output_pii: mask"), &mut source, &mut sink, None).await;
        assert!(matches!(end, End::Complete), "in pieces of {size}: {end:?}");
        assert_eq!(
            text(&sink.taken),
            "Write to [EMAIL_ADDRESS] and be well.",
            "in pieces of {size}"
        );
        let all = String::from_utf8_lossy(&sink.taken).into_owned();
        assert!(all.contains(": ping\n") && all.ends_with("data: [DONE]\n\n"), "{all}");
        assert!(
            request.guarded.output.values().sum::<u64>() == 1 && request.guarded.word == "redact",
            "{:?}",
            request.guarded
        );
    }
}

/// An engine that pauses inside of a number for longer than `hold_time`. The mask also covers a
/// blank after the number, which could be a part of it. Its kind is
/// that of the likeliest rule: the check digit has not arrived.
#[tokio::test(start_paused = true)]
async fn a_pause_inside_of_a_number_does_not_let_it_pass() {
    // The automata are built once, and shared while one guardrail has them.
    let _kept = guarded("output_pii: mask");
    for (first, rest, want) in [
        ("pay 4111 1111 11", "11 1111 now", "pay []now"),
        ("pay 411111", "1111111111 now", "pay []now"),
        ("pay 4111 1111", " is wrong", "pay []is wrong"),
        ("to DE89 3704 00", "44 0532 0130 00.", "to []."),
        ("in 2024 4 ", "people", "in 2024 4 people"),
        ("write to jane", "@x.org", "write to jane@x.org"),
    ] {
        let mut request = ScriptedRequest::new();
        let steps = vec![
            Step::Read(event(first).into_bytes()),
            Step::Wait(Duration::from_millis(1600)),
            Step::Read((event(rest) + END).into_bytes()),
        ];
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        run(&mut request, guarded("output_pii: mask"), &mut source, &mut sink, None).await;
        let taken = text(&sink.taken);
        let kind = taken.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let found = taken.replace(kind.map_or("no kind", |(kind, _)| kind), "");
        assert_eq!(found, want, "{first}");
    }
}

/// The same pauses, with each word of `at_hold_time`. The answer ends before the event with the
/// number.
#[tokio::test(start_paused = true)]
async fn the_setting_decides_what_happens_at_the_hold_time() {
    for (setting, first, rest, want) in [
        ("mask", "pay 4111 1111 11", "11 1111 now", "pay [CREDIT_CARD]now"),
        ("release", "pay 4111 1111 11", "11 1111 now", "pay 4111 1111 1111 1111 now"),
        ("end", "pay 4111 1111 11", "11 1111 now", ""),
        ("end", "write to jane", "@x.org", "write to jane@x.org"),
        ("release", "pay 4111 1111 1111 1111", " now", "pay [CREDIT_CARD]now"),
    ] {
        let mut request = ScriptedRequest::new();
        let steps = vec![
            Step::Read(event(first).into_bytes()),
            Step::Wait(Duration::from_millis(1600)),
            Step::Read((event(rest) + END).into_bytes()),
        ];
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let context = guarded(&format!("output_pii: mask, at_hold_time: {setting}"));
        run(&mut request, context, &mut source, &mut sink, None).await;
        let taken = text(&sink.taken);
        let kind = taken.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let found = taken.replace(kind.map_or("no kind", |(kind, _)| kind), "CREDIT_CARD");
        assert_eq!(found, want, "{setting}: {first}");
        let ends = want.is_empty();
        assert_eq!(request.verdict.code.as_deref(), ends.then_some("content_blocked"), "{setting}");
        let all = String::from_utf8_lossy(&sink.taken).into_owned();
        assert_eq!(all.contains("content_filter"), ends, "{setting}: {all}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_stream_ends_as_filtered_and_shows_nothing_of_it() {
    let body: String = ["The key is ", "AKIA", "IOSFODNN7", "EXAMPLQ", " ok"]
        .iter()
        .map(|word| event(word))
        .chain([END.into()])
        .collect();
    let mut request = ScriptedRequest::new();
    let (mut source, mut sink) = (
        ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]),
        ScriptedSink::new(Takes::All),
    );
    let (end, _) =
        run(&mut request, guarded("output_secrets: block"), &mut source, &mut sink, None).await;
    let all = String::from_utf8_lossy(&sink.taken).into_owned();
    assert!(matches!(end, End::Complete) && !all.contains("AKIA"), "{end:?}: {all}");
    assert!(
        all.contains("\"finish_reason\":\"content_filter\"") && all.ends_with("data: [DONE]\n\n"),
        "{all}"
    );
    assert_eq!(
        (request.verdict.outcome(), request.verdict.code.as_deref()),
        (Some(Outcome::Blocked), Some("content_blocked"))
    );
}

#[tokio::test(start_paused = true)]
async fn text_is_held_no_longer_than_the_hold_time() {
    let mut request = ScriptedRequest::new();
    let steps = vec![
        Step::Read(event("mail ann.lee@exam").into_bytes()),
        Step::Wait(Duration::from_secs(30)),
        Step::Read(END.as_bytes().to_vec()),
    ];
    let (mut source, mut sink) =
        (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
    let began = transport::clock::now();
    let (end, _) = run(
        &mut request,
        guarded("output_pii: mask, hold_time: 200ms"),
        &mut source,
        &mut sink,
        None,
    )
    .await;
    assert!(matches!(end, End::Complete), "{end:?}");
    let written =
        request.answer.lens.marks().first_token.written.expect("written").micros_since(began)
            / 1000;
    assert!((200..210).contains(&written), "{written} ms");
    assert_eq!(request.guarded.held_events, 1);
}

/// Each piece comes before the hold time has passed since the last one; the whole match takes
/// several hold times.
#[tokio::test(start_paused = true)]
async fn matches_of_a_slow_engine_do_not_pass() {
    for (action, said, kind) in [
        ("output_pii: mask", "4111 1111 1111 1111", "[CREDIT_CARD]"),
        ("output_pii: mask", "ann.lee@example.com", "[EMAIL_ADDRESS]"),
        ("output_secrets: mask", "AKIAZ7Q2MXN4RTV6WYB3", "[AWS_ACCESS_KEY]"),
        ("output_pii: block", "4111 1111 1111 1111", ""),
    ] {
        let mut request = ScriptedRequest::new();
        let mut steps = vec![Step::Read(event("It is ").into_bytes())];
        for letter in said.chars() {
            steps.push(Step::Wait(Duration::from_millis(150)));
            steps.push(Step::Read(event(&letter.to_string()).into_bytes()));
        }
        steps.push(Step::Read((event(" today.") + END).into_bytes()));
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        run(
            &mut request,
            guarded(&format!("{action}, hold_time: 200ms")),
            &mut source,
            &mut sink,
            None,
        )
        .await;
        let end = if kind.is_empty() { "" } else { " today." };
        assert_eq!(text(&sink.taken), format!("It is {kind}{end}"), "{action}: {said}");
    }
}

/// Text that is in no channel, of an error or of an engine that writes its own, is checked, and its
/// findings are recorded.
#[tokio::test(start_paused = true)]
async fn findings_outside_of_channels_are_recorded() {
    for odd in [
        "data: mail bob@example.com\n\n",
        "data: {\"id\":\"x\",\"text\":\"mail bob@example.com\"}\n\n",
        "data: {\"error\":{\"message\":\"failed on mail bob@example.com\"}}\n\n",
    ] {
        for (action, word, code) in
            [("mask", "redact", None), ("block", "block", Some("content_blocked"))]
        {
            let mut request = ScriptedRequest::new();
            let body = event("hello") + odd + END;
            let (mut source, mut sink) = (
                ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]),
                ScriptedSink::new(Takes::All),
            );
            run(
                &mut request,
                guarded(&format!("output_pii: {action}")),
                &mut source,
                &mut sink,
                None,
            )
            .await;
            let all = String::from_utf8_lossy(&sink.taken).into_owned();
            assert!(!all.contains("bob@"), "{odd}: {all}");
            assert_eq!(
                (request.guarded.word, request.guarded.output.get("pii.email")),
                (word, Some(&1)),
                "{odd}: {:?}",
                request.guarded
            );
            if code.is_some() {
                assert_eq!(request.verdict.code.as_deref(), code, "{odd}");
            }
        }
    }
}

/// Events that repeat the text of a channel do not count its findings again.
#[tokio::test(start_paused = true)]
async fn repeated_text_is_counted_once() {
    let repeated = "data: {\"note\":\"mail bob@example.com\",\"choices\":[]}\n\n";
    let body = event("mail bob@example.com, please") + repeated + END;
    let mut request = ScriptedRequest::new();
    let (mut source, mut sink) = (
        ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]),
        ScriptedSink::new(Takes::All),
    );
    run(&mut request, guarded("output_pii: mask"), &mut source, &mut sink, None).await;
    assert!(!String::from_utf8_lossy(&sink.taken).contains("bob@"));
    assert_eq!(request.guarded.output.get("pii.email"), Some(&1), "{:?}", request.guarded);
}
