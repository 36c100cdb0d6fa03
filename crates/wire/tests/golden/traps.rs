//! The traps that real streams set, one test each, named after what a naive reader would believe.

use wire::{Dialect, Event, EventVisitor, Framing, Kinds, Part, Reader, ReaderLimits};

use crate::replay::{Capture, Reading};

fn read(name: &str) -> Reading {
    let capture = Capture::named(name);
    Reading::of(&capture, &[capture.bytes()])
}

#[test]
fn done_does_not_mean_success() {
    let reading = read("vllm/chat_stream_engine_death");
    assert_eq!((reading.end, reading.status), (Some("[DONE]"), 200));
    assert!(reading.error.is_some());
}

#[test]
fn a_missing_done_does_not_mean_failure() {
    let reading = read("transformers-serve/chat_stream");
    assert_eq!(reading.end, None);
    assert_eq!(reading.finish.len(), 1);
    assert!(reading.error.is_none());
}

#[test]
fn an_error_with_status_200_comes_as_object_string_named_event_or_nothing() {
    assert_eq!(
        read("vllm/chat_stream_engine_death").error.unwrap().0.as_deref(),
        Some("InternalServerError")
    );
    let (kind, message, _) = read("transformers-serve/chat_stream_eos_at_once").error.unwrap();
    assert_eq!(kind, None);
    assert!(message.unwrap().contains("sequence_bias"));
    assert_eq!(
        read("anthropic/messages_stream_overloaded_midway").error.unwrap().0.as_deref(),
        Some("overloaded_error")
    );
    let silent = read("llama-cpp-python/error_too_long_stream");
    assert_eq!((silent.status, silent.events, silent.error), (200, 0, None));
    let silent = read("ollama/v1_chat_error_silent");
    assert_eq!((silent.end, silent.finish.len(), silent.error), (None, 0, None));
}

#[test]
fn an_error_may_stand_beside_choices() {
    let reading = read("openrouter/chat_stream_error_midway");
    assert!(reading.error.is_some());
    assert_eq!(reading.finish[&0], "error");
}

#[test]
fn events_are_not_tokens() {
    let speculative = read("vllm/chat_stream_speculative");
    let tokens = speculative.usage.unwrap().completion_tokens.unwrap();
    assert!(
        (speculative.content.len() as u64) < tokens,
        "{} events for {tokens} tokens",
        speculative.content.len()
    );
    let held_back = read("llama-cpp/scripted_utf8_chat_stream");
    assert!((held_back.content.len() as u64) < held_back.usage.unwrap().completion_tokens.unwrap());
}

#[test]
fn a_token_can_ride_with_finish_reason_or_with_role() {
    let last = read("vllm/chat_stream");
    assert_eq!(last.finish[&0], "length");
    assert!(
        last.content.contains(&(last.events - 2)) || last.content.contains(&(last.events - 3)),
        "the finish event carries text"
    );
    let first = read("ollama/v1_chat_stream_usage");
    assert_eq!((first.roles[0], first.content[0]), (0, 0));
    let every = read("tgi/chat_stream");
    assert!(every.roles.len() > every.content.len() / 2);
}

#[test]
fn zeroed_usage_on_every_chunk_is_not_usage() {
    let reading = read("ollama/v1_completions_stream_usage");
    assert_eq!(reading.usage_events, 1);
    assert_eq!(reading.usage.unwrap().completion_tokens, Some(9));
}

#[test]
fn headers_pings_role_and_first_token_are_four_times() {
    let reading = read("llama-cpp/paced_ping");
    assert!(reading.comments > 0);
    let (role, token) = (reading.roles[0], reading.content[0]);
    assert!(role < token, "role event {role}, first token {token}");
}

#[test]
fn prompt_progress_repeats_the_role_and_is_no_token() {
    let reading = read("llama-cpp/chat_stream_progress");
    assert!(reading.roles.len() > 1);
    assert!(reading.content[0] >= reading.roles.len());
}

