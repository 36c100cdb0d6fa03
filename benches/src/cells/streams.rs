//! Cost and latency of an event of a stream.
//!
//! In: a running proxy, a number of streams and of events in each.
//! Out: CPU time of one event, its one-way latency, the throughput, and the
//! time to the first content event. The CPU time of a stream's request is
//! shared out among its hundreds or thousands of events.
//! Never: reports a stream with a lost, duplicated or truncated event.

use super::{Figures, Load, SMALL, all, cpu_so_far, spent, warm};
use crate::client::{Seen, request};
use crate::metric::Metric;
use crate::peers::Peer;
use crate::plan::Plan;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

struct Shape {
    streams: u32,
    events: u32,
    gap: Duration,
    per: u64,
}

struct Outcome {
    cpu: Figures,
    rate: f64,
    ages: Histogram<u64>,
}

/// Streams at the pace of an engine that decodes.
///
/// # Errors
/// When a stream is not whole.
pub async fn paced(peer: &Peer, load: &Load) -> Result<Figures> {
    let shape = Shape {
        streams: load.paced_streams,
        events: load.paced_events,
        gap: load.paced_gap,
        per: 1,
    };
    let metrics = [Metric::PacedUser, Metric::PacedKernel];
    let outcome = many(peer, &shape, metrics).await?;
    let mut figures = outcome.cpu;
    figures.push((Metric::PacedP50, micros(&outcome.ages, 0.5)?));
    figures.push((Metric::PacedP99, micros(&outcome.ages, 0.99)?));
    Ok(figures)
}

/// Streams without pauses, one event a write.
///
/// # Errors
/// When a stream is not whole.
pub async fn flood(peer: &Peer, load: &Load) -> Result<Figures> {
    let shape = Shape {
        streams: load.flood_streams,
        events: load.flood_events,
        gap: Duration::ZERO,
        per: 1,
    };
    let metrics = [Metric::FloodUser, Metric::FloodKernel];
    let mut outcome = many(peer, &shape, metrics).await?;
    outcome.cpu.push((Metric::FloodRate, outcome.rate));
    Ok(outcome.cpu)
}

/// Streams without pauses, eight events a write.
///
/// # Errors
/// When a stream is not whole.
pub async fn batch(peer: &Peer, load: &Load) -> Result<Figures> {
    let shape = Shape {
        streams: load.flood_streams,
        events: load.batch_events,
        gap: Duration::ZERO,
        per: 8,
    };
    let metrics = [Metric::BatchUser, Metric::BatchKernel];
    let mut outcome = many(peer, &shape, metrics).await?;
    outcome.cpu.push((Metric::BatchRate, outcome.rate));
    Ok(outcome.cpu)
}

async fn many(peer: &Peer, shape: &Shape, metrics: [Metric; 2]) -> Result<Outcome> {
    let events = u64::from(shape.events);
    let (gap, per) = (shape.gap, shape.per);
    let ask: Arc<[u8]> = request(Plan::Stream { events, gap, per }, SMALL).into();
    let clients = warm(peer, shape.streams).await?;
    let mut tasks = JoinSet::new();
    let before = cpu_so_far(peer)?;
    let start = Instant::now();
    for (mut client, turn) in clients.into_iter().zip(0_u32..) {
        let ask = Arc::clone(&ask);
        // Paced streams begin one after another, as those of users do.
        let delay = gap * turn / shape.streams.max(1);
        tasks.spawn(async move {
            let mut seen = Seen::with_ages()?;
            tokio::time::sleep(delay).await;
            client.stream(&ask, events, &mut seen).await?;
            Ok(seen)
        });
    }
    let mut ages = Histogram::new(3)?;
    let seen = all(tasks).await?;
    let took = start.elapsed().as_secs_f64();
    let count = f64::from(shape.events) * f64::from(shape.streams);
    let cpu = spent(peer, before.as_ref(), count, metrics)?;
    for part in seen.iter().filter_map(|seen| seen.ages.as_ref()) {
        ages.add(part)?;
    }
    Ok(Outcome { cpu, rate: count / took, ages })
}

/// Time to the first content event, at a gentle rate on one connection.
///
/// # Errors
/// When a stream is not whole.
pub async fn ttft(peer: &Peer, load: &Load) -> Result<Figures> {
    let plan = Plan::Stream { events: 1, gap: Duration::ZERO, per: 1 };
    let ask = request(plan, SMALL);
    let mut client = warm(peer, 1).await?.pop().context("no connection")?;
    let mut times = Histogram::<u64>::new(3)?;
    let mut seen = Seen::default();
    for _ in 0..load.ttft {
        client.stream(&ask, 1, &mut seen).await?;
        let first = seen.first.context("no content event")?;
        times.record(u64::try_from(first.as_nanos())?.max(1))?;
        tokio::time::sleep(load.ttft_pause).await;
    }
    Ok(vec![(Metric::TtftP50, micros(&times, 0.5)?), (Metric::TtftP99, micros(&times, 0.99)?)])
}

fn micros(nanos: &Histogram<u64>, quantile: f64) -> Result<f64> {
    let nanos = nanos.value_at_quantile(quantile);
    Ok(Duration::from_nanos(nanos).as_secs_f64() * 1e6)
}
