//! Calls an analyzer of personal data, such as Presidio's `/analyze`.
//!
//! - *In*: every text, of any role.
//! - *Out*: the spans of names, addresses and other personal data, in bytes, so that they can be
//!   masked.
//! - *Never*: several texts in one request. Newer servers accept lists, older ones reject them; all
//!   accept one text. The requests for one subject run concurrently.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::JudgeCommon;
use super::newest::{MAX_TEXTS, Piece};
use super::offsets::{MAX_SPANS, Offsets};
use super::reading::score;
use super::words::{Line, Words};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::Judge;
use crate::subject::Subject;

/// The filter that calls an analyzer.
#[derive(Debug)]
pub(super) struct Analyzer {
    common: JudgeCommon,
    language: String,
    entities: Vec<String>,
    /// As written in the settings: 0.8 must not become 0.800000012, which a score of 0.8 does not
    /// reach.
    threshold: f64,
}

impl Analyzer {
    /// A filter with these settings.
    pub(super) fn new(settings: &Judge) -> Self {
        Analyzer {
            common: JudgeCommon::new(
                settings,
                Words::new(ENTITIES, &settings.categories, Category::Pii, true),
            ),
            language: settings.language.clone(),
            entities: settings.categories.clone(),
            threshold: settings.threshold.to_string().parse().unwrap_or_default(),
        }
    }

    fn question(&self, text: &str) -> Value {
        let mut question =
            json!({ "text": text, "language": self.language, "score_threshold": self.threshold });
        if let Some(members) = question.as_object_mut().filter(|_| !self.entities.is_empty()) {
            members.insert("entities".into(), json!(self.entities));
        }
        question
    }

    fn read(&self, answer: &Value, piece: &Piece<'_>, subject: &Subject) -> Option<Report> {
        let results = answer.as_array().filter(|results| results.len() <= MAX_SPANS)?;
        let mut tally = self.common.tally(subject);
        if results.is_empty() {
            return Some(tally.done());
        }
        let offsets = Offsets::new(piece);
        for result in results {
            let span = offsets.span(result.get("start")?, result.get("end")?)?;
            let (kind, score) =
                (result.get("entity_type")?.as_str()?, score(result.get("score")?)?);
            // Entities that are not configured are ignored, though a server may report them.
            if let Some((kind, _)) = self.common.words.find(kind) {
                tally.part(piece.at, span, (kind, Category::Pii), score);
            }
        }
        Some(tally.done())
    }
}

impl Filter for Analyzer {
    fn hooks(&self) -> Hooks {
        self.common.hooks()
    }

    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(async move {
            let pieces = self.common.newest(subject, MAX_TEXTS, |_| true)?;
            let questions: Vec<Value> =
                pieces.iter().map(|piece| self.question(piece.words)).collect();
            let read = |at: usize, answer: &Value| self.read(answer, pieces.get(at)?, subject);
            let (mut found, mut tally) = (Vec::new(), self.common.tally(subject));
            for report in self.common.call_all(call, &questions, read).await? {
                found.extend(report.found);
                report.scores.into_iter().for_each(|(category, score)| tally.seen(category, score));
            }
            Ok(Report { found, ..tally.done() })
        })
    }
}

const fn entity(name: &'static str) -> Line {
    (name, name, Category::Pii)
}

/// What Presidio ships recognizers for.
const ENTITIES: &[Line] = &[
    entity("AGE"),
    entity("AU_ABN"),
    entity("AU_ACN"),
    entity("AU_MEDICARE"),
    entity("AU_TFN"),
    entity("CREDIT_CARD"),
    entity("CRYPTO"),
    entity("DATE_TIME"),
    entity("EMAIL_ADDRESS"),
    entity("ES_NIE"),
    entity("ES_NIF"),
    entity("FI_PERSONAL_IDENTITY_CODE"),
    entity("IBAN_CODE"),
    entity("ID"),
    entity("IN_AADHAAR"),
    entity("IN_PAN"),
    entity("IN_PASSPORT"),
    entity("IN_VEHICLE_REGISTRATION"),
    entity("IN_VOTER"),
    entity("IP_ADDRESS"),
    entity("IT_DRIVER_LICENSE"),
    entity("IT_FISCAL_CODE"),
    entity("IT_IDENTITY_CARD"),
    entity("IT_PASSPORT"),
    entity("IT_VAT_CODE"),
    entity("KR_RRN"),
    entity("LOCATION"),
    entity("MEDICAL_LICENSE"),
    entity("NRP"),
    entity("ORGANIZATION"),
    entity("PERSON"),
    entity("PHONE_NUMBER"),
    entity("PL_PESEL"),
    entity("SG_NRIC_FIN"),
    entity("SG_UEN"),
    entity("TH_TNIN"),
    entity("UK_NHS"),
    entity("UK_NINO"),
    entity("URL"),
    entity("US_BANK_NUMBER"),
    entity("US_DRIVER_LICENSE"),
    entity("US_ITIN"),
    entity("US_PASSPORT"),
    entity("US_SSN"),
];
