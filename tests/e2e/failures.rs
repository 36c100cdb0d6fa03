//! Failures of engines and clients: what the client gets, and what the record has. Long because it
//! is a list: one test for each failure.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use kit::client::{CHAT, CHAT_STREAM, post};
use kit::{Client, Engine, Gateway, Step, sse};
use lens::record::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::accept;
use crate::support::{
    ask, eventually, field, id, in_time, last_data, read_until, settings, settled, short_chat,
    tarpit, with_length,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_listen_is_a_502() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let address = engine.address;
    drop(engine);
    eventually("the port is free", || std::net::TcpStream::connect(address).is_err()).await;
    let gateway = Gateway::in_front_of(&format!("http://{address}")).await;
    let answer = ask(&gateway, "/v1/chat/completions", "no-backend", CHAT_STREAM).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (502, "upstream_connect_failed"));
    assert_eq!(answer.field("x-request-id"), Some("no-backend"));
    assert!(
        !answer.text().contains(&address.port().to_string()),
        "an address of the operator's side: {}",
        answer.text()
    );
    let record = gateway.record("no-backend").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref(), record.http_status),
        (Outcome::UpstreamFailed, Some("upstream_connect_failed"), Some(502))
    );
}

/// Log lines of failed calls name the backend, the route and the request, and a dead backend does
/// not fill the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_calls_are_logged_with_their_backend_and_at_most_once_a_second() {
    const FAILED: usize = 200;
    let dead = Engine::start(|_| sse::chat_answer()).await;
    let address = dead.address;
    drop(dead);
    eventually("the port is free", || std::net::TcpStream::connect(address).is_err()).await;
    let dying = Engine::start(|_| {
        vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("x")), Step::Close]
    })
    .await;
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: dead, url: 'http://{address}', models: [a]}}, {{name: dying, url: '{}', models: [b]}}, {{name: gone, url: 'http://{address}'}}]\nroutes: [{{name: other, backend: gone, match: {{path: /tokenize}}}}, {{name: lost, backend: dead, match: {{models: [a]}}}}, {{name: broken, backend: dying}}]\n",
        dying.url()
    ))
    .await;
    let began = Instant::now();
    for number in 0..FAILED {
        let answer =
            ask(&gateway, "/v1/chat/completions", &format!("r{number}"), &model("a", CHAT_STREAM))
                .await;
        assert_eq!(answer.status, 502);
    }
    let seconds = began.elapsed().as_secs() as usize + 2;
    let lines = |what: &str| -> Vec<String> {
        gateway.stderr().lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    };
    // The line of the start, that it does not accept connections yet, is another one.
    let failed = || {
        let mut all = lines("backend=dead");
        all.retain(|line| line.contains("code="));
        all
    };
    eventually("a line", || !failed().is_empty()).await;
    let all = failed();
    assert!(all.len() <= seconds, "{} lines in {seconds} s", all.len());
    for part in ["WARN", "route=lost", "code=upstream_connect_failed", "refused", "request_id=r0"] {
        assert!(all[0].contains(part), "{part}: {}", all[0]);
    }
    // A line of the next second has the number of those that were suppressed.
    let mut asked = FAILED;
    while lines("suppressed=").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", failed());
        ask(&gateway, "/v1/chat/completions", "late", &model("a", CHAT_STREAM)).await;
        asked += 1;
    }
    let suppressed: usize = lines("suppressed=")
        .iter()
        .filter_map(|line| {
            line.split("suppressed=").nth(1)?.split(' ').next()?.parse::<usize>().ok()
        })
        .sum();
    let counted = suppressed + failed().len();
    assert!((FAILED..=asked).contains(&counted), "{counted} of {asked}");
    // An engine that dies in mid-stream, and a request that is not inference.
    ask(&gateway, "/v1/chat/completions", "torn", &model("b", CHAT_STREAM)).await;
    ask(&gateway, "/tokenize", "passed", CHAT).await;
    for (backend, parts) in [
        ("backend=dying", ["route=broken", "code=upstream_died", "request_id=torn"]),
        ("backend=gone", ["route=other", "code=upstream_connect_failed", "request_id=passed"]),
    ] {
        eventually(backend, || {
            lines(backend).iter().any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }
    assert!(lines(" ERROR ").is_empty(), "{:?}", lines(" ERROR "));
}

/// A request body for another model.
fn model(name: &str, body: &str) -> String {
    let mut body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["model"] = name.into();
    body.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_answer_is_a_502_and_not_retried() {
    const CASES: [(&str, &str); 15] = [
        ("close", "upstream_closed"),
        ("reset", "upstream_closed"),
        ("half-a-head", "upstream_closed"),
        ("garbage", "upstream_invalid_response"),
        ("length-and-chunked", "upstream_invalid_response"),
        ("two-lengths", "upstream_invalid_response"),
        ("signed-length", "upstream_invalid_response"),
        ("unknown-coding", "upstream_invalid_response"),
        ("folded", "upstream_invalid_response"),
        ("switching", "upstream_invalid_response"),
        ("endless-head", "upstream_invalid_response"),
        ("status-000", "upstream_invalid_response"),
        ("status-099", "upstream_invalid_response"),
        ("status-600", "upstream_invalid_response"),
        ("endless-interim", "upstream_invalid_response"),
    ];
    let engine = Engine::start(|seen| {
        let ok = |fields: &str| {
            vec![Step::text(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}\r\n2\r\n{{}}\r\n0\r\n\r\n")), Step::Hang]
        };
        let status = |status: &str| {
            vec![Step::text(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n"))]
        };
        match id(seen) {
            "close" => vec![Step::Close],
            "reset" => vec![Step::Reset],
            "half-a-head" => vec![Step::text("HTTP/1.1 200 OK\r\ncontent-ty"), Step::Close],
            "garbage" => vec![Step::Write(b"\x16\x03\x01 what?\r\n\r\n".to_vec()), Step::Hang],
            "length-and-chunked" => ok("content-length: 2\r\ntransfer-encoding: chunked\r\n"),
            "two-lengths" => ok("content-length: 2\r\ncontent-length: 3\r\n"),
            "signed-length" => ok("content-length: +2\r\n"),
            "unknown-coding" => ok("transfer-encoding: gzip, chunked\r\n"),
            "folded" => ok("x-a: b\r\n c\r\ncontent-length: 2\r\n"),
            "switching" => vec![Step::text("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), Step::Hang],
            "status-000" => status("000"),
            "status-099" => status("099"),
            "status-600" => status("600"),
            "endless-interim" => vec![
                Step::text("HTTP/1.1 102 Processing\r\n\r\n".repeat(33)),
                Step::Hang,
            ],
            "endless-head" => vec![Step::text(format!("HTTP/1.1 200 OK\r\nx-a: {}", "a".repeat(128 << 10))), Step::Hang],
            other => panic!("{other}"),
        }
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for (case, code) in CASES {
        let answer = ask(&gateway, "/v1/chat/completions", case, CHAT_STREAM).await;
        assert_eq!(
            (answer.status, answer.error_code().as_str(), answer.complete),
            (502, code, true),
            "{case}: {}",
            answer.text()
        );
        let record = gateway.record(case).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::UpstreamFailed, Some(code)),
            "{case}"
        );
    }
    assert_eq!(engine.seen().len(), CASES.len(), "a request was sent twice");
    // A connection with an invalid answer is closed.
    eventually("all are closed", || engine.open() == 0).await;
}

/// A path, the engine's output before it fails, and the place of the error in the last event.
struct Dying {
    path: &'static str,
    content_type: &'static str,
    said: &'static str,
    code_at: &'static str,
}

const DYING: [Dying; 7] = [
    Dying {
        path: "/v1/chat/completions",
        content_type: "text/event-stream",
        said: "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n",
        code_at: "/error/code",
    },
    Dying {
        path: "/v1/completions",
        content_type: "text/event-stream",
        said: "data: {\"choices\":[{\"index\":0,\"text\":\"hi\"}]}\n\n",
        code_at: "/error/code",
    },
    Dying {
        path: "/v1/responses",
        content_type: "text/event-stream",
        said: "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"hi\"}\n\n",
        code_at: "/code",
    },
    Dying {
        path: "/v1/messages",
        content_type: "text/event-stream",
        said: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n",
        code_at: "/error/code",
    },
    Dying {
        path: "/api/chat",
        content_type: "application/x-ndjson",
        said: "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false}\n",
        code_at: "/code",
    },
    Dying {
        path: "/generate_stream",
        content_type: "text/event-stream",
        said: "data:{\"token\":{\"id\":1,\"text\":\"hi\",\"special\":false}}\n\n",
        code_at: "/code",
    },
    Dying {
        path: "/completion",
        content_type: "text/event-stream",
        said: "data: {\"content\":\"hi\",\"stop\":false}\n\n",
        code_at: "/error/reason",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_ends_in_an_error_event_of_its_dialect() {
    let engine = Engine::start(|seen| {
        let (way, at) = id(seen).split_once('-').expect("way-number");
        let dying = &DYING[at.parse::<usize>().expect("a number")];
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n",
            dying.content_type
        );
        let mut steps = vec![Step::text(head), Step::chunk(dying.said)];
        match way {
            "close" => steps.push(Step::Close),
            "reset" => steps.push(Step::Reset),
            "size" => steps.extend([Step::text("xyz\r\nnever\r\n"), Step::Hang]),
            "torn" => steps.extend([Step::chunk("data: {\"choi"), Step::Close]),
            _ => steps.extend([Step::text("ff\r\ndata: {\"to"), Step::Close]),
        }
        steps
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for way in ["close", "reset", "size", "torn", "chunk"] {
        for (number, dying) in DYING.iter().enumerate() {
            let id = format!("{way}-{number}");
            let answer = ask(&gateway, dying.path, &id, CHAT_STREAM).await;
            let text = answer.text();
            let what = format!("{way} {}: {text}", dying.path);
            assert_eq!((answer.status, answer.complete), (200, false), "{what}");
            assert!(
                text.starts_with(dying.said) && !text.contains("[DONE]") && text.ends_with('\n'),
                "{what}"
            );
            assert!(
                !text.contains("{\"choi\n") && !text.contains("{\"to\n"),
                "half an event: {what}"
            );
            let last = match dying.content_type {
                "text/event-stream" => {
                    assert!(text.ends_with("\n\n"), "{what}");
                    last_data(&text)
                }
                _ => serde_json::from_str(text.trim_end().lines().last().expect("a line"))
                    .expect("JSON"),
            };
            assert_eq!(
                last.pointer(dying.code_at).and_then(|c| c.as_str()),
                Some("upstream_died"),
                "{what}"
            );
            if matches!(dying.path, "/v1/responses" | "/v1/messages") {
                assert_eq!(last["type"], "error", "{what}");
                assert!(text.contains("event: error\ndata: "), "{what}");
            }
            let record = gateway.record(&id).await;
            assert_eq!(
                (record.outcome, record.error_code.as_deref(), record.content_events),
                (Outcome::UpstreamFailed, Some("upstream_died"), Some(1)),
                "{what}"
            );
        }
    }
    assert_eq!(engine.seen().len(), 5 * DYING.len(), "a request was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_a_length_that_breaks_off_never_looks_complete() {
    // The missing part is shorter than any error event: an error event must not complete the
    // length.
    let engine = Engine::start(|_| {
        let body = short_chat();
        let Step::Write(mut all) = with_length(&body) else { unreachable!() };
        all.truncate(all.len() - 8);
        vec![Step::Write(all), Step::Close]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: length\r\n", CHAT_STREAM).await;
    let answer = client.answer().await;
    assert_eq!(gateway.record("length").await.outcome, Outcome::UpstreamFailed);
    let length: usize =
        answer.field("content-length").map_or(usize::MAX, |l| l.parse().expect("a number"));
    assert!(
        !answer.complete,
        "the client takes this for the whole answer of {length} bytes: {}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_json_answer_gets_no_error_event() {
    const TRUNK: &str = "{\"choices\":[{\"index\":0,\"mess";
    let engine = Engine::start(|seen| {
        let frame = match id(seen) {
            "length" => format!("content-length: 500\r\n\r\n{TRUNK}"),
            "chunked" => {
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{TRUNK}\r\n", TRUNK.len())
            }
            "ended" => {
                let len = TRUNK.len();
                format!("transfer-encoding: chunked\r\n\r\n{len:x}\r\n{TRUNK}\r\n0\r\n\r\n")
            }
            _ => format!("connection: close\r\n\r\n{TRUNK}"),
        };
        vec![
            Step::text(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{frame}")),
            Step::Close,
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for case in ["length", "chunked", "ended", "until-close"] {
        let answer = ask(&gateway, "/v1/chat/completions", case, CHAT).await;
        assert_eq!((answer.complete, answer.text().as_str()), (false, TRUNK), "{case}");
        let record = gateway.record(case).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::UpstreamFailed, Some("upstream_died")),
            "{case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_engine_inside_a_stream_passes_and_is_recorded() {
    const ERRORS: [(&str, &str); 3] = [
        (
            "word",
            r#"data: {"error":{"message":"out of memory","type":"server_error","code":"oom"}}"#,
        ),
        (
            "kind",
            r#"data: {"error":{"message":"out of memory","type":"server_error","code":null}}"#,
        ),
        (
            "number",
            r#"data: {"error":{"message":"out of memory","type":"server_error","code":507}}"#,
        ),
    ];
    let stream = |case: &str| {
        let error = ERRORS.iter().find(|(name, _)| *name == case).expect("a case").1;
        sse::role() + &sse::content("x") + error + "\n\n" + &sse::done()
    };
    let engine = Engine::start(move |seen| {
        vec![Step::text(sse::STREAM_HEAD), Step::chunk(stream(id(seen))), Step::end()]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for (case, code, own) in [
        ("word", "http_500", "oom"),
        ("kind", "http_500", "server_error"),
        ("number", "http_507", "507"),
    ] {
        let answer = ask(&gateway, "/v1/chat/completions", case, CHAT_STREAM).await;
        assert_eq!((answer.status, answer.complete, answer.text()), (200, true, stream(case)));
        let record = gateway.record(case).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref(), record.engine_error.as_deref()),
            (Outcome::UpstreamError, Some(code), Some(own)),
            "{case}"
        );
        assert_eq!((record.events, record.content_events), (Some(4), Some(1)), "{case}");
    }
}

/// Official clients hang up when they read an error event. The backend has failed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_engine_counts_though_the_client_leaves() {
    let error =
        r#"data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}"#;
    let engine = Engine::start(move |_| {
        vec![
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::role() + &sse::content("x")),
            Step::chunk(format!("{error}\n\n")),
            Step::AwaitClose(Duration::from_secs(20)),
        ]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: leaves\r\n", CHAT_STREAM).await;
    read_until(&mut client, "EngineCore died").await;
    drop(client);
    let record = gateway.record("leaves").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::UpstreamError, Some("http_500"))
    );
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", "backend=\"default\""), 1.0);
}

/// The same where the error is the answer's status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_status_counts_though_the_client_leaves() {
    let head = "HTTP/1.1 500 X\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n";
    let engine = Engine::start(move |_| {
        vec![Step::text(format!("{head}{{\"error\":")), Step::AwaitClose(Duration::from_secs(20))]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: leaves\r\n", CHAT).await;
    read_until(&mut client, "HTTP/1.1 500").await;
    drop(client);
    let record = gateway.record("leaves").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::UpstreamError, Some("http_500"))
    );
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", "backend=\"default\""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_answers_of_the_engine_pass_unchanged() {
    const STATUSES: [u16; 8] = [400, 401, 404, 422, 429, 500, 503, 529];
    // The code of a refusal is its status, whatever the engine calls it.
    let body = |status: u16| match status {
        400 => ("application/json", "{\"error\":{\"message\":\"no\",\"code\":400}}".to_owned()),
        429 => (
            "application/json",
            "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"no\"}}"
                .to_owned(),
        ),
        _ if status.is_multiple_of(2) => ("text/html; charset=utf-8", format!("<h1>{status}</h1>")),
        _ => ("application/json", format!("{{ \"status\" : {status} }}")),
    };
    let own = |status: u16| match status {
        400 => Some("400"),
        429 => Some("rate_limit_error"),
        _ => None,
    };
    let engine = Engine::start(move |seen| {
        let status: u16 = id(seen).parse().expect("a status");
        let (content_type, body) = body(status);
        vec![Step::text(format!("HTTP/1.1 {status} Whatever\r\ncontent-type: {content_type}\r\nretry-after: 7\r\nwww-authenticate: Bearer\r\ncontent-length: {}\r\n\r\n{body}", body.len()))]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let mut client = gateway.client().await;
    for status in STATUSES {
        let (content_type, body) = body(status);
        client
            .post("/v1/chat/completions", &format!("x-request-id: {status}\r\n"), CHAT_STREAM)
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text(), answer.complete), (status, body, true));
        assert_eq!(
            (
                answer.field("content-type"),
                answer.field("retry-after"),
                answer.field("www-authenticate")
            ),
            (Some(content_type), Some("7"), Some("Bearer"))
        );
        let record = gateway.record(&status.to_string()).await;
        assert_eq!(
            (record.outcome, record.error_code, record.http_status),
            (Outcome::UpstreamError, Some(format!("http_{status}")), Some(status))
        );
        assert_eq!(record.engine_error.as_deref(), own(status));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_just_stops_is_incomplete() {
    let engine = Engine::start(|seen| {
        let text = sse::role() + &sse::content("x");
        match id(seen) {
            "chunked" => vec![Step::text(sse::STREAM_HEAD), Step::chunk(text), Step::end()],
            "empty" => vec![Step::text(sse::STREAM_HEAD), Step::end()],
            "finished" => vec![Step::text(sse::STREAM_HEAD), Step::chunk(text + &sse::finish()), Step::end()],
            _ => vec![
                Step::text("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"),
                Step::text(text),
                Step::Close,
            ],
        }
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for case in ["chunked", "empty", "until-close"] {
        let answer = ask(&gateway, "/v1/chat/completions", case, CHAT_STREAM).await;
        assert_eq!((answer.status, answer.complete), (200, false), "{case}: {}", answer.text());
        assert_eq!(last_data(&answer.text())["error"]["code"], "incomplete_stream", "{case}");
        let record = gateway.record(case).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::UpstreamError, Some("incomplete_stream")),
            "{case}"
        );
    }
    // Some engines never send [DONE]; a finish reason is an end, too.
    ask(&gateway, "/v1/chat/completions", "finished", CHAT_STREAM).await;
    assert_eq!(gateway.record("finished").await.outcome, Outcome::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wait_has_a_timeout() {
    let engine = Engine::start(|seen| match id(seen) {
        "first" => vec![Step::Hang],
        "between" => vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("x")), Step::Hang],
        "silent" => vec![
            Step::text(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
            ),
            Step::Hang,
        ],
        _ => {
            let mut steps = vec![Step::text(sse::STREAM_HEAD)];
            (0..2000).for_each(|_| steps.extend([Step::ms(10), Step::chunk(sse::content("x"))]));
            steps
        }
    })
    .await;
    let route = |name: &str, timeouts: &str| {
        format!(
            "{{name: {name}, backend: e, match: {{headers: {{x-route: {name}}}}}, timeouts: {{{timeouts}}}}}"
        )
    };
    let routes = [
        route("first", "first_byte: 200ms"),
        route("between", "between_events: 200ms"),
        route("total", "total: 400ms"),
    ]
    .join(", ");
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: e, url: '{}'}}]\nroutes: [{routes}]\n",
        engine.url()
    ))
    .await;
    let ask = async |id: &str, route: &str| {
        let mut client = gateway.client().await;
        client
            .post(
                "/v1/chat/completions",
                &format!("x-request-id: {id}\r\nx-route: {route}\r\n"),
                CHAT_STREAM,
            )
            .await;
        let answer = client.answer().await;
        let record = gateway.record(id).await;
        assert_eq!(record.outcome, Outcome::Timeout, "{record:?}");
        (answer, record)
    };

    let (answer, record) = ask("first", "first").await;
    assert_eq!(
        (answer.status, answer.error_code().as_str(), answer.complete),
        (504, "upstream_first_byte_timeout", true)
    );
    assert_eq!(record.error_code.as_deref(), Some("upstream_first_byte_timeout"));
    assert!(record.total_us >= 200_000, "{record:?}");

    let (answer, record) = ask("between", "between").await;
    assert_eq!((answer.status, answer.complete), (200, false));
    assert!(answer.text().starts_with(&sse::content("x")));
    assert_eq!(last_data(&answer.text())["error"]["code"], "upstream_idle_timeout");
    assert_eq!(
        (record.error_code.as_deref(), record.content_events),
        (Some("upstream_idle_timeout"), Some(1))
    );

    // Not an event stream: no error event is added.
    let (answer, _) = ask("silent", "between").await;
    assert_eq!((answer.complete, answer.text().as_str()), (false, "{"));

    let (answer, record) = ask("total", "total").await;
    assert_eq!((answer.status, answer.complete), (200, false));
    assert_eq!(last_data(&answer.text())["error"]["code"], "total_timeout");
    assert!(record.total_us >= 400_000 && record.content_events > Some(1), "{record:?}");
    // The engine stops generating.
    eventually("the engine is left", || engine.closed_early() == 4).await;
}

/// Dialects that stream without being told to have the timeout of the first token as well: empty
/// events and pings do not extend it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_by_default_have_a_timeout_for_the_first_token() {
    let engine = Engine::start(|seen| {
        let (content_type, event) = match seen.head.starts_with("POST /api/chat ") {
            true => (
                "application/x-ndjson",
                "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n",
            ),
            false => ("text/event-stream", ": ping\n\n"),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let mut steps = vec![Step::text(head)];
        (0..2000).for_each(|_| steps.extend([Step::ms(20), Step::chunk(event)]));
        steps
    })
    .await;
    let timeouts = "timeouts: {first_token: 300ms}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", timeouts)).await;
    for (id, path, body) in
        [("ollama", "/api/chat", CHAT), ("tgi", "/generate_stream", "{\"inputs\":\"hello\"}")]
    {
        let answer = ask(&gateway, path, id, body).await;
        assert!(!answer.complete, "{id}: {}", answer.text());
        assert!(answer.text().contains("upstream_first_token_timeout"), "{id}: {}", answer.text());
        let record = gateway.record(id).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref(), record.stream),
            (Outcome::Timeout, Some("upstream_first_token_timeout"), true),
            "{record:?}"
        );
    }
    eventually("the engine is left", || engine.closed_early() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_has_a_timeout() {
    let (address, _full) = tarpit().await;
    let gateway = Gateway::with_settings(&settings(
        &format!("http://{address}"),
        "",
        "",
        "timeouts: {connect: 200ms}",
    ))
    .await;
    let answer = ask(&gateway, "/v1/chat/completions", "tar", CHAT).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (504, "upstream_connect_timeout"));
    let record = gateway.record("tar").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::Timeout, Some("upstream_connect_timeout"))
    );
    assert!(record.ledger_us.micros(lens::State::Connect) >= 200_000, "{record:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut() {
    let engine = Engine::start(|_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD)];
        (0..64).for_each(|_| steps.push(Step::chunk(sse::content(&"x".repeat(512 << 10)))));
        steps.push(Step::Hang);
        steps
    })
    .await;
    let gateway = Gateway::with_settings(&settings(
        &engine.url(),
        "",
        ", timeouts: {client_write: 300ms}",
        "",
    ))
    .await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: deaf\r\n", CHAT_STREAM).await;
    let record = gateway.record("deaf").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::Timeout, Some("client_write_timeout"))
    );
    eventually("the engine is left", || engine.closed_early() == 1).await;
    settled(&gateway).await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_does_not_use_up_the_wait_for_the_first_byte() {
    // An engine that reads a large body late, so that it stays in the socket buffers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::RcvBuf, &(64 << 10))
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    const BODY: usize = 16 << 20;
    tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (mut sink, mut read) = (vec![0; 64 << 10], 0);
        while read < BODY {
            match socket.read(&mut sink).await {
                Ok(n) if n > 0 => read += n,
                _ => return,
            }
        }
        let Step::Write(answer) = sse::chat_answer().remove(0) else { unreachable!() };
        socket.write_all(&answer).await.unwrap();
        std::future::pending::<()>().await;
    });
    let gateway =
        Gateway::with_settings(&settings(&url, "", ", timeouts: {first_byte: 1500ms}", "")).await;
    let (head, tail) =
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]}");
    let body = format!("{head}{}{tail}", "x".repeat(BODY - head.len() - tail.len()));
    let request = post("/v1/chat/completions", "x-request-id: slow\r\n", &body);
    let mut client = gateway.client().await;
    client.send(&request[..1000]).await;
    // The upload takes longer than the timeout for the first byte, which does not include it.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    client.send(&request[1000..]).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_is_disconnected() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(
        &engine.url(),
        "",
        "",
        "timeouts: {request_head: 200ms, request_body: 200ms}",
    ))
    .await;
    let mut head = gateway.client().await;
    head.send("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-a: ").await;
    let answer = head.answer().await;
    assert_eq!(
        (answer.status, answer.error_code().as_str(), answer.field("connection")),
        (408, "request_timeout", Some("close"))
    );
    let mut body = gateway.client().await;
    body.send("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-request-id: dawdle\r\ncontent-length: 10\r\n\r\n{").await;
    let answer = body.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (408, "request_timeout"));
    assert_eq!(gateway.record("dawdle").await.outcome, Outcome::Timeout);
    assert!(engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_the_engine_closed_costs_no_request() {
    // The first answer's connection is closed: at once, or only when the next request has come.
    let engine = Engine::start(|seen| {
        let mut steps = sse::chat_answer();
        match id(seen) {
            "a" => steps.push(Step::Close),
            "c" => steps = vec![Step::Close],
            "reset" => steps = vec![Step::Reset],
            _ => {}
        }
        steps
    })
    .await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", "workers: 1")).await;
    let mut client = gateway.client().await;
    let ask = async |client: &mut Client, id: &str| {
        client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), CHAT).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.complete), (200, true), "{id}: {}", answer.text());
        assert_eq!(gateway.record(id).await.outcome, Outcome::Ok);
        answer
    };
    ask(&mut client, "a").await;
    eventually("the engine has closed", || engine.open() == 0).await;
    ask(&mut client, "b").await;
    let seen: Vec<_> = engine.seen().iter().map(|s| (id(s).to_owned(), s.connection)).collect();
    assert_eq!(seen, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    // The engine received the request and may have run it, so it is not sent again.
    client.post("/v1/chat/completions", "x-request-id: c\r\n", CHAT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (502, "upstream_closed"));
    assert_eq!(
        answer.field("connection"),
        None,
        "the client's connection has nothing to do with it"
    );
    assert_eq!(engine.seen().iter().filter(|seen| id(seen) == "c").count(), 1);
    ask(&mut client, "d").await;
    // A reset may come before the engine's host has acknowledged what the engine has read.
    client.post("/v1/chat/completions", "x-request-id: reset\r\n", CHAT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (502, "upstream_closed"));
    assert_eq!(engine.seen().iter().filter(|seen| id(seen) == "reset").count(), 1);
    assert_eq!(gateway.records().len(), 5);
}

