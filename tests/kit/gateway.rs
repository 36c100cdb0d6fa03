//! The real binary on free ports, killed at the end of its test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lens::Record;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Client;
use crate::client::PATIENCE;

/// A running gateway.
pub struct Gateway {
    child: Child,
    /// Addresses of the listeners.
    pub addresses: Vec<SocketAddr>,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    folder: PathBuf,
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The binary under test: `LLM_LENS_BIN`, or the one that cargo built next to this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LLM_LENS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("llm-lens");
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build -p llm-lens-cli`, or run `make test`",
        path.display()
    );
    path
}

/// A fresh folder for files of one test.
pub fn folder() -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("llm-lens-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a temporary folder");
    path
}

impl Gateway {
    /// Starts a gateway in front of one engine, by `--upstream`, on free ports.
    pub async fn in_front_of(url: &str) -> Gateway {
        Gateway::with_flags(&[
            "--upstream",
            url,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--workers",
            "2",
        ])
        .await
    }

    /// Starts a gateway with a settings file. Listeners and admin use free ports unless `text` sets
    /// them.
    pub async fn with_settings(text: &str) -> Gateway {
        Gateway::with_command(text, |_| {}).await
    }

    /// Like [`Gateway::with_settings`], with a changed command: environment, limits.
    pub async fn with_command(text: &str, change: impl FnOnce(&mut Command)) -> Gateway {
        let folder = folder();
        let file = folder.join("gateway.yaml");
        std::fs::write(&file, settings(text)).expect("the folder is writable");
        let mut command = Command::new(binary());
        command.args(["gateway", "--config"]).arg(&file);
        change(&mut command);
        Gateway::start(command, folder).await
    }

    /// Starts another binary of the test kit with a settings file.
    pub async fn of_binary(binary: &Path, text: &str) -> Gateway {
        let folder = folder();
        let file = folder.join("gateway.yaml");
        std::fs::write(&file, settings(text)).expect("the folder is writable");
        let mut command = Command::new(binary);
        command.arg(&file);
        Gateway::start(command, folder).await
    }

    /// Starts a gateway with flags.
    pub async fn with_flags(flags: &[&str]) -> Gateway {
        let mut command = Command::new(binary());
        command.arg("gateway").args(flags);
        Gateway::start(command, folder()).await
    }

    /// Starts any command that becomes a gateway, and waits until it is ready.
    pub async fn start(mut command: Command, folder: PathBuf) -> Gateway {
        let (out, err) = (folder.join("stdout"), folder.join("stderr"));
        let file = |path: &Path| std::fs::File::create(path).expect("the folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("the binary runs");
        let mut gateway =
            Gateway { child, addresses: Vec::new(), admin: SocketAddr::from(([0; 4], 0)), folder };
        let until = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            if let Some(admin) = text.lines().find_map(|l| l.strip_prefix("admin on http://")) {
                gateway.admin = address_in(admin);
                gateway.addresses = text
                    .lines()
                    .filter_map(|l| l.strip_prefix("listening on "))
                    .map(|l| address_in(l.split_once("//").expect("a URL").1))
                    .collect();
                gateway
                    .wait_until(|g| {
                        g.try_get("/readyz?backends=ignore")
                            .is_some_and(|(status, _)| status == 200)
                    })
                    .await;
                return gateway;
            }
            if let Ok(Some(status)) = gateway.child.try_wait() {
                panic!("the gateway ended with {status}: {}", gateway.stderr());
            }
            assert!(Instant::now() < until, "the gateway did not start: {}", gateway.stderr());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A client of the first listener.
    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// The settings file of a gateway that has one.
    pub fn settings_file(&self) -> PathBuf {
        self.folder.join("gateway.yaml")
    }

    /// Replace the settings file, in one step.
    pub fn write_settings(&self, text: &str) {
        let next = self.folder.join("next.yaml");
        std::fs::write(&next, settings(text)).expect("the folder is writable");
        std::fs::rename(next, self.settings_file()).expect("the folder is writable");
    }

    /// Its standard error.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Send a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the gateway runs");
    }

    /// Waits for its exit, at most `within`.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }

    /// CPU time, user and kernel.
    pub fn cpu(&self) -> Duration {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).filter_map(|v| v.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A page of the admin listener: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path)
            .unwrap_or_else(|| panic!("the admin listener does not answer: {}", self.stderr()))
    }

    /// Like [`Gateway::get`]; `fields` are additional header fields, each with its CRLF.
    pub fn get_with(&self, path: &str, fields: &str) -> (u16, String) {
        self.ask_admin("GET", path, fields)
            .unwrap_or_else(|| panic!("the admin listener does not answer: {}", self.stderr()))
    }

    /// Like [`Gateway::get`] with POST; `fields` are additional header fields, each with its CRLF.
    pub fn post(&self, path: &str, fields: &str) -> (u16, String) {
        self.ask_admin("POST", path, fields)
            .unwrap_or_else(|| panic!("the admin listener does not answer: {}", self.stderr()))
    }

    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        self.ask_admin("GET", path, "")
    }

    /// `/metrics` for a scraper with that `Accept`: the head of the answer and its body.
    pub fn scrape(&self, accept: &str) -> (String, Vec<u8>) {
        let whole = self
            .exchange_with_admin("GET", "/metrics", &format!("accept: {accept}\r\n"))
            .expect("the admin listener answers");
        let end = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        (String::from_utf8_lossy(&whole[..end]).into_owned(), whole[end + 4..].to_vec())
    }

    fn ask_admin(&self, method: &str, path: &str, fields: &str) -> Option<(u16, String)> {
        let text = String::from_utf8(self.exchange_with_admin(method, path, fields)?).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn exchange_with_admin(&self, method: &str, path: &str, fields: &str) -> Option<Vec<u8>> {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect_timeout(&self.admin, PATIENCE).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{fields}\r\n"
        )
        .ok()?;
        let mut whole = Vec::new();
        socket.read_to_end(&mut whole).ok()?;
        Some(whole)
    }

    /// The last records, newest first.
    pub fn records(&self) -> Vec<Record> {
        let (_, body) = self.get("/api/requests?limit=100000");
        let mut all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        serde_json::from_value(all["requests"].take()).expect("records")
    }

    /// Waits for the record of a request id.
    pub async fn record(&self, id: &str) -> Record {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(record) = self.records().into_iter().find(|r| r.id == id) {
                return record;
            }
            assert!(Instant::now() < until, "no record of {id}; there are {:?}", self.records());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The value of a metric, summed over the series whose text contains `filter`.
    pub fn metric(&self, name: &str, filter: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let of_name =
            |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines()
            .filter(of_name)
            .filter(|l| l.contains(filter))
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until the log contains `text`. The log comes through a pipe, after the metrics.
    pub async fn wait_for_log(&self, text: &str) {
        self.wait_until(|gateway| gateway.stderr().contains(text)).await;
    }

    /// Waits until `holds` returns true.
    pub async fn wait_until(&self, holds: impl Fn(&Gateway) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "it did not come to hold: {}", self.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Adds listeners and admin on free ports, unless the text sets them.
fn settings(text: &str) -> String {
    let mut all = String::new();
    if !text.contains("listeners:") {
        all.push_str("listeners: [{address: \"127.0.0.1:0\"}]\n");
    }
    if !text.contains("admin:") {
        all.push_str("admin: {address: \"127.0.0.1:0\"}\n");
    }
    if !text.contains("workers:") {
        all.push_str("workers: 2\n");
    }
    all + text
}

fn address_in(text: &str) -> SocketAddr {
    let end = text.find([' ', '/']).unwrap_or(text.len());
    text[..end].parse().expect("an address")
}
