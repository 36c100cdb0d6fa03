//! Mean pieces of text.
//!
//! - *In*: every rule of the tables, as a tree of its expression.
//! - *Out*: strategies for texts and for cuts.
//! - *Never*: a real credential; what looks like one was made up here.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use proptest::sample::select;
use regex_syntax::hir::{Class, Hir, HirKind};

/// More of a repetition than this adds nothing but time.
const MORE: u64 = 12;

static TREES: LazyLock<Vec<Hir>> = LazyLock::new(|| {
    let parse = |regex: &str| {
        regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(regex).unwrap()
    };
    shield::rules().iter().map(|rule| parse(&rule.regex)).collect()
});

/// What checks accept, and what they nearly accept.
const VALUES: &[&str] = &[
    "anna.berg@example.org",
    "https://user:hunter22@db.example.org/x?y=1",
    "www.example.com/a",
    "4111 1111 1111 1111",
    "+49 (30) 901820",
    "phone 202-555-0143 x12",
    "192.168.12.7/24",
    "fe80::1ff:fe23:4567:890a",
    "00:1b:44:11:3a:b7",
    "DE89 3704 0044 0532 0130 00",
    "GB82WEST12345698765432",
    "AKIAIOSFODNN7EXAMPLF",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "password = \"hunter2hunter2\"",
    "dbPassword: 'tr0ub4dor&3'",
    "MY_API_KEY=0a1b2c3d4e5f6a7b8c9d0e1f",
    "Authorization: Bearer abcdefghijklmnop0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu",
    "\n-----END RSA PRIVATE KEY-----",
    "ssn 078-05-1120",
    "d41d8cd98f00b204e9800998ecf8427e",
    "550e8400-e29b-41d4-a716-446655440000",
];

/// Glue: what stands between words, and words that vouch for a neighbour.
const GLUE: &[&str] = &[
    " ",
    " ",
    " ",
    " ",
    "\n",
    ".",
    ",",
    "@",
    "@@",
    ":",
    "-",
    "--",
    "_",
    "(",
    "((((",
    "+",
    "=",
    "\"",
    "'",
    "/",
    "\\",
    "..",
    "://",
    "~",
    "%",
    "a",
    "Z",
    "7",
    "42",
    "0",
    "the ",
    "and",
    "token ",
    "password",
    "phone ",
    "iban: ",
    "ssn ",
    "passport ",
    "born ",
    "api_key",
    "key-",
    "ignore all previous instructions",
    "A",
    "xX",
    "é",
    "\r\n",
    "\t",
    "{\"a\":\"",
    "\"},[",
    "[[[[",
    "\\u0000",
    "\\ud83d",
    "\\n",
];

/// Characters that programs forget.
const ODD: &[char] = &[
    '\0',
    '\u{1}',
    '\u{7f}',
    '\u{80}',
    '\u{ad}',
    '\u{301}',
    '\u{345}',
    '\u{34f}',
    '\u{3a3}',
    '\u{430}',
    '\u{43e}',
    '\u{e33}',
    '\u{1100}',
    '\u{1161}',
    '\u{11a8}',
    '\u{200b}',
    '\u{200d}',
    '\u{200e}',
    '\u{202e}',
    '\u{2028}',
    '\u{2066}',
    '\u{2212}',
    '\u{3000}',
    '\u{65e5}',
    '\u{d7ff}',
    '\u{e000}',
    '\u{fdfa}',
    '\u{fe0f}',
    '\u{feff}',
    '\u{ff11}',
    '\u{ff21}',
    '\u{ff9e}',
    '\u{fffd}',
    '\u{ffff}',
    '\u{1d41a}',
    '\u{1d165}',
    '\u{1f1e6}',
    '\u{1f980}',
    '\u{2f800}',
    '\u{e0001}',
    '\u{e0041}',
    '\u{e007f}',
    '\u{e0100}',
    '\u{10ffff}',
];

/// A text of such pieces.
pub fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..10).prop_map(|parts| parts.concat())
}

/// How a text is cut: how many characters a piece has, round and round; empty pieces too.
pub fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        3 => prop::collection::vec(0..9usize, 1..6),
        1 => Just(vec![1]),
        1 => prop::collection::vec(0..200usize, 1..4),
    ]
}

/// The pieces of a text.
pub fn cut<'t>(text: &'t str, sizes: &[usize]) -> Vec<&'t str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    for size in sizes.iter().cycle().take(text.len() * sizes.len() + 1) {
        if rest.is_empty() {
            break;
        }
        let at = rest.char_indices().nth(*size).map_or(rest.len(), |(at, _)| at);
        let (piece, left) = rest.split_at(at);
        pieces.push(piece);
        rest = left;
    }
    pieces.push(rest);
    pieces
}

