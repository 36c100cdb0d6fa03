//! Measures what the sinks of records cost: CPU of the data path and of the sinks, memory, latency,
//! losses. One run has the gateway without sinks, with the store, with all sinks, and with all
//! sinks and many watchers of `/api/live`.
//!
//! In: `--gateway PATH`, and optional `--rate`, `--seconds`, `--rounds`, `--watchers`, `--only`.
//! Out: a table of medians over the rounds; a line for each round on stderr.
//! Never: a wrong answer that is not an error; two gateways at a time. The order of the variants
//! moves on by one each round.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use llm_lens_benches::client::{Client, request};
use llm_lens_benches::machine::raise_open_files;
use llm_lens_benches::peers::process::Process;
use llm_lens_benches::peers::{port, sibling};
use llm_lens_benches::plan::Plan;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Load before the measurement.
const WARM: Duration = Duration::from_secs(3);
/// How long the sinks have for the last records.
const SETTLE: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    /// Binary of the gateway.
    #[arg(long)]
    gateway: PathBuf,
    /// Requests a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections of the client.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Watchers of `/api/live` in the last variant.
    #[arg(long, default_value_t = 200)]
    watchers: u32,
    /// Only these variants.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Variant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Variant {
    /// No sink but the ring in memory.
    Plain,
    /// The store of records in SQLite.
    Store,
    /// Access log, SQLite, Parquet files, traces, logs and metrics over OTLP with a spill.
    All,
    /// The same, with watchers.
    Watched,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Plain, Self::Store, Self::All, Self::Watched];

    fn settings(self, folder: &Path, engine: SocketAddr, listen: [SocketAddr; 2]) -> String {
        let [listen, admin] = listen;
        let path = |name: &str| folder.join(name).display().to_string();
        let store = format!("record_store: {{path: '{}'}}\n", path("records"));
        let sinks = match self {
            Self::Plain => String::new(),
            Self::Store => store,
            // The engine answers 200 to everything, as a collector does.
            Self::All | Self::Watched => format!(
                "{store}access_log: {{file: '{}'}}
record_files: {{path: '{}', format: parquet, rotate_size: 16MiB}}
otlp: {{endpoint: 'http://{engine}', interval: 5s, trace_share: 1, spill: {{path: '{}'}}}}
",
                path("access.jsonl"),
                path("files"),
                path("spill"),
            ),
        };
        format!(
            "listeners: [{{address: '{listen}'}}]
admin: {{address: '{admin}'}}
workers: 1
backends: [{{name: engine, url: 'http://{engine}', models: [mock-8b-instruct]}}]
routes: [{{name: default, backend: engine}}]
{sinks}"
        )
    }
}

/// What a round has measured; the unit is in the name.
type Figures = BTreeMap<&'static str, f64>;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Arc::new(Args::parse());
    raise_open_files(u64::from(args.watchers + args.connections) * 2 + 256)?;
    let root = std::env::temp_dir().join(format!("llm-lens-sinks-{}", std::process::id()));
    let result = rounds(&args, &root).await;
    let _ = std::fs::remove_dir_all(&root);
    print(&args, &result?);
    Ok(())
}

async fn rounds(args: &Arc<Args>, root: &Path) -> Result<BTreeMap<Variant, Vec<Figures>>> {
    let program = sibling("mock-engine").context("mock-engine is missing: build it")?;
    let mut engine = Process::start(&mut Command::new(program), &root.join("engine"))?;
    let address: SocketAddr = engine.first_line()?.parse().context("mock engine")?;
    let mut variants = Variant::ALL.to_vec();
    variants.retain(|variant| args.only.is_empty() || args.only.contains(variant));
    let mut all = BTreeMap::<Variant, Vec<Figures>>::new();
    for round in 0..args.rounds {
        for variant in &variants {
            let folder = root.join(format!("{variant:?}-{round}"));
            let figures = measure(args, *variant, &folder, address).await;
            let figures = figures.with_context(|| format!("round {}, {variant:?}", round + 1))?;
            eprintln!("round {}, {variant:?}: {figures:.1?}", round + 1);
            all.entry(*variant).or_default().push(figures);
            std::fs::remove_dir_all(&folder)?;
        }
        variants.rotate_left(1);
    }
    Ok(all)
}

async fn measure(
    args: &Arc<Args>,
    variant: Variant,
    folder: &Path,
    engine: SocketAddr,
) -> Result<Figures> {
    std::fs::create_dir_all(folder)?;
    let listen = [port::free()?, port::free()?];
    let settings = folder.join("gateway.yaml");
    std::fs::write(&settings, variant.settings(folder, engine, listen))?;
    let gateway = args.gateway.canonicalize().context("--gateway")?;
    let mut command = Command::new(gateway);
    command.arg("gateway").arg("--config").arg(&settings);
    let mut process = Process::start(&mut command, folder)?;
    ready(&mut process, listen[0]).await?;
    let mut watchers = JoinSet::new();
    if variant == Variant::Watched {
        for _ in 0..args.watchers {
            watchers.spawn(watch(listen[1]));
        }
    }
    load(args, listen[0], WARM).await?;
    let before = threads(process.id())?;
    reset_peak(process.id());
    let loaded = load(args, listen[0], Duration::from_secs(args.seconds)).await?;
    let after = threads(process.id())?;
    let mut figures = loaded.figures(args.seconds);
    let (path, sinks) = spent(&before, &after);
    ensure!(path > 0.0, "no thread of the data path: their name has changed");
    let requests = loaded.latencies.len() as f64;
    figures.insert("data path, CPU us a request", path / requests);
    figures.insert("other threads, CPU us a request", sinks / requests);
    figures.insert("RSS, MiB, after the load", resident(process.id())?);
    figures.insert("RSS, MiB, maximum", peak(process.id())?);
    sleep(SETTLE).await;
    figures.insert("records dropped", dropped(listen[1]).await?);
    if let Some(ended) = watchers.try_join_next() {
        bail!("a watcher has ended: {ended:?}");
    }
    process.check()?;
    Ok(figures)
}

