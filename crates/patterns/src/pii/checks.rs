//! Check digits that several kinds of numbers use.
//!
//! - *In*: a candidate, separators and all.
//! - *Out*: whether its check digits are valid.
//! - *Never*: a guess at what the number is.

/// The ASCII digits of `text` as numbers.
pub(crate) fn digits(text: &str) -> Vec<u32> {
    text.bytes().filter(u8::is_ascii_digit).map(|b| u32::from(b - b'0')).collect()
}

/// The letters and digits of `text`, upper case.
pub(crate) fn alnum(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}

/// The sum of products.
pub(crate) fn weighted(digits: &[u32], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| d * w).sum()
}

/// Luhn's check (ISO/IEC 7812).
pub(crate) fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &d)| match (i % 2, d * 2) {
            (0, _) => d,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

/// ISO 7064 mod 11, 10: used by the German tax number and many VAT numbers.
pub(crate) fn mod_11_10(digits: &[u32]) -> bool {
    let Some((last, body)) = digits.split_last() else { return false };
    let product = body.iter().fold(10, |product, d| {
        let sum = (d + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == *last
}

/// Whether all digits are equal, or only zeros and ones: 000000000 was never issued, and 01101000
/// is a binary number.
pub(crate) fn monotone(digits: &[u32]) -> bool {
    digits.windows(2).all(|w| w.first() == w.last()) || digits.iter().all(|d| *d < 2)
}

/// Whether month and day are a valid date.
pub(crate) fn month_day(month: u32, day: u32) -> bool {
    (1..=12).contains(&month)
        && day >= 1
        && day <= [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1]
}

/// The two digits at `at` as a number; 99 if there are not two.
pub(crate) fn two(digits: &[u32], at: usize) -> u32 {
    match digits.get(at..at + 2) {
        Some([a, b]) => a * 10 + b,
        _ => 99,
    }
}

/// A payment card: a known issuer's prefix, one of its lengths, Luhn; groups of three or more. A
/// number without groups must have the length of a common card, because one number in ten has a
/// valid check digit.
pub(crate) fn card(text: &str) -> bool {
    let d = digits(text);
    let mut groups = text.split(|c: char| !c.is_ascii_digit()).filter(|g| !g.is_empty());
    let grouped = d.len() != text.len();
    let short_group = groups.any(|g| g.len() < 3);
    !short_group && (grouped || is_common(&d)) && any_card(text)
}

/// As [`card`], of any length and in any groups.
pub(crate) fn any_card(text: &str) -> bool {
    let d = digits(text);
    !monotone(&d) && issuer(&d) && luhn(&d)
}

/// Whether the number has the prefix and the length of a common card.
fn is_common(d: &[u32]) -> bool {
    let prefix = d.iter().take(6).fold(0, |n, x| n * 10 + x);
    match prefix {
        400_000..=499_999 | 510_000..=559_999 | 222_100..=272_099 => d.len() == 16,
        352_800..=358_999 | 601_100..=601_199 | 644_000..=659_999 => d.len() == 16,
        620_000..=629_999 => d.len() == 16,
        340_000..=349_999 | 370_000..=379_999 => d.len() == 15,
        300_000..=305_999 | 360_000..=369_999 | 380_000..=399_999 => d.len() == 14,
        _ => false,
    }
}

fn issuer(d: &[u32]) -> bool {
    let prefix = d.iter().take(6).fold(0, |n, x| n * 10 + x);
    let length = d.len();
    match prefix {
        400_000..=499_999 => matches!(length, 13 | 16 | 19),
        340_000..=349_999 | 370_000..=379_999 => length == 15,
        510_000..=559_999 | 222_100..=272_099 => length == 16,
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
            (14..=19).contains(&length)
        }
        350_000..=359_999
        | 601_100..=601_199
        | 622_126..=622_925
        | 644_000..=659_999
        | 620_000..=629_999 => (16..=19).contains(&length),
        // Old JCB, and enRoute before it.
        180_000..=180_099 | 213_100..=213_199 => length == 15,
        // Maestro, UnionPay and the national schemes.
        500_000..=509_999 | 560_000..=699_999 => (12..=19).contains(&length),
        _ => false,
    }
}

/// Lengths of the account numbers that ISO 13616 registers.
#[rustfmt::skip]
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24), ("AE", 23), ("AL", 28), ("AT", 20), ("AZ", 28), ("BA", 20), ("BE", 16),
    ("BG", 22), ("BH", 22), ("BI", 27), ("BR", 29), ("BY", 28), ("CH", 21), ("CR", 22),
    ("CY", 28), ("CZ", 24), ("DE", 22), ("DJ", 27), ("DK", 18), ("DO", 28), ("EE", 20),
    ("EG", 29), ("ES", 24), ("FI", 18), ("FK", 18), ("FO", 18), ("FR", 27), ("GB", 22),
    ("GE", 22), ("GI", 23), ("GL", 18), ("GR", 27), ("GT", 28), ("HR", 21), ("HU", 28),
    ("IE", 22), ("IL", 23), ("IQ", 23), ("IS", 26), ("IT", 27), ("JO", 30), ("KW", 30),
    ("KZ", 20), ("LB", 28), ("LC", 32), ("LI", 21), ("LT", 20), ("LU", 20), ("LV", 21),
    ("LY", 25), ("MC", 27), ("MD", 24), ("ME", 22), ("MK", 19), ("MN", 20), ("MR", 27),
    ("MT", 31), ("MU", 30), ("NI", 28), ("NL", 18), ("NO", 15), ("OM", 23), ("PK", 24),
    ("PL", 28), ("PS", 29), ("PT", 25), ("QA", 29), ("RO", 24), ("RS", 22), ("RU", 33),
    ("SA", 24), ("SC", 31), ("SD", 18), ("SE", 24), ("SI", 19), ("SK", 24), ("SM", 27),
    ("SO", 23), ("ST", 25), ("SV", 28), ("TL", 23), ("TN", 24), ("TR", 26), ("UA", 29),
    ("VA", 22), ("VG", 24), ("XK", 20), ("YE", 30),
];

/// An international bank account number: its country's length, mod 97.
pub(crate) fn iban(text: &str) -> bool {
    let plain = alnum(text);
    let known = plain.get(..2).and_then(|c| IBAN_LENGTHS.iter().find(|(name, _)| *name == c));
    let one_case = !(text.bytes().any(|b| b.is_ascii_lowercase())
        && text.bytes().any(|b| b.is_ascii_uppercase()));
    one_case && known.is_some_and(|(_, length)| *length == plain.len()) && mod_97(&plain) == 1
}

fn mod_97(plain: &str) -> u32 {
    let (head, tail) = plain.split_at_checked(4).unwrap_or(("", plain));
    tail.chars().chain(head.chars()).fold(0, |rest, c| match c.to_digit(36) {
        Some(v) if v > 9 => (rest * 100 + v) % 97,
        Some(v) => (rest * 10 + v) % 97,
        None => rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        assert!(
            card("4111 1111 1111 1111") && card("378282246310005") && card("5555-5555-5555-4444")
        );
        assert!(!card("4111 1111 1111 1112") && !card("0000000000000000"));
        assert!(card("4111.1111.1111.1111") && card("4111\n1111\n1111\n1111"));
        assert!(!card("4222222222222") && any_card("4222222222222"));
    }

    #[test]
    fn ibans() {
        assert!(iban("GB82 WEST 1234 5698 7654 32") && iban("fr1420041010050500013m02606"));
        assert!(!iban("GB82 WEST 1234 5698 7654 33") && !iban("ZZ82 WEST 1234 5698 7654 32"));
    }

    #[test]
    fn calendars() {
        assert!(
            month_day(2, 29)
                && !month_day(2, 30)
                && !month_day(13, 1)
                && !month_day(4, 31)
                && !month_day(0, 1)
        );
    }
}
