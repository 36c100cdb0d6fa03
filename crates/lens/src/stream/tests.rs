use super::*;
use proptest::prelude::*;
use wire::{Dialect, Framing, Reader, ReaderLimits};

/// Replays a chat stream of `(arrival us, written us, events in the read)`. The client may accept
/// bytes much later.
fn play(reads: &[(u64, u64, &str)]) -> StreamLens {
    let mut lens = StreamLens::new(true, 1_000_000_000);
    let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
    let mut base = 0;
    let mut writes = Vec::new();
    for (arrival, written, text) in reads {
        lens.begin_read(Tick::from_micros(*arrival));
        lens.at(base);
        reader.feed(text.as_bytes(), &mut lens);
        base += text.len() as u64;
        writes.push((base, *written));
    }
    for (upto, at) in writes {
        lens.written(upto, Tick::from_micros(at));
    }
    lens
}

fn delta(member: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{member}}}}}]}}\n\n")
}

fn content() -> String {
    delta("\"content\":\"x\"")
}

fn us(tick: Option<Tick>) -> Option<u64> {
    tick.map(|t| t.0 / 1000)
}

#[test]
fn only_generated_text_is_a_first_token() {
    let lens = play(&[
        (10, 11, ": ping\n\n"),
        (20, 21, &delta("\"role\":\"assistant\",\"content\":\"\"")),
        (30, 31, &delta("\"reasoning\":\"hm\"")),
        (50, 55, &content()),
        (
            60,
            66,
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
        ),
        (61, 67, "data: [DONE]\n\n"),
    ]);
    let m = lens.marks();
    assert_eq!(
        (us(m.first_event.arrival), us(m.role.arrival), us(m.role.written)),
        (Some(20), Some(20), Some(21))
    );
    assert_eq!(
        (us(m.reasoning.arrival), us(m.content.arrival), us(m.content.written)),
        (Some(30), Some(50), Some(55))
    );
    assert_eq!(
        (us(m.first_token.arrival), us(m.last_token.arrival), us(m.last_token.written)),
        (Some(30), Some(50), Some(55))
    );
    assert_eq!(
        (lens.counts().events, lens.counts().content_events, lens.counts().comments),
        (5, 2, 1)
    );
    assert_eq!(
        (lens.completion_tokens(), lens.end(), m.tool_call),
        ((Some(9), false), Some("[DONE]"), Mark::default())
    );
    assert_eq!(lens.tpot_us(), Some(20.0 / 8.0));
}

#[test]
fn tokens_of_the_first_event_are_not_divided_by() {
    let with_usage = |n: u64| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"x\"}}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{n}}}}}\n\n"
        )
    };
    let lens = play(&[(100, 100, &with_usage(4)), (200, 200, &with_usage(6))]);
    assert_eq!(lens.tpot_us(), Some(50.0));
}

#[test]
fn single_read_has_no_tpot_and_coalesced_events() {
    let lens = play(&[(100, 100, &(content() + &content() + &content()))]);
    assert_eq!((lens.tpot_us(), lens.counts().coalesced), (None, 2));
    assert_eq!(lens.completion_tokens(), (Some(3), true));
}

#[test]
fn hidden_reasoning_is_not_divided_by() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":103,\"completion_tokens_details\":{\"reasoning_tokens\":100}}}\n\n";
    let lens =
        play(&[(0, 0, &content()), (10, 10, &content()), (20, 20, &content()), (21, 21, usage)]);
    assert_eq!(lens.tpot_us(), Some(10.0));
}

/// The total shows whether the engine counts reasoning in its output tokens or in addition.
#[test]
fn reasoning_in_addition_to_the_output_is_not_subtracted() {
    let usage = |total: u64| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":20,\"completion_tokens\":6,\"total_tokens\":{total},\"completion_tokens_details\":{{\"reasoning_tokens\":120}}}}}}\n\n"
        )
    };
    let text = content();
    let six = |total| {
        let usage = usage(total);
        let mut reads: Vec<(u64, u64, &str)> =
            (0..6).map(|n| (n * 10, n * 10, text.as_str())).collect();
        reads.push((60, 60, &usage));
        play(&reads).tpot_us()
    };
    assert_eq!(six(146), Some(10.0), "five gaps for the five tokens after the first");
    assert_eq!(six(26), None, "120 of 6 cannot be subtracted");
    // Reasoning that was sent is part of the measured span.
    let (thought, usage) = (delta("\"reasoning\":\"hm\""), usage(146));
    let sent =
        play(&[(0, 0, &thought), (1000, 1000, &text), (1250, 1250, &text), (1251, 1251, &usage)]);
    assert_eq!(sent.tpot_us(), Some(1250.0 / 125.0));
}

