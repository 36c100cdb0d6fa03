//! The features of a text.
//!
//! - *In*: a normal text, segment by segment in reading order.
//! - *Out*: buckets of features, reported to a [`Sink`]: characters, words, and the roles of words.
//! - *Never*: an allocation, a second pass, a weight.

use super::hash::{BASE, bucket, pair, roll};
use super::lexicon::{Lexicon, STEM, Shape};
use shield::normalise::Normal;

/// The kind of a feature; each kind is normalized by its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Character n-grams.
    Chars,
    /// Words, pairs and pairs with a gap.
    Words,
    /// Classes of words and their order; facts about the whole text.
    Parts,
}

/// How many kinds there are.
pub const KINDS: usize = 3;

/// The class of a quotation mark; the classes of the lexicon are smaller.
const QUOTE: u8 = 63;

/// Minimum count by which the new features of a sentence are normalized, by kind: a short sentence
/// must not score high.
pub const MIN_OCCURRENCES: [u32; KINDS] = [30, 8, 8];

/// Takes features.
pub trait Sink {
    /// A feature was met.
    fn feature(&mut self, kind: Kind, bucket: u32);
    /// A fact about the whole text.
    fn fact(&mut self, bucket: u32);
    /// A sentence ends.
    fn sentence(&mut self);
}

/// Maximum symbols of a sentence; a longer one is cut.
const LONG_SENTENCE: u32 = 240;
/// Minimum symbols of a sentence; punctuation does not end a shorter one.
const SHORT_SENTENCE: u32 = 24;

const SALT_CHARS: [u64; 3] = [0x1111_2222, 0x3333_4444, 0x5555_6666];
const SALT_WORD: u64 = 0x0777_0001;
const SALT_PAIR: u64 = 0x0777_0002;
const SALT_SKIP: u64 = 0x0777_0003;
const SALT_PART: u64 = 0x0777_0011;
const GROUP: u64 = 0x0777_0041;
const SALT_SHOUT: u64 = 0x0777_0048;
const SALT_FACT: u64 = 0x0777_0021;

/// Reports a fact about a whole text.
pub fn fact<S: Sink>(sink: &mut S, which: u64, value: u64) {
    sink.fact(bucket(pair(pair(SALT_FACT, which), value)));
}

/// Extracts the features of one text.
pub struct Walk<'a, S> {
    lexicon: &'a Lexicon,
    sink: &'a mut S,
    /// The last five symbols, newest first.
    last: [u64; 5],
    blank: bool,
    word: u64,
    shape: Shape,
    length: u32,
    /// Class of the longest known beginning of this word.
    stem: u8,
    words: [u64; 3],
    /// The last classes with the number of the word, newest first.
    parts: [(u8, u32); 4],
    class_before: u8,
    count: u32,
    in_sentence: u32,
    /// Capitals in this word.
    capitals: u32,
    /// Words in capitals, in a row.
    shouted: u32,
}

impl<'a, S: Sink> Walk<'a, S> {
    /// A walk that reports to `sink`.
    pub fn new(lexicon: &'a Lexicon, sink: &'a mut S) -> Self {
        Self {
            lexicon,
            sink,
            last: [0; 5],
            blank: true,
            word: 0,
            shape: Shape::default(),
            length: 0,
            stem: 0,
            words: [0; 3],
            parts: [(0, 0); 4],
            class_before: 0,
            count: 0,
            in_sentence: 0,
            capitals: 0,
            shouted: 0,
        }
    }

    /// Extracts the features of the whole text.
    pub fn text(mut self, normal: &Normal) {
        for segment in normal.plain() {
            self.segment(segment);
            self.separator(' ');
        }
        self.sentence();
    }

