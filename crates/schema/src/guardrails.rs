//! Sections about guardrails.

use super::{Kind, Section, field};

/// Actions on a finding with a position in a prompt.
const IN_PROMPT: Kind = Kind::Word(&["off", "flag", "redact", "block"]);
/// Actions on a finding that concerns the whole text.
const WITHOUT_PLACE: Kind = Kind::Word(&["off", "flag", "block"]);
/// Actions on a finding with a position in an answer.
const IN_ANSWER: Kind = Kind::Word(&["off", "flag", "mask", "block"]);
/// The same by kind, or that of the family.
const IN_PROMPT_OR_SAME: Kind = Kind::Word(&["same", "off", "flag", "redact", "block"]);
const IN_ANSWER_OR_SAME: Kind = Kind::Word(&["same", "off", "flag", "mask", "block"]);
/// How answers are judged.
const MODES: Kind = Kind::Word(&["hold", "cut", "end"]);

/// `guardrails[]`
pub static GUARDRAIL: Section = Section {
    doc: "A guardrail: what to detect in prompts and answers, and the action for it. Patterns and checksums find personal data (addresses, card, account, phone and citizen numbers) and secrets (keys, tokens, passwords).",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in routes and records."),
        field("mode", Kind::Word(&["enforce", "observe"]), "enforce", "enforce: apply the actions. observe: record findings and change nothing."),
        field(
            "input_injection",
            WITHOUT_PLACE,
            "flag",
            "Action on prompt injection, jailbreaks and prompt extraction in user and tool messages, found by an embedded classifier. It has false positives: try `flag` before `block`.",
        ),
        field(
            "input_toxicity",
            WITHOUT_PLACE,
            "flag",
            "Action on hate, harassment, insults and threats in user and tool messages, found by an embedded classifier.",
        ),
        field(
            "input_pii",
            IN_PROMPT,
            "flag",
            "Action on personal data in a prompt. redact: replace it with a placeholder such as `[EMAIL_ADDRESS_1]`. block: refuse the request with 400.",
        ),
        field("input_secrets", IN_PROMPT, "flag", "Action on credentials in a prompt."),
        field("pii", Kind::Section(&PII), "", "Kinds of personal data that are looked for, actions by kind, and exceptions."),
        field("restore", Kind::Flag, "false", "Replace placeholders in the answer with the text that was redacted from the prompt."),
        field(
            "output_pii",
            IN_ANSWER,
            "mask",
            "Action on personal data in an answer. mask: replace it with a text such as `[EMAIL_ADDRESS]` in the stream. block: end the answer. Text that can still become a match is held.",
        ),
        field("output_secrets", IN_ANSWER, "mask", "Action on credentials in an answer."),
        field("output_toxicity", WITHOUT_PLACE, "off", "Action on toxic language in an answer, judged by the embedded classifier in windows."),
        field("injection", Kind::Section(&INJECTION), "", "Thresholds of the injection classifier."),
        field("toxicity", Kind::Section(&TOXICITY), "", "Thresholds of the toxicity classifier by category, for prompts and answers."),
        field(
            "output_mode",
            MODES,
            "cut",
            "How the embedded classifier judges answers. hold: each window is held until it is judged. cut: text is sent immediately, and a finding with `block` ends the answer. end: the end of the answer is held until all of it is judged.",
        ),
        field(
            "json_numbers",
            Kind::Word(&["string", "keep"]),
            "string",
            "What masking does to a number in JSON arguments. `string` replaces it with a string such as `\"[CREDIT_CARD]\"`; `keep` leaves it and records the finding, for tools that reject other types.",
        ),
        field(
            "judge_window",
            Kind::Size,
            "400B",
            "Size of the text of an answer that is judged at a time, together with as much preceding text. The default is about a paragraph; shorter windows are less accurate.",
        )
        .was("window"),
        field(
            "hold_bytes",
            Kind::Size,
            "512B",
            "Maximum bytes of one text that are held. Beyond it, personal data can pass, and possible secrets are masked. The default is longer than any e-mail address.",
        ),
        field(
            "hold_time",
            Kind::Duration,
            "1s",
            "Maximum time that text is held while the engine sends nothing. Then the guardrail decides with the text that has arrived. The default exceeds the gaps of slow engines.",
        ),
        field(
            "at_hold_time",
            Kind::Word(&["mask", "release", "end"]),
            "mask",
            "What happens to undecided text at `hold_time`. `mask` masks what may become a number with a checksum, or a secret with a known prefix, and passes other text; `end` ends the answer instead of masking; `release` passes all of it, for clients that must see all text in time.",
        ),
        field(
            "judges_deadline",
            Kind::Duration,
            "0s",
            "Deadline of all judges of a prompt or window together. After it, the `on_failure` of each unfinished judge applies. 0s applies only the deadline of each judge.",
        )
        .was("budget"),
        field("risk", Kind::Section(&RISK), "", "Combined risk of all findings in a prompt."),
        field("sizes", Kind::Section(&SIZES), "", "Bounds on prompts."),
        field("topics", Kind::List(&TOPIC), "", "Topics that prompts must or must not be about."),
        field("rules", Kind::List(&RULE), "", "Your own patterns, for prompts and answers."),
        field(
            "honeytokens",
            Kind::Texts,
            "",
            "Secret words, placed in system prompts, that no answer may contain. Each has at least 8 characters. They are never printed or logged.",
        )
        .was("canaries"),
        field("on_honeytoken", IN_ANSWER, "block", "Action on a honeytoken in an answer, which proves that the system prompt leaked.").was("on_canary"),
        field("disclaimer", Kind::Text, "", "Text that every answer begins with."),
        field(
            "passthrough",
            Kind::Texts,
            "",
            "Paths of unknown APIs that are forwarded unchecked. Models, health and token counts always are. Compared with the decoded path. A `*` at the end matches any rest.",
        )
        .was("pass"),
        field("judges", Kind::List(&JUDGE), "", "Remote servers and local models that judge prompts and answers."),
        field("filters", Kind::List(&FILTER), "", "Custom filters that are compiled into this build (docs/write-a-filter.md)."),
    ],
};

