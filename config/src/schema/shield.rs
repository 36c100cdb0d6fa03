//! The tables of guards.

use super::{Kind, Section, field};

/// What may be done about a finding in a prompt that has a place.
const IN_PROMPT: Kind = Kind::Word(&["off", "flag", "redact", "block"]);
/// What may be done about one that concerns all of it.
const OF_PROMPT: Kind = Kind::Word(&["off", "flag", "block"]);
/// What may be done about a finding in an answer that has a place.
const IN_ANSWER: Kind = Kind::Word(&["off", "flag", "mask", "block"]);
/// How answers are judged.
const MODES: Kind = Kind::Word(&["hold", "cut", "end"]);

/// `shields[]`
pub static SHIELD: Section = Section {
    doc: "A guard. Personal data (addresses, numbers of cards, accounts, phones, citizens) and secrets (keys, tokens, passwords) are found by patterns and checksums.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name that routes give, and that records show."),
        field("mode", Kind::Word(&["enforce", "observe"]), "enforce", "observe: find and record, touch nothing."),
        field(
            "input_injection",
            OF_PROMPT,
            "flag",
            "Attacks on the model in what users and tools say (injection, jailbreak, prompt extraction), by an embedded classifier. It flags prompts that are none, too.",
        ),
        field(
            "input_toxicity",
            OF_PROMPT,
            "flag",
            "Hate, harassment, insults and threats in what users and tools say, by an embedded classifier.",
        ),
        field(
            "input_pii",
            IN_PROMPT,
            "flag",
            "Personal data in a prompt: recorded, replaced by `[EMAIL_ADDRESS_1]` before the engine sees it, or the request is refused with 400.",
        ),
        field("input_secrets", IN_PROMPT, "flag", "Credentials in a prompt."),
        field("restore", Kind::Flag, "false", "Put what was taken out of a prompt back into its answer, where the answer names it."),
        field(
            "output_pii",
            IN_ANSWER,
            "mask",
            "Personal data in an answer: recorded, masked as `[EMAIL_ADDRESS]` while it flows, or the answer ends there. Text that may yet become a match waits.",
        ),
        field("output_secrets", IN_ANSWER, "mask", "Credentials in an answer."),
        field("output_toxicity", OF_PROMPT, "off", "Toxic language in an answer, by the embedded classifier, a window at a time."),
        field(
            "toxicity",
            Kind::Section(&TOXICITY),
            "",
            "From which scores on toxic language is a finding, by category, in prompts and answers.",
        ),
        field(
            "output_mode",
            MODES,
            "cut",
            "How the embedded classifier judges answers. hold: a window is released when it was judged. cut: text flows, and the answer ends on a bad verdict. end: the whole is judged before its ending passes.",
        ),
        field(
            "window",
            Kind::Size,
            "400B",
            "Text of an answer that is judged at a time, with as much of what came before it. About a paragraph: less is too little to judge.",
        ),
        field(
            "hold_bytes",
            Kind::Size,
            "512B",
            "Most bytes of one text that wait; beyond, personal data may pass and what may be a secret is masked. Longer than any e-mail address.",
        ),
        field(
            "hold_time",
            Kind::Duration,
            "1s",
            "How long text waits for the engine to go on; then it is decided with what is there. Longer than the gaps of a slow engine.",
        ),
        field(
            "budget",
            Kind::Duration,
            "0s",
            "Time that all judges of a prompt, or of a window, have together; then each does what its `on_failure` says. 0s: each has its own deadline only.",
        ),
        field("risk", Kind::Section(&RISK), "", "What all detectors of a prompt come to together."),
        field("sizes", Kind::Section(&SIZES), "", "Bounds on prompts."),
        field("topics", Kind::List(&TOPIC), "", "What prompts may be about, and may not."),
        field("rules", Kind::List(&RULE), "", "Patterns of your own, in prompts and answers."),
        field(
            "canaries",
            Kind::Texts,
            "",
            "Words planted in system prompts, which no answer must show. At least 8 characters each; they are shown nowhere.",
        ),
        field(
            "on_canary",
            IN_ANSWER,
            "block",
            "What is done about a canary in an answer: whoever has it out of the model has the system prompt.",
        ),
        field("disclaimer", Kind::Text, "", "Text that every answer begins with."),
        field(
            "pass",
            Kind::Texts,
            "",
            "Paths that are no inference and may pass unread, besides those of models, health and tokens; a `*` at an end matches any rest.",
        ),
        field("judges", Kind::List(&JUDGE), "", "Other servers and models that are asked."),
        field("filters", Kind::List(&FILTER), "", "Filters that were added to this build, by name (docs/write-a-filter.md)."),
    ],
};

/// `shields[].toxicity`
pub static TOXICITY: Section = Section {
    doc: "Scores from 0 to 1, made so that 0.5 is the point of operation. What is toxic and of no category counts from 0.5 on.",
    fields: &[
        field("hate", Kind::Share, "0.5", "Contempt or violence towards people for what they are."),
        field("insult", Kind::Share, "0.5", "Contempt towards somebody."),
        field("threat", Kind::Share, "0.5", "Violence announced or wished."),
        field("self_harm", Kind::Share, "0.5", "Somebody told to harm themselves."),
        field("sexual", Kind::Share, "0.5", "Sexual harassment."),
    ],
};

