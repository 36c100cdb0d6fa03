//! A client that writes raw bytes and records when each part of an answer arrives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Timeout of every wait in a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a gateway.
pub struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Start line and fields.
    pub head: String,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
    /// For each read: its time, and the length of the body after it.
    pub reads: Vec<(Instant, usize)>,
    /// Whether the body is complete by its framing.
    pub complete: bool,
}

impl Answer {
    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    /// The stable code of an error, in the format of any API.
    pub fn error_code(&self) -> String {
        let error = self.json();
        let code = ["/error/code", "/error/reason", "/code"]
            .iter()
            .find_map(|at| error.pointer(at).and_then(serde_json::Value::as_str));
        code.unwrap_or_default().to_owned()
    }
}

impl Client {
    /// Connect.
    pub async fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).await.expect("the gateway accepts");
        socket.set_nodelay(true).expect("a TCP socket");
        Client { socket, buffer: Vec::new() }
    }

    /// The underlying socket.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Write raw bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.expect("the gateway reads");
    }

    /// Write a POST with a JSON body; `fields` are lines with their CRLF.
    pub async fn post(&mut self, path: &str, fields: &str, body: &str) {
        self.send(post(path, fields, body)).await;
    }

    /// Read one answer to its end, or to the end of the connection.
    pub async fn answer(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.read_answer())
            .await
            .expect("an answer in time")
            .expect("an answer before the connection ended")
    }

    /// Like [`Client::answer`]; `None` if the connection ends without an answer.
    pub async fn maybe_answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer())
            .await
            .expect("an answer or an end in time")
    }

    /// Whether the gateway closes the connection within `time`; received bytes are dropped.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut sink = [0; 4096];
        let closed = async {
            loop {
                match self.socket.read(&mut sink).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(time, closed).await.is_ok()
    }

    async fn fill(&mut self) -> bool {
        matches!(self.socket.read_buf(&mut self.buffer).await, Ok(n) if n > 0)
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end);
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if (100..200).contains(&status) {
            return Box::pin(self.read_answer()).await;
        }
        let mut answer =
            Answer { status, head, body: Vec::new(), reads: Vec::new(), complete: false };
        let chunked = answer.field("transfer-encoding") == Some("chunked");
        let length = answer.field("content-length").and_then(|v| v.parse::<usize>().ok());
        loop {
            match (chunked, length) {
                (true, _) => answer.complete = self.take_chunks(&mut answer.body),
                (false, Some(length)) => {
                    let take = self.buffer.len().min(length - answer.body.len());
                    answer.body.extend(self.buffer.drain(..take));
                    answer.complete = answer.body.len() == length;
                }
                (false, None) => answer.body.append(&mut self.buffer),
            }
            answer.reads.push((Instant::now(), answer.body.len()));
            if answer.complete || !self.fill().await {
                answer.complete |= !chunked && length.is_none();
                return Some(answer);
            }
        }
    }

    /// Moves complete chunks into the body; returns whether the last chunk was received.
    fn take_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.buffer.windows(2).position(|w| w == b"\r\n") else {
                return false;
            };
            let size = std::str::from_utf8(&self.buffer[..line]).expect("ASCII");
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            if self.buffer.len() < line + 2 + size + 2 {
                return false;
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                return true;
            }
        }
    }
}

/// A POST with a JSON body, as bytes.
pub fn post(path: &str, fields: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A streamed chat request's body.
pub const CHAT_STREAM: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
/// A chat request's body, not streamed.
pub const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
