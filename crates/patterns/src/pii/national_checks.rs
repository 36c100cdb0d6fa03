//! Checks of national numbers, one small function for each.
//!
//! - *In*: a candidate, separators and all.
//! - *Out*: whether the number is valid.
//! - *Never*: a lookup of numbers that were really issued.

use super::checks::{self, alnum, digits, mod_11_10, monotone, month_day, two, weighted};

/// Whether the last digit is `fold` of the weighted sum of the others.
fn last_is(text: &str, weights: &[u32], fold: fn(u32) -> u32) -> bool {
    let d = digits(text);
    d.len() == weights.len() + 1 && !monotone(&d) && d.last() == Some(&fold(weighted(&d, weights)))
}

fn divides(text: &str, weights: &[u32], by: u32) -> bool {
    let d = digits(text);
    d.len() == weights.len() && !monotone(&d) && weighted(&d, weights).is_multiple_of(by)
}

pub(crate) fn luhn(text: &str) -> bool {
    let d = digits(text);
    !monotone(&d) && checks::luhn(&d)
}

/// Area 000, area 666, areas from 900, group 00 and serial 0000 were never issued.
pub(crate) fn us_ssn(text: &str) -> bool {
    let d = digits(text);
    let area = d.iter().take(3).fold(0, |n, x| n * 10 + x);
    area != 0
        && area != 666
        && area < 900
        && two(&d, 3) != 0
        && d.iter().skip(5).any(|x| *x != 0)
        && !monotone(&d)
}

pub(crate) fn us_itin(text: &str) -> bool {
    let group = two(&digits(text), 3);
    let dashed = text.matches(['-', ' ']).count() == 2;
    dashed && matches!(group, 50..=65 | 70..=88 | 90..=92 | 94..=99)
}

/// Luhn over the number with the prefix 80840.
pub(crate) fn us_npi(text: &str) -> bool {
    let mut d = vec![8, 0, 8, 4, 0];
    let own = digits(text);
    d.extend(&own);
    own.len() == 10 && checks::luhn(&d) && own.iter().skip(1).any(|x| Some(x) != own.get(1))
}

pub(crate) fn aba(text: &str) -> bool {
    let area = two(&digits(text), 0);
    matches!(area, 0..=12 | 21..=32 | 61..=72 | 80)
        && divides(text, &[3, 7, 1, 3, 7, 1, 3, 7, 1], 10)
}

pub(crate) fn uk_nhs(text: &str) -> bool {
    last_is(text, &[10, 9, 8, 7, 6, 5, 4, 3, 2], |s| (11 - s % 11) % 11)
}

pub(crate) fn uk_nino(text: &str) -> bool {
    let plain = alnum(text);
    !["BG", "GB", "NK", "KN", "TN", "NT", "ZZ"].iter().any(|p| plain.starts_with(p))
}

/// Surname, decade, month (women: plus 50), day, year, initials, and two of the agency's own.
pub(crate) fn uk_driving(text: &str) -> bool {
    let plain = alnum(text);
    let d = digits(plain.get(5..11).unwrap_or_default());
    let month = two(&d, 1);
    plain.len() == 16
        && d.len() == 6
        && month_day(if month > 50 { month - 50 } else { month }, two(&d, 3))
}

/// Eleven digits; no digit more than three times in the first ten; mod 11, 10.
pub(crate) fn de_tax(text: &str) -> bool {
    let d = digits(text);
    let body = d.get(..10).unwrap_or_default();
    let most = (0..10).map(|x| body.iter().filter(|y| **y == x).count()).max().unwrap_or(0);
    d.len() == 11 && most <= 3 && mod_11_10(&d)
}

/// Area, birth date, initial, serial; the letter counts as its two-digit place in the alphabet.
pub(crate) fn de_social(text: &str) -> bool {
    let plain = alnum(text);
    let all = digits(&plain);
    let letter =
        plain.as_bytes().get(8).filter(|b| b.is_ascii_uppercase()).map(|b| u32::from(b - b'A') + 1);
    let (Some(place), Some(check)) = (letter, all.last()) else { return false };
    let mut d: Vec<u32> = all.iter().take(8).copied().collect();
    d.extend([place / 10, place % 10]);
    d.extend(all.iter().skip(8).take(2));
    let sum: u32 = d
        .iter()
        .zip([2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1])
        .map(|(x, w)| x * w)
        .map(|p| p / 10 + p % 10)
        .sum();
    let day = two(&d, 2);
    month_day(two(&d, 4), if day > 50 { day - 50 } else { day }) && sum % 10 == *check
}

/// A letter, eight digits, and a check by alternating ones and twos.
pub(crate) fn de_health(text: &str) -> bool {
    let place = text
        .bytes()
        .next()
        .map_or(0, |b| u32::from(b.to_ascii_uppercase().saturating_sub(b'A')) + 1);
    let d = digits(text);
    let body = [place / 10, place % 10].into_iter().chain(d.iter().take(8).copied());
    let sum: u32 =
        body.zip([1, 2].into_iter().cycle()).map(|(x, w)| x * w).map(|p| p / 10 + p % 10).sum();
    d.len() == 9 && d.last() == Some(&(sum % 10))
}

