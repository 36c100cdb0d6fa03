//! The settings files that `llm-lens init` writes.

use crate::schema::{Field, Kind, ROOT, Section};

/// A short settings file that works: one engine, with pointers to what can be added.
pub const STARTER: &str = "\
# Settings of llm-lens gateway. Check with: llm-lens check gateway.yaml
# Every setting with its default: llm-lens init --full

listeners:
  - address: 127.0.0.1:8080    # for clients
admin:
  address: 127.0.0.1:9090      # /metrics and /api; has no login, keep it private

backends:
  - name: engine
    url: http://127.0.0.1:8000

# Guardrails mask personal data and secrets while answers stream: docs/guardrails.md
# guardrails:
#   - {name: default, input_pii: flag, output_pii: mask}

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
        write_field(&mut out, field, 0, false);
    }
    out
}

fn write_field(out: &mut String, field: &Field, indent: usize, inactive: bool) {
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
            write_section(out, section, indent + 1, inactive);
        }
        Kind::List(section) => {
            let inactive =
                inactive || matches!(field.name, "guardrails" | "rate_limits" | "prices" | "pools");
            out.push_str(&format!("{pad}{}{}:\n", if inactive { "# " } else { "" }, field.name));
            write_entry(out, section, indent + 1, inactive);
        }
        _ => {
            let value = sample(field, inactive);
            let inactive = inactive || value.is_none();
            let value = value.unwrap_or_else(|| inactive_sample(field));
            out.push_str(&format!(
                "{pad}{}{}: {value}\n",
                if inactive { "# " } else { "" },
                field.name
            ));
        }
    }
}

fn write_section(out: &mut String, section: &Section, indent: usize, inactive: bool) {
    for field in section.fields {
        write_field(out, field, indent, inactive);
    }
}

/// Write a list entry, with the dash on its own line, so that all fields look the same.
fn write_entry(out: &mut String, section: &Section, indent: usize, inactive: bool) {
    out.push_str(&format!("{}{}-\n", "  ".repeat(indent), if inactive { "# " } else { "" }));
    write_section(out, section, indent + 1, inactive);
}

/// The value to show for an active field.
fn sample(field: &Field, inactive: bool) -> Option<String> {
    Some(match field.name {
        "name" if inactive => "strict".into(),
        "name" | "backend" => "vllm".into(),
        "url" if matches!(field.kind, Kind::Secret) => "redis://127.0.0.1:6379".into(),
        "url" => "http://127.0.0.1:8000".into(),
        "max_requests" => "64".into(),
        _ if field.default.is_empty() => return None,
        _ => field.default.into(),
    })
}

fn inactive_sample(field: &Field) -> String {
    match field.name {
        "keys" => "/etc/llm-lens/keys.yaml".into(),
        "secret" => "${LLM_LENS_SECRET}".into(),
        "amount" => "100000".into(),
        "burst" => "20000".into(),
        "routes" => "[chat]".into(),
        "owners" => "[search]".into(),
        "auth" => "optional".into(),
        "api_key" => "${VLLM_API_KEY}".into(),
        "path" => "/v1/*".into(),
        "headers" => "{x-tier: gold}".into(),
        "models" => "[llama-3.1-8b]".into(),
        "labels" if matches!(field.kind, Kind::Texts) => "[safe, attack]".into(),
        "labels" => "{team: search}".into(),
        "use" => "stop-loops".into(),
        "with" => "{times: 40}".into(),
        "honeytokens" => "[\"kumquat-7719\"]".into(),
        "regex" => "\"PROJECT-[0-9]{3,6}\"".into(),
        "cert" => "/etc/llm-lens/cert.pem".into(),
        "key" => "/etc/llm-lens/key.pem".into(),
        "usage_file" => "/var/lib/llm-lens/usage.jsonl".into(),
        "hosts" => "[llm.example.com]".into(),
        "cors" => "[\"https://app.example.com\"]".into(),
        "client_ca" => "/etc/llm-lens/clients.pem".into(),
        "ca" => "/etc/llm-lens/ca.pem".into(),
        "guardrail" => "strict".into(),
        "pool" => "edge".into(),
        "tier" => "edge".into(),
        "backends" => "[vllm]".into(),
        "backends_file" => "/etc/llm-lens/edge.txt".into(),
        "template" => "vllm".into(),
        "fallback" => "[cloud]".into(),
        "unsupported" => "[vision]".into(),
        "dns" => "llm.internal".into(),
        "srv" => "_llm._tcp.internal".into(),
        "kubernetes" => "llm".into(),
        "zone" => "eu-1a".into(),
        "namespace" => "models".into(),
        "port" => "8000".into(),
        "servers" => "[10.96.0.10]".into(),
        "findings" => "[judge.hard]".into(),
        "server_name" => "engine.internal".into(),
        _ if matches!(field.kind, Kind::Number) => "1.5".into(),
        _ if matches!(field.kind, Kind::Duration | Kind::DurationOrAuto) => "30s".into(),
        _ if matches!(field.kind, Kind::Texts) => "[\"one phrase\", \"another\"]".into(),
        _ => "...".into(),
    }
}