/// llama.cpp counts in `timings` where no usage was requested.
#[test]
fn timings_are_counts_and_not_estimates() {
    let last = |choice: u32, tokens: u32| {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":\"stop\",\"index\":{choice},\"delta\":{{}}}}],\"timings\":{{\"cache_n\":26,\"prompt_n\":1,\"prompt_ms\":12.2,\"predicted_n\":{tokens},\"predicted_ms\":71.5}}}}\n\n"
        )
    };
    let long = delta("\"content\":\"several words that are four times as many bytes as tokens\"");
    let one = play(&[(0, 0, &long), (100, 100, &long), (101, 101, &last(0, 11))]);
    assert_eq!(one.completion_tokens(), (Some(11), false));
    let usage = one.usage().unwrap();
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (Some(27), Some(26)));
    assert_eq!(one.tpot_us(), Some(10.0));
    // Each choice has timings of its own.
    let two = play(&[(0, 0, &long), (9, 9, &last(0, 11)), (9, 9, &last(1, 5))]);
    assert_eq!(
        (two.completion_tokens(), two.usage().unwrap().prompt_tokens),
        ((Some(16), false), Some(27))
    );
    // Usage counts first.
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9},\"timings\":{\"cache_n\":0,\"prompt_n\":4,\"predicted_n\":8}}\n\n";
    let both = play(&[(0, 0, &long), (9, 9, usage)]);
    assert_eq!(
        (both.completion_tokens(), both.usage().unwrap().prompt_tokens),
        ((Some(9), false), Some(5))
    );
    // Without `cache_n`, a cached part of the prompt would be missing.
    let old = last(0, 11).replace("\"cache_n\":26,", "");
    let old = play(&[(0, 0, &long), (9, 9, &old)]);
    assert_eq!(
        (old.completion_tokens(), old.usage().unwrap().prompt_tokens),
        ((Some(11), false), None)
    );
}

/// Tokens of Hindi, Thai or German have more than eight bytes, but not more than eight characters.
#[test]
fn long_tokens_of_other_scripts_are_one_token_each() {
    let hindi = delta("\"content\":\" नमस्ते\"");
    assert!(" नमस्ते".len() > 8);
    let events = [(0, 0, hindi.as_str()), (9, 9, &hindi), (19, 19, &hindi)];
    assert_eq!(play(&events).completion_tokens(), (Some(3), true));
    let escaped = delta("\"content\":\" \\u0928\\u092e\\u0938\\u094d\\u0924\\u0947\"");
    assert_eq!(play(&[(0, 0, &escaped)]).completion_tokens(), (Some(1), true));
}

/// An engine ends an answer at the tokens that the request permits: of an answer that goes on, an
/// estimate as large is wrong. The charge is not bounded, because engines may ignore the maximum.
#[test]
fn an_answer_that_has_not_ended_is_below_its_maximum() {
    let long = delta("\"content\":\" Donaudampfschifffahrtsgesellschaft\"");
    let estimate = |most| {
        let mut lens = StreamLens::new(true, u64::MAX);
        lens.limit_tokens(most);
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        for _ in 0..3 {
            reader.feed(long.as_bytes(), &mut lens);
        }
        (lens.completion_tokens().0.unwrap(), lens.tokens_so_far())
    };
    assert_eq!(estimate(None), (27, 27));
    assert_eq!(estimate(Some(100)), (27, 27));
    assert_eq!(estimate(Some(20)), (27, 3));
    assert_eq!(estimate(Some(1)), (27, 3), "each event is one token at least");
}

