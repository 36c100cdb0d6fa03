//! HTTP/2 to the backend: the same pipeline and the same figures as over HTTP/1.1.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response};
use kit::client::{CHAT, CHAT_STREAM};
use kit::{Gateway, sse};
use lens::record::Outcome;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{ask, eventually, read_until, settings, settled};

/// What the backend does after its first two events.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Sends the rest, with usage.
    Ends,
    /// Resets the stream.
    Resets,
    /// Sends nothing more, and waits for the reset after the client has disconnected.
    Hangs,
    /// Sends only its head, and waits for that reset.
    Promises,
    /// Sends interim answers without end, and no head.
    Stalls,
}

/// What the backend received.
#[derive(Debug, PartialEq)]
enum Saw {
    /// A request: method, path, request id, body.
    Request(String, String, String, String),
    /// Its stream was reset.
    Reset(Reason),
}

const PAUSE: Duration = Duration::from_millis(150);

/// A backend with HTTP/2 without TLS only.
async fn backend(then: Then) -> (SocketAddr, mpsc::Receiver<Saw>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback, and a peer that keeps to its script");
    let address = listener.local_addr().expect("loopback, and a peer that keeps to its script");
    let (saw, seen) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(connection(socket, then, saw.clone()));
        }
    });
    (address, seen)
}

async fn connection(socket: TcpStream, then: Then, saw: mpsc::Sender<Saw>) {
    let mut connection =
        h2::server::handshake(socket).await.expect("loopback, and a peer that keeps to its script");
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, then, saw.clone()));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    then: Then,
    saw: mpsc::Sender<Saw>,
) {
    let (head, mut body) = request.into_parts();
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("loopback, and a peer that keeps to its script");
        body.flow_control()
            .release_capacity(piece.len())
            .expect("loopback, and a peer that keeps to its script");
        whole.extend_from_slice(&piece);
    }
    let id = head
        .headers
        .get("x-request-id")
        .map(|v| v.to_str().expect("loopback, and a peer that keeps to its script").to_owned())
        .unwrap_or_default();
    let body = String::from_utf8(whole).expect("loopback, and a peer that keeps to its script");
    let streamed = body.contains("\"stream\":true");
    saw.send(Saw::Request(head.method.to_string(), head.uri.path().to_owned(), id, body))
        .await
        .expect("the test listens");
    if then == Then::Stalls {
        return stall(&mut respond, &saw).await;
    }
    let kind = if streamed { "text/event-stream" } else { "application/json" };
    let mut stream = respond
        .send_response(
            Response::builder()
                .header("content-type", kind)
                .body(())
                .expect("loopback, and a peer that keeps to its script"),
            false,
        )
        .expect("loopback, and a peer that keeps to its script");
    if !streamed {
        let whole = r#"{"model":"m","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
        return stream
            .send_data(Bytes::from(whole), true)
            .expect("loopback, and a peer that keeps to its script");
    }
    let hang = async |stream: &mut h2::SendStream<Bytes>| {
        let reason = std::future::poll_fn(|cx| stream.poll_reset(cx))
            .await
            .expect("loopback, and a peer that keeps to its script");
        saw.send(Saw::Reset(reason)).await.expect("the test listens");
    };
    if then == Then::Promises {
        return hang(&mut stream).await;
    }
    tokio::time::sleep(PAUSE).await;
    stream
        .send_data(Bytes::from(sse::role() + &sse::content("a")), false)
        .expect("loopback, and a peer that keeps to its script");
    match then {
        Then::Ends => {
            tokio::time::sleep(PAUSE).await;
            let rest = sse::content("b") + &sse::finish() + &sse::usage(3, 2) + &sse::done();
            stream
                .send_data(Bytes::from(rest), true)
                .expect("loopback, and a peer that keeps to its script");
        }
        Then::Resets => stream.send_reset(Reason::INTERNAL_ERROR),
        Then::Hangs | Then::Promises | Then::Stalls => hang(&mut stream).await,
    }
}