async fn ready(process: &mut Process, address: SocketAddr) -> Result<()> {
    let (ask, until) = (request(Plan::Json, 64), Instant::now() + READY);
    loop {
        let answer = timeout(READY, async { Client::connect(address).await?.json(&ask).await });
        if matches!(answer.await, Ok(Ok(()))) {
            return Ok(());
        }
        process.check()?;
        if Instant::now() > until {
            bail!("the gateway does not answer; its log: {}", process.tail());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

struct Loaded {
    latencies: Histogram<u64>,
}

impl Loaded {
    fn figures(&self, seconds: u64) -> Figures {
        let at = |share| self.latencies.value_at_quantile(share) as f64 / 1e3;
        BTreeMap::from([
            ("requests a second", self.latencies.len() as f64 / seconds as f64),
            ("latency, us, p50", at(0.5)),
            ("latency, us, p99", at(0.99)),
        ])
    }
}

/// Small requests at the rate, on connections that take turns. A connection that is late sends at
/// once, so a rate that is too high for the machine shows as a lower one.
async fn load(args: &Arc<Args>, address: SocketAddr, time: Duration) -> Result<Loaded> {
    let interval = Duration::from_secs_f64(f64::from(args.connections) / f64::from(args.rate));
    let mut clients = JoinSet::new();
    let begin = Instant::now();
    for number in 0..args.connections {
        let first = begin + interval.mul_f64(f64::from(number) / f64::from(args.connections));
        clients.spawn(async move {
            let ask = request(Plan::Json, 64);
            let mut client = Client::connect(address).await?;
            let mut latencies = Histogram::<u64>::new(3)?;
            let mut next = first;
            while next < begin + time && Instant::now() < begin + time {
                sleep_until(next).await;
                let sent = Instant::now();
                client.json(&ask).await?;
                latencies.record(u64::try_from(sent.elapsed().as_nanos())?.max(1))?;
                next += interval;
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Histogram::<u64>::new(3)?;
    while let Some(done) = clients.join_next().await {
        latencies.add(done??)?;
    }
    Ok(Loaded { latencies })
}

/// Reads `/api/live` until it ends.
async fn watch(admin: SocketAddr) -> Result<()> {
    let mut socket = TcpStream::connect(admin).await?;
    let head = format!("GET /api/live HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut part = vec![0; 64 << 10];
    loop {
        let read = socket.read(&mut part).await?;
        if read == 0 {
            bail!("the stream of a watcher ended");
        }
    }
}

/// Records that any sink or queue has dropped.
async fn dropped(admin: SocketAddr) -> Result<f64> {
    let mut socket = TcpStream::connect(admin).await?;
    let head = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut text = Vec::new();
    socket.read_to_end(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    let is_drop =
        |line: &&str| line.starts_with("llm_lens_") && line.contains("dropped_records_total");
    let values = text.lines().filter(is_drop).map(|line| line.rsplit(' ').next()?.parse().ok());
    values.map(|value: Option<f64>| value.context("a value of /metrics")).sum()
}

/// CPU time of each thread in nanoseconds, with its name.
fn threads(pid: u32) -> Result<BTreeMap<u32, (String, u64)>> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let time = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok());
        if let (Some(number), Some(time)) = (number, time) {
            all.insert(number, (read("comm").trim().to_owned(), time));
        }
    }
    Ok(all)
}

/// CPU time in microseconds: of the data path, and of all other threads.
fn spent(
    before: &BTreeMap<u32, (String, u64)>,
    after: &BTreeMap<u32, (String, u64)>,
) -> (f64, f64) {
    let (mut path, mut others) = (0.0, 0.0);
    for (number, (name, time)) in after {
        let began = before.get(number).map_or(0, |(_, time)| *time);
        let took = time.saturating_sub(began) as f64 / 1e3;
        // Threads of sinks have names of their own.
        if is_data_path(name) { path += took } else { others += took }
    }
    (path, others)
}

/// Whether a thread serves requests.
fn is_data_path(name: &str) -> bool {
    name == "llm-lens-data"
}

/// Begins a new maximum of resident memory.
fn reset_peak(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn resident(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

fn peak(pid: u32) -> Result<f64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

fn print(args: &Args, all: &BTreeMap<Variant, Vec<Figures>>) {
    let rows: Vec<&str> = all.values().flatten().flat_map(|round| round.keys().copied()).collect();
    let rows: std::collections::BTreeSet<&str> = rows.into_iter().collect();
    println!(
        "{} requests/s for {} s, {} connections, {} watchers; medians of {} rounds",
        args.rate, args.seconds, args.connections, args.watchers, args.rounds
    );
    let names: Vec<String> = all.keys().map(|variant| format!("{variant:?}")).collect();
    println!("| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<String> = all
            .values()
            .map(|rounds| {
                let mut values: Vec<f64> =
                    rounds.iter().filter_map(|round| round.get(row).copied()).collect();
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).map_or(String::new(), |value| format!("{value:.1}"))
            })
            .collect();
        println!("| {row} | {} |", cells.join(" | "));
    }
}
