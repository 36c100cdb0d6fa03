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
use lens::Record;
use observatory::{NumberedRecord, RecordKey};
use store::{
    ChartQuery, Counters, FacetQuery, Field, Filter, PageQuery, SqliteStore, Store, StoreOptions,
    Writer,
};

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

/// 2026-01-02T00:00:00Z in microseconds.
const START: u64 = 1_767_312_000_000_000;
const DAY: u64 = 86_400_000_000;
/// Records of a batch: those of 40 ms at the highest rate.
const BATCH: u64 = 4096;
/// Repetitions of a query.
const TURNS: usize = 15;

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
    queries(&store, &args, end)?;
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
        let result = queries(&store, &args, end);
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

/// Measure each kind of query.
fn queries(store: &SqliteStore, args: &Args, end: u64) -> Result<()> {
    let equal = |pairs: &[(Field, &str)]| Filter {
        equals: pairs.iter().map(|(field, text)| (*field, (*text).to_owned())).collect(),
        ..Filter::default()
    };
    let middle = START + args.days * DAY / 2;
    for (name, filter) in [
        ("page: all", Filter::default()),
        ("page: outcome, 1 of 100", equal(&[(Field::Outcome, "timeout")])),
        ("page: model and backend", equal(&[(Field::Model, "model-3"), (Field::Backend, "b1")])),
        ("page: caller, 1 of 10,000", equal(&[(Field::Caller, "rare")])),
        (
            "page: slower than, 1 of 1,000",
            Filter { slower_than_us: Some(60_000_000), ..Filter::default() },
        ),
        (
            "page: an hour of the past",
            Filter { from_us: Some(middle), to_us: Some(middle + DAY / 24), ..Filter::default() },
        ),
    ] {
        let query = PageQuery { filter, after: None, limit: 100 };
        measure(name, || Ok(store.page(&query)?.rows.len()))?;
    }
    measure("record by id, the oldest", || Ok(store.records(&id(7))?.0.len()))?;
    measure("record by id, unknown", || Ok(store.records("unknown")?.0.len()))?;
    for field in Field::ALL {
        let query = FacetQuery { fields: vec![field], limit: 100, ..FacetQuery::default() };
        measure(&format!("facet: {}", field.name()), || {
            Ok(store.facets(&query)?.fields.iter().map(|counts| counts.values.len()).sum())
        })?;
    }
    let end_s = end / 1_000_000;
    let chart = |hours: u64, step_s: u64, pairs: &[(Field, &str)], group_by| ChartQuery {
        from_s: end_s - hours * 3600,
        to_s: end_s,
        step_s,
        equals: equal(pairs).equals,
        group_by,
        series: 10,
    };
    let whole = args.days * 24;
    for (name, query) in [
        ("chart: 6 h by minute", chart(6, 60, &[], None)),
        ("chart: 6 h by minute, by model", chart(6, 60, &[], Some(Field::Model))),
        (
            "chart: 6 h by minute, model and backend",
            chart(6, 60, &[(Field::Model, "model-3"), (Field::Backend, "b1")], None),
        ),
        ("chart: a day by 15 minutes, by owner", chart(24, 900, &[], Some(Field::Owner))),
        ("chart: all by hour, by route", chart(whole, 3600, &[], Some(Field::Route))),
        (
            "chart: all by hour, route by backend",
            chart(whole, 3600, &[(Field::Route, "route-1")], Some(Field::Backend)),
        ),
    ] {
        measure(name, || {
            Ok(store.chart(&query)?.series.iter().map(|series| series.points.len()).sum())
        })?;
    }
    Ok(())
}

fn measure(name: &str, mut query: impl FnMut() -> Result<usize>) -> Result<()> {
    let (mut times, mut results) = (Vec::new(), 0);
    for _ in 0..TURNS {
        let began = Instant::now();
        results = query()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "  {name}: {:.1} ms, {:.1} ms ({results} results)",
        times[TURNS / 2],
        times[TURNS - 1]
    );
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

/// Records with these numbers, of `all`.
fn batch(numbers: std::ops::Range<u64>, all: u64, end: u64) -> Vec<NumberedRecord> {
    let template = template();
    let instance: Arc<str> = "bench".into();
    let key = |sequence| RecordKey { instance: instance.clone(), epoch: 1, sequence };
    numbers
        .map(|number| {
            let record = Arc::new(record(&template, number, all, end));
            NumberedRecord { key: key(number), record }
        })
        .collect()
}

fn id(number: u64) -> String {
    let mixed = mix(number);
    format!(
        "{:08x}-{:04x}-7{:03x}-9{:03x}-{:012x}",
        number,
        mixed & 0xffff,
        (mixed >> 16) & 0xfff,
        (mixed >> 28) & 0xfff,
        mixed >> 16
    )
}

/// A number that looks random.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (number >> 31)
}

