//! Memory of a fresh proxy: idle, with thousands of idle streams, and after them.
//!
//! In: a proxy that has only just started, and a number of streams.
//! Out: resident memory before, for each stream, and five seconds after.
//! `Direct` has no proxy, so its cell is empty.
//! Never: counts a stream that did not stay open; opens all of them at once.

use super::{Figures, Load, SMALL, all};
use crate::client::{Client, request};
use crate::metric::Metric;
use crate::peers::Peer;
use crate::plan::Plan;
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const OPENERS: u32 = 32;
const HOLD: Duration = Duration::from_secs(180);
const SETTLE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(5);

/// Measures memory before, with and after thousands of idle streams.
///
/// # Errors
/// When a stream cannot be opened or does not stay open.
pub async fn idle_streams(peer: &Peer, load: &Load) -> Result<Figures> {
    let Some(pids) = &peer.pids else {
        return Ok(Vec::new());
    };
    sleep(SETTLE).await;
    let idle = pids.rss_kib()?;
    let ask: Arc<[u8]> = request(Plan::Idle { hold: HOLD }, SMALL).into();
    let each = load.idle_streams.div_ceil(OPENERS);
    let mut tasks = JoinSet::new();
    for opener in 0..OPENERS {
        let (ask, address) = (Arc::clone(&ask), peer.address);
        let mine = each.min(load.idle_streams.saturating_sub(opener * each));
        tasks.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..mine {
                let mut client = Client::connect(address).await?;
                client.open(&ask).await?;
                open.push(client);
            }
            Ok(open)
        });
    }
    let open: Vec<Client> = all(tasks).await?.into_iter().flatten().collect();
    sleep(SETTLE * 2).await;
    let held = open.iter().filter(|client| client.is_open()).count();
    ensure!(held == open.len(), "{held} of {} streams stayed open", open.len());
    let full = pids.rss_kib()?;
    drop(open);
    sleep(AFTER).await;
    let after = pids.rss_kib()?;
    let kib = |count: u64| u32::try_from(count).map(f64::from);
    Ok(vec![
        (Metric::RssIdle, kib(idle)? / 1024.0),
        (Metric::RssStream, (kib(full)? - kib(idle)?) / f64::from(load.idle_streams.max(1))),
        (Metric::RssAfter, kib(after)? / 1024.0),
    ])
}
