//! The cells: one kind of load each, put on one proxy at a time.
//!
//! In: a running proxy and how much load to give.
//! Out: named figures, all of them taken from checked answers.
//! Never: gives unbounded load; reports a cell with a wrong answer.

pub mod memory;
pub mod requests;
pub mod streams;

use crate::client::{Client, request};
use crate::metric::Metric;
use crate::peers::Peer;
use crate::plan::Plan;
use crate::procfs::{Cpu, Spent};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::task::JoinSet;

/// Bytes of message text in a small request.
pub const SMALL: usize = 64;

/// Figures of one cell.
pub type Figures = Vec<(Metric, f64)>;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cell {
    /// Small requests.
    Small,
    /// Requests with a body of 16 KiB.
    Body,
    /// Streams at the pace of an engine.
    Paced,
    /// Streams without pauses, one event per write.
    Flood,
    /// Streams without pauses, eight events per write.
    Batch,
    /// Time to the first content event.
    Ttft,
    /// Thousands of idle streams.
    Memory,
}

impl Cell {
    /// All cells, in the order they run.
    pub const ALL: [Self; 7] =
        [Self::Small, Self::Body, Self::Paced, Self::Flood, Self::Batch, Self::Ttft, Self::Memory];

    /// Runs this cell.
    ///
    /// # Errors
    /// When an answer is wrong or the proxy has gone.
    pub async fn measure(self, peer: &Peer, load: &Load) -> Result<Figures> {
        match self {
            Self::Small => requests::small(peer, load).await,
            Self::Body => requests::body(peer, load).await,
            Self::Paced => streams::paced(peer, load).await,
            Self::Flood => streams::flood(peer, load).await,
            Self::Batch => streams::batch(peer, load).await,
            Self::Ttft => streams::ttft(peer, load).await,
            Self::Memory => memory::idle_streams(peer, load).await,
        }
    }
}

/// How much load the cells give.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Load {
    /// Kept-alive connections of the request cells.
    pub connections: u32,
    /// Small requests.
    pub small: u32,
    /// Requests with a body of 16 KiB.
    pub body: u32,
    /// Streams of the paced cell.
    pub paced_streams: u32,
    /// Events of each paced stream.
    pub paced_events: u32,
    /// Pause between two events of a paced stream. The engine's timer has a resolution of 1 ms:
    /// with one stream per ms of pause, each event is a wake-up of its own.
    pub paced_gap: Duration,
    /// Streams of the two flooding cells.
    pub flood_streams: u32,
    /// Events of each stream, one per write.
    pub flood_events: u32,
    /// Events of each stream, eight per write.
    pub batch_events: u32,
    /// Requests of the TTFT cell.
    pub ttft: u32,
    /// Pause between two requests of the TTFT cell.
    pub ttft_pause: Duration,
    /// Streams of the memory cell.
    pub idle_streams: u32,
}

impl Load {
    /// The load of a full run.
    pub const FULL: Self = Self {
        connections: 8,
        small: 64_000,
        body: 32_000,
        paced_streams: 40,
        paced_events: 250,
        paced_gap: Duration::from_millis(40),
        flood_streams: 8,
        flood_events: 40_000,
        batch_events: 80_000,
        ttft: 1_000,
        ttft_pause: Duration::from_millis(3),
        idle_streams: 5_000,
    };

    /// A load for a quick look.
    pub const QUICK: Self = Self {
        small: 24_000,
        body: 12_000,
        paced_events: 100,
        flood_events: 16_000,
        batch_events: 24_000,
        ttft: 300,
        ..Self::FULL
    };
}

/// CPU time of a proxy so far; `None` for `Direct`.
pub(crate) fn cpu_so_far(peer: &Peer) -> Result<Option<Cpu>> {
    peer.pids.as_ref().map(|pids| pids.cpu()).transpose()
}

/// CPU time since `before`, divided by `count`.
pub(crate) fn spent(
    peer: &Peer,
    before: Option<&Cpu>,
    count: f64,
    [user, kernel]: [Metric; 2],
) -> Result<Figures> {
    let (Some(before), Some(after)) = (before, cpu_so_far(peer)?) else {
        return Ok(Vec::new());
    };
    let spent: Spent = before.until(&after);
    Ok(vec![(user, spent.user / count), (kernel, spent.kernel / count)])
}

/// Connections, each already used once.
pub(crate) async fn warm(peer: &Peer, count: u32) -> Result<Vec<Client>> {
    let ask = request(Plan::Json, SMALL);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(peer.address).await?;
        client.json(&ask).await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Waits for all tasks; the first error ends the rest.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.context("load task")??);
    }
    Ok(results)
}