fn record(template: &Record, number: u64, all: u64, end: u64) -> Record {
    let mut record = template.clone();
    let random = mix(number);
    let pick = |shift: u32, of: u64| (random >> shift) % of;
    record.id = id(number);
    record.trace_id =
        number.is_multiple_of(2).then(|| format!("{:016x}{:016x}", random, mix(random)));
    record.started_at = START
        + ((end - START) as u128 * number.min(all - 1) as u128 / all as u128) as u64
        + pick(3, 1000);
    record.route = format!("route-{}", pick(5, 8)).into();
    record.backend = Some(format!("b{}", pick(9, 6)).into());
    record.model_requested = Some(format!("model-{}", pick(5, 8)));
    record.model_answered.clone_from(&record.model_requested);
    record.owner = Some(format!("team-{}", pick(13, 20)).into());
    record.caller = Some(match number % 10_000 {
        1234 => "rare".into(),
        _ => format!("key-{}", pick(17, 500)).into(),
    });
    if pick(21, 100) == 0 {
        record.outcome = lens::record::Outcome::Timeout;
        record.error_code = Some("first_token_timeout".into());
        record.http_status = Some(504);
    }
    let ttft = 20_000 + pick(8, 400_000);
    let total =
        if pick(25, 1000) == 0 { 61_000_000 } else { ttft + 1_000_000 + pick(11, 8_000_000) };
    (record.engine_ttft_us, record.client_ttft_us) = (Some(ttft), Some(ttft + 200 + pick(4, 300)));
    (record.tpot_us, record.total_us) = (Some(5_000.0 + pick(7, 20_000) as f64), total);
    if let Some(usage) = &mut record.usage {
        (usage.prompt_tokens, usage.completion_tokens) = (Some(pick(6, 4000)), Some(pick(12, 900)));
    }
    record.cost = Some(pick(10, 10_000) as f64 / 1e6);
    record.bytes_from_client = pick(15, 20_000);
    record.bytes_to_client = pick(14, 200_000);
    record
}

/// A record as the gateway writes one for a stream.
fn template() -> Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "dialect": "openai-chat", "endpoint": "/v1/chat/completions",
        "http_status": 200, "stream": true, "outcome": "ok", "finish_reasons": ["stop"], "chosen": "least_load",
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "estimated": false}, "events": 312, "content_events": 309, "comments": 0,
        "bytes_from_client": 10, "bytes_to_client": 20, "sent_us": 311, "engine_us": 4_200_000,
        "marks_us": {"first_byte": {"arrival": 120_311, "written": 120_402}, "first_event": {"arrival": 120_311, "written": 120_402},
            "role": {"arrival": 120_311, "written": 120_402}, "content": {"arrival": 143_022, "written": 143_090},
            "first_token": {"arrival": 143_022, "written": 143_090}, "last_token": {"arrival": 4_198_300, "written": 4_198_377}},
        "itl_us": {"count": 308, "mean": 13_166.2, "p50": 13_001, "p90": 16_222, "p99": 31_004, "max": 44_002},
        "client_itl_us": {"count": 308, "mean": 13_166.9, "p50": 13_010, "p90": 16_240, "p99": 31_111, "max": 44_120},
        "stalls": 0, "coalesced_events": 3,
        "ledger_us": {"read_request": 41, "authenticate": 9, "queue": 0, "route": 12, "connect": 88, "send": 102, "await_first_byte": 120_000,
            "await_first_token": 22_711, "await_token": 4_055_200, "client_write": 812, "gateway": 933, "settle": 12},
        "total_us": 4_199_820
    }))
    .expect("a valid record")
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
