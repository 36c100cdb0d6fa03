//! Builds the settings of guardrails from a checked tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use filters::settings::{
    Action, AtHoldTime, Class, FilterSettings, GuardrailSettings, Honeytoken, Injection, Judge,
    JudgeKind, JudgeMode, ModelFiles, OnFailure, RegisteredFilter, RiskSettings, Rule, SizeBounds,
    Template, Topic, Toxicity,
};
use filters::{KindAction, KindSettings};

use super::Builder;
use crate::settings::Backend;
use crate::tree::Table;

/// Maximum entries of a list: each request with the guardrail checks all of them.
const MAX_ENTRIES: usize = 64;
/// Kinds of personal data that are looked for by default.
const DEFAULT_KINDS: [&str; 3] = ["contact", "financial", "national"];
/// Maximum entries of an allow-list: each finding is compared with all of them.
const MAX_ALLOWED: usize = 256;
/// Minimum bytes of a honeytoken; shorter words occur in answers by chance.
const MIN_HONEYTOKEN: usize = 8;

impl Builder {
    pub(super) fn guardrails(
        &mut self,
        root: &Table,
        backends: &[Arc<Backend>],
    ) -> Vec<Arc<GuardrailSettings>> {
        let tables = root.list("guardrails");
        self.unique_names(tables);
        self.note_unnamed(root, "guardrails");
        tables.iter().map(|table| Arc::new(self.guardrail(table, backends))).collect()
    }

    fn guardrail(&mut self, table: &Table, backends: &[Arc<Backend>]) -> GuardrailSettings {
        self.check_guardrail(table);
        let (risk, sizes, scores) = (
            self.section(table, "risk"),
            self.section(table, "sizes"),
            self.section(table, "toxicity"),
        );
        GuardrailSettings {
            name: table.text("name").unwrap_or_default().into(),
            observe: table.text("mode") == Some("observe"),
            input_injection: action(table, "input_injection"),
            input_toxicity: action(table, "input_toxicity"),
            input_pii: action(table, "input_pii"),
            input_secrets: action(table, "input_secrets"),
            pii: self.pii(&self.section(table, "pii")),
            restore: table.flag("restore"),
            output_toxicity: action(table, "output_toxicity"),
            injection: injection(&self.section(table, "injection")),
            toxicity: toxicity(&scores),
            output_pii: action(table, "output_pii"),
            output_secrets: action(table, "output_secrets"),
            keep_json_numbers: table.text("json_numbers") == Some("keep"),
            hold_bytes: table.size("hold_bytes"),
            hold_time: table.duration("hold_time"),
            at_hold_time: AtHoldTime::from_word(table.text("at_hold_time").unwrap_or_default()),
            judge_window: table.size("judge_window"),
            mode: mode(table, "output_mode"),
            judges_deadline: table.duration("judges_deadline"),
            risk: self.risk(&risk),
            sizes: size_bounds(&sizes),
            topics: self.topics(table),
            rules: self.rules(table),
            honeytokens: self.honeytokens(table),
            on_honeytoken: action(table, "on_honeytoken"),
            disclaimer: table.text("disclaimer").unwrap_or_default().to_owned(),
            passthrough: table.texts("passthrough").to_vec(),
            judges: self.judges(table, backends),
            filters: self.named_filters(table),
        }
    }

