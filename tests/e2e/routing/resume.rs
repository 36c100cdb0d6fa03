//! Streams that are resumed after their backend fails, and those that cannot be.

use serde_json::json;

use super::*;

const WORDS: [&str; 8] = ["The ", "sea ", "is ", "wide,", " deep", " and", " c\\u00f6ld", "."];
const COMPLETIONS: &str = "/v1/completions";
const PROMPT: &str = "{\"model\":\"m\",\"stream\":true,\"prompt\":\"hi \"}";

/// A word of a text completion.
fn text(word: &str) -> String {
    format!(
        "data: {{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"choices\":[{{\"index\":0,\"text\":\"{word}\",\"finish_reason\":null}}]}}\n\n"
    )
}

/// An engine that continues the last message, if requested, or the prompt, and generates [`WORDS`]
/// in all. It fails after `dies_behind` words.
async fn reciter(dies_behind: Option<usize>) -> Engine {
    Engine::start(move |seen| {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let begun = body["messages"]
            .as_array()
            .and_then(|all| all.last())
            .filter(|last| last["role"] == "assistant");
        let said = begun.and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned();
        assert_eq!(
            begun.is_some(),
            body["continue_final_message"] == true && body["add_generation_prompt"] == false
        );
        let prompt = body["prompt"]
            .as_str()
            .map(|prompt| prompt.strip_prefix("hi ").expect("the prompt").to_owned());
        let word_event = if prompt.is_some() { text } else { sse::content };
        let said = prompt.unwrap_or(said);
        let plain = |word: &str| word.replace("\\u00f6", "ö");
        let mut length = 0;
        let known = WORDS
            .iter()
            .take_while(|word| {
                (length + plain(word).len() <= said.len())
                    .then(|| length += plain(word).len())
                    .is_some()
            })
            .count();
        assert_eq!(
            WORDS[..known].concat().replace("\\u00f6", "ö"),
            said,
            "nothing is repeated or lost"
        );
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        if body["prompt"].is_null() {
            steps.push(Step::chunk(sse::role()));
        }
        for (at, word) in WORDS.iter().enumerate().skip(known) {
            if dies_behind == Some(at) {
                // In the middle of the next event.
                steps.extend([Step::chunk(&word_event(word)[..60]), Step::ms(5), Step::Reset]);
                return steps;
            }
            steps.extend([Step::ms(3), Step::chunk(word_event(word))]);
        }
        steps.extend([
            Step::chunk(sse::finish()),
            // Previously generated text counts as prompt.
            Step::chunk(sse::usage(
                5 + said.len().div_ceil(4) as u64,
                (WORDS.len() - known) as u64,
            )),
            Step::chunk(sse::done()),
            Step::end(),
        ]);
        steps
    })
    .await
}

/// Text of a stream, number of roles, and whether it has an error.
fn heard(text: &str) -> (String, usize, bool) {
    let events: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")))
        .collect();
    let text = |event: &serde_json::Value| {
        let choice = &event["choices"][0];
        choice["delta"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned)
    };
    let said = events.iter().filter_map(text).collect();
    let roles =
        events.iter().filter(|event| event["choices"][0]["delta"]["role"].is_string()).count();
    (said, roles, events.iter().any(|event| event["error"].is_object()))
}

