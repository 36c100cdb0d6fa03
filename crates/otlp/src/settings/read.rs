//! Reads variables by OpenTelemetry's rules for types, signals and empty values.

use std::collections::BTreeMap;
use std::time::Duration;

use base_url::BaseUrl;

use super::{FileSettings, Headers, Protocol};

/// Signals that have variables of their own.
const SIGNALS: [&str; 3] = ["METRICS", "TRACES", "LOGS"];

/// Variables that are set, and warnings about their values.
pub(super) struct Variables {
    set: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

impl Variables {
    /// The variables, with those that the file overrides.
    pub(super) fn new(mut set: BTreeMap<String, String>, file: &FileSettings) -> Self {
        set.retain(|_, value| !value.trim().is_empty());
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis().to_string());
        let none_unless = |on: bool| (!on).then(|| "none".to_owned());
        for (name, value) in [
            ("ENDPOINT", file.endpoint.clone()),
            ("PROTOCOL", file.protocol.clone()),
            ("HEADERS", file.headers.clone()),
            ("COMPRESSION", file.compression.clone()),
            ("TIMEOUT", millis(file.timeout)),
            ("CERTIFICATE", file.ca.clone()),
            ("CLIENT_CERTIFICATE", file.client_certificate.clone()),
            ("CLIENT_KEY", file.client_key.clone()),
        ] {
            let Some(value) = value else { continue };
            SIGNALS.iter().for_each(|signal| drop(set.remove(&variable_of(signal, name))));
            set.insert(format!("OTEL_EXPORTER_OTLP_{name}"), value);
        }
        let aggregation = file.histograms.as_ref().map(|form| match form.as_str() {
            "exponential" => "base2_exponential_bucket_histogram".to_owned(),
            _ => "explicit_bucket_histogram".to_owned(),
        });
        for (name, value) in [
            ("OTEL_METRICS_EXPORTER", none_unless(file.metrics)),
            ("OTEL_TRACES_EXPORTER", none_unless(file.traces)),
            ("OTEL_LOGS_EXPORTER", none_unless(file.logs)),
            ("OTEL_METRIC_EXPORT_INTERVAL", millis(file.interval)),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", file.temporality.clone()),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation),
            ("OTEL_SEMCONV_STABILITY_OPT_IN", file.semconv.clone()),
            ("OTEL_TRACES_SAMPLER", file.share.map(|_| "parentbased_traceidratio".to_owned())),
            ("OTEL_TRACES_SAMPLER_ARG", file.share.map(|share| share.to_string())),
        ] {
            set.extend(value.map(|value| (name.to_owned(), value)));
        }
        Variables { set, warnings: Vec::new() }
    }

    /// Warn about the value of a variable, whose default applies.
    pub(super) fn warn(&mut self, variable: &str, value: &str, expected: &str) {
        let about = format!("{variable}: {value:?} is not {expected}; the default applies");
        if !self.warnings.contains(&about) {
            self.warnings.push(about);
        }
    }

    pub(super) fn text(&self, variable: &str) -> Option<String> {
        self.set.get(variable).map(|value| value.trim().to_owned())
    }

    /// The variable of an exporter's option and its value: that of the signal, else the general
    /// one.
    pub(super) fn of_signal(&self, signal: &str, name: &str) -> Option<(String, String)> {
        [variable_of(signal, name), format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|variable| self.text(&variable).map(|value| (variable, value)))
    }

    /// `true`, in any case. Everything else is false.
    pub(super) fn flag(&mut self, variable: &str) -> bool {
        match self.text(variable) {
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(value) => {
                self.warn(variable, &value, "true or false");
                false
            }
            None => false,
        }
    }

    /// A number of milliseconds, at least 1.
    pub(super) fn millis(&mut self, variable: &str, default: u64) -> Duration {
        let default = usize::try_from(default).unwrap_or(usize::MAX);
        Duration::from_millis(self.count(variable, default) as u64)
    }

    /// A number of at least 1.
    pub(super) fn count(&mut self, variable: &str, default: usize) -> usize {
        let Some(value) = self.text(variable) else { return default };
        match value.parse() {
            Ok(number) if number > 0 => number,
            _ => {
                self.warn(variable, &value, "a number of at least 1");
                default
            }
        }
    }