    /// Check ranges, numbers of entries, and combinations of fields.
    fn check_guardrail(&mut self, table: &Table) {
        for (field, min, max, range) in [
            ("hold_bytes", 64, 64 << 10, "64B to 64KiB"),
            ("judge_window", 32, 64 << 10, "32B to 64KiB"),
        ] {
            if !(min..=max).contains(&table.size(field)) {
                self.wrong(table, field, format!("must be from {range}"));
            }
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60))
            .contains(&table.duration("hold_time"))
        {
            self.wrong(
                table,
                "hold_time",
                "must be from 10ms to 1m; with less, matches that arrive in pieces are missed",
            );
        }
        let written = [
            ("topics", table.list("topics").len()),
            ("rules", table.list("rules").len()),
            ("honeytokens", table.texts("honeytokens").len()),
            ("judges", table.list("judges").len()),
            ("filters", table.list("filters").len()),
        ];
        for (field, written) in written.into_iter().filter(|(_, written)| *written > MAX_ENTRIES) {
            self.wrong(
                table,
                field,
                format!("has {written} entries; at most {MAX_ENTRIES} are allowed"),
            );
        }
        let entries = table
            .list("rules")
            .iter()
            .chain(table.list("judges"))
            .map(|entry| action(entry, "input"));
        let own = ["input_pii", "input_secrets"].map(|field| action(table, field));
        let pii = self.section(table, "pii");
        let kinds = pii.list("actions").iter().map(|entry| action(entry, "input"));
        if table.flag("restore")
            && !own.into_iter().chain(entries).chain(kinds).any(|action| action == Action::Mask)
        {
            self.wrong(
                table,
                "restore",
                "has no effect unless something is redacted; set input_pii, input_secrets, a rule or a judge to redact",
            );
        }
    }

    fn pii(&mut self, table: &Table) -> KindSettings {
        let mut kinds = table.texts("kinds").to_vec();
        let names = filters::kind_names();
        if let Some(unknown) = kinds.iter().find(|kind| !names.iter().any(|name| name == *kind)) {
            let groups = "contact, financial, national, network, all";
            self.wrong(
                table,
                "kinds",
                format!(
                    "{unknown:?} is neither a group ({groups}) nor a kind of docs/guardrails.md"
                ),
            );
        }
        if !table.has("kinds") {
            kinds = DEFAULT_KINDS.map(str::to_owned).to_vec();
        }
        let allow = table.texts("allow").to_vec();
        if allow.len() > MAX_ALLOWED || allow.iter().any(|entry| entry.trim().len() < 4) {
            self.wrong(
                table,
                "allow",
                format!("needs at most {MAX_ALLOWED} entries of at least 4 characters each"),
            );
        }
        let mut actions: Vec<KindAction> = Vec::new();
        for one in table.list("actions") {
            let kind = one.text("kind").unwrap_or_default().to_owned();
            let own =
                |field: &str| one.text(field).filter(|word| *word != "same").map(Action::from_word);
            let (input, output) = (own("input"), own("output"));
            if one.text("kind").is_some() && !filters::is_kind(&kind) {
                self.wrong(
                    one,
                    "kind",
                    format!("{kind:?} is no kind; docs/guardrails.md lists them"),
                );
            } else if actions.iter().any(|other| other.kind == kind) {
                self.wrong(one, "kind", format!("{kind:?} has two entries; remove one"));
            }
            actions.push(KindAction { kind, input, output, threshold: one.share("threshold") });
        }
        KindSettings { kinds, allow, actions }
    }

    fn risk(&mut self, table: &Table) -> RiskSettings {
        let risk = RiskSettings {
            medium: table.share("medium"),
            high: table.share("high"),
            on_medium: action(table, "on_medium"),
            on_high: action(table, "on_high"),
        };
        if risk.high < risk.medium {
            self.wrong(table, "high", format!("{} is below medium, {}", risk.high, risk.medium));
        }
        risk
    }

    fn topics(&mut self, table: &Table) -> Vec<Topic> {
        let tables = table.list("topics");
        self.unique_names(tables);
        let mut out = Vec::new();
        for one in tables {
            let words = one.texts("words").to_vec();
            if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                self.wrong(one, "words", "needs at least one word, and no empty ones; write for example [\"tax\", \"tax return\"]");
            }
            out.push(Topic {
                name: one.text("name").unwrap_or_default().into(),
                allowed: one.text("kind") == Some("allow"),
                action: action(one, "action"),
                least: one.size("min_matches"),
                words,
            });
        }
        out
    }

    fn rules(&mut self, table: &Table) -> Vec<Rule> {
        let tables = table.list("rules");
        self.unique_names(tables);
        let mut out = Vec::new();
        for one in tables {
            let (regex, phrases) =
                (one.text("regex").unwrap_or_default().to_owned(), one.texts("phrases").to_vec());
            let explained = one.is_explained("phrases");
            if regex.is_empty() && phrases.is_empty() && !explained {
                self.wrong(one, "regex", "needs a regex or phrases");
            }
            if let Some(why) = Some(&regex)
                .filter(|regex| !regex.is_empty())
                .and_then(|regex| filters::check_rule(regex).err())
            {
                self.wrong(one, "regex", format!("{regex:?}: {why}"));
                continue;
            }
            if phrases.iter().any(|phrase| phrase.trim().is_empty() || phrase.len() > 160) {
                self.wrong(one, "phrases", "each phrase must have 1 to 160 bytes");
            }
            out.push(Rule {
                name: one.text("name").unwrap_or_default().into(),
                regex,
                phrases,
                input: action(one, "input"),
                output: action(one, "output"),
            });
        }
        out
    }

    fn honeytokens(&mut self, table: &Table) -> Vec<Honeytoken> {
        let texts = table.texts("honeytokens");
        if texts.iter().any(|text| text.trim().len() < MIN_HONEYTOKEN || text.len() > 160) {
            self.wrong(
                table,
                "honeytokens",
                format!("each must have {MIN_HONEYTOKEN} to 160 bytes; shorter words occur in answers by chance"),
            );
        }
        texts.iter().cloned().map(Honeytoken).collect()
    }

    fn judges(&mut self, table: &Table, backends: &[Arc<Backend>]) -> Vec<Judge> {
        let tables = table.list("judges");
        self.unique_names(tables);
        tables.iter().map(|one| self.judge(one, backends)).collect()
    }

    fn judge(&mut self, table: &Table, backends: &[Arc<Backend>]) -> Judge {
        let kind = judge_kind(table.text("kind").unwrap_or_default());
        let backend = self
            .named(table, "backend", backends, |backend| &backend.name)
            .map(|backend| backend.name.clone());
        if kind != JudgeKind::Onnx && table.text("backend").is_none() {
            self.wrong(
                table,
                "backend",
                "is required for this kind of judge; name an entry of backends",
            );
        }
        let examples = table.texts("examples");
        if kind == JudgeKind::Embeddings
            && (examples.is_empty()
                || examples.len() > MAX_ENTRIES
                || examples.iter().any(|text| text.len() > 4096))
        {
            self.wrong(
                table,
                "examples",
                format!("needs 1 to {MAX_ENTRIES} sentences that forbidden prompts resemble, of at most 4096 bytes each"),
            );
        }
        if table.duration("deadline").is_zero() {
            self.wrong(table, "deadline", "must be greater than 0s; write for example 2s");
        }
        let needs_model =
            matches!(kind, JudgeKind::GuardModel | JudgeKind::Classify | JudgeKind::Embeddings);
        if needs_model && table.text("model").is_none() {
            self.wrong(table, "model", "is required for this kind of judge");
        }
        let path = table.text("path").unwrap_or(default_path(kind)).to_owned();
        if !path.starts_with('/') && kind != JudgeKind::Onnx {
            self.wrong(table, "path", format!("{path:?} must begin with a slash"));
        }
        Judge {
            declared: declared(table, Class::Guardrail),
            kind,
            backend: backend.unwrap_or_default(),
            path,
            model: table.text("model").unwrap_or_default().to_owned(),
            template: match table.text("template") {
                Some("prompt-guard") => Template::PromptGuard,
                Some("yes-no") => Template::YesNo,
                _ => Template::LlamaGuard,
            },
            input: action(table, "input"),
            output: action(table, "output"),
            threshold: table.share("threshold"),
            categories: table.texts("categories").to_vec(),
            examples: table.texts("examples").to_vec(),
            language: table.text("language").unwrap_or_default().to_owned(),
            files: (kind == JudgeKind::Onnx).then(|| self.model_files(table)),
        }
    }

    fn model_files(&mut self, table: &Table) -> ModelFiles {
        let mut file = |field| {
            self.openable(table, field);
            PathBuf::from(table.text(field).unwrap_or_default())
        };
        let (model, tokenizer) = (file("model_file"), file("tokenizer_file"));
        let labels = table.texts("labels").to_vec();
        if labels.is_empty() {
            self.wrong(table, "labels", "is required for onnx; name the outputs of the model, for example [\"safe\", \"attack\"]");
        }
        ModelFiles { model, tokenizer, labels }
    }

    fn named_filters(&mut self, table: &Table) -> Vec<RegisteredFilter> {
        let tables = table.list("filters");
        self.unique_names(tables);
        let class = |one: &Table| {
            if one.text("class") == Some("traffic") { Class::Traffic } else { Class::Guardrail }
        };
        let named = |one: &Table| RegisteredFilter {
            declared: declared(one, class(one)),
            kind: one.text("use").unwrap_or_default().to_owned(),
            with: one.map("with"),
        };
        tables.iter().map(named).collect()
    }
}