/// The usage that the client received.
fn usage_of(text: &str) -> Option<serde_json::Value> {
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut events = events.filter_map(|data| serde_json::from_str(data).ok());
    events.find_map(|event: serde_json::Value| event.get("usage").cloned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_the_death_of_its_backend() {
    for (route, marked) in
        [(", resume: on", false), (", resume: marked, include_usage: inject", true)]
    {
        let engines = [reciter(Some(3)).await, reciter(Some(6)).await, reciter(None).await];
        let engines: Vec<&Engine> = engines.iter().collect();
        // One pool each, so that the order is known.
        let urls: Vec<String> = engines.iter().map(|engine| engine.url()).collect();
        let gateway = Gateway::with_settings(&format!(
            "backends: [{{name: b0, url: '{}'}}, {{name: b1, url: '{}'}}, {{name: b2, url: '{}'}}]\n\
             pools: [{{name: p0, backends: [b0]}}, {{name: p1, backends: [b1]}}, {{name: p2, backends: [b2]}}]\n\
             routes: [{{name: r, pool: p0, fallback: [p1, p2]{route}, retries: {{min_per_second: 100}}}}]\n",
            urls[0], urls[1], urls[2]
        ))
        .await;
        let answer = ask(
            &gateway,
            CHAT,
            "x",
            &BODY.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":50"),
        )
        .await;
        let (said, roles, failed) = heard(&answer.text());
        assert_eq!(
            (said.as_str(), roles, failed),
            ("The sea is wide, deep and cöld.", 1, false),
            "{}",
            answer.text()
        );
        assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(answer.text().contains(": resumed by b1\n\n"), marked);
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!((record.outcome, record.backend.as_deref()), (Outcome::Ok, Some("b2")));
        let resumes: Vec<(&str, u64)> = record
            .routing
            .resumes
            .iter()
            .map(|resume| (&*resume.backend, resume.after_tokens))
            .collect();
        // The dead engine reported no usage, so each of its events counts as a token.
        assert_eq!(resumes, [("b1", 3), ("b2", 6)]);
        let usage = record.usage.as_ref().expect("usage");
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.estimated),
            (Some(6), Some(6 + 2), true)
        );
        assert!(usage.prompt_estimated);
        // The client sees the usage of the whole answer, if it gets any.
        let shown = json!({"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14});
        assert_eq!(usage_of(&answer.text()), (!marked).then_some(shown));
        assert_eq!(record.finish_reasons, ["stop"]);
        assert_eq!(record.ledger_us.total(), record.total_us);
        // The maximum tokens are reduced by those already generated.
        let bodies: Vec<serde_json::Value> = engines
            .iter()
            .map(|engine| serde_json::from_slice(&engine.seen()[0].body).expect("JSON"))
            .collect();
        assert_eq!(
            bodies.iter().map(|body| body["max_tokens"].as_u64()).collect::<Vec<_>>(),
            [Some(50), Some(47), Some(44)]
        );
    }
}

/// With resume off, for requests that cannot be resumed, and without another backend: the usual
/// error, and no regular end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_go_on_ends_with_an_error() {
    let with = |more: &str| BODY.replace("\"stream\":true", &format!("\"stream\":true{more}"));
    for (route, body, asked) in [
        ("", with(""), 1),
        (", resume: on", with(",\"response_format\":{\"type\":\"json_object\"}"), 1),
        (", resume: on", with(",\"logprobs\":true"), 1),
        (", resume: on", with(",\"n\":2"), 1),
        (
            ", resume: on",
            with(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
            1,
        ),
        // The second one fails at the same word.
        (", resume: on", with(""), 2),
    ] {
        let engines = [reciter(Some(3)).await, reciter(Some(3)).await];
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            route,
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", &body).await;
        let text = answer.text();
        assert!(!answer.complete && !text.contains("[DONE]"), "{route} {body}: {text}");
        let error = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str::<serde_json::Value>(data).ok())
            .find(|event| event["error"].is_object());
        assert!(error.is_some(), "{route} {body}: {text}");
        assert_eq!(
            engines.iter().map(|engine| engine.seen().len()).sum::<usize>(),
            asked,
            "{route} {body}"
        );
        settled(&gateway).await;
        assert_eq!(gateway.record("x").await.outcome, Outcome::UpstreamFailed);
    }
}

/// An engine whose worker dies reports it in the stream, and ends the body properly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_an_error_event_of_its_backend() {
    const ERROR: &str =
        r#"data: {"error":{"message":"EngineCore encountered an issue","code":500}}"#;
    for behind in ["data: [DONE]\n\n", ""] {
        let failing = Engine::start(move |_| {
            let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
            steps.extend(WORDS[..3].iter().map(|word| Step::chunk(sse::content(word))));
            let error = Step::chunk(format!("{ERROR}\n\n{behind}"));
            steps.extend([Step::ms(20), error, Step::end()]);
            steps
        })
        .await;
        let engines = [failing, reciter(None).await];
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            ", resume: on",
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert_eq!(
            heard(&answer.text()),
            ("The sea is wide, deep and cöld.".into(), 1, false),
            "{}",
            answer.text()
        );
        assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
        settled(&gateway).await;
        let record = gateway.record("x").await;
        let failed = &record.routing.failed_attempts[0];
        assert_eq!(
            (record.outcome, &*failed.backend, failed.code.as_str()),
            (Outcome::Ok, "b0", "http_500")
        );
        // Without another backend, the engine's own error is forwarded.
        let alone = Gateway::with_settings(&settings(&[&engines[0]], "", ", resume: on", "")).await;
        let answer = ask(&alone, CHAT, "x", BODY).await;
        assert!(answer.complete, "{}", answer.text());
        assert!(answer.text().ends_with(&format!("{ERROR}\n\n{behind}")), "{}", answer.text());
        assert_eq!(alone.record("x").await.outcome, Outcome::UpstreamError);
    }
}

