//! Answers of coding assistants, of search and of support desks pass a guardrail that only has a
//! name without a change.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use shield::stream::{Automata, Channel, Edges, Options, Piece, write};

use filters::settings::Action;
use filters::{KindSettings, Side};

const ANSWERS: &str = include_str!("answers/answers.txt");

/// Values of the slots, four sets.
const VALUES: [(&str, [&str; 4]); 17] = [
    ("{host}", ["127.0.0.1", "localhost", "10.0.12.7", "192.168.178.20"]),
    ("{port}", ["8080", "5432", "50051", "11434"]),
    ("{version}", ["1.2.3.4", "2.32.3", "0.115.0", "24.04.1"]),
    ("{word}", ["billing", "search-index", "ledger_sync", "webapp"]),
    (
        "{hex64}",
        [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
        ],
    ),
    (
        "{hex40}",
        [
            "3227aaeb4855c241578295865c1149f530c76ee8",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "363e2ee715e9c936964d3d519c2d2869cc79734b",
            "98daa938da65d0e47fe8cee31f076c1ff82d450a",
        ],
    ),
    ("{hex8}", ["b70bf5d2", "1db71064", "6ab020f2", "f3b97148"]),
    (
        "{uuid}",
        [
            "550e8400-e29b-41d4-a716-446655440000",
            "0196f3a4-7c1e-7b2a-9c55-2f1d6a7b8c9d",
            "7d444840-9dc0-11d1-b245-5ffdce74fad2",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        ],
    ),
    ("{epoch}", ["1514044140", "1772439247", "1700000000", "1699999999123"]),
    ("{num}", ["30211", "8437174979", "335321856361", "2396443"]),
    ("{small}", ["12", "7", "148", "99"]),
    ("{date}", ["2026-03-02", "2024-12-31", "2019-01-07", "2025-10-09"]),
    ("{ip}", ["203.0.113.9", "198.51.100.95", "8.8.8.8", "172.16.4.1"]),
    ("{ip6}", ["2001:db8::42", "fd00::1", "::1", "2001:db8:1:2::3"]),
    (
        "{b64}",
        [
            "QWTKZyjpPEjISv5WaRU9OFeRpok6YctnYmDr5pNlyT2bRjXh0JMhjY6hW+ALEwIH",
            "YvpcrYf0tY3lHB60NNkmXc5s9fDVZLESaAA55NDzOxhy9GkcIdslK1eN7N6jIeHz",
            "0evHe/X+R7YkIZDRvuzKMRqM+OrBnVFBL6DOitfPri4tjfHxaWutUpFmBp4vmVor",
            "geWF76RCwLtnZ8qwWowPQNguL3RmwHVBC9FhGdlKrxdiJJigb/j/68SIy3Te4Bkz",
        ],
    ),
    ("{user}", ["alice", "bob", "carol", "dave"]),
    ("{name}", ["alpha", "beta", "gamma", "delta"]),
];

fn answers() -> Vec<String> {
    let (_, texts) = ANSWERS.split_once('\n').unwrap();
    let texts = || texts.split("\n====\n");
    let set = |n: usize| {
        texts().map(move |text| {
            VALUES
                .iter()
                .fold(text.to_owned(), |text, (slot, values)| text.replace(slot, values[n]))
        })
    };
    (0..4).flat_map(set).collect()
}

/// A guardrail with default settings: the kinds of `config`, and `mask` for answers.
fn defaults() -> Automata {
    let kinds = ["contact", "financial", "national"].map(str::to_owned).to_vec();
    let kinds = KindSettings { kinds, ..KindSettings::default() };
    let rules = kinds.rules(Side::Output, Action::Mask, Action::Mask);
    Automata::new(&rules, Options { edges: Edges::tables(), ..Options::default() }).unwrap()
}

#[test]
fn two_hundred_answers_pass_without_a_change() {
    let automata = defaults();
    let answers = answers();
    assert_eq!(answers.len(), 200);
    let mut changed = Vec::new();
    for answer in &answers {
        let (mut masked, mut channel) = (String::new(), Channel::new());
        let mut found = Vec::new();
        let mut take = |piece: Piece<'_>| {
            if let Piece::Mask { finding, text, .. } = &piece {
                found.push(format!("{}: {text:?}", finding.rule));
            }
            write(&mut masked, &piece);
        };
        let mut rest = answer.as_str();
        while !rest.is_empty() {
            // As models write: some characters at a time.
            let cut = rest.char_indices().map(|(at, _)| at).nth(5).unwrap_or(rest.len());
            let (token, more) = rest.split_at(cut);
            channel.push(&automata, token, &mut take);
            rest = more;
        }
        channel.finish(&automata, &mut take);
        if masked != *answer {
            changed.push(found);
        }
    }
    assert!(changed.is_empty(), "{} answers changed: {changed:#?}", changed.len());
}

/// The same guardrail does find what an answer must not have.
#[test]
fn personal_data_and_credentials_do_not_pass() {
    let automata = defaults();
    for (text, masked) in [
        ("Write to jo.bloggs@mail.example.org.", "Write to [EMAIL_ADDRESS]."),
        ("Call me at +44 20 7946 0958.", "Call me at [PHONE_NUMBER]."),
        ("card 4111\u{a0}1111\u{a0}1111\u{a0}1111", "card [CREDIT_CARD]"),
        ("SSN 078‑05‑1120", "SSN [US_SSN]"),
        ("password = \"mo9!Rauchquarz\"", "password = \"[GENERIC_SECRET]\""),
    ] {
        assert_eq!(shield::stream::redact(&automata, text), masked);
    }
}
