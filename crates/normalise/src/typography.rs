//! Folds the typography of numbers, keys and addresses to ASCII: spaces, dashes, quotation marks
//! and digits of all kinds, invisible characters, HTML entities, and Markdown emphasis in a number.
//!
//! - *In*: a text, whole or piece by piece.
//! - *Out*: the folded text, and where each of its bytes came from.
//! - *Never*: more than one byte for a character, so that the folded text is not longer; a letter
//!   of a word replaced; more than [`MAX_PENDING`] bytes held back.
//!
//! The folded form of a character depends on the characters next to it only, so that the cuts of a
//! stream do not matter.

use std::ops::Range;

use crate::map::Map;

/// Maximum bytes that wait for the rest of an entity or of an emphasis.
pub const MAX_PENDING: usize = 12;

/// Maximum backslashes before the character that they escape: three strings deep.
const MAX_SLASHES: usize = 7;

/// Maximum invisible characters in a row that are left out: no typesetter writes more, and they
/// would be held.
const MAX_GONE: u8 = 4;

/// Characters of emphasis in Markdown.
const EMPHASIS: [u8; 3] = *b"*_`";

/// The folded form of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Same,
    To(u8),
    /// Another character, of which an escape is the JSON form.
    Char(char),
    Gone,
}

/// First digits of the scripts with decimal digits (Unicode category Nd).
const ZEROS: [u32; 26] = [
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1b50,
    0xa9d0, 0xff10,
];

fn fold(c: char) -> Fold {
    let v = c as u32;
    match v {
        0..=0x7f => Fold::Same,
        0x00ad | 0x034f | 0x061c | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e => Fold::Gone,
        0x2060..=0x2064 | 0x2066..=0x206f | 0xfe00..=0xfe0f | 0xfeff => Fold::Gone,
        0x00a0 | 0x1680 | 0x2000..=0x200a | 0x202f | 0x205f | 0x3000 => Fold::To(b' '),
        0x2028 | 0x2029 | 0x0085 => Fold::To(b'\n'),
        0x2010..=0x2015 | 0x2043 | 0x2212 | 0xfe58 | 0xfe63 => Fold::To(b'-'),
        0x2018 | 0x2019 | 0x201b | 0x02bc => Fold::To(b'\''),
        0x201c..=0x201f => Fold::To(b'"'),
        0x00b7 | 0x2024 | 0x2027 | 0x22c5 | 0x30fb | 0xff0e => Fold::To(b'.'),
        0x2044 | 0x2215 => Fold::To(b'/'),
        0xfe6b | 0xff20 => Fold::To(b'@'),
        0xff0b | 0xff0d | 0xff08 | 0xff09 | 0xff1d | 0xff3f | 0xff0f => ascii_of_wide(v),
        0xff21..=0xff3a | 0xff41..=0xff5a => ascii_of_wide(v),
        0x1d7ce..=0x1d7ff => Fold::To(b'0' + ((v - 0x1d7ce) % 10) as u8),
        0x0660..=0xff19 => digit(v),
        _ => Fold::Same,
    }
}

/// A full-width form.
fn ascii_of_wide(v: u32) -> Fold {
    u8::try_from(v - 0xfee0).map_or(Fold::Same, Fold::To)
}

fn digit(v: u32) -> Fold {
    let after = ZEROS.partition_point(|zero| *zero <= v);
    match after.checked_sub(1).and_then(|i| ZEROS.get(i)) {
        Some(zero) if v - zero < 10 => Fold::To(b'0' + (v - zero) as u8),
        _ => Fold::Same,
    }
}

/// Names of the entities that fold to one character.
const NAMED: [(&str, char); 16] = [
    ("nbsp", '\u{a0}'),
    ("ensp", ' '),
    ("emsp", ' '),
    ("thinsp", ' '),
    ("numsp", ' '),
    ("shy", '\u{ad}'),
    ("zwnj", '\u{200c}'),
    ("zwj", '\u{200d}'),
    ("ndash", '-'),
    ("mdash", '-'),
    ("hyphen", '-'),
    ("commat", '@'),
    ("period", '.'),
    ("plus", '+'),
    ("sol", '/'),
    ("middot", '.'),
];

