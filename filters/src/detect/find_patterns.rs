//! Personal data and credentials in prompts, by the tables of `shield`.
//!
//! A text is scanned as sent and, if it is disguised, once more in its normalized form: look-alike
//! and full-width characters are folded, invisible ones removed, and runs of base64, hex, percent
//! escapes or entities decoded. The span of such a finding covers the original characters.

use std::borrow::Cow;
use std::collections::HashMap;

use shield::finding::{Family, Finding};
use shield::normalise::{Disguise, Normal};
use shield::pattern::Pattern;
use shield::scan::Scanner;

use crate::filter::{Filter, Hooks};
use crate::kinds::KindSettings;
use crate::report::{Category, Found, Report};
use crate::settings::Action;
use crate::subject::{Side, Subject};

/// Finds personal data and credentials.
pub struct FindPatterns {
    scanner: Scanner,
    actions: HashMap<Cow<'static, str>, Action>,
}

impl std::fmt::Debug for FindPatterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FindPatterns").field("rules", &self.actions.len()).finish_non_exhaustive()
    }
}

impl FindPatterns {
    /// The kinds, and the actions on personal data and credentials in prompts. `None` if no rule
    /// has an action.
    pub fn new(kinds: &KindSettings, pii: Action, secrets: Action) -> Option<Self> {
        let rules = kinds.rules(Side::Input, pii, secrets);
        let family = |rule: &Pattern| if rule.family == Family::Pii { pii } else { secrets };
        let action = |rule: &Pattern| kinds.action(rule, Side::Input, family(rule));
        let actions = rules.iter().map(|rule| (rule.rule.clone(), action(rule))).collect();
        let scanner = Scanner::new(&rules.iter().collect::<Vec<_>>()).allowing(kinds.allowed());
        (!rules.is_empty()).then_some(FindPatterns { scanner, actions })
    }

    /// Every kind, with reserved addresses; for the command line.
    pub fn all() -> Self {
        let rules = shield::rules();
        let actions = rules.iter().map(|rule| (rule.rule.clone(), Action::Flag)).collect();
        FindPatterns { scanner: Scanner::new(&rules), actions }
    }

    /// The findings of a text, plain and disguised, in the order of the text.
    pub fn find(&self, text: &str, normal: &Normal) -> Vec<Finding> {
        let mut found = Vec::new();
        if arguments::is_json(text) {
            self.scanner.find_in_json(text, &mut found);
        } else {
            self.scanner.find(text, &mut found);
        }
        let mut disguised = Vec::new();
        let marks = normal.marks;
        if marks.invisible + marks.tags + marks.confusable + marks.compatibility > 0 {
            self.scanner.find(&normal.text, &mut disguised);
            disguised
                .iter_mut()
                .for_each(|finding| finding.span = normal.original(finding.span.clone()));
        }
        // Undoing leet, rot13 or reversed text would turn plain words into numbers and keys.
        let readable =
            |disguise| !matches!(disguise, Disguise::Leet | Disguise::Rot13 | Disguise::Reversed);
        for view in normal.views.iter().filter(|view| readable(view.disguise)) {
            let mut inside = Vec::new();
            self.scanner.find(&view.text, &mut inside);
            disguised.extend(
                inside.into_iter().map(|finding| Finding { span: view.span.clone(), ..finding }),
            );
        }
        with_disguised(found, disguised)
    }
}

/// Merges both in the order of the text. A disguised finding that overlaps an earlier one of its
/// family is dropped: it was found in the plain text already, or twice in one disguise.
fn with_disguised(mut found: Vec<Finding>, mut disguised: Vec<Finding>) -> Vec<Finding> {
    if disguised.is_empty() {
        return found;
    }
    for family in [Family::Pii, Family::Secret] {
        let mut plain = found
            .iter()
            .filter(|finding| finding.family == family)
            .map(|finding| finding.span.clone())
            .peekable();
        disguised.sort_by_key(|finding| (finding.span.start, finding.span.end));
        let mut taken = 0;
        disguised.retain(|finding| {
            if finding.family != family {
                return true;
            }
            while plain.next_if(|span| span.end <= finding.span.start).is_some() {}
            let meets = plain.peek().is_some_and(|span| span.start < finding.span.end)
                || finding.span.start < taken;
            taken = if meets { taken } else { finding.span.end };
            !meets
        });
    }
    found.extend(disguised);
    found.sort_by_key(|finding| (finding.span.start, finding.span.end));
    found
}

impl Filter for FindPatterns {
    fn hooks(&self) -> Hooks {
        Hooks::DETECT
    }

    fn detect(&self, subject: &Subject) -> Report {
        let mut report = Report::default();
        for (at, (_, text)) in subject.texts().enumerate() {
            for finding in self.find(text, subject.normal(at)) {
                let category = match finding.family {
                    Family::Pii => Category::Pii,
                    _ => Category::Secret,
                };
                let action = self.actions.get(&finding.rule).copied().unwrap_or(Action::Flag);
                let Finding { kind, rule, span, score, .. } = finding;
                report.found.push(Found { rule, kind, category, text: at, span, score, action });
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(String, String)> {
        let filter = FindPatterns::new(&KindSettings::all(), Action::Flag, Action::Block).unwrap();
        let report = filter.detect(&Subject::of_user(text));
        report
            .found
            .iter()
            .map(|found| (found.kind.to_string(), text[found.span.clone()].to_owned()))
            .collect()
    }

    #[test]
    fn disguised_values_are_found_with_their_original_span() {
        let plain = kinds("pay with 4111 1111 1111 1111 now");
        assert_eq!(plain, [("CREDIT_CARD".into(), "4111 1111 1111 1111".into())]);
        for (text, covered) in [
            (
                "pay with ４１１１ １１１１ １１１１ １１１１ now",
                "４１１１ １１１１ １１１１ １１１１",
            ),
            (
                "pay with 4111\u{200b} 1111 11\u{200b}11 1111 now",
                "4111\u{200b} 1111 11\u{200b}11 1111",
            ),
            (
                "send NDExMSAxMTExIDExMTEgMTExMSBpcyBteSBjYXJk please",
                "NDExMSAxMTExIDExMTEgMTExMSBpcyBteSBjYXJk",
            ),
        ] {
            assert_eq!(kinds(text), [("CREDIT_CARD".to_owned(), covered.to_owned())], "{text}");
        }
    }

    #[test]
    fn harmless_disguised_text_has_no_findings() {
        for text in [
            "the word ｈｅｌｌｏ",
            "v1.2.3 and l33t sp34k",
            "aGVsbG8gd29ybGQgaG93IGFyZSB5b3UgdG9kYXk=",
            "naïve café — résumé",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn each_family_has_its_own_action() {
        let filter = FindPatterns::new(&KindSettings::all(), Action::Off, Action::Block).unwrap();
        let report =
            filter.detect(&Subject::of_user("mail jane.roe@example.org, key AKIAZ5GRQ7T2MXW4KLPB"));
        assert_eq!(
            report.found.iter().map(|found| (found.category, found.action)).collect::<Vec<_>>(),
            [(Category::Secret, Action::Block)]
        );
        assert!(FindPatterns::new(&KindSettings::all(), Action::Off, Action::Off).is_none());
    }
}