    /// A number from 0 to 1; 1 by default.
    pub(super) fn share(&mut self, variable: &str) -> f64 {
        let Some(value) = self.text(variable) else { return 1.0 };
        match value.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => share,
            _ => {
                self.warn(variable, &value, "a number from 0 to 1");
                1.0
            }
        }
    }

    /// One of these words, in any case.
    pub(super) fn word<T: Copy>(&mut self, variable: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.text(variable)?;
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&value));
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.warn(variable, &value, &words.join(" or "));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A list such as `a=1,b=2`. Values are percent-encoded. The value is not shown in warnings,
    /// because it may be a secret.
    pub(super) fn pairs(&mut self, variable: &str) -> Vec<(String, String)> {
        let Some(value) = self.text(variable) else { return Vec::new() };
        let mut pairs = Vec::new();
        for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            match pair.and_then(|(name, value)| Some((name, decoded(value)?))) {
                Some((name, value)) if !name.is_empty() => pairs.push((name.to_owned(), value)),
                _ => self.warn(variable, "***", "a list such as name=value,name=value"),
            }
        }
        pairs
    }

    /// Headers of a signal. Names are in lower case, as HTTP/2 requires.
    pub(super) fn headers(&mut self, signal: &str) -> Headers {
        let Some((variable, _)) = self.of_signal(signal, "HEADERS") else {
            return Headers::default();
        };
        let mut headers = Vec::new();
        for (name, value) in self.pairs(&variable) {
            let is_valid = http::HeaderName::try_from(&name).is_ok()
                && http::HeaderValue::try_from(&value).is_ok();
            if is_valid {
                headers.push((name.to_ascii_lowercase(), value));
            } else {
                self.warn(&variable, "***", "a list of valid headers");
            }
        }
        Headers(headers)
    }

    /// The URL of a signal. For HTTP, the general endpoint is a base, below which signals have
    /// their paths; that of a signal is used as it is. `None`: it is not a URL.
    pub(super) fn url(
        &mut self,
        signal: &str,
        protocol: Protocol,
        insecure: bool,
    ) -> Option<String> {
        let path = format!("/v1/{}", signal.to_ascii_lowercase());
        let own = self.text(&variable_of(signal, "ENDPOINT"));
        let general = self.text("OTEL_EXPORTER_OTLP_ENDPOINT");
        let (variable, url) = match (own, general, protocol) {
            (Some(url), ..) => (variable_of(signal, "ENDPOINT"), url),
            (None, Some(base), Protocol::Grpc) => ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), base),
            (None, Some(base), Protocol::Http) => {
                let base = base.strip_suffix('/').unwrap_or(&base);
                ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), format!("{base}{path}"))
            }
            (None, None, Protocol::Grpc) => (String::new(), "http://localhost:4317".into()),
            (None, None, Protocol::Http) => (String::new(), format!("http://localhost:4318{path}")),
        };
        let url = match protocol {
            // An endpoint of gRPC may be a host and a port; then `INSECURE` decides on TLS.
            Protocol::Grpc if !url.contains("://") => {
                format!("{}://{url}", if insecure { "http" } else { "https" })
            }
            _ => url,
        };
        let is_url = is_endpoint(&url);
        if !is_url {
            let expected = "a URL such as http://127.0.0.1:4318; nothing is exported";
            // It may have a password.
            let shown = if url.contains('@') { "***" } else { url.as_str() };
            self.warnings.push(format!("{variable}: {shown:?} is not {expected}"));
        }
        is_url.then_some(url)
    }
}

/// Whether a text is the URL of a server. It may have a query and a password.
fn is_endpoint(url: &str) -> bool {
    let base = url.split('?').next().unwrap_or_default();
    let base = match (base.split_once("://"), base.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => base.to_owned(),
    };
    base.parse::<BaseUrl>().is_ok()
}

fn variable_of(signal: &str, name: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{signal}_{name}")
}

/// A text with its percent-encoding removed; `None` if the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}
