//! Telephone numbers, and dates of birth.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: numbers in international, North American and national notation.
//! - *Never*: a bare short number without a telephone word before it or a label after it.

use super::checks::{digits, monotone, month_day};
use crate::pattern::Pattern;
use crate::table::{Context, close, pii};

macro_rules! extension {
    () => {
        r"(?:[ ,;]{0,2}(?i:x|ext\.?|extension|durchwahl|poste)[ .:]{0,2}[0-9]{1,6})?"
    };
}

const INTERNATIONAL: &str =
    concat!(r"\+[1-9][0-9]{0,3}(?:[ .\-/]{0,2}\(?[0-9]{1,14}\)?){1,7}", extension!());
const DIALLED: &str = concat!(r"00[1-9][0-9]{0,2}(?:[ .\-]\(?[0-9]{1,10}\)?){2,6}", extension!());
const NANP: &str = concat!(
    r"(?:(?:00)?1[ .\-])?(?:\([2-9][0-9]{2}\)[ \-]?|[2-9][0-9]{2}[.\-])[0-9]{3}[ .\-][0-9]{4}",
    extension!()
);
const TRUNK: &str = concat!(
    r"(?:0[1-9][0-9]{0,3}|\(0[1-9][0-9]{0,3}\)|0 \([0-9]{3}\))(?:[ .\-/]{1,2}[0-9]{2,8}){1,4}",
    extension!()
);
const AREA: &str = concat!(
    r"\([1-9][0-9]{1,3}\)[ \-]?[0-9]{2,5}[ .\-][0-9]{2,5}(?:[ .\-][0-9]{2,4})?",
    extension!()
);
const GROUPED: &str =
    concat!(r"\(?[0-9][0-9\-]{0,6}\)?(?:[ .\-/]{0,2}\(?[0-9]{1,8}\)?){1,6}", extension!());
const LABELLED: &str = r"(?:\([0-9]{2,4}\) ?)?[0-9]{2,5}(?:[ .\-]?[0-9]{2,8}){1,4}(?:-| \(|\(| )(?i:office|fax|home|mobile|mob|cell|work|direct|landline)";

/// Context words for telephone numbers, in several languages.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    // With a blank at its end, a word must stand directly before the number.
    "call ", "cell ", "ring ", "dial ", "contact ", "handy ", "sms ", "cep ", "rufen sie ",
    "ruf ", "anrufen ", "call me", "call us", "ring me", "cell phone", "cellphone", "handynummer",
    "ruf an", "phone", "telephone", "tel", "tél", "Tél", "telefon", "teléfono", "telefono",
    "telefone", "telefoon", "téléphone", "Téléphone", "mobile", "mobil", "móvil", "celular",
    "cellulare", "rufnummer", "fax", "text me", "text us", "whatsapp", "reach me", "reach us",
    "hotline", "my number", "your number", "appelez", "llame", "llámame", "chiama", "ligue",
    "bel me", "bellen", "gsm", "voicemail", "telefonní", "puhelin", "telefonnummer", "ring mig",
    "电话", "手机", "手機", "電話", "致电", "전화", "연락처", "携帯", "連絡先", "телефон", "Телефон", "тел", "Тел",
    "звоните", "позвоните", "τηλέφωνο", "τηλ", "هاتف", "جوال", "اتصل", "טלפון", "फ़ोन", "फोन",
    "मोबाइल", "โทร", "điện thoại", "gọi", "telepon", "hubungi",
];
const CONTEXT: Context = Some((WORDS, 0.8));
const BORN: Context = Some((
    &[
        "born",
        "birth",
        "dob",
        "d.o.b",
        "birthday",
        "birthdate",
        "geboren",
        "geburtsdatum",
        "nacimiento",
        "naissance",
        "nascita",
        "né le",
        "née le",
    ],
    0.85,
));

/// The table.
pub(crate) const PATTERNS: &[Pattern] = &[
    pii(
        "pii.phone_international",
        "PHONE_NUMBER",
        INTERNATIONAL,
        64,
        Some(international),
        0.85,
        CONTEXT,
    ),
    pii("pii.phone_dialled", "PHONE_NUMBER", DIALLED, 64, Some(international), 0.75, CONTEXT),
    pii("pii.phone_nanp", "PHONE_NUMBER", NANP, 48, Some(grouped), 0.75, CONTEXT),
    pii("pii.phone_trunk", "PHONE_NUMBER", TRUNK, 56, Some(national), 0.65, CONTEXT),
    pii("pii.phone_area", "PHONE_NUMBER", AREA, 48, Some(national), 0.6, CONTEXT),
    close(pii("pii.phone_grouped", "PHONE_NUMBER", GROUPED, 56, Some(announced), 0.3, CONTEXT)),
    pii("pii.phone_labelled", "PHONE_NUMBER", LABELLED, 56, Some(grouped), 0.7, CONTEXT),
    close(pii("pii.birth", "DATE_OF_BIRTH", DAY_FIRST, 10, Some(day_first), 0.2, BORN)),
    close(pii(
        "pii.birth_iso",
        "DATE_OF_BIRTH",
        r"(?:19|20)[0-9]{2}[\-/.][01]?[0-9][\-/.][0-3]?[0-9]",
        10,
        Some(year_first),
        0.2,
        BORN,
    )),
];

const DAY_FIRST: &str = r"[0-3]?[0-9][/.\-][0-3]?[0-9][/.\-](?:19|20)[0-9]{2}";

/// Digits of the number itself, the extension left out.
fn number(text: &str) -> Vec<u32> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    digits(text.get(..end).unwrap_or_default())
}

