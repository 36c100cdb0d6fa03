//! The demo: three simulated engines, the gateway in front of them, a short load, the gateway's
//! measurements, and a gentle load for the dashboard.
//!
//! - *In*: addresses; a real engine, if there is one.
//! - *Out*: a table and a waterfall, then load until INT, TERM or a drain.
//! - *Never*: a listener on another address than loopback, unless it was requested; a file that
//!   remains.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use simulator::{Engine, Fault, Profile};
use testbench::client::Limits;
use testbench::{Config, demo, join};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use workload::Workload;
use workload::arrival::{Arrival, Spacing, Stop};
use workload::length::Length;
use workload::prompts::Prompts;
use workload::provider::Provider;

use crate::args::DemoArgs;
use crate::{runtime, write_stdout};

/// Requests to each engine.
const REQUESTS: u64 = 24;
/// Workers that send them.
const CONCURRENCY: usize = 4;
/// Requests a second of each model while the dashboard is looked at.
const GENTLE_RATE: f64 = 1.5;
/// How long they are sent.
const GENTLE_TIME: Duration = Duration::from_secs(3600);
/// Share of requests that one of the engines fails.
const ERROR_SHARE: f64 = 0.08;
/// Route of a real engine.
const REAL_ROUTE: &str = "real";
/// Requests to a real engine, which may have one core.
const REAL_REQUESTS: u64 = 8;
/// Workers that send them.
const REAL_CONCURRENCY: usize = 2;
/// Requests a second to a real engine while the dashboard is looked at.
const REAL_RATE: f64 = 0.3;

/// A real engine beside the simulated ones.
struct RealEngine {
    url: String,
    model: String,
}

/// What requests are sent to.
#[derive(Clone)]
struct Sent<'a> {
    model: &'a str,
    requests: u64,
    concurrency: usize,
    /// Requests a second afterwards.
    rate: f64,
    words: Length,
}

/// Runs the demo.
pub(crate) fn run_demo(args: &DemoArgs) -> Result<()> {
    let runtime = runtime()?;
    let real = args.backend.as_deref().map(|url| runtime.block_on(real_engine(url))).transpose()?;
    let failing = Profile { faults: vec![(Fault::Status(503), ERROR_SHARE)], ..Profile::fast() };
    let start = async |profile| {
        let engine = Engine::bind(SocketAddr::from(([127, 0, 0, 1], 0)), profile).await?;
        let address = engine.address()?;
        // It ends with the runtime.
        tokio::spawn(engine.serve());
        anyhow::Ok(address)
    };
    let engines = runtime.block_on(async {
        let (small, spare) = (start(Profile::fast()).await?, start(failing).await?);
        anyhow::Ok([small, spare, start(Profile::slow()).await?])
    })?;
    let (listen, admin) = (free(args.listen)?, free(args.admin)?);
    let folder = tempfile::Builder::new().prefix("llm-lens-demo-").tempdir()?;
    let file = folder.path().join("demo.yaml");
    let text = settings(listen, admin, engines, real.as_ref(), folder.path());
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let settings = config::load(&file)?;
    let gateway = gateway::Gateway::bind(gateway::Options {
        settings,
        file: Some(file.clone()),
        upgrade: false,
        filters: crate::filters(),
    })?;
    write_stdout(&format!(
        "open the dashboard in a browser: http://{admin}/\n\n{}\n\n",
        gateway.summary()
    ))?;
    let (ended, has_ended) = oneshot::channel();
    let running = std::thread::Builder::new().name("gateway".into()).spawn(move || {
        let served = gateway.serve();
        // The demo may have ended before.
        let _ = ended.send(());
        served
    })?;
    let shown = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            shown = show(listen, admin, real.as_ref(), args.once) => shown,
            // The gateway receives signals too, and there is nothing left to show.
            signal = tokio::signal::ctrl_c() => signal.map_err(Into::into),
            _ = terminate.recv() => Ok(()),
            // It was drained.
            _ = has_ended => Ok(()),
        }
    });
    if shown.is_ok() && !args.once {
        running.join().map_err(|_| anyhow::anyhow!("the gateway's thread panicked"))??;
    }
    shown
}

/// The real engine at a URL, with its first model.
async fn real_engine(url: &str) -> Result<RealEngine> {
    let models =
        testbench::models(url, &Provider::default(), None).await.map_err(anyhow::Error::msg)?;
    let model = models.into_iter().next().context("the engine lists no models")?;
    Ok(RealEngine { url: url.to_owned(), model })
}

