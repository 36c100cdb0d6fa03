//! Identifiers of countries in the Americas, Africa and Oceania.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: numbers of people and companies, each under its own name.
//! - *Never*: a number with one check digit and no format of its own, without a word before it.

use super::arithmetic::{eleven, last, luhn, number, ten, value, values, year_first};
use super::{c, id, strict};
use crate::pattern::Pattern;
use crate::pii::checks::{alnum, digits, monotone, month_day, two, weighted};

/// The table.
#[rustfmt::skip]
pub(super) const PATTERNS: &[Pattern] = &[
    id("pii.ar_dni", "AR_DNI", r"(?:[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}|[0-9]{7,8})", 10, None, &["dni", "documento"]),
    strict("pii.ar_cuit", "AR_CUIT", r"(?:2[0347]|3[034])-[0-9]{8}-[0-9]", 13, Some(ar_cuit)),
    id("pii.ar_cuit_bare", "AR_CUIT", r"(?:2[0347]|3[034])[0-9]{9}", 11, Some(ar_cuit), &["cuit", "cuil"]),
    id("pii.br_cpf_bare", "BR_CPF", r"[0-9]{9}-?[0-9]{2}", 12, Some(c::br_cpf), &["cpf"]),
    strict("pii.br_cnpj", "BR_CNPJ", r"[0-9A-Z]{2}\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-[0-9]{2}", 18, Some(br_cnpj)),
    id("pii.br_cnpj_bare", "BR_CNPJ", r"[0-9A-Z]{12}[0-9]{2}", 14, Some(br_cnpj), &["cnpj"]),
    id("pii.ca_sin_bare", "CA_SIN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 11, Some(|t| luhn(t, 9)), &["social insurance", "sin"]),
    strict("pii.cl_rut", "CL_RUT", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9Kk]", 12, Some(cl_rut)),
    id("pii.cl_rut_bare", "CL_RUT", r"[0-9]{7,8}-?[0-9Kk]", 10, Some(cl_rut), &["rut", "run"]),
    id("pii.co_nit", "CO_NIT", r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]", 13, Some(co_nit), &["nit"]),
    id("pii.cr_cedula", "CR_CEDULA", r"0?[1-9]-?[0-9]{4}-?[0-9]{4}", 12, None, &["cédula", "cedula"]),
    id("pii.do_cedula", "DO_CEDULA", r"[0-9]{3}-?[0-9]{7}-?[0-9]", 13, Some(|t| luhn(t, 11)), &["cédula", "cedula"]),
    id("pii.do_rnc", "DO_RNC", r"[0-9]-?[0-9]{2}-?[0-9]{5}-?[0-9]", 12, Some(|t| last(t, &[7, 9, 8, 6, 5, 4, 3, 2], |s| (10 - s % 11 % 9) % 9 + 1)), &["rnc"]),
    id("pii.ec_ci", "EC_CI", r"[0-3][0-9]{8}-?[0-9]", 11, Some(ec_ci), &["cédula", "cedula"]),
    id("pii.ec_ruc", "EC_RUC", r"[0-3][0-9]{9}-?00[1-9]", 14, None, &["ruc"]),
    id("pii.gt_nit", "GT_NIT", r"[0-9]{6,9}-?[0-9Kk]", 11, Some(gt_nit), &["nit"]),
    id("pii.sv_nit", "SV_NIT", r"[01]?[0-9]{3}-[0-9]{6}-[0-9]{3}-[0-9]", 17, None, &["nit"]),
    id("pii.cu_ni", "CU_NI", r"[0-9]{11}", 11, Some(|t| year_first(&digits(t), 0)), &["carné de identidad", "carnet de identidad"]),
    strict("pii.mx_curp", "MX_CURP", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", 18, Some(mx_curp)),
    id("pii.mx_rfc", "MX_RFC", r"[A-Z&]{3,4}[ \-]?[0-9]{6}[ \-]?[0-9A-Z]{3}", 15, Some(|t| year_first(&digits(t), 0)), &["rfc"]),
    id("pii.pe_ruc", "PE_RUC", r"(?:10|15|17|20)[0-9]{9}", 11, Some(|t| last(t, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2], eleven)), &["ruc"]),
    id("pii.pe_cui", "PE_CUI", r"[0-9]{8}-?[0-9A-K]?", 10, None, &["cui"]),
    id("pii.py_ruc", "PY_RUC", r"[0-9]{4,8}-?[0-9]", 10, Some(py_ruc), &["ruc"]),
    strict("pii.uy_ci_dotted", "UY_CI", r"[1-9]\.[0-9]{3}\.[0-9]{3}-[0-9]", 11, Some(uy_ci)),
    id("pii.uy_rut", "UY_RUT", r"[0-9]{2}-?[0-9]{6}-?001-?[0-9]{3}", 15, None, &["rut"]),
    id("pii.ve_rif", "VE_RIF", r"[VEJPG]-?[0-9]{8}-?[0-9]", 12, Some(ve_rif), &["rif"]),
    strict("pii.ve_rif_dashed", "VE_RIF", r"[VEJPG]-[0-9]{8}-[0-9]", 12, Some(ve_rif)),
    id("pii.us_ein", "US_EIN", r"[0-9]{2}-?[0-9]{7}", 10, Some(us_ein), &["ein", "employer identification", "fein", "tax id"]),
    id("pii.us_itin_bare", "US_ITIN", r"9[0-9]{8}", 9, Some(us_itin), &["itin", "taxpayer"]),
    id("pii.us_ptin", "US_PTIN", r"P-?[0-9]{8}", 10, None, &["ptin"]),
    id("pii.us_passport", "US_PASSPORT", r"[A-Z]?[0-9]{8,9}", 10, None, &["passport number", "passport no", "us passport"]),
    id("pii.za_id_groups", "ZA_ID_NUMBER", r"[0-9]{6} ?[0-9]{4} ?[01][0-9] ?[0-9]", 16, Some(za_id), &["id number", "south african", "sa id", "rsa id", "identity number"]),
    id("pii.ng_nin", "NG_NIN", r"[0-9]{11}", 11, None, &["nin", "national identification number"]),
    id("pii.ke_pin", "KE_PIN", r"[AP][0-9]{9}[A-Z]", 11, None, &["kra", "pin"]),
    id("pii.gh_tin", "GH_TIN", r"[PCGQV]00[0-9]{7}[0-9X]", 11, None, &["tin", "tax"]),
    id("pii.eg_id", "EG_NATIONAL_ID", r"[23][0-9]{13}", 14, Some(|t| year_first(&digits(t), 1)), &["national id", "الرقم القومي"]),
    id("pii.ma_ice", "MA_ICE", r"[0-9]{15}", 15, Some(|t| number(t).is_multiple_of(97)), &["ice"]),
    id("pii.dz_nif", "DZ_NIF", r"[0-9]{15}(?:[0-9]{5})?", 20, None, &["nif"]),
    id("pii.mu_nid", "MU_NID", r"[A-Z][0-9]{12}[0-9A-Z]", 14, None, &["nid", "national identity"]),
    id("pii.nz_ird", "NZ_IRD", r"[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", 11, Some(nz_ird), &["ird"]),
    id("pii.au_acn_word", "AU_ACN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 11, Some(c::au_acn), &["acn"]),
];

fn ar_cuit(text: &str) -> bool {
    last(text, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2], |s| match 11 - s % 11 {
        11 => 0,
        10 => 9,
        check => check,
    })
}

/// Two check digits; letters count as in the alphanumeric format of 2026.
fn br_cnpj(text: &str) -> bool {
    let v: Vec<u32> = alnum(text).bytes().map(|b| u32::from(b - b'0')).collect();
    let check = |weights: &[u32]| match weighted(&v, weights) % 11 {
        0 | 1 => 0,
        sum => 11 - sum,
    };
    v.len() == 14
        && !monotone(&v)
        && v.get(12) == Some(&check(&[5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]))
        && v.get(13) == Some(&check(&[6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]))
}

/// Weights two to seven from the right; ten is `K`.
fn cl_rut(text: &str) -> bool {
    let plain = alnum(text);
    let Some((body, control)) = plain.split_at_checked(plain.len().saturating_sub(1)) else {
        return false;
    };
    let sum: u32 = digits(body).iter().rev().zip((2..=7).cycle()).map(|(d, w)| d * w).sum();
    let check = match 11 - sum % 11 {
        11 => "0",
        10 => "K",
        n => "0123456789".get(n as usize..=n as usize).unwrap_or_default(),
    };
    body.len() >= 7 && body.bytes().all(|b| b.is_ascii_digit()) && control == check
}

fn co_nit(text: &str) -> bool {
    let d = digits(text);
    let Some((check, body)) = d.split_last() else { return false };
    let weights = [3, 7, 13, 17, 19, 23, 29, 37, 41, 43, 47, 53, 59, 67, 71];
    let sum: u32 = body.iter().rev().zip(weights).map(|(d, w)| d * w).sum();
    let check_digit = match sum % 11 {
        n @ (0 | 1) => n,
        n => 11 - n,
    };
    check_digit == *check
}

/// A province, and Luhn.
fn ec_ci(text: &str) -> bool {
    let d = digits(text);
    matches!(two(&d, 0), 1..=24 | 30) && luhn(text, 10)
}

fn gt_nit(text: &str) -> bool {
    let plain = alnum(text);
    let Some((body, control)) = plain.split_at_checked(plain.len().saturating_sub(1)) else {
        return false;
    };
    let sum: u32 = digits(body).iter().rev().zip(2..).map(|(d, w)| d * w).sum();
    let check = (11 - sum % 11) % 11;
    control.bytes().next().is_some_and(|b| (b == b'K' && check == 10) || value(b) == check)
}

/// A date, sex, state and consonants, and a check digit over an alphabet with a 37th letter.
fn mx_curp(text: &str) -> bool {
    let Some(v) = values(text, "0123456789ABCDEFGHIJKLMN_OPQRSTUVWXYZ") else { return false };
    let sum: u32 = v.iter().take(17).zip((2..=18).rev()).map(|(x, w): (&u32, u32)| x * w).sum();
    year_first(&digits(text), 0) && v.get(17) == Some(&ten(sum))
}

fn py_ruc(text: &str) -> bool {
    let d = digits(text);
    let Some((check, body)) = d.split_last() else { return false };
    let sum: u32 = body.iter().rev().zip(2..).map(|(d, w)| d * w).sum();
    (11 - sum % 11) % 11 % 10 == *check
}

fn uy_ci(text: &str) -> bool {
    last(text, &[2, 9, 8, 7, 6, 3, 4], ten)
}

fn ve_rif(text: &str) -> bool {
    let plain = alnum(text);
    let kind = match plain.bytes().next() {
        Some(b'V') => 4,
        Some(b'E') => 8,
        Some(b'J') => 12,
        Some(b'P') => 16,
        _ => 20,
    };
    let d = digits(&plain);
    let sum = kind + weighted(&d, &[3, 2, 7, 6, 5, 4, 3, 2]);
    d.len() == 9 && d.last() == Some(&if sum % 11 < 2 { 0 } else { 11 - sum % 11 })
}

/// Prefixes that campuses of the tax service have assigned.
fn us_ein(text: &str) -> bool {
    let d = digits(text);
    let unused =
        matches!(two(&d, 0), 0 | 7..=9 | 17..=19 | 28..=29 | 49 | 69..=70 | 78..=79 | 89 | 96..=97);
    !monotone(&d) && !unused
}

fn us_itin(text: &str) -> bool {
    matches!(two(&digits(text), 3), 50..=65 | 70..=88 | 90..=92 | 94..=99)
}

/// A date, Luhn.
fn za_id(text: &str) -> bool {
    let d = digits(text);
    month_day(two(&d, 2), two(&d, 4)) && luhn(text, 13)
}

fn nz_ird(text: &str) -> bool {
    let mut d = digits(text);
    if d.len() == 8 {
        d.insert(0, 0);
    }
    let check = |weights: &[u32]| (11 - weighted(&d, weights) % 11) % 11;
    let first = check(&[3, 2, 7, 6, 5, 4, 3, 2]);
    let check = if first == 10 { check(&[7, 4, 3, 2, 5, 2, 7, 6]) } else { first };
    d.len() == 9 && !monotone(&d) && d.last() == Some(&check)
}
