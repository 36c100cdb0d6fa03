//! National identification numbers of people and companies.
//!
//! - *In*: nothing; a table, one line a number.
//! - *Out*: rules whose checks are in [`super::national_checks`].
//! - *Never*: a plain run of digits with a weak check and without a context word: one number in ten
//!   passes any check digit.

mod americas;
mod arithmetic;
mod asia;
mod europe;

use super::national_checks as c;
use super::net::between;
use crate::pattern::Pattern;
use crate::table::{close, pii};

/// Every rule: the general table first, then by continent.
pub(super) fn patterns() -> impl Iterator<Item = &'static Pattern> {
    [PATTERNS, europe::PATTERNS, americas::PATTERNS, asia::PATTERNS].into_iter().flatten()
}

/// A number that a word before it must announce.
const fn id(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
    check: Option<fn(&str) -> bool>,
    words: &'static [&'static str],
) -> Pattern {
    close(pii(rule, kind, regex, longest, check, WEAK, Some((words, SURE))))
}

/// A number that its format or its check digits identify.
const fn strict(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
    check: Option<fn(&str) -> bool>,
) -> Pattern {
    pii(rule, kind, regex, longest, check, STRICT, None)
}

/// Score of a strict format, or of two checks.
const STRICT: f32 = 0.8;
/// Score of a check digit and a plausible date.
const DATED: f32 = 0.6;
/// Score of one check digit alone.
const WEAK: f32 = 0.3;
/// Score of a context word, or of a format that is nearly unique.
const SURE: f32 = 0.9;

