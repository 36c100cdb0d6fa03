//! The rules of a scanner, compiled.
//!
//! - *In*: the pattern tables and the [`Options`].
//! - *Out*: [`Automata`], shared by all channels.
//! - *Never*: state of a channel; nothing here changes after the build.

use std::borrow::{Borrow, Cow};
use std::fmt;

use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Hir, HirKind, Repetition};

use super::edges::Edges;
use super::table::{Table, doubles};
use crate::context::{Contexts, MAX_RULES};
use crate::finding::Family;
use crate::pattern::{Allow, Pattern};

/// The kind of rules that have an `@`.
const EMAIL: &str = "EMAIL_ADDRESS";
/// Maximum tables of a scanner; a thread runs through all of them.
pub(super) const MAX_TABLES: usize = 6;
/// An alphanumeric byte.
pub(super) const WORD: u8 = 1;
/// A byte that may begin a match after a byte that is not alphanumeric.
pub(super) const OUTER: u8 = 2;
/// A byte that may begin a match after some alphanumeric byte.
pub(super) const INNER: u8 = 4;
/// A repetition with a maximum of at least this is compiled without a maximum; `longest` bounds it.
const UNROLLED: u32 = 128;
/// The same for a rule that is too large by itself.
const LARGE_UNROLLED: u32 = 17;
/// Maximum bytes of a table of one rule before `LARGE_UNROLLED` applies to it.
const ALONE: usize = 1 << 20;
/// Maximum different first bytes of a narrow rule: it begins with a characteristic prefix.
const NARROW: usize = 8;
/// Minimum bytes of a literal prefix that identifies a secret.
const NAMED: usize = 4;

/// Options of a scanner.
#[derive(Clone)]
pub struct Options {
    /// Minimum score of a finding.
    pub threshold: f32,
    /// Maximum bytes that a channel holds. At this bound, a possible secret is masked, and so is
    /// the text that follows until no match is possible. Of possible personal data, the oldest text
    /// is released.
    pub hold_bytes: usize,
    /// Whether [`Channel::flush`](super::Channel::flush) masks possible matches. If not, it passes
    /// them.
    pub masks_at_pause: bool,
    /// Where matches may begin and end.
    pub edges: Edges,
    /// Maximum bytes of one table.
    pub table_bytes: usize,
    /// Values that are never findings.
    pub allow: Option<Allow>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threshold: 0.5,
            hold_bytes: 512,
            masks_at_pause: true,
            edges: Edges::default(),
            table_bytes: 8 << 20,
            allow: None,
        }
    }
}

/// Why a set of rules cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// This rule is not a regular expression, or can match the empty text.
    Rule(String, String),
    /// This rule alone is larger than a table may be.
    Large(String),
    /// More rules than the sets hold, or than fit the tables.
    Many,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Rule(rule, why) => write!(f, "rule {rule}: {why}"),
            BuildError::Large(rule) => {
                write!(f, "rule {rule} needs too large an automaton; shorten its repetitions")
            }
            BuildError::Many => write!(f, "the scanner has too many rules; remove some"),
        }
    }
}

impl std::error::Error for BuildError {}

/// A compiled rule.
pub(super) struct Rule {
    pub(super) pattern: Pattern,
    /// Whether it matches without a context word.
    pub(super) plain: bool,
    /// Whether a possible match is masked at the hold bound.
    pub(super) masks_at_bound: bool,
    /// Literals of which each match begins with one; empty if they are too short to identify the
    /// rule.
    prefixes: Vec<Vec<u8>>,
    tree: Hir,
    shape: Shape,
}

/// Rules of one shape share tables. Together, rules of different shapes would multiply the number
/// of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Email,
    Narrow,
    Number,
    Wide,
}

impl Shape {
    fn new(pattern: &Pattern, table: &Table) -> Self {
        let begins: Vec<u8> = (0..=255u8).filter(|byte| table.begins(*byte)).collect();
        match begins {
            _ if pattern.kind == EMAIL => Shape::Email,
            begins if begins.len() <= NARROW => Shape::Narrow,
            begins if !begins.iter().any(u8::is_ascii_alphabetic) => Shape::Number,
            _ => Shape::Wide,
        }
    }
}

