//! A scripted engine: raw bytes on a socket, at the times that the script sets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Write these bytes.
    Write(Vec<u8>),
    /// Wait.
    Sleep(Duration),
    /// Wait until a moment after the request was read, however long the steps before took.
    At(Duration),
    /// Wait until the client closes or resets, at most that long.
    AwaitClose(Duration),
    /// Wait until the test sets the flag.
    Until(Arc<AtomicBool>),
    /// Close with FIN, nothing more is read.
    Close,
    /// Close with RST.
    Reset,
    /// Neither read nor write until the test ends.
    Hang,
}

impl Step {
    /// Write text.
    pub fn text(text: impl AsRef<str>) -> Step {
        Step::Write(text.as_ref().as_bytes().to_vec())
    }

    /// One HTTP chunk.
    pub fn chunk(payload: impl AsRef<[u8]>) -> Step {
        let payload = payload.as_ref();
        let mut bytes = format!("{:x}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        Step::Write(bytes)
    }

    /// The last chunk.
    pub fn end() -> Step {
        Step::text("0\r\n\r\n")
    }

    /// A sleep in milliseconds.
    pub fn ms(ms: u64) -> Step {
        Step::Sleep(Duration::from_millis(ms))
    }
}

/// A request as the engine received it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Start line and fields, with the empty line.
    pub head: String,
    /// The body, transfer coding removed (requests of the gateway always have a length).
    pub body: Vec<u8>,
    /// When its last byte was read.
    pub at: Instant,
    /// Number of the connection that it came on, from 0.
    pub connection: usize,
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

/// An engine on a free port of loopback.
pub struct Engine {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    open: Arc<AtomicUsize>,
    closed_early: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Engine {
    /// An engine that runs `script` for each request. The connection stays open for the next
    /// request unless the script closes it.
    pub async fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Engine {
        Engine::start_at(([127, 0, 0, 1], 0), script).await
    }

    /// Like [`Engine::start`], at a given loopback address, such as the port of another engine on
    /// another IP address.
    pub async fn start_at(
        address: ([u8; 4], u16),
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Engine {
        let listener = TcpListener::bind(SocketAddr::from(address)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (seen, open, closed_early) = (
            Arc::<Mutex<Vec<Seen>>>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<AtomicUsize>::default(),
        );
        let script: Arc<Script> = Arc::new(script);
        let state = (seen.clone(), open.clone(), closed_early.clone());
        let accepting = tokio::spawn(async move {
            let numbers = Arc::<AtomicUsize>::default();
            while let Ok((socket, _)) = listener.accept().await {
                let numbers = numbers.clone();
                let (script, (seen, open, closed_early)) = (script.clone(), state.clone());
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    // A gateway connects at its start, without a request. Such connections have no
                    // number.
                    if socket.peek(&mut [0]).await.is_ok_and(|len| len > 0) {
                        let number = numbers.fetch_add(1, Ordering::SeqCst);
                        if serve(socket, number, &*script, &seen).await.is_none() {
                            closed_early.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Engine { address, seen, open, closed_early, accepting }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panicked in here").clone()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Connections that the other side closed while a script was running.
    pub fn closed_early(&self) -> usize {
        self.closed_early.load(Ordering::SeqCst)
    }

    /// Stops listening; open connections stay open.
    pub fn stop_listening(&self) {
        self.accepting.abort();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves a connection. `None`: the peer closed it while a script was running.
async fn serve(
    mut socket: TcpStream,
    connection: usize,
    script: &Script,
    seen: &Mutex<Vec<Seen>>,
) -> Option<()> {
    let _ = socket.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut buffer, connection).await {
        seen.lock().expect("no test panicked in here").push(request.clone());
        for step in script(&request) {
            match step {
                Step::Write(bytes) => socket.write_all(&bytes).await.ok()?,
                Step::Sleep(time) => sleep_or_close(&socket, time).await?,
                Step::At(time) => {
                    sleep_or_close(&socket, time.saturating_sub(request.at.elapsed())).await?
                }
                Step::AwaitClose(time) => sleep_or_close(&socket, time).await?,
                Step::Until(said) => {
                    while !said.load(Ordering::SeqCst) {
                        sleep_or_close(&socket, Duration::from_millis(2)).await?;
                    }
                }
                Step::Close => return Some(()),
                Step::Reset => {
                    #[expect(
                        deprecated,
                        reason = "a linger of zero is how a reset is sent; it does not block"
                    )]
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    return Some(());
                }
                Step::Hang => {
                    sleep_or_close(&socket, Duration::from_secs(600)).await?;
                }
            }
        }
    }
    Some(())
}

/// Sleeps; `None` if the peer closes the connection in between.
async fn sleep_or_close(socket: &TcpStream, time: Duration) -> Option<()> {
    let closed = async {
        let mut byte = [0; 1];
        loop {
            match socket.peek(&mut byte).await {
                Ok(0) | Err(_) => return,
                // Bytes of the next request are not a close: check again later.
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = closed => None,
        () = tokio::time::sleep(time) => Some(()),
    }
}

async fn read_request(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let length = head
        .lines()
        .find_map(|l| {
            l.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(|v| v.trim().parse::<usize>().expect("a number"))
        })
        .unwrap_or(0);
    while buffer.len() < head_end + length {
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let rest = buffer.split_off(head_end + length);
    let body = std::mem::replace(buffer, rest).split_off(head_end);
    Some(Seen { head, body, at: Instant::now(), connection })
}
