//! From start to exit: drains, reloads, exhausted system resources, and clocks that jump.
//!
//! Upgrades and waits of seconds are in `slow.rs`.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::client::{CHAT, CHAT_STREAM, PATIENCE};
use kit::{Client, Engine, Gateway, Step, sse};
use lens::record::Outcome;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::h2raw::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, frame};
use crate::raw::{
    Folder, Process, ends_well, free_address, nothing_in_flight, running_stream, send_raw,
    settings, settings_at, through_shell, try_chat,
};

/// Long enough for a process on a busy machine to do what it does "at once".
const AT_ONCE: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_every_stream_well_and_then_the_process() {
    let engine = Engine::start(|_| sse::stream(20, 100)).await;
    let mut gateway =
        Gateway::with_settings(&settings(&engine.url(), "shutdown: {grace: 15s}")).await;
    let address = gateway.address();
    let mut idle = gateway.client().await;
    idle.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let mut silent = gateway.client().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(tokio::spawn(ends_well(running_stream(address).await)));
    }
    gateway.signal(Signal::SIGTERM);
    assert!(
        idle.is_closed_within(AT_ONCE).await,
        "a connection between two requests is closed at once"
    );
    assert!(
        silent.is_closed_within(AT_ONCE).await,
        "a connection without a request is closed at once"
    );
    assert!(TcpStream::connect(address).await.is_err(), "a draining gateway accepts no connection");
    assert_eq!(gateway.get("/readyz").0, 503, "readiness reports the drain");
    for stream in streams {
        assert!(stream.await.unwrap(), "a stream was cut");
    }
    let status = gateway
        .ended(AT_ONCE)
        .await
        .expect("the process ends with its last stream, not with the grace");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
}

