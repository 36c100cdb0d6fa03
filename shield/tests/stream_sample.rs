//! The scanner against an oracle, and against itself at other cuts.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod sample;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;
use sample::RULES;
use shield::finding::{Family, Finding};
use shield::pattern::Pattern;
use shield::stream::{Automata, Channel, Options, Piece, redact, write};

fn rules() -> Vec<&'static Pattern> {
    RULES.iter().collect()
}

fn build(options: Options) -> Automata {
    Automata::new(&rules(), options).unwrap()
}

static PLAIN: LazyLock<Automata> = LazyLock::new(|| build(Options::default()));
static SMALL: LazyLock<Automata> =
    LazyLock::new(|| build(Options { hold_bytes: 64, ..Options::default() }));

/// Pieces of text that make and nearly make matches.
const PARTS: &[&str] = &[
    "anna.berg@example.org",
    "bob@mail.example.co.uk",
    "theresa@example.com",
    "the@example.com",
    "in@x.org",
    "4111 1111 1111 1111",
    "4111111111111112",
    "4111-1111-1111-1111",
    "ssn 078-05-1120",
    "078051120",
    "social security: 219-09-9999",
    "+49 (30) 901820",
    "+1-202-555-0143",
    "192.168.12.7",
    "1.2.3",
    "DE89 3704 0044 0532 0130 00",
    "AKIAIOSFODNN7EXAMPLE",
    "AKIAIOSFODNN7EXAMPL",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "sk-proj-0123456789abcdefghij",
    "sk-0123",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\nKUpRKfFLfRYC9AIKjbJTWit\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "password = hunter2hunter2",
    "pwd:\"s3cr3t-value\"",
    "token ",
    "d41d8cd98f00b204e9800998ecf8427e",
    "key d41d8cd98f00b204e9800998ecf8427e",
    "Señor Álvarez",
    "Señor Garcia",
    " ",
    " ",
    " ",
    "the ",
    "and",
    "there",
    "in",
    "no",
    ".",
    ",",
    "@",
    "@@",
    "-",
    "--",
    "é",
    "日本語",
    "🦀",
    "ß",
    "\n",
    "a",
    "Z",
    "7",
    "42",
    "(",
    "+",
    "_",
    "x=",
    "://",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![4 => select(PARTS).prop_map(str::to_owned), 1 => "[a-zA-Z0-9 .@-]{1,6}"],
        0..14,
    )
    .prop_map(|parts| parts.concat())
}

/// Cut at character boundaries near fractions of the text.
fn cut(text: &str, at: &[f64]) -> Vec<String> {
    let mut cuts: Vec<usize> = at.iter().map(|part| (part * text.len() as f64) as usize).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for mut to in cuts {
        while !text.is_char_boundary(to) {
            to += 1;
        }
        if to >= from {
            pieces.push(text[from..to].to_owned());
            from = to;
        }
    }
    pieces.push(text[from..].to_owned());
    pieces
}

/// What a scanner makes of pieces: the text, the findings, the most it held.
fn feed(automata: &Automata, pieces: &[String]) -> (String, Vec<Finding>, usize) {
    let (mut text, mut findings, mut most) = (String::new(), Vec::new(), 0);
    let mut channel = Channel::new();
    let mut out = |piece: Piece<'_>| {
        write(&mut text, &piece);
        match piece {
            Piece::Mask { finding, .. } => findings.push(finding.clone()),
            Piece::Close(span) => findings.last_mut().unwrap().span = span,
            Piece::Pass(_) => {}
        }
    };
    for piece in pieces {
        channel.push(automata, piece, &mut out);
        most = most.max(channel.held());
    }
    channel.finish(automata, &mut out);
    assert_eq!(channel.held(), 0);
    let counted: u32 = channel.counts().iter().map(|count| count.1).sum();
    assert_eq!(counted as usize, findings.len());
    (text, findings, most)
}

/// The text with its findings masked, from their spans.
fn masked(text: &str, findings: &[Finding]) -> String {
    let (mut into, mut at) = (String::new(), 0);
    for finding in findings {
        into.push_str(&text[at..finding.span.start]);
        into.push_str(&format!("[{}]", finding.kind));
        at = finding.span.end;
    }
    into.push_str(&text[at..]);
    into
}

