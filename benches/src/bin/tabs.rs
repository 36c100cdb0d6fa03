//! What open tabs of the dashboard cost the requests of clients.
//!
//! In: the gateway's binary, a rate of requests, a number of tabs.
//! Out: p50 and p99 of requests, and the gateway's CPU, without and with the tabs; each round is
//! without, with, without, so that the noise of the machine can be seen.
//! Each tab reads what the overview reads, every three seconds, and has a live stream of all
//! records as the live tail has: together more than one tab of a browser does.
//! Never: connects beyond 127.0.0.1; reports a wrong answer.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use llm_lens_benches::cells::SMALL;
use llm_lens_benches::client::{Client, request};
use llm_lens_benches::peers::process::Process;
use llm_lens_benches::peers::{port, sibling};
use llm_lens_benches::plan::Plan;
use llm_lens_benches::procfs::Pids;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Interval at which a tab reads.
const REFRESH: Duration = Duration::from_secs(3);
/// What the overview reads, for all routes and five minutes.
const PAGES: [&str; 8] = [
    "/api/stats?window=5m&by=route%2Cbackend",
    "/api/stats?window=5m&by=route",
    "/api/objectives",
    "/api/routes",
    "/api/backends",
    "/api/sinks",
    "/api/charts?from=1h&step=1m",
    "/api/charts?from=900s&step=300s",
];
/// Time until the gateway serves.
const READY: Duration = Duration::from_secs(30);

/// Measures requests without and with open tabs of the dashboard.
#[derive(Parser)]
struct Args {
    /// Binary of the gateway.
    #[arg(long)]
    gateway: PathBuf,
    /// Open tabs.
    #[arg(long, default_value_t = 20)]
    tabs: u32,
    /// Small requests a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Connections that send them.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Rounds of three phases.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Worker threads of the gateway.
    #[arg(long, default_value_t = 1)]
    workers: u32,
}

