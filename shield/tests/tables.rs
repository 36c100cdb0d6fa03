//! The scanner with the real tables: cuts do not matter.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;
use shield::finding::Finding;
use shield::stream::{Automata, Channel, Edges, Options, Piece, write};

static REAL: LazyLock<[Automata; 2]> = LazyLock::new(|| {
    let build = |hold_bytes| {
        Automata::new(
            &shield::rules(),
            Options { edges: Edges::tables(), hold_bytes, ..Options::default() },
        )
        .unwrap()
    };
    [build(512), build(64)]
});

const PARTS: &[&str] = &[
    "anna.berg@example.org",
    "theresa@example.com",
    "https://user:hunter22@db.example.org/x?y=1",
    "www.example.com/a",
    "4111 1111 1111 1111",
    "+49 (30) 901820",
    "phone 202-555-0143 x12",
    "192.168.12.7/24",
    "fe80::1ff:fe23:4567:890a",
    "00:1b:44:11:3a:b7",
    "1.2.3",
    "2024-12-01",
    "DE89 3704 0044 0532 0130 00",
    "AKIAIOSFODNN7EXAMPLF",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "sk-ant-api03-",
    "password = \"hunter2hunter2\"",
    "dbPassword: 'tr0ub4dor&3'",
    "MY_API_KEY=0a1b2c3d4e5f6a7b8c9d0e1f",
    "api_key",
    "token: ",
    "Authorization: Bearer abcdefghijklmnop0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6",
    "\n-----END RSA PRIVATE KEY-----",
    "MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu",
    "1HGCM82633A004352",
    "GB82WEST12345698765432",
    "550e8400-e29b-41d4-a716-446655440000",
    "born 12/03/1984",
    "passport ",
    "ssn 078-05-1120",
    "d41d8cd98f00b204e9800998ecf8427e",
    " ",
    " ",
    " ",
    " ",
    "the ",
    "and",
    "in",
    ".",
    ",",
    "@",
    ":",
    "-",
    "--",
    "_",
    "é",
    "日本語",
    "🦀",
    "\n",
    "a",
    "Z",
    "7",
    "42",
    "(",
    "+",
    "=",
    "\"",
    "/",
];

fn feed<'t>(
    automata: &Automata,
    pieces: impl Iterator<Item = &'t str>,
    bound: usize,
) -> (String, Vec<Finding>) {
    let (mut text, mut findings, mut channel) = (String::new(), Vec::new(), Channel::new());
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
        assert!(channel.held() <= bound, "{piece:?}");
    }
    channel.finish(automata, &mut out);
    (text, findings)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_cut_equals_the_whole(
        parts in prop::collection::vec(select(PARTS), 0..12),
        size in 1..9usize,
    ) {
        let text = parts.concat();
        let ends: Vec<usize> =
            text.char_indices().map(|(at, _)| at).step_by(size).chain([text.len()]).collect();
        for (automata, bound) in REAL.iter().zip([512, 64]) {
            let whole = feed(automata, std::iter::once(text.as_str()), bound);
            let cut = feed(automata, ends.windows(2).map(|pair| &text[pair[0]..pair[1]]), bound);
            prop_assert_eq!(&whole, &cut, "{:?}", text);
            let parted = feed(automata, parts.iter().copied(), bound);
            prop_assert_eq!(&whole, &parted, "{:?}", text);
        }
    }
}

/// A URL or an address may take the name of a secret; the value goes all the same.
#[test]
fn a_secret_that_begins_under_another_mask_does_not_pass() {
    let cases = [
        ("https://example.org/api_key: 9f8a7d6c5b4e3f2a1b0c", "[URL]: [GENERIC_SECRET]"),
        ("www.example.com/password: 'Tr0ub4dor&3'.", "[URL]: '[GENERIC_SECRET]'."),
        ("admin@corp.local.password=Hunter22x and", "[EMAIL_ADDRESS]=[GENERIC_SECRET] and"),
        ("https://example.org/?key=AKIAIOSFODNN7EXAMPLF then", "[URL] then"),
    ];
    for (text, wanted) in cases {
        assert_eq!(shield::stream::redact(&REAL[0], text), wanted);
        let single = feed(&REAL[0], text.split_inclusive(|_: char| true), 512);
        assert_eq!(single, feed(&REAL[0], std::iter::once(text), 512));
    }
}

/// Work per byte, counted, does not grow with the text.
#[test]
fn hostile_text_is_linear() {
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
        "token ",
        "a@b.",
        "é",
        "1.1.",
        "_",
        "a:",
        "x-",
        "http://",
        "psexec ",
        "$2a$",
        "aA",
        "-u a:",
        "0-",
    ];
    for part in parts {
        let work = |length: usize, size: usize| {
            let text = part.repeat(length / part.len() + 1);
            let chars: Vec<char> = text.chars().collect();
            let mut channel = Channel::new();
            for piece in chars.chunks(size) {
                channel.push(&REAL[0], &piece.iter().collect::<String>(), &mut |_| {});
            }
            channel.finish(&REAL[0], &mut |_| {});
            channel.steps() as f64 / text.len() as f64
        };
        let (short, long, tokens) = (work(4096, 1 << 20), work(32768, 1 << 20), work(32768, 6));
        println!("{part:?}: {short:.1} {long:.1} {tokens:.1} steps per byte");
        assert!(long < short * 1.5 + 4.0 && tokens < 2048.0, "{part:?}: {short}, {long}, {tokens}");
    }
}