/// Requests sent at the moment a drain begins are answered, on new and on existing connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_when_a_drain_begins_is_answered() {
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "shutdown: {grace: 15s}")).await;
    let mut known = gateway.client().await;
    known.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(known.answer().await.status, 200);
    let mut new = gateway.client().await;
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 2.0).await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_until(|g| g.get("/readyz").0 == 503).await;
    for client in [&mut known, &mut new] {
        client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    }
    for client in [&mut known, &mut new] {
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.field("connection")),
            (200, Some("close")),
            "{}",
            answer.head
        );
        assert!(client.is_closed_within(AT_ONCE).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_http2_as_well() {
    let engine = Engine::start(|_| sse::stream(10, 100)).await;
    let mut gateway =
        Gateway::with_settings(&settings(&engine.url(), "shutdown: {grace: 15s}")).await;
    let address = gateway.address();
    let mut busy = TcpStream::connect(address).await.unwrap();
    let request = [
        h2raw::hello(&[]),
        frame(HEADERS, END_HEADERS, 1, &h2raw::post("/v1/chat/completions")),
        frame(DATA, END_STREAM, 1, CHAT_STREAM.as_bytes()),
    ];
    busy.write_all(&request.concat()).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(&h2raw::hello(&[])).await.unwrap();
    gateway.wait_until(|_| engine.seen().len() == 1).await;
    gateway.signal(Signal::SIGTERM);
    let idle =
        tokio::spawn(
            async move { h2raw::listen(&mut idle, Duration::from_secs(3), |_| false).await.1 },
        );
    let (frames, closed) = h2raw::listen(&mut busy, Duration::from_secs(5), |_| false).await;
    assert!(closed && frames.iter().any(|f| f.kind == GOAWAY && f.code() == 0), "{frames:?}");
    let body: Vec<u8> =
        frames.iter().filter(|f| f.kind == DATA).flat_map(|f| f.payload.clone()).collect();
    assert!(String::from_utf8_lossy(&body).ends_with("data: [DONE]\n\n"), "{frames:?}");
    assert!(
        frames.iter().any(|f| f.stream == 1 && f.kind == DATA && f.flags & END_STREAM != 0),
        "{frames:?}"
    );
    assert!(idle.await.unwrap(), "an idle HTTP/2 connection is ended");
    assert_eq!(gateway.ended(AT_ONCE).await.and_then(|s| s.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_http2_preface_does_not_delay_a_drain() {
    let mut gateway =
        Gateway::with_settings(&settings("http://127.0.0.1:9", "shutdown: {grace: 15s}")).await;
    let mut half = gateway.client().await;
    half.send("PRI * HTTP/2.0\r\n").await;
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 1.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.signal(Signal::SIGTERM);
    assert!(
        gateway.ended(Duration::from_secs(3)).await.is_some(),
        "it waits for a client that asked nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_announces_the_close_to_clients() {
    let engine = Engine::start(|_| {
        let mut steps = vec![kit::Step::ms(600)];
        steps.extend(sse::chat_answer());
        steps
    })
    .await;
    let mut gateway = Gateway::in_front_of(&engine.url()).await;
    let mut ours = gateway.client().await;
    ours.post("/v1/chat/completions", "", CHAT).await;
    let mut passing = gateway.client().await;
    passing.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    gateway.wait_until(|_| engine.seen().len() == 2).await;
    gateway.signal(Signal::SIGTERM);
    for client in [&mut ours, &mut passing] {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.complete), (200, true));
        assert!(client.is_closed_within(AT_ONCE).await);
    }
    assert!(gateway.ended(AT_ONCE).await.is_some_and(|s| s.success()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_longer_than_the_grace_is_cut() {
    // One engine sends tokens all the time, and the other nothing after the first.
    let engine = Engine::start(|seen| match crate::support::id(seen) {
        "silent" => {
            let first = [sse::role(), sse::content("t0")].concat();
            vec![kit::Step::text(sse::STREAM_HEAD), kit::Step::chunk(first), kit::Step::Hang]
        }
        _ => sse::stream(300, 100),
    })
    .await;
    let mut gateway =
        Gateway::with_settings(&settings(&engine.url(), "shutdown: {grace: 500ms}")).await;
    let mut clients = Vec::new();
    for id in ["busy", "silent"] {
        let mut client = gateway.client().await;
        let field = format!("x-request-id: {id}\r\n");
        client.post("/v1/chat/completions", &field, kit::client::CHAT_STREAM).await;
        crate::support::read_until(&mut client, "t0").await;
        clients.push(client);
    }
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    // They end with an error event, and not in the middle of an event.
    for mut client in clients {
        crate::support::read_until(&mut client, "gateway_shutdown").await;
    }
    let status = gateway.ended(Duration::from_secs(3)).await.expect("the process ends by itself");
    assert!(status.code().is_some(), "it ended by a signal: {status}");
    assert!(
        begun.elapsed() >= Duration::from_millis(450),
        "the grace was not given: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn int_ends_at_once_also_while_draining() {
    let engine = Engine::start(|_| sse::stream(300, 100)).await;
    for drain_first in [false, true] {
        let mut gateway = Gateway::in_front_of(&engine.url()).await;
        let stream = running_stream(gateway.address()).await;
        if drain_first {
            gateway.signal(Signal::SIGTERM);
            gateway.wait_until(|g| g.get("/readyz").0 == 503).await;
        }
        gateway.signal(Signal::SIGINT);
        let status = gateway.ended(AT_ONCE).await.expect("INT does not wait for streams");
        assert!(status.code().is_some(), "{status}");
        assert!(!ends_well(stream).await);
    }
}

/// Listeners stop to accept before their runtime shuts down: each accept would fail at once, and be
/// logged. Which of them ends first is a matter of chance, so it is tried a dozen times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn int_logs_no_failed_accepts() {
    let engine = Engine::start(|_| sse::stream(300, 100)).await;
    for _ in 0..12 {
        let mut gateway = Gateway::in_front_of(&engine.url()).await;
        gateway.signal(Signal::SIGINT);
        assert!(gateway.ended(AT_ONCE).await.is_some());
        let log = gateway.stderr();
        assert!(!log.contains("accept"), "{:.1000}", log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_it_serves_within_a_second() {
    let engine =
        Engine::start(
            |r| if r.body.is_empty() { sse::json(200, "{}") } else { sse::stream(50, 100) },
        )
        .await;
    let (address, admin) = (free_address(), free_address());
    let text = settings_at(address, admin, &engine.url(), "");
    let mut first = Gateway::with_settings(&text).await;
    // A stream and an idle connection, so that the address is in use when the process is killed.
    let _stream = running_stream(address).await;
    let _idle = first.client().await;
    first.signal(Signal::SIGKILL);
    assert!(first.ended(AT_ONCE).await.is_some());
    let begun = Instant::now();
    let second = Gateway::with_settings(&text).await;
    let heard = send_raw(address, "GET /v1/models HTTP/1.0\r\n\r\n").await;
    assert_eq!(heard.statuses, [200], "{}", heard.text);
    assert!(
        begun.elapsed() < Duration::from_secs(1) + crate::raw::SILENCE,
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(second.metric("llm_lens_requests_total", ""), 1.0, "counters begin anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_changes_nothing_and_is_reported_with_its_place() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "")).await;
    gateway.write_settings(&settings(&engine.url(), "timeouts:\n  conect: 1s"));
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") == 1.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    let log = gateway.stderr();
    let file = gateway.settings_file();
    let written = std::fs::read_to_string(&file).unwrap();
    let line = 1 + written.lines().position(|l| l.contains("conect")).unwrap();
    assert!(log.contains(&format!("{}:{line}:3: timeouts.conect", file.display())), "{log}");
    assert!(log.contains("did you mean \"connect\"?"), "{log}");
    // Invalid YAML, and a reload by signal.
    gateway.write_settings("backends: [");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 2.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    assert_eq!(gateway.metric("llm_lens_reloads_total", ""), 0.0);
    // A missing file changes nothing either.
    std::fs::remove_file(&file).unwrap();
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 3.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_applies_to_new_requests() {
    let old = Engine::start(|_| sse::stream(15, 100)).await;
    let new = Engine::start(|_| sse::chat_answer()).await;
    let newest = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(&old.url(), "")).await;
    let stream = tokio::spawn(ends_well(running_stream(gateway.address()).await));
    // A connection that stays open takes the new settings too.
    let mut kept = gateway.client().await;
    gateway.write_settings(&settings(&new.url(), ""));
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") == 1.0).await;
    kept.post("/v1/chat/completions", "", CHAT).await;
    assert_eq!(kept.answer().await.status, 200);
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
    gateway.write_settings(&settings(&newest.url(), ""));
    let before = gateway.metric("llm_lens_reloads_total", "");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") > before).await;
    kept.post("/v1/chat/completions", "", CHAT).await;
    assert_eq!(kept.answer().await.status, 200);
    assert_eq!((old.seen().len(), new.seen().len(), newest.seen().len()), (1, 1, 1));
    assert!(stream.await.unwrap(), "a request keeps the backend that it entered with");
}

/// A setting that needs a restart is compared with the one in use, not with that of the last file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_need_a_restart_are_compared_with_those_in_use() {
    let text = |workers: u32, route: &str| {
        settings("http://127.0.0.1:9", &format!("workers: {workers}"))
            .replace("{name: r,", &format!("{{name: {route},"))
    };
    let gateway = Gateway::with_settings(&text(1, "r")).await;
    for (reloads, next) in [text(2, "r"), text(1, "r"), text(1, "other")].iter().enumerate() {
        gateway.write_settings(next);
        gateway.signal(Signal::SIGHUP);
        gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") > reloads as f64).await;
    }
    gateway.wait_until(|g| g.stderr().matches("settings reloaded").count() >= 3).await;
    let log = gateway.stderr();
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("takes effect at the next start")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("workers"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_is_atomic() {
    // The old settings route a to engine a and b to b; the new ones swap them. No request may see a
    // mixture.
    let a = Engine::start(|_| sse::json(200, "{\"engine\":\"a\"}")).await;
    let b = Engine::start(|_| sse::json(200, "{\"engine\":\"b\"}")).await;
    let routes = |first: &str, second: &str| {
        format!(
            "backends: [{{name: first, url: '{first}'}}, {{name: second, url: '{second}'}}]\nroutes: [{{name: x, backend: first, match: {{models: [x]}}}}, {{name: y, backend: second}}]\n"
        )
    };
    let gateway = Gateway::with_settings(&routes(&a.url(), &b.url())).await;
    let address = gateway.address();
    let asking = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let mut seen = Vec::new();
        for _ in 0..300 {
            for model in ["x", "y"] {
                client
                    .post(
                        "/v1/chat/completions",
                        "",
                        &CHAT.replace("\"m\"", &format!("\"{model}\"")),
                    )
                    .await;
                let answer = client.answer().await;
                seen.push((model, answer.json()["engine"].as_str().unwrap().to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        seen
    });
    for turn in 0..4 {
        gateway.write_settings(&if turn % 2 == 0 {
            routes(&b.url(), &a.url())
        } else {
            routes(&a.url(), &b.url())
        });
        gateway.signal(Signal::SIGHUP);
        gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") > f64::from(turn)).await;
    }
    let seen = asking.await.unwrap();
    // The client queries both routes in turn. A reload between the two queries of a turn shows as a
    // mixed pair, at most once per reload.
    let mixed = seen.chunks(2).filter(|pair| pair[0].1 == pair[1].1).count();
    assert!(mixed <= gateway.metric("llm_lens_reloads_total", "") as usize, "{mixed} of {seen:?}");
    assert!(seen.iter().any(|(m, e)| *m == "x" && e == "b"), "no reload was seen");
}

/// nginx and HAProxy raise the soft limit, too; other signals of nginx do no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptor_limit_is_raised_and_unknown_signals_are_ignored() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limited = |command: &mut std::process::Command| {
        through_shell(command, "ulimit -Sn 64; exec \"$@\"");
    };
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), limited).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        gateway.signal(signal);
        assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_it_waits_and_recovers() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|r| {
        if String::from_utf8_lossy(&r.body).contains("stream") {
            sse::stream(15, 100)
        } else {
            sse::chat_answer()
        }
    })
    .await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 64; exec \"$@\"");
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), limited).await;
    let address = gateway.address();
    let stream = tokio::spawn(ends_well(running_stream(address).await));
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(address).await.expect("the kernel's queue takes them"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (begun, cpu) = (Instant::now(), gateway.cpu());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let spent = gateway.cpu() - cpu;
    assert!(spent < begun.elapsed() / 2, "busy for {spent:?} of {:?}", begun.elapsed());
    assert!(stream.await.unwrap(), "a stream that runs needs no new descriptor");
    drop(crowd);
    assert_eq!(try_chat(address, CHAT).await, Ok(200));
    gateway.wait_until(|g| g.open_files() < 40).await;
}

/// Load balancers that have not noticed yet are served during the delay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_accepted_during_the_delay_of_a_shutdown() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = settings(&engine.url(), "shutdown: {delay: 3s}");
    let mut gateway = Gateway::with_settings(&text).await;
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_until(|g| g.get("/readyz").0 == 503).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "", CHAT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert_eq!(gateway.get("/healthz").0, 200);
    let status = gateway.ended(kit::client::PATIENCE).await.expect("it ends");
    assert!(status.success() && begun.elapsed() >= Duration::from_secs(3), "{status}");
}

/// Idle clients beyond what the descriptors permit are closed; others and probes are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_use_up_the_descriptors() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 256; exec \"$@\"");
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), limited).await;
    let address = gateway.address();
    let mut before = Client::connect(address).await;
    before.post("/v1/chat/completions", "", CHAT).await;
    assert_eq!(before.answer().await.status, 200);
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(Client::connect(address).await);
    }
    gateway.wait_until(|g| g.metric("llm_lens_client_limited_connections_total", "") > 300.0).await;
    let most = gateway.metric("llm_lens_max_client_connections", "");
    assert!((20.0..100.0).contains(&most), "{most}");
    assert!(gateway.metric("llm_lens_client_connections", "") <= most);
    assert!(gateway.open_files() < 200, "{}", gateway.open_files());
    for _ in 0..3 {
        before.post("/v1/chat/completions", "", CHAT).await;
        let answer = before.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(gateway.get("/healthz").0, 200);
    drop(crowd);
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") <= 1.0).await;
    assert_eq!(try_chat(address, CHAT).await, Ok(200));
}

/// One HTTP/2 connection has more requests than the descriptors permit connections to backends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_http2_connection_do_not_use_up_the_descriptors() {
    const REQUESTS: usize = 100;
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| {
        vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::content("x")), Step::Hang]
    })
    .await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 256; exec \"$@\"");
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), limited).await;
    let socket = tokio::net::TcpStream::connect(gateway.address()).await.expect("it accepts");
    let (mut send, connection) = ::h2::client::handshake(socket).await.expect("h2c");
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        send = send.ready().await.expect("an open connection");
        let path = "http://gateway/v1/chat/completions";
        let head = http::Request::post(path).body(()).unwrap();
        let (answer, mut body) = send.send_request(head, false).expect("an open connection");
        body.send_data(CHAT_STREAM.into(), true).expect("an open stream");
        answers.push(answer);
    }
    let (mut held, mut refused) = (Vec::new(), 0);
    for answer in answers {
        let answer = answer.await.expect("an answer");
        match answer.status().as_u16() {
            200 => held.push(answer),
            status => {
                assert_eq!(
                    (status, &answer.headers()["retry-after"]),
                    (503, &"1".parse().unwrap())
                );
                refused += 1;
            }
        }
    }
    let most = gateway.metric("llm_lens_max_client_connections", "") as usize;
    assert_eq!((held.len(), refused), (most, REQUESTS - most));
    let counted = gateway.metric("llm_lens_descriptor_limited_requests_total", "");
    assert_eq!(counted, refused as f64);
    assert!(gateway.open_files() < 200, "{}", gateway.open_files());
    assert_eq!(gateway.get("/healthz").0, 200);
    // When the client has left, there is room again.
    connection.abort();
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
    drop(running_stream(gateway.address()).await);
}

