//! A cheap imitation of an OpenAI-compatible engine, over raw HTTP/1.1.
//!
//! In: requests on kept-alive connections; the `x-mock` header selects the answer. A request
//! without it gets a small JSON completion.
//! Out: a JSON answer, a paced or flooding event stream, or an idle stream.
//! Never: parses a request body; computes per request what can be computed once.

pub mod answer;

use crate::plan::{HEADER, Plan};
use crate::wire::{Body, MAX_HEAD, MAX_HEADERS};
use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const READ: usize = 32 * 1024;

/// Serves every connection of `listener`. Returns only on an error.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await.context("accept")?;
        tokio::spawn(async move {
            if let Ok(mut talk) = Connection::new(socket) {
                // The peer may disconnect in mid-answer.
                let _ = talk.run().await;
            }
        });
    }
}

struct Connection {
    socket: TcpStream,
    input: BytesMut,
    json: Vec<u8>,
}

impl Connection {
    fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, input: BytesMut::new(), json: Vec::new() })
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            let plan = match self.request().await {
                Ok(Some(plan)) => plan,
                Ok(None) => return Ok(()),
                Err(error) => {
                    eprintln!("mock-engine: {error:#}");
                    self.socket.write_all(answer::BAD_REQUEST).await?;
                    return Err(error);
                }
            };
            match plan {
                Plan::Json => self.json().await?,
                Plan::Stream { events, gap, per } => {
                    self.stream(events, gap, usize::try_from(per)?).await?;
                }
                Plan::Idle { hold } => self.idle(hold).await?,
            }
        }
    }

    /// Reads one request to its end; `None` if the peer closed the connection.
    async fn request(&mut self) -> Result<Option<Plan>> {
        loop {
            if let Some((length, plan, mut body)) = head(&self.input)? {
                self.input.advance(length);
                let mut payload = Vec::new();
                while !body.decode(&mut self.input, &mut payload)? {
                    payload.clear();
                    if self.read().await? == 0 {
                        return Ok(None);
                    }
                }
                return Ok(Some(plan));
            }
            if self.input.len() > MAX_HEAD {
                bail!("request head is too long");
            }
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<usize> {
        self.input.reserve(READ);
        Ok(self.socket.read_buf(&mut self.input).await?)
    }

    async fn json(&mut self) -> Result<()> {
        if self.json.is_empty() {
            self.json = answer::json();
        }
        Ok(self.socket.write_all(&self.json).await?)
    }

    async fn stream(&mut self, events: u64, gap: Duration, per: usize) -> Result<()> {
        self.socket.write_all(answer::STREAM_HEAD).await?;
        self.socket.write_all(&answer::role()).await?;
        let mut content = answer::Content::new(per);
        let mut left = usize::try_from(events)?;
        let mut due = Instant::now();
        while left > 0 {
            if !gap.is_zero() {
                due += gap;
                tokio::time::sleep_until(due).await;
            }
            let count = left.min(per);
            self.socket.write_all(content.stamped(count)).await?;
            left -= count;
            // Streams take turns, as the sequences of an engine's batch do.
            tokio::task::yield_now().await;
        }
        let mut end = answer::finish();
        end.extend_from_slice(answer::LAST_CHUNK);
        Ok(self.socket.write_all(&end).await?)
    }

    async fn idle(&mut self, hold: Duration) -> Result<()> {
        self.socket.write_all(answer::STREAM_HEAD).await?;
        self.socket.write_all(&answer::role()).await?;
        let mut byte = [0_u8; 1];
        tokio::select! {
            read = self.socket.read(&mut byte) => match read? {
                0 => bail!("the client has left"),
                _ => bail!("the client spoke into its own stream"),
            },
            () = tokio::time::sleep(hold) => {}
        }
        let mut end = answer::finish();
        end.extend_from_slice(answer::LAST_CHUNK);
        Ok(self.socket.write_all(&end).await?)
    }
}

/// Length of the request head, the plan in it and the framing of its body.
fn head(input: &[u8]) -> Result<Option<(usize, Plan, Body)>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(input)? else {
        return Ok(None);
    };
    let mut plan = Plan::Json;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case(HEADER) {
            plan = Plan::parse(std::str::from_utf8(field.value)?)?;
        }
    }
    Ok(Some((length, plan, Body::of(request.headers)?)))
}
