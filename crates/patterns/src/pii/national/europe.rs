//! Identifiers of European countries.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: numbers of people and companies, each under its own name.
//! - *Never*: a number with one check digit and no format of its own, without a word before it.

use super::arithmetic::{
    day_first, eleven, iso_11_10, last, luhn, number, rest, ten, value, year_first,
};
use super::{id, strict};
use crate::pattern::Pattern;
use crate::pii::checks::{alnum, digits, monotone, month_day, two, weighted};

/// The table.
#[rustfmt::skip]
pub(super) const PATTERNS: &[Pattern] = &[
    id("pii.al_nipt", "AL_NIPT", r"[A-Ma-m][0-9]{8}[A-Wa-w]", 10, None, &["nipt", "tvsh"]),
    id("pii.at_vnr", "AT_VNR", r"[1-9][0-9]{3} ?[0-9]{6}", 11, Some(at_vnr), &["svnr", "vnr", "versicherungsnummer", "sozialversicherung"]),
    id("pii.be_nn", "BE_NN", r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}[ \-]?[0-9]{3}\.?[0-9]{2}", 15, Some(be_nn), &["rijksregister", "insz", "niss", "registre national", "national register", "rrn"]),
    strict("pii.be_nn_dotted", "BE_NN", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", 15, Some(be_nn)),
    id("pii.bg_egn", "BG_EGN", r"[0-9]{6} ?[0-9]{3} ?[0-9]", 12, Some(bg_egn), &["егн", "ЕГН", "egn"]),
    id("pii.by_unp", "BY_UNP", r"[1-7][0-9]{8}", 9, Some(by_unp), &["унп", "УНП", "unp"]),
    strict("pii.ch_ahv", "CH_AHV", r"756[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}", 16, Some(ch_ahv)),
    strict("pii.ch_uid", "CH_UID", r"CHE-?[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}", 15, Some(|t| last(t, &[5, 4, 3, 2, 7, 6, 5, 4], eleven))),
    id("pii.cz_rc", "CZ_RC", r"[0-9]{6}[/ ]?[0-9]{3,4}", 11, Some(czech), &["rodné číslo", "rodne cislo", "r. č", "r.č", "rč"]),
    strict("pii.cz_rc_slash", "CZ_RC", r"[0-9]{6}/[0-9]{4}", 11, Some(czech)),
    id("pii.cz_ico", "CZ_ICO", r"[0-9]{8}", 8, Some(|t| last(t, &[8, 7, 6, 5, 4, 3, 2], eleven)), &["ičo", "IČO", "ico", "iČo"]),
    id("pii.sk_rc", "SK_RC", r"[0-9]{6}/?[0-9]{3,4}", 11, Some(czech), &["rodné číslo (sk)", "rodné číslo sk"]),
    id("pii.dk_cpr", "DK_CPR", r"[0-3][0-9][01][0-9]{3}[\- ]?[0-9]{4}", 11, Some(dk_cpr), &["cpr", "cpr-nummer", "cpr-nr", "personnummer", "personnr"]),
    id("pii.dk_cvr", "DK_CVR", r"[1-9][0-9] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2}", 11, Some(dk_cvr), &["cvr", "cvr-nr", "se-nr"]),
    id("pii.ee_ik", "EE_IK", r"[1-8][0-9]{10}", 11, Some(baltic), &["isikukood", "ik"]),
    id("pii.lt_asmens", "LT_ASMENS", r"[1-8][0-9]{10}", 11, Some(baltic), &["asmens kodas", "a.k"]),
    id("pii.lv_pk", "LV_PK", r"[0-9]{6}-?[0-9]{5}", 12, Some(lv_pk), &["personas kods", "p.k", "pk"]),
    id("pii.es_cif", "ES_CIF", r"[A-HJNP-SUVW]-?[0-9]{7}-?[0-9A-J]", 11, Some(es_cif), &["cif", "nif"]),
    id("pii.fr_siren", "FR_SIREN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 11, Some(|t| luhn(t, 9)), &["siren"]),
    id("pii.fr_siret", "FR_SIRET", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3} ?[0-9]{5}", 17, Some(|t| luhn(t, 14)), &["siret"]),
    id("pii.gr_amka", "GR_AMKA", r"[0-3][0-9][01][0-9]{8}", 11, Some(gr_amka), &["amka", "αμκα", "ΑΜΚΑ"]),
    id("pii.gr_afm", "GR_AFM", r"[0-9]{9}", 9, Some(gr_afm), &["afm", "αφμ", "ΑΦΜ"]),
    id("pii.hr_oib", "HR_OIB", r"[0-9]{11}", 11, Some(|t| iso_11_10(t, 11)), &["oib", "osobni identifikacijski"]),
    id("pii.hu_tax", "HU_TAX_ID", r"8[0-9]{9}", 10, Some(hu_tax), &["adóazonosító", "adoazonosito"]),
    id("pii.hu_anum", "HU_VAT", r"[0-9]{8}-[1-5]-[0-9]{2}", 13, Some(hu_vat), &["adószám", "adoszam"]),
    id("pii.ie_pps", "IE_PPS", r"[0-9]{7}[A-Wa-w][A-IWTXa-iwtx]?", 9, Some(ie_pps), &["pps", "ppsn"]),
    id("pii.is_kennitala", "IS_KENNITALA", r"[0-7][0-9][01][0-9]{3}-?[0-9]{4}", 11, Some(is_kennitala), &["kennitala", "kt", "kt."]),
    id("pii.it_codice", "IT_FISCAL_CODE", r"[0-9]{11}", 11, Some(|t| luhn(t, 11)), &["codice fiscale", "c.f"]),
    id("pii.jmbg", "RS_JMBG", r"[0-3][0-9][01][0-9]{10}", 13, Some(jmbg), &["jmbg", "ЈМБГ", "матични број", "matični broj"]),
    id("pii.si_emso", "SI_EMSO", r"[0-3][0-9][01][0-9]{10}", 13, Some(jmbg), &["emšo", "EMŠO", "emso"]),
    id("pii.si_ddv", "SI_TAX_ID", r"[1-9][0-9]{7}", 8, Some(|t| last(t, &[8, 7, 6, 5, 4, 3, 2], eleven)), &["davčna", "davcna"]),
    id("pii.lu_matricule", "LU_MATRICULE", r"(?:18|19|20)[0-9]{11}", 13, Some(lu), &["matricule", "matrikelnummer"]),
    id("pii.md_idno", "MD_IDNO", r"[0-9]{13}", 13, Some(|t| last(t, &[7, 3, 1, 7, 3, 1, 7, 3, 1, 7, 3, 1], |s| s % 10)), &["idnp", "idno"]),
    id("pii.nl_bsn_dotted", "NL_BSN", r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}", 11, Some(nl_bsn), &["bsn", "burgerservicenummer", "sofinummer"]),
    strict("pii.nl_vat", "NL_VAT", r"NL[0-9]{9}B[0-9]{2}", 14, Some(nl_vat)),
    strict("pii.no_fodselsnummer", "NO_FODSELSNUMMER", r"[0-7][0-9][0-9]{4} ?[0-9]{5}", 12, Some(no_birth)),
    id("pii.no_orgnr", "NO_ORGNR", r"[89][0-9]{2} ?[0-9]{3} ?[0-9]{3}", 11, Some(|t| last(t, &[3, 2, 7, 6, 5, 4, 3, 2], eleven)), &["org.nr", "orgnr", "organisasjonsnummer"]),
    id("pii.pl_nip", "PL_NIP", r"[1-9][0-9]{2}[ \-]?[0-9]{3}[ \-]?[0-9]{2}[ \-]?[0-9]{2}", 13, Some(pl_nip), &["nip"]),
    id("pii.pl_regon", "PL_REGON", r"[0-9]{9}", 9, Some(|t| last(t, &[8, 9, 2, 3, 4, 5, 6, 7], rest)), &["regon"]),
    id("pii.pt_nif", "PT_NIF", r"[1-9][0-9]{2} ?[0-9]{3} ?[0-9]{3}", 11, Some(|t| last(t, &[9, 8, 7, 6, 5, 4, 3, 2], eleven)), &["nif", "contribuinte", "nipc"]),
    id("pii.ro_cnp", "RO_CNP", r"[1-9][0-9]{12}", 13, Some(ro_cnp), &["cnp", "cod numeric personal"]),
    id("pii.ro_cui", "RO_CUI", r"(?:RO)?[0-9]{4,10}", 12, Some(ro_cui), &["cui", "cif"]),
    id("pii.ru_inn", "RU_INN", r"[0-9]{10}(?:[0-9]{2})?", 12, Some(ru_inn), &["инн", "ИНН", "inn"]),
    id("pii.ru_ogrn", "RU_OGRN", r"[1-9][0-9]{12}(?:[0-9]{2})?", 15, Some(ru_ogrn), &["огрн", "ОГРН", "ОГРНИП"]),
    strict("pii.ru_snils", "RU_SNILS", r"[0-9]{3}-[0-9]{3}-[0-9]{3}[ \-][0-9]{2}", 14, Some(ru_snils)),
    id("pii.ru_snils_bare", "RU_SNILS", r"[0-9]{11}", 11, Some(ru_snils), &["снилс", "СНИЛС", "snils"]),
    id("pii.ru_passport", "RU_PASSPORT", r"[0-9]{2} ?[0-9]{2} ?[0-9]{6}", 12, None, &["паспорт", "Паспорт", "серия"]),
    id("pii.ua_rntrc", "UA_RNTRC", r"[0-9]{10}", 10, Some(ua_rntrc), &["рнокпп", "РНОКПП", "ІПН", "іпн", "инн"]),
    id("pii.ua_edrpou", "UA_EDRPOU", r"[0-9]{8}", 8, Some(ua_edrpou), &["єдрпоу", "ЄДРПОУ"]),
    id("pii.uk_utr", "UK_UTR", r"[0-9]{5} ?[0-9]{5}", 11, Some(uk_utr), &["utr", "unique taxpayer"]),
    id("pii.eu_vat", "EU_VAT", r"(?:ATU[0-9]{8}|BE[01][0-9]{9}|BG[0-9]{9,10}|CY[0-9]{8}[A-Z]|CZ[0-9]{8,10}|DE[0-9]{9}|DK[0-9]{8}|EE[0-9]{9}|EL[0-9]{9}|ES[A-Z0-9][0-9]{7}[A-Z0-9]|FI[0-9]{8}|FR[0-9A-Z]{2}[0-9]{9}|GB[0-9]{9}|HR[0-9]{11}|HU[0-9]{8}|IE[0-9]{7}[A-W][A-I]?|IT[0-9]{11}|LT(?:[0-9]{12}|[0-9]{9})|LU[0-9]{8}|LV[0-9]{11}|MT[0-9]{8}|PL[0-9]{10}|PT[0-9]{9}|SE[0-9]{12}|SI[0-9]{8}|SK[0-9]{10})", 14, None, &["vat", "ust-id", "ustid", "ust-idnr", "umsatzsteuer", "tva", "btw", "moms", "iva", "alv"]),
];

/// Serial, check digit, then day, month and year of birth.
fn at_vnr(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(&d, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]) % 11;
    d.len() == 10 && d.get(3) == Some(&sum) && (1..=31).contains(&two(&d, 4))
}

/// 97 minus the number mod 97; for births since 2000 with a 2 before it.
fn be_nn(text: &str) -> bool {
    let d = digits(text);
    let n = number(text);
    let (body, check) = (n / 100, n % 100);
    let valid = |body: u64| 97 - body % 97 == check;
    d.len() == 11
        && two(&d, 2) <= 52
        && two(&d, 4) <= 31
        && (valid(body) || valid(body + 2_000_000_000))
}

/// Months have 20 or 40 added in other centuries.
fn bg_egn(text: &str) -> bool {
    let d = digits(text);
    month_day(two(&d, 2) % 20, two(&d, 4)) && last(text, &[2, 4, 8, 5, 10, 9, 7, 3, 6], rest)
}

fn by_unp(text: &str) -> bool {
    last(text, &[29, 23, 19, 17, 13, 7, 5, 3], |s| s % 11)
}

/// As EAN-13.
fn ch_ahv(text: &str) -> bool {
    last(text, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3], ten)
}