async fn show(
    listen: SocketAddr,
    admin: SocketAddr,
    real: Option<&RealEngine>,
    once: bool,
) -> Result<()> {
    let all = sent(real);
    let names: Vec<_> =
        all.iter().map(|sent| format!("{} to {}", sent.requests, sent.model)).collect();
    write_stdout(&format!("sending requests, a few at a time: {}\n", names.join(", ")))?;
    for sent in &all {
        testbench::run::run_load(load(listen, sent.clone()), std::future::pending()).await?;
    }
    let admin_url = format!("http://{admin}");
    let routes = join::page(&admin_url, "/api/routes", None).await.map_err(anyhow::Error::msg)?;
    write_stdout(&format!("\n{}\n", demo::routes(&routes)))?;
    let records = join::records(&admin_url, None).await.map_err(anyhow::Error::msg)?;
    let shown = if real.is_some() { REAL_ROUTE } else { "slow" };
    if let Some(record) = records.iter().find(|r| r.stream && &*r.route == shown) {
        write_stdout(&format!("{}\n", demo::waterfall(record)))?;
    }
    let model = real.map_or("sim-8b", |real| &real.model);
    let body = serde_json::json!({
        "model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}]
    });
    write_stdout(&format!(
        "try:\n  curl -N http://{listen}/v1/chat/completions -H content-type:application/json -d '{body}'\n  curl -s http://{admin}/metrics | grep time_to_first_token\n  curl -s 'http://{admin}/api/requests?limit=1'\n"
    ))?;
    if once {
        return Ok(());
    }
    let rate: f64 = all.iter().map(|sent| sent.rate).sum();
    write_stdout(&format!(
        "\n{rate} requests a second go on for an hour, so that http://{admin}/ has something to show; Ctrl-C ends\n"
    ))?;
    let mut runs = JoinSet::new();
    for sent in all {
        runs.spawn(testbench::run::run_load(gentle(listen, &sent), std::future::pending()));
    }
    while let Some(run) = runs.join_next().await {
        run??;
    }
    Ok(())
}

/// What is sent: to both simulated models, and to the real one.
fn sent(real: Option<&RealEngine>) -> Vec<Sent<'_>> {
    let simulated = |model| Sent {
        model,
        requests: REQUESTS,
        concurrency: CONCURRENCY,
        rate: GENTLE_RATE,
        words: Length::Uniform(20, 400),
    };
    let real = real.map(|real| Sent {
        model: &real.model,
        requests: REAL_REQUESTS,
        concurrency: REAL_CONCURRENCY,
        rate: REAL_RATE,
        words: Length::Uniform(10, 60),
    });
    [simulated("sim-8b"), simulated("sim-70b")].into_iter().chain(real).collect()
}

/// The load while the dashboard is looked at.
fn gentle(listen: SocketAddr, sent: &Sent<'_>) -> Config {
    Config {
        arrival: Arrival::open(Spacing::Poisson, sent.rate),
        stop: Stop::After(GENTLE_TIME),
        progress: false,
        seed: 2,
        ..load(listen, sent.clone())
    }
}

fn load(listen: SocketAddr, sent: Sent<'_>) -> Config {
    let mut workload = Workload::new(Prompts::Made(sent.words));
    workload.max_tokens = Some(Length::Fixed(48));
    Config {
        base_url: format!("http://{listen}"),
        model: sent.model.into(),
        arrival: Arrival::Closed { concurrency: sent.concurrency },
        stop: Stop::Requests(sent.requests),
        warm_up: 0,
        stream: true,
        provider: Provider::default(),
        workload: std::sync::Arc::new(workload),
        key: None,
        timeout: Duration::from_secs(600),
        limits: Limits::default(),
        seed: 1,
        progress: true,
    }
}

/// The address, or a free port of the same host when it is taken.
fn free(wanted: SocketAddr) -> Result<SocketAddr> {
    match TcpListener::bind(wanted) {
        Ok(listener) => Ok(listener.local_addr()?),
        Err(_) => {
            let any = SocketAddr::new(wanted.ip(), 0);
            Ok(TcpListener::bind(any)
                .with_context(|| format!("no port of {} is free", wanted.ip()))?
                .local_addr()?)
        }
    }
}

/// The settings: route `fast` has a guardrail and two engines, of which one fails now and then; the
/// engine of route `slow` is slow. A real engine has a route of its own, with the guardrail.
fn settings(
    listen: SocketAddr,
    admin: SocketAddr,
    [small, spare, large]: [SocketAddr; 3],
    real: Option<&RealEngine>,
    folder: &Path,
) -> String {
    let (mut backend, mut route, mut objective) = (String::new(), String::new(), String::new());
    if let Some(RealEngine { url, model }) = real {
        // Quoted JSON is quoted YAML.
        let (url, model) = (serde_json::json!(url), serde_json::json!(model));
        backend = format!("  - {{name: engine, url: {url}, models: [{model}]}}\n");
        route = format!(
            "  - {{name: {REAL_ROUTE}, backend: engine, guardrail: checked, match: {{models: [{model}]}}}}\n"
        );
        objective = format!("  - {{route: {REAL_ROUTE}, ttft: {{p95: 2s}}, availability: 99.5}}\n");
    }
    let store = match cfg!(feature = "sqlite") {
        true => format!("record_store: {{path: {:?}}}\n", folder.join("records")),
        false => String::new(),
    };
    format!(
        "listeners: [{{address: \"{listen}\"}}]\nadmin: {{address: \"{admin}\"}}\nworkers: 1\n{store}\
         backends:\n  \
           - {{name: small, url: \"http://{small}\", models: [sim-8b]}}\n  \
           - {{name: spare, url: \"http://{spare}\", models: [sim-8b]}}\n  \
           - {{name: large, url: \"http://{large}\", models: [sim-70b]}}\n{backend}\
         pools: [{{name: both, backends: [small, spare], balance: round_robin}}]\n\
         guardrails: [{{name: checked, input_injection: flag, input_pii: redact}}]\n\
         routes:\n{route}  \
           - {{name: slow, backend: large, match: {{models: [sim-70b]}}, stall: 200ms}}\n  \
           - {{name: fast, pool: both, guardrail: checked}}\n\
         objectives:\n  \
           - {{route: fast, ttft: {{p95: 200ms}}, availability: 99.5}}\n  \
           - {{route: slow, ttft: {{p95: 250ms}}, tpot: {{p95: 60ms}}, availability: 99.5}}\n{objective}"
    )
}