static ANCHORED: LazyLock<Vec<(regex::Regex, regex::Regex)>> = LazyLock::new(|| {
    let make = |rule: &Pattern| {
        let whole = regex::Regex::new(&format!("^(?:{})$", rule.regex)).unwrap();
        (regex::Regex::new(&format!("^(?:{})", rule.regex)).unwrap(), whole)
    };
    RULES.iter().map(make).collect()
});

/// Matches by the definition: every start, every end, every rule; under a match secrets only, and
/// of these what goes on behind it.
fn oracle(text: &str) -> Vec<(usize, usize, &'static str)> {
    let word = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_alphanumeric);
    let inside = |at: usize| at > 0 && word(at - 1) && word(at);
    let (mut found, mut at, mut masked) = (Vec::new(), 0, 0);
    while at < text.len() {
        let hit = if text.is_char_boundary(at) && !inside(at) {
            longest(text, at, &inside, at < masked)
        } else {
            None
        };
        if let Some((end, rule)) = hit.filter(|(end, _)| *end > masked) {
            found.push((at.max(masked), end, &*rule.rule));
            masked = end;
        }
        at += 1;
    }
    found
}

fn longest(
    text: &str,
    at: usize,
    inside: &dyn Fn(usize) -> bool,
    secrets: bool,
) -> Option<(usize, &'static Pattern)> {
    let context = |words: &[&str]| {
        let window =
            String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(64)..at]).to_lowercase();
        words.iter().any(|word| {
            regex::Regex::new(&format!(
                r"(?:^|[^a-z]){word}{}",
                if word.len() > 3 { "" } else { "(?:$|[^a-z])" }
            ))
            .unwrap()
            .is_match(&window)
        })
    };
    let mut best: Option<(usize, f32, &'static Pattern)> = None;
    for (rule, (begins, whole)) in RULES
        .iter()
        .zip(ANCHORED.iter())
        .filter(|(rule, _)| !secrets || rule.family == Family::Secret)
    {
        if !begins.is_match(&text[at..])
            || rule.context.is_some_and(|words| rule.score < 0.5 && !context(words.0))
        {
            continue;
        }
        let passes = |end: &usize| {
            let candidate = &text[at..*end];
            whole.is_match(candidate) && rule.check.is_none_or(|check| check(candidate))
        };
        let ends = (at + 1..=text.len().min(at + rule.longest))
            .rev()
            .filter(|end| text.is_char_boundary(*end) && !inside(*end));
        let score = rule
            .context
            .filter(|words| context(words.0))
            .map_or(rule.score, |words| words.1.max(rule.score));
        if let Some(end) = ends.into_iter().find(passes)
            && best.is_none_or(|best| (end, score) > (best.0, best.1))
        {
            best = Some((end, score, rule));
        }
    }
    best.map(|best| (best.0, best.2))
}

fn check_cuts(automata: &Automata, text: &str, at: &[f64], bound: usize) {
    let (whole, findings, _) = feed(automata, &[text.to_owned()]);
    let (pieces, cut_findings, most) = feed(automata, &cut(text, at));
    assert_eq!(whole, pieces, "{text:?}");
    assert_eq!(findings, cut_findings, "{text:?}");
    assert_eq!(whole, masked(text, &findings), "{text:?}");
    assert!(most <= bound, "held {most}");
    let single: Vec<String> = text.chars().map(String::from).collect();
    let (single, _, most) = feed(automata, &single);
    assert_eq!(whole, single, "{text:?}");
    assert!(most <= bound, "held {most}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_cut_equals_the_whole(text in text(), at in prop::collection::vec(0.0..1.0f64, 0..20)) {
        for (automata, bound) in [(&*PLAIN, 512), (&*SMALL, 64)] {
            check_cuts(automata, &text, &at, bound);
        }
    }

    #[test]
    fn a_match_is_what_the_definition_says(text in text()) {
        let (_, findings, _) = feed(&PLAIN, std::slice::from_ref(&text));
        let found: Vec<_> = findings
            .iter()
            .map(|finding| (finding.span.start, finding.span.end, &*finding.rule))
            .collect();
        if !findings.iter().any(|finding| finding.span.len() >= 512) {
            prop_assert_eq!(found, oracle(&text), "{:?}", text);
        }
    }

    #[test]
    fn flush_holds_nothing_and_hides_whole_matches(before in "[ .,]{1,4}", at in 0.0..1.0f64) {
        for (secret, name) in [("AKIAIOSFODNN7EXAMPLE", 4), ("ghp_0123456789abcdefghijABCDEFGHIJ012345", 4), ("anna@example.org", 15)] {
            // Before its name is complete a secret looks like any word, and a pause lets it go.
            let shown = before.len() + name + (at * (secret.len() - name) as f64) as usize;
            let text = format!("{before}{secret} and");
            let pieces = [&text[..shown], &text[shown..]];
            let mut text = String::new();
            let mut channel = Channel::new();
            channel.push(&PLAIN, pieces[0], &mut |piece| write(&mut text, &piece));
            channel.flush(&PLAIN, &mut |piece| write(&mut text, &piece));
            prop_assert_eq!(channel.held(), 0);
            channel.push(&PLAIN, pieces[1], &mut |piece| write(&mut text, &piece));
            channel.finish(&PLAIN, &mut |piece| write(&mut text, &piece));
            prop_assert!(!text.contains(secret));
            prop_assert!(text.starts_with(&before) && text.ends_with("and"));
        }
    }

    #[test]
    fn text_without_matches_comes_out_as_it_is(text in "[a-zé日 .,:;()\n]{0,200}") {
        for automata in [&*PLAIN, &*SMALL] {
            prop_assert_eq!(redact(automata, &text), text.clone());
        }
    }
}