/// `guardrails[].injection`
pub static INJECTION: Section = Section {
    doc: "Thresholds from 0 to 1. The classifier is calibrated so that about 1 % of harmless texts of unknown sources score more than 0.5, and 0.1 % more than 0.9.",
    fields: &[
        field(
            "threshold",
            Kind::Share,
            "0.5",
            "A user message that scores more is a finding. Raise it for fewer false positives.",
        ),
        field(
            "block_threshold",
            Kind::Share,
            "0.9",
            "With `input_injection: block`, a user message that scores more is blocked; other findings are flagged. The default blocks one harmless text in a thousand.",
        ),
        field(
            "tool_threshold",
            Kind::Share,
            "0.5",
            "The same as `threshold` for tool results, which have a classifier of their own: a user may command and a document may not. Lower it where agents read foreign documents.",
        ),
        field(
            "tool_block_threshold",
            Kind::Share,
            "0.9",
            "The same as `block_threshold` for tool results.",
        ),
    ],
};

/// `guardrails[].pii`
pub static PII: Section = Section {
    doc: "Personal data that `input_pii` and `output_pii` apply to. Addresses of private and documentation ranges are findings only with the kind `RESERVED_IP_ADDRESS`.",
    fields: &[
        field(
            "kinds",
            Kind::Texts,
            "",
            "Groups and kinds to look for. `contact`: e-mail addresses, phone numbers. `financial`: cards, accounts, wallets. `national`: identifiers of citizens and companies, dates of birth. `network`: URLs, domains, IP and MAC addresses. `all`, or a kind such as `US_SSN`. Default: contact, financial and national, because answers about software are full of addresses.",
        ),
        field(
            "allow",
            Kind::Texts,
            "",
            "Values that are never findings: your own domains (`example.com`, with its subdomains and mailboxes), networks (`10.0.0.0/8`), numbers in any notation, and other exact values. Credentials are included.",
        ),
        field(
            "actions",
            Kind::List(&KIND_ACTION),
            "",
            "Actions and thresholds by kind, of personal data and of credentials.",
        ),
    ],
};

