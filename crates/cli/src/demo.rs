//! The demo: three simulated engines, the gateway in front of them, a short load, the gateway's
//! measurements, and a gentle load for the dashboard.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use testbench::client::Limits;
use testbench::prompts::{Length, Prompts};
use testbench::schedule::{Arrival, Stop};
use testbench::simulate::{Engine, Profile};
use testbench::{Config, demo, join};

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

/// Runs the demo.
pub(crate) fn run_demo(args: &DemoArgs) -> Result<()> {
    let runtime = runtime()?;
    let failing = Profile { error_share: ERROR_SHARE, ..Profile::fast() };
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
    let text = settings(listen, admin, engines, folder.path());
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
    let running =
        std::thread::Builder::new().name("gateway".into()).spawn(move || gateway.serve())?;
    let shown = runtime.block_on(async {
        tokio::select! {
            shown = show(listen, admin, args.once) => shown,
            // The gateway receives the signal too, and there is nothing left to show.
            signal = tokio::signal::ctrl_c() => signal.map_err(Into::into),
        }
    });
    if shown.is_ok() && !args.once {
        // The gateway receives Ctrl-C too, and ends.
        running.join().map_err(|_| anyhow::anyhow!("the gateway's thread panicked"))??;
    }
    shown
}

async fn show(listen: SocketAddr, admin: SocketAddr, once: bool) -> Result<()> {
    write_stdout(&format!(
        "sending {REQUESTS} requests each to sim-8b (fast) and sim-70b (slow), {CONCURRENCY} at a time\n"
    ))?;
    for model in ["sim-8b", "sim-70b"] {
        testbench::run::run_load(load(listen, model), std::future::pending()).await?;
    }
    let admin_url = format!("http://{admin}");
    let routes = join::page(&admin_url, "/api/routes", None).await.map_err(anyhow::Error::msg)?;
    write_stdout(&format!("\n{}\n", demo::routes(&routes)))?;
    let records = join::records(&admin_url, None).await.map_err(anyhow::Error::msg)?;
    if let Some(record) = records.iter().find(|r| r.stream && &*r.route == "slow") {
        write_stdout(&format!("{}\n", demo::waterfall(record)))?;
    }
    write_stdout(&format!(
        "try:\n  curl -N http://{listen}/v1/chat/completions -H content-type:application/json -d '{{\"model\":\"sim-8b\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n  curl -s http://{admin}/metrics | grep time_to_first_token\n  curl -s 'http://{admin}/api/requests?limit=1'\n"
    ))?;
    if once {
        return Ok(());
    }
    write_stdout(&format!(
        "\n{} requests a second go on for an hour, so that http://{admin}/ has something to show; Ctrl-C ends\n",
        2.0 * GENTLE_RATE
    ))?;
    let run = |model| testbench::run::run_load(gentle(listen, model), std::future::pending());
    let (small, large) = tokio::join!(run("sim-8b"), run("sim-70b"));
    small.and(large)?;
    Ok(())
}

/// The load while the dashboard is looked at.
fn gentle(listen: SocketAddr, model: &str) -> Config {
    Config {
        arrival: Arrival::Poisson { rate: GENTLE_RATE },
        stop: Stop::After(GENTLE_TIME),
        progress: false,
        seed: 2,
        ..load(listen, model)
    }
}

fn load(listen: SocketAddr, model: &str) -> Config {
    Config {
        base_url: format!("http://{listen}"),
        model: model.into(),
        arrival: Arrival::Closed { concurrency: CONCURRENCY },
        stop: Stop::Requests(REQUESTS),
        warm_up: 0,
        stream: true,
        prompts: Prompts::Made(Length::Uniform(20, 400)),
        max_tokens: Some(48),
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
/// engine of route `slow` is slow.
fn settings(
    listen: SocketAddr,
    admin: SocketAddr,
    [small, spare, large]: [SocketAddr; 3],
    folder: &Path,
) -> String {
    let store = match cfg!(feature = "sqlite") {
        true => format!("record_store: {{path: {:?}}}\n", folder.join("records")),
        false => String::new(),
    };
    format!(
        "listeners: [{{address: \"{listen}\"}}]\nadmin: {{address: \"{admin}\"}}\nworkers: 1\n{store}\
         backends:\n  \
           - {{name: small, url: \"http://{small}\", models: [sim-8b]}}\n  \
           - {{name: spare, url: \"http://{spare}\", models: [sim-8b]}}\n  \
           - {{name: large, url: \"http://{large}\", models: [sim-70b]}}\n\
         pools: [{{name: both, backends: [small, spare], balance: round_robin}}]\n\
         guardrails: [{{name: checked, input_injection: flag, input_pii: redact}}]\n\
         routes:\n  \
           - {{name: slow, backend: large, match: {{models: [sim-70b]}}, stall: 200ms}}\n  \
           - {{name: fast, pool: both, guardrail: checked}}\n\
         objectives:\n  \
           - {{route: fast, ttft: {{p95: 200ms}}, availability: 99.5}}\n  \
           - {{route: slow, ttft: {{p95: 250ms}}, tpot: {{p95: 60ms}}, availability: 99.5}}\n"
    )
}
