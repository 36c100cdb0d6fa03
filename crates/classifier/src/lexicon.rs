//! Word classes: the roles of words.
//!
//! - *In*: the hash of a lower-case word, of its beginning, or of a piece of text without spaces.
//! - *Out*: its class, 0 for none.
//! - *Never*: stored text; words are stored as hashes.

use super::hash::{pair, roll, word_hash};

const SLOTS: usize = 16384;

/// Lengths of stems in letters; longer ones are cut, shorter ones are whole words.
pub const STEM: std::ops::RangeInclusive<u32> = 3..=7;
/// Mixed into the hash of a stem: a stem is no word.
const STEM_SALT: u64 = 0x0bad_57e3;

/// Words by class.
#[derive(Debug)]
pub struct Lexicon {
    slots: Vec<(u64, u8)>,
    names: Vec<&'static str>,
    /// The first and the last class whose words also match with letters swapped or a vowel left
    /// out.
    fuzzy: (u8, u8),
}

/// Properties of a word besides its hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// A hash of the letters in any order.
    pub bag: u64,
    /// A hash of the consonants in order.
    pub bones: u64,
    /// The first letter.
    pub first: u32,
    /// How many letters.
    pub length: u32,
}

impl Shape {
    /// One more letter.
    #[inline]
    pub fn add(&mut self, symbol: u32) {
        if self.length == 0 {
            self.first = symbol;
        }
        self.length += 1;
        let mixed = u64::from(symbol).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.bag = self.bag.wrapping_add(mixed ^ (mixed >> 29));
        if !matches!(symbol, 97 | 101 | 105 | 111 | 117) {
            self.bones = roll(self.bones, symbol);
        }
    }

    /// The key under which a word is found with letters swapped.
    fn swapped(&self) -> u64 {
        pair(pair(0x0bad_5a17, self.bag), u64::from(self.first) << 8 | u64::from(self.length))
    }

    /// The key under which a word of `length` letters is found without one of its vowels.
    fn shortened(&self, length: u32) -> u64 {
        pair(pair(0x0bad_b0e5, self.bones), u64::from(self.first) << 8 | u64::from(length))
    }
}

impl Lexicon {
    /// Reads the embedded table. A word has the first class that lists it.
    pub fn load() -> Self {
        let mut lexicon = Self { slots: vec![(0, 0); SLOTS], names: vec!["-"], fuzzy: (0, 0) };
        let rows = || {
            include_str!("lexicon.txt")
                .lines()
                .filter(|l| !l.starts_with('#'))
                .filter_map(|l| l.split_once(':'))
        };
        for (name, words) in rows() {
            let known = lexicon.names.iter().position(|known| *known == name);
            let class = known.unwrap_or(lexicon.names.len()) as u8;
            if known.is_none() {
                lexicon.names.push(name);
            }
            words.split_whitespace().for_each(|w| lexicon.add_word(w, class));
            match name {
                "identity" => lexicon.fuzzy.0 = class,
                "die" => lexicon.fuzzy.1 = class,
                _ => {}
            }
        }
        let known = lexicon.names.clone();
        for (name, words) in rows() {
            let class = known.iter().position(|n| *n == name).unwrap_or(0) as u8;
            if class >= lexicon.fuzzy.0 && class <= lexicon.fuzzy.1 {
                words
                    .split_whitespace()
                    .filter(|w| w.len() >= 4 && w.is_ascii() && !w.ends_with('*'))
                    .for_each(|w| lexicon.add_fuzzy(w, class));
            }
        }
        lexicon
    }

    fn add_word(&mut self, word: &str, class: u8) {
        let Some(stem) = word.strip_suffix('*') else { return self.add(word_hash(word), class) };
        let stem: String = stem.chars().take(*STEM.end() as usize).collect();
        let hash = word_hash(&stem);
        self.add(hash, class);
        if stem.chars().count() >= *STEM.start() as usize || !stem.is_ascii() {
            self.add(pair(STEM_SALT, hash), class);
        }
    }

    /// The class of the words that begin with `stem`, 0 for none.
    #[inline]
    pub fn stem(&self, stem: u64) -> u8 {
        self.exact(pair(STEM_SALT, stem))
    }

    /// The class of a piece of text without spaces, 0 for none.
    #[inline]
    pub fn piece(&self, hash: u64) -> u8 {
        self.exact(hash)
    }

    fn add(&mut self, word: u64, class: u8) {
        for i in 0..SLOTS {
            let Some(place) = self.slots.get_mut((slot(word) + i) % SLOTS) else { return };
            if place.1 == 0 {
                *place = (word, class);
            }
            if place.0 == word {
                return;
            }
        }
    }

    fn add_fuzzy(&mut self, word: &str, class: u8) {
        let mut shape = Shape::default();
        word.chars().for_each(|c| shape.add(c as u32));
        self.add(shape.swapped(), class);
        if word.len() >= 5 {
            self.add(shape.shortened(shape.length), class);
        }
    }

    /// The class of a word, or of the offensive word it is a misspelling of.
    pub fn class(&self, word: u64, shape: &Shape) -> u8 {
        let class = self.exact(word);
        if class != 0 || shape.length < 4 || shape.length > 12 {
            return class;
        }
        match self.exact(shape.swapped()) {
            0 => self.exact(shape.shortened(shape.length + 1)),
            swapped => swapped,
        }
    }

    /// Whether the class names groups of people.
    pub fn group(&self, class: u8) -> bool {
        class == self.fuzzy.0
    }

    fn exact(&self, word: u64) -> u8 {
        let start = slot(word);
        for i in 0..SLOTS {
            match self.slots.get((start + i) % SLOTS) {
                Some((key, class)) if *class == 0 || *key == word => return *class,
                _ => {}
            }
        }
        0
    }
}

fn slot(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as usize
}