/// ICAO 9303: weights seven, three, one.
pub(crate) fn de_document(text: &str) -> bool {
    let values: Vec<u32> = alnum(text).chars().filter_map(|c| c.to_digit(36)).collect();
    let Some((check, body)) = values.split_last() else { return false };
    let sum: u32 = body.iter().zip([7, 3, 1].into_iter().cycle()).map(|(v, w)| v * w).sum();
    body.iter().any(|v| *v < 10) && sum % 10 == *check
}

/// Six digits, a check by fours and nines, and the specialty.
pub(crate) fn de_lanr(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(&d, &[4, 9, 4, 9, 4, 9]);
    d.get(6) == Some(&((10 - sum % 10) % 10)) && two(&d, 7) > 0
}

/// The letter is the number mod 23; X, Y, Z stand for 0, 1, 2.
pub(crate) fn es_nif(text: &str) -> bool {
    let plain = alnum(text);
    let Some((body, letter)) = plain.split_at_checked(plain.len().saturating_sub(1)) else {
        return false;
    };
    let number: String = body
        .chars()
        .map(|c| match c {
            'X' => '0',
            'Y' => '1',
            'Z' => '2',
            other => other,
        })
        .collect();
    let place = number.parse::<usize>().map_or(99, |n| n % 23);
    "TRWAGMYFPDXBNJZSQVHLCKE".get(place..place + 1) == Some(letter)
}

/// The last letter is a sum over the others, with a table of its own for odd positions.
pub(crate) fn it_fiscal(text: &str) -> bool {
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let plain = alnum(text);
    let place =
        |b: u8| usize::from(if b.is_ascii_digit() { b - b'0' } else { b.saturating_sub(b'A') });
    let value = |(i, b): (usize, u8)| {
        if i % 2 == 0 { ODD.get(place(b)).copied().unwrap_or(0) } else { place(b) as u32 }
    };
    let sum: u32 = plain.bytes().take(15).enumerate().map(value).sum();
    plain.len() == 16 && plain.bytes().last().is_some_and(|b| place(b) as u32 == sum % 26)
}

/// The key is 97 minus the number mod 97; Corsica's letters count as 19 and 18.
pub(crate) fn fr_nir(text: &str) -> bool {
    let plain = alnum(text).replace("2A", "19").replace("2B", "18");
    let Some((body, key)) = plain.split_at_checked(13) else { return false };
    matches!((body.parse::<u64>(), key.parse::<u64>()), (Ok(n), Ok(k)) if k == 97 - n % 97)
}

/// The month also encodes the century.
pub(crate) fn pl_pesel(text: &str) -> bool {
    let d = digits(text);
    month_day(two(&d, 2) % 20, two(&d, 4))
        && last_is(text, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3], |s| (10 - s % 10) % 10)
}

/// The check character is the nine digits mod 31.
pub(crate) fn fi_hetu(text: &str) -> bool {
    let d = digits(text.get(..10).unwrap_or_default());
    let number = d.iter().fold(0u32, |n, x| n * 10 + x);
    let place = (number % 31) as usize;
    let serial = number % 1000;
    month_day(two(&d, 2), two(&d, 0))
        && serial >= 2
        && "0123456789ABCDEFHJKLMNPRSTUVWXY".get(place..place + 1) == text.get(10..)
}

/// Luhn over the last ten digits, which begin with a date (a co-ordination number adds sixty to the
/// day).
pub(crate) fn se_personal(text: &str) -> bool {
    let d = digits(text);
    let short = d.get(d.len().saturating_sub(10)..).unwrap_or_default();
    let day = two(short, 4);
    let dated = month_day(two(short, 2), if day > 60 { day - 60 } else { day });
    matches!(d.len(), 10 | 12) && dated && checks::luhn(short)
}

/// Two check digits: one over odd and even positions, one over the sum.
pub(crate) fn tr_id(text: &str) -> bool {
    let d = digits(text);
    let odd: u32 = d.iter().take(9).step_by(2).sum();
    let even: u32 = d.iter().take(8).skip(1).step_by(2).sum();
    let sum: u32 = d.iter().take(10).sum();
    d.len() == 11
        && d.get(9) == Some(&((odd * 7 + 100 - even) % 10))
        && d.get(10) == Some(&(sum % 10))
}

/// A date, a citizenship digit from 0 to 2, Luhn.
pub(crate) fn za_id(text: &str) -> bool {
    let d = digits(text);
    !monotone(&d)
        && month_day(two(&d, 2), two(&d, 4))
        && d.get(10).is_some_and(|c| *c <= 2)
        && checks::luhn(&d)
}

