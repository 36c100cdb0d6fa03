//! The operator's own rules, in prompts.
//!
//! They run through the streaming scanner, as in answers, so that a rule matches the same on both
//! sides.

use shield::stream::{Automata, Channel, Piece};

use crate::filter::{Filter, Hooks};
use crate::report::{Category, Found, Report};
use crate::settings::{Action, Rule};
use crate::subject::Subject;

/// Finds what the operator's rules name.
#[derive(Debug)]
pub struct MatchRules {
    automata: Automata,
    /// By rule name.
    actions: Vec<(String, Action)>,
}

impl MatchRules {
    /// `None`, when no rule is for prompts.
    ///
    /// # Errors
    /// The rules cannot be compiled together.
    pub fn new(rules: &[Rule]) -> Result<Option<Self>, shield::stream::BuildError> {
        let rules: Vec<&Rule> = rules.iter().filter(|rule| rule.input != Action::Off).collect();
        let patterns: Vec<_> =
            rules.iter().flat_map(|rule| crate::patterns::of_rule(rule)).collect();
        if patterns.is_empty() {
            return Ok(None);
        }
        let actions =
            rules.iter().map(|rule| (format!("policy.{}", rule.name), rule.input)).collect();
        Ok(Some(MatchRules {
            automata: Automata::new(&patterns, crate::guardrail::options(512))?,
            actions,
        }))
    }
}

impl Filter for MatchRules {
    fn hooks(&self) -> Hooks {
        Hooks::DETECT
    }

    fn detect(&self, subject: &Subject) -> Report {
        let mut report = Report::default();
        for (at, (_, text)) in subject.texts().enumerate() {
            let mut note = |piece: Piece<'_>| {
                let Piece::Mask { finding, .. } = piece else { return };
                let action = self
                    .actions
                    .iter()
                    .find(|(name, _)| *name == finding.rule)
                    .map_or(Action::Flag, |(_, action)| *action);
                report.found.push(Found {
                    rule: finding.rule.clone(),
                    kind: finding.kind.clone(),
                    category: Category::Policy,
                    text: at,
                    span: finding.span.clone(),
                    score: finding.score,
                    action,
                });
            };
            let mut channel = Channel::new();
            channel.push(&self.automata, text, &mut note);
            channel.finish(&self.automata, &mut note);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_whole_words_only() {
        let rule = |name: &str, regex: &str, phrases: &[&str], input| Rule {
            name: name.into(),
            regex: regex.into(),
            phrases: phrases.iter().map(|&phrase| phrase.to_owned()).collect(),
            input,
            output: Action::Off,
        };
        let rules = [
            rule("ticket", "TICKET-[0-9]{2,6}", &[], Action::Mask),
            rule("names", "", &["blue moon", "Projekt Übermut"], Action::Block),
            rule("answers-only", "zzz", &[], Action::Off),
        ];
        let filter = MatchRules::new(&rules).unwrap().unwrap();
        let text =
            "About BLUE\n moon: TICKET-1234, projekt Übermut; not bluemoon, XTICKET-12, zzz.";
        let found = filter.detect(&Subject::of_user(text)).found;
        let seen: Vec<_> = found
            .iter()
            .map(|found| (found.rule.as_ref(), &text[found.span.clone()], found.action))
            .collect();
        assert_eq!(
            seen,
            [
                ("policy.names", "BLUE\n moon", Action::Block),
                ("policy.ticket", "TICKET-1234", Action::Mask),
                ("policy.names", "projekt Übermut", Action::Block),
            ]
        );
        assert!(MatchRules::new(&rules[2..]).unwrap().is_none());
    }
}
