//! Embedded classifiers of attacks on the model and of toxic language.
//!
//! - *In*: a [`Normal`] text; the bytes of a weights file.
//! - *Out*: [`Scores`], calibrated to a threshold of 0.5, and the first matching phrase.
//! - *Never*: a decision, a network call, a panic; the same text and weights give the same scores
//!   to the bit.
//!
//! All are linear models over hashed characters, words and *parts* (the roles of words, see
//! `lexicon.txt`), with one table for all. The category of toxic language comes from
//! phrases (`toxic.txt`) and the classifier's score.

pub mod extract;
pub mod features;
mod format;
pub mod hash;
pub mod lexicon;
pub mod phrase;
mod scorer;
mod seen;
pub mod toxic;

use lexicon::Lexicon;
use phrase::Phrases;
use shield::normalise::Normal;

pub use extract::Phrase;
pub use format::BadWeights;
pub use phrase::Family;
pub use toxic::ToxicCategory;

/// The weights of this version, written by `llm-lens shield train`; `docs/guardrails.md` has their
/// accuracy.
pub const WEIGHTS: &[u8] = include_bytes!("../weights.bin");

/// The classes that a text is scored for, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Prompt injection, jailbreak, prompt extraction in the words of a user. Users may give
    /// instructions.
    Injection,
    /// Hate, harassment, insult, threat.
    Toxicity,
    /// Prompt injection in a tool result or a document, which may not.
    ToolInjection,
}

/// How many classes there are.
pub const TASKS: usize = 3;

impl Task {
    /// All classes.
    pub const ALL: [Task; TASKS] = [Task::Injection, Task::Toxicity, Task::ToolInjection];
}

/// The scores of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Prompt injection, if a user wrote the text. 0.5 is the score of one harmless text in a
    /// hundred, [`RARE`] that of one in a thousand. The same holds for the next two.
    pub injection: f32,
    /// Prompt injection, if the text is a tool result or a document.
    pub tool_injection: f32,
    /// Toxicity.
    pub toxicity: f32,
    /// Toxicity by category, in the order of [`ToxicCategory::ALL`]: 0 if no phrase of the table
    /// matches.
    pub toxic: [f32; ToxicCategory::ALL.len()],
    /// The first matching phrase of an attack, whatever the score.
    pub phrase: Option<Phrase>,
}

impl Scores {
    /// The maximum of the toxicity score and of its categories.
    pub fn worst_toxicity(&self) -> f32 {
        self.toxic.iter().copied().fold(self.toxicity, f32::max)
    }
}

/// The score that one harmless text in a thousand reaches; one in a hundred reaches 0.5.
pub const RARE: f32 = 0.9;

/// Accuracy measured in training. The weights file contains it, so that a deployment can report it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// ROC-AUC on sources that the weights were not trained on.
    pub auc: f32,
    /// True positive rate at one per cent false positives, on the same.
    pub tpr: f32,
}

/// Turns the sums of a column into the score of its question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// The value of one step of a quantized weight.
    pub scale: f32,
    /// How much each kind of feature counts.
    pub kinds: [f32; features::KINDS],
    /// The weight of the worst sentence, relative to the whole text.
    pub peak: f32,
    /// The raw score that becomes 0.5.
    pub threshold: f32,
    /// The slope of the score around 0.5.
    pub slope: f32,
    /// What training measured.
    pub measured: Accuracy,
}

impl Head {
    /// The score of a raw score.
    pub fn calibrated(&self, raw: f32) -> f32 {
        1.0 / (1.0 + (-self.slope * (raw - self.threshold)).exp())
    }
}

/// All classifiers, ready to score.
#[derive(Debug)]
pub struct Model {
    /// Weights of all classes by bucket, side by side: one lookup serves all.
    pub weights: Vec<[i8; TASKS]>,
    /// One head for each class, in the order of [`Task::ALL`].
    pub heads: [Head; TASKS],
    /// Classes of words.
    pub lexicon: Lexicon,
    /// Phrases of attacks.
    pub phrases: Phrases,
    /// Phrases by category of toxic language.
    pub toxic: toxic::Table,
}

impl Model {
    /// Reads a weights file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadWeights> {
        format::read(bytes)
    }

    /// The weights file of this model.
    pub fn to_bytes(&self) -> Vec<u8> {
        format::write(self)
    }

    /// What training measured for a question.
    pub fn measured(&self, question: Task) -> Accuracy {
        self.head(question).measured
    }

    /// The head that answers a question.
    pub fn head(&self, question: Task) -> &Head {
        let [injection, toxicity, tool] = &self.heads;
        match question {
            Task::Injection => injection,
            Task::Toxicity => toxicity,
            Task::ToolInjection => tool,
        }
    }

    /// Scores a text. A long one is scored window by window, and the highest score counts.
    pub fn score(&self, normal: &Normal) -> Scores {
        let (raw, phrase) = self.raw(normal);
        let [injection, toxicity, tool] = raw;
        let toxicity = self.head(Task::Toxicity).calibrated(toxicity);
        Scores {
            injection: self.head(Task::Injection).calibrated(injection),
            tool_injection: self.head(Task::ToolInjection).calibrated(tool),
            toxicity,
            toxic: self.toxic.scores(normal, toxicity),
            phrase,
        }
    }

    /// The score of each question before calibration, and the first phrase of an attack.
    pub fn raw(&self, normal: &Normal) -> ([f32; TASKS], Option<Phrase>) {
        let mut scorer = scorer::Scorer::new(self);
        let phrase = extract::extract(&self.lexicon, &self.phrases, normal, &mut scorer);
        (scorer.finish(), phrase)
    }
}

#[cfg(test)]
mod tests;