/// A count of zero beside generated text, or for a prompt that was not cached, is not a count.
#[test]
fn usage_of_zero_tokens_is_none() {
    let usage = |counts: &str| format!("data: {{\"choices\":[],\"usage\":{{{counts}}}}}\n\n");
    let told = |text: &str, counts: &str| {
        let lens = play(&[(0, 0, text), (9, 9, &usage(counts))]);
        (lens.prompt_tokens().0, lens.completion_tokens())
    };
    let (text, none) = (delta("\"content\":\"hi\""), delta("\"role\":\"assistant\""));
    let zero = "\"prompt_tokens\":7,\"completion_tokens\":0";
    assert_eq!(told(&text, zero), (Some(7), (Some(1), true)));
    assert_eq!(told(&none, zero), (Some(7), (Some(0), false)), "nothing was generated");
    let prompt = "\"prompt_tokens\":0,\"completion_tokens\":3";
    assert_eq!(told(&text, prompt), (None, (Some(3), false)));
    let cached = format!("{prompt},\"prompt_tokens_details\":{{\"cached_tokens\":4}}");
    assert_eq!(told(&text, &cached), (Some(0), (Some(3), false)));
    // Reasoning beside the generated tokens.
    let reasoning = "\"prompt_tokens\":7,\"completion_tokens\":0,\"total_tokens\":9,\"completion_tokens_details\":{\"reasoning_tokens\":2}";
    assert_eq!(told(&text, reasoning), (Some(7), (Some(0), false)));
    // The same at the end of a response.
    let mut lens = StreamLens::new(true, u64::MAX);
    let mut reader = Reader::new(Dialect::OpenAiResponses, Framing::Sse, ReaderLimits::default());
    for event in [
        r#"{"type":"response.in_progress","response":{"usage":{"input_tokens":5,"output_tokens":0}}}"#,
        r#"{"type":"response.output_text.delta","delta":"hello"}"#,
        r#"{"type":"response.output_text.delta","delta":" you"}"#,
        r#"{"type":"response.completed","response":{"usage":{"input_tokens":0,"output_tokens":0}}}"#,
    ] {
        reader.feed(format!("data: {event}\n\n").as_bytes(), &mut lens);
    }
    assert_eq!((lens.prompt_tokens().0, lens.completion_tokens()), (Some(5), (Some(2), true)));
}

/// Until 2025, llama.cpp sent errors in a field of their own.
#[test]
fn an_error_field_is_an_error() {
    let error = "error: {\"code\":500,\"message\":\"boom\",\"type\":\"server_error\"}\n\n";
    for rest in ["", "data: [DONE]\n\n"] {
        let lens = play(&[(0, 0, &content()), (9, 9, error), (9, 9, rest)]);
        let error = lens.error().expect("an error");
        assert_eq!((error.status(), error.record_code().as_str()), (500, "http_500"));
    }
}

/// Of an answer over the reader's limit, only the end is read.
#[test]
fn timings_at_the_end_of_a_large_answer_are_its_usage() {
    let prompt = "x".repeat(3000);
    let body = format!(
        "{{\"content\":\"hi\",\"prompt\":\"{prompt}\",\"timings\":{{\"cache_n\":1,\"prompt_n\":4,\"predicted_n\":7}},\"stop\":true}}"
    );
    for (framing, body) in
        [(Framing::Json, body.clone()), (Framing::Sse, format!("data: {body}\n\n"))]
    {
        let mut lens = StreamLens::new(true, u64::MAX);
        let mut reader = Reader::new(Dialect::LlamaCpp, framing, ReaderLimits { event: 1000 });
        body.as_bytes().chunks(700).for_each(|piece| reader.feed(piece, &mut lens));
        reader.finish(&mut lens);
        assert_eq!(
            (lens.completion_tokens(), lens.prompt_tokens().0),
            ((Some(7), false), Some(5)),
            "{framing:?}"
        );
    }
}

/// llama.cpp reports the usage of each choice where it ends.
#[test]
fn usage_of_each_choice_is_added() {
    let end = |choice: u32, prompt: u64, cached: u64| {
        format!(
            "data: {{\"choices\":[{{\"index\":{choice},\"text\":\"\",\"delta\":{{}},\"finish_reason\":\"length\"}}],\"usage\":{{\"completion_tokens\":8,\"prompt_tokens\":{prompt},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}},\"timings\":{{\"cache_n\":{cached},\"prompt_n\":{},\"predicted_n\":8}}}}\n\n",
            prompt - cached
        )
    };
    let read = |dialect, events: &[String]| {
        let mut lens = StreamLens::new(true, u64::MAX);
        let mut reader = Reader::new(dialect, Framing::Sse, ReaderLimits::default());
        events.iter().for_each(|event| reader.feed(event.as_bytes(), &mut lens));
        let usage = lens.usage().unwrap();
        (usage.prompt_tokens, usage.cached_tokens, lens.completion_tokens())
    };
    let choices = [end(1, 5, 4), end(0, 5, 0)];
    let sum = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":16}}\n\n";
    let summed = [&choices[..], &[sum.to_owned()]].concat();
    for dialect in [Dialect::OpenAiChat, Dialect::OpenAiCompletions] {
        for events in [&choices[..], &summed] {
            assert_eq!(read(dialect, events), (Some(5), Some(0), (Some(16), false)), "{dialect:?}");
        }
    }
    // With `include_usage`, an event of its own follows the end of each choice.
    let apart = choices.iter().flat_map(|event| {
        let (start, rest) = event.split_once(",\"usage\"").expect("usage");
        let usage = format!("data: {{\"choices\":[],\"usage\"{rest}");
        [format!("{start}}}\n\n"), usage]
    });
    let apart: Vec<String> = apart.collect();
    assert_eq!(read(Dialect::OpenAiChat, &apart), (Some(5), Some(0), (Some(16), false)));
}