/// Sends interim answers until the stream is reset.
async fn stall(respond: &mut SendResponse<Bytes>, saw: &mpsc::Sender<Saw>) {
    let pause = Duration::from_millis(1);
    loop {
        let interim = Response::builder().status(102).body(()).expect("a valid status");
        let sent = respond.send_informational(interim);
        let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
        match tokio::time::timeout(pause, reset).await {
            Ok(reason) => {
                let reason = reason.expect("loopback, and a peer that keeps to its script");
                return saw.send(Saw::Reset(reason)).await.expect("the test listens");
            }
            Err(_) => sent.expect("the stream is open"),
        }
    }
}

async fn in_front_of(address: SocketAddr) -> Gateway {
    Gateway::with_settings(&settings(&format!("http://{address}"), ", http2: true", "", "")).await
}

/// A backend that does not process its first request: it refuses the stream, or closes the
/// connection and names an earlier stream as the last one.
async fn refusing(goes_away: bool) -> (SocketAddr, mpsc::Receiver<Saw>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (saw, seen) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut has_refused = false;
        while let Ok((socket, _)) = listener.accept().await {
            // The gateway connects at its start, too, and closes.
            if !has_refused && goes_away {
                has_refused = go_away(socket).await.is_ok();
            } else if !has_refused {
                has_refused = refuse(socket, &saw).await.is_some();
            } else {
                tokio::spawn(connection(socket, Then::Ends, saw.clone()));
            }
        }
    });
    (address, seen)
}

/// Refuses the first stream, and serves the others. `None`: there was no stream.
async fn refuse(socket: TcpStream, saw: &mpsc::Sender<Saw>) -> Option<()> {
    let mut connection = h2::server::handshake(socket).await.ok()?;
    let (_, mut respond) = connection.accept().await?.ok()?;
    respond.send_reset(Reason::REFUSED_STREAM);
    drop(respond);
    let saw = saw.clone();
    tokio::spawn(async move {
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(answer(request, respond, Then::Ends, saw.clone()));
        }
    });
    Some(())
}

