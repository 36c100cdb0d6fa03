//! Builds the settings of the process from a checked tree: limits, timeouts, logs, shutdown.

use std::path::PathBuf;
use std::time::Duration;

use super::{Builder, url};
use crate::settings::{AccessLog, Audit, FirstToken, Limits, Otlp, OtlpSpill, Shutdown, Timeouts};
use crate::tree::Table;

/// Minimum characters of the key of the audit log's chain; a shorter one can be guessed.
const MIN_CHAIN_KEY: usize = 16;

impl Builder {
    pub(super) fn timeouts(&self, table: Option<&Table>) -> Timeouts {
        let table = table.or_else(|| self.fallback.table("timeouts")).cloned().unwrap_or_default();
        Timeouts {
            request_head: table.duration("request_head"),
            request_body: table.duration("request_body"),
            idle: table.duration("idle"),
            connect: table.duration("connect"),
            first_byte: table.duration("first_byte"),
            between_events: table.duration("between_events"),
            first_token: first_token(&table).unwrap_or(FirstToken::After(FirstToken::LONGEST)),
            between_tokens: table.duration("between_tokens"),
            total: table.duration("total"),
            client_write: table.duration("client_write"),
        }
    }

    pub(super) fn limits(&mut self, root: &Table) -> Limits {
        let table = self.section(root, "limits");
        for (field, min) in [
            ("request_head", 1024),
            ("event", 1024),
            ("stream_buffer", 16 << 10),
            ("request_body", 1024),
        ] {
            if table.size(field) < min {
                self.wrong(&table, field, format!("must be at least {min} bytes"));
            }
        }
        let buffered = table.size("buffered_bytes");
        if buffered > 0 && buffered < table.size("request_body") {
            self.wrong(&table, "buffered_bytes", "must be at least limits.request_body");
        }
        // A held event is written as one chunk, whose size line has eight digits.
        if table.size("event") > 1 << 30 {
            self.wrong(&table, "event", "must be at most 1GiB");
        }
        Limits {
            request_head: table.size("request_head"),
            header_fields: table.size("header_fields"),
            request_body: table.size("request_body"),
            event: table.size("event"),
            stream_buffer: table.size("stream_buffer"),
            records: table.size("records"),
            connections: table.size("connections"),
            connections_per_address: table.size("connections_per_address"),
            requests_per_address: u32::try_from(table.count("requests_per_address"))
                .unwrap_or(u32::MAX),
            h2_streams: u32::try_from(table.count("h2_streams")).unwrap_or(u32::MAX),
            buffered_bytes: table.size("buffered_bytes"),
            connection_age: table.duration("connection_age"),
            kernel_timestamps: table.flag("kernel_timestamps"),
        }
    }

    pub(super) fn audit(&mut self, root: &Table) -> Audit {
        let table = self.section(root, "audit");
        if table.secret("chain_key").is_some_and(|key| key.reveal().len() < MIN_CHAIN_KEY) {
            let problem = format!("must have at least {MIN_CHAIN_KEY} characters");
            self.wrong(&table, "chain_key", problem);
        }
        Audit {
            file: table.text("file").filter(|file| !file.is_empty()).map(PathBuf::from),
            key: table.secret("key").cloned(),
            chain_key: table.secret("chain_key").cloned(),
            max_size: table.count("max_size"),
            keep: table.size("keep"),
        }
    }

    pub(super) fn access_log(&self, root: &Table) -> AccessLog {
        let table = self.section(root, "access_log");
        let file = table.text("file").filter(|file| !file.is_empty()).map(PathBuf::from);
        AccessLog { file, max_size: table.count("max_size"), keep: table.size("keep") }
    }

    pub(super) fn otlp(&mut self, root: &Table) -> Otlp {
        let table = self.section(root, "otlp");
        let text = |name| table.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        for field in ["timeout", "interval"] {
            if table.given_duration(field).is_some_and(|time| time.is_zero()) {
                self.wrong(&table, field, "must be longer than 0s");
            }
        }
        if text("client_cert").is_some() != text("client_key").is_some() {
            self.wrong(&table, "client_key", "must be set together with client_cert");
        }
        for file in
            ["ca", "client_cert", "client_key"].into_iter().filter(|file| text(file).is_some())
        {
            self.openable(&table, file);
        }
        let protocol =
            text("protocol").or_else(|| std::env::var("OTEL_EXPORTER_OTLP_PROTOCOL").ok());
        let is_grpc = protocol.as_deref() == Some("grpc");
        let check = |url: String| url::check_otlp_url(&url, is_grpc).err();
        if let Some(problem) = text("endpoint").and_then(check) {
            self.wrong(&table, "endpoint", problem);
        }
        Otlp {
            endpoint: text("endpoint"),
            protocol: text("protocol"),
            headers: table.secret("headers").cloned(),
            compression: text("compression"),
            timeout: table.given_duration("timeout"),
            ca: text("ca"),
            client_cert: text("client_cert"),
            client_key: text("client_key"),
            metrics: table.flag("metrics"),
            traces: table.flag("traces"),
            logs: table.flag("logs"),
            interval: table.given_duration("interval"),
            temporality: text("temporality"),
            histograms: text("histograms"),
            semconv: text("semconv"),
            trace_share: table.given_share("trace_share"),
            slow: table.duration("slow"),
            resource: table.map("resource"),
            spill: table.table("spill").map(|table| self.otlp_spill(table)),
        }
    }

    fn otlp_spill(&mut self, table: &Table) -> OtlpSpill {
        let max_size = table.count("max_size");
        if max_size < 16 << 20 {
            self.wrong(table, "max_size", "must be at least 16MiB");
        }
        let max_age = table.duration("max_age");
        if max_age < Duration::from_secs(60) {
            self.wrong(table, "max_age", "must be at least 1m");
        }
        let path = table.text("path").unwrap_or_default();
        if path.is_empty() {
            self.wrong(table, "path", "must be a folder");
        }
        OtlpSpill {
            path: PathBuf::from(path),
            max_size,
            max_age,
            drops_oldest: table.text("when_full") == Some("drop_oldest"),
        }
    }

    pub(super) fn shutdown(&self, root: &Table) -> Shutdown {
        let table = self.section(root, "shutdown");
        Shutdown {
            delay: table.duration("delay"),
            grace: table.duration("grace"),
            upgrade_socket: table.text("upgrade_socket").map(PathBuf::from),
        }
    }
}

/// The first-token timeout of a section, if it is given or has a default.
pub(super) fn first_token(table: &Table) -> Option<FirstToken> {
    match table.text("first_token") {
        Some(_) => Some(FirstToken::Auto),
        None => table.given_duration("first_token").map(FirstToken::After),
    }
}
