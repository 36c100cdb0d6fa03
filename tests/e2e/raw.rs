//! Helpers beyond the kit: processes with unusual outputs, raw connections, hand-made HTTP/2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::client::PATIENCE;
use kit::{Client, Gateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A loopback address that was free a moment ago, for tests that cannot use port 0: two processes
/// at one address, or one whose output is not read.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// A folder that is deleted at the end of its test.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A fresh one.
    pub fn new() -> Folder {
        Folder(kit::gateway::folder())
    }

    /// A file in it, written.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings of a gateway in front of one engine; `more` are further sections.
pub fn settings(url: &str, more: &str) -> String {
    format!("backends: [{{name: e, url: '{url}'}}]\nroutes: [{{name: r, backend: e}}]\n{more}\n")
}

/// The same with fixed addresses.
pub fn settings_at(address: SocketAddr, admin: SocketAddr, url: &str, more: &str) -> String {
    settings(
        url,
        &format!("listeners: [{{address: '{address}'}}]\nadmin: {{address: '{admin}'}}\n{more}"),
    )
}

/// Run the command of [`Gateway::with_command`] through a shell, which becomes the gateway:
/// `script` sees it as `"$@"`.
pub fn through_shell(command: &mut Command, script: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    *command = shell;
}

/// A gateway with outputs chosen by the test. It is killed at the end of the test.
pub struct Process(pub Child);

impl Process {
    /// Start it with a settings file.
    pub fn start(file: &std::path::Path, log: &str, out: Stdio, err: Stdio) -> Process {
        let mut command = Command::new(kit::gateway::binary());
        command
            .args(["gateway", "--log", log, "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        Process(command.spawn().expect("the binary runs"))
    }

    /// Wait until it accepts connections.
    pub async fn accepts(&mut self, address: SocketAddr) {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if let Ok(Some(status)) = self.0.try_wait() {
                panic!("the gateway ended with {status}");
            }
            assert!(Instant::now() < until, "the gateway does not listen on {address}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was received on a connection.
#[derive(Debug)]
pub struct Received {
    /// The statuses of the answers, in order.
    pub statuses: Vec<u16>,
    /// Whether the gateway closed.
    pub closed: bool,
    /// Everything, as text.
    pub text: String,
}

/// Accepts the first connection with a request: a gateway also connects at its start.
pub async fn accept(listener: &tokio::net::TcpListener) -> TcpStream {
    loop {
        let (socket, _) = listener.accept().await.expect("it listens");
        if socket.peek(&mut [0]).await.is_ok_and(|len| len > 0) {
            return socket;
        }
    }
}

/// Writes bytes on a new connection and reads until the gateway closes it, or is silent for a while
/// after its last answer. Writing may fail: the gateway may have closed already.
pub async fn send_raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Received {
    let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
    let _ = socket.write_all(bytes.as_ref()).await;
    receive(&mut socket).await
}

/// Writes bytes, closes the sending side, and reads.
pub async fn send_and_shut_down(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Received {
    let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
    let _ = socket.write_all(bytes.as_ref()).await;
    let _ = socket.shutdown().await;
    receive(&mut socket).await
}

/// Silence after which the gateway is assumed to send nothing more.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Reads until the gateway closes the connection, is silent after an answer, or is silent for
/// [`PATIENCE`].
pub async fn receive(socket: &mut TcpStream) -> Received {
    let mut all = Vec::new();
    let mut closed = false;
    loop {
        let patience = if all.is_empty() { Duration::from_secs(5) } else { SILENCE };
        match tokio::time::timeout(patience, socket.read_buf(&mut all)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) => {
                closed = true;
                break;
            }
            Err(_) => break,
        }
    }
    Received { statuses: statuses(&all), closed, text: String::from_utf8_lossy(&all).into_owned() }
}

/// Statuses of all answers in the bytes. Bodies of these tests never hold a status line.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

/// Sends a whole request on a new connection; returns its status or the error.
pub async fn try_chat(address: SocketAddr, body: &str) -> Result<u16, String> {
    let request = kit::client::post("/v1/chat/completions", "connection: close\r\n", body);
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(request.as_bytes()).await?;
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await?;
        std::io::Result::Ok(all)
    };
    let all = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())?;
    statuses(&all)
        .first()
        .copied()
        .ok_or_else(|| format!("no answer in {:?}", String::from_utf8_lossy(&all)))
}

/// Open a stream and wait for its first byte, so that it is known to run.
pub async fn running_stream(address: SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    client.post("/v1/chat/completions", "", kit::client::CHAT_STREAM).await;
    tokio::time::timeout(PATIENCE, client.socket().readable())
        .await
        .expect("a stream begins")
        .expect("the connection stands");
    client
}

/// Whether a running stream ended properly.
pub async fn ends_well(mut client: Client) -> bool {
    let Some(answer) = client.maybe_answer().await else { return false };
    answer.status == 200 && answer.complete && answer.text().ends_with("data: [DONE]\n\n")
}

/// Waits until no request is in flight.
pub async fn nothing_in_flight(gateway: &Gateway) {
    gateway.wait_until(|g| g.metric("llm_lens_in_flight_requests", "") == 0.0).await;
}

/// Head and body of a request.
pub type Whole = (String, Vec<u8>);

/// An engine that parses strictly by RFC 9112, chunked bodies included, so that it sees at most the
/// requests that any engine would see. It answers every whole request with `{"path": …}`.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Whole>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Origin {
    /// Start it on a free port.
    pub async fn start() -> Origin {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::<Mutex<Vec<Whole>>>::default();
        let kept = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let seen = kept.clone();
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    while let Some(request) = read_strictly(&mut socket, &mut buffer).await {
                        let body = format!(
                            "{{\"path\":{:?}}}",
                            request.0.split(' ').nth(1).unwrap_or_default()
                        );
                        seen.lock().expect("no test panicked in here").push(request);
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Origin { address, seen, accepting }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Head and body of all whole requests since the last call.
    pub fn take(&self) -> Vec<Whole> {
        std::mem::take(&mut self.seen.lock().expect("no test panicked in here"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn read_strictly(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Whole> {
    let head = take_until(socket, buffer, b"\r\n\r\n").await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let field = |name: &str| {
        head.lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
    };
    let mut body = Vec::new();
    match (field("transfer-encoding"), field("content-length")) {
        (Some(coding), None) if coding == "chunked" => loop {
            let line = take_until(socket, buffer, b"\r\n").await?;
            let size = std::str::from_utf8(&line[..line.len() - 2])
                .ok()
                .and_then(|s| usize::from_str_radix(s, 16).ok())?;
            if size == 0 {
                while take_until(socket, buffer, b"\r\n").await?.len() > 2 {}
                break;
            }
            let chunk = take_bytes(socket, buffer, size + 2).await?;
            body.extend_from_slice(chunk.strip_suffix(b"\r\n")?);
        },
        (None, Some(length)) => body = take_bytes(socket, buffer, length.parse().ok()?).await?,
        (None, None) => {}
        _ => return None,
    }
    Some((head, body))
}

async fn take_until(socket: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|w| w == end) {
            let rest = buffer.split_off(at + end.len());
            return Some(std::mem::replace(buffer, rest));
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn take_bytes(socket: &mut TcpStream, buffer: &mut Vec<u8>, n: usize) -> Option<Vec<u8>> {
    while buffer.len() < n {
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let rest = buffer.split_off(n);
    Some(std::mem::replace(buffer, rest))
}

/// Hand-made HTTP/2, for frames that no library sends.
pub mod h2raw {
    use super::*;

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    /// The preface of a client, without its settings.
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// A frame.
    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// Preface and settings.
    pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
    }

    /// A field as an HPACK literal that is not indexed.
    pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[0][..], &length(name.len()), name, &length(value.len()), value].concat()
    }

    /// A length as an HPACK integer with a prefix of seven bits.
    pub fn length(n: usize) -> Vec<u8> {
        if n < 127 {
            return vec![n as u8];
        }
        let (mut out, mut rest) = (vec![127], n - 127);
        while rest >= 128 {
            out.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
        out
    }

    /// A head.
    pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
    }

    /// The head of a good POST.
    pub fn post(path: &str) -> Vec<u8> {
        head(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "gateway"),
            (":path", path),
            ("content-type", "application/json"),
        ])
    }

    /// A received frame.
    #[derive(Clone, Debug)]
    pub struct Frame {
        pub kind: u8,
        pub flags: u8,
        pub stream: u32,
        pub payload: Vec<u8>,
    }

    impl Frame {
        /// The code of a GOAWAY or RST_STREAM.
        pub fn code(&self) -> u32 {
            let at = if self.kind == GOAWAY { 4 } else { 0 };
            self.payload
                .get(at..at + 4)
                .map_or(u32::MAX, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        }

        /// Whether these are the headers of an answer 200.
        pub fn is_ok(&self) -> bool {
            self.kind == HEADERS
                && self.payload.iter().find(|b| !(0x20..0x40).contains(*b)) == Some(&0x88)
        }
    }

    /// Reads frames until `enough` returns true, the connection ends, or `time` has passed.
    /// Settings and pings are acknowledged.
    pub async fn listen(
        socket: &mut TcpStream,
        time: Duration,
        enough: impl Fn(&Frame) -> bool,
    ) -> (Vec<Frame>, bool) {
        let mut frames = Vec::new();
        let mut buffer = Vec::new();
        let reading = async {
            loop {
                let Some(head) = take_bytes(socket, &mut buffer, 9).await else { return true };
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some(payload) = take_bytes(socket, &mut buffer, len).await else { return true };
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
                let got = Frame { kind: head[3], flags: head[4], stream, payload };
                if matches!(got.kind, SETTINGS | PING) && got.flags & 1 == 0 {
                    let echo = if got.kind == PING { got.payload.clone() } else { Vec::new() };
                    let _ = socket.write_all(&frame(got.kind, 1, 0, &echo)).await;
                }
                let stop = enough(&got);
                frames.push(got);
                if stop {
                    return false;
                }
            }
        };
        let closed = tokio::time::timeout(time, reading).await.unwrap_or(false);
        (frames, closed)
    }

    /// Sends these frames for one stream on a new connection; returns whether it was answered with
    /// 200, and the received frames.
    pub async fn one_stream(address: SocketAddr, frames: &[Vec<u8>]) -> (bool, Vec<Frame>) {
        let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
        let mut bytes = hello(&[]);
        frames.iter().for_each(|f| bytes.extend_from_slice(f));
        let _ = socket.write_all(&bytes).await;
        let ends = |f: &Frame| {
            f.kind == GOAWAY
                || (f.stream == 1
                    && (f.kind == RST_STREAM
                        || (matches!(f.kind, HEADERS | DATA) && f.flags & END_STREAM != 0)))
        };
        let (got, _) = listen(&mut socket, Duration::from_secs(5), ends).await;
        (got.iter().any(Frame::is_ok), got)
    }
}
