//! Samples of all components, for scrapes and for the export over OTLP.
//!
//! - *In*: the shared state, certificates of listeners, the store and the files of records, the
//!   audit log, the process.
//! - *Out*: samples; an exporter that sends them, and the sinks of traces and logs.
//! - *Never*: a metric that only one of the two has.

#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/export_off.rs"]
mod export;

use std::sync::Arc;

use admin_auth::Access;
use audit_log::PublishedHead;
use lens::observe::{Observe as _, Sample, Samples};
use pipeline::shared::Shared;
use plan::clock;

use crate::record_files::RecordFiles;
use crate::record_store::RecordStore;
use crate::tls::Certificate;
pub(crate) use export::{Otlp, OtlpError};

const CERTIFICATE_EXPIRY: &str = "llm_lens_certificate_expiry_timestamp_seconds";

/// The certificates of listeners, by address.
pub(crate) type Certificates = Arc<[(String, Arc<Certificate>)]>;

/// Components with samples that are not part of the shared state.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) certificates: Certificates,
    pub(crate) record_store: RecordStore,
    pub(crate) audit_head: Option<PublishedHead>,
    pub(crate) record_files: RecordFiles,
    /// Sessions and denials of the admin listener.
    pub(crate) access: Arc<Access>,
}

/// Samples of all components besides the observatory's own.
pub(crate) fn samples(shared: &Shared, observed: &Observed, otlp: &Otlp) -> Vec<Sample> {
    let mut samples = Samples::default();
    shared.observe(clock::now(), &mut samples);
    otlp.observe(&mut samples);
    observed.record_store.observe(&mut samples);
    observed.audit_head.iter().for_each(|head| head.observe(&mut samples));
    observed.record_files.observe(&mut samples);
    let admin_auth = &shared.plan.load().settings.admin.auth;
    observed.access.observe(admin_auth.as_ref(), clock::now(), &mut samples);
    process::metrics::observe(&mut samples);
    for (address, certificate) in observed.certificates.iter() {
        if let Some(expiry) = certificate.expiry() {
            let listener = ("listener", address.as_str());
            samples.push_with(CERTIFICATE_EXPIRY, listener, expiry as f64);
        }
    }
    samples.into_vec()
}
