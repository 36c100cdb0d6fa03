//! Cost of a whole request with its answer.
//!
//! In: a running proxy and a number of requests.
//! Out: user and kernel CPU time of one request, small or with 16 KiB.
//! Requests follow one another on a few kept-alive connections, so that the
//! proxy is busy but never queues.
//! Never: counts the time of connecting.

use super::{Figures, Load, SMALL, all, cpu_so_far, spent, warm};
use crate::client::request;
use crate::metric::Metric;
use crate::peers::Peer;
use crate::plan::Plan;
use anyhow::Result;
use std::sync::Arc;
use tokio::task::JoinSet;

const LARGE: usize = 16 * 1024;

/// Small requests with small answers.
///
/// # Errors
/// When an answer is wrong.
pub async fn small(peer: &Peer, load: &Load) -> Result<Figures> {
    let metrics = [Metric::SmallUser, Metric::SmallKernel];
    calls(peer, load.connections, load.small, SMALL, metrics).await
}

/// Requests with a body of 16 KiB and small answers.
///
/// # Errors
/// When an answer is wrong.
pub async fn body(peer: &Peer, load: &Load) -> Result<Figures> {
    let metrics = [Metric::BodyUser, Metric::BodyKernel];
    calls(peer, load.connections, load.body, LARGE, metrics).await
}

async fn calls(
    peer: &Peer,
    connections: u32,
    count: u32,
    text: usize,
    metrics: [Metric; 2],
) -> Result<Figures> {
    let ask: Arc<[u8]> = request(Plan::Json, text).into();
    let clients = warm(peer, connections).await?;
    let each = count / connections.max(1);
    let mut tasks = JoinSet::new();
    let before = cpu_so_far(peer)?;
    for mut client in clients {
        let ask = Arc::clone(&ask);
        tasks.spawn(async move {
            for _ in 0..each {
                client.json(&ask).await?;
            }
            Ok(())
        });
    }
    all(tasks).await?;
    spent(peer, before.as_ref(), f64::from(each * connections), metrics)
}
