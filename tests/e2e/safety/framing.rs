//! Where a message ends: early answers, ambiguous framings, chunks, cuts. No request is ever parsed
//! out of a body.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_body_is_never_parsed_as_a_request() {
    let origin = Origin::start().await;
    let more = "limits: {request_body: 1KiB}";
    let text = format!(
        "backends: [{{name: e, url: '{}'}}]\nroutes: [{{name: r, backend: e, match: {{path: '/v1/chat/*'}}}}]\n{more}\n",
        origin.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let address = gateway.address();
    let body = SMUGGLED.repeat(60);
    let with = |line: &str, fields: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}")
    };
    let length = format!("content-length: {}\r\n", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (name, status, bytes) in [
        ("413 by length", 413, with("POST /v1/chat/completions", &length, &body)),
        (
            "413 by chunks",
            413,
            with("POST /v1/chat/completions", "transfer-encoding: chunked\r\n", &chunked),
        ),
        ("404 on the other way", 404, with("POST /nowhere", &length, &body)),
        ("404 with chunks", 404, with("POST /nowhere", "transfer-encoding: chunked\r\n", &chunked)),
        (
            "400 for both framings",
            400,
            with(
                "POST /v1/chat/completions",
                &format!("{length}transfer-encoding: chunked\r\n"),
                &body,
            ),
        ),
        ("417", 417, with("POST /v1/chat/completions", &format!("expect: tea\r\n{length}"), &body)),
        ("501", 501, with("POST /nowhere", &format!("upgrade: tea\r\n{length}"), &body)),
        (
            "malformed chunks",
            400,
            with(
                "POST /v1/chat/completions",
                "transfer-encoding: chunked\r\n",
                &format!("zz\r\n{body}"),
            ),
        ),
    ] {
        let heard = send_raw(address, &bytes).await;
        assert_eq!(heard.statuses, [status], "{name}: {heard:?}");
        assert_refused(name, &heard, &origin);
    }
    // A body that was read whole may be followed by a next request; it is still one body.
    let whole = SMUGGLED.repeat(3);
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let heard = send_raw(address, post(path, "", &whole)).await;
        assert_eq!(heard.statuses.len(), 1, "{path}: {heard:?}");
        assert!(origin.take().iter().all(|(head, _)| !head.contains("smuggled")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_answers_before_the_body_leaves_no_body_behind() {
    // It answers every head at once, reads no body, and keeps its connection open.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let mut answered = false;
                while matches!(socket.read(&mut bytes).await, Ok(n) if n > 0) {
                    if !std::mem::replace(&mut answered, true) {
                        let _ = socket
                            .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno")
                            .await;
                    }
                }
            });
        }
    });
    let gateway = Gateway::in_front_of(&url).await;
    for path in WAYS {
        let body = SMUGGLED.repeat(20);
        let (now, later) = body.split_at(100);
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{now}").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = socket.write_all(later.as_bytes()).await;
        let heard = receive(&mut socket).await;
        assert_eq!(heard.statuses.len(), 1, "{path}: {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_one_packet_are_all_answered() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let chat = post(WAYS[0], "", CHAT);
    let other = post(WAYS[1], "", "{}");
    let get = "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    for (name, requests) in [
        ("ours, ours", [&chat, &chat].as_slice()),
        ("ours, other", &[&chat, &get]),
        ("other, other", &[&get, &get, &get]),
        ("other with a body, ours", &[&other, &chat]),
        ("mixed", &[&chat, &get, &chat, &other, &get]),
    ] {
        let all: String = requests.iter().map(|r| r.as_str()).collect();
        let heard = send_raw(gateway.address(), all).await;
        assert!(heard.statuses.iter().all(|s| *s == 200), "{name}: {heard:?}");
        // A server may close instead of answering pipelined requests; it must not be silent.
        assert!(
            heard.statuses.len() == requests.len() || heard.closed,
            "{name}: {} answers, left open",
            heard.statuses.len()
        );
        assert_eq!(origin.take().len(), heard.statuses.len(), "{name}");
    }
}

