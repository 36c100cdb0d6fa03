//! Measures the store of records in PostgreSQL: rate and queries.
//!
//! In: `--url postgres://...` of an empty database, the password in `LLM_LENS_BENCH_PASSWORD`,
//! and optional `--records N`, `--days`.
//! Out: one line per figure.
//! Never: a record that is dropped without an error; a wait of the sink for the generator, which
//! makes records on another thread.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base_url::PostgresUrl;
use clap::Parser;
use llm_lens_benches::queries::{TURNS, queries};
use llm_lens_benches::records::{DAY, START, batch};
use observatory::Sink as _;
use postgres_store::{Database, PostgresStore, SinkOptions, sink};
use store::Counters;

/// Fills a database with synthetic records and measures it.
#[derive(Parser)]
struct Args {
    /// The database, which must be empty.
    #[arg(long)]
    url: PostgresUrl,
    /// Records to store.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Days that they span.
    #[arg(long, default_value_t = 7)]
    days: u64,
}

/// Records that are passed to the sink at a time.
const BATCH: u64 = 4096;
/// Records that may wait in the sink, which drops beyond 32,768.
const QUEUED: u64 = 16_384;
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> Result<()> {
    let args = Args::parse();
    let password = std::env::var("LLM_LENS_BENCH_PASSWORD").ok();
    let database = Database { url: args.url.clone(), password, ca: None };
    let keep = Duration::from_secs((args.days + 1) * 86_400);
    let options = SinkOptions { keep, spill: None, wall_us: || START };
    let mut sink = sink(database.clone(), options, Arc::<Counters>::default())?;
    let counts = sink.own_counts().context("the sink counts")?;
    let end = START + args.days * DAY;
    let (made, batches) = sync_channel(8);
    let (all, began) = (args.records, Instant::now());
    let generator = std::thread::spawn(move || {
        for from in (0..all).step_by(BATCH as usize) {
            if made.send(batch(from..(from + BATCH).min(all), all, end)).is_err() {
                return;
            }
        }
    });
    for batch in batches {
        while counts.delivery().is_some_and(|delivery| delivery.queued() > QUEUED) {
            std::thread::sleep(PAUSE);
        }
        sink.push(batch.into_iter());
        ensure!(counts.dropped() == 0, "records were dropped: {:?}", counts.last_error());
    }
    generator.join().ok().context("the generator ended")?;
    while counts.delivered() < all {
        ensure!(counts.dropped() == 0, "records were dropped: {:?}", counts.last_error());
        std::thread::sleep(PAUSE);
    }
    let rate = all as f64 / began.elapsed().as_secs_f64();
    println!("records: {all} over {} days", args.days);
    println!("rate: {rate:.0}/s of wall time, by one gateway");
    sink.flush();
    let store = PostgresStore::new(database, Duration::from_secs(60));
    println!("queries, alone (median, maximum of {TURNS}):");
    queries(&store, args.days, end)
}