/// Streams that end together leave as many connections, of which a part is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_to_backends_do_not_use_up_the_descriptors() {
    let _alone = crate::support::alone().await;
    let end = Arc::new(AtomicBool::new(false));
    let ends = end.clone();
    let engine = Engine::start(move |_| {
        vec![
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::content("x")),
            Step::Until(ends.clone()),
            Step::chunk(sse::finish()),
            Step::chunk(sse::done()),
            Step::end(),
        ]
    })
    .await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 256; exec \"$@\"");
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), limited).await;
    let (before, most) =
        (gateway.open_files(), gateway.metric("llm_lens_max_client_connections", "") as usize);
    let mut streams = Vec::new();
    for _ in 0..most {
        streams.push(running_stream(gateway.address()).await);
    }
    end.store(true, Ordering::Relaxed);
    for stream in streams {
        assert!(ends_well(stream).await);
    }
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
    let kept = gateway.open_files() - before;
    assert!((1..=most / 4 + 2).contains(&kept), "{kept} of {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_descriptors_are_warned_of() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 256; exec \"$@\"");
    let text = settings(&engine.url(), "limits: {connections: 5000}");
    let gateway = Gateway::with_command(&text, limited).await;
    gateway.wait_until(|g| g.stderr().contains("limits.connections exceeds")).await;
    assert_eq!(gateway.metric("llm_lens_max_client_connections", ""), 5000.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_file_descriptors_give_the_client_an_error() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limited =
        |command: &mut std::process::Command| through_shell(command, "ulimit -n 40; exec \"$@\"");
    let text = settings(&engine.url(), "limits: {connections: 100}");
    let gateway = Gateway::with_command(&text, limited).await;
    let address = gateway.address();
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(Client::connect(address).await);
    }
    // These were accepted with the last descriptors; none is left for the backend.
    let first = &mut crowd[0];
    first.post("/v1/chat/completions", "", CHAT).await;
    let answer = first.answer().await;
    assert!([200, 502, 503].contains(&answer.status), "{}", answer.head);
    crowd.clear();
    assert_eq!(try_chat(address, CHAT).await, Ok(200));
}