// Framing.

/// Fields that state no framing, or two, or a wrong one, in either version.
const FRAMINGS: &[&str] = &[
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: ,chunked",
    "transfer-encoding: chunked,",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: identity",
    "transfer-encoding: identity, chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: x",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunked;q=1",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding: chunked\x0b",
    "transfer-encoding: \x0bchunked",
    "transfer-encoding: \u{a0}chunked",
    "transfer-encoding: chun\0ked",
    "transfer-encoding:",
    "transfer-encoding : chunked",
    "transfer-encoding\t: chunked",
    " transfer-encoding: chunked",
    "x: y\r\n transfer-encoding: chunked",
    "x: y\r\n\ttransfer-encoding: chunked",
    "transfer-encoding:\r\n chunked",
    "x: y\ntransfer-encoding: chunked",
    "x: y\rtransfer-encoding: chunked",
    "transfer-encoding\u{85}: chunked",
    "transfer-encoding: chunked\r\ncontent-length: 5",
    "content-length: 5\r\ntransfer-encoding: chunked",
    "content-length: 0\r\ntransfer-encoding: chunked",
    "content-length: 5\r\ncontent-length: 5",
    "content-length: 5\r\ncontent-length: 6",
    "content-length: 5\r\ncontent-length:",
    "content-length: 5, 5",
    "content-length: 5,6",
    "content-length: +5",
    "content-length: -5",
    "content-length: -0",
    "content-length: 0x5",
    "content-length: 5.0",
    "content-length: 5 5",
    "content-length: 1_0",
    "content-length: five",
    "content-length:",
    "content-length: 99999999999999999999",
    "content-length: 18446744073709551617",
    "content-length : 5",
    "content-length:\r\n 5",
    "content-length\u{85}: 5",
    "content-length\0: 5",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framing_that_two_could_read_differently_is_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    for path in WAYS {
        for version in ["1.0", "1.1"] {
            let old = ["transfer-encoding: chunked"];
            let more = if version == "1.0" { &old[..] } else { &[] };
            for fields in FRAMINGS.iter().chain(more) {
                let bytes = format!(
                    "POST {path} HTTP/{version}\r\nhost: a\r\nconnection: keep-alive\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}"
                );
                let name = format!("{path} {version} {fields:?}");
                let heard = send_raw(gateway.address(), bytes).await;
                assert_eq!(heard.statuses, [400], "{name}: {heard:?}");
                assert_refused(&name, &heard, &origin);
            }
        }
    }
    nothing_in_flight(&gateway).await;
}

/// What may happen to a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Refused and closed.
    Refused,
    /// One request reaches the engine, whole.
    One,
    /// Either of the two.
    Either,
}
use Fate::{Either, One, Refused};