/// Whether there is at most one pair of parentheses; the one of a label may be open.
fn balanced(text: &str) -> bool {
    let (open, close) = (text.find('('), text.find(')'));
    match (open, close) {
        (None, None) => true,
        (Some(o), Some(c)) => {
            o < c && text.matches('(').count() == 1 && text.matches(')').count() == 1
        }
        (Some(_), None) => text.bytes().any(|b| b.is_ascii_alphabetic()),
        (None, Some(_)) => false,
    }
}

/// E.164: a country code that does not begin with zero, eight to fifteen digits (without a trunk
/// zero, `(0)`).
fn international(text: &str) -> bool {
    let plain = text.replacen("(0)", "", 1);
    let all = number(&plain);
    let d = if text.starts_with("00") { all.get(2..).unwrap_or_default() } else { &all };
    balanced(&plain)
        && (8..=15).contains(&d.len())
        && d.first() != Some(&0)
        && !monotone(d)
        && length_fits(d)
}

/// Whether the length fits: some country codes have numbers of a fixed length.
fn length_fits(d: &[u32]) -> bool {
    match (d.first(), d.get(..2)) {
        (Some(1), _) => d.len() == 11,
        (_, Some([3, 3])) => d.len() == 11,
        (_, Some([9, 1])) => d.len() == 12,
        _ => true,
    }
}

/// With a trunk zero, nine to twelve digits; with an area code in parentheses, seven to twelve.
fn national(text: &str) -> bool {
    let d = number(text);
    let least = if text.starts_with('(') { 7 } else { 9 };
    balanced(text)
        && (least..=12).contains(&d.len())
        && !monotone(&d)
        && !dated(text)
        && !dump(text)
}

/// Whether the groups have two digits each and are not five (a number of ten digits in pairs): a
/// hexadecimal dump or a table.
fn dump(text: &str) -> bool {
    let groups = || text.split(|c: char| !c.is_ascii_digit()).filter(|g| !g.is_empty());
    groups().all(|g| g.len() == 2) && groups().count() != 5
}

/// Groups alone: six to thirteen digits, no date, and one kind of separator unless it begins with
/// `(`, `0` or `1`.
fn grouped(text: &str) -> bool {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let head = text.get(..end).unwrap_or_default().trim_end_matches(['-', ' ', '(', ',', ';']);
    let seps = head.bytes().filter(|b| matches!(b, b' ' | b'.' | b'-'));
    let mut kinds: Vec<u8> = seps.collect();
    kinds.dedup();
    let d = digits(head);
    let plain = head.starts_with(['(', '0', '1']) || kinds.len() <= 1;
    plain && (6..=13).contains(&d.len()) && !monotone(&d) && !dated(head) && !is_ssn(head)
}

/// A number that a telephone word announces: five to fourteen digits, not a date or an amount. A
/// run of digits needs six.
fn announced(text: &str) -> bool {
    let d = number(text);
    let separators = text.bytes().filter(|b| matches!(b, b' ' | b'.' | b'-' | b'/' | b'(')).count();
    let least = if separators == 0 { 6 } else { 5 };
    let decimal = text.matches('.').count() == 1 && separators == 1;
    balanced(text)
        && (least..=14).contains(&d.len())
        && !monotone(&d)
        && !dated(text)
        && !decimal
        && !is_ssn(text)
}

/// Whether the groups have three, two and four digits: a social security number.
fn is_ssn(text: &str) -> bool {
    text.split(['-', ' ']).map(str::len).eq([3, 2, 4])
}

/// Whether the text reads as a date or a span of years.
fn dated(text: &str) -> bool {
    let parts: Vec<u32> = text.split(['-', '.', '/', ' ']).filter_map(|p| p.parse().ok()).collect();
    let year = |n: &u32| (1900..2100).contains(n);
    match (parts.as_slice(), text.len()) {
        // A date that a time or another number follows.
        ([a, b, c, ..], _) if year(a) && *b < 13 && *c < 32 => true,
        ([a, b, c, ..], _) if year(c) && *a < 32 && *b < 32 => true,
        ([a, b, ..], _) if (1900..2100).contains(a) && (1..13).contains(b) => true,
        ([a, b], 9) => (1500..2100).contains(a) && (1500..2100).contains(b),
        _ => false,
    }
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(['-', '.', '/']).filter_map(|p| p.parse().ok()).collect()
}

fn day_first(text: &str) -> bool {
    matches!(numbers(text).as_slice(), [a, b, _] if month_day(*b, *a) || month_day(*a, *b))
}

fn year_first(text: &str) -> bool {
    matches!(numbers(text).as_slice(), [_, m, d] if month_day(*m, *d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        assert!(
            international("+44 20 7946 0958")
                && international("+49 (0)30 901820")
                && international("+1 212-555-0199 ext. 12")
        );
        assert!(!international("+1 212 555 019") && !international("+0 212 555 0199"));
    }

    #[test]
    fn groups() {
        assert!(
            grouped("212-555-0199")
                && announced("2245 6789")
                && announced("72003722")
                && national("(020) 7946 0958")
                && national("01 70 18 00 00")
        );
        assert!(!grouped("12-31-1999") && !grouped("1990-1999") && !national("0123 45"));
        assert!(
            !national("01 02 03 04 05 06") && !announced("2026-03-02 08") && !announced("12.75")
        );
    }

    #[test]
    fn births() {
        assert!(
            day_first("31/12/1980")
                && day_first("12/31/1980")
                && !day_first("31/31/1980")
                && year_first("1980-12-31")
        );
    }
}
