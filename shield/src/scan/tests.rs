use std::borrow::Cow;

use super::*;

fn found(text: &str) -> Vec<(Cow<'static, str>, String)> {
    let rules: Vec<&'static Pattern> =
        crate::pii::patterns().chain(crate::secrets::patterns()).collect();
    let mut out = Vec::new();
    Scanner::new(&rules).find(text, &mut out);
    out.into_iter().map(|f| (f.kind, text[f.span].to_owned())).collect()
}

#[test]
fn every_rule_parses_and_none_matches_the_empty_text() {
    for rule in crate::pii::patterns().chain(crate::secrets::patterns()) {
        assert!(automaton::parses(rule), "{}", rule.rule);
        let regex = regex::Regex::new(&rule.regex)
            .expect("the expression is valid for the regex crate too");
        assert!(!regex.is_match(""), "{}", rule.rule);
        assert!(
            rule.longest > 0 && rule.regex.is_ascii() || rule.context.is_some(),
            "{}",
            rule.rule
        );
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> =
        crate::pii::patterns().chain(crate::secrets::patterns()).map(|p| &p.rule).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(all, names.len());
}

#[test]
fn several_kinds_are_found_in_one_text() {
    let token = concat!("gh", "p_", "R7q2Kd9fT4mX8wB1zLc6VhN3sYpG5jA0uEoi");
    let text = format!(
        "Write to jo.bloggs@mail.example.org (see https://example.org/a?b=c), ring +44 20 7946 0958; {token}."
    );
    let kinds: Vec<_> = found(&text).into_iter().map(|(k, _)| k).collect();
    assert_eq!(kinds, ["EMAIL_ADDRESS", "URL", "PHONE_NUMBER", "GITHUB_TOKEN"]);
}

#[test]
fn ordinary_text_has_no_findings() {
    for text in [
        "In 1914-1918 some 12 000 men crossed 3.14 rivers; see p. 12, fig. 4.2.",
        "let x = foo.bar(12, 3.4); // a::b::c",
        "Please choose a strong password: it must contain letters.",
        "The word.In fact e.g. this i.e. that.",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn number_inside_a_longer_one_is_not_found() {
    assert_eq!(found("ab4111111111111111"), []);
    assert_eq!(found("41111111111111119999999"), []);
    assert_eq!(found("1.192.168.1.1"), []);
}