/// Heads: `{}` stands for a path. Each is followed by [`SMUGGLED`], which must not be parsed as a
/// request if it belongs to the body.
const HEADS: &[(&str, &[u8], Fate)] = &[
    ("bare LF everywhere", b"POST {} HTTP/1.1\nhost: a\ncontent-length: 35\n\n", Refused),
    ("bare LF at the end", b"POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\n", Refused),
    (
        "bare LF after the target",
        b"POST {}\n HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    (
        "bare CR in a value",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx: a\rb\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    (
        "bare CR hides a field",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx: a\rcontent-length: 0\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("CR CR LF", b"POST {} HTTP/1.1\r\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "CR CR before a field",
        b"POST {} HTTP/1.1\r\nhost: a\r\n\r\r;ABCD\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    (
        "NUL in a value",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx: a\0b\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    (
        "NUL in a name",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx\0: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("NUL in the target", b"POST {}\0 HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "obs-fold",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("folded first field", b"POST {} HTTP/1.1\r\n host: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("field without a colon", b"POST {} HTTP/1.1\r\nhost: a\r\ncontent-length\r\n\r\n", Refused),
    (
        "empty field name",
        b"POST {} HTTP/1.1\r\nhost: a\r\n: 35\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    (
        "space in a field name",
        b"POST {} HTTP/1.1\r\nhost: a\r\nx y: 1\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("no Host", b"POST {} HTTP/1.1\r\ncontent-length: 35\r\n\r\n", Refused),
    ("two Hosts", b"POST {} HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "two equal Hosts",
        b"POST {} HTTP/1.1\r\nhost: a\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("empty Host", b"POST {} HTTP/1.1\r\nhost:\r\ncontent-length: 35\r\n\r\n", Refused),
    ("Host with userinfo", b"POST {} HTTP/1.1\r\nhost: u@a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("Host with a path", b"POST {} HTTP/1.1\r\nhost: a/b\r\ncontent-length: 35\r\n\r\n", Refused),
    ("Host list", b"POST {} HTTP/1.1\r\nhost: a, b\r\ncontent-length: 35\r\n\r\n", Refused),
    ("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", Refused),
    (
        "CONNECT with a path",
        b"CONNECT {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("authority form", b"POST a:80 HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("no slash", b"POST v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("asterisk", b"POST * HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "another scheme",
        b"POST gopher://a{} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("fragment", b"POST {}#x HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "space in the target",
        b"POST {} x HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Refused,
    ),
    ("tab for a space", b"POST\t{}\tHTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("two spaces", b"POST  {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("HTTP/0.9", b"GET {}\r\n\r\n", Refused),
    ("HTTP/1.2", b"POST {} HTTP/1.2\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("HTTP/2.0", b"POST {} HTTP/2.0\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("HTTP/01.1", b"POST {} HTTP/01.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("http/1.1", b"POST {} http/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    ("method with a colon", b"PO:ST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Refused),
    (
        "absolute form",
        b"POST http://a:1{} HTTP/1.1\r\nhost: a:1\r\ncontent-length: 35\r\n\r\n",
        One,
    ),
    (
        "absolute form, other case",
        b"POST HTTP://a{} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        One,
    ),
    (
        "absolute form of another host",
        b"POST http://b{} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
    (
        "absolute form with userinfo",
        b"POST http://u:p@a{} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
    ("empty line first", b"\r\nPOST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", One),
    ("leading zeros", b"POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 0035\r\n\r\n", Either),
    (
        "space after the length",
        b"POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35 \t\r\n\r\n",
        One,
    ),
    ("GET with a body", b"GET {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Either),
    (
        "OPTIONS with a body",
        b"OPTIONS {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
    ("DELETE with a body", b"DELETE {} HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\n", Either),
    ("HTTP/1.0 with a length", b"POST {} HTTP/1.0\r\ncontent-length: 35\r\n\r\n", One),
    ("HTTP/1.0 without one, to be closed", b"POST {} HTTP/1.0\r\nhost: a\r\n\r\n", Either),
    (
        "underscore for a dash",
        b"POST {} HTTP/1.1\r\nhost: a\r\ntransfer_encoding: chunked\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
    (
        "nominated length",
        b"POST {} HTTP/1.1\r\nhost: a\r\nconnection: content-length\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
    (
        "nominated Host",
        b"POST {} HTTP/1.1\r\nhost: a\r\nconnection: host, close\r\ncontent-length: 35\r\n\r\n",
        Either,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_smugglers() {
    assert_eq!(SMUGGLED.len(), 35);
    let (ours, others) = tokio::join!(wrong_fates(WAYS[0]), wrong_fates(WAYS[1]));
    assert!(ours.is_empty() && others.is_empty(), "{}\n{}", ours.join("\n"), others.join("\n"));
}

/// Heads whose fate is not the expected one.
async fn wrong_fates(path: &str) -> Vec<String> {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let mut wrong = Vec::new();
    for (name, head, fate) in HEADS {
        let bytes = String::from_utf8_lossy(head).replace("{}", path) + SMUGGLED;
        let heard = send_raw(gateway.address(), &bytes).await;
        wrong.extend(judge(&format!("{path}: {name}"), *fate, &heard, &origin.take()));
    }
    nothing_in_flight(&gateway).await;
    wrong
}

/// Chunked bodies, each followed by [`SMUGGLED`].
const CHUNKS: &[(&str, &[u8], Fate)] = &[
    ("extension", b"2;a=b\r\n{}\r\n0\r\n\r\n", One),
    ("quoted extension", b"2;a=\"b;c\"\r\n{}\r\n0;x\r\n\r\n", One),
    ("upper case and zeros", b"002\r\n{}\r\n000\r\n\r\n", One),
    ("trailers", b"2\r\n{}\r\n0\r\nx: y\r\nz: 1\r\n\r\n", One),
    (
        "trailers that lie",
        b"2\r\n{}\r\n0\r\ncontent-length: 99\r\ntransfer-encoding: x\r\nhost: b\r\n\r\n",
        One,
    ),
    ("space after the size", b"2 \r\n{}\r\n0\r\n\r\n", Either),
    ("underscore", b"0_2e\r\n{}\r\n0\r\n\r\n", Refused),
    ("plus", b"+2\r\n{}\r\n0\r\n\r\n", Refused),
    ("minus", b"-2\r\n{}\r\n0\r\n\r\n", Refused),
    ("0x", b"0x2\r\n{}\r\n0\r\n\r\n", Refused),
    ("space before the size", b" 2\r\n{}\r\n0\r\n\r\n", Refused),
    ("no size", b"\r\n{}\r\n0\r\n\r\n", Refused),
    ("size that overflows to 2", b"10000000000000002\r\n{}\r\n0\r\n\r\n", Refused),
    ("size that overflows to 0", b"10000000000000000\r\n\r\n", Refused),
    ("LF after the size", b"2\n{}\r\n0\r\n\r\n", Refused),
    ("LF in an extension", b"2;a\n{}\r\n0\r\n\r\n", Refused),
    ("CR in an extension", b"2;a\rb\r\n{}\r\n0\r\n\r\n", Refused),
    ("NUL in an extension", b"2;\0\r\n{}\r\n0\r\n\r\n", Refused),
    ("LF after the data", b"2\r\n{}\n0\r\n\r\n", Refused),
    ("nothing after the data", b"2\r\n{}0\r\n\r\n", Refused),
    ("more data than the size says", b"1\r\n{}\r\n0\r\n\r\n", Refused),
    ("LF at the end", b"2\r\n{}\r\n0\n\n", Refused),
    ("LF after the last chunk", b"2\r\n{}\r\n0\r\n\n", Refused),
    ("LF in the trailers", b"2\r\n{}\r\n0\r\nx: y\n\r\n", Refused),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_smugglers() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let mut wrong = Vec::new();
    for path in WAYS {
        for (name, body, fate) in CHUNKS {
            let mut bytes =
                format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
                    .into_bytes();
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(SMUGGLED.replace("/smuggled", "/next").as_bytes());
            // Here the last request is a real one, pipelined, after a body that ended well; it must
            // not be served after one that did not.
            let heard = send_raw(gateway.address(), bytes).await;
            let seen = origin.take();
            let good = |s: &u16| *s == 200;
            let unserved = heard.closed && !heard.statuses.iter().any(good) && seen.is_empty();
            let fine = match fate {
                // Pingora's proxy accepts some of these. Then they are one request with new
                // framing, and the connection ends.
                Refused if path != WAYS[0] => {
                    unserved
                        || (heard.closed
                            && heard.statuses.len() == 1
                            && seen.len() == 1
                            && seen[0].0.contains(path))
                }
                Refused => unserved,
                _ if heard.statuses.iter().any(good) => {
                    seen.len() <= 2
                        && seen
                            .first()
                            .is_some_and(|(head, body)| head.contains(path) && body == b"{}")
                }
                One => false,
                Either => unserved,
            };
            if !fine {
                wrong.push(format!(
                    "{path}: {name} ({fate:?}): {:?}, closed: {}, seen: {seen:?}",
                    heard.statuses, heard.closed
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_in_flight(&gateway).await;
}

/// The difference from the expected fate, if any.
fn judge(name: &str, fate: Fate, heard: &Received, seen: &[(String, Vec<u8>)]) -> Option<String> {
    let forwarded = heard.statuses.contains(&200);
    let refused =
        heard.closed && seen.is_empty() && matches!(heard.statuses[..], [400..=499 | 501 | 505]);
    let whole = |(head, body): &(String, Vec<u8>)| {
        let lower = head.to_ascii_lowercase();
        !lower.contains("smuggled")
            && !lower.contains("http://")
            && (body.is_empty() || body == SMUGGLED.as_bytes())
    };
    let fine = match fate {
        Refused => refused,
        Either if !forwarded => refused,
        One | Either => heard.statuses == [200] && seen.len() == 1 && whole(&seen[0]),
    };
    (!fine).then(|| {
        format!(
            "{name} ({fate:?}): {:?}, closed: {}, the engine got {seen:?}",
            heard.statuses, heard.closed
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_be_cut_anywhere_and_the_next_request_still_counts() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let tail = "2\r\n{}\r\n0\r\nx: y\r\n\r\n";
    for path in WAYS {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut client = gateway.client().await;
        for cut in 0..=tail.len() {
            client.send(format!("{head}{}", &tail[..cut])).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.send(&tail[cut..]).await;
            let answer = client
                .maybe_answer()
                .await
                .unwrap_or_else(|| panic!("{path}: closed at cut {cut}"));
            assert_eq!((answer.status, answer.complete), (200, true), "{path}: cut at {cut}");
            assert_eq!(origin.take()[0].1, b"{}", "{path}: cut at {cut}");
            if answer.field("connection") == Some("close") {
                client = gateway.client().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_be_cut_anywhere_and_the_connection_still_counts() {
    const TAIL: &str = "2;x=y\r\n{}\r\n0\r\nx: y\r\n\r\n";
    let engine = Engine::start(|request| {
        let cut: usize = request.head.split("cut: ").nth(1).and_then(|v| v.lines().next()).unwrap().parse().unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        vec![Step::text(format!("{head}{}", &TAIL[..cut])), Step::ms(10), Step::text(&TAIL[cut..])]
    })
    .await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for path in WAYS {
        let mut client = gateway.client().await;
        for cut in 0..=TAIL.len() {
            client.post(path, &format!("cut: {cut}\r\n"), CHAT).await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status, answer.complete, answer.text().as_str()),
                (200, true, "{}"),
                "{path}: cut at {cut}"
            );
        }
    }
    let connections = engine.seen().iter().map(|s| s.connection).max().unwrap() + 1;
    // They rest 50 ms after an answer of 10 ms.
    let requests = engine.seen().len();
    assert!(connections <= requests / 3, "{connections} connections for {requests} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    let origin = Origin::start().await;
    let gateway = Gateway::in_front_of(&origin.url()).await;
    let mut wrong = Vec::new();
    for path in WAYS {
        for piece in [
            "P".to_owned(),
            format!("POST {path} HTTP/1.1"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\n"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5"),
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"),
            format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
            ),
            "PRI * HTTP/2.0\r\n\r\n".to_owned(),
        ] {
            // First half closed, then closed.
            let heard = send_and_shut_down(gateway.address(), &piece).await;
            if !heard.closed || heard.statuses.iter().any(|s| *s < 400) {
                wrong.push(format!("{piece:?}: {heard:?}"));
            }
            let mut client = Client::connect(gateway.address()).await;
            client.send(&piece).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(origin.take().is_empty());
    nothing_in_flight(&gateway).await;
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_line_too_many_is_no_request() {
    let origin = Origin::start().await;
    let gateway =
        Gateway::with_settings(&settings(&origin.url(), "timeouts: {request_head: 300ms}")).await;
    let mut client = gateway.client().await;
    client.send(post(WAYS[0], "", CHAT) + "\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    // A surplus answer would be taken for that of the next request.
    let heard = receive(client.socket()).await;
    assert!(heard.text.is_empty(), "{heard:?}");
}