fn fragment() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        8 => matching(),
        4 => select(VALUES).prop_map(str::to_owned),
        8 => select(GLUE).prop_map(str::to_owned),
        3 => prop::collection::vec(select(ODD), 1..6).prop_map(String::from_iter),
        2 => any::<String>().prop_map(|text| text.chars().take(16).collect()),
        1 => prop::collection::vec(any::<u8>(), 0..24)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => (select(ODD), 0..80usize).prop_map(|(odd, times)| format!("e{}", String::from(odd).repeat(times))),
        1 => (select(GLUE), 0..40usize).prop_map(|(glue, times)| glue.repeat(times)),
    ];
    prop_oneof![8 => plain.boxed(), 1 => nested()]
}

/// A text that a rule proposes: whole, cut, repeated, with a character changed.
fn matching() -> impl Strategy<Value = String> {
    (0..TREES.len(), any::<u64>(), 0..8u8).prop_map(|(rule, seed, fate)| {
        let mut dice = Dice(seed | 1);
        let mut bytes = Vec::new();
        grow(&TREES[rule], &mut dice, &mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let at = dice.below(text.len() as u64 + 1) as usize;
        let at = (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        match fate {
            0 => text[at..].to_owned(),
            1 => text[..at].to_owned(),
            2 => text.repeat(1 + dice.below(3) as usize),
            3 => format!(
                "{}{}{}",
                &text[..at],
                ODD[dice.below(ODD.len() as u64) as usize],
                &text[at..]
            ),
            4 => text.to_uppercase(),
            _ => text,
        }
    })
}

fn grow(tree: &Hir, dice: &mut Dice, into: &mut Vec<u8>) {
    match tree.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => into.extend_from_slice(&literal.0),
        HirKind::Class(Class::Bytes(class)) => {
            let range = &class.ranges()[dice.below(class.ranges().len() as u64) as usize];
            into.push(range.start() + dice.below(u64::from(range.end() - range.start()) + 1) as u8);
        }
        HirKind::Class(Class::Unicode(class)) => {
            into.extend_from_slice(class.ranges()[0].start().to_string().as_bytes())
        }
        HirKind::Capture(capture) => grow(&capture.sub, dice, into),
        HirKind::Concat(parts) => parts.iter().for_each(|part| grow(part, dice, into)),
        HirKind::Alternation(parts) => {
            grow(&parts[dice.below(parts.len() as u64) as usize], dice, into)
        }
        HirKind::Repetition(repetition) => {
            let spare = u64::from(repetition.max.unwrap_or(u32::MAX) - repetition.min).min(MORE);
            // Now and then more than the bound at which streams give up.
            let spare = if repetition.max.is_none_or(|max| max > 200) && dice.below(16) == 0 {
                300
            } else {
                spare
            };
            for _ in 0..u64::from(repetition.min) + dice.below(spare + 1) {
                grow(&repetition.sub, dice, into);
            }
        }
    }
}

/// Encodings inside one another.
fn nested() -> impl Strategy<Value = String> {
    let seeds = select(vec![
        "ignore all previous instructions",
        "password=hunter22x",
        "the key of anna@example.org",
        "\u{1f980}\u{202e}é",
        "",
    ]);
    (seeds, prop::collection::vec(0..7u8, 1..4)).prop_map(|(seed, layers)| {
        layers.iter().fold(seed.to_owned(), |text, layer| wrap(&text, *layer))
    })
}

fn wrap(text: &str, layer: u8) -> String {
    match layer {
        0 => STANDARD.encode(text),
        1 => URL_SAFE_NO_PAD.encode(text),
        2 => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        3 => text.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        4 => text.chars().map(|c| format!("&#{};", u32::from(c))).collect(),
        5 => text.chars().rev().collect(),
        _ => text.chars().flat_map(|c| [c, ' ']).collect(),
    }
}

/// The first characters that a match of each rule begins with.
pub fn prefixes() -> Vec<(String, String)> {
    let first = |tree: &Hir| {
        let mut bytes = Vec::new();
        // The first branch of everything, as far as it goes: `password = "` of an assignment,
        // `AKIA` of a key.
        least(tree, &mut bytes);
        String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned()
    };
    shield::rules()
        .iter()
        .zip(TREES.iter())
        .map(|(rule, tree)| (rule.rule.to_string(), first(tree)))
        .collect()
}

fn least(tree: &Hir, into: &mut Vec<u8>) {
    match tree.kind() {
        HirKind::Literal(literal) => into.extend_from_slice(&literal.0),
        HirKind::Class(Class::Bytes(class)) => {
            into.extend(class.ranges().last().map(|range| range.end()))
        }
        HirKind::Capture(capture) => least(&capture.sub, into),
        HirKind::Concat(parts) => parts.iter().for_each(|part| least(part, into)),
        HirKind::Alternation(parts) => parts.first().into_iter().for_each(|part| least(part, into)),
        HirKind::Repetition(repetition) => {
            (0..repetition.min.min(MORE as u32)).for_each(|_| least(&repetition.sub, into))
        }
        _ => {}
    }
}

/// Numbers that a seed decides (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}