/// vLLM's `metrics` and llama.cpp's `timings`, in milliseconds with fractions.
#[test]
fn engine_times_are_read_from_metrics_and_timings() {
    let metrics = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9},\"metrics\":{\"time_to_first_token_ms\":85.2,\"generation_time_ms\":1240.5,\"queue_time_ms\":12.3,\"mean_itl_ms\":9.1,\"tokens_per_second\":null}}\n\n";
    let vllm = play(&[(0, 0, &content()), (9, 9, metrics)]);
    assert_eq!(
        vllm.engine_times(),
        wire::EngineTimes {
            queue: Some(12_300),
            load: None,
            prefill: Some(85_200),
            decode: Some(1_240_500)
        }
    );
    let timings = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"timings\":{\"prompt_ms\":43.237,\"predicted_ms\":2e2,\"predicted_n\":3}}\n\n";
    let llama = play(&[(0, 0, &content()), (9, 9, timings)]);
    assert_eq!(
        llama.engine_times(),
        wire::EngineTimes {
            prefill: Some(43_237),
            decode: Some(200_000),
            ..wire::EngineTimes::default()
        }
    );
    // Nonsense is unknown, not zero.
    let odd = "data: {\"choices\":[],\"metrics\":{\"queue_time_ms\":-1,\"generation_time_ms\":\"fast\",\"time_to_first_token_ms\":1e300}}\n\n";
    let odd = play(&[(0, 0, &content()), (9, 9, odd)]);
    assert_eq!(odd.engine_times(), wire::EngineTimes::default());
}

#[test]
fn stalls_are_gaps_over_the_threshold() {
    let lens = play(&[(0, 0, &content()), (1_000_000, 0, &content()), (2_000_001, 0, &content())]);
    assert_eq!(lens.counts().stalls, 1);
}

proptest! {
    #[test]
    fn a_slow_writer_changes_no_upstream_figure(
        gaps in proptest::collection::vec(0u64..100_000, 1..40),
        delays in proptest::collection::vec(0u64..5_000_000, 40),
    ) {
        let text = content();
        let mut at = 0;
        let mut late = 0;
        let (mut prompt, mut slow) = (Vec::new(), Vec::new());
        for (gap, delay) in gaps.iter().zip(&delays) {
            at += gap;
            late = late.max(at) + delay;
            prompt.push((at, at, text.as_str()));
            slow.push((at, late, text.as_str()));
        }
        let (mut prompt, mut slow) = (play(&prompt), play(&slow));
        prop_assert_eq!(prompt.tpot_us(), slow.tpot_us());
        prop_assert_eq!(prompt.itl().summary(), slow.itl().summary());
        prop_assert_eq!(prompt.counts(), slow.counts());
        prop_assert_eq!(prompt.marks().first_token.arrival, slow.marks().first_token.arrival);
        prop_assert_eq!(slow.client_itl().summary().map_or(0, |s| s.count), gaps.len() as u64 - 1);
    }
}

#[test]
fn prompt_tokens_of_a_resumed_stream_are_those_of_the_first_prompt() {
    let usage = |prompt: u64, completion: u64| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"prompt_tokens_details\":{{\"cached_tokens\":16}}}}}}\n\n"
        )
    };
    let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
    let mut feed = |lens: &mut StreamLens, text: &str| reader.feed(text.as_bytes(), lens);
    for (first, prompt) in [("".to_owned(), (Some(8), true)), (usage(9, 2), (Some(9), false))] {
        let mut lens = StreamLens::new(true, u64::MAX);
        feed(&mut lens, &format!("{}{}{first}", content(), content()));
        lens.resume_point();
        let known = lens.usage().and_then(|usage| usage.prompt_tokens);
        assert_eq!(known, (!first.is_empty()).then_some(9), "before the second engine reports");
        feed(&mut lens, &content());
        // A third engine resumes.
        lens.resume_point();
        feed(&mut lens, &format!("{}{}", content(), usage(11, 1)));
        assert_eq!(lens.prompt_tokens(), prompt);
        assert_eq!(lens.completion_tokens(), (Some(4), true));
        let usage = lens.usage().expect("usage");
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (prompt.0, prompt.0));
    }
}