/// What stands at an ampersand.
enum Entity {
    /// It begins no entity.
    None,
    /// It may become one.
    Unfinished,
    /// A character, and the bytes of the entity.
    Is(char, usize),
}

/// The entity at the beginning of `text`, which begins with `&`.
fn entity(text: &str) -> Entity {
    let bytes = text.as_bytes();
    let body = |b: &u8| b.is_ascii_alphanumeric() || *b == b'#';
    let length = bytes.iter().skip(1).take(MAX_PENDING).take_while(|b| body(b)).count();
    if length == 0 && bytes.len() > 1 || length + 1 >= MAX_PENDING {
        return Entity::None;
    }
    match bytes.get(length + 1) {
        None => Entity::Unfinished,
        Some(b';') => decode(text.get(1..=length).unwrap_or_default())
            .map_or(Entity::None, |c| Entity::Is(c, length + 2)),
        Some(_) => Entity::None,
    }
}

/// The character of an entity's name or number, if it folds to ASCII or to nothing.
fn decode(name: &str) -> Option<char> {
    let c = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
        None => NAMED.iter().find(|(known, _)| *known == name)?.1,
    };
    (c.is_ascii_graphic() || c == ' ' || fold(c) != Fold::Same).then_some(c)
}

/// Whether a byte may begin something that does not fold to itself. Without branches, so that
/// compilers test many bytes at a time.
fn is_sign(b: u8) -> bool {
    (b >= 0x80) | (b == b'&') | (b == b'*') | (b == b'_') | (b == b'`')
}

/// The number of bytes before the first sign.
fn before_sign(bytes: &[u8]) -> usize {
    let is_clear =
        |block: &&[u8; 32]| block.iter().fold(0, |any, b| any | u8::from(is_sign(*b))) == 0;
    let (blocks, _) = bytes.as_chunks::<32>();
    let clear = blocks.iter().take_while(is_clear).count() * 32;
    let rest = bytes.get(clear..).unwrap_or_default();
    clear + rest.iter().take_while(|b| !is_sign(**b)).count()
}

/// Whether a text folds to itself, whatever stands before and after it.
pub fn is_plain(text: &str) -> bool {
    let mut digits = None;
    let mut rest = text;
    loop {
        rest = rest.get(before_sign(rest.as_bytes())..).unwrap_or_default();
        let mut chars = rest.chars();
        let Some(sign) = chars.next() else { return true };
        rest = chars.as_str();
        let same = match sign {
            '&' => false,
            '*' | '_' | '`' => {
                text.len() > 8
                    && !*digits.get_or_insert_with(|| text.bytes().any(|b| b.is_ascii_digit()))
            }
            sign => fold(sign) == Fold::Same,
        };
        if !same {
            return false;
        }
    }
}

/// What stands at a backslash in JSON.
enum Escape {
    /// It may become an escape.
    Unfinished,
    /// A character, and the bytes of the escape.
    Is(char, usize),
}

/// The escape at the beginning of `text`, which begins with a backslash. In JSON inside a string,
/// each escape has more of them. Backslashes that escape none but themselves are one.
fn escape(text: &str) -> Escape {
    let bytes = text.as_bytes();
    let slashes = bytes.iter().take(MAX_SLASHES + 1).take_while(|b| **b == b'\\').count();
    if slashes > MAX_SLASHES {
        return Escape::Is('\\', MAX_SLASHES - 1);
    }
    let of = |c| Escape::Is(c, slashes + 1);
    let is_odd = slashes % 2 == 1;
    match bytes.get(slashes) {
        None => Escape::Unfinished,
        Some(b'u') => {
            let hex = bytes.iter().skip(slashes + 1).take(4);
            let digits = hex.clone().take_while(|b| b.is_ascii_hexdigit()).count();
            if digits < hex.len() || digits < 4 && bytes.len() > slashes + 1 + digits {
                return Escape::Is('\\', slashes);
            }
            if digits < 4 {
                return Escape::Unfinished;
            }
            let hex = text.get(slashes + 1..slashes + 5).unwrap_or_default();
            // Halves of a pair are no letter or digit that a rule needs.
            let c = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).unwrap_or(' ');
            Escape::Is(if c < ' ' && !c.is_ascii_whitespace() { ' ' } else { c }, slashes + 5)
        }
        Some(b'"') if is_odd => of('"'),
        Some(b'/') if is_odd => of('/'),
        Some(b'n') if is_odd => of('\n'),
        Some(b'r') if is_odd => of('\r'),
        Some(b't') if is_odd => of('\t'),
        Some(b'b' | b'f') if is_odd => of(' '),
        Some(_) => Escape::Is('\\', slashes),
    }
}