    fn segment(&mut self, segment: &str) {
        let mut rest = segment;
        while !rest.is_empty() {
            let ascii = rest.bytes().position(|b| b >= 0x80).unwrap_or(rest.len());
            let (plain, beyond) = rest.split_at_checked(ascii).unwrap_or((rest, ""));
            plain.bytes().for_each(|b| self.ascii(b));
            let mut chars = beyond.chars();
            while let Some(c) = chars.clone().next().filter(|c| !c.is_ascii()) {
                chars.next();
                self.wide(c);
            }
            rest = chars.as_str();
        }
    }

    #[inline]
    fn ascii(&mut self, b: u8) {
        match b {
            b'a'..=b'z' => self.letter(u32::from(b)),
            b'A'..=b'Z' => {
                self.capitals += 1;
                self.letter(u32::from(b | 0x20));
            }
            b'0'..=b'9' => self.letter(u32::from(b'0')),
            b'\'' => {}
            _ => self.separator(b as char),
        }
    }

    fn wide(&mut self, c: char) {
        if !c.is_alphanumeric()
            && unicode_normalization::char::canonical_combining_class(c) == 0
            && !mark(c)
        {
            return self.separator(c);
        }
        let lower = c.to_lowercase().next().unwrap_or(c) as u32;
        self.letter(lower);
        // Scripts without spaces have no words: each character counts as a word, and each pair as a
        // pair.
        if lower >= 0x2e80 {
            self.sink.feature(Kind::Words, bucket(pair(SALT_WORD, u64::from(lower))));
            let two = pair(self.last.get(1).copied().unwrap_or(0), u64::from(lower));
            self.sink.feature(Kind::Words, bucket(pair(SALT_PAIR, two)));
            self.piece();
        }
    }

    /// The class of the last characters of a script without spaces: the longest piece counts.
    fn piece(&mut self) {
        self.count += 1;
        let [a, b, c, d, _] = self.last.map(|symbol| symbol as u32);
        for piece in [&[d, c, b, a][..], &[c, b, a], &[b, a], &[a]] {
            let class = self.lexicon.piece(piece.iter().fold(0, |hash, c| roll(hash, *c)));
            if class != 0 {
                return self.part(class);
            }
        }
    }

    #[inline]
    fn letter(&mut self, symbol: u32) {
        self.word = roll(self.word, symbol);
        self.shape.add(symbol);
        self.length += 1;
        self.blank = false;
        // Hangul syllables are two or three letters.
        if STEM.contains(&self.length) || (self.length == 2 && symbol >= 0x0600) {
            let class = self.lexicon.stem(self.word);
            if class != 0 {
                self.stem = class;
            }
        }
        self.symbol(symbol);
    }

    #[inline]
    fn symbol(&mut self, symbol: u32) {
        let [a, b, c, d, _] = self.last;
        let s = u64::from(symbol);
        self.last = [s, a, b, c, d];
        self.in_sentence += 1;
        let three = s.wrapping_add(a.wrapping_mul(BASE)).wrapping_add(b.wrapping_mul(BASE * 31));
        let four = three.wrapping_add(c.wrapping_mul(BASE * 1009));
        let five = four.wrapping_add(d.wrapping_mul(BASE * 65_537));
        let [x, y, z] = SALT_CHARS;
        self.sink.feature(
            Kind::Chars,
            bucket(three.wrapping_add(x).wrapping_mul(0xd6e8_feb8_6659_fd93)),
        );
        self.sink
            .feature(Kind::Chars, bucket(four.wrapping_add(y).wrapping_mul(0xd6e8_feb8_6659_fd93)));
        self.sink
            .feature(Kind::Chars, bucket(five.wrapping_add(z).wrapping_mul(0xd6e8_feb8_6659_fd93)));
    }

    fn separator(&mut self, c: char) {
        if self.length > 0 {
            self.end_word();
        }
        let white = c.is_whitespace();
        if !white {
            self.symbol(c as u32);
        }
        if !self.blank {
            self.symbol(u32::from(b' '));
        }
        self.blank = true;
        let long = self.in_sentence > LONG_SENTENCE;
        if long
            || (self.in_sentence > SHORT_SENTENCE
                && matches!(c, '.' | '?' | '!' | '\n' | '。' | '？' | '！' | '।'))
        {
            self.sentence();
        }
        if c == '"' {
            self.part(QUOTE);
        }
    }