/// An engine that ends its answer properly, but without a finish reason, has not finished it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_just_stops_is_resumed() {
    let stopping = Engine::start(|_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
        steps.extend(WORDS[..3].iter().map(|word| Step::chunk(sse::content(word))));
        steps.extend([Step::ms(20), Step::end()]);
        steps
    })
    .await;
    let engines = [stopping, reciter(None).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        ", resume: on",
        "",
    ))
    .await;
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert_eq!(
        heard(&answer.text()),
        ("The sea is wide, deep and cöld.".into(), 1, false),
        "{}",
        answer.text()
    );
    assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
    settled(&gateway).await;
    let record = gateway.record("x").await;
    let failed = &record.routing.failed_attempts[0];
    assert_eq!(
        (record.outcome, &*failed.backend, failed.code.as_str()),
        (Outcome::Ok, "b0", "incomplete_stream")
    );
    // Without another backend, the client gets an error and no regular end.
    let alone = Gateway::with_settings(&settings(&[&engines[0]], "", ", resume: on", "")).await;
    let answer = ask(&alone, CHAT, "x", BODY).await;
    let text = answer.text();
    assert_eq!(heard(&text), ("The sea is ".into(), 1, true), "{text}");
    assert!(!answer.complete && !text.contains("[DONE]"), "{text}");
    assert!(text.contains("\"incomplete_stream\""), "{text}");
}

/// A backend that dies when the answer is as long as the client permits leaves nothing to resume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_its_limit_ends_by_length() {
    let engines = [reciter(Some(6)).await, reciter(None).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        ", resume: on",
        "",
    ))
    .await;
    let body = BODY.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":6");
    let answer = ask(&gateway, CHAT, "x", &body).await;
    let text = answer.text();
    assert_eq!(heard(&text), ("The sea is wide, deep and".into(), 1, false), "{text}");
    assert!(text.contains("\"finish_reason\":\"length\"") && answer.complete, "{text}");
    assert!(engines[1].seen().is_empty());
}

/// Tokens of other languages are longer than eight bytes, and words may be longer than eight
/// characters: a stream below its limit is resumed whatever its words are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_long_words_is_resumed_below_its_limit() {
    for word in [" नमस्ते", " Geschwindigkeitsbegrenzung"] {
        let dying = Engine::start(move |_| {
            let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
            steps.extend((0..8).map(|_| Step::chunk(sse::content(word))));
            steps.extend([Step::ms(20), Step::Reset]);
            steps
        })
        .await;
        let ending = Engine::start(move |_| {
            let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content(word))];
            steps.extend([sse::finish(), sse::done()].map(Step::chunk));
            steps.push(Step::end());
            steps
        })
        .await;
        let gateway = Gateway::with_settings(&settings(
            &[&dying, &ending],
            ", balance: round_robin",
            ", resume: on",
            "",
        ))
        .await;
        let body = BODY.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":20");
        let answer = ask(&gateway, CHAT, "x", &body).await;
        assert_eq!(heard(&answer.text()), (word.repeat(9), 1, false), "{}", answer.text());
        let asked: serde_json::Value =
            serde_json::from_slice(&ending.seen()[0].body).expect("JSON");
        assert_eq!(asked["max_tokens"], 20 - 8, "{word}");
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!((record.outcome, record.routing.resumes[0].after_tokens), (Outcome::Ok, 8));
        let tokens = record.usage.as_ref().and_then(|usage| usage.completion_tokens);
        assert!(tokens.is_some_and(|tokens| (9..=20).contains(&tokens)), "{tokens:?}");
    }
}