/// Folds text that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Whether the text is JSON, so that its escapes stand for characters.
    is_json: bool,
    /// The last two bytes of the folded text.
    last: [u8; 2],
    /// Invisible characters in a row.
    gone: u8,
}

/// Receives the folded text: the byte or run, and the bytes of the original that it stands for.
pub trait Sink {
    /// A run that is unchanged.
    fn same(&mut self, text: &str);
    /// A byte in place of so many original bytes.
    fn replaced(&mut self, byte: u8, original: usize);
    /// A character in place of so many original bytes.
    fn decoded(&mut self, c: char, original: usize);
    /// So many original bytes are left out.
    fn gone(&mut self, original: usize);
}

impl Folder {
    /// A folder of JSON, which resolves its escapes as well.
    pub fn of_json() -> Self {
        Folder { is_json: true, ..Folder::default() }
    }

    /// A folder of another text of the same form.
    pub fn renewed(&self) -> Self {
        Folder { is_json: self.is_json, ..Folder::default() }
    }

    /// Whether `text` folds to itself, whatever stands before and after it.
    pub fn leaves(&self, text: &str) -> bool {
        is_plain(text) && !(self.is_json && text.contains('\\'))
    }

    /// The number of bytes that fold to themselves, at least.
    fn before_sign(&self, bytes: &[u8]) -> usize {
        let plain = before_sign(bytes);
        let plain = bytes.get(..plain).unwrap_or_default();
        let slash = self.is_json.then(|| memchr::memchr(b'\\', plain)).flatten();
        slash.unwrap_or(plain.len())
    }

    /// Note text that was not folded because it [`is_plain`].
    pub fn skip(&mut self, text: &str) {
        text.as_bytes().iter().rev().take(2).rev().for_each(|b| self.note(*b));
    }

    fn note(&mut self, byte: u8) {
        self.last = [self.last[1], byte];
        self.gone = 0;
    }

    /// Folds `text`. Returns the bytes at its end that need more text: at most [`MAX_PENDING`], and
    /// none if the text ends here.
    pub fn fold(&mut self, text: &str, ends: bool, sink: &mut impl Sink) -> usize {
        let mut from = 0;
        let mut at = 0;
        loop {
            at += self.before_sign(text.as_bytes().get(at..).unwrap_or_default());
            let rest = text.get(at..).unwrap_or_default();
            let Some(c) = rest.chars().next() else { break };
            let (fold, length) = match c {
                '&' | '\\' => match coded(rest, ends) {
                    Some(coded) => coded,
                    None => {
                        self.run(text, from..at, sink);
                        return rest.len();
                    }
                },
                '*' | '_' | '`' => {
                    if let Some(before) = text.get(from..at).filter(|run| !run.is_empty()) {
                        self.skip(before);
                    }
                    match self.emphasis(rest, ends) {
                        Some(0) => (Fold::Same, 1),
                        Some(length) => (Fold::Gone, length),
                        None => {
                            sink_run(text, from..at, sink);
                            return rest.len();
                        }
                    }
                }
                c => (fold(c), c.len_utf8()),
            };
            // A run that is not noted yet ends a row of invisible characters.
            let is_full = from == at && self.gone >= MAX_GONE;
            let fold = if fold == Fold::Gone && is_full { Fold::Same } else { fold };
            if fold != Fold::Same {
                self.run(text, from..at, sink);
                from = at + length;
            }
            match fold {
                Fold::Same => {}
                Fold::To(byte) => {
                    self.note(byte);
                    sink.replaced(byte, length);
                }
                Fold::Char(c) => {
                    self.skip(c.encode_utf8(&mut [0; 4]));
                    sink.decoded(c, length);
                }
                Fold::Gone => {
                    self.gone += 1;
                    sink.gone(length);
                }
            }
            at += length;
        }
        self.run(text, from..text.len(), sink);
        0
    }

