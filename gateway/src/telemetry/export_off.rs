//! The export over OTLP in a build without the feature `otlp`: it cannot be configured.

use std::sync::Arc;

use lens::observe::Samples;
use observatory::{Sink, TraceFilter};
use pipeline::shared::{Shared, Tracing};

use super::Observed;

/// Settings that this build cannot follow.
#[derive(Debug, thiserror::Error)]
#[error("otlp.endpoint: this build has no feature `otlp`")]
pub(crate) struct OtlpError;

/// There is no exporter.
#[derive(Clone, Debug)]
pub(crate) struct Otlp;

impl Otlp {
    /// An error if the settings have an endpoint.
    pub(crate) fn new(settings: &config::settings::Otlp) -> Result<Self, OtlpError> {
        if settings.endpoint.is_some() { Err(OtlpError) } else { Ok(Otlp) }
    }

    /// As with the feature.
    pub(crate) fn sinks(&self) -> Result<Vec<Box<dyn Sink>>, OtlpError> {
        Ok(Vec::new())
    }

    /// As with the feature.
    pub(crate) fn tracing(&self) -> Option<Tracing> {
        None
    }

    /// As with the feature.
    pub(crate) fn traces(&self) -> Option<TraceFilter> {
        None
    }

    /// As with the feature.
    pub(crate) fn start(&self, _: &Arc<Shared>, _: Observed) {}

    /// As with the feature.
    pub(crate) fn flush_metrics(&self) {}

    pub(super) fn observe(&self, _: &mut Samples) {}
}
