//! Human-readable phrase rules, grouped by family.
//!
//! - *In*: a segment of a normal text.
//! - *Out*: the family and the span of each match.
//! - *Never*: a verdict; a phrase is one feature among many.

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};

/// The intent of a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Sets earlier instructions aside.
    Override,
    /// Asks for the system prompt or another secret.
    Reveal,
    /// Puts the model into a mode or a persona without rules.
    Persona,
    /// Dictates the answer word by word.
    Hijack,
    /// Sends something elsewhere.
    Exfiltrate,
    /// Contains control tokens of a chat template.
    Template,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 6] = [
        Family::Override,
        Family::Reveal,
        Family::Persona,
        Family::Hijack,
        Family::Exfiltrate,
        Family::Template,
    ];

    /// The name used in records and in the table of phrases.
    pub fn name(self) -> &'static str {
        match self {
            Family::Override => "override",
            Family::Reveal => "reveal",
            Family::Persona => "persona",
            Family::Hijack => "hijack",
            Family::Exfiltrate => "exfiltrate",
            Family::Template => "template",
        }
    }
}

/// The automaton over all phrases.
#[derive(Debug)]
pub struct Phrases {
    automaton: AhoCorasick,
    families: Vec<Family>,
}

impl Phrases {
    /// Builds the automaton from the table that is compiled in.
    pub fn new() -> Result<Self, BuildError> {
        let rows = || {
            include_str!("phrases.txt")
                .lines()
                .filter(|l| !l.starts_with('#'))
                .filter_map(|l| l.split_once(": "))
        };
        let families = rows()
            .filter_map(|(name, _)| Family::ALL.into_iter().find(|f| f.name() == name))
            .collect();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::DFA))
            .build(rows().map(|(_, phrase)| phrase))?;
        Ok(Self { automaton, families })
    }

    /// The phrases of a segment: family, start, end.
    pub fn find<'a>(
        &'a self,
        segment: &'a str,
    ) -> impl Iterator<Item = (Family, usize, usize)> + 'a {
        self.automaton
            .find_iter(segment)
            .filter_map(|m| Some((*self.families.get(m.pattern().as_usize())?, m.start(), m.end())))
    }
}