    fn run(&mut self, text: &str, run: Range<usize>, sink: &mut impl Sink) {
        self.skip(text.get(run.clone()).unwrap_or_default());
        sink_run(text, run, sink);
    }

    /// The length of the emphasis at the beginning of `text` that stands inside a number; 0: none;
    /// `None`: more text decides.
    fn emphasis(&self, text: &str, ends: bool) -> Option<usize> {
        let bytes = text.as_bytes();
        let [before, last] = self.last;
        let spaced = matches!(last, b' ' | b'-');
        if !(last.is_ascii_digit() || spaced && before.is_ascii_digit()) {
            return Some(0);
        }
        let run = |from: usize, most: usize, of: &dyn Fn(u8) -> bool| {
            bytes.iter().skip(from).take(most).take_while(|b| of(**b)).count()
        };
        let sign = |b: u8| EMPHASIS.contains(&b);
        let length = run(0, 4, &sign);
        let gap = if spaced { 0 } else { run(length, 1, &|b| matches!(b, b' ' | b'-')) };
        let more = if gap > 0 { run(length + gap, 3, &sign) } else { 0 };
        let Some(next) = bytes.get(length + gap + more) else {
            return if ends || length > 3 { Some(0) } else { None };
        };
        // A single sign between digits is a product or a name.
        let single = length == 1 && !spaced && gap == 0;
        Some(if length <= 3 && next.is_ascii_digit() && !single { length } else { 0 })
    }
}

/// The folded form of the entity or escape at the beginning of `text`, and its length; `None`: more
/// text decides.
fn coded(text: &str, ends: bool) -> Option<(Fold, usize)> {
    if text.starts_with('\\') {
        return match escape(text) {
            Escape::Unfinished if !ends => None,
            Escape::Unfinished => Some((Fold::To(b'\\'), text.len())),
            Escape::Is(c, length) => Some((of_escape(c), length)),
        };
    }
    match entity(text) {
        Entity::Is(c, length) if c.is_ascii() => Some((Fold::To(c as u8), length)),
        Entity::Is(c, length) => Some((fold(c), length)),
        Entity::Unfinished if !ends => None,
        _ => Some((Fold::Same, 1)),
    }
}

/// The folded form of a character that was escaped.
fn of_escape(c: char) -> Fold {
    match fold(c) {
        Fold::Same if c.is_ascii() => Fold::To(c as u8),
        Fold::Same => Fold::Char(c),
        folded => folded,
    }
}

fn sink_run(text: &str, run: Range<usize>, sink: &mut impl Sink) {
    if let Some(run) = text.get(run).filter(|run| !run.is_empty()) {
        sink.same(run);
    }
}

/// The folded form of a whole text, with its way back.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// The folded text.
    pub text: String,
    map: Map,
    read: usize,
}

/// The folded form of `text`; `None` if it folds to itself.
pub fn folded(text: &str) -> Option<Folded> {
    fold_whole(text, Folder::default())
}

/// The folded form of JSON, its escapes resolved; `None` if it folds to itself.
pub fn folded_json(text: &str) -> Option<Folded> {
    fold_whole(text, Folder::of_json())
}

fn fold_whole(text: &str, mut folder: Folder) -> Option<Folded> {
    if folder.leaves(text) {
        return None;
    }
    let mut folded = Folded { text: String::with_capacity(text.len()), ..Folded::default() };
    folder.fold(text, true, &mut folded);
    (folded.text.len() != text.len()).then_some(folded)
}

