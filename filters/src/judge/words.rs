//! Maps the labels of judges to names of findings.
//!
//! - *In*: tables of the known labels of each kind of judge; the operator's categories.
//! - *Out*: for a label, the name of the finding and its category, or that it does not count.
//! - *Never*: a name from an unknown label. An unlisted label becomes `OTHER`, or is ignored if the
//!   operator listed categories.

use crate::report::{Category, Name};

/// The name and the category of a finding.
pub(super) type Known<'w> = (&'w Name, Category);

/// One line of a table: the judge's word, our name, the category.
pub(super) type Line = (&'static str, &'static str, Category);

const TOXIC: Category = Category::Toxicity;
const HARM: Category = Category::Unsafe;
const ATTACK: Category = Category::Injection;

/// The categories of OpenAI's moderation.
pub(super) const MODERATION: &[Line] = &[
    ("harassment", "HARASSMENT", TOXIC),
    ("harassment/threatening", "HARASSMENT_THREATENING", TOXIC),
    ("hate", "HATE", TOXIC),
    ("hate/threatening", "HATE_THREATENING", TOXIC),
    ("illicit", "ILLICIT", HARM),
    ("illicit/violent", "ILLICIT_VIOLENT", HARM),
    ("self-harm", "SELF_HARM", HARM),
    ("self-harm/intent", "SELF_HARM_INTENT", HARM),
    ("self-harm/instructions", "SELF_HARM_INSTRUCTIONS", HARM),
    ("sexual", "SEXUAL", HARM),
    ("sexual/minors", "SEXUAL_MINORS", HARM),
    ("violence", "VIOLENCE", TOXIC),
    ("violence/graphic", "VIOLENCE_GRAPHIC", TOXIC),
];

/// The hazards of Llama Guard.
pub(super) const HAZARDS: &[Line] = &[
    ("S1", "VIOLENT_CRIMES", HARM),
    ("S2", "NON_VIOLENT_CRIMES", HARM),
    ("S3", "SEX_CRIMES", HARM),
    ("S4", "CHILD_EXPLOITATION", HARM),
    ("S5", "DEFAMATION", HARM),
    ("S6", "SPECIALIZED_ADVICE", HARM),
    ("S7", "PRIVACY", HARM),
    ("S8", "INTELLECTUAL_PROPERTY", HARM),
    ("S9", "INDISCRIMINATE_WEAPONS", HARM),
    ("S10", "HATE", TOXIC),
    ("S11", "SELF_HARM", HARM),
    ("S12", "SEXUAL_CONTENT", HARM),
    ("S13", "ELECTIONS", HARM),
    ("S14", "CODE_INTERPRETER_ABUSE", HARM),
];

/// The labels of attack classifiers. The numbered ones are those of Prompt Guard, whose models ship
/// without names.
pub(super) const ATTACKS: &[Line] = &[
    ("INJECTION", "INJECTION", ATTACK),
    ("JAILBREAK", "JAILBREAK", ATTACK),
    ("MALICIOUS", "MALICIOUS", ATTACK),
    ("LABEL_1", "INJECTION", ATTACK),
    ("LABEL_2", "JAILBREAK", ATTACK),
];

/// The label of such a classifier for harmless text.
pub(super) const HARMLESS: [&str; 3] = ["BENIGN", "SAFE", "LABEL_0"];

/// The labels of toxicity classifiers; they count only if the operator lists them.
const RUDE: &[Line] = &[
    ("toxic", "TOXIC", TOXIC),
    ("toxicity", "TOXICITY", TOXIC),
    ("severe_toxic", "SEVERE_TOXIC", TOXIC),
    ("insult", "INSULT", TOXIC),
    ("threat", "THREAT", TOXIC),
    ("obscene", "OBSCENE", TOXIC),
    ("identity_hate", "IDENTITY_HATE", TOXIC),
    ("offensive", "OFFENSIVE", TOXIC),
];

static OTHER: Name = Name::Borrowed("OTHER");

/// Maximum bytes of a label that is looked up; no table has a longer one.
const MAX_LABEL_BYTES: usize = 64;

/// The labels that count for one judge.
#[derive(Debug)]
pub(super) struct Words {
    /// The normalized label, the name of the finding, and its category.
    lines: Vec<(String, Name, Category)>,
    /// The category of unlisted labels; `None`: they do not count.
    others: Option<Category>,
}

