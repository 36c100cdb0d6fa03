//! Invisible characters, and those that look like Latin letters.
//!
//! - *In*: a character.
//! - *Out*: its class or its Latin look-alike.
//! - *Never*: context. The caller has the word and decides whether a look-alike is folded.

/// Characters that show nothing: zero width, direction controls, variation selectors, soft hyphen.
pub(super) fn invisible(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
        || matches!(c, '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// The ASCII character that a tag character stands for. `Some(None)`: a tag character without one.
pub(super) fn tag(c: char) -> Option<Option<char>> {
    match c as u32 {
        v @ 0xe0020..=0xe007e => Some(char::from_u32(v - 0xe0000)),
        0xe0000..=0xe007f => Some(None),
        _ => None,
    }
}

/// Signs that stand for an ASCII one in any context.
pub(super) fn sign(c: char) -> Option<char> {
    Some(match c {
        '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{02bc}' => '\'',
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{1f150}'..='\u{1f169}' => letter(c, 0x1f150)?,
        '\u{1f170}'..='\u{1f189}' => letter(c, 0x1f170)?,
        '\u{1f1e6}'..='\u{1f1ff}' => letter(c, 0x1f1e6)?,
        _ => return None,
    })
}

fn letter(c: char, base: u32) -> Option<char> {
    char::from_u32((c as u32).checked_sub(base)? + u32::from(b'a'))
}

/// Whether words of this letter can be folded at all: Cyrillic, Greek, Armenian, phonetic and small
/// capital letters.
pub(super) fn foreign(c: char) -> bool {
    matches!(c, '\u{0131}' | '\u{0250}'..='\u{02af}' | '\u{0370}'..='\u{03ff}' | '\u{a730}')
        || matches!(c, '\u{0400}'..='\u{052f}' | '\u{0531}'..='\u{0587}' | '\u{1d00}'..='\u{1d2b}')
        || c == '\u{a731}'
}

/// The Latin letter that `c` looks like.
pub(super) fn latin(c: char) -> Option<char> {
    small(c).or_else(|| capital(c))
}

fn small(c: char) -> Option<char> {
    Some(match c {
        'а' | 'α' | 'ɑ' | 'ᴀ' => 'a',
        'ʙ' | 'Ь' | 'ь' => 'b',
        'с' | 'ϲ' | 'ᴄ' => 'c',
        'ԁ' | 'ᴅ' => 'd',
        'е' | 'ε' | 'ᴇ' | 'є' => 'e',
        'ꜰ' => 'f',
        'ɡ' | 'ɢ' | 'ց' => 'g',
        'һ' | 'ʜ' | 'հ' => 'h',
        'і' | 'ι' | 'ı' | 'ɪ' | 'ї' => 'i',
        'ј' | 'ᴊ' => 'j',
        'к' | 'κ' | 'ᴋ' => 'k',
        'ӏ' | 'ʟ' => 'l',
        'м' | 'ᴍ' => 'm',
        'п' | 'ո' | 'ɴ' | 'η' => 'n',
        'о' | 'ο' | 'օ' | 'ᴏ' | 'σ' => 'o',
        'р' | 'ρ' | 'ᴘ' => 'p',
        'ԛ' | 'զ' => 'q',
        'г' | 'ʀ' => 'r',
        'ѕ' | 'ꜱ' => 's',
        'т' | 'τ' | 'ᴛ' => 't',
        'υ' | 'ս' | 'ᴜ' => 'u',
        'ν' | 'ѵ' | 'ᴠ' => 'v',
        'ԝ' | 'ω' | 'ᴡ' => 'w',
        'х' | 'χ' => 'x',
        'у' | 'γ' | 'ʏ' => 'y',
        'ᴢ' => 'z',
        _ => return None,
    })
}

fn capital(c: char) -> Option<char> {
    Some(match c {
        'А' | 'Α' => 'A',
        'В' | 'Β' => 'B',
        'С' | 'Ϲ' => 'C',
        'Е' | 'Ε' => 'E',
        'Н' | 'Η' => 'H',
        'І' | 'Ι' => 'I',
        'Ј' => 'J',
        'К' | 'Κ' => 'K',
        'М' | 'Μ' => 'M',
        'Ν' => 'N',
        'О' | 'Ο' => 'O',
        'Р' | 'Ρ' => 'P',
        'Ѕ' => 'S',
        'Т' | 'Τ' => 'T',
        'У' | 'Υ' => 'Y',
        'Х' | 'Χ' => 'X',
        'Ζ' => 'Z',
        _ => return None,
    })
}
