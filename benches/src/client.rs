//! The load client: one kept-alive HTTP/1.1 connection and its checks.
//!
//! In: the address of a proxy and a request made once by `request`.
//! Out: checked answers; for streams the count of events, the time to the
//! first content event and the age of each event as it was read.
//! Never: accepts a truncated, refused or damaged answer.

use crate::engine::answer::{JSON_TEXT, LAST_CHUNK};
use crate::plan::{HEADER, Plan};
use crate::stamp;
use crate::wire::{Body, MAX_HEAD, MAX_HEADERS};
use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ: usize = 32 * 1024;
const WORDS: &str = "a stream of plain words that no proxy has to look at ";

/// Makes the bytes of a chat request with about `text` bytes of message.
#[must_use]
pub fn request(plan: Plan, text: usize) -> Vec<u8> {
    let text: String = WORDS.chars().cycle().take(text).collect();
    let stream = plan.streams();
    let body = format!(
        "{{\"model\":\"mock-8b-instruct\",\"stream\":{stream},\"max_tokens\":512,\
         \"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n\
         user-agent: llm-lens-benches\r\naccept: */*\r\n\
         authorization: Bearer bench\r\n{HEADER}: {plan}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// Measurements of one or more streams.
#[derive(Debug, Default)]
pub struct Seen {
    /// All events, `[DONE]` included.
    pub events: u64,
    /// Events that carry a stamp.
    pub content: u64,
    /// From the request's write to the first content event of the last stream.
    pub first: Option<Duration>,
    /// Age of content events in nanoseconds, if recorded.
    pub ages: Option<Histogram<u64>>,
    finished: bool,
    done: bool,
}

impl Seen {
    /// An empty record that also keeps the age of every content event.
    ///
    /// # Errors
    /// When the histogram cannot be made.
    pub fn with_ages() -> Result<Self> {
        Ok(Self { ages: Some(Histogram::new(3)?), ..Self::default() })
    }

    fn event(&mut self, event: &[u8], sent: Instant, now: u64) -> Result<()> {
        if event.starts_with(b":") {
            return Ok(());
        }
        ensure!(event.starts_with(b"data:"), "an event without data");
        ensure!(!self.done, "an event after [DONE]");
        self.events += 1;
        if event.starts_with(b"data: [DONE]") {
            self.done = true;
        } else if let Some(stamp) = stamp::read(event) {
            self.content += 1;
            self.first.get_or_insert_with(|| sent.elapsed());
            if let Some(ages) = &mut self.ages {
                ages.record(now.saturating_sub(stamp).max(1))?;
            }
        } else if !self.finished {
            self.finished = contains(event, b"\"finish_reason\":\"stop\"");
        }
        Ok(())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Hands every whole event in `payload` to `take`, and keeps the rest.
fn events(payload: &mut Vec<u8>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (mut start, mut at) = (0, 0);
    while let Some(found) = payload[at..].iter().position(|byte| *byte == b'\n') {
        let end = at + found;
        if end > start && payload[end - 1] == b'\n' {
            take(&payload[start..end])?;
            start = end + 1;
        }
        at = end + 1;
    }
    payload.drain(..start);
    Ok(())
}

/// One connection to a proxy.
pub struct Client {
    socket: TcpStream,
    input: BytesMut,
    payload: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When no server listens.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await.context("connect")?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, input: BytesMut::new(), payload: Vec::new() })
    }

    /// Sends a request and reads the whole JSON answer.
    ///
    /// # Errors
    /// When the answer is not the one that the mock engine gives.
    pub async fn json(&mut self, request: &[u8]) -> Result<()> {
        self.socket.write_all(request).await?;
        self.payload.clear();
        let mut body = self.head().await?;
        while !body.decode(&mut self.input, &mut self.payload)? {
            self.read().await?;
        }
        let whole = self.payload.ends_with(b"}") && contains(&self.payload, JSON_TEXT.as_bytes());
        ensure!(whole, "a JSON answer that the engine did not give");
        Ok(())
    }

    /// Sends a request and reads its stream to the end.
    ///
    /// # Errors
    /// When the stream is cut, damaged or has not `content` content events.
    pub async fn stream(&mut self, request: &[u8], content: u64, seen: &mut Seen) -> Result<()> {
        let start = seen.content;
        (seen.finished, seen.done, seen.first) = (false, false, None);
        let sent = Instant::now();
        self.socket.write_all(request).await?;
        self.payload.clear();
        let mut body = self.head().await?;
        let mut now = stamp::now();
        loop {
            let ended = body.decode(&mut self.input, &mut self.payload)?;
            events(&mut self.payload, |event| seen.event(event, sent, now))?;
            if ended {
                break;
            }
            self.read().await?;
            now = stamp::now();
        }
        let got = seen.content - start;
        ensure!(got == content, "{got} of {content} content events");
        ensure!(seen.finished, "a stream without its finish event");
        ensure!(seen.done, "a stream without [DONE]");
        ensure!(self.payload.is_empty(), "a stream with half an event");
        Ok(())
    }

    /// Sends a request and reads its stream up to the first event.
    ///
    /// # Errors
    /// When the stream ends before that.
    pub async fn open(&mut self, request: &[u8]) -> Result<()> {
        self.socket.write_all(request).await?;
        self.payload.clear();
        let mut body = self.head().await?;
        loop {
            let ended = body.decode(&mut self.input, &mut self.payload)?;
            ensure!(!ended, "an idle stream that ended at once");
            if self.payload.ends_with(b"\n\n") {
                // Free the buffers of thousands of idle clients.
                (self.input, self.payload) = (BytesMut::new(), Vec::new());
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Whether an idle stream is still open. Keep-alive comments are skipped.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut bytes = [0_u8; 1024];
        loop {
            match self.socket.try_read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) if bytes[..count].ends_with(LAST_CHUNK) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.input.reserve(READ);
        let count = self.socket.read_buf(&mut self.input).await?;
        ensure!(count > 0, "the connection closed within an answer");
        Ok(())
    }

    async fn head(&mut self) -> Result<Body> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(length) = response.parse(&self.input)? {
                let code = response.code.unwrap_or_default();
                ensure!(code == 200, "status {code}");
                let body = Body::of(response.headers)?;
                self.input.advance(length);
                return Ok(body);
            }
            if self.input.len() > MAX_HEAD {
                bail!("response head is too long");
            }
            self.read().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_client_understands_the_engine() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(engine::serve(listener));
        let mut client = Client::connect(address).await?;
        client.json(&request(Plan::Json, 64)).await?;
        client.json(&request(Plan::Json, 100_000)).await?;
        let (gap, per) = (Duration::ZERO, 8);
        let events = 1_001;
        let plan = Plan::Stream { events, gap, per };
        let mut seen = Seen::with_ages()?;
        client.stream(&request(plan, 64), events, &mut seen).await?;
        assert_eq!((seen.events, seen.content), (events + 3, events));
        assert!(seen.first.is_some());
        assert!(seen.ages.as_ref().is_some_and(|ages| ages.max() > 1_000));
        let short = client.stream(&request(plan, 64), 7, &mut seen).await;
        assert!(short.is_err());
        let hold = Duration::from_secs(5);
        client.open(&request(Plan::Idle { hold }, 64)).await?;
        assert!(client.is_open());
        Ok(())
    }
}