    fn sentence(&mut self) {
        self.sink.sentence();
        self.in_sentence = 0;
    }

    fn end_word(&mut self) {
        let (word, shape) = (std::mem::take(&mut self.word), std::mem::take(&mut self.shape));
        let stem = std::mem::take(&mut self.stem);
        let class = match self.lexicon.class(word, &shape) {
            0 => stem,
            class => class,
        };
        self.shout(class);
        self.length = 0;
        // All words for groups of people share one feature: the statement counts, not its target.
        let word = if self.lexicon.group(class) { GROUP } else { word };
        let [one, two, _] = self.words;
        self.words = [word, one, two];
        self.count += 1;
        self.sink.feature(Kind::Words, bucket(pair(SALT_WORD, word)));
        if one != 0 {
            self.sink.feature(Kind::Words, bucket(pair(pair(SALT_PAIR, one), word)));
        }
        if two != 0 {
            self.sink.feature(Kind::Words, bucket(pair(pair(SALT_SKIP, two), word)));
        }
        if self.class_before != 0 && class == 0 {
            self.sink.feature(
                Kind::Parts,
                bucket(pair(pair(SALT_PART + 8, u64::from(self.class_before)), word)),
            );
        } else if class != 0 && one != 0 {
            self.sink
                .feature(Kind::Parts, bucket(pair(pair(SALT_PART + 9, u64::from(class)), one)));
        }
        self.class_before = class;
        if class != 0 {
            self.part(class);
        }
    }

    /// Features of a word in capitals: its number in a row of such words, and its class. Words of
    /// one or two letters do not count.
    fn shout(&mut self, class: u8) {
        let capitals = std::mem::take(&mut self.capitals);
        if self.length < 3 {
            return;
        }
        if capitals < self.length {
            self.shouted = 0;
            return;
        }
        self.shouted += 1;
        self.sink.feature(Kind::Parts, bucket(pair(SALT_SHOUT, u64::from(self.shouted.min(4)))));
        if class != 0 {
            self.sink.feature(Kind::Parts, bucket(pair(SALT_SHOUT + 1, u64::from(class))));
        }
    }

    /// Features of a word with a class: the class alone, and in order with the classes before it.
    fn part(&mut self, class: u8) {
        let now = self.count;
        let [a, b, c, _] = self.parts;
        self.parts = [(class, now), a, b, c];
        let one = pair(SALT_PART, u64::from(class));
        self.sink.feature(Kind::Parts, bucket(one));
        let mut chain = one;
        for (i, (before, at)) in [a, b, c].into_iter().enumerate() {
            if before == 0 || now - at > 8 {
                break;
            }
            // The classes in order; for the nearest one, also the distance.
            chain = pair(chain, u64::from(before));
            self.sink.feature(Kind::Parts, bucket(chain));
            if i == 0 {
                self.sink
                    .feature(Kind::Parts, bucket(pair(chain, 100 + u64::from((now - at).min(3)))));
            } else {
                self.sink.feature(
                    Kind::Parts,
                    bucket(pair(pair(SALT_PART + i as u64, u64::from(class)), u64::from(before))),
                );
            }
        }
    }
}

/// Whether a character is in an Indic or South-East Asian script: their vowel signs are part of a
/// word, but not letters.
fn mark(c: char) -> bool {
    const RANGES: [(char, char); 4] = [
        ('\u{0900}', '\u{0dff}'),
        ('\u{0e00}', '\u{0eff}'),
        ('\u{1000}', '\u{109f}'),
        ('\u{1780}', '\u{17ff}'),
    ];
    RANGES.iter().any(|(first, last)| (first..=last).contains(&&c))
}