/// Answers the first head with GOAWAY (RFC 9113, section 6.8): no stream was processed.
async fn go_away(mut socket: TcpStream) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    socket.read_exact(&mut [0; PREFACE]).await?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        socket.read_exact(&mut vec![0; length]).await?;
        if head[3] == HEADERS {
            break;
        }
    }
    let frame = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
    socket.write_all(&frame).await?;
    tokio::spawn(async move { socket.read_to_end(&mut Vec::new()).await });
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_not_processed_is_sent_again() {
    for goes_away in [false, true] {
        let (address, mut seen) = refusing(goes_away).await;
        let gateway = in_front_of(address).await;
        let answer = ask(&gateway, "/v1/chat/completions", "x", CHAT).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(matches!(seen.recv().await, Some(Saw::Request(.., body)) if body == CHAT));
        settled(&gateway).await;
        assert_eq!(gateway.record("x").await.outcome, Outcome::Ok);
        assert_eq!(gateway.metric("llm_lens_backend_failures_total", ""), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_whole_answers_are_measured() {
    let (address, mut seen) = backend(Then::Ends).await;
    let gateway = in_front_of(address).await;
    let path = "/v1/chat/completions";
    let streamed = ask(&gateway, path, "streamed", CHAT_STREAM).await;
    assert_eq!(streamed.status, 200);
    assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    let want = Saw::Request("POST".into(), path.into(), "streamed".into(), CHAT_STREAM.into());
    assert_eq!(seen.recv().await, Some(want));
    let record = gateway.record("streamed").await;
    assert_eq!((record.outcome, record.content_events), (Outcome::Ok, Some(2)), "{record:?}");
    let ttft = Duration::from_micros(record.engine_ttft_us.unwrap());
    assert!((PAUSE..PAUSE * 3).contains(&ttft), "{ttft:?}");
    let between = Duration::from_micros(record.itl_us.unwrap().max);
    assert!((PAUSE / 2..PAUSE * 3).contains(&between), "{between:?}");
    let whole = ask(&gateway, path, "whole", CHAT).await;
    assert_eq!(whole.status, 200);
    assert_eq!(gateway.record("whole").await.usage.and_then(|u| u.completion_tokens), Some(1));
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_ends_in_an_error_event() {
    let (address, _seen) = backend(Then::Resets).await;
    let gateway = in_front_of(address).await;
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "x-request-id: torn\r\n", CHAT_STREAM).await;
    let answer = client.answer().await;
    assert!(!answer.complete, "a stream that broke off looks whole");
    let answer = answer.text();
    assert!(answer.contains("upstream_died"), "{answer}");
    assert!(!answer.contains("[DONE]"), "{answer}");
    let record = gateway.record("torn").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::UpstreamFailed, Some("upstream_died"))
    );
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_disconnect_resets_its_stream_and_keeps_the_connection() {
    let (address, mut seen) = backend(Then::Hangs).await;
    let gateway = in_front_of(address).await;
    for id in ["first", "second"] {
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", &format!("x-request-id: {id}\r\n"), CHAT_STREAM).await;
        read_until(&mut client, "\"a\"").await;
        drop(client);
        assert!(matches!(seen.recv().await, Some(Saw::Request(..))));
        let reset = tokio::time::timeout(Duration::from_secs(5), seen.recv())
            .await
            .expect("the stream is reset");
        assert_eq!(reset, Some(Saw::Reset(Reason::CANCEL)));
        assert_eq!(gateway.record(id).await.outcome, Outcome::ClientGone);
    }
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_without_http2_is_a_502() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            let _ =
                socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let gateway = in_front_of(address).await;
    let answer = ask(&gateway, "/v1/chat/completions", "odd", CHAT).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    eventually("nothing is left", || gateway.metric("llm_lens_in_flight_requests", "") == 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_interim_answers_are_a_502_and_a_reset() {
    let (address, mut seen) = backend(Then::Stalls).await;
    let gateway = in_front_of(address).await;
    let answer = ask(&gateway, "/v1/chat/completions", "interim", CHAT).await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (502, "upstream_invalid_response"),
        "{}",
        answer.text()
    );
    assert!(matches!(seen.recv().await, Some(Saw::Request(..))));
    assert_eq!(seen.recv().await, Some(Saw::Reset(Reason::CANCEL)));
    settled(&gateway).await;
}

/// A backend that has sent only its head is hedged, over HTTP/2 or not, and canceled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_backend_is_raced_and_another_pool_is_mirrored_to() {
    let (late, mut at_late) = backend(Then::Promises).await;
    let (well, mut at_well) = backend(Then::Ends).await;
    let (mirror, mut at_mirror) = backend(Then::Ends).await;
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: late, url: 'http://{late}', http2: true}}, {{name: well, url: 'http://{well}', http2: true}}, \
         {{name: m, url: 'http://{mirror}', http2: true}}]\n\
         pools: [{{name: p, backends: [late, well], balance: round_robin}}, {{name: shadow, backends: [m]}}]\n\
         routes: [{{name: r, pool: p, hedge: {{after: 100ms, budget: 1}}, mirror: {{pool: shadow, share: 1}}}}]\n"
    ))
    .await;
    let answer = ask(&gateway, "/v1/chat/completions", "raced", CHAT_STREAM).await;
    assert!(
        answer.status == 200 && answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    settled(&gateway).await;
    let record = gateway.record("raced").await;
    assert_eq!(
        (record.backend.as_deref(), record.routing.hedge.map(|hedge| hedge.won)),
        (Some("well"), Some(true))
    );
    assert!(
        matches!(at_late.recv().await, Some(Saw::Request(..)))
            && matches!(at_well.recv().await, Some(Saw::Request(..)))
    );
    assert_eq!(at_late.recv().await, Some(Saw::Reset(Reason::CANCEL)));
    assert!(matches!(at_mirror.recv().await, Some(Saw::Request(..))));
    gateway
        .wait_until(|g| g.metric("llm_lens_mirrored_requests_total", "result=\"success\"") == 1.0)
        .await;
}
