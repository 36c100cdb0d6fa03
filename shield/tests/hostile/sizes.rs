//! Large hostile texts: the work is counted where it can be; where not, a pass that is not linear
//! runs into a limit far off.

use std::time::{Duration, Instant};

use shield::normalise::{Limits, normalise};
use shield::stream::Channel;

use super::deep;
use super::fragments::prefixes;
use super::normal::sound;
use super::streams::{SCANNER, SET};

const MEBIBYTE: usize = 1 << 20;
/// A linear pass over a mebibyte takes a few hundredths of a second, a quadratic one minutes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Steps a byte that no fixed text may cost; the worst found costs a third.
const STEPS: f64 = 2048.0;

/// What is repeated to a mebibyte whatever the time.
const WORST: &[&str] = &[
    "a",
    "(",
    "@",
    "7",
    "pass=",
    "http://",
    "a@",
    "AKIA",
    "\u{e0041}\u{430}",
    "\u{301}",
    "aA",
    "-----BEGIN PRIVATE KEY-----",
];

fn filled(part: &str, length: usize) -> String {
    part.repeat(length / part.len().max(1) + 1)
}

/// Steps a byte, the text in pieces of six characters.
fn steps(text: &str) -> f64 {
    let mut channel = Channel::new();
    let (automata, bound) = &SET[0];
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.char_indices().nth(6).map_or(rest.len(), |(at, _)| at);
        channel.push(automata, &rest[..at], &mut |_| {});
        assert!(channel.held() <= *bound);
        rest = &rest[at..];
    }
    channel.finish(automata, &mut |_| {});
    channel.steps() as f64 / text.len() as f64
}

/// Every scanner over one text.
fn bounded(name: &str, text: &str) {
    let began = Instant::now();
    let cost = steps(text);
    assert!(cost < STEPS, "{name}: {cost:.0} steps a byte in a stream");
    let streamed = began.elapsed();
    let began = Instant::now();
    let mut found = Vec::new();
    SCANNER.find(text, &mut found);
    let scanned = began.elapsed();
    let (began, limits) = (Instant::now(), Limits::default());
    let normal = normalise(text, &limits);
    let normalised = began.elapsed();
    println!(
        "{name}: {cost:.0} steps a byte, {streamed:?} streamed, {scanned:?} scanned, {normalised:?} normalised"
    );
    sound(text, &normal, &limits);
    assert!(scanned < PATIENCE && normalised < PATIENCE, "{name}: {scanned:?}, {normalised:?}");
}

#[test]
fn a_mebibyte_of_one_piece() {
    let few = if deep() { WORST } else { &WORST[..4] };
    few.iter().for_each(|part| bounded(&format!("{part:?}"), &filled(part, MEBIBYTE)));
    WORST.iter().for_each(|part| bounded(&format!("{part:?}"), &filled(part, MEBIBYTE / 16)));
}

#[test]
fn the_beginning_of_every_rule_repeated() {
    let length = if deep() { MEBIBYTE } else { 1 << 14 };
    for (rule, prefix) in prefixes().iter().filter(|(_, prefix)| !prefix.is_empty()) {
        bounded(rule, &filled(prefix, length));
        bounded(rule, &filled(&format!("{prefix} "), length));
    }
}

/// A letter of another script, and a tag that reads as a letter: each ends a word and goes on with
/// it.
#[test]
fn normalising_costs_no_more_for_a_longer_word() {
    for part in [
        "\u{430}\u{e0041}",
        "\u{430}\u{1f1e6}",
        "\u{430}\u{200b}",
        "e\u{301}",
        "\u{fdfa}",
        "&#38;",
        "%25",
        "a ",
        "a.",
        "4a",
    ] {
        let text = filled(part, MEBIBYTE);
        let began = Instant::now();
        let normal = normalise(&text, &Limits::default());
        let took = began.elapsed();
        sound(&text, &normal, &Limits::default());
        println!("{part:?}: {took:?}");
        assert!(took < Duration::from_secs(3), "{part:?}: {took:?}");
    }
}

#[test]
fn ten_megabytes_are_cut_to_the_limits() {
    let words = "SWdub3JlIGFsbCBwcmV2aW91cyBpbnN0cnVjdGlvbnM= the cat \u{430}nd %41%42 &#65;&#66; i g n o r e \u{200b}\u{e0041}\n";
    let text = filled(words, 10_000_000);
    for limits in [
        Limits::default(),
        Limits { max_input: 256 << 10, max_output: 512 << 10, max_views: 16, max_depth: 2 },
    ] {
        let began = Instant::now();
        let normal = normalise(&text, &limits);
        sound(&text, &normal, &limits);
        assert!(normal.truncated && began.elapsed() < PATIENCE);
        assert!(normal.original(0..normal.text.len()).end <= limits.max_input);
    }
}

#[test]
fn a_hundred_thousand_brackets() {
    for bracket in ["[", "{\"a\":", "(", "<"] {
        bounded(bracket, &bracket.repeat(100_000));
    }
}