/// The client gets what the head announced, and the record has that the document is not whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_answer_that_ends_inside_its_document_is_not_a_success() {
    let engine = Engine::start(|_| sse::json(200, "{\"choices\":[{\"message\":{\"con")).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let answer = ask(&gateway, "/v1/chat/completions", "cut", CHAT).await;
    assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
    let record = gateway.record("cut").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::UpstreamError, Some("incomplete_answer"))
    );
}

/// llama-server announces that it keeps a connection, and closes it milliseconds after a stream. A
/// connection that another stream left before is used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_close_soon_after_a_stream_cost_no_request() {
    const REQUESTS: usize = 20;
    let closing = Engine::start(|_| {
        let mut steps = sse::stream(2, 0);
        steps.extend([Step::ms(5), Step::Close]);
        steps
    })
    .await;
    let keeping = Engine::start(|_| sse::stream(2, 40)).await;
    for (engine, connections) in [(&closing, REQUESTS..=REQUESTS), (&keeping, 1..=3)] {
        let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", "workers: 1")).await;
        let mut client = gateway.client().await;
        for _ in 0..REQUESTS {
            client.post("/v1/chat/completions", "", CHAT_STREAM).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
        }
        let seen: HashSet<usize> = engine.seen().iter().map(|seen| seen.connection).collect();
        assert!(connections.contains(&seen.len()), "{} connections", seen.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_with_surplus_bytes_is_not_reused() {
    const SMUGGLED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    let engine = Engine::start(|seen| {
        let Step::Write(mut answer) = sse::chat_answer().remove(0) else { unreachable!() };
        let stream =
            || [sse::STREAM_HEAD, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"].concat().into_bytes();
        match id(seen) {
            "length" => answer.extend_from_slice(SMUGGLED.as_bytes()),
            "chunked" => answer = [stream(), SMUGGLED.into()].concat(),
            "empty" => {
                answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{SMUGGLED}").into_bytes()
            }
            "later" => return vec![Step::Write(answer), Step::ms(50), Step::text(SMUGGLED)],
            _ => {}
        }
        vec![Step::Write(answer)]
    })
    .await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", "workers: 1")).await;
    let mut client = gateway.client().await;
    for (number, case) in ["length", "chunked", "empty", "later"].into_iter().enumerate() {
        client.post("/v1/chat/completions", &format!("x-request-id: {case}\r\n"), CHAT).await;
        let answer = client.answer().await;
        assert!(answer.complete && !answer.text().contains("wrong"), "{case}: {}", answer.text());
        if case == "later" {
            // The connection is closed at the next read.
            eventually("swept", || engine.open() == 0).await;
        }
        assert_eq!(
            engine.seen().last().map(|s| s.connection),
            Some(number),
            "{case}: a connection was used again"
        );
    }
    client.post("/v1/chat/completions", "x-request-id: last\r\n", CHAT).await;
    assert_eq!(client.answer().await.json()["id"], "c1");
    assert_eq!(engine.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_engine_outlive_those_of_clients() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for _ in 0..20 {
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", "connection: close\r\n", CHAT).await;
        let answer = client.answer().await;
        assert!(answer.complete);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.is_closed_within(Duration::from_secs(5)).await);
        // The connection is given back after the client has its answer.
        settled(&gateway).await;
    }
    let most = engine.seen().iter().map(|s| s.connection).max().unwrap() + 1;
    assert!(most <= 2, "{most} connections for 20 requests through 2 workers");
    assert!(
        engine.seen().iter().all(|s| field(&s.head, "connection").is_none_or(|v| v != "close"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_takes_no_more_than_its_connections() {
    let engine = Engine::start(|seen| match id(seen) {
        "holds" => {
            vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("held")), Step::Hang]
        }
        _ => sse::chat_answer(),
    })
    .await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), ", max_connections: 1", "", "")).await;
    let mut holder = gateway.client().await;
    holder.post("/v1/chat/completions", "x-request-id: holds\r\n", CHAT_STREAM).await;
    read_until(&mut holder, "held").await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: refused\r\n", CHAT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (503, "backend_busy"));
    assert!(answer.field("retry-after").is_some());
    let record = gateway.record("refused").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::Rejected, Some("backend_busy"))
    );
    assert_eq!(engine.seen().len(), 1);
    drop(holder);
    gateway.record("holds").await;
    // The refused client may try again on the same connection.
    client.post("/v1/chat/completions", "", CHAT).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_over_the_limit_does_not_reach_the_engine() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), "", "", "limits: {request_body: 64KiB}"))
            .await;
    let body = "x".repeat(200 << 10);
    let chunked: String = (0..25)
        .map(|i| format!("2000\r\n{}\r\n", &body[i * 8192..][..8192]))
        .chain(["0\r\n\r\n".into()])
        .collect();
    for (case, framing, body) in [
        ("length", format!("content-length: {}", body.len()), &body),
        ("chunked", "transfer-encoding: chunked".into(), &chunked),
    ] {
        let mut client = gateway.client().await;
        client.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-request-id: {case}\r\n{framing}\r\n\r\n{body}")).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.error_code().as_str(), answer.complete),
            (413, "request_too_large", true),
            "{case}"
        );
        assert_eq!(answer.field("connection"), Some("close"), "{case}");
        assert!(client.is_closed_within(Duration::from_secs(5)).await, "{case}");
        assert_eq!(gateway.record(case).await.outcome, Outcome::Rejected, "{case}");
    }
    // The largest that is allowed.
    let (head, tail) = ("{\"model\":\"m\",\"prompt\":\"", "\"}");
    let largest = format!("{head}{}{tail}", "x".repeat((64 << 10) - head.len() - tail.len()));
    assert!(engine.seen().is_empty());
    assert_eq!(ask(&gateway, "/v1/completions", "largest", &largest).await.status, 200);
    assert_eq!(engine.seen()[0].body, largest.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_100_continue_is_answered() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let head = |expect: &str, length: usize| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nexpect: {expect}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut client = gateway.client().await;
    client.send(head("100-continue", CHAT.len())).await;
    let mut interim = [0; 25];
    in_time(client.socket().read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(engine.seen().is_empty());
    client.send(CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    // A client that does not wait gets no 100 Continue.
    client.send(head("100-Continue", CHAT.len()) + CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    for seen in engine.seen() {
        assert_eq!((field(&seen.head, "expect"), seen.body.as_slice()), (None, CHAT.as_bytes()));
    }
    client.send(head("a-miracle", CHAT.len()) + CHAT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error_code().as_str()), (417, "expectation_failed"));
    // A body that is too large is refused without a 100 Continue.
    let mut client = gateway.client().await;
    client.send(head("100-continue", 1 << 30)).await;
    let began = Instant::now();
    let answer = client.answer().await;
    assert!(answer.status == 413 && began.elapsed() < Duration::from_secs(5));
    assert_eq!(engine.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answer_of_the_engine_is_forwarded() {
    // It refuses a large body by its head and closes without reading the rest.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut socket = accept(&listener).await;
        let mut some = [0; 1024];
        let _ = socket.read(&mut some).await;
        let _ = socket
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-type: text/plain\r\ncontent-length: 6\r\nconnection: close\r\n\r\nno way")
            .await;
        let _ = socket.shutdown().await;
        std::future::pending::<()>().await;
    });
    let gateway = Gateway::in_front_of(&url).await;
    let body = format!("{{\"model\":\"m\",\"prompt\":\"{}\"}}", "x".repeat(16 << 20));
    let answer = ask(&gateway, "/v1/completions", "early", &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no way"));
    let record = gateway.record("early").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::UpstreamError, Some("http_413"))
    );
}

/// Requests that are passed through count for `max_connections`, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passthrough_counts_for_max_connections() {
    let engine = Engine::start(|_| vec![Step::ms(400), sse::chat_answer().remove(0)]).await;
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), ", max_connections: 1", "", "")).await;
    let mut holder = gateway.client().await;
    holder.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually("the engine is asked", || engine.seen().len() == 1).await;
    for request in [
        post("/v1/chat/completions", "", CHAT),
        "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
    ] {
        let mut client = gateway.client().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error_code().as_str()), (503, "backend_busy"));
    }
    assert_eq!(holder.answer().await.status, 200);
    gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "") == 0.0).await;
    let mut client = gateway.client().await;
    client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(engine.seen().len(), 2);
}

