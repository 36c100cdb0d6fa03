//! HTTP/2: floods, bombs, and fields that HTTP/1.1 cannot express.

use super::*;

/// Writes all bytes while the gateway accepts them, and reads meanwhile. Returns the received
/// frames, and whether the connection was closed.
async fn pour(
    address: std::net::SocketAddr,
    bytes: Vec<u8>,
    time: Duration,
) -> (Vec<h2raw::Frame>, bool) {
    let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
    let reader =
        nix::unistd::dup(&socket).map(std::net::TcpStream::from).expect("a descriptor is free");
    let mut reader = TcpStream::from_std(reader).expect("a socket that does not block");
    let writing = tokio::spawn(async move {
        let _ = socket.write_all(&bytes).await;
        socket
    });
    let got = h2raw::listen(&mut reader, time, |_| false).await;
    writing.abort();
    got
}

fn was_ended(frames: &[h2raw::Frame], closed: bool) -> bool {
    closed || frames.iter().any(|f| f.kind == GOAWAY)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_resets_end_their_connection_and_no_other() {
    let engine = Engine::start(|_| sse::stream(30, 50)).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    let neighbour =
        tokio::spawn(crate::raw::ends_well(crate::raw::running_stream(gateway.address()).await));
    let head =
        |stream, path, flags| frame(HEADERS, END_HEADERS | flags, stream, &h2raw::post(path));
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let nothing = |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
    for path in WAYS {
        for (name, of_stream) in [
            (
                "rapid reset",
                &(|s| [head(s, path, 0), reset(s)].concat()) as &(dyn Fn(u32) -> Vec<u8> + Sync),
            ),
            ("rapid reset of whole requests", &|s| [head(s, path, END_STREAM), reset(s)].concat()),
            ("window update of zero", &|s| [head(s, path, 0), nothing(s)].concat()),
            ("data after the end", &|s| {
                [head(s, path, END_STREAM), frame(DATA, 0, s, b"x")].concat()
            }),
            ("a length that lies", &|s| {
                let block = [h2raw::post(path), h2raw::literal(b"content-length", b"1")].concat();
                [frame(HEADERS, END_HEADERS, s, &block), frame(DATA, 0, s, b"xx")].concat()
            }),
        ] {
            let mut bytes = h2raw::hello(&[]);
            (0..10_000).for_each(|i| bytes.extend(of_stream(2 * i + 1)));
            let mut ended = false;
            let grown = growth(&gateway, async {
                let (frames, closed) = pour(gateway.address(), bytes, Duration::from_secs(5)).await;
                ended = was_ended(&frames, closed);
            })
            .await;
            assert!(ended, "{path}: {name}: the connection goes on");
            assert!(grown < MAX_KIB, "{path}: {name}: {grown} KiB");
        }
    }
    assert!(neighbour.await.unwrap(), "a neighbour was cut");
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    nothing_in_flight(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_unfold_in_memory_are_bounded() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    for path in WAYS {
        for (name, value) in [("large entry", "v".repeat(3_500)), ("small entry", String::new())] {
            // A window of zero: no answer can leave, so no stream can end.
            let mut bytes = h2raw::hello(&[(4, 0)]);
            for i in 0..100 {
                // An entry for the dynamic table, then one byte for each copy of it.
                let mut block = h2raw::post(path);
                block.extend(
                    [
                        &[0x40][..],
                        &h2raw::length(6),
                        b"x-bomb",
                        &h2raw::length(value.len()),
                        value.as_bytes(),
                    ]
                    .concat(),
                );
                block.extend(std::iter::repeat_n(0x80 | 62, 60_000));
                let mut pieces = block.chunks(16_000).peekable();
                let mut kind = HEADERS;
                while let Some(piece) = pieces.next() {
                    let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    let end = if kind == HEADERS { END_STREAM } else { 0 };
                    bytes.extend(frame(kind, last | end, 2 * i + 1, piece));
                    kind = CONTINUATION;
                }
            }
            let grown = growth(&gateway, async {
                pour(gateway.address(), bytes, Duration::from_secs(2)).await;
            })
            .await;
            assert!(grown < MAX_KIB, "{path}: {name}: {grown} KiB");
        }
    }
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_are_bounded() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    let head = frame(HEADERS, 0, 1, &h2raw::post(WAYS[0]));
    let field = h2raw::literal(b"x", &[b'y'; 1000]);
    let many = |one: Vec<u8>, n: usize| one.repeat(n);
    for (name, bytes, must_end) in [
        (
            "continuations without an end",
            [head.clone(), many(frame(CONTINUATION, 0, 1, &field), 20_000)].concat(),
            true,
        ),
        (
            "empty continuations",
            [head, many(frame(CONTINUATION, 0, 1, b""), 200_000)].concat(),
            true,
        ),
        ("pings", many(frame(PING, 0, 0, &[0; 8]), 200_000), false),
        ("settings", many(frame(h2raw::SETTINGS, 0, 0, b""), 200_000), false),
        (
            "empty data",
            [
                frame(HEADERS, END_HEADERS, 1, &h2raw::post(WAYS[0])),
                many(frame(DATA, 0, 1, b""), 200_000),
            ]
            .concat(),
            false,
        ),
    ] {
        let mut ended = false;
        let grown = growth(&gateway, async {
            let bytes = [h2raw::hello(&[]), bytes].concat();
            let (frames, closed) =
                pour(gateway.address(), bytes, Duration::from_millis(1500)).await;
            ended = was_ended(&frames, closed);
        })
        .await;
        assert!(grown < MAX_KIB, "{name}: {grown} KiB");
        assert!(ended || !must_end, "{name}: the connection goes on");
        assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_requests_over_http2_are_served_on_both_ways() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let mut wrong = Vec::new();
    for path in WAYS {
        let sized = [h2raw::post(path), h2raw::literal(b"content-length", b"2")].concat();
        for (name, block) in [("without a length", h2raw::post(path)), ("with its length", sized)] {
            let (good, frames) = h2raw::one_stream(
                gateway.address(),
                &[frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, b"{}")],
            )
            .await;
            let seen = origin.take();
            if !good || seen.len() != 1 || seen[0].1 != b"{}" {
                let said: String = frames
                    .iter()
                    .filter(|f| f.kind == DATA)
                    .map(|f| String::from_utf8_lossy(&f.payload))
                    .collect();
                wrong.push(format!("{path} {name}: {said}, the engine got {seen:?}"));
            }
        }
    }
    let get = h2raw::head(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/v1/models"),
    ]);
    let (good, _) =
        h2raw::one_stream(gateway.address(), &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &get)])
            .await;
    if !good {
        wrong.push("GET /v1/models".to_owned());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_fields_invalid_in_http1_are_not_forwarded() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let mut wrong = Vec::new();
    for path in WAYS {
        let base = |authority: &str, path: &str| {
            h2raw::head(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", authority),
                (":path", path),
            ])
        };
        let with =
            |name: &[u8], value: &[u8]| [base("a", path), h2raw::literal(name, value)].concat();
        for (name, block) in [
            ("transfer-encoding", with(b"transfer-encoding", b"chunked")),
            ("connection", with(b"connection", b"close")),
            ("upgrade", with(b"upgrade", b"websocket")),
            ("te", with(b"te", b"chunked")),
            ("length too small", with(b"content-length", b"1")),
            ("length too large", with(b"content-length", b"99")),
            ("length of nonsense", with(b"content-length", b"2, 2")),
            ("signed length", with(b"content-length", b"+2")),
            (
                "two lengths",
                [with(b"content-length", b"2"), h2raw::literal(b"content-length", b"3")].concat(),
            ),
            ("CRLF in a value", with(b"x", b"a\r\ntransfer-encoding: chunked")),
            ("LF in a value", with(b"x", b"a\nb")),
            ("NUL in a value", with(b"x", b"a\0b")),
            ("CRLF in a name", with(b"x\r\ny", b"a")),
            ("colon in a name", with(b"x:y", b"a")),
            ("space in a name", with(b"x y", b"a")),
            ("upper case", with(b"X-Y", b"a")),
            ("userinfo", base("u:p@a", path)),
            ("authority with a path", base("a/b", path)),
            ("authority with CRLF", base("a\r\nx: y", path)),
            ("path with a space", base("a", &format!("{path} HTTP/1.1\r\nx: y"))),
            ("path with one space", base("a", &format!("{path}?a b"))),
            ("path with CRLF", base("a", &format!("{path}\r\nx: y"))),
            ("path without a slash", base("a", "v1")),
            ("path that is absolute", base("a", &format!("http://b{path}"))),
            ("empty path", base("a", "")),
            (
                "no path",
                h2raw::head(&[(":method", "POST"), (":scheme", "http"), (":authority", "a")]),
            ),
            ("two paths", [base("a", path), h2raw::head(&[(":path", "/x")])].concat()),
            (
                "late path",
                h2raw::head(&[
                    (":method", "POST"),
                    (":scheme", "http"),
                    ("x", "y"),
                    (":path", path),
                ]),
            ),
            (
                "method with a space",
                h2raw::head(&[
                    (":method", "GET /x HTTP/1.1\r\n\r\nPOST"),
                    (":scheme", "http"),
                    (":authority", "a"),
                    (":path", path),
                ]),
            ),
            ("CONNECT", h2raw::head(&[(":method", "CONNECT"), (":authority", "a:1")])),
            ("two hosts", [with(b"host", b"a"), h2raw::literal(b"host", b"b")].concat()),
        ] {
            let (good, frames) = h2raw::one_stream(
                gateway.address(),
                &[frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, b"{}")],
            )
            .await;
            let refused = frames.iter().any(|f| {
                matches!(f.kind, RST_STREAM | GOAWAY) || (f.kind == HEADERS && !f.is_ok())
            });
            let seen = origin.take();
            if good || !refused || !seen.is_empty() {
                wrong.push(format!(
                    "{path}: {name}: answered 200: {good}, refused: {refused}, the engine got {:?}",
                    seen.iter().map(|s| &s.0).collect::<Vec<_>>()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_in_flight(&gateway).await;
}
