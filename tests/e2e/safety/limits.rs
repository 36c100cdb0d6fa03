//! Slow, large and malformed input: every wait and every size is bounded.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_ended_and_others_are_served() {
    let origin = Origin::start().await;
    let gateway =
        Gateway::with_settings(&settings(&origin.url(), "timeouts: {request_head: 300ms}")).await;
    let address = gateway.address();
    let mut slow = Vec::new();
    for path in WAYS {
        for _ in 0..20 {
            slow.push(tokio::spawn(async move {
                let mut socket = TcpStream::connect(address).await.unwrap();
                let begun = Instant::now();
                for byte in post(path, "", CHAT).bytes() {
                    if socket.write_all(&[byte]).await.is_err()
                        || begun.elapsed() > Duration::from_secs(2)
                    {
                        break;
                    }
                    let mut bytes = [0; 1024];
                    if let Ok(Ok(n)) =
                        tokio::time::timeout(Duration::from_millis(50), socket.read(&mut bytes))
                            .await
                    {
                        return (
                            begun.elapsed(),
                            String::from_utf8_lossy(&bytes[..n]).into_owned(),
                        );
                    }
                }
                panic!("{path}: still taken after {:?}", begun.elapsed());
            }));
        }
    }
    for _ in 0..5 {
        assert_eq!(try_chat(address, CHAT).await, Ok(200));
    }
    for one in slow {
        let (_, text) = one.await.unwrap();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    assert!(origin.take().iter().all(|(_, body)| body == CHAT.as_bytes()));
    nothing_in_flight(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_head_is_ended_at_every_position() {
    let origin = Origin::start().await;
    let gateway = Gateway::with_settings(&settings(
        &origin.url(),
        "timeouts: {request_head: 300ms, idle: 20s}",
    ))
    .await;
    let mut left_open = Vec::new();
    for piece in [
        "G",
        "GET",
        "GET ",
        "GET / HTTP/1.1\r\nhost",
        "P",
        "PRI ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
    ] {
        let mut client = gateway.client().await;
        client.send(piece).await;
        left_open.push((
            piece,
            tokio::spawn(async move { client.is_closed_within(Duration::from_secs(3)).await }),
        ));
    }
    let mut wrong = Vec::new();
    for (piece, closed) in left_open {
        if !closed.await.unwrap() {
            wrong.push(piece);
        }
    }
    assert!(wrong.is_empty(), "open long after request_head had passed: {wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_requests_are_ended() {
    let origin = Origin::start().await;
    let gateway = Gateway::with_settings(&settings(
        &origin.url(),
        "timeouts: {idle: 300ms, request_head: 300ms}",
    ))
    .await;
    let mut fresh = gateway.client().await;
    let mut used = gateway.client().await;
    used.post(WAYS[0], "", CHAT).await;
    used.answer().await;
    let mut passed = gateway.client().await;
    passed.post(WAYS[1], "", CHAT).await;
    passed.answer().await;
    for (name, client) in [
        ("without a request", &mut fresh),
        ("after one of ours", &mut used),
        ("after another", &mut passed),
    ] {
        assert!(
            client.is_closed_within(Duration::from_secs(3)).await,
            "{name}: open long after idle had passed"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_connections_without_requests_are_ended() {
    let origin = Origin::start().await;
    let gateway = Gateway::with_settings(&settings(
        &origin.url(),
        "timeouts: {idle: 300ms, request_head: 300ms}",
    ))
    .await;
    let mut silent = gateway.client().await;
    silent.send(h2raw::hello(&[])).await;
    let mut used = gateway.client().await;
    used.send(
        [
            h2raw::hello(&[]),
            frame(HEADERS, END_HEADERS, 1, &h2raw::post(WAYS[0])),
            frame(DATA, END_STREAM, 1, b"{}"),
        ]
        .concat(),
    )
    .await;
    let mut half = gateway.client().await;
    // A head that never ends is no request either.
    half.send([h2raw::hello(&[]), frame(HEADERS, 0, 1, &h2raw::post(WAYS[0]))].concat()).await;
    let mut open = Vec::new();
    for (name, client) in [
        ("after the preface", &mut silent),
        ("after a request", &mut used),
        ("in a head", &mut half),
    ] {
        if !client.is_closed_within(Duration::from_secs(2)).await {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "open long after idle had passed: {open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_are_ended() {
    let origin = Origin::start().await;
    let gateway =
        Gateway::with_settings(&settings(&origin.url(), "timeouts: {request_body: 300ms}")).await;
    let address = gateway.address();
    let mut wrong = Vec::new();
    for path in WAYS {
        for framing in ["content-length: 1000\r\n", "transfer-encoding: chunked\r\n"] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket
                .write_all(format!("POST {path} HTTP/1.1\r\nhost: a\r\n{framing}\r\n").as_bytes())
                .await
                .unwrap();
            let begun = Instant::now();
            let mut answer = None;
            while begun.elapsed() < Duration::from_secs(2) && answer.is_none() {
                let _ = socket
                    .write_all(if framing.contains("chunked") { b"1\r\nx\r\n" } else { b"x" })
                    .await;
                let mut bytes = [0; 1024];
                if let Ok(read) =
                    tokio::time::timeout(Duration::from_millis(50), socket.read(&mut bytes)).await
                {
                    answer =
                        Some(String::from_utf8_lossy(&bytes[..read.unwrap_or(0)]).into_owned());
                }
            }
            if !answer.as_ref().is_some_and(|a| a.is_empty() || a.starts_with("HTTP/1.1 408 ")) {
                wrong.push(format!("{path} {framing:?}: {answer:?}"));
            }
        }
        // Over HTTP/2 pingora's proxy has no such wait; `timeouts.total` ends what passes through
        // there.
        if path == WAYS[1] {
            continue;
        }
        // HTTP/2: the stream ends, the connection need not.
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(
                &[
                    h2raw::hello(&[]),
                    frame(HEADERS, END_HEADERS, 1, &h2raw::post(path)),
                    frame(DATA, 0, 1, b"x"),
                ]
                .concat(),
            )
            .await
            .unwrap();
        let (frames, closed) =
            h2raw::listen(&mut socket, Duration::from_secs(2), |f| f.stream == 1).await;
        if !closed && !frames.iter().any(|f| f.stream == 1) {
            wrong.push(format!("{path} over HTTP/2: nothing"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(origin.take().is_empty());
    nothing_in_flight(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_of_fields_are_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    for path in WAYS {
        let start = format!("POST {path} HTTP/1.1\r\nhost: a\r\n");
        let heavy = "x".repeat(66 << 10);
        for (name, bytes) in [
            ("101 fields", format!("{start}{}\r\n", "x: y\r\n".repeat(100))),
            ("10,000 fields", format!("{start}{}\r\n", "x:\r\n".repeat(10_000))),
            ("one large field", format!("{start}x: {heavy}\r\n\r\n")),
            ("one large name", format!("{start}{heavy}: x\r\n\r\n")),
            ("a large target", format!("POST {path}?{heavy} HTTP/1.1\r\nhost: a\r\n\r\n")),
            ("a large method", format!("{heavy} {path} HTTP/1.1\r\nhost: a\r\n\r\n")),
            ("no end", format!("{start}x: {}", "x".repeat(1 << 20))),
        ] {
            let mut heard = Received { statuses: Vec::new(), closed: false, text: String::new() };
            let grown =
                growth(&gateway, async { heard = send_raw(gateway.address(), &bytes).await }).await;
            assert_eq!(
                heard.statuses,
                [431],
                "{path}: {name}: {} {:?}",
                heard.closed,
                heard.statuses
            );
            assert_refused(name, &heard, &origin);
            assert!(grown < MAX_KIB, "{name}: {grown} KiB");
        }
        // A hundred are fine.
        let heard = send_raw(
            gateway.address(),
            format!("{start}content-length: {}\r\n{}\r\n{CHAT}", CHAT.len(), "x: y\r\n".repeat(98)),
        )
        .await;
        assert_eq!(heard.statuses, [200], "{heard:?}");
        origin.take();
        // And in HTTP/2.
        let many = [h2raw::post(path), h2raw::literal(b"x", b"y").repeat(101)].concat();
        let (good, _) = h2raw::one_stream(
            gateway.address(),
            &[frame(HEADERS, END_HEADERS, 1, &many), frame(DATA, END_STREAM, 1, b"{}")],
        )
        .await;
        assert!(!good && origin.take().is_empty(), "{path}: 101 fields over HTTP/2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_of_json_are_answered_soon() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    const N: usize = 300_000;
    let keys: String = (0..50_000).map(|i| format!("\"k{i}\":{i},")).collect();
    for (name, body) in [
        ("open brackets", "[".repeat(N)),
        ("open braces", "{\"a\":".repeat(N)),
        (
            "nested and closed",
            format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(N), "]".repeat(N)),
        ),
        (
            "nested messages",
            format!(
                "{{\"model\":\"m\",\"messages\":{}1{}}}",
                "[{\"content\":".repeat(N),
                "}]".repeat(N)
            ),
        ),
        ("many keys", format!("{{{keys}\"model\":\"m\"}}")),
        ("the same key often", format!("{{{}\"model\":\"m\"}}", "\"k\":1,".repeat(N))),
        ("the model often", format!("{{{}\"model\":\"m\"}}", "\"model\":\"m\",".repeat(N / 4))),
        ("a long number", format!("{{\"model\":\"m\",\"n\":{}}}", "9".repeat(N))),
        ("a huge exponent", "{\"model\":\"m\",\"n\":1e999999999}".to_owned()),
        ("a long model", format!("{{\"model\":\"{}\"}}", "m".repeat(N))),
        ("a model of escapes", format!("{{\"model\":\"{}\"}}", "\\u0000".repeat(N / 2))),
        ("half a surrogate", "{\"model\":\"\\ud800\"}".to_owned()),
        ("an open string", format!("{{\"model\":\"{}", "\\\"".repeat(N))),
        ("spaces", " ".repeat(N)),
        ("commas", format!("{{\"model\":\"m\"{}}}", ",".repeat(N))),
        ("no UTF-8", String::from("{\"model\":\"\u{fffd}\"}")),
    ] {
        for path in [WAYS[0], "/v1/messages", "/v1/embeddings", "/v1/responses"] {
            let begun = Instant::now();
            let mut client = gateway.client().await;
            client.post(path, "", &body).await;
            let answer = client.answer().await;
            let took = begun.elapsed();
            assert!([200, 400].contains(&answer.status), "{path}: {name}: {}", answer.head);
            assert!(took < Duration::from_secs(1), "{path}: {name}: {took:?}");
            assert!(
                answer.status == 200 || answer.body.len() < 2_000,
                "{path}: {name}: the refusal has {} bytes",
                answer.body.len()
            );
        }
    }
    assert_eq!(gateway.metric("llm_lens_panics_total", ""), 0.0, "{}", gateway.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_request_data_is_bounded() {
    let engine = Engine::start(|_| {
        let model = "e".repeat(900 << 10);
        sse::json(
            200,
            &format!("{{\"model\":\"{model}\",\"choices\":[{{\"index\":0,\"finish_reason\":\"{model}\"}}]}}").replacen(
                &model,
                &model[..100 << 10],
                1,
            ),
        )
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let model = "m".repeat(1 << 20);
    let grown = growth(&gateway, async {
        for _ in 0..100 {
            assert!(
                try_chat(gateway.address(), &CHAT.replace("\"m\"", &format!("\"{model}\"")))
                    .await
                    .is_ok()
            );
        }
    })
    .await;
    let (_, records) = gateway.get("/api/requests?limit=1");
    assert!(records.len() < 8 << 10, "a record has {} bytes", records.len());
    assert!(grown < MAX_KIB, "{grown} KiB for a hundred requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_input_can_forge_lines_of_the_log_or_metrics() {
    let gone = crate::raw::free_address();
    let text = settings(&format!("http://{gone}"), "");
    let gateway = Gateway::with_command(&text, |command| {
        command.args(["--log", "trace"]);
    })
    .await;
    let address = gateway.address();
    let forged = "2026-01-31T12:00:00.000Z ERROR FORGED";
    for path in WAYS.map(|p| format!("{p}?q=%0d%0a{}", forged.replace(' ', "%20"))) {
        for model in [
            format!("m\\n{forged}"),
            format!("m\\r\\n{forged}"),
            format!("\\u001b[2J{forged}"),
            format!("\\u0085{forged}\\u2028x"),
            format!("m\\\"}} 1\\n{forged} 1\\n"),
        ] {
            send_raw(
                address,
                post(
                    &path,
                    &format!("x-request-id: a\x1b[31m{forged}\r\ntraceparent: 00-\x1b\r\n"),
                    &CHAT.replace("\"m\"", &format!("\"{model}\"")),
                ),
            )
            .await;
        }
        send_raw(address, format!("POST {path}\x1b[2J HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        send_raw(address, format!("POST {path} HTTP/1.1\r\nhost: a\x1b[2J\r\n\r\n")).await;
        send_raw(address, format!("POST {path}\r\n{forged}\r\n\r\n")).await;
    }
    // Invalid answers of an engine cannot forge lines either.
    let engine = Engine::start(move |_| {
        vec![
            Step::text(format!("HTTP/1.1 200 \x1b[2J\r\nx\x1b: {forged}\r\n\r\n{forged}\n")),
            Step::Close,
        ]
    })
    .await;
    gateway.write_settings(&settings(&engine.url(), ""));
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") == 1.0).await;
    for path in WAYS {
        send_raw(address, post(path, "", CHAT)).await;
    }
    let log = gateway.stderr();
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap_or_default();
        let level = rest.split(' ').next().unwrap_or_default();
        let whole = time.len() == "2026-01-31T12:00:00.000Z".len()
            && time.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ".contains(&b))
            && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
        assert!(whole || line.starts_with("  "), "a line of its own: {line:?}");
    }
    assert!(!log.contains(['\x1b', '\r', '\u{85}', '\u{2028}']), "{log:?}");
    let (_, metrics) = gateway.get("/metrics");
    assert!(
        metrics.lines().all(|l| l.starts_with(['#'])
            || l.starts_with("llm_lens_")
            || l.starts_with("process_")
            || l.starts_with("gen_ai_")),
        "{metrics}"
    );
    assert!(!metrics.contains("FORGED"), "an unknown model is a label");
    assert!(gateway.records().iter().all(|r| !r.id.contains('\x1b')));
}

/// A few empty lines before a request are accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_lines_is_cut() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let heard =
        send_raw(gateway.address(), "\r\n".repeat(3) + "GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(heard.statuses, [200], "{heard:?}");
    let mut flooding = gateway.client().await;
    let _ = flooding.socket().write_all("\r\n".repeat(1 << 19).as_bytes()).await;
    assert!(flooding.is_closed_within(Duration::from_secs(2)).await, "left open");
    assert!(gateway.cpu() < Duration::from_secs(1), "it cost {:?}", gateway.cpu());
}

/// Settings with room for three bodies of five mebibytes.
fn little_memory(url: &str) -> String {
    settings(url, "limits: {request_body: 8MiB, buffered_bytes: 16MiB}")
}

const FIVE_MIB: usize = 5 << 20;

/// A chat request of exactly `len` bytes.
fn long_chat(len: usize) -> String {
    let text = "x".repeat(len - CHAT.len() + "hello".len());
    CHAT.replace("hello", &text)
}

/// Bodies that are sent but for their last byte are bounded over all clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_in_memory_are_bounded_over_all_clients() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&little_memory(&engine.url())).await;
    let request = post(WAYS[0], "", &long_chat(FIVE_MIB));
    let (most, last) = request.split_at(request.len() - 1);
    let mut held = Vec::new();
    for number in 1..=3 {
        let mut client = gateway.client().await;
        client.send(most).await;
        let all = (number * FIVE_MIB - number) as f64;
        gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") >= all).await;
        held.push(client);
    }
    let grown = growth(&gateway, async {
        for _ in 0..5 {
            let heard = send_raw(gateway.address(), &most[..3 << 19]).await;
            assert_eq!(heard.statuses, [503], "{}", heard.text);
            assert!(heard.text.contains("gateway_overloaded"), "{}", heard.text);
            assert!(heard.text.contains("retry-after: 1\r\n"), "{}", heard.text);
        }
    })
    .await;
    assert!(grown < 16 << 10, "{grown} KiB");
    assert_eq!(gateway.metric("llm_lens_memory_limited_requests_total", ""), 5.0);
    assert_eq!(gateway.metric("llm_lens_max_buffered_bytes", ""), (16 << 20) as f64);
    // What fits is served, and the others once there is room.
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    for client in &mut held {
        client.send(last).await;
        assert_eq!(client.answer().await.status, 200);
    }
    gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") == 0.0).await;
    assert_eq!(try_chat(gateway.address(), &long_chat(FIVE_MIB)).await, Ok(200));
}

/// One connection is enough for many bodies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_one_http2_connection_are_bounded() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&little_memory(&engine.url())).await;
    let socket = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    let (send, connection) = ::h2::client::handshake(socket).await.expect("h2c");
    // Ends with the test's runtime.
    tokio::spawn(connection);
    let body = bytes::Bytes::from(long_chat(FIVE_MIB));
    let mut streams = Vec::new();
    for number in 1..=6_usize {
        let mut send = send.clone().ready().await.expect("an open connection");
        let head = http::Request::post(format!("http://gateway{}", WAYS[0])).body(()).unwrap();
        let (answer, mut stream) = send.send_request(head, false).expect("an open connection");
        let mut rest = body.slice(..body.len() - 1);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            // A refused stream is reset.
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                break;
            };
            let piece = rest.split_to(room.min(rest.len()));
            if stream.send_data(piece, false).is_err() {
                break;
            }
        }
        if number <= 3 {
            let all = (number * (FIVE_MIB - 1)) as f64;
            gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") >= all).await;
        }
        streams.push((answer, stream));
    }
    let held = gateway.metric("llm_lens_buffered_bytes", "");
    assert!(held <= (16 << 20) as f64, "{held}");
    let mut statuses = Vec::new();
    for (answer, mut stream) in streams {
        let _ = stream.send_data(body.slice(body.len() - 1..), true);
        statuses.push(answer.await.expect("an answer").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 503, 503, 503]);
    gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") == 0.0).await;
}

/// Answers that a client does not read take room as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_answers_count_and_are_released() {
    let engine = Engine::start(|_| {
        // More than the sockets hold.
        let event = sse::content(&"x".repeat(60 << 10));
        let events = std::iter::repeat_with(|| Step::chunk(&event)).take(500);
        std::iter::once(Step::text(sse::STREAM_HEAD)).chain(events).collect()
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let most = gateway.metric("llm_lens_max_buffered_bytes", "");
    assert!(most > 0.0 && most <= total_memory() / 2.0, "the default is {most}");
    let mut client = gateway.client().await;
    client.post(WAYS[0], "", CHAT_STREAM).await;
    gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") > 65_536.0).await;
    drop(client);
    gateway.wait_until(|g| g.metric("llm_lens_buffered_bytes", "") == 0.0).await;
}

/// Memory of this machine, in bytes.
fn total_memory() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("its total");
    let kib = line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number");
    kib * 1024.0
}