/// The table.
#[rustfmt::skip]
const PATTERNS: &[Pattern] = &[
    pii("pii.us_ssn", "US_SSN", r"[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}", 11, Some(c::us_ssn), 0.8, Some((&["ssn", "social", "security"], 0.95))),
    close(pii("pii.us_ssn_groups", "US_SSN", concat!(r"[0-8][0-9]{2}", between!(), r"[0-9]{2}", between!(), r"[0-9]{4}"), 15, Some(c::us_ssn), WEAK, Some((&["ssn", "social", "security"], 0.95)))),
    close(pii("pii.us_ssn_bare", "US_SSN", r"[0-8][0-9]{8}", 9, Some(c::us_ssn), WEAK, Some((&["ssn", "social security"], SURE)))),
    strict("pii.se_personal_dashed", "SE_PERSONNUMMER", r"(?:19|20|18)?[0-9]{2}[01][0-9][0-9]{2}[+\-][0-9]{4}", 13, Some(c::se_personal)),
    strict("pii.kr_resident_dashed", "KR_RRN", r"[0-9]{2}[01][0-9][0-3][0-9]-[0-49][0-9]{6}", 14, Some(c::kr_resident)),
    strict("pii.kr_foreigner_dashed", "KR_FRN", r"[0-9]{2}[01][0-9][0-3][0-9]-[5-8][0-9]{6}", 14, Some(c::kr_resident)),
    strict("pii.au_abn_groups", "AU_ABN", r"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", 14, Some(c::au_abn)),
    pii("pii.us_itin", "US_ITIN", r"9[0-9]{2}[ \-]?[0-9]{2}[ \-]?[0-9]{4}", 11, Some(c::us_itin), DATED, Some((&["itin", "taxpayer", "tax id"], SURE))),
    pii("pii.us_npi", "US_NPI", r"[12][0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", 12, Some(c::us_npi), WEAK, Some((&["npi", "provider", "physician"], SURE))),
    pii("pii.us_mbi", "US_MBI", r"(?i:[1-9][ac-hj-km-np-rt-y][0-9ac-hj-km-np-rt-y][0-9]-?[ac-hj-km-np-rt-y][0-9ac-hj-km-np-rt-y][0-9]-?[ac-hj-km-np-rt-y]{2}[0-9]{2})", 13, None, DATED, Some((&["mbi", "medicare", "beneficiary"], SURE))),
    pii("pii.us_aba", "ABA_ROUTING_NUMBER", r"[0-3678][0-9]{3}-?[0-9]{4}-?[0-9]", 11, Some(c::aba), WEAK, Some((&["aba", "routing", "rtn"], SURE))),
    pii("pii.us_driver_license", "US_DRIVER_LICENSE", r"(?:[A-Za-z]{0,2}[0-9]{6,14}[A-Za-z]?|[0-9]{4}-[0-9]{2}-[0-9]{4})", 18, None, 0.1, Some((&["driver's license", "drivers license", "driver license", "driving license", "driver's licence"], 0.8))),
    pii("pii.ca_sin", "CA_SIN", r"[1-79][0-9]{2}-[0-9]{3}-[0-9]{3}", 11, Some(c::luhn), DATED, Some((&["sin", "nas", "social insurance"], SURE))),
    pii("pii.uk_nhs", "UK_NHS", r"[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{4}", 12, Some(c::uk_nhs), WEAK, Some((&["nhs", "national health", "patient"], SURE))),
    pii("pii.uk_nino", "UK_NINO", r"(?i:[a-ceghj-prstw-z][a-ceghj-nprstw-z]) ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?(?i:[a-d])", 13, Some(c::uk_nino), STRICT, Some((&["nino", "national insurance"], SURE))),
    pii("pii.uk_driving", "UK_DRIVING_LICENCE", r"(?i:[a-z]{2,5}9{0,3}|[a-z]9{4})[0-9][0156][0-9][0-3][0-9][0-9](?i:[a-z][a-z9])[0-9A-Za-z][A-Za-z]{2}", 16, Some(c::uk_driving), STRICT, None),
    pii("pii.uk_plate", "UK_VEHICLE_REGISTRATION", r"(?i:[a-hj-pr-y]{2})(?:0[2-9]|[1-7][0-9]) ?(?i:[a-hj-pr-z]{3})", 8, None, 0.4, Some((&["vehicle", "vehicles", "registration", "plate", "number plate", "car", "reg", "vrm"], 0.8))),
    pii("pii.de_tax_id", "DE_TAX_ID", r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 14, Some(c::de_tax), WEAK, Some((&["steuer", "idnr", "steuer-id", "tin", "tax id"], SURE))),
    pii("pii.de_social", "DE_SOCIAL_SECURITY", r"[0-9]{2} ?[0-9]{6} ?[A-Za-z] ?[0-9]{3}", 15, Some(c::de_social), STRICT, None),
    pii("pii.de_health", "DE_HEALTH_INSURANCE", r"[A-Za-z][0-9]{9}", 10, Some(c::de_health), WEAK, Some((&["kvnr", "krankenkasse", "versichertennummer"], SURE))),
    pii("pii.de_passport", "DE_PASSPORT", r"[CFGHJKL][CFGHJKLMNPRTVWXYZ0-9]{7}[0-9]", 9, Some(c::de_document), 0.55, Some((&["pass-nr", "reisepass", "passport", "passnummer", "ausweis"], SURE))),
    pii("pii.de_lanr", "DE_LANR", r"[1-9][0-9]{8}", 9, Some(c::de_lanr), WEAK, Some((&["lanr", "arztnummer"], SURE))),
    pii("pii.es_nif", "ES_NIF", r"[0-9]{7,8}-?[A-Za-z]", 10, Some(c::es_nif), 0.7, Some((&["nif", "dni"], SURE))),
    pii("pii.es_nie", "ES_NIE", r"[X-Zx-z][0-9]{7}-?[A-Za-z]", 10, Some(c::es_nif), STRICT, Some((&["nie"], SURE))),
    pii("pii.es_passport", "ES_PASSPORT", r"[A-Za-z]{3}[0-9]{6}", 9, None, 0.2, Some((&["pasaporte"], 0.8))),
    pii("pii.it_fiscal", "IT_FISCAL_CODE", r"(?i:[a-z]{6}[0-9l-np-v]{2}[abcdehlmprst][0-9l-np-v]{2}[a-z][0-9l-np-v]{3}[a-z])", 16, Some(c::it_fiscal), SURE, None),
    pii("pii.it_vat", "IT_VAT_CODE", r"[0-9]{11}", 11, Some(c::luhn), WEAK, Some((&["iva", "partita iva", "p.iva"], SURE))),
    strict("pii.fr_nir", "FR_NIR", r"[1-478] [0-9]{2} [0-9]{2} [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}", 21, Some(c::fr_nir)),
    id("pii.fr_nir_bare", "FR_NIR", r"[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", 21, Some(c::fr_nir), &["nir", "sécurité sociale", "securite sociale", "insee", "sécu"]),
    pii("pii.pl_pesel", "PL_PESEL", r"[0-9]{11}", 11, Some(c::pl_pesel), WEAK, Some((&["pesel"], SURE))),
    pii("pii.fi_hetu", "FI_PERSONAL_IDENTITY_CODE", r"[0-3][0-9][01][0-9]{3}[+\-A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]", 11, Some(c::fi_hetu), SURE, None),
    pii("pii.se_personal", "SE_PERSONNUMMER", r"(?:19|20|18)?[0-9]{2}[01][0-9][0-9]{2}[+\-]?[0-9]{4}", 13, Some(c::se_personal), WEAK, Some((&["personnummer", "identity code"], SURE))),
    pii("pii.se_firm", "SE_ORGANISATIONSNUMMER", r"[125-9][0-9][2-9][0-9]{3}-[0-9]{4}", 11, Some(c::luhn), 0.55, Some((&["orgnummer", "organisationsnummer", "org.nr"], SURE))),
    pii("pii.tr_id", "TR_NATIONAL_ID", r"[1-9][0-9]{10}", 11, Some(c::tr_id), 0.5, Some((&["kimlik", "tckn", "turkish id"], SURE))),
    pii("pii.za_id", "ZA_ID_NUMBER", r"[0-9]{13}", 13, Some(c::za_id), 0.5, Some((&["rsa id", "sa id", "south african"], SURE))),
    pii("pii.th_id", "TH_TNIN", r"[1-8][ \-]?[0-9]{4}[ \-]?[0-9]{5}[ \-]?[0-9]{2}[ \-]?[0-9]", 17, Some(c::th_id), WEAK, Some((&["tnin", "thai"], SURE))),
    pii("pii.kr_resident", "KR_RRN", r"[0-9]{2}[01][0-9][0-3][0-9]-?[0-49][0-9]{6}", 14, Some(c::kr_resident), WEAK, Some((&["rrn", "resident registration"], SURE))),
    pii("pii.kr_foreigner", "KR_FRN", r"[0-9]{2}[01][0-9][0-3][0-9]-?[5-8][0-9]{6}", 14, Some(c::kr_resident), WEAK, Some((&["frn", "foreigner"], SURE))),
    pii("pii.kr_firm", "KR_BRN", r"[0-9]{3}-[0-9]{2}-[0-9]{5}", 12, Some(c::kr_firm), DATED, None),
    pii("pii.kr_driver", "KR_DRIVER_LICENSE", r"(?:1[1-9]|2[0-8])-[0-9]{2}-[0-9]{6}-[0-9]{2}", 15, None, 0.7, None),
    pii("pii.sg_fin", "SG_NRIC_FIN", r"(?i:[stfgm])[0-9]{7}(?i:[a-z])", 9, Some(c::sg_fin), STRICT, Some((&["nric", "fin"], SURE))),
    pii("pii.sg_uen", "SG_UEN", r"(?:[0-9]{8}[A-Z]|(?:19|20)[0-9]{7}[A-Z]|[TSR][0-9]{2}[A-Z]{2}[0-9]{4}[A-Z])", 10, None, 0.4, Some((&["uen"], SURE))),
    pii("pii.au_abn", "AU_ABN", r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 14, Some(c::au_abn), WEAK, Some((&["abn"], SURE))),
    pii("pii.au_acn", "AU_ACN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 11, Some(c::au_acn), WEAK, Some((&["acn", "company number"], SURE))),
    pii("pii.au_tfn", "AU_TFN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", 11, Some(c::au_tfn), WEAK, Some((&["tfn", "tax file"], SURE))),
    pii("pii.au_medicare", "AU_MEDICARE", r"[2-6][0-9]{3} ?[0-9]{5} ?[0-9]", 12, Some(c::au_medicare), WEAK, Some((&["medicare"], SURE))),
    pii("pii.in_aadhaar", "IN_AADHAAR", r"[2-9][0-9]{3}[ \-]?[0-9]{4}[ \-]?[0-9]{4}", 14, Some(c::in_aadhaar), WEAK, Some((&["aadhaar", "aadhar", "uidai"], SURE))),
    pii("pii.in_pan", "IN_PAN", r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", 10, None, 0.7, Some((&["pan", "income tax"], SURE))),
    pii("pii.ng_plate", "NG_VEHICLE_REGISTRATION", r"[A-Za-z]{3}-[0-9]{3}[A-Za-z]{2}", 9, None, DATED, None),
    pii("pii.br_cpf", "BR_CPF", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", 14, Some(c::br_cpf), SURE, None),
    pii("pii.nl_bsn", "NL_BSN", r"[0-9]{9}", 9, Some(c::nl_bsn), WEAK, Some((&["bsn", "burgerservicenummer", "sofinummer"], SURE))),
    pii("pii.tr_plate", "TR_LICENSE_PLATE", r"(?:0[1-9]|[1-7][0-9]|8[01]) ?[A-Za-z]{1,3} ?[0-9]{2,4}", 12, None, 0.2, Some((&["plaka", "plate"], 0.7))),
];