/// Target of an output stream.
#[derive(Clone, Copy, Debug)]
enum Output {
    Null,
    /// A pipe without a reader.
    Closed,
    /// A pipe that is full, and whose reader does not read.
    Stuck,
    /// A disk without room.
    Full,
}

impl Output {
    /// The output, and a value that must live as long as it is used.
    fn open(self) -> (Stdio, Option<std::io::PipeReader>) {
        match self {
            Output::Null => (Stdio::null(), None),
            Output::Closed => (std::io::pipe().expect("a pipe").1.into(), None),
            Output::Stuck => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))
                    .expect("a small pipe");
                std::io::Write::write_all(&mut &writer, &[b'x'; 4096]).expect("room for one page");
                (writer.into(), Some(reader))
            }
            Output::Full => (
                std::fs::File::options()
                    .write(true)
                    .open("/dev/full")
                    .expect("Linux has it")
                    .into(),
                None,
            ),
        }
    }
}

/// Starts a gateway with these outputs, makes it log, and sends requests.
async fn serves_with(out: Output, err: Output) {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (address, admin, gone) = (free_address(), free_address(), free_address());
    let folder = Folder::new();
    let text = format!(
        "listeners: [{{address: '{address}'}}]\nadmin: {{address: '{admin}'}}\nworkers: 2\nbackends: [{{name: e, url: '{}'}}, {{name: gone, url: 'http://{gone}'}}]\nroutes: [{{name: x, backend: gone, match: {{models: [x]}}}}, {{name: r, backend: e}}]\n",
        engine.url()
    );
    let file = folder.file("gateway.yaml", text);
    let ((out_to, _out), (err_to, _err)) = (out.open(), err.open());
    let mut process = Process::start(&file, "trace", out_to, err_to);
    process.accepts(address).await;
    for _ in 0..20 {
        // Each of these logs a warning.
        assert_eq!(
            try_chat(address, &CHAT.replace("\"m\"", "\"x\"")).await,
            Ok(502),
            "stdout {out:?}, stderr {err:?}"
        );
    }
    assert_eq!(try_chat(address, CHAT).await, Ok(200), "stdout {out:?}, stderr {err:?}");
    assert!(matches!(process.0.try_wait(), Ok(None)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_blocks_nothing() {
    serves_with(Output::Null, Output::Closed).await;
    serves_with(Output::Null, Output::Full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_reader_hangs_blocks_nothing() {
    serves_with(Output::Null, Output::Stuck).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_serves_although_its_output_has_no_reader() {
    serves_with(Output::Closed, Output::Null).await;
    serves_with(Output::Full, Output::Null).await;
    serves_with(Output::Closed, Output::Closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_of_the_wall_clock_changes_no_duration() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !std::path::Path::new(LIBRARY).exists() {
        return eprintln!("skipped: {LIBRARY} is not installed (Debian: faketime)");
    }
    let folder = Folder::new();
    let offset = folder.file("offset", "+0");
    let engine = Engine::start(|_| sse::stream(10, 100)).await;
    let faked = |command: &mut std::process::Command| {
        command
            .env("LD_PRELOAD", LIBRARY)
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    };
    let gateway = Gateway::with_command(&settings(&engine.url(), ""), faked).await;
    let wall = || {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros()
            as i64
    };
    for (id, jump, hours) in [("back", "-3h", -3), ("ahead", "+5h", 5)] {
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), CHAT_STREAM).await;
        tokio::time::timeout(PATIENCE, client.socket().readable())
            .await
            .expect("the stream begins")
            .expect("the connection stands");
        folder.file("offset", jump);
        assert!(client.answer().await.complete);
        let record = gateway.record(id).await;
        assert_eq!(record.outcome, Outcome::Ok);
        assert!((900_000..10_000_000).contains(&record.total_us), "{record:?}");
        assert_eq!(record.ledger_us.total(), record.total_us);
        assert!(record.itl_us.unwrap().max < 5_000_000, "{record:?}");
        // The next request is dated by the new wall time: the jump was real.
        client.post("/v1/chat/completions", &format!("x-request-id: after-{id}\r\n"), CHAT).await;
        client.answer().await;
        let shift = gateway.record(&format!("after-{id}")).await.started_at as i64 - wall();
        assert!((shift / 3_600_000_000 - hours).abs() <= 1, "{shift}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_seventeen_mebibytes_that_is_held_back_passes_whole() {
    // Events are held back whole on routes that ask for usage; one of this size does not fit a
    // six-digit chunk size.
    let text = "x".repeat(17 << 20);
    let event = sse::content(&text);
    let sent = event.clone();
    let engine = Engine::start(move |_| {
        // The event's end comes in a packet of its own, so that all of it was held.
        let (most, end) = sent.split_at(sent.len() - 1);
        vec![
            kit::Step::text(sse::STREAM_HEAD),
            kit::Step::chunk(most),
            kit::Step::ms(100),
            kit::Step::chunk(end),
            kit::Step::chunk(sse::finish()),
            kit::Step::chunk(sse::done()),
            kit::Step::end(),
        ]
    })
    .await;
    let settings = format!(
        "backends: [{{name: e, url: '{}'}}]\nroutes: [{{name: r, backend: e, include_usage: inject}}]\nlimits: {{event: 32MiB}}\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&settings).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "", CHAT_STREAM).await;
    let answer = client.maybe_answer().await;
    assert_eq!(gateway.metric("llm_lens_panics_total", ""), 0.0, "{}", gateway.stderr());
    let answer = answer.expect("an answer");
    assert!(answer.complete, "{} bytes came", answer.body.len());
    assert_eq!(answer.body.len(), event.len() + sse::finish().len() + sse::done().len());
    nothing_in_flight(&gateway).await;
}

/// A gateway with a filter of the test kit that panics on a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_its_request_and_no_other() {
    let engine = Engine::start(|_| sse::stream(20, 50)).await;
    let settings = format!(
        "backends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: r, backend: b, guardrail: s}}]\n\
         guardrails: [{{name: s, filters: [{{name: panicking, use: panicking}}]}}]\n",
        engine.url()
    );
    let gateway =
        Gateway::of_binary(env!("CARGO_BIN_EXE_panicking-gateway").as_ref(), &settings).await;
    let running = running_stream(gateway.address()).await;
    for time in 1..=3 {
        let mut client = gateway.client().await;
        client
            .post(
                "/v1/chat/completions",
                &format!("x-test-panic: 1\r\nx-request-id: hurt-{time}\r\n"),
                CHAT,
            )
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error_code().as_str()), (500, "internal_error"));
        assert!(
            client.is_closed_within(AT_ONCE).await,
            "what was read of a request that failed is not trusted"
        );
        let record = gateway.record(&format!("hurt-{time}")).await;
        assert_eq!(
            (record.outcome, record.error_code.as_deref()),
            (Outcome::Rejected, Some("internal_error"))
        );
        assert_eq!(gateway.metric("llm_lens_panics_total", ""), f64::from(time));
    }
    assert!(ends_well(running).await, "another request was hurt");
    assert_eq!(try_chat(gateway.address(), CHAT_STREAM).await, Ok(200));
    nothing_in_flight(&gateway).await;
}