/// `guardrails[].pii.actions[]`
pub static KIND_ACTION: Section = Section {
    doc: "The action on one kind. It takes precedence over `input_pii`, `output_pii`, `input_secrets`, `output_secrets` and `kinds`.",
    fields: &[
        field("kind", Kind::RequiredText, "", "Kind, such as `EMAIL_ADDRESS` or `GENERIC_SECRET`."),
        field("input", IN_PROMPT_OR_SAME, "same", "Action in prompts. same: that of its family."),
        field("output", IN_ANSWER_OR_SAME, "same", "Action in answers. same: that of its family."),
        field(
            "threshold",
            Kind::Share,
            "0.5",
            "Minimum score of a finding. Numbers without a checksum or a telling word before them score least. For credentials in answers, `0.6` leaves out passwords that are words, as without an entry.",
        ),
    ],
};

/// `guardrails[].toxicity`
pub static TOXICITY: Section = Section {
    doc: "Thresholds from 0 to 1; the classifier is calibrated so that 0.5 balances misses and false positives. Toxic text without a category counts from 0.5.",
    fields: &[
        field(
            "hate",
            Kind::Share,
            "0.5",
            "Threshold for contempt for, or violence against, people because of a group they belong to.",
        ),
        field("insult", Kind::Share, "0.5", "Threshold for contempt for a person."),
        field("threat", Kind::Share, "0.5", "Threshold for announced or wished violence."),
        field("self_harm", Kind::Share, "0.5", "Threshold for encouragement of self-harm."),
        field("sexual", Kind::Share, "0.5", "Threshold for sexual harassment."),
        field(
            "block_threshold",
            Kind::Share,
            "0.8",
            "With the action `block`, text that scores more is blocked; other findings are flagged.",
        ),
    ],
};

/// `guardrails[].risk`
pub static RISK: Section = Section {
    doc: "Levels LOW, MEDIUM and HIGH, computed from the scores of all detectors. docs/guardrails.md has the formula.",
    fields: &[
        field(
            "medium",
            Kind::Share,
            "0.4",
            "Minimum score of MEDIUM. A flagged attack alone exceeds it; an e-mail address alone does not.",
        ),
        field("high", Kind::Share, "0.8", "Minimum score of HIGH."),
        field(
            "on_medium",
            IN_PROMPT,
            "off",
            "Action at MEDIUM, in addition to those of the detectors. redact replaces every finding that has a position.",
        ),
        field("on_high", IN_PROMPT, "flag", "Action at HIGH."),
    ],
};

/// `guardrails[].sizes`
pub static SIZES: Section = Section {
    doc: "Bounds on prompts. 0 disables one.",
    fields: &[
        field(
            "action",
            WITHOUT_PLACE,
            "block",
            "Action on a prompt that exceeds one of the bounds.",
        ),
        field(
            "tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Maximum tokens of all texts, estimated as a quarter of their bytes.",
        ),
        field(
            "messages",
            Kind::Count(0, 1_000_000),
            "0",
            "Maximum messages, or prompts of a batch.",
        ),
        field("tools", Kind::Count(0, 1_000_000), "0", "Maximum tools offered."),
        field(
            "nesting",
            Kind::Count(0, 128),
            "0",
            "Maximum nesting of objects and arrays. Beyond 128, requests are refused in any case.",
        ),
        field(
            "output_tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Maximum output tokens requested.",
        ),
    ],
};

/// `guardrails[].topics[]`
pub static TOPIC: Section = Section {
    doc: "A topic, defined by words. If any topic is allowed, user messages must be about an allowed one.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in records and refusals."),
        field(
            "kind",
            Kind::Word(&["deny", "allow"]),
            "deny",
            "deny: prompts must not be about it. allow: prompts must be about an allowed topic.",
        ),
        field(
            "action",
            WITHOUT_PLACE,
            "block",
            "Action on a prompt about a denied topic, or about no allowed one. off: not checked. flag: recorded. block: refused with 400.",
        ),
        field(
            "words",
            Kind::Texts,
            "",
            "Words and phrases of the topic, matched as whole words in any case.",
        ),
        field(
            "min_matches",
            Kind::Count(1, 1000),
            "1",
            "Minimum number of different words of the topic in a text.",
        )
        .was("least"),
    ],
};