/// `shields[].risk`
pub static RISK: Section = Section {
    doc: "From the scores of all detectors to a level: LOW, MEDIUM, HIGH. The formula stands in docs/shield.md.",
    fields: &[
        field(
            "medium",
            Kind::Share,
            "0.4",
            "At least this is MEDIUM: a flagged attack alone is more, an e-mail address with a key is not.",
        ),
        field("high", Kind::Share, "0.8", "At least this is HIGH."),
        field(
            "on_medium",
            IN_PROMPT,
            "off",
            "What is done at MEDIUM, whatever the single detectors say. redact takes out everything that was found and has a place.",
        ),
        field("on_high", IN_PROMPT, "flag", "What is done at HIGH."),
    ],
};

/// `shields[].sizes`
pub static SIZES: Section = Section {
    doc: "Bounds on a prompt; 0 means none.",
    fields: &[
        field("action", OF_PROMPT, "block", "What is done beyond one of them."),
        field("tokens", Kind::Count(0, 1_000_000_000), "0", "Tokens of all texts, taken as a quarter of their bytes."),
        field("messages", Kind::Count(0, 1_000_000), "0", "Messages, or prompts of a batch."),
        field("tools", Kind::Count(0, 1_000_000), "0", "Tools offered."),
        field("nesting", Kind::Count(0, 128), "0", "Objects and lists inside one another; 128 are refused in any case."),
        field("output_tokens", Kind::Count(0, 1_000_000_000), "0", "Tokens asked for."),
    ],
};

/// `shields[].topics[]`
pub static TOPIC: Section = Section {
    doc: "A topic, by its words. When any topic is allowed, what users say must be about an allowed one.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in records and refusals."),
        field(
            "kind",
            Kind::Word(&["deny", "allow"]),
            "deny",
            "deny: prompts must not be about it. allow: they must be about this or another allowed one.",
        ),
        field("action", OF_PROMPT, "block", "What is done."),
        field("words", Kind::Texts, "", "Words and phrases, whole, in any case."),
        field("least", Kind::Count(1, 1000), "1", "How many different ones make the topic."),
    ],
};

/// `shields[].rules[]`
pub static RULE: Section = Section {
    doc: "A rule of your own: a regular expression, phrases, or both. It matches whole words, on both sides the same way.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in records, and in masks as `[NAME]`."),
        field(
            "regex",
            Kind::Text,
            "",
            "Linear-time syntax (no look-around, no back references), without anchors; every repetition bounded, 256 bytes at the most.",
        ),
        field("phrases", Kind::Texts, "", "Phrases in any case; the width of white space does not matter."),
        field("input", IN_PROMPT, "off", "What is done about it in prompts."),
        field("output", IN_ANSWER, "mask", "What is done about it in answers."),
    ],
};

/// `shields[].judges[]`
pub static JUDGE: Section = Section {
    doc: "A server or a model that is asked about prompts, answers or both. All judges of a stage are asked side by side.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in records and metrics."),
        field(
            "kind",
            Kind::Word(&["moderation", "guard-model", "classify", "analyzer", "webhook", "embeddings", "onnx"]),
            "webhook",
            "moderation: /v1/moderations. guard-model: a model behind chat completions. classify: /classify of vLLM. analyzer: /analyze of Presidio. webhook: JSON in, verdict out. embeddings: likeness to examples, by /v1/embeddings. onnx: a classifier in this process (feature `onnx`).",
        ),
        field("backend", Kind::Text, "", "The backend that is asked, by its name under `backends`; not for onnx."),
        field("path", Kind::Text, "", "Its path there. Default: the kind's own, see docs/shield.md."),
        field("model", Kind::Text, "", "The model that is named."),
        field(
            "template",
            Kind::Word(&["llama-guard", "prompt-guard", "yes-no"]),
            "llama-guard",
            "How a guard model is asked, and how it answers.",
        ),
        field(
            "input",
            IN_PROMPT,
            "flag",
            "What is done about its findings in prompts. redact takes out what it gives places for, and blocks otherwise.",
        ),
        field("output", OF_PROMPT, "off", "What is done about its findings in answers."),
        field("mode", MODES, "hold", "How it judges answers: hold, cut or end, see `output_mode`."),
        field(
            "on_failure",
            Kind::Word(&["closed", "open"]),
            "closed",
            "When it is late, dead, or makes no sense. closed: the request is refused with 503, or the answer ends. open: it passes, counted.",
        ),
        field("deadline", Kind::Duration, "2s", "How long it may take for one question."),
        field("threshold", Kind::Share, "0.5", "Scores from here on are findings."),
        field("categories", Kind::Texts, "", "Categories, labels or entities that count. Default: all that the kind calls harmful."),
        field("examples", Kind::Texts, "", "Sentences that a forbidden prompt is like (embeddings)."),
        field("language", Kind::Text, "en", "The language of the texts (analyzer)."),
        field("model_file", Kind::Text, "", "`model.onnx` (onnx)."),
        field("tokenizer_file", Kind::Text, "", "`tokenizer.json` (onnx)."),
        field("labels", Kind::Texts, "", "The label of each output of the model, in order (onnx)."),
    ],
};

/// `shields[].filters[]`
pub static FILTER: Section = Section {
    doc: "A filter that was added to this build.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in records and metrics."),
        field("use", Kind::RequiredText, "", "The name that it is registered under."),
        field(
            "class",
            Kind::Word(&["security", "traffic"]),
            "security",
            "security: its cost is booked as the guard's. traffic: it decides who may pass.",
        ),
        field("on_failure", Kind::Word(&["closed", "open"]), "closed", "When it is late or fails."),
        field("deadline", Kind::Duration, "1s", "How long it may take for one question."),
        field("mode", MODES, "cut", "How it judges answers, if it does."),
        field("with", Kind::TextMap, "", "Its own settings."),
    ],
};