impl Folded {
    /// The span in the text as sent of a span of the folded text.
    pub fn original(&self, span: Range<usize>) -> Range<usize> {
        self.map.original(span, self.text.len())
    }
}

impl Sink for Folded {
    fn same(&mut self, text: &str) {
        self.map.copied(self.text.len(), self.read, text.len());
        self.text.push_str(text);
        self.read += text.len();
    }

    fn replaced(&mut self, byte: u8, original: usize) {
        self.map.replaced(self.text.len(), self.read..self.read + original);
        self.text.push(char::from(byte));
        self.read += original;
    }

    fn decoded(&mut self, c: char, original: usize) {
        self.map.replaced(self.text.len(), self.read..self.read + original);
        self.text.push(c);
        self.read += original;
    }

    fn gone(&mut self, original: usize) {
        self.read += original;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        folded(text).map_or_else(|| text.to_owned(), |folded| folded.text)
    }

    #[test]
    fn separators_and_digits_of_all_kinds_become_ascii() {
        for (text, ascii) in [
            ("4111\u{a0}1111\u{202f}1111\u{2009}1111", "4111 1111 1111 1111"),
            ("4111\u{2011}1111\u{2013}1111\u{2212}1111", "4111-1111-1111-1111"),
            ("41\u{200b}11\u{ad} 1111", "4111 1111"),
            ("4\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}1", "4\u{200b}1"),
            ("4\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}11\u{ad}1", "4\u{200b}111"),
            ("٤١١١ १२३ ４２＠ｘ．ｄｅ", "4111 123 42@x.de"),
            ("4111&nbsp;1111&#8209;1111&#x2013;1111", "4111 1111-1111-1111"),
            ("&#52;1&#49;1 &amp; AT&T &auml; &nope;", "4111 &amp; AT&T &auml; &nope;"),
            ("4111 **1111** `1111` __1111__", "4111 1111 1111 1111__"),
            ("4111** **1111", "4111 1111"),
            ("2 * 3, 4*5, 1_000, a **b** c, x_1", "2 * 3, 4*5, 1_000, a **b** c, x_1"),
            ("“müller” and ‘x’", "\"müller\" and 'x'"),
        ] {
            assert_eq!(of(text), ascii, "{text}");
        }
    }

    #[test]
    fn escapes_of_json_stand_for_characters_at_every_depth() {
        for (text, plain) in [
            (r#"joe\u0040x.de \\\u0040"#, "joe@x.de @"),
            (r#"m\u00fcller \u8eab\u4efd \ud83d\ude00"#, "müller 身份   "),
            (r#"--p \"X\" \\\"Y\\\" a\/b \bc"#, r#"--p "X" "Y" a/b  c"#),
            (r#"C:\\new \\" \x"#, r#"C:\new \" \x"#),
            (r#"4\u00a01\n"#, "4 1\n"),
            (r"a\u00", r"a\"),
            (r"\\\\\\\\\\", r"\\"),
        ] {
            let found = folded_json(text).map_or_else(|| text.to_owned(), |folded| folded.text);
            assert_eq!(found, plain, "{text}");
        }
        let text = r#"an joe\u0040x\u00fc.de"#;
        let folded = folded_json(text).expect("it folds");
        assert_eq!(&text[folded.original(3..10)], r#"joe\u0040x\u00fc"#);
    }

    #[test]
    fn spans_cover_the_original_characters() {
        let text = "é 41\u{200b}11\u{a0}1111 x";
        let folded = folded(text).expect("it folds");
        let start = folded.text.find("4111").expect("digits");
        let span = folded.original(start..start + 9);
        assert_eq!(&text[span], "41\u{200b}11\u{a0}1111");
    }

    #[test]
    fn digits_of_every_script_count_from_zero() {
        for zero in ZEROS {
            for n in 0..10 {
                let c = char::from_u32(zero + n).expect("a digit");
                assert_eq!(fold(c), Fold::To(b'0' + n as u8), "{c}");
            }
        }
    }
}