#[test]
fn what_is_never_a_token() {
    // A padding field, annotations without a choice or a delta, a named event, a signature, a
    // special token.
    for name in [
        "openai/chat_stream_obfuscation",
        "azure/chat_stream_async_filter",
        "sglang/chat_stream_ids_event",
        "tgi/generate_stream",
    ] {
        assert_eq!(read(name).content.len(), 9, "{name}");
    }
    assert_eq!(read("anthropic/messages_stream_thinking").content.len(), 5);
}

#[test]
fn a_tool_call_opening_that_has_only_a_name_is_a_token() {
    let reading = read("llama-cpp/scripted_tool_messages_stream");
    assert_eq!(reading.content.first(), Some(&1));
    assert_eq!(reading.tool_calls[&(0, 0)].0, "set_unit");
}

#[test]
fn an_echoed_prompt_in_a_chat_stream_is_no_token() {
    struct Tokens(usize);
    impl EventVisitor for Tokens {
        fn event(&mut self, event: &Event) {
            self.0 += usize::from(event.kinds.is_token());
        }
    }
    let stream = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"the prompt\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"first\"}}]}\n\n";
    for (echo, want) in [(true, 1), (false, 2)] {
        let mut tokens = Tokens(0);
        Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default())
            .expecting_echo(echo)
            .feed(stream, &mut tokens);
        assert_eq!(tokens.0, want);
    }
}

/// For each dialect: a role-only event, a reasoning event, a usage-only event, a ping and a
/// comment, and what they are.
#[test]
#[expect(clippy::too_many_lines, reason = "a table, a dialect a row")]
fn kinds_of_each_dialect() {
    #[derive(Default)]
    struct KeptEvents(Vec<Kinds>, usize);
    impl EventVisitor for KeptEvents {
        fn part(&mut self, _: Part<'_>) {}
        fn event(&mut self, event: &Event) {
            self.0.push(event.kinds);
        }
        fn comment(&mut self, _: usize) {
            self.1 += 1;
        }
    }
    const NONE: &str = "{}";
    let (role, reasoning, usage) = (0, 1, 2);
    for (dialect, framing, events) in [
        (
            Dialect::OpenAiChat,
            Framing::Sse,
            [
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            ],
        ),
        (
            Dialect::OpenAiCompletions,
            Framing::Sse,
            [
                NONE,
                r#"{"choices":[{"reasoning":"hm","index":0}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            ],
        ),
        (
            Dialect::OpenAiResponses,
            Framing::Sse,
            [
                r#"{"type":"response.output_item.added","item":{"type":"message","role":"assistant"}}"#,
                r#"{"delta":"hm","type":"response.reasoning_text.delta"}"#,
                r#"{"type":"response.in_progress","response":{"usage":null}}"#,
            ],
        ),
        (
            Dialect::Anthropic,
            Framing::Sse,
            [
                r#"{"type":"message_start","message":{"role":"assistant","content":[]}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
                r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":2}}"#,
            ],
        ),
        (
            Dialect::Ollama,
            Framing::Ndjson,
            [
                r#"{"message":{"role":"assistant","content":""},"done":false}"#,
                r#"{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
                r#"{"done":false,"prompt_eval_count":1,"eval_count":2}"#,
            ],
        ),
    ] {
        let mut kept = KeptEvents::default();
        let mut reader = Reader::new(dialect, framing, ReaderLimits::default());
        for event in events {
            let text = if framing == Framing::Sse {
                format!(": ping\nevent: ping\ndata: {event}\n\n")
            } else {
                format!("\n{event}\n")
            };
            reader.feed(text.as_bytes(), &mut kept);
        }
        let name = dialect.name();
        assert_eq!(kept.1, if framing == Framing::Sse { 3 } else { 0 }, "{name}: comments");
        assert!(!kept.0[role].is_token(), "{name}: role");
        assert_eq!(kept.0[role].is_role_only(), events[role] != NONE, "{name}: role");
        assert!(
            kept.0[reasoning].has(Kinds::REASONING) && kept.0[reasoning].is_token(),
            "{name}: reasoning"
        );
        assert!(!kept.0[usage].is_token(), "{name}: usage");
    }
}
