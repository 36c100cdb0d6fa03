//! Checked settings of routing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use routing::Rollback;
use routing::settings::{By, Complexity, Objective, PoolSettings};
use serde::{Serialize, Serializer};
use traffic::Pattern;

use super::Backend;
use crate::discovery::Discovery;

/// An ability of a backend that some requests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    /// Calling tools.
    Tools,
    /// Seeing images.
    Vision,
    /// Embeddings.
    Embeddings,
}

/// Backends that serve the same models.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pool {
    /// Name, balancing and ejection.
    #[serde(flatten)]
    pub settings: PoolSettings,
    /// Model name at these backends, in place of the client's.
    pub model: Option<String>,
    /// File with more backends.
    pub file: Option<PathBuf>,
    /// Discovery of more backends.
    #[serde(serialize_with = "source")]
    pub discovery: Option<Discovery>,
    /// Its backends.
    #[serde(serialize_with = "backend_names")]
    pub backends: Vec<Arc<Backend>>,
}

/// Whether dead streams are resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// The stream ends with an error.
    #[default]
    Off,
    /// Another backend resumes the stream.
    On,
    /// Another backend resumes the stream, with a comment in it.
    Marked,
}

/// A pool that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MirrorSettings {
    /// The pool.
    #[serde(serialize_with = "pool_name")]
    pub pool: Arc<Pool>,
    /// Its share of requests.
    pub share: f64,
}

/// A canary: a new version that gets a share of requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CanarySettings {
    /// Index of its pool among the route's pools: the last.
    pub pool: usize,
    /// Its share of requests.
    pub share: f64,
    /// Key that keeps a client on one version; `None`: each request is drawn.
    pub key: Option<By>,
    /// Conditions of a rollback.
    pub rollback: Rollback,
}

/// When requests go to the cloud although the edge is available.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OffloadSettings {
    /// Latency objectives, and weights without them.
    pub objective: Objective,
    /// Properties of requests that go to the cloud.
    pub complexity: Complexity,
    /// Header that sends a request to the cloud: name in lower case, and value, `None` for any.
    pub header: Option<(String, Option<String>)>,
    /// Guardrail findings in the prompt that send a request to the cloud: names of rules.
    pub findings: Vec<Pattern>,
    /// How often the round trip to a backend without connections is measured; zero: never.
    pub probe: Duration,
}

fn source<S: Serializer>(discovery: &Option<Discovery>, serializer: S) -> Result<S::Ok, S::Error> {
    discovery.as_ref().map(|discovery| &discovery.source).serialize(serializer)
}

fn backend_names<S: Serializer>(
    backends: &[Arc<Backend>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(backends.iter().map(|backend| &*backend.name))
}

fn pool_name<S: Serializer>(pool: &Arc<Pool>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&pool.settings.name)
}
