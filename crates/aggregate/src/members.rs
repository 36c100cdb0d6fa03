//! The gateways, and reading them.
//!
//! - *In*: URLs, and names that are resolved for each request.
//! - *Out*: windows of statistics, and what could not be read.
//! - *Never*: more than [`MAX_GATEWAYS`], or an unlimited wait for one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use stats::{Sketches, Window, WindowCells};

/// Maximum gateways.
pub(crate) const MAX_GATEWAYS: usize = 1000;
/// Gateways that are read at a time, for one request.
const AT_A_TIME: usize = 32;
/// Maximum time for one gateway.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The gateways whose statistics are merged.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// URLs of admin listeners.
    pub urls: Vec<String>,
    /// Names with ports. Each address of a name is a gateway, as with a headless service.
    pub names: Vec<String>,
}

/// What was read.
pub(crate) struct Read {
    /// Windows of the gateways that answered.
    pub(crate) windows: Vec<WindowCells>,
    /// Gateways, answered or not.
    pub(crate) gateways: usize,
    /// URL, and why it could not be read.
    pub(crate) problems: Vec<(String, String)>,
}

impl Members {
    /// The URLs of all gateways now, and names that could not be resolved.
    pub(crate) async fn resolve(&self) -> (BTreeSet<String>, Vec<(String, String)>) {
        let mut urls: BTreeSet<String> = self.urls.iter().cloned().collect();
        let mut problems = Vec::new();
        for name in &self.names {
            match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name)).await {
                Ok(Ok(found)) => urls.extend(found.map(|address| format!("http://{address}"))),
                Ok(Err(error)) => problems.push((name.clone(), format!("no address: {error}"))),
                Err(_) => problems.push((name.clone(), format!("no address within {TIMEOUT:?}"))),
            }
        }
        (urls, problems)
    }

    /// Read a window of all gateways, with the token of the caller.
    pub(crate) async fn read(&self, window: Window, token: Option<&str>) -> Read {
        let (urls, mut problems) = self.resolve().await;
        let gateways = urls.len();
        if gateways > MAX_GATEWAYS {
            let problem = format!("{gateways} gateways; the first {MAX_GATEWAYS} are read");
            problems.push((String::new(), problem));
        }
        let reads = urls.into_iter().take(MAX_GATEWAYS).map(|url| async move {
            let read = tokio::time::timeout(TIMEOUT, read_gateway(&url, window, token)).await;
            let late = || Err(format!("no answer within {TIMEOUT:?}"));
            (url, read.unwrap_or_else(|_| late()))
        });
        let mut reads = stream::iter(reads).buffer_unordered(AT_A_TIME);
        let mut windows = Vec::new();
        while let Some((url, read)) = reads.next().await {
            match read {
                Ok(cells) => windows.push(cells),
                Err(problem) => problems.push((url, problem)),
            }
        }
        problems.sort();
        Read { windows, gateways, problems }
    }
}

/// The window of one gateway.
///
/// # Errors
/// Why it cannot be read.
pub async fn read_gateway(
    url: &str,
    window: Window,
    token: Option<&str>,
) -> Result<WindowCells, String> {
    let path = format!("/api/sketches?window={}", window.name());
    let page = testbench::join::page(url, &path, token).await?;
    let sketches: Sketches = serde_json::from_value(page)
        .map_err(|e| format!("this is not the admin listener of a gateway with statistics: {e}"))?;
    sketches.decode().map_err(|e| e.to_string())
}