/// Months of women have 50 added, and 20 where the serials ran out; the number is divisible by 11.
fn czech(text: &str) -> bool {
    let d = digits(text);
    let month = two(&d, 2) % 50;
    let month = if month > 20 { month - 20 } else { month };
    let checked = match d.len() {
        9 => true,
        10 => {
            let (body, check) = (number(text) / 10, number(text) % 10);
            body % 11 % 10 == check
        }
        _ => false,
    };
    checked && !monotone(&d) && month_day(month, two(&d, 4))
}

/// Numbers issued since 2007 have no check digit.
fn dk_cpr(text: &str) -> bool {
    let d = digits(text);
    !monotone(&d) && day_first(&d, 0)
}

fn dk_cvr(text: &str) -> bool {
    let d = digits(text);
    d.len() == 8 && !monotone(&d) && weighted(&d, &[2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
}

/// Century and sex, a date, and a check digit in two rounds.
fn baltic(text: &str) -> bool {
    let d = digits(text);
    let round = |weights: &[u32]| weighted(&d, weights) % 11;
    let check = match round(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) {
        10 => round(&[3, 4, 5, 6, 7, 8, 9, 1, 2, 3]) % 10,
        check => check,
    };
    d.len() == 11 && !monotone(&d) && year_first(&d, 1) && d.last() == Some(&check)
}

/// Numbers that begin with 32 have neither date nor check digit.
fn lv_pk(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(&d, &[10, 5, 8, 4, 2, 1, 6, 3, 7, 9]);
    d.len() == 11
        && (two(&d, 0) == 32 || day_first(&d, 0) && d.last() == Some(&((1 + sum) % 11 % 10)))
}

/// The control is a digit or a letter of the same value.
fn es_cif(text: &str) -> bool {
    let plain = alnum(text);
    let d = digits(plain.get(1..8).unwrap_or_default());
    let sum: u32 = d
        .iter()
        .enumerate()
        .map(|(i, x)| if i % 2 == 0 { x * 2 / 10 + x * 2 % 10 } else { *x })
        .sum();
    let check = ten(sum);
    let control = plain.bytes().last().unwrap_or(b'-');
    let letter = b"JABCDEFGHI".get(check as usize).copied();
    d.len() == 7 && (Some(control) == letter || u32::from(control) == u32::from(b'0') + check)
}

fn gr_amka(text: &str) -> bool {
    luhn(text, 11) && day_first(&digits(text), 0)
}

fn gr_afm(text: &str) -> bool {
    last(text, &[256, 128, 64, 32, 16, 8, 4, 2], rest)
}

fn hu_tax(text: &str) -> bool {
    last(text, &[1, 2, 3, 4, 5, 6, 7, 8, 9], |s| s % 11)
}

fn hu_vat(text: &str) -> bool {
    last(text.get(..8).unwrap_or_default(), &[9, 7, 3, 1, 9, 7, 3], ten)
}

/// The letter is a weighted sum mod 23; a second letter counts nine times.
fn ie_pps(text: &str) -> bool {
    let plain = alnum(text);
    let second = plain
        .as_bytes()
        .get(8)
        .copied()
        .filter(|b| *b <= b'I')
        .map_or(0, |b| u32::from(b - b'A') + 1);
    let sum = weighted(&digits(plain.get(..7).unwrap_or_default()), &[8, 7, 6, 5, 4, 3, 2]);
    let place = ((sum + second * 9) % 23) as usize;
    "WABCDEFGHIJKLMNOPQRSTUV".get(place..=place) == plain.get(7..8)
}

fn is_kennitala(text: &str) -> bool {
    let d = digits(text);
    let day = two(&d, 0);
    let check = (11 - weighted(&d, &[3, 2, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    d.len() == 10
        && month_day(two(&d, 2), if day > 40 { day - 40 } else { day })
        && d.get(8) == Some(&check)
        && matches!(d.last(), Some(0 | 8 | 9))
}

/// Birth, region, serial, and a check digit: of all countries of former Yugoslavia.
fn jmbg(text: &str) -> bool {
    month_day(two(&digits(text), 2), two(&digits(text), 0))
        && last(text, &[7, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2], eleven)
}

fn lu(text: &str) -> bool {
    let d = digits(text);
    let dated = month_day(two(&d, 4), two(&d, 6));
    dated && d.get(..12).is_some_and(crate::pii::checks::luhn)
}

fn nl_bsn(text: &str) -> bool {
    last(text, &[9, 8, 7, 6, 5, 4, 3, 2], |s| s % 11)
}

/// Mod 97 over letters as numbers, or the check of the citizen number inside.
fn nl_vat(text: &str) -> bool {
    let rest = text.bytes().fold(0u32, |n, b| {
        let v = value(b);
        (if v > 9 { n * 100 } else { n * 10 } + v) % 97
    });
    rest == 1 || nl_bsn(text.get(2..11).unwrap_or_default())
}

/// Birth (days of D-numbers have 40 added), and two check digits.
fn no_birth(text: &str) -> bool {
    let d = digits(text);
    let day = two(&d, 0);
    let month = two(&d, 2) % 40;
    let first = (11 - weighted(&d, &[3, 7, 6, 1, 8, 9, 4, 5, 2]) % 11) % 11;
    let second = (11 - weighted(&d, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    d.len() == 11
        && !monotone(&d)
        && month_day(month, if day > 40 { day - 40 } else { day })
        && d.get(9) == Some(&first)
        && d.get(10) == Some(&second)
}

fn pl_nip(text: &str) -> bool {
    last(text, &[6, 5, 7, 2, 3, 4, 5, 6, 7], |s| s % 11)
}

/// Sex and century, birth, county, serial, check digit.
fn ro_cnp(text: &str) -> bool {
    let d = digits(text);
    year_first(&d, 1)
        && last(
            text,
            &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9],
            |s| if s % 11 == 10 { 1 } else { s % 11 },
        )
}

fn ro_cui(text: &str) -> bool {
    let d = digits(text);
    let Some((check, body)) = d.split_last() else { return false };
    let weights = [2, 3, 5, 7, 1, 2, 3, 5, 7];
    let sum: u32 = body.iter().rev().zip(weights).map(|(x, w)| x * w).sum();
    (4..=10).contains(&d.len()) && sum * 10 % 11 % 10 == *check
}

/// Ten digits of a company with one check digit, or twelve of a person with two.
fn ru_inn(text: &str) -> bool {
    const WEIGHTS: [u32; 11] = [3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8];
    let d = digits(text);
    let check = |from: usize, at: usize| {
        d.get(at) == Some(&rest(weighted(&d, WEIGHTS.get(from..).unwrap_or_default())))
    };
    !monotone(&d)
        && match d.len() {
            10 => check(2, 9),
            12 => check(1, 10) && check(0, 11),
            _ => false,
        }
}

fn ru_ogrn(text: &str) -> bool {
    let n = number(text);
    let by = if digits(text).len() == 13 { 11 } else { 13 };
    n / 10 % by % 10 == n % 10
}

fn ru_snils(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(&d, &[9, 8, 7, 6, 5, 4, 3, 2, 1]);
    d.len() == 11 && !monotone(&d) && sum % 101 % 100 == two(&d, 9)
}

/// Days since 1900, serial, check digit.
fn ua_rntrc(text: &str) -> bool {
    let d = digits(text);
    let sum: i32 = d
        .iter()
        .zip([-1, 5, 7, 9, 4, 6, 10, 5, 7])
        .map(|(x, w)| i32::try_from(*x).unwrap_or(0) * w)
        .sum();
    d.len() == 10
        && !monotone(&d)
        && d.last() == u32::try_from(sum.rem_euclid(11) % 10).ok().as_ref()
}

fn ua_edrpou(text: &str) -> bool {
    let d = digits(text);
    let n = number(text);
    let inner = (30_000_000..60_000_000).contains(&n);
    let weights = if inner { [7, 1, 2, 3, 4, 5, 6] } else { [1, 2, 3, 4, 5, 6, 7] };
    let sum = |add: u32| d.iter().zip(weights).map(|(x, w)| x * (w + add)).sum::<u32>() % 11;
    let check = if sum(0) == 10 { sum(2) % 10 } else { sum(0) };
    d.len() == 8 && d.last() == Some(&check)
}

/// The check digit is the first one.
fn uk_utr(text: &str) -> bool {
    let d = digits(text);
    let body = d.get(1..).unwrap_or_default();
    let place = (weighted(body, &[6, 7, 8, 9, 10, 5, 4, 3, 2]) % 11) as usize;
    d.len() == 10 && d.first() == [2, 1, 9, 8, 7, 6, 5, 4, 3, 2, 1].get(place)
}
