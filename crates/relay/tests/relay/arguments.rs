//! Arguments of tool calls under a guardrail: only values change, and what was JSON stays JSON.

use std::sync::{Arc, LazyLock};

use filters::Guardrail;
use relay::{Context, End};
use serde_json::{Value, json};
use wire::{Dialect, Framing};

use crate::guardrail::guarded;
use crate::script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run};

/// Arguments from the engine, and as the client gets them.
const ARGUMENTS: [(&str, &str); 11] = [
    (
        r#"{"konto":"wirt","passwd":"mo9!Rauchquarz","tisch":4}"#,
        r#"{"konto":"wirt","passwd":"[GENERIC_SECRET]","tisch":4}"#,
    ),
    (r#"{"api_key":"q7Zr-92kLmNo-tv5","tisch":4}"#, r#"{"api_key":"[GENERIC_SECRET]","tisch":4}"#),
    (r#"{"karte":5500000000000004,"tisch":4}"#, r#"{"karte":"[CREDIT_CARD]","tisch":4}"#),
    (
        r#"{"cmd":"curl --password \"mo9!Rauchquarz\" x"}"#,
        r#"{"cmd":"curl --password \"[GENERIC_SECRET]\" x"}"#,
    ),
    (
        r#"{"cmd":"export API_TOKEN=\"q7Zr92kLmNotv5x8\""}"#,
        r#"{"cmd":"export API_TOKEN=\"[GENERIC_SECRET]\""}"#,
    ),
    (r#"{"to":"joe\u0040mail.example.org"}"#, r#"{"to":"[EMAIL_ADDRESS]"}"#),
    (r#"{"to":"j\u00f6rg@b\u00fccher.de"}"#, r#"{"to":"[EMAIL_ADDRESS]"}"#),
    (
        r#"{"body":"{\"passwd\": \"mo9!Rauchquarz\", \"karte\": 5500000000000004}"}"#,
        r#"{"body":"{\"passwd\": \"[GENERIC_SECRET]\", \"karte\": \"[CREDIT_CARD]\"}"}"#,
    ),
    (
        r#"{"b":"[\"{\\\"to\\\":\\\"joe@mail.example.org\\\"}\"]"}"#,
        r#"{"b":"[\"{\\\"to\\\":\\\"[EMAIL_ADDRESS]\\\"}\"]"}"#,
    ),
    (r#"{"\u006aoe@mail.example.org":[1]}"#, r#"{"[EMAIL_ADDRESS]":[1]}"#),
    ("mail joe@mail.example.org", "mail [EMAIL_ADDRESS]"),
];

/// What the client gets, and the data of its events.
async fn relayed(dialect: Dialect, framing: Framing, body: String) -> (String, Vec<Value>) {
    let mut request = ScriptedRequest::new();
    static GUARDRAIL: LazyLock<Option<Arc<Guardrail>>> =
        LazyLock::new(|| guarded("output_pii: mask, output_secrets: mask").guardrail);
    let context = Context { guardrail: GUARDRAIL.clone(), ..context(dialect) };
    let (mut source, mut sink) = (
        ScriptedSource::new(framing, vec![Step::Read(body.into_bytes())]),
        ScriptedSink::new(Takes::All),
    );
    let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
    assert!(matches!(end, End::Complete), "{end:?}");
    let text = String::from_utf8(sink.taken).expect("text");
    let data = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let events = data.filter(|line| line.starts_with('{'));
    let events = events.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    (text, events)
}

fn chat(pieces: &[&str]) -> String {
    let event = |text: &str| {
        let call = json!({"index": 0, "function": {"arguments": text}});
        let choice = json!({"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": null});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n\
               data: [DONE]\n\n";
    pieces.iter().map(|piece| event(piece)).chain([end.to_owned()]).collect()
}

fn joined(events: &[Value], text: impl Fn(&Value) -> &Value) -> String {
    events.iter().map(|event| text(event).as_str().unwrap_or_default()).collect()
}

#[tokio::test(start_paused = true)]
async fn arguments_stay_json_wherever_they_are_cut() {
    let of = |e: &Value| e["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].clone();
    for (arguments, want) in ARGUMENTS {
        let mut cuts: Vec<Vec<&str>> = vec![vec![arguments]];
        cuts.extend((1..arguments.len()).map(|at| vec![&arguments[..at], &arguments[at..]]));
        cuts.push(arguments.split("").collect());
        for pieces in cuts {
            let (text, events) = relayed(Dialect::OpenAiChat, Framing::Sse, chat(&pieces)).await;
            let found: String =
                events.iter().map(|e| of(e).as_str().unwrap_or_default().to_owned()).collect();
            assert_eq!(found, want, "{pieces:?}\n{text}");
        }
    }
}

/// Two of them in one document, one also as text inside of a string, in pieces of any size.
#[tokio::test(start_paused = true)]
async fn what_parsed_before_parses_after_in_pieces_of_any_size() {
    let documents = ARGUMENTS.map(|(arguments, _)| serde_json::from_str::<Value>(arguments));
    let documents: Vec<Value> = documents.into_iter().flatten().collect();
    for (at, first) in documents.iter().enumerate() {
        let second = &documents[(at + 3) % documents.len()];
        let whole = json!({"list": [first, -5500000000000004i64, 0.5e-7, null, {}], "text": second.to_string(), "é": "\u{1f600}\\"});
        let whole = whole.to_string();
        for size in [1, 2, 3, 5, 8, 13, 34] {
            let chars: Vec<char> = whole.chars().collect();
            let pieces: Vec<String> = chars.chunks(size).map(|p| p.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (text, events) = relayed(Dialect::OpenAiChat, Framing::Sse, chat(&pieces)).await;
            let call = |e: &Value| e["choices"][0]["delta"]["tool_calls"][0]["function"].clone();
            let found: String = events
                .iter()
                .map(|e| call(e)["arguments"].as_str().unwrap_or_default().to_owned())
                .collect();
            assert!(serde_json::from_str::<Value>(&found).is_ok(), "{whole}\n{found}\n{text}");
            for value in ["Rauchquarz", "q7Zr", "5500000000000004", "joe", "b\u{fc}cher"] {
                assert!(!found.contains(value), "{value}: {found}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn arguments_stay_json_in_every_dialect() {
    for (arguments, want) in ARGUMENTS {
        let halves = [&arguments[..7], &arguments[7..]];
        let body: String = halves
            .iter()
            .map(|half| {
                let delta = json!({"type": "input_json_delta", "partial_json": half});
                let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
                format!("event: content_block_delta\ndata: {event}\n\n")
            })
            .chain(["event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned()])
            .collect();
        let (_, events) = relayed(Dialect::Anthropic, Framing::Sse, body).await;
        assert_eq!(joined(&events, |event| &event["delta"]["partial_json"]), want);

        let item = json!({"type": "function_call", "name": "f", "arguments": arguments});
        let body: String = halves
            .iter()
            .map(|half| json!({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": half}))
            .chain([json!({"type": "response.completed", "response": {"status": "completed", "output": [item]}})])
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        let (_, events) = relayed(Dialect::OpenAiResponses, Framing::Sse, body).await;
        assert_eq!(joined(&events, |event| &event["delta"]), want);
        let last = events.last().expect("an event");
        assert_eq!(last["response"]["output"][0]["arguments"], want);

        let call = json!({"function": {"name": "f", "arguments": arguments}});
        let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        let body =
            json!({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
        let (_, events) = relayed(Dialect::OpenAiChat, Framing::Json, body.to_string()).await;
        let call = &events[0]["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"], want);

        let Ok(object) = serde_json::from_str::<Value>(arguments) else { continue };
        let call = json!({"function": {"name": "f", "arguments": object}});
        let message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        let body = json!({"model": "m", "message": message, "done": false});
        let body =
            format!("{body}\n{}\n", json!({"model": "m", "done": true, "done_reason": "stop"}));
        let (_, events) = relayed(Dialect::Ollama, Framing::Ndjson, body).await;
        let found = &events[0]["message"]["tool_calls"][0]["function"]["arguments"];
        assert_eq!(*found, serde_json::from_str::<Value>(want).expect("JSON"), "{arguments}");
    }
}

/// With `json_numbers: keep`, the number stays and its finding is recorded.
#[tokio::test(start_paused = true)]
async fn numbers_are_kept_if_the_setting_says_so() {
    let body = chat(&["{\"karte\":55000000", "00000004,\"to\":\"joe@mail.example.org\"}"]);
    let mut request = ScriptedRequest::new();
    let context = guarded("output_pii: mask, json_numbers: keep");
    let (mut source, mut sink) = (
        ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]),
        ScriptedSink::new(Takes::All),
    );
    run(&mut request, context, &mut source, &mut sink, None).await;
    let text = String::from_utf8(sink.taken).expect("text");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: {"));
    let events: Vec<Value> =
        data.map(|data| serde_json::from_str(&format!("{{{data}")).expect("JSON")).collect();
    let found =
        joined(
            &events,
            |event| &event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"],
        );
    assert_eq!(found, "{\"karte\":5500000000000004,\"to\":\"[EMAIL_ADDRESS]\"}");
    assert_eq!(request.guarded.output.values().sum::<u64>(), 2, "{:?}", request.guarded);
}
