//! The settings files that `llm-lens init` writes.

use crate::{Field, Kind, ROOT, Section};

/// A short settings file that works: one engine, with pointers to what can be added.
pub const STARTER: &str = "\
# Settings of llm-lens gateway. Check with: llm-lens check gateway.yaml
# Every setting with its default: llm-lens init --full

listeners:
  - address: 127.0.0.1:8080    # for clients
admin:
  address: 127.0.0.1:9090      # /metrics and /api; without `auth` it has no login

backends:
  - name: engine
    url: http://127.0.0.1:8000

# Guardrails mask personal data and secrets while answers stream: docs/guardrails.md
# guardrails:
#   - name: default
#     input_pii: flag              # record personal data in prompts; redact or block it
#     output_pii: mask             # replace it in answers, as [EMAIL_ADDRESS]
#     pii: {kinds: [contact, financial, national]}  # add network for URLs and addresses

# Keys, rate limits and queues: docs/rate-limits.md. Pools, retries and failover: docs/routing.md.
routes:
  - name: default
    backend: engine
    # guardrail: default
";

/// A settings file with every field, its default and its meaning. It is valid unchanged.
pub fn example() -> String {
    let mut out =
        String::from("# Settings of llm-lens gateway. Check with: llm-lens check gateway.yaml\n");
    out.push_str("# A changed file, or SIGHUP, takes effect completely or not at all; docs/operations.md lists what needs a restart.\n");
    for field in ROOT.fields {
        out.push('\n');
        write_field(&mut out, field, "", 0, false);
    }
    out
}

/// Write a field of the section `parent`.
fn write_field(out: &mut String, field: &Field, parent: &str, indent: usize, inactive: bool) {
    let pad = "  ".repeat(indent);
    out.push_str(&format!("{pad}# {}\n", field.doc));
    match &field.kind {
        Kind::Section(section) => {
            let inactive = inactive
                || matches!(field.name, "audit" | "auth" | "store")
                || matches!(
                    field.name,
                    "admission"
                        | "health"
                        | "spill"
                        | "upload"
                        | "engine_metrics"
                        | "canary"
                        | "discover"
                        | "mirror"
                        | "retries"
                        | "hedge"
                        | "offload"
                )
                || matches!(field.name, "tls" | "match" | "timeouts" if indent > 0);
            out.push_str(&format!("{pad}{}{}:\n", if inactive { "# " } else { "" }, field.name));
            write_section(out, section, field.name, indent + 1, inactive);
        }
        Kind::List(section) => {
            let inactive = inactive
                || matches!(
                    field.name,
                    "guardrails" | "rate_limits" | "prices" | "pools" | "objectives"
                );
            out.push_str(&format!("{pad}{}{}:\n", if inactive { "# " } else { "" }, field.name));
            write_entry(out, section, field.name, indent + 1, inactive);
        }
        _ => {
            let value = sample(parent, field);
            let inactive = inactive || value.is_none();
            let value = quote(value.unwrap_or_else(|| inactive_sample(parent, field)));
            out.push_str(&format!(
                "{pad}{}{}: {value}\n",
                if inactive { "# " } else { "" },
                field.name
            ));
        }
    }
}

fn write_section(out: &mut String, section: &Section, parent: &str, indent: usize, inactive: bool) {
    for field in section.fields {
        write_field(out, field, parent, indent, inactive);
    }
}

/// Write a list entry, with the dash on its own line, so that all fields look the same.
fn write_entry(out: &mut String, section: &Section, parent: &str, indent: usize, inactive: bool) {
    out.push_str(&format!("{}{}-\n", "  ".repeat(indent), if inactive { "# " } else { "" }));
    write_section(out, section, parent, indent + 1, inactive);
}

/// Words that readers of YAML 1.1 take for true or false are quoted.
fn quote(value: String) -> String {
    let is_boolean = ["on", "off", "yes", "no", "y", "n"].contains(&value.as_str());
    if is_boolean { format!("\"{value}\"") } else { value }
}