/// Provinces run from 10 to 96.
pub(crate) fn th_id(text: &str) -> bool {
    let province = two(&digits(text), 1);
    (10..=96).contains(&province)
        && last_is(text, &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2], |s| (11 - s % 11) % 10)
}

/// A date, then a region. Numbers issued since 2020 have no check digit, so the date is enough if
/// there is a dash.
pub(crate) fn kr_resident(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(&d, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]);
    let foreign = d.get(6).is_some_and(|g| (5..=8).contains(g));
    let check = (11 - sum % 11 + if foreign { 2 } else { 0 }) % 10;
    !monotone(&d)
        && month_day(two(&d, 2), two(&d, 4))
        && two(&d, 7) <= 96
        && (text.contains('-') || d.get(12) == Some(&check))
}

pub(crate) fn kr_firm(text: &str) -> bool {
    let d = digits(text);
    let tail = d.get(8).map_or(0, |x| x * 5 / 10);
    let sum = weighted(&d, &[1, 3, 7, 1, 3, 7, 1, 3, 5]) + tail;
    d.get(9) == Some(&((10 - sum % 10) % 10))
}

/// The letter is a weighted sum mod 11, read from a table of the prefix.
pub(crate) fn sg_fin(text: &str) -> bool {
    let plain = alnum(text);
    let sum = weighted(&digits(&plain), &[2, 7, 6, 5, 4, 3, 2]);
    let (offset, table) = match plain.chars().next() {
        Some('S') => (0, "JZIHGFEDCBA"),
        Some('T') => (4, "JZIHGFEDCBA"),
        Some('F') => (0, "XWUTRQPNMLK"),
        Some('G') => (4, "XWUTRQPNMLK"),
        _ => (3, "XWUTRQPNJLK"),
    };
    let place = ((sum + offset) % 11) as usize;
    table.get(place..place + 1) == plain.get(8..)
}

/// The weighted sum is divisible by 89 once the first digit is reduced by one.
pub(crate) fn au_abn(text: &str) -> bool {
    let mut d = digits(text);
    if let Some(first) = d.first_mut() {
        *first = first.saturating_sub(1);
    }
    d.len() == 11 && weighted(&d, &[10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]).is_multiple_of(89)
}

pub(crate) fn au_acn(text: &str) -> bool {
    last_is(text, &[8, 7, 6, 5, 4, 3, 2, 1], |s| (10 - s % 10) % 10)
}

pub(crate) fn au_tfn(text: &str) -> bool {
    divides(text, &[1, 4, 3, 7, 5, 8, 6, 9, 10], 11)
}

pub(crate) fn au_medicare(text: &str) -> bool {
    let d = digits(text);
    d.get(8) == Some(&(weighted(&d, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10))
}

/// Verhoeff's dihedral check.
pub(crate) fn in_aadhaar(text: &str) -> bool {
    const SHUFFLE: [[u32; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let d = digits(text);
    let shuffled = d.iter().rev().enumerate().map(|(i, x)| SHUFFLE[i % 8][*x as usize]);
    !monotone(&d) && shuffled.fold(0, dihedral) == 0
}

/// Composition in the dihedral group of a pentagon: 0 to 4 are rotations, 5 to 9 reflections.
fn dihedral(a: u32, b: u32) -> u32 {
    match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b) % 5,
        (false, true) => 5 + (a + 5 - b) % 5,
        (false, false) => (a + 5 - b) % 5,
    }
}

pub(crate) fn br_cpf(text: &str) -> bool {
    let d = digits(text);
    let check = |n: usize| {
        let sum: u32 =
            d.iter().take(n).enumerate().map(|(i, x)| x * (n as u32 + 1 - i as u32)).sum();
        sum * 10 % 11 % 10
    };
    d.len() == 11 && !monotone(&d) && d.get(9) == Some(&check(9)) && d.get(10) == Some(&check(10))
}

pub(crate) fn nl_bsn(text: &str) -> bool {
    last_is(text, &[9, 8, 7, 6, 5, 4, 3, 2], |s| s % 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_numbers() {
        assert!(uk_nhs("943 476 5919") && !uk_nhs("943 476 5918"));
        assert!(es_nif("12345678Z") && es_nif("X1234567L") && !es_nif("12345678A"));
        assert!(it_fiscal("RSSMRA85T10A562S") && !it_fiscal("RSSMRA85T10A562T"));
        assert!(br_cpf("111.444.777-35") && !br_cpf("111.444.777-36"));
        assert!(au_tfn("123 456 782") && au_abn("53 004 085 616"));
        assert!(in_aadhaar("2341 2341 2346") && !in_aadhaar("2341 2341 2347"));
        assert!(nl_bsn("111222333") && sg_fin("S1234567D") && fi_hetu("131052-308T"));
        assert!(us_ssn("219-09-9999") && !us_ssn("000-12-3456") && us_itin("900-70-0000"));
    }
}
