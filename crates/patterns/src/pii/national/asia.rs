//! Identifiers of Asian countries.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: numbers of people and companies, each under its own name.
//! - *Never*: a number with one check digit and no format of its own, without a word before it.

use super::arithmetic::{last, luhn, value, values, year_first};
use super::{c, id, strict};
use crate::pattern::Pattern;
use crate::pii::checks::{alnum, digits, monotone, month_day, two, weighted};

/// The table.
#[rustfmt::skip]
pub(super) const PATTERNS: &[Pattern] = &[
    strict("pii.ae_emirates_id", "AE_EMIRATES_ID", r"784-?[0-9]{4}-?[0-9]{7}-?[0-9]", 18, Some(|t| luhn(t, 15))),
    strict("pii.cn_id_card", "CN_ID_CARD", r"[1-9][0-9]{5}(?:1[89]|20)[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx]", 18, Some(cn_id)),
    id("pii.cn_id_card_word", "CN_ID_CARD", r"[1-9][0-9]{16}[0-9Xx]", 18, Some(cn_id_sum), &["身份证", "身份證", "公民身份"]),
    strict("pii.cn_uscc", "CN_USCC", r"[159Y][1239][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}", 18, Some(cn_uscc_lettered)),
    id("pii.cn_uscc_word", "CN_USCC", r"[0-9A-HJ-NPQRTUWXY]{2}[0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}", 18, Some(cn_uscc), &["统一社会信用代码", "信用代码", "uscc"]),
    id("pii.cn_passport", "CN_PASSPORT", r"(?:[EG][0-9]{8}|E[A-Z][0-9]{7})", 9, None, &["护照", "passport"]),
    strict("pii.hk_id", "HK_ID", r"[A-Z]{1,2}[0-9]{6}\([0-9A]\)", 11, Some(hk_id)),
    id("pii.hk_id_bare", "HK_ID", r"[A-Z]{1,2}[0-9]{6}[0-9A]", 9, Some(hk_id), &["hkid", "身份證", "hong kong id"]),
    id("pii.tw_id", "TW_ID", r"[A-Z][1289][0-9]{8}", 10, Some(tw_id), &["身分證", "身份證", "national id", "taiwan id"]),
    id("pii.tw_ubn", "TW_UBN", r"[0-9]{8}", 8, Some(tw_ubn), &["統一編號", "統編", "ubn"]),
    id("pii.jp_my_number", "JP_MY_NUMBER", r"[0-9]{4}[ \-]?[0-9]{4}[ \-]?[0-9]{4}", 14, Some(jp_my_number), &["個人番号", "マイナンバー", "my number", "mynumber"]),
    id("pii.jp_cn", "JP_CORPORATE_NUMBER", r"[1-9][0-9]{12}", 13, Some(jp_corporate), &["法人番号", "corporate number"]),
    id("pii.kr_resident_word", "KR_RRN", r"[0-9]{2}[01][0-9][0-3][0-9]-?[0-9]{7}", 14, Some(c::kr_resident), &["주민등록번호", "주민번호", "주민", "rrn", "resident registration"]),
    id("pii.kr_brn_word", "KR_BRN", r"[0-9]{3}-?[0-9]{2}-?[0-9]{5}", 12, Some(c::kr_firm), &["사업자등록번호", "사업자번호", "brn"]),
    id("pii.in_voter", "IN_VOTER", r"[A-Z]{3}[0-9]{7}", 10, Some(|t| luhn(t, 7)), &["voter", "epic", "मतदाता", "election"]),
    strict("pii.in_gstin", "IN_GSTIN", r"[0-3][0-9][A-Z]{5}[0-9]{4}[A-Z][1-9A-Z]Z[0-9A-Z]", 15, Some(in_gstin)),
    id("pii.in_aadhaar_word", "IN_AADHAAR", r"[2-9][0-9]{3}[ \-]?[0-9]{4}[ \-]?[0-9]{4}", 14, Some(c::in_aadhaar), &["aadhaar", "aadhar", "आधार", "uidai"]),
    id("pii.in_passport", "IN_PASSPORT", r"[A-PR-WY][1-9][0-9] ?[0-9]{4}[1-9]", 9, None, &["passport", "पासपोर्ट"]),
    id("pii.id_nik", "ID_NIK", r"[1-9][0-9]{15}", 16, Some(id_nik), &["nik", "ktp", "nomor induk kependudukan"]),
    id("pii.id_npwp", "ID_NPWP", r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}\.?[0-9][\-.]?[0-9]{3}\.?[0-9]{3}", 20, None, &["npwp"]),
    strict("pii.my_nric", "MY_NRIC", r"[0-9]{2}[01][0-9][0-3][0-9]-[0-9]{2}-[0-9]{4}", 14, Some(|t| year_first(&digits(t), 0))),
    id("pii.my_nric_bare", "MY_NRIC", r"[0-9]{12}", 12, Some(|t| year_first(&digits(t), 0)), &["mykad", "nric", "kad pengenalan", "ic number"]),
    id("pii.vn_mst", "VN_MST", r"[0-9]{10}(?:-?[0-9]{3})?", 14, Some(vn_mst), &["mã số thuế", "mst", "ma so thue"]),
    id("pii.vn_cccd", "VN_CCCD", r"0[0-9]{11}", 12, None, &["cccd", "căn cước", "can cuoc", "cmnd", "định danh"]),
    strict("pii.pk_cnic", "PK_CNIC", r"[1-7][0-9]{4}-[0-9]{7}-[0-9]", 15, None),
    id("pii.pk_cnic_bare", "PK_CNIC", r"[1-7][0-9]{12}", 13, None, &["cnic", "شناختی کارڈ"]),
    id("pii.lk_nic", "LK_NIC", r"(?:[0-9]{9}[VXvx]|(?:19|20)[0-9]{10})", 12, None, &["nic", "national identity"]),
    id("pii.bd_nid", "BD_NID", r"(?:[0-9]{10}|[0-9]{13}|[0-9]{17})", 17, None, &["জাতীয় পরিচয়", "nid"]),
    id("pii.ph_tin", "PH_TIN", r"[0-9]{3}-[0-9]{3}-[0-9]{3}(?:-[0-9]{3,5})?", 17, None, &["tin"]),
    id("pii.ph_sss", "PH_SSS", r"[0-9]{2}-[0-9]{7}-[0-9]", 12, None, &["sss"]),
    id("pii.th_id_word", "TH_TNIN", r"[1-8][ \-]?[0-9]{4}[ \-]?[0-9]{5}[ \-]?[0-9]{2}[ \-]?[0-9]", 17, Some(c::th_id), &["เลขบัตรประชาชน", "บัตรประชาชน", "เลขประจำตัวประชาชน", "thai id", "tnin"]),
    id("pii.il_id", "IL_ID", r"[0-9]{8}-?[0-9]", 10, Some(|t| luhn(t, 9)), &["ת.ז", "ת״ז", "תעודת זהות", "teudat", "israeli id"]),
    id("pii.ir_national", "IR_NATIONAL_ID", r"[0-9]{10}", 10, Some(ir), &["کد ملی", "کدملی"]),
    id("pii.sa_id", "SA_NATIONAL_ID", r"[12][0-9]{9}", 10, Some(|t| luhn(t, 10)), &["رقم الهوية", "الهوية الوطنية", "iqama", "الإقامة"]),
    id("pii.kz_iin", "KZ_IIN", r"[0-9]{12}", 12, Some(kz_iin), &["иин", "ИИН", "жсн", "ЖСН", "iin"]),
    id("pii.tr_id_word", "TR_NATIONAL_ID", r"[1-9][0-9]{10}", 11, Some(c::tr_id), &["kimlik", "tckn", "t.c"]),
    id("pii.tr_vkn", "TR_VKN", r"[0-9]{10}", 10, Some(tr_vkn), &["vkn", "vergi"]),
];