/// A gateway with a store of records, in front of the mock engine.
struct Setup {
    _engine: Process,
    gateway: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    folder: PathBuf,
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Figures of one phase.
#[derive(Clone, Copy)]
struct Phase {
    p50: f64,
    p99: f64,
    rate: f64,
    cpu: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = Args::parse();
    // It is started in another folder.
    args.gateway = args.gateway.canonicalize().context("no such binary; name it with --gateway")?;
    let setup = Setup::start(&args).await?;
    // The store and the caches have something in them.
    setup.phase(&args, 0).await.context("warm-up")?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let phases = [
            setup.phase(&args, 0).await?,
            setup.phase(&args, args.tabs).await?,
            setup.phase(&args, 0).await?,
        ];
        for (phase, tabs) in phases.iter().zip([0, args.tabs, 0]) {
            let Phase { p50, p99, rate, cpu } = phase;
            println!(
                "round {round}, {tabs:>3} tabs: {rate:.0} requests/s, p50 {p50:.0} us, p99 {p99:.0} us, CPU {cpu:.1} %"
            );
        }
        let [first, tabs, last] = phases;
        without.extend([first, last]);
        with.push(tabs);
    }
    let median = |phases: &[Phase], of: fn(&Phase) -> f64| {
        let mut all: Vec<f64> = phases.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    for (name, of) in [
        ("p50, us", (|phase| phase.p50) as fn(&Phase) -> f64),
        ("p99, us", |phase| phase.p99),
        ("CPU of the gateway, %", |phase| phase.cpu),
    ] {
        let (before, after) = (median(&without, of), median(&with, of));
        let change = 100.0 * (after / before - 1.0);
        println!("{name}: {before:.1} without, {after:.1} with {} tabs, {change:+.2} %", args.tabs);
    }
    let noise = without.chunks(2).filter_map(|pair| match pair {
        [one, other] => Some(100.0 * (one.p99 / other.p99 - 1.0).abs()),
        _ => None,
    });
    let noise = noise.fold(0.0, f64::max);
    println!("p99 of two phases without tabs differs by up to {noise:.2} %");
    Ok(())
}

impl Setup {
    async fn start(args: &Args) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("llm-lens-tabs-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let program = sibling("mock-engine").context("mock-engine is missing: build it")?;
        let mut engine = Process::start(&mut Command::new(program), &folder.join("engine"))?;
        let upstream = engine.first_line()?;
        let (listen, admin) = (port::free()?, port::free()?);
        let file = folder.join("gateway.yaml");
        let records = folder.join("records");
        let settings = format!(
            "listeners: [{{address: '{listen}'}}]\nadmin: {{address: '{admin}'}}\n\
             workers: {}\nrecord_store: {{path: '{}'}}\n\
             backends: [{{name: engine, url: 'http://{}'}}]\n\
             routes: [{{name: default, backend: engine}}]\n\
             objectives: [{{route: default, ttft: {{p95: 100ms}}, availability: 99}}]\n",
            args.workers,
            records.display(),
            upstream.trim(),
        );
        std::fs::write(&file, settings)?;
        let mut command = Command::new(&args.gateway);
        command.args(["gateway", "--config"]).arg(&file);
        let gateway = Process::start(&mut command, &folder.join("gateway"))?;
        let mut setup = Setup { _engine: engine, gateway, listen, admin, folder };
        let until = Instant::now() + READY;
        while let Err(error) = page(setup.admin, "/readyz").await {
            setup.gateway.check()?;
            ensure!(Instant::now() < until, "{error:#}; its log: {}", setup.gateway.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(setup)
    }

    /// Requests at the rate for the time of a phase, with open tabs.
    async fn phase(&self, args: &Args, tabs: u32) -> Result<Phase> {
        let mut open = JoinSet::new();
        for tab in 0..tabs {
            open.spawn(read_pages(self.admin, REFRESH * tab / tabs.max(1)));
            open.spawn(follow(self.admin));
        }
        let pids = Pids(vec![self.gateway.id()]);
        let (before, start) = (pids.cpu()?, Instant::now());
        let mut load = JoinSet::new();
        let body: Arc<[u8]> = request(Plan::Json, SMALL).into();
        let interval = Duration::from_secs(1) * args.connections / args.rate;
        let time = Duration::from_secs(args.seconds.into());
        for at in 0..args.connections {
            let first = start + interval * at / args.connections;
            load.spawn(send(self.listen, body.clone(), first, interval, time));
        }
        let mut latencies = Histogram::<u64>::new(3)?;
        while let Some(sent) = load.join_next().await {
            latencies.add(sent??)?;
        }
        let spent = before.until(&pids.cpu()?);
        let elapsed = start.elapsed().as_secs_f64();
        while let Some(ended) = open.try_join_next() {
            ended?.context("a tab")?;
        }
        let quantile = |q| latencies.value_at_quantile(q) as f64 / 1000.0;
        Ok(Phase {
            p50: quantile(0.5),
            p99: quantile(0.99),
            rate: latencies.len() as f64 / elapsed,
            cpu: (spent.user + spent.kernel) / elapsed / 1e4,
        })
    }
}

/// Sends a request each `interval`. A latency counts from when the request was due, if the one
/// before it was late; the resolution of the timer does not count.
async fn send(
    address: SocketAddr,
    body: Arc<[u8]>,
    first: Instant,
    interval: Duration,
    time: Duration,
) -> Result<Histogram<u64>> {
    let mut client = Client::connect(address).await?;
    let mut latencies = Histogram::new(3)?;
    let (mut due, end) = (first, first + time);
    while due < end {
        let is_late = due < Instant::now();
        tokio::time::sleep_until(due.into()).await;
        let from = if is_late { due } else { Instant::now() };
        client.json(&body).await?;
        latencies.record(u64::try_from(from.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1))?;
        due += interval;
    }
    Ok(latencies)
}

/// Reads what a tab with the overview reads, until it is dropped.
async fn read_pages(admin: SocketAddr, offset: Duration) -> Result<()> {
    tokio::time::sleep(offset).await;
    let mut clock = tokio::time::interval(REFRESH);
    loop {
        clock.tick().await;
        let mut pages = JoinSet::new();
        for path in PAGES {
            pages.spawn(async move { page(admin, path).await.context(path) });
        }
        while let Some(read) = pages.join_next().await {
            read??;
        }
    }
}

/// Reads a page to its end.
async fn page(admin: SocketAddr, path: &str) -> Result<()> {
    let mut socket = open(admin, path, "connection: close\r\n").await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Follows the live stream, until it is dropped.
async fn follow(admin: SocketAddr) -> Result<()> {
    let mut socket = open(admin, "/api/live?events=record", "").await?;
    let mut read = vec![0; 64 << 10];
    loop {
        let count = socket.read(&mut read).await?;
        ensure!(count > 0, "the live stream has ended");
    }
}

async fn open(admin: SocketAddr, path: &str, fields: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(admin).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\naccept: */*\r\n{fields}\r\n");
    socket.write_all(head.as_bytes()).await?;
    Ok(socket)
}
