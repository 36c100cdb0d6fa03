//! Encodings of bytes: base64, hex, percent, entities.
//!
//! - *In*: the bytes of one token.
//! - *Out*: whether it is encoded, and the text.
//! - *Never*: a text from bytes that are not readable UTF-8.

use std::ops::Range;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Disguise;

/// Shorter runs are words, numbers and identifiers.
const MIN_RUN: usize = 16;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

fn digit64(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_')
}

/// The longest run of base64 or hex digits in a token, if it decodes to text.
pub(super) fn long_run(token: &[u8]) -> Option<(Disguise, Range<usize>)> {
    let (mut best, mut start) = (0..0, 0);
    for (i, b) in token.iter().chain([&b' ']).enumerate() {
        if !digit64(*b) {
            if i - start > best.len() {
                best = start..i;
            }
            start = i + 1;
        }
    }
    let run = token.get(best.clone())?;
    if run.len() < MIN_RUN {
        return None;
    }
    let text = std::str::from_utf8(run).ok()?;
    if hex(text).is_some() {
        return Some((Disguise::Hex, best));
    }
    base64(text)?;
    let padded =
        token.get(best.end..).unwrap_or_default().iter().take_while(|b| **b == b'=').count().min(2);
    Some((Disguise::Base64, best.start..best.end + padded))
}

/// The bytes as text; `None` if they are empty, not UTF-8, or more than a tenth control characters.
fn readable(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let odd = text.chars().filter(|c| c.is_control() && !c.is_whitespace()).count();
    (odd * 10 <= text.chars().count() && !text.is_empty()).then_some(text)
}

pub(super) fn base64(run: &str) -> Option<String> {
    let run = run.trim_end_matches('=');
    // A length of 4n+1 is not valid base64: the last digit is dropped.
    let run = if run.len() % 4 == 1 { run.get(..run.len() - 1)? } else { run };
    let engine = if run.bytes().any(|b| matches!(b, b'-' | b'_')) { &URL } else { &PLAIN };
    readable(engine.decode(run).ok()?)
}

pub(super) fn hex(run: &str) -> Option<String> {
    let run = run.strip_prefix("0x").unwrap_or(run);
    let (pairs, rest) = run.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes = pairs
        .iter()
        .map(|[a, b]| Some(nibble(*a)? << 4 | nibble(*b)?))
        .collect::<Option<Vec<u8>>>()?;
    let text = readable(bytes)?;
    // Most of the text must be letters; otherwise, hexadecimal numbers would be decoded to signs.
    (text.bytes().filter(|b| b.is_ascii_alphabetic() || *b >= 0x80).count() * 2 > text.len())
        .then_some(text)
}

fn nibble(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

/// Whether a token holds two percent escapes.
pub(super) fn percents(token: &[u8]) -> bool {
    token
        .windows(3)
        .filter(|w| matches!(w, [b'%', a, b] if nibble(*a).is_some() && nibble(*b).is_some()))
        .take(2)
        .count()
        == 2
}

pub(super) fn percent(run: &str) -> Option<String> {
    let mut out = Vec::with_capacity(run.len());
    let mut rest = run.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%'
            && let [a, b, after @ ..] = tail
            && let (Some(high), Some(low)) = (nibble(*a), nibble(*b))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(if *first == b'+' { b' ' } else { *first });
        }
    }
    Some(
        String::from_utf8(out)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
    )
}

/// Whether a token holds an entity.
pub(super) fn entity(token: &[u8]) -> bool {
    std::str::from_utf8(token).is_ok_and(|t| {
        t.match_indices('&').take(32).any(|(i, _)| t.get(i..).and_then(one_entity).is_some())
    })
}

pub(super) fn entities(run: &str) -> Option<String> {
    let mut out = String::with_capacity(run.len());
    let mut rest = run;
    while let Some(i) = memchr::memchr(b'&', rest.as_bytes()) {
        out.push_str(rest.get(..i)?);
        rest = rest.get(i..)?;
        let (c, length) = one_entity(rest).unwrap_or(('&', 1));
        out.push(c);
        rest = rest.get(length..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// The entity that `text` starts with, and its length.
fn one_entity(text: &str) -> Option<(char, usize)> {
    let end = text.bytes().take(12).position(|b| b == b';')?;
    let name = text.get(1..end)?;
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
    };
    Some((c, end + 1))
}

/// Whether a token is single letters with the same sign between them: `i.g.n.o.r.e`.
pub(super) fn dotted(token: &[u8]) -> bool {
    let mut pairs = token.chunks(2);
    let Some([_, sign]) = token.get(..2) else { return false };
    matches!(sign, b'.' | b'-' | b'_' | b'*' | b'|' | b'/' | b'~')
        && pairs.all(|p| {
            matches!(p, [a, b] if a.is_ascii_alphabetic() && b == sign)
                || matches!(p, [a] if a.is_ascii_alphabetic())
        })
}
