//! The demo: two simulated engines, the gateway in front of them, a short load, and the gateway's
//! measurements.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result};
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

/// Runs the demo.
pub(crate) fn run_demo(args: &DemoArgs) -> Result<()> {
    let runtime = runtime()?;
    let (fast, slow) = runtime.block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (fast, slow) =
            (Engine::bind(any, Profile::fast()).await?, Engine::bind(any, Profile::slow()).await?);
        let addresses = (fast.address()?, slow.address()?);
        // Both end with the runtime.
        tokio::spawn(fast.serve());
        tokio::spawn(slow.serve());
        anyhow::Ok(addresses)
    })?;
    let (listen, admin) = (free(args.listen)?, free(args.admin)?);
    let file = settings(listen, admin, fast, slow)?;
    let settings = config::load(&file)?;
    let gateway = gateway::Gateway::bind(gateway::Options {
        settings,
        file: Some(file.clone()),
        upgrade: false,
        filters: crate::filters(),
    })?;
    write_stdout(&format!("{}\n\n", gateway.summary()))?;
    let running =
        std::thread::Builder::new().name("gateway".into()).spawn(move || gateway.serve())?;
    let shown = runtime.block_on(async {
        tokio::select! {
            shown = show(listen, admin) => shown,
            // The gateway receives the signal too, and there is nothing left to show.
            signal = tokio::signal::ctrl_c() => signal.map_err(Into::into),
        }
    });
    if shown.is_ok() && !args.once {
        // The gateway receives Ctrl-C too, and ends.
        running.join().map_err(|_| anyhow::anyhow!("the gateway's thread panicked"))??;
    }
    let _ = std::fs::remove_file(file);
    shown
}

async fn show(listen: SocketAddr, admin: SocketAddr) -> Result<()> {
    write_stdout(&format!(
        "sending {REQUESTS} requests each to sim-8b (fast) and sim-70b (slow), {CONCURRENCY} at a time\n"
    ))?;
    for model in ["sim-8b", "sim-70b"] {
        testbench::run::run_load(load(listen, model), std::future::pending()).await?;
    }
    let admin_url = format!("http://{admin}");
    let routes = join::page(&admin_url, "/api/routes").await.map_err(anyhow::Error::msg)?;
    write_stdout(&format!("\n{}\n", demo::routes(&routes)))?;
    let records = join::records(&admin_url).await.map_err(anyhow::Error::msg)?;
    if let Some(record) = records.iter().find(|r| r.stream && &*r.route == "slow") {
        write_stdout(&format!("{}\n", demo::waterfall(record)))?;
    }
    write_stdout(&format!(
        "try:\n  curl -N http://{listen}/v1/chat/completions -H content-type:application/json -d '{{\"model\":\"sim-8b\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n  curl -s http://{admin}/metrics | grep time_to_first_token\n  curl -s 'http://{admin}/api/requests?limit=1'\n"
    ))
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

fn settings(
    listen: SocketAddr,
    admin: SocketAddr,
    fast: SocketAddr,
    slow: SocketAddr,
) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("llm-lens-demo-{}.yaml", std::process::id()));
    let text = format!(
        "listeners: [{{address: \"{listen}\"}}]\nadmin: {{address: \"{admin}\"}}\nworkers: 1\n\
         backends:\n  - {{name: small, url: \"http://{fast}\", models: [sim-8b]}}\n  - {{name: large, url: \"http://{slow}\", models: [sim-70b]}}\n\
         routes:\n  - {{name: slow, backend: large, match: {{models: [sim-70b]}}, stall: 200ms}}\n  - {{name: fast, backend: small}}\n"
    );
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
