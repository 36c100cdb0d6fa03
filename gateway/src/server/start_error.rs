//! Why a gateway does not start.

use std::path::PathBuf;

use config::Problems;
use plan::BuildError;

use crate::background::usage_file::OpenError;
use crate::listeners::BindError;
use crate::telemetry::OtlpError;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings file has problems.
    #[error(transparent)]
    Settings(#[from] Problems),
    /// A file that the settings name is invalid, or a feature is missing.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A listener cannot be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The file or folder of a sink cannot be written.
    #[error("cannot open the {sink} {path}: {why}")]
    Sink {
        /// `audit log`, `access log`, `record store` or `record files`.
        sink: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        why: std::io::Error,
    },
    /// The usage file cannot be used.
    #[error("{0}")]
    UsageFile(String),
    /// The export over OTLP cannot start.
    #[error("{0}")]
    Otlp(String),
    /// The runtime cannot be built.
    #[error("cannot start the runtime")]
    Runtime(#[from] std::io::Error),
}

impl From<OtlpError> for StartError {
    fn from(error: OtlpError) -> Self {
        StartError::Otlp(error.to_string())
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        StartError::UsageFile(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// The command line prints an error with its sources.
    fn shown(error: &dyn std::error::Error) -> String {
        let sources = std::iter::successors(Some(error), |error| error.source());
        sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn causes_are_shown_once() {
        let missing = || std::io::Error::from_raw_os_error(2);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let path = PathBuf::from("/nonexistent/a");
        for error in [
            StartError::Sink { sink: "audit log", path: path.clone(), why: missing() },
            StartError::Runtime(missing()),
            BindError::Listen { address, why: missing() }.into(),
            BindError::Upgrade { path, why: missing() }.into(),
            BindError::UpgradePath(missing()).into(),
            BindError::Socket(missing()).into(),
        ] {
            let shown = shown(&error);
            assert_eq!(shown.matches("os error 2").count(), 1, "{shown}");
        }
    }
}