#[test]
fn examples() {
    let cases = [
        ("write to anna.berg@example.org, please", "write to [EMAIL_ADDRESS], please"),
        ("anna@example.org.", "[EMAIL_ADDRESS]."),
        (
            "xAKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLEx",
            "xAKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLEx",
        ),
        ("card 4111 1111 1111 1111 ok", "card [CREDIT_CARD] ok"),
        ("card 4111 1111 1111 1112 ok", "card 4111 1111 1111 1112 ok"),
        ("my SSN is 078-05-1120", "my SSN is [US_SSN]"),
        ("order 078-05-1120", "order 078-05-1120"),
        ("Señor Garcia", "[NAME]"),
    ];
    for (text, wanted) in cases {
        assert_eq!(redact(&PLAIN, text), wanted);
    }
}

#[test]
fn a_channel_is_small() {
    println!("{} bytes", size_of::<Channel>());
    assert!(size_of::<Channel>() <= 320);
}

#[test]
fn a_long_key_is_swallowed() {
    let body = "MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\n".repeat(30);
    let text = format!(
        "key:\n-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----\nthen anna@x.org"
    );
    let pieces: Vec<String> =
        text.as_bytes().chunks(7).map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect();
    let (out, findings, most) = feed(&PLAIN, &pieces);
    assert_eq!(out, "key:\n[PRIVATE_KEY]\nthen [EMAIL_ADDRESS]");
    assert_eq!(&text[findings[0].span.clone()], &text[5..text.len() - 16]);
    assert!(most < 512);
    assert_eq!(redact(&PLAIN, &text), out);
}

/// Work per byte, counted.
#[test]
fn hostile_text_is_linear() {
    let body = |part: &str, length: usize| part.repeat(length / part.len() + 1);
    let parts = [
        "a",
        "7",
        "@",
        "(",
        "a.",
        "1 ",
        "eyJ-",
        "-----BEGIN PRIVATE KEY-----",
        "sk-",
        "+1 ",
        "A1 ",
        "password=",
        "a@b.",
        "eyJaaaaaaaa.",
        "é",
        "AKIA",
        "1.1.",
        "DE89 ",
        "key aaaaaaaaaaaaaaaa-",
        "_",
        "a@a@",
    ];
    for part in parts {
        let work = |length: usize, size: usize| {
            let text = body(part, length);
            let mut channel = Channel::new();
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(size) {
                channel.push(&PLAIN, &piece.iter().collect::<String>(), &mut |_| {});
            }
            channel.finish(&PLAIN, &mut |_| {});
            channel.steps() as f64 / text.len() as f64
        };
        let (short, long) = (work(4096, 1 << 20), work(65536, 1 << 20));
        let (few, tokens) = (work(4096, 6), work(65536, 6));
        println!("{part:?}: {short:.1} {long:.1} {tokens:.1} steps per byte");
        assert!(long < short * 1.5 + 4.0, "{part:?}: {short} then {long}");
        assert!(tokens < 600.0 && tokens < few * 1.5 + 4.0, "{part:?}: {few} then {tokens}");
    }
}
