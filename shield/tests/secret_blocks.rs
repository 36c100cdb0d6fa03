//! Private keys and long secrets: the block itself is found, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::LazyLock;

use shield::scan::Scanner;
use shield::stream::{Automata, Channel, Edges, Options, redact, write};

static SCANNER: LazyLock<Scanner> = LazyLock::new(|| Scanner::new(&shield::rules()));
static AUTOMATA: LazyLock<Automata> = LazyLock::new(|| {
    Automata::new(&shield::rules(), Options { edges: Edges::tables(), ..Options::default() })
        .unwrap()
});

/// So many characters of base64 that no generator repeats.
fn base64(length: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(alphabet[(state % 62) as usize])
        })
        .collect()
}

fn block(label: &str, lines: usize, line_break: &str) -> String {
    let body: Vec<String> = base64(64 * lines - 17)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----{line_break}{}{line_break}-----END {label}-----",
        body.join(line_break)
    )
}

fn found(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    SCANNER.find(text, &mut all);
    all.into_iter().map(|f| text[f.span].to_owned()).collect()
}

/// The text with masks, streamed in pieces of `size` characters.
fn streamed(text: &str, size: usize) -> String {
    let (mut out, mut channel) = (String::new(), Channel::new());
    let chars: Vec<char> = text.chars().collect();
    for piece in chars.chunks(size) {
        let piece: String = piece.iter().collect();
        channel.push(&AUTOMATA, &piece, &mut |piece| write(&mut out, &piece));
    }
    channel.finish(&AUTOMATA, &mut |piece| write(&mut out, &piece));
    out
}

#[test]
fn the_block_is_found_and_nothing_after_it() {
    for label in [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ] {
        for lines in [1, 3, 13, 50] {
            for line_break in ["\n", "\r\n", "\\n", "\\\\n", "\n    ", "\" +\n  \"", "\n> ", " "] {
                let key = block(label, lines, line_break);
                let text = format!("Here:\n{key}\nNow run openssl with it, and say 8 words more.");
                assert_eq!(found(&text), [key.as_str()], "{label} {lines} {line_break:?}");
                let masked = "Here:\n[PRIVATE_KEY]\nNow run openssl with it, and say 8 words more.";
                for size in [1, 7, 4096] {
                    assert_eq!(streamed(&text, size), masked, "{label} {lines} {line_break:?}");
                }
            }
        }
    }
}

#[test]
fn two_blocks_are_two_findings() {
    let (one, two) = (block("PRIVATE KEY", 4, "\n"), block("EC PRIVATE KEY", 3, "\n"));
    assert_eq!(found(&format!("{one}\n{two}\nboth")), [one.as_str(), two.as_str()]);
    assert_eq!(streamed(&format!("{one}\n{two}\nboth"), 5), "[PRIVATE_KEY]\n[PRIVATE_KEY]\nboth");
}

#[test]
fn a_header_without_a_body_is_none() {
    for text in [
        "A key begins with -----BEGIN RSA PRIVATE KEY----- and ends with a footer of the same kind.",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\nFill in the dots.",
        "-----BEGIN PRIVATE KEY-----\nNow run openssl with the file that you have just made there.",
        "-----BEGIN PRIVATE KEY-----\nNote: the body follows here as soon as it is written.\nDone.",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAuRrT\n-----END PUBLIC KEY-----",
    ] {
        assert_eq!(found(text), [""; 0], "{text}");
        assert_eq!(redact(&AUTOMATA, text), text);
        assert_eq!(streamed(text, 3), text);
    }
}

#[test]
fn header_lines_belong_to_the_block() {
    let body = base64(64);
    let key = format!(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,1F2A\n\n{body}\n{body}\n-----END RSA PRIVATE KEY-----"
    );
    assert_eq!(found(&format!("a {key} b")), [key.as_str()]);
}

#[test]
fn a_key_that_was_cut_is_masked_as_far_as_it_goes() {
    let key = block("PRIVATE KEY", 30, "\n");
    let cut = &key[..900];
    assert_eq!(streamed(cut, 11), "[PRIVATE_KEY]");
    assert_eq!(found(cut).len(), 1);
}

#[test]
fn long_secrets_are_masked_to_their_end() {
    let long = base64(6000);
    for (before, secret) in [
        ("", format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In{long}.{long}")),
        ("", format!("ghp_{long}")),
        ("", format!("aws_session_token={long}")),
        ("", format!("Authorization: Bearer {long}")),
        ("", format!("password=\"{long}\"")),
        ("api_key: ", String::new()),
    ] {
        let text = if secret.is_empty() {
            format!("{before}{long} end")
        } else {
            format!("{before}{secret} end")
        };
        let all = found(&text);
        assert_eq!(all.len(), 1, "{:.40}", text);
        let is_whole = |end: &str| text.ends_with(&format!("{}{end}", all[0]));
        assert!(is_whole(" end") || is_whole("\" end"), "{:.40}", text);
        for size in [9, 700] {
            let masked = streamed(&text, size);
            assert!(masked.len() < 60 && masked.ends_with(" end"), "streamed: {masked:.200}");
        }
    }
}
