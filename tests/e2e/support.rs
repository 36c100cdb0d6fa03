//! Helpers of the test modules that are not in the kit.

use std::future::Future;
use std::time::{Duration, Instant};

use kit::client::{Answer, PATIENCE};
use kit::engine::Seen;
use kit::{Client, Gateway, Step, sse};
use tokio::io::AsyncReadExt;

/// The value of a field in a head.
pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// The request id that an engine received. Scripts use it to select their answer.
pub fn id(seen: &Seen) -> &str {
    field(&seen.head, "x-request-id").unwrap_or_default()
}

/// Settings with one backend `e` and one route `r`; `backend` and `route` are more members of them,
/// each with a comma before it, `more` are more sections.
pub fn settings(url: &str, backend: &str, route: &str, more: &str) -> String {
    format!(
        "backends: [{{name: e, url: '{url}'{backend}}}]\nroutes: [{{name: r, backend: e{route}}}]\n{more}\n"
    )
}

/// Sends a request on a new connection; returns the answer.
pub async fn ask(gateway: &Gateway, path: &str, id: &str, body: &str) -> Answer {
    let mut client = gateway.client().await;
    client.post(path, &format!("x-request-id: {id}\r\n"), body).await;
    client.answer().await
}

/// Reads from a client's socket until it contains `needle`. These bytes are lost for
/// [`Client::answer`].
pub async fn read_until(client: &mut Client, needle: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(needle) {
            let n = client.socket().read_buf(&mut read).await.expect("the gateway writes");
            assert!(
                n > 0,
                "the connection ended before {needle:?}: {}",
                String::from_utf8_lossy(&read)
            );
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("{needle:?} did not come"));
    String::from_utf8_lossy(&read).into_owned()
}

/// Waits until `holds` returns true; returns the time that it took.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it did not come to hold: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// Serializes the tests that measure and those that load the machine.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// Awaits `work`, at most [`PATIENCE`].
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

/// Waits until nothing of any request is left.
pub async fn settled(gateway: &Gateway) {
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_in_flight_requests", "") == 0.0
                && g.metric("llm_lens_stream_buffer_bytes", "") == 0.0
        })
        .await;
}

/// A whole event stream with a length instead of chunks.
pub fn with_length(body: &str) -> Step {
    Step::text(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// A short complete chat stream.
pub fn short_chat() -> String {
    sse::role() + &sse::content("x") + &sse::finish() + &sse::done()
}

/// The data of the last event of an SSE body, as JSON.
pub fn last_data(body: &str) -> serde_json::Value {
    let data = body
        .trim_end()
        .lines()
        .last()
        .and_then(|l| l.strip_prefix("data: "))
        .unwrap_or_else(|| panic!("no data in the last line: {body}"));
    serde_json::from_str(data).unwrap_or_else(|e| panic!("the last event is no JSON ({e}): {data}"))
}

/// An address where connecting takes forever, as long as the guard lives.
pub async fn tarpit() -> (std::net::SocketAddr, impl Sized) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(0).expect("it listens");
    let address = listener.local_addr().expect("bound");
    // The listener does not accept: once the queue is full, the kernel drops new connections.
    let mut fill = Vec::new();
    loop {
        match tokio::time::timeout(
            Duration::from_millis(150),
            tokio::net::TcpStream::connect(address),
        )
        .await
        {
            Ok(stream) => fill.push(stream.expect("it is queued")),
            Err(_) => return (address, (listener, fill)),
        }
    }
}