impl Rule {
    fn new(pattern: &Pattern, options: &Options) -> Result<Self, BuildError> {
        // ASCII classes; a class may take bytes of other characters, but no match begins or ends
        // inside one.
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let tree = parser
            .parse(&pattern.regex)
            .map_err(|error| BuildError::Rule(pattern.rule.to_string(), error.to_string()))?;
        if tree.properties().minimum_len().unwrap_or(0) == 0 {
            return Err(BuildError::Rule(
                pattern.rule.to_string(),
                "it can match the empty text, or cannot match at all".into(),
            ));
        }
        let found = Extractor::new().extract(&tree);
        let long = |literals: &&[regex_syntax::hir::literal::Literal]| {
            literals.iter().all(|one| one.as_bytes().len() >= NAMED)
        };
        let prefixes = found
            .literals()
            .filter(long)
            .unwrap_or_default()
            .iter()
            .map(|one| one.as_bytes().to_vec())
            .collect();
        let masks_at_bound = match pattern.family {
            Family::Secret | Family::Policy | Family::Leak => true,
            Family::Pii | Family::Placeholder => false,
        };
        let plain = pattern.context.is_none() || pattern.score >= options.threshold;
        let (tree, shape) = [UNROLLED, LARGE_UNROLLED]
            .into_iter()
            .map(|unrolled| relax(&tree, unrolled))
            .find_map(|tree| {
                Table::build(&[&tree], &[0], &[pattern.longest], ALONE)
                    .map(|table| (tree, Shape::new(pattern, &table)))
            })
            .ok_or_else(|| BuildError::Large(pattern.rule.to_string()))?;
        Ok(Rule { pattern: pattern.clone(), plain, masks_at_bound, prefixes, tree, shape })
    }

    /// Whether it matches numbers of people or accounts that have a checksum or a strict format.
    pub(super) fn is_number(&self) -> bool {
        let pattern = &self.pattern;
        let has_form = self.shape == Shape::Number || pattern.kind == "IBAN_CODE";
        pattern.family == Family::Pii && pattern.check.is_some() && has_form
    }

    /// Whether a text begins with a prefix that identifies this rule.
    pub(super) fn names(&self, text: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| text.starts_with(prefix))
    }
}

/// The tree with large bounded repetitions made unbounded: their counters would need too many
/// states.
fn relax(tree: &Hir, unrolled: u32) -> Hir {
    match tree.kind() {
        HirKind::Repetition(repetition) => {
            let max = repetition.max.filter(|max| *max < unrolled || *max == repetition.min);
            Hir::repetition(Repetition {
                max,
                sub: Box::new(relax(&repetition.sub, unrolled)),
                ..repetition.clone()
            })
        }
        HirKind::Capture(capture) => relax(&capture.sub, unrolled),
        HirKind::Concat(parts) => {
            Hir::concat(parts.iter().map(|part| relax(part, unrolled)).collect())
        }
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.iter().map(|part| relax(part, unrolled)).collect())
        }
        _ => tree.clone(),
    }
}

/// All rules of a scanner as automata. Built once, shared.
pub struct Automata {
    pub(super) rules: Vec<Rule>,
    pub(super) tables: Vec<Table>,
    /// By table: how far before an `@` a match may begin, when all its matches have one.
    pub(super) signs: Vec<Option<usize>>,
    /// By byte: the tables in which it can begin a match, as bits.
    pub(super) begins: [u8; 256],
    /// The same by two bytes, the first the higher.
    pub(super) doubles: Vec<u8>,
    /// By byte and the byte after it: whether a match may begin there.
    pub(super) pairs: Box<[u128; 128]>,
    /// By byte: [`WORD`], [`OUTER`], [`INNER`].
    pub(super) flags: [u8; 256],
    pub(super) contexts: Contexts,
    pub(super) options: Options,
}

impl fmt::Debug for Automata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states: usize = self.tables.iter().map(Table::states).sum();
        let sizes: Vec<_> = self.tables.iter().map(|table| table.memory() / 1024).collect();
        write!(f, "Automata({} rules, tables of {sizes:?} KiB, {states} states)", self.rules.len())
    }
}

