//! Measures the store of records: rate, memory, size, queries while it is written, retention.
//!
//! In: `--records N`, and optional `--folder`, `--days`.
//! Out: one line per figure.
//! Never: a figure of the generator; it makes batches before the clock starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use llm_lens_benches::queries::{TURNS, queries};
use llm_lens_benches::records::{DAY, START, batch};
use store::{Counters, SqliteStore, StoreOptions, Writer};

/// Fills a store with synthetic records and measures it.
#[derive(Parser)]
struct Args {
    /// Records to store.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Days that they span.
    #[arg(long, default_value_t = 7)]
    days: u64,
    /// Folder of the store, which must not exist. It is removed at the end.
    #[arg(long, default_value = "store-bench")]
    folder: PathBuf,
}

/// Records of a batch: those of 40 ms at the highest rate.
const BATCH: u64 = 4096;

fn main() -> Result<()> {
    let args = Args::parse();
    let end = START + args.days * DAY;
    let options = StoreOptions { keep: Duration::from_secs(7 * 86_400), ..Default::default() };
    let mut writer = Writer::open(&args.folder, options.clone(), Arc::default(), START)?;
    fill(&mut writer, &args)?;
    let store = SqliteStore::new(&args.folder, Duration::from_secs(10));
    let summary = store.summary()?;
    println!("files: {}", summary.partitions.len());
    println!(
        "size: {:.2} GB, {} bytes per record",
        summary.bytes as f64 / 1e9,
        summary.bytes / summary.records
    );
    println!("queries, alone (median, maximum of {TURNS}):");
    queries(&store, args.days, end)?;
    println!("queries, while 2000 records/s are written:");
    let (ends, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let writer = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut next = args.records;
            while !ends.load(Ordering::Relaxed) {
                let batch = batch(next..next + 200, args.records, end);
                writer.write(&batch, end).expect("room on the disk");
                next += 200;
                written.store(next - args.records, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
            writer
        });
        let result = queries(&store, args.days, end);
        ends.store(true, Ordering::Relaxed);
        let writer = writing.join().expect("the writer ends");
        result.map(|()| writer)
    })?;
    println!("  written meanwhile: {}", written.load(Ordering::Relaxed));
    retention(writer, &args, options, &store, summary.partitions.len())?;
    std::fs::remove_dir_all(&args.folder)?;
    Ok(())
}

/// Store all records.
fn fill(writer: &mut Writer, args: &Args) -> Result<()> {
    let end = START + args.days * DAY;
    let (mut spent, mut longest, mut cpu) = (Duration::ZERO, Duration::ZERO, 0.0);
    for from in (0..args.records).step_by(BATCH as usize) {
        let batch = batch(from..(from + BATCH).min(args.records), args.records, end);
        let (began, cpu_began) = (Instant::now(), cpu_seconds());
        writer.write(&batch, START)?;
        let took = began.elapsed();
        cpu += cpu_seconds() - cpu_began;
        (spent, longest) = (spent + took, longest.max(took));
    }
    let rate = args.records as f64 / spent.as_secs_f64();
    println!("records: {} over {} days", args.records, args.days);
    println!("rate: {rate:.0}/s of wall time, {:.0}/s of CPU time", args.records as f64 / cpu);
    println!("longest batch of {BATCH}: {:.0} ms", longest.as_secs_f64() * 1e3);
    println!("memory: {} now, {} at most", memory("VmRSS"), memory("VmHWM"));
    Ok(())
}

/// Drop the oldest half of the files, at most.
fn retention(
    writer: Writer,
    args: &Args,
    options: StoreOptions,
    store: &SqliteStore,
    files: usize,
) -> Result<()> {
    drop(writer);
    let before = store.summary()?;
    let half = before.partitions.iter().take(files.div_ceil(2)).map(|one| one.bytes).sum::<u64>();
    let options = StoreOptions { max_bytes: before.bytes - half.max(1), ..options };
    let began = Instant::now();
    let writer = Writer::open(&args.folder, options, Arc::new(Counters::default()), START)?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let gone = before.records - store.summary()?.records;
    println!("retention: {gone} records in {took:.0} ms, with the start of the writer");
    drop(writer);
    Ok(())
}

/// CPU time of this process in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// A line of /proc/self/status.
fn memory(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}