impl Words {
    /// The labels of `table`, or the operator's `categories` if there are any. Operator labels that
    /// no table has get `category`, and so do unlisted labels if `open`.
    pub(super) fn new<'t>(
        table: impl IntoIterator<Item = &'t Line>,
        categories: &[String],
        category: Category,
        open: bool,
    ) -> Self {
        let table: Vec<_> = table
            .into_iter()
            .map(|&(said, kind, about)| (spelled(said), Name::Borrowed(kind), about))
            .collect();
        if categories.is_empty() {
            return Words { lines: table, others: open.then_some(category) };
        }
        let mut lines = Vec::new();
        for wanted in categories.iter().map(|word| spelled(word)).filter(|word| !word.is_empty()) {
            let before = lines.len();
            lines.extend(
                table.iter().filter(|(said, kind, _)| *said == wanted || *kind == wanted).cloned(),
            );
            if lines.len() == before {
                let about = about(&wanted).unwrap_or(category);
                lines.push((wanted.clone(), Name::Owned(wanted), about));
            }
        }
        Words { lines, others: None }
    }

    /// The name and category of a label; `None` if it does not count.
    pub(super) fn find(&self, said: &str) -> Option<Known<'_>> {
        let word = if said.len() <= MAX_LABEL_BYTES { spelled(said) } else { String::new() };
        let listed = self
            .lines
            .iter()
            .find(|(known, _, _)| *known == word)
            .map(|(_, kind, about)| (kind, *about));
        listed.or_else(|| self.others.map(other))
    }
}

/// A finding without a listed name.
pub(super) fn other(about: Category) -> Known<'static> {
    (&OTHER, about)
}

/// Whether a label is among those for "no attack".
pub(super) fn is_harmless(label: &str) -> bool {
    HARMLESS.iter().any(|known| known.eq_ignore_ascii_case(label))
}

/// Whether a label is among those for attacks.
pub(super) fn is_attack(label: &str) -> bool {
    ATTACKS.iter().any(|(known, _, _)| known.eq_ignore_ascii_case(label))
}

/// The category of an operator's label, if any table has it.
fn about(wanted: &str) -> Option<Category> {
    [MODERATION, ATTACKS, HAZARDS, RUDE]
        .into_iter()
        .flatten()
        .find(|(_, kind, _)| *kind == wanted)
        .map(|(_, _, about)| *about)
}

/// Normalizes a label: `harassment/threatening` and `Harassment Threatening` become
/// `HARASSMENT_THREATENING`.
fn spelled(word: &str) -> String {
    word.trim()
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .flat_map(char::to_uppercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(words: &Words, said: &str) -> Option<(String, Category)> {
        words.find(said).map(|(kind, about)| (kind.to_string(), about))
    }

    #[test]
    fn an_unlisted_word_never_becomes_a_name() {
        let words = Words::new(MODERATION, &[], HARM, true);
        assert_eq!(named(&words, "hate/threatening"), Some(("HATE_THREATENING".into(), TOXIC)));
        assert_eq!(named(&words, "user_4711"), Some(("OTHER".into(), HARM)));
        assert_eq!(named(&words, &"x".repeat(1 << 20)), Some(("OTHER".into(), HARM)));
        assert_eq!(named(&Words::new(ATTACKS, &[], ATTACK, false), "neutral"), None);
    }

    #[test]
    fn operator_list_excludes_all_other_labels() {
        let words = Words::new(MODERATION, &["Hate".into(), "our policy".into()], HARM, true);
        assert_eq!(named(&words, "hate"), Some(("HATE".into(), TOXIC)));
        assert_eq!(named(&words, "our policy"), Some(("OUR_POLICY".into(), HARM)));
        assert_eq!(named(&words, "violence"), None);
        assert_eq!(named(&words, ""), None);
    }

    #[test]
    fn operator_list_accepts_labels_and_finding_names() {
        let ours = Words::new(HAZARDS, &["HATE".into(), "S1".into()], HARM, true);
        assert_eq!(named(&ours, "S10"), Some(("HATE".into(), TOXIC)));
        assert_eq!(named(&ours, "s1"), Some(("VIOLENT_CRIMES".into(), HARM)));
        let labels = Words::new(ATTACKS, &["injection".into(), "toxic".into()], HARM, false);
        assert_eq!(named(&labels, "LABEL_1"), Some(("INJECTION".into(), ATTACK)));
        assert_eq!(named(&labels, "toxic"), Some(("TOXIC".into(), TOXIC)));
        assert_eq!(named(&labels, "LABEL_2"), None);
    }
}