impl Automata {
    /// Compile. Rules that cannot reach the threshold are left out.
    pub fn new<P: Borrow<Pattern>>(
        patterns: &[P],
        mut options: Options,
    ) -> Result<Self, BuildError> {
        options.hold_bytes = options.hold_bytes.max(64);
        let reaches = |pattern: &&Pattern| {
            pattern.score.max(pattern.context.map_or(0.0, |context| context.1)) >= options.threshold
        };
        let rules: Vec<Rule> = patterns
            .iter()
            .map(Borrow::borrow)
            .filter(reaches)
            .map(|pattern| Rule::new(pattern, &options))
            .collect::<Result<_, _>>()?;
        if rules.len() > MAX_RULES {
            return Err(BuildError::Many);
        }
        let contexts =
            Contexts::build(rules.iter().map(|rule| &rule.pattern)).ok_or(BuildError::Many)?;
        let mut tables = Vec::new();
        for shape in [Shape::Email, Shape::Narrow, Shape::Number, Shape::Wide] {
            let chosen: Vec<u16> = (0u16..)
                .zip(&rules)
                .filter(|(_, rule)| rule.shape == shape)
                .map(|(number, _)| number)
                .collect();
            build(&rules, &chosen, options.table_bytes, &mut tables)?;
        }
        if tables.len() > MAX_TABLES {
            return Err(BuildError::Many);
        }
        let mut begins = [0; 256];
        for (byte, bits) in (0..=255u8).zip(&mut begins) {
            for (group, table) in tables.iter().enumerate() {
                *bits |= u8::from(table.begins(byte)) << group;
            }
        }
        let doubles = doubles(&tables, &begins);
        let signs = tables.iter().map(|table| table.needs(b'@')).collect();
        let pairs = options.edges.pairs();
        let mut flags = [0; 256];
        for (byte, flags) in (0..=255u8).zip(&mut flags) {
            let behind_word = |before: u8| {
                before.is_ascii_alphanumeric()
                    && pairs[usize::from(before)] >> (byte & 127) & 1 != 0
            };
            let inner = byte >= 128 || (0..128u8).any(behind_word);
            let begins = begins[usize::from(byte)] != 0;
            let flag = |set: bool, bit: u8| if set { bit } else { 0 };
            *flags = flag(byte.is_ascii_alphanumeric(), WORD)
                | flag(begins, OUTER)
                | flag(begins && inner, INNER);
        }
        Ok(Automata { rules, tables, signs, begins, doubles, pairs, flags, contexts, options })
    }

    /// Whether a match may begin with a byte after another.
    #[inline]
    pub(super) fn pair(&self, before: u8, byte: u8) -> bool {
        // Only ASCII bytes have an entry; other bytes are checked rule by rule.
        byte >= 128
            || self.pairs.get(usize::from(before)).is_none_or(|pairs| pairs >> byte & 1 != 0)
    }

    /// Bytes of the tables.
    pub fn memory(&self) -> usize {
        self.tables.iter().map(Table::memory).sum()
    }

    /// The stable name of a rule by its number in the counts.
    pub fn rule(&self, number: u16) -> Option<&Cow<'static, str>> {
        self.rules.get(usize::from(number)).map(|rule| &rule.pattern.rule)
    }
}

/// Tables for some rules: one when it fits, else two of halves.
fn build(
    rules: &[Rule],
    chosen: &[u16],
    limit: usize,
    tables: &mut Vec<Table>,
) -> Result<(), BuildError> {
    let trees: Vec<&Hir> = chosen
        .iter()
        .filter_map(|rule| rules.get(usize::from(*rule)))
        .map(|rule| &rule.tree)
        .collect();
    let longest: Vec<usize> = rules.iter().map(|rule| rule.pattern.longest).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    if let Some(table) = Table::build(&trees, chosen, &longest, limit) {
        tables.push(table);
        return Ok(());
    }
    match chosen {
        [rule] => Err(BuildError::Large(
            rules
                .get(usize::from(*rule))
                .map(|rule| rule.pattern.rule.to_string())
                .unwrap_or_default(),
        )),
        _ => {
            let (left, right) = chosen.split_at(chosen.len() / 2);
            build(rules, left, limit, tables)?;
            build(rules, right, limit, tables)
        }
    }
}
