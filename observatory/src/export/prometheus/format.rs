//! The exposition formats and their negotiation.
//!
//! - *In*: the scraper's `Accept` header.
//! - *Out*: a format and its `Content-Type`.
//! - *Never*: an error. A header that cannot be read means text.

/// How metrics are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4; histograms have classic buckets.
    Text,
    /// The OpenMetrics text format 1.0.0; histograms have classic buckets, with exemplars.
    OpenMetrics,
    /// Length-delimited `io.prometheus.client.MetricFamily` messages; histograms are native.
    Protobuf,
}

impl Format {
    /// Selects the format for an `Accept` header: the preferred one that the scraper lists. Among
    /// equals, protobuf goes first, then OpenMetrics. Prometheus lists protobuf when it ingests
    /// native histograms.
    pub fn negotiate(accept: &str) -> Format {
        let (mut text, mut open_metrics, mut protobuf) = (0.0, 0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<String> = parts.collect();
            let has = |parameter: &str| parameters.iter().any(|p| p == parameter);
            let quality = parameters
                .iter()
                .find_map(|p| p.strip_prefix("q="))
                .map_or(Ok(1.0), str::parse)
                .unwrap_or(0.0);
            match media.as_str() {
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, quality),
                "application/openmetrics-text" if has("version=1.0.0") => open_metrics = quality,
                "application/vnd.google.protobuf"
                    if has("proto=io.prometheus.client.metricfamily")
                        && has("encoding=delimited") =>
                {
                    protobuf = quality;
                }
                _ => {}
            }
        }
        if protobuf > 0.0 && protobuf >= f64::max(text, open_metrics) {
            Format::Protobuf
        } else if open_metrics > 0.0 && open_metrics >= text {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// Whether histograms have exemplars.
    pub(crate) fn has_exemplars(self) -> bool {
        self != Format::Text
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_preferred_listed_format_is_selected() {
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            (native, Format::Protobuf),
            (
                &format!(
                    "{native},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                ),
                Format::Protobuf,
            ),
            (&format!("text/plain;version=0.0.4;q=0.8, {native};q=0.5"), Format::Text),
            (&format!("{native};q=0"), Format::Text),
            (&format!("{native};q=often"), Format::Text),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
                Format::Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1,text/plain;q=0.5", Format::Text),
            ("application/openmetrics-text;version=1.0.0;q=0.4,text/plain;q=0.5", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }
}