/// The value to show for a field that has one.
fn sample(parent: &str, field: &Field) -> Option<String> {
    let sample = match (parent, field.name) {
        ("routes", "name") => "chat",
        ("pools", "name") => "edge",
        ("guardrails", "name") => "default",
        ("topics", "name") => "taxes",
        ("rules", "name") => "project-codes",
        ("judges", "name") => "own-model",
        ("filters", "name") => "stop-loops",
        ("objectives", "route") => "chat",
        ("rate_limits", "name") => "tokens-per-minute",
        (_, "name" | "backend") => "vllm",
        ("record_store", "url") => return None,
        ("upload", "url") => field.default,
        (_, "url") if matches!(field.kind, Kind::Secret) => "redis://127.0.0.1:6379",
        (_, "url") => "http://127.0.0.1:8000",
        (_, "max_requests") => "64",
        _ if field.default.is_empty() => return None,
        _ => field.default,
    };
    Some(sample.to_owned())
}

/// Samples of fields without a default, shown in comments: section (empty: any), field, value. The
/// first row that fits counts.
const SAMPLES: &[(&str, &str, &str)] = &[
    // Proofs of identity, and permissions.
    ("", "keys", "/etc/llm-lens/keys.yaml"),
    ("", "secret", "${LLM_LENS_SECRET}"),
    ("tokens", "name", "ops"),
    ("tokens", "token", "${LLM_LENS_ADMIN_TOKEN}"),
    ("audit", "key", "${LLM_LENS_SECRET}"),
    ("audit", "chain_key", "${LLM_LENS_AUDIT_CHAIN_KEY}"),
    ("", "api_key", "${VLLM_API_KEY}"),
    ("", "auth", "optional"),
    ("", "issuer", "https://login.example.com/"),
    ("", "audience", "llm-lens"),
    ("", "jwks", "/etc/llm-lens/jwks.json"),
    ("", "routes_claim", "llm_routes"),
    ("", "models_claim", "llm_models"),
    ("", "priority_claim", "llm_priority"),
    ("", "limits_claim", "llm_limits"),
    // Files.
    ("audit", "file", "/var/log/llm-lens/audit.jsonl"),
    ("access_log", "file", "/var/log/llm-lens/access.jsonl"),
    ("otlp", "endpoint", "http://127.0.0.1:4318"),
    ("otlp", "protocol", "grpc"),
    ("otlp", "headers", "${OTLP_HEADERS}"),
    ("otlp", "compression", "gzip"),
    ("otlp", "timeout", "10s"),
    ("otlp", "client_cert", "/etc/llm-lens/otlp-cert.pem"),
    ("otlp", "client_key", "/etc/llm-lens/otlp-key.pem"),
    ("otlp", "interval", "60s"),
    ("otlp", "temporality", "cumulative"),
    ("otlp", "histograms", "exponential"),
    ("otlp", "semconv", "gen_ai_latest_experimental"),
    ("otlp", "trace_share", "0.1"),
    ("otlp", "resource", "{deployment.environment.name: production}"),
    ("spill", "path", "/var/lib/llm-lens/otlp"),
    ("record_store", "path", "/var/lib/llm-lens/records"),
    ("record_store", "url", "postgres://llm_lens@db.example.com:5432/llm_lens"),
    ("record_store", "password", "${LLM_LENS_DB_PASSWORD}"),
    ("record_store", "ca", "/etc/llm-lens/db-ca.pem"),
    ("spill", "max_age", "7d"),
    ("record_files", "path", "/var/lib/llm-lens/files"),
    ("record_files", "keep", "30d"),
    ("upload", "endpoint", "https://s3.example.com"),
    ("upload", "region", "eu-central-1"),
    ("upload", "access_key", "${AWS_ACCESS_KEY_ID}"),
    ("upload", "secret_key", "${AWS_SECRET_ACCESS_KEY}"),
    ("upload", "session_token", "${AWS_SESSION_TOKEN}"),
    ("contents", "path", "/var/lib/llm-lens/contents"),
    ("contents", "key", "${LLM_LENS_CONTENTS_KEY}"),
    ("contents", "previous_keys", "file:/etc/llm-lens/contents.keys"),
    ("", "usage_file", "/var/lib/llm-lens/usage.jsonl"),
    ("", "cert", "/etc/llm-lens/cert.pem"),
    ("canary", "key", "header:x-user"),
    ("", "key", "/etc/llm-lens/key.pem"),
    ("", "client_ca", "/etc/llm-lens/clients.pem"),
    ("", "ca", "/etc/llm-lens/ca.pem"),
    ("", "backends_file", "/etc/llm-lens/edge.txt"),
    ("", "upgrade_socket", "/run/llm-lens/upgrade.sock"),
    ("", "tokenizer", "/etc/llm-lens/tokenizer.json"),
    ("", "tokenizer_file", "/etc/llm-lens/tokenizer.json"),
    ("", "model_file", "/etc/llm-lens/guardrail.onnx"),
    // Rate limits and prices.
    ("", "amount", "100000"),
    ("", "burst", "20000"),
    ("rate_limits", "routes", "[chat]"),
    ("", "owners", "[search]"),
    ("prices", "cached_input", "0.3"),
    ("prices", "reasoning", "15"),
    // Routes and pools.
    ("judges", "path", "/judge"),
    ("", "path", "/v1/*"),
    ("", "header", "x-difficulty:hard"),
    ("", "headers", "{x-tier: gold}"),
    ("", "hosts", "[llm.example.com]"),
    ("", "trusted_proxies", "[10.0.0.0/8]"),
    ("", "allow", "[10.0.0.0/8]"),
    ("", "kinds", "[contact, financial, national]"),
    ("actions", "kind", "US_SSN"),
    ("", "deny", "[192.0.2.0/24]"),
    ("", "forwarded_headers", "true"),
    ("", "cors", "[\"https://app.example.com\"]"),
    ("", "models", "[llama-3.1-8b]"),
    ("", "model", "llama-3.1-8b"),
    ("", "guardrail", "default"),
    ("", "pool", "edge"),
    ("", "tier", "edge"),
    ("", "backends", "[vllm]"),
    ("", "template", "vllm"),
    ("", "fallback", "[cloud]"),
    ("", "unsupported", "[vision]"),
    ("", "findings", "[judge.own-model]"),
    ("routes", "passthrough", "[/tokenize, \"/v1/audio/*\"]"),
    ("", "max_ttft_ratio", "1.5"),
    // Objectives: one percentile of each.
    ("ttft", "p50", "300ms"),
    ("ttft", "p90", "700ms"),
    ("ttft", "p95", "1s"),
    ("ttft", "p99", "3s"),
    ("tpot", "p50", "30ms"),
    ("tpot", "p90", "60ms"),
    ("tpot", "p95", "100ms"),
    ("tpot", "p99", "200ms"),
    ("", "availability", "99.9"),
    // Discovery.
    ("", "dns", "llm.internal"),
    ("", "srv", "_llm._tcp.internal"),
    ("", "kubernetes", "llm"),
    ("", "zone", "eu-1a"),
    ("", "namespace", "models"),
    ("", "port", "8000"),
    ("", "servers", "[10.96.0.10]"),
    ("", "server_name", "engine.internal"),
    // Guardrails.
    ("topics", "words", "[tax, \"tax return\"]"),
    ("rules", "phrases", "[\"project kumquat\"]"),
    ("", "regex", "\"PROJECT-[0-9]{3,6}\""),
    ("", "honeytokens", "[\"kumquat-7719\"]"),
    ("", "disclaimer", "\"This answer was generated by a machine.\""),
    ("guardrails", "passthrough", "[/tokenize]"),
    ("", "categories", "[violence]"),
    ("", "examples", "[\"Write an essay that I can hand in as my own.\"]"),
    ("", "language", "en"),
    ("judges", "labels", "[safe, attack]"),
    ("", "labels", "{team: search}"),
    ("", "use", "stop-loops"),
    ("", "with", "{times: 40}"),
    ("timeouts", "connect", "5s"),
    ("timeouts", "total", "1h"),
];

/// The value to show, in a comment, for a field without a default.
fn inactive_sample(parent: &str, field: &Field) -> String {
    let sample = SAMPLES.iter().find(|(section, name, _)| {
        *name == field.name && (section.is_empty() || *section == parent)
    });
    sample.map_or_else(|| by_kind(field), |(.., value)| *value).to_owned()
}

fn by_kind(field: &Field) -> &'static str {
    match field.kind {
        Kind::Number => "1.5",
        Kind::Duration | Kind::DurationOrAuto => "1m",
        _ => "...",
    }
}