fn declared(table: &Table, class: Class) -> FilterSettings {
    FilterSettings {
        name: table.text("name").unwrap_or_default().into(),
        class,
        on_failure: if table.text("on_failure") == Some("open") {
            OnFailure::Open
        } else {
            OnFailure::Closed
        },
        deadline: table.duration("deadline"),
        mode: mode(table, "mode"),
    }
}

fn action(table: &Table, field: &str) -> Action {
    Action::from_word(table.text(field).unwrap_or_default())
}

fn mode(table: &Table, field: &str) -> JudgeMode {
    JudgeMode::from_word(table.text(field).unwrap_or_default())
}

fn injection(table: &Table) -> Injection {
    Injection {
        threshold: table.share("threshold"),
        block: table.share("block_threshold"),
        tool: table.share("tool_threshold"),
        tool_block: table.share("tool_block_threshold"),
    }
}

fn toxicity(table: &Table) -> Toxicity {
    Toxicity {
        hate: table.share("hate"),
        insult: table.share("insult"),
        threat: table.share("threat"),
        self_harm: table.share("self_harm"),
        sexual: table.share("sexual"),
        block: table.share("block_threshold"),
    }
}

fn size_bounds(table: &Table) -> SizeBounds {
    SizeBounds {
        action: action(table, "action"),
        tokens: table.count("tokens"),
        messages: table.count("messages"),
        tools: table.count("tools"),
        nesting: table.count("nesting"),
        output_tokens: table.count("output_tokens"),
    }
}

fn judge_kind(word: &str) -> JudgeKind {
    match word {
        "moderation" => JudgeKind::Moderation,
        "guard-model" => JudgeKind::GuardModel,
        "classify" => JudgeKind::Classify,
        "analyzer" => JudgeKind::Analyzer,
        "embeddings" => JudgeKind::Embeddings,
        "onnx" => JudgeKind::Onnx,
        _ => JudgeKind::Webhook,
    }
}

fn default_path(kind: JudgeKind) -> &'static str {
    match kind {
        JudgeKind::Moderation => "/v1/moderations",
        JudgeKind::GuardModel => "/v1/chat/completions",
        JudgeKind::Classify => "/classify",
        JudgeKind::Analyzer => "/analyze",
        JudgeKind::Embeddings => "/v1/embeddings",
        JudgeKind::Webhook | JudgeKind::Onnx => "/",
    }
}
