//! Cost of a guardrail: the detectors for prompts and the scanner for streams.
//!
//! - *In*: English prose without findings, like most texts.
//! - *Out*: time for a prompt of 4 KiB, bytes a second of the patterns, time for an event.
//! - *Never*: a hostile text; `make fuzz` bounds those.

use std::hint::black_box;

use classifier::Model;
use criterion::{Criterion, Throughput};
use shield::normalise::{Limits, normalise};
use shield::scan::Scanner;
use shield::stream::{Automata, Channel, Edges, Options};

const PROSE: &str = "The harbour lies below the old town, and most mornings a dozen boats go out before it is light. I would like to write \
a short guide for visitors: where to park, what the market sells (fish, bread, flowers), and how to reach the island by ferry. In 1984 the \
pier was rebuilt at a cost of 2.5 million; since then it has carried some 300 cars an hour in summer. Could you suggest an outline with \
five sections, explain which of them should come first, and keep the tone friendly? Please don't use headings longer than four words. \
Also: my neighbour says \"nobody reads guides\", so make the first sentence count. ";

/// Text of the events of a stream, cut like the tokens of a language model.
const PIECES: [&str; 24] = [
    "The", " harbour", " lies", " below", " the", " old", " town", ",", " and", " most", " morn",
    "ings", " a", " dozen", " boats", " go", " out", " before", " it", " is", " light", ".",
    "\n\n", "1984",
];

fn prose(bytes: usize) -> String {
    PROSE.chars().cycle().take(bytes).collect()
}

/// Checks of a prompt with default settings.
pub fn prompts(c: &mut Criterion) {
    let scanner = Scanner::new(&shield::rules());
    let model = Model::from_bytes(classifier::WEIGHTS).expect("the weights of this version");
    let mut group = c.benchmark_group("guard, prompts");
    for (name, bytes) in [("patterns over 4 KiB", 4 << 10), ("patterns over 256 KiB", 256 << 10)] {
        let text = prose(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut found = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                scanner.find(black_box(&text), &mut found);
                assert!(found.is_empty());
            });
        });
    }
    let text = prose(4 << 10);
    group.throughput(Throughput::Bytes(4 << 10));
    group.bench_function("normaliser and both classifiers over 4 KiB", |b| {
        b.iter(|| model.score(&normalise(black_box(&text), &Limits::default())));
    });
    group.bench_function("all default detectors over 4 KiB", |b| {
        b.iter(|| {
            let mut found = Vec::new();
            scanner.find(black_box(&text), &mut found);
            (found.len(), model.score(&normalise(&text, &Limits::default())))
        });
    });
    group.finish();
}

/// Scanning of the text of an event.
pub fn streams(c: &mut Criterion) {
    let options = Options { edges: Edges::tables(), ..Options::default() };
    let automata = Automata::new(&shield::rules(), options).expect("the tables compile");
    let mut group = c.benchmark_group("guard, streams");
    group.throughput(Throughput::Elements(PIECES.len() as u64));
    group.bench_function("24 events of one channel", |b| {
        let mut channel = Channel::new();
        let mut passed = 0;
        b.iter(|| {
            for piece in PIECES {
                channel.push(&automata, black_box(piece), &mut |_| passed += 1);
            }
            passed
        });
    });
    group.finish();
}
