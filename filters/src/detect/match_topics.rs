//! Topics of prompts, by words.
//!
//! A topic is a set of words and phrases. A text is about it if it contains enough different ones.
//! If any topic is allowed, texts of users must be about an allowed one. Similarity to example
//! sentences is checked by a judge (`embeddings`).

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use wire::request::PromptRole;

use crate::filter::{Filter, Hooks};
use crate::report::{Category, Found, Name, Report};
use crate::settings::{Action, Topic};
use crate::subject::{Subject, TextSource};

/// Finds topics.
#[derive(Debug)]
pub struct MatchTopics {
    words: AhoCorasick,
    /// By word: its topic.
    of_word: Vec<usize>,
    topics: Vec<Known>,
    /// The action on prompts that are not about any allowed topic.
    fence: Action,
}

#[derive(Debug)]
struct Known {
    rule: Name,
    kind: Name,
    allowed: bool,
    action: Action,
    least: usize,
}

impl MatchTopics {
    /// `None`, when there is no topic.
    ///
    /// # Errors
    /// When the words together need too much memory.
    pub fn new(topics: &[Topic]) -> Result<Option<Self>, String> {
        let topics: Vec<&Topic> = topics
            .iter()
            .filter(|topic| topic.action != Action::Off && !topic.words.is_empty())
            .collect();
        if topics.is_empty() {
            return Ok(None);
        }
        let words = topics
            .iter()
            .enumerate()
            .flat_map(|(at, topic)| topic.words.iter().map(move |word| (at, word.to_lowercase())));
        let (of_word, words): (Vec<usize>, Vec<String>) = words.unzip();
        let words = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(words)
            .map_err(|error| error.to_string())?;
        let known = |topic: &&Topic| Known {
            rule: format!("topic.{}", topic.name).into(),
            kind: format!(
                "TOPIC_{}",
                topic.name.to_ascii_uppercase().replace(['-', '.', '/'], "_")
            )
            .into(),
            allowed: topic.allowed,
            action: topic.action,
            least: topic.least.max(1),
        };
        let fence = topics
            .iter()
            .filter(|topic| topic.allowed)
            .map(|topic| topic.action)
            .max()
            .unwrap_or_default();
        Ok(Some(MatchTopics { words, of_word, topics: topics.iter().map(known).collect(), fence }))
    }

    /// The topics of a text.
    fn topics_of(&self, text: &str) -> BTreeSet<usize> {
        let folded = text.to_lowercase();
        let mut seen: BTreeSet<(usize, usize)> = BTreeSet::new();
        for found in self.words.find_overlapping_iter(&folded) {
            let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
            let (before, after) = (
                folded.get(..found.start()).unwrap_or_default(),
                folded.get(found.end()..).unwrap_or_default(),
            );
            // Chinese and Japanese have no spaces between words: a match needs no word boundary.
            let spaceless =
                |c: Option<char>| c.is_some_and(|c| ('\u{2E80}'..='\u{D7FF}').contains(&c));
            let whole = (apart(before.chars().next_back()) && apart(after.chars().next()))
                || spaceless(folded.get(found.start()..).and_then(|rest| rest.chars().next()));
            if let (Some(topic), true) = (self.of_word.get(found.pattern().as_usize()), whole) {
                seen.insert((*topic, found.pattern().as_usize()));
            }
        }
        let enough = |at: &usize| {
            let count = seen.iter().filter(|(topic, _)| topic == at).count();
            self.topics.get(*at).is_some_and(|topic| count >= topic.least)
        };
        (0..self.topics.len()).filter(enough).collect()
    }
}

impl Filter for MatchTopics {
    fn hooks(&self) -> Hooks {
        Hooks::DETECT
    }

    fn detect(&self, subject: &Subject) -> Report {
        let mut report = Report::default();
        let mut found = |rule: &Name, kind: &Name, text: usize, length: usize, action| {
            let (rule, kind, category) = (rule.clone(), kind.clone(), Category::Topic);
            report.found.push(Found {
                rule,
                kind,
                category,
                text,
                span: 0..length,
                score: 1.0,
                action,
            });
        };
        // The last text of a user, and whether any text is about an allowed topic.
        let (mut last, mut inside) = (None, false);
        for (at, (voice, text)) in
            subject.texts().enumerate().filter(|(_, (voice, _))| voice.is_untrusted())
        {
            for topic in self
                .topics_of(&subject.normal(at).text)
                .iter()
                .filter_map(|topic| self.topics.get(*topic))
            {
                match topic.allowed {
                    true => inside = true,
                    false => found(&topic.rule, &topic.kind, at, text.len(), topic.action),
                }
            }
            if voice == TextSource::Prompt(PromptRole::User) {
                last = Some((at, text.len()));
            }
        }
        if let (Some((at, length)), false, true) = (last, inside, self.fence != Action::Off) {
            found(&"topic.outside".into(), &"OFF_TOPIC".into(), at, length, self.fence);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, allowed: bool, least: usize, words: &[&str]) -> Topic {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Topic { name: name.into(), allowed, action: Action::Block, words, least }
    }

    fn rules(topics: &[Topic], text: &str) -> Vec<String> {
        let filter = MatchTopics::new(topics).unwrap().unwrap();
        filter
            .detect(&Subject::of_user(text))
            .found
            .iter()
            .map(|found| found.rule.to_string())
            .collect()
    }

    #[test]
    fn forbidden_topic_needs_enough_whole_words() {
        let topics = [
            topic("weapons", false, 1, &["gun", "hand grenade"]),
            topic("tax", false, 2, &["tax", "deduct", "税金"]),
        ];
        assert_eq!(rules(&topics, "Where can I buy a GUN or a Hand Grenade?"), ["topic.weapons"]);
        assert!(rules(&topics, "The gunwale has begun to rot; taxonomy is hard.").is_empty());
        assert!(rules(&topics, "One tax is not enough.").is_empty());
        assert_eq!(rules(&topics, "May I deduct my tax, or 税金について?"), ["topic.tax"]);
        assert_eq!(rules(&topics, "a ｇｕｎ in disguise"), ["topic.weapons"]);
    }

    #[test]
    fn prompts_outside_of_allowed_topics_are_reported() {
        let topics =
            [topic("cooking", true, 1, &["soup", "bread"]), topic("weapons", false, 1, &["gun"])];
        assert!(rules(&topics, "How do I bake bread?").is_empty());
        assert_eq!(rules(&topics, "Who won the match?"), ["topic.outside"]);
        assert_eq!(rules(&topics, "bread and a gun"), ["topic.weapons"]);
        assert!(MatchTopics::new(&[]).unwrap().is_none());
    }
}
