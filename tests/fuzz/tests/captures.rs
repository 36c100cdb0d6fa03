//! The properties on captures of real engines, with changed bytes: few cases, deterministic.

use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bytes that are special for one of the parsers.
const SPECIAL_BYTES: &[u8] = b"\r\n\0: {}[]\",\\0fF;\xff";

/// The prefix of an input, which selects the split and, for a body, the framing.
fn before(len: usize, numbers: &mut SmallRng) -> Vec<u8> {
    (0..len).map(|_| numbers.random()).collect()
}

fn meant(numbers: &mut SmallRng) -> u8 {
    SPECIAL_BYTES[numbers.random_range(..SPECIAL_BYTES.len())]
}

fn captures() -> Vec<Vec<u8>> {
    let mut folders =
        vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/wire/tests/captures")];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

/// Checks a property on the start of each capture, unchanged and with some bytes changed.
fn run(len: usize, property: fn(&[u8])) {
    let mut numbers = SmallRng::seed_from_u64(7);
    let captures = captures();
    assert!(captures.len() > 50, "{} captures", captures.len());
    for capture in captures {
        let capture = &capture[..capture.len().min(4096)];
        for changes in [0, 1, 4, 16] {
            let mut input = before(len, &mut numbers);
            input.extend_from_slice(capture);
            for _ in 0..changes {
                let at = numbers.random_range(..input.len());
                input[at] = meant(&mut numbers);
            }
            property(&input);
        }
    }
}

/// Checks a property on small inputs of special bytes.
fn run_small(len: usize, property: fn(&[u8])) {
    let mut numbers = SmallRng::seed_from_u64(11);
    for _ in 0..20_000 {
        let mut input = before(len, &mut numbers);
        for _ in 0..numbers.random_range(..24usize) {
            input.push(meant(&mut numbers));
        }
        property(&input);
    }
}

#[test]
fn heads() {
    run(2, fuzz::head);
    run_small(2, fuzz::head);
    for head in [
        &b"\0\x20POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nx-a: \xffb\r\n\r\nhello"[..],
        b"\0\x20HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello",
    ] {
        for at in 2..head.len() {
            for byte in SPECIAL_BYTES {
                let mut changed = head.to_vec();
                changed[at] = *byte;
                fuzz::head(&changed);
            }
        }
    }
}

#[test]
fn bodies() {
    run(4, fuzz::body);
    run_small(4, fuzz::body);
    let chunked = b"\x03\0\0\x095;a=b\r\nhello\r\n0a\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
    for at in 4..chunked.len() {
        for byte in SPECIAL_BYTES {
            let mut changed = chunked.to_vec();
            changed[at] = *byte;
            fuzz::body(&changed);
        }
    }
}

#[test]
fn streams() {
    run(2, fuzz::sse);
    run_small(2, fuzz::sse);
}

#[test]
fn documents() {
    run(0, fuzz::json);
    run_small(0, fuzz::json);
}

#[test]
fn splits() {
    run(2, fuzz::splitter);
    run_small(2, fuzz::splitter);
}