/// A text completion is resumed with a longer prompt, which every engine supports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_survives_too() {
    let engines = [reciter(Some(3)).await, reciter(None).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        ", resume: on",
        "",
    ))
    .await;
    let answer = ask(
        &gateway,
        COMPLETIONS,
        "x",
        &PROMPT.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":50"),
    )
    .await;
    assert_eq!(
        heard(&answer.text()),
        ("The sea is wide, deep and cöld.".into(), 0, false),
        "{}",
        answer.text()
    );
    assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
    let shown = json!({"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13});
    assert_eq!(usage_of(&answer.text()), Some(shown));
    let second: serde_json::Value =
        serde_json::from_slice(&engines[1].seen()[0].body).expect("JSON");
    assert_eq!(
        (second["prompt"].as_str(), second["max_tokens"].as_u64()),
        (Some("hi The sea is "), Some(47))
    );
    settled(&gateway).await;
    let record = gateway.record("x").await;
    assert_eq!(
        (record.outcome, record.routing.resumes.len(), record.finish_reasons),
        (Outcome::Ok, 1, vec!["stop".to_owned()])
    );
}

/// An engine that cannot resume starts the answer over: the client does not receive text twice, in
/// whatever pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_starts_over_is_not_passed_on() {
    let anew = |words: usize, pause: u64| {
        Engine::start(move |_| {
            let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
            for word in &WORDS[..words] {
                steps.extend([Step::ms(pause), Step::chunk(sse::content(word))]);
            }
            steps.extend([
                Step::chunk(sse::finish()),
                Step::chunk(sse::usage(5, words as u64)),
                Step::chunk(sse::done()),
                Step::end(),
            ]);
            if pause > 0 { steps } else { at_once(steps) }
        })
    };
    for (words, pause) in [(WORDS.len(), 3), (WORDS.len(), 0), (5, 3)] {
        let engines = [reciter(Some(6)).await, anew(words, pause).await];
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            ", resume: on",
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert_eq!(
            heard(&answer.text()),
            ("The sea is wide, deep and".into(), 1, true),
            "{}",
            answer.text()
        );
        assert!(
            !answer.complete
                && answer.text().contains("upstream_resume_failed")
                && !answer.text().contains("[DONE]"),
            "{}",
            answer.text()
        );
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::UpstreamFailed, Some("upstream_resume_failed"))
        );
        assert_eq!(record.ledger_us.total(), record.total_us);
        // Six events: discarded text has no tokens.
        assert_eq!(
            (record.usage.and_then(|usage| usage.completion_tokens), record.finish_reasons.len()),
            (Some(6), 0)
        );
        let failures = |backend: &str| {
            gateway.metric("llm_lens_backend_failures_total", &format!("backend=\"{backend}\""))
        };
        assert_eq!((failures("b0"), failures("b1")), (1.0, 0.0), "who cannot go on is not ill");
    }
}

/// The record, the log and the metrics tell why the last backend could not go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_resume_is_the_recorded_failure() {
    let refusing = |answer: &'static str| Engine::start(move |_| vec![Step::text(answer)]);
    let error = "data: {\"error\":{\"message\":\"cannot go on\",\"code\":500}}\n\n";
    let event: &'static str =
        format!("{}{:x}\r\n{error}\r\n0\r\n\r\n", sse::STREAM_HEAD, error.len()).leak();
    for (answer, code) in [
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}", "http_400"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}", "http_503"),
        (event, "http_500"),
    ] {
        let engines = [reciter(Some(3)).await, refusing(answer).await];
        let gateway = Gateway::with_settings(&settings(
            &[&engines[0], &engines[1]],
            ", balance: round_robin",
            ", resume: on",
            "",
        ))
        .await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert!(!answer.complete && answer.text().contains("error"), "{}", answer.text());
        settled(&gateway).await;
        let record = gateway.record("x").await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref(), record.backend.as_deref()),
            (Outcome::UpstreamFailed, Some(code), Some("b1")),
            "{record:?}"
        );
        let log = gateway.stderr();
        let line = log.lines().find(|line| line.contains("backend=b1")).unwrap_or_default();
        assert!(line.contains(&format!("code={code}")), "{log}");
    }
}

/// All writes in one, without the pauses.
fn at_once(steps: Vec<Step>) -> Vec<Step> {
    let written = steps
        .into_iter()
        .filter_map(|step| if let Step::Write(bytes) = step { Some(bytes) } else { None });
    vec![Step::Write(written.flatten().collect())]
}
