//! A stream whose backend dies, and another one that goes on.

use relay::{End, InterruptedStream};
use wire::{Dialect, Framing};

use crate::script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run};

fn event(delta: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":null}}]}}\n\n"
    )
}

fn stream(words: &[&str]) -> Vec<u8> {
    let text: String = words.iter().map(|word| event(&format!("\"content\":\"{word}\""))).collect();
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    format!("{}{text}{end}", event("\"role\":\"assistant\"")).into_bytes()
}

const WORDS: [&str; 7] =
    ["The sea", " is wide", ", deep", " and cold", ", and it", " has no", " end."];

/// The first backend's part, cut at `at`; what is left of it, if it may be resumed.
async fn dies_at(
    request: &mut ScriptedRequest,
    sink: &mut ScriptedSink,
    at: usize,
) -> (End, Option<Box<InterruptedStream>>) {
    request.resumable = true;
    let steps = vec![Step::Read(stream(&WORDS)[..at].to_vec()), Step::Die];
    run(
        request,
        context(Dialect::OpenAiChat),
        &mut ScriptedSource::new(Framing::Sse, steps),
        sink,
        None,
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn a_resumed_stream_is_the_whole_one_at_every_cut() {
    let whole = stream(&WORDS);
    let text = WORDS.concat();
    let first = String::from_utf8_lossy(&whole).find("is wide").expect("a word");
    for at in first..whole.len() - "data: [DONE]\n\n".len() - 80 {
        let (mut request, mut sink) = (
            ScriptedRequest::new(),
            ScriptedSink::new(Takes::Slowly(64, std::time::Duration::from_millis(1))),
        );
        let (end, cut) = dies_at(&mut request, &mut sink, at).await;
        assert!(matches!(end, End::Interrupted(_)), "cut at {at}: {end:?}");
        let known = request.resumed_with.clone().expect("text");
        let left: Vec<&str> = WORDS
            .iter()
            .copied()
            .skip_while({
                let mut sum = String::new();
                move |word| {
                    sum.push_str(word);
                    known.starts_with(&sum)
                }
            })
            .collect();
        assert_eq!(
            format!("{}{}", request.resumed_with.clone().unwrap_or_default(), left.concat()),
            text
        );
        let rest = stream(&left).chunks(11).map(|piece| Step::Read(piece.to_vec())).collect();
        let mut second = ScriptedSource::new(Framing::Sse, rest);
        let (end, cut) =
            run(&mut request, context(Dialect::OpenAiChat), &mut second, &mut sink, cut).await;
        assert!(matches!(end, End::Complete) && cut.is_none(), "cut at {at}: {end:?}");
        assert_eq!(
            String::from_utf8_lossy(&sink.taken),
            String::from_utf8_lossy(&whole),
            "cut at {at}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_answers_anew_is_not_passed_on() {
    let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
    let at = String::from_utf8_lossy(&stream(&WORDS)).find(" has no").expect("a word");
    let (_, cut) = dies_at(&mut request, &mut sink, at).await;
    let mut second = ScriptedSource::new(Framing::Sse, vec![Step::Read(stream(&WORDS))]);
    let (end, _) =
        run(&mut request, context(Dialect::OpenAiChat), &mut second, &mut sink, cut).await;
    assert!(matches!(end, End::Broken), "{end:?}");
    let text = String::from_utf8_lossy(&sink.taken).into_owned();
    assert_eq!(text.matches("The sea").count(), 1, "{text}");
    assert!(text.contains("upstream_resume_failed") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cannot_resume_leaves_the_stream_for_the_next() {
    let (mut request, mut sink) = (ScriptedRequest::new(), ScriptedSink::new(Takes::All));
    let whole = stream(&WORDS);
    let at = String::from_utf8_lossy(&whole).find(" has no").expect("a word");
    let (_, cut) = dies_at(&mut request, &mut sink, at).await;
    let text = cut.as_ref().and_then(|cut| cut.text()).map(str::to_owned);
    // It dies before its head.
    let mut second = ScriptedSource::new(Framing::Sse, vec![Step::Die]);
    let (end, cut) =
        run(&mut request, context(Dialect::OpenAiChat), &mut second, &mut sink, cut).await;
    assert!(matches!(end, End::Unanswered(_)), "{end:?}");
    assert_eq!(cut.as_ref().and_then(|cut| cut.text()).map(str::to_owned), text);
    let mut third = ScriptedSource::new(Framing::Sse, vec![Step::Read(stream(&WORDS[5..]))]);
    let (end, _) =
        run(&mut request, context(Dialect::OpenAiChat), &mut third, &mut sink, cut).await;
    assert!(matches!(end, End::Complete), "{end:?}");
    assert_eq!(String::from_utf8_lossy(&sink.taken), String::from_utf8_lossy(&whole));
}
