//! Patterns from settings, compiled to rules like those of the tables.
//!
//! - *In*: regular expressions and phrases of the settings.
//! - *Out*: [`Pattern`]s for the scanners; an error for an expression that cannot be a rule.
//! - *Never*: a pattern that costs more than linear time, or whose matches have no maximum length.

use regex_syntax::hir::Hir;
use shield::finding::Family;
use shield::pattern::Pattern;

use crate::settings::{Honeytoken, Rule};

/// Maximum bytes of a match of an operator's expression; streams hold no more for it.
const MAX_MATCH_BYTES: usize = 256;

/// Whether an expression can be a rule.
///
/// # Errors
/// Why it cannot, as a message for the operator.
pub fn check_rule(regex: &str) -> Result<(), String> {
    let tree = parse(regex)?;
    match (tree.properties().minimum_len(), tree.properties().maximum_len()) {
        (None | Some(0), _) => {
            Err("it matches the empty text; require at least one character".into())
        }
        (_, Some(most)) if most > MAX_MATCH_BYTES => Err(format!(
            "it can match {most} bytes, more than the maximum of {MAX_MATCH_BYTES}; shorten its repetitions"
        )),
        (_, None) => Err(format!(
            "its matches have no maximum length; bound each repetition, for example {{1,64}} \
             (at most {MAX_MATCH_BYTES} bytes in total)"
        )),
        _ if !tree.properties().look_set().is_empty() => {
            Err("anchors and word boundaries do not work in streams; remove them: rules match \
                 whole words only"
                .into())
        }
        _ => Ok(()),
    }
}

fn parse(regex: &str) -> Result<Hir, String> {
    regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(regex).map_err(
        |error| {
            // The library's message has several lines; the last one is the reason.
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        },
    )
}

/// The patterns of an operator's rule.
pub(crate) fn of_rule(rule: &Rule) -> Vec<Pattern> {
    let name = format!("policy.{}", rule.name);
    let kind = rule.name.to_ascii_uppercase().replace(['-', '.', '/'], "_");
    let phrases = rule.phrases.iter().map(|phrase| literal(phrase));
    let expressions =
        Some(rule.regex.clone()).filter(|regex| !regex.is_empty()).into_iter().chain(phrases);
    expressions.map(|regex| pattern(name.clone(), kind.clone(), regex, Family::Policy)).collect()
}

/// The pattern of a honeytoken.
pub(crate) fn of_honeytoken(honeytoken: &Honeytoken) -> Pattern {
    pattern("leak.honeytoken".into(), "HONEYTOKEN".into(), literal(&honeytoken.0), Family::Leak)
}

/// Maximum bytes of a placeholder; its kind has at most 64.
pub(crate) const MAX_PLACEHOLDER: usize = 80;

/// The rule that matches placeholders in answers. A match is replaced by its original value and is
/// not reported as a finding.
pub const PLACEHOLDER: &str = "shield.placeholder";

/// The pattern of placeholders: they replace redacted text in prompts, and answers may repeat them.
pub(crate) fn of_placeholder() -> Pattern {
    pattern(
        PLACEHOLDER.into(),
        "PLACEHOLDER".into(),
        r"\[[A-Z0-9][A-Z0-9_]{0,63}_[0-9]{1,7}\]".into(),
        Family::Placeholder,
    )
}

/// A phrase as an expression: case and the width of white space do not matter.
fn literal(phrase: &str) -> String {
    let words: Vec<String> = phrase.split_whitespace().map(regex_syntax::escape).collect();
    format!("(?i){}", words.join(r"[ \t\r\n]{1,4}"))
}

fn pattern(name: String, kind: String, regex: String, family: Family) -> Pattern {
    let longest = parse(&regex)
        .ok()
        .and_then(|tree| tree.properties().maximum_len())
        .unwrap_or(MAX_MATCH_BYTES);
    Pattern {
        rule: name.into(),
        kind: kind.into(),
        family,
        regex: regex.into(),
        longest,
        check: None,
        score: 1.0,
        context: None,
        close: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_expressions_report_the_reason() {
        assert_eq!(check_rule("PROJECT-[0-9]{3,6}"), Ok(()));
        assert_eq!(check_rule("(?i)internal use only"), Ok(()));
        for (regex, why) in [
            ("a*", "empty"),
            ("a+b", "no maximum length"),
            ("a{300}", "300 bytes"),
            ("(a", "unclosed group"),
            (r"\bword\b", "anchors"),
            ("^x", "anchors"),
        ] {
            let said = check_rule(regex).unwrap_err();
            assert!(said.contains(why), "{regex}: {said}");
        }
    }

    #[test]
    fn rule_has_a_pattern_for_its_expression_and_each_phrase() {
        let rule = Rule {
            name: "code-name".into(),
            regex: "X[0-9]{2}".into(),
            phrases: vec!["Blue  Moon (v2)".into()],
            input: crate::settings::Action::Off,
            output: crate::settings::Action::Mask,
        };
        let made = of_rule(&rule);
        assert_eq!(made.len(), 2);
        assert_eq!(
            (&*made[0].rule, &*made[0].kind, &*made[1].regex),
            ("policy.code-name", "CODE_NAME", r"(?i)Blue[ \t\r\n]{1,4}Moon[ \t\r\n]{1,4}\(v2\)")
        );
    }
}