/// `guardrails[].rules[]`
pub static RULE: Section = Section {
    doc: "Your own rule: a regular expression, phrases, or both. It matches whole words only.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in records, and in masks as `[NAME]`."),
        field(
            "regex",
            Kind::Text,
            "",
            "Regular expression in linear-time syntax (no look-around, no back references) without anchors. Every repetition must be bounded; a match has at most 256 bytes.",
        ),
        field(
            "phrases",
            Kind::Texts,
            "",
            "Phrases, matched in any case. White space matches any white space.",
        ),
        field("input", IN_PROMPT, "off", "Action on a match in a prompt."),
        field("output", IN_ANSWER, "mask", "Action on a match in an answer."),
    ],
};

/// `guardrails[].judges[]`
pub static JUDGE: Section = Section {
    doc: "A remote server or a local model that judges prompts, answers or both. All judges of a stage run concurrently.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in records and metrics."),
        field(
            "kind",
            Kind::Word(&[
                "moderation",
                "guard-model",
                "classify",
                "analyzer",
                "webhook",
                "embeddings",
                "onnx",
            ]),
            "webhook",
            "moderation: /v1/moderations. guard-model: a guard model behind chat completions. classify: vLLM's /classify. analyzer: Presidio's /analyze. webhook: JSON in, verdict out. embeddings: similarity to examples, by /v1/embeddings. onnx: a classifier in this process (feature `onnx`).",
        ),
        field(
            "backend",
            Kind::Text,
            "",
            "Backend to call, by its name under `backends`. Not for onnx.",
        ),
        field(
            "path",
            Kind::Text,
            "",
            "Path to call. Default: that of the kind, see docs/judges.md.",
        ),
        field("model", Kind::Text, "", "Model name in calls."),
        field(
            "template",
            Kind::Word(&["llama-guard", "prompt-guard", "yes-no"]),
            "llama-guard",
            "Prompt format and answer format of a guard model.",
        ),
        field(
            "input",
            IN_PROMPT,
            "flag",
            "Action on the judge's findings in prompts. redact replaces findings that have a position, and blocks on others.",
        ),
        field("output", WITHOUT_PLACE, "off", "Action on the judge's findings in answers."),
        field(
            "mode",
            MODES,
            "hold",
            "How it judges answers: hold, cut or end, as in `output_mode`.",
        ),
        field(
            "on_failure",
            Kind::Word(&["closed", "open"]),
            "closed",
            "Behavior when the judge is late, unreachable or invalid. closed: refuse the request with 503, or end the answer. open: pass the text and count the failure.",
        ),
        field("deadline", Kind::Duration, "2s", "Maximum duration of one call."),
        field("threshold", Kind::Share, "0.5", "Minimum score of a finding."),
        field(
            "categories",
            Kind::Texts,
            "",
            "Categories, labels or entities that count as findings. Default: all harmful ones of the kind.",
        ),
        field("examples", Kind::Texts, "", "Example sentences of forbidden prompts (embeddings)."),
        field("language", Kind::Text, "en", "Language of the texts (analyzer)."),
        field("model_file", Kind::Text, "", "Path of the `model.onnx` file (onnx)."),
        field("tokenizer_file", Kind::Text, "", "Path of the `tokenizer.json` file (onnx)."),
        field("labels", Kind::Texts, "", "Labels of the model's outputs, in order (onnx)."),
    ],
};

/// `guardrails[].filters[]`
pub static FILTER: Section = Section {
    doc: "A filter that was compiled into this build.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in records and metrics."),
        field("use", Kind::RequiredText, "", "Name under which the filter is registered."),
        field(
            "class",
            Kind::Word(&["guardrail", "traffic"]),
            "guardrail",
            "Category of the filter's time in records. guardrail: guardrail overhead. traffic: rate limiting.",
        ),
        field(
            "on_failure",
            Kind::Word(&["closed", "open"]),
            "closed",
            "Behavior when the filter is late or fails, as in `judges[].on_failure`.",
        ),
        field("deadline", Kind::Duration, "1s", "Maximum duration of one call."),
        field(
            "mode",
            MODES,
            "cut",
            "How it judges answers: hold, cut or end, as in `output_mode`.",
        ),
        field("with", Kind::TextMap, "", "Settings of the filter."),
    ],
};
