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

/// What some requests need of a backend.
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

/// Backends that can stand in for each other.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Pool {
    /// How one is chosen.
    #[serde(flatten)]
    pub settings: PoolSettings,
    /// What they call the model.
    pub model: Option<String>,
    /// Where more of them stand.
    pub file: Option<PathBuf>,
    /// Where more of them are found.
    #[serde(serialize_with = "source")]
    pub discovery: Option<Discovery>,
    /// They.
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
    /// They are resumed.
    On,
    /// They are resumed, with a comment in the stream.
    Marked,
}

/// A pool that gets copies of requests.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MirrorSettings {
    /// The pool.
    #[serde(serialize_with = "pool_name")]
    pub pool: Arc<Pool>,
    /// Its share of requests.
    pub share: f64,
}

/// A new version that some requests go to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CanarySettings {
    /// Its place in the route's pools: the last.
    pub pool: usize,
    /// Its share of requests.
    pub share: f64,
    /// What stays with one version.
    pub key: By,
    /// When it is taken back.
    pub rollback: Rollback,
}

/// When an edge is passed over for a cloud.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OffloadSettings {
    /// What is good enough.
    pub objective: Objective,
    /// What is too much.
    pub complexity: Complexity,
    /// Header that sends a request to the cloud: name in lower case, and value, `None` for any.
    pub header: Option<(String, Option<String>)>,
    /// What the guard may find in the prompt to have it so: names of rules.
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