/// RFC 6761 keeps `.invalid` for names that never have an address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_whose_name_has_no_address_is_a_502() {
    for backend in ["", ", http2: true"] {
        let gateway =
            Gateway::with_settings(&settings("http://engine.invalid:8000", backend, "", "")).await;
        for request in [
            post("/v1/chat/completions", "", CHAT),
            "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ] {
            let mut client = gateway.client().await;
            client.send(request).await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status, answer.error_code().as_str()),
                (502, "upstream_connect_failed"),
                "{backend}"
            );
        }
        assert_eq!(gateway.metric("llm_lens_panics_total", ""), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passthrough_has_timeouts() {
    let large = "x".repeat(32 << 20);
    let engine = Engine::start(move |seen| match seen.head.contains("/silent") {
        true => vec![Step::ms(20_000)],
        false => sse::json(200, &large),
    })
    .await;
    // Two gateways: filling the socket buffers takes time on a busy machine, which must not count
    // for the silent backend.
    for (id, timeouts, code) in [
        ("large", "client_write: 500ms", "client_write_timeout"),
        ("silent", "total: 1s", "total_timeout"),
    ] {
        let gateway = Gateway::with_settings(&settings(
            &engine.url(),
            "",
            "",
            &format!("timeouts: {{{timeouts}}}"),
        ))
        .await;
        let mut never_reads = gateway.client().await;
        never_reads
            .send(&format!("GET /{id} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n"))
            .await;
        let record = gateway.record(id).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::Timeout, Some(code)),
            "{record:?}"
        );
        assert!(record.total_us < 3_000_000, "{record:?}");
    }
}
