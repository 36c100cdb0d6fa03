//! The proxies that are compared, and how each is found and started.
//!
//! In: paths of the gateway's binaries, address of the engine, a folder.
//! Out: a running proxy that has answered one request, and what to measure.
//! Never: starts a proxy with more than one worker thread; fails because a peer is not installed:
//! it is skipped with a message.

pub mod config;
pub mod port;
pub mod process;

use crate::client::{Client, request};
use crate::plan::Plan;
use crate::procfs::{Pids, children};
use anyhow::{Context, Result, bail};
use config::PeerOptions;
use process::Process;
use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const READY: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(3);

/// A proxy between the client and the engine, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No proxy at all.
    Direct,
    /// The TCP forwarder of this package.
    Splice,
    /// nginx, one worker.
    Nginx,
    /// HAProxy, one thread.
    Haproxy,
    /// The pingora proxy of this package that only forwards.
    IdlePingora,
    /// The gateway under test.
    LlmLens,
    /// Another build of the gateway, for example the one before a change.
    Before,
    /// The gateway with a default guardrail on its route.
    Shielded,
    /// The gateway with 10,000 keys and five limits on each request.
    Limited,
}

impl Kind {
    /// All kinds, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Splice,
        Self::Nginx,
        Self::Haproxy,
        Self::IdlePingora,
        Self::LlmLens,
        Self::Before,
        Self::Shielded,
        Self::Limited,
    ];

    /// Name for the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Splice => "splice",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::IdlePingora => "idle pingora",
            Self::LlmLens => "llm-lens",
            Self::Before => "llm-lens before",
            Self::Shielded => "llm-lens + shield",
            Self::Limited => "llm-lens + keys, limits",
        }
    }

    /// Finds the program of this kind; none for `Direct`.
    ///
    /// # Errors
    /// When there is no such program, with a hint for the operator.
    pub fn find(self, gateway: Option<&Path>, before: Option<&Path>) -> Result<Option<PathBuf>> {
        let binary = |path: Option<&Path>| path.and_then(|path| path.canonicalize().ok());
        let (found, hint) = match self {
            Self::Direct => return Ok(None),
            Self::Splice => (sibling("splice"), "build this package whole"),
            Self::IdlePingora => (sibling("idle-proxy"), "build with the feature `peers`"),
            Self::Nginx => (installed("nginx"), "install the Debian package `nginx`"),
            Self::Haproxy => (installed("haproxy"), "install the Debian package `haproxy`"),
            Self::LlmLens | Self::Shielded | Self::Limited => {
                (binary(gateway), "name its binary with --gateway")
            }
            Self::Before => (binary(before), "name its binary with --before"),
        };
        let found = found.with_context(|| format!("{} is missing: {hint}", self.name()))?;
        Ok(Some(found))
    }

    fn command(self, program: &Path, options: &PeerOptions<'_>) -> Result<Command> {
        let mut command = Command::new(program);
        let write = |text: String| -> Result<PathBuf> {
            let path = options.folder.join("conf");
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let (listen, engine) = (options.listen.to_string(), options.engine.to_string());
        match self {
            Self::Nginx => command
                .arg("-p")
                .arg(options.folder)
                .arg("-e")
                .arg(options.folder.join("error.log"))
                .arg("-c")
                .arg(write(config::nginx(options))?),
            Self::Haproxy => command.arg("-db").arg("-f").arg(write(config::haproxy(options))?),
            Self::LlmLens | Self::Before => command
                .args(["gateway", "--workers", "1", "--listen", &listen])
                .args(["--admin", &port::free()?.to_string()])
                .args(["--upstream", &format!("http://{engine}")]),
            Self::Shielded => command
                .args(["gateway", "--config"])
                .arg(write(config::with_guardrail(options, port::free()?))?),
            Self::Limited => command
                .args(["gateway", "--config"])
                .arg(write(config::limited(options, port::free()?)?)?),
            _ => command.args(["--listen", &listen, "--upstream", &engine]),
        };
        Ok(command)
    }
}

/// A program in the folder of the running one.
#[must_use]
pub fn sibling(name: &str) -> Option<PathBuf> {
    let path = env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

/// A program in `PATH`, or in Debian's folder for daemons.
fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A started proxy.
pub struct Peer {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    /// The processes to measure; none for `Direct`.
    pub pids: Option<Pids>,
    process: Option<Process>,
}

impl Peer {
    /// Starts a proxy in front of `engine`, and waits for its first answer.
    ///
    /// # Errors
    /// When it does not start or does not answer in time.
    pub async fn start(
        kind: Kind,
        program: Option<&Path>,
        engine: SocketAddr,
        folder: &Path,
        connections: u64,
    ) -> Result<Self> {
        let Some(program) = program else {
            return Ok(Self { kind, address: engine, pids: None, process: None });
        };
        std::fs::create_dir_all(folder)?;
        let options = PeerOptions { listen: port::free()?, engine, folder, connections };
        let process = Process::start(&mut kind.command(program, &options)?, folder)?;
        let root = process.id();
        let mut peer = Self { kind, address: options.listen, pids: None, process: Some(process) };
        peer.ready().await.with_context(|| kind.name())?;
        let below = children(root)?;
        peer.pids = Some(match kind {
            // The nginx master only waits; its worker does all the work.
            Kind::Nginx => Pids(below),
            _ => Pids([vec![root], below].concat()),
        });
        Ok(peer)
    }

    async fn ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY;
        let ask = request(Plan::Json, 64);
        loop {
            let error = match timeout(ATTEMPT, first_answer(self.address, &ask)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(late) => late.into(),
            };
            if let Some(process) = &mut self.process {
                process.check()?;
                if Instant::now() > until {
                    bail!("no answer ({error:#}); its log: {}", process.tail());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn first_answer(address: SocketAddr, ask: &[u8]) -> Result<()> {
    Client::connect(address).await?.json(ask).await
}