/// Twelve powers of two mod 11; ten is `X`.
fn cn_id_sum(text: &str) -> bool {
    let plain = alnum(text);
    let sum = weighted(
        &digits(plain.get(..17).unwrap_or_default()),
        &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2],
    );
    let place = (sum % 11) as usize;
    "10X98765432".get(place..=place) == plain.get(17..)
}

/// A date of birth as well.
fn cn_id(text: &str) -> bool {
    let d = digits(text);
    month_day(two(&d, 10), two(&d, 12)) && cn_id_sum(text)
}

/// GB 32100: powers of three mod 31.
fn cn_uscc(text: &str) -> bool {
    let Some(v) = values(text, "0123456789ABCDEFGHJKLMNPQRTUWXY") else { return false };
    let sum = weighted(&v, &[1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28]);
    v.len() == 18 && v.last() == Some(&((31 - sum % 31) % 31))
}

/// Of 18 plain digits, one in thirty passes the check.
fn cn_uscc_lettered(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase()) && cn_uscc(text)
}

/// Letters count from ten, a missing one as a blank.
fn hk_id(text: &str) -> bool {
    let plain = alnum(text);
    let v: Vec<u32> = plain.bytes().map(value).collect();
    let v = if v.len() == 8 { [&[36], v.as_slice()].concat() } else { v };
    v.len() == 9 && weighted(&v, &[9, 8, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
}

fn tw_id(text: &str) -> bool {
    let place = text.chars().next().and_then(|c| "ABCDEFGHJKLMNPQRSTUVXYWZIO".find(c));
    let Some(letter) = place.map(|at| at as u32 + 10) else { return false };
    let d = digits(text);
    let sum = letter / 10 + letter % 10 * 9 + weighted(&d, &[8, 7, 6, 5, 4, 3, 2, 1, 1]);
    d.len() == 9 && sum.is_multiple_of(10)
}

fn tw_ubn(text: &str) -> bool {
    let d = digits(text);
    let sum: u32 =
        d.iter().zip([1, 2, 1, 2, 1, 2, 4, 1]).map(|(x, w)| x * w / 10 + x * w % 10).sum();
    !monotone(&d) && (sum.is_multiple_of(5) || d.get(6) == Some(&7) && (sum + 1).is_multiple_of(5))
}

fn jp_my_number(text: &str) -> bool {
    last(text, &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2], |s| if s % 11 <= 1 { 0 } else { 11 - s % 11 })
}

/// The check digit is the first one.
fn jp_corporate(text: &str) -> bool {
    let d = digits(text);
    let sum = weighted(d.get(1..).unwrap_or_default(), &[2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1]);
    d.first() == Some(&(9 - sum % 9))
}

/// Luhn mod 36.
fn in_gstin(text: &str) -> bool {
    let v: Vec<u32> = text.bytes().map(value).collect();
    let Some((check, body)) = v.split_last() else { return false };
    let sum: u32 = body
        .iter()
        .zip([1, 2].into_iter().cycle())
        .map(|(x, w)| x * w)
        .map(|p| p / 36 + p % 36)
        .sum();
    (36 - sum % 36) % 36 == *check
}

/// Region, and a birth whose day has 40 added for women.
fn id_nik(text: &str) -> bool {
    let d = digits(text);
    month_day(two(&d, 8), two(&d, 6) % 40)
}

fn vn_mst(text: &str) -> bool {
    let ten = text.get(..10).unwrap_or_default();
    last(ten, &[31, 29, 23, 19, 17, 13, 7, 5, 3], |s| 10 - s % 11)
}

fn ir(text: &str) -> bool {
    last(text, &[10, 9, 8, 7, 6, 5, 4, 3, 2], |s| if s % 11 < 2 { s % 11 } else { 11 - s % 11 })
}

fn kz_iin(text: &str) -> bool {
    let d = digits(text);
    let check = match weighted(&d, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) % 11 {
        10 => weighted(&d, &[3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2]) % 11,
        n => n,
    };
    d.len() == 12 && year_first(&d, 0) && d.last() == Some(&check)
}

fn tr_vkn(text: &str) -> bool {
    let d = digits(text);
    let sum: u32 = (1..=9u32)
        .rev()
        .zip(&d)
        .map(|(i, x)| (x + i) % 10)
        .zip((1..=9u32).rev())
        .map(|(c, i)| match (c, (c << i) % 9) {
            (0, _) => 0,
            (_, 0) => 9,
            (_, rest) => rest,
        })
        .sum();
    d.len() == 10 && !monotone(&d) && d.last() == Some(&((10 - sum % 10) % 10))
}
