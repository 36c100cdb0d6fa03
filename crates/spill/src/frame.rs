//! The form of an entry in a segment.
//!
//! - *In*: entries and gaps, with their sequence numbers.
//! - *Out*: frames: a mark, a checksum, the length, the kind, the sequence number, the payload. All
//!   numbers are little-endian.
//! - *Never*: a frame whose checksum does not match.

/// Maximum length of an entry in bytes.
pub const MAX_ENTRY: usize = 1 << 20;
/// Length of what precedes a payload.
pub(crate) const HEADER: usize = 24;
/// Begins each frame, so that a reader finds the next one after a damaged one.
pub(crate) const MARK: [u8; 4] = *b"\xf5ENT";
/// Kind of an entry. Kinds of gaps are their reasons.
const ENTRY: u32 = 0;

/// Why entries are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The spill was full.
    Full,
    /// They were older than the maximum age.
    Expired,
    /// Their segment was damaged.
    Damaged,
    /// The process or the machine ended before they were synced.
    Unsynced,
    /// The caller dropped them before they were appended.
    Skipped,
    /// The caller delivered them without the spill. They are not lost.
    Bypassed,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 6] = [
        Reason::Full,
        Reason::Expired,
        Reason::Damaged,
        Reason::Unsynced,
        Reason::Skipped,
        Reason::Bypassed,
    ];

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Expired => "expired",
            Reason::Damaged => "damaged",
            Reason::Unsynced => "unsynced",
            Reason::Skipped => "skipped",
            Reason::Bypassed => "bypassed",
        }
    }

    pub(crate) fn code(self) -> u32 {
        match self {
            Reason::Full => 1,
            Reason::Expired => 2,
            Reason::Damaged => 3,
            Reason::Unsynced => 4,
            Reason::Skipped => 5,
            Reason::Bypassed => 6,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry,
    Gap(Reason),
}

/// The fields before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Length of the whole frame.
    pub(crate) len: usize,
    pub(crate) sequence: u64,
    kind: u32,
    checksum: u32,
}

/// A frame whose checksum matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    /// Sequence number after the frame.
    pub(crate) end: u64,
    /// Length of the whole frame.
    pub(crate) len: usize,
}

pub(crate) fn encode_entry(out: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
    encode(out, sequence, ENTRY, payload);
}

pub(crate) fn encode_gap(out: &mut Vec<u8>, sequence: u64, count: u64, reason: Reason) {
    encode(out, sequence, reason.code(), &count.to_le_bytes());
}

fn encode(out: &mut Vec<u8>, sequence: u64, kind: u32, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = out.get(start + 8..).map_or(0, crc32fast::hash);
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The head of a frame; `None` if these bytes do not begin with one.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, _) = rest.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length <= MAX_ENTRY).then(|| Head {
        len: HEADER + length,
        sequence: u64::from_le_bytes(*sequence),
        kind: u32::from_le_bytes(*kind),
        checksum: u32::from_le_bytes(*checksum),
    })
}

/// The frame at the start of `bytes`, if it is whole and its checksum matches.
pub(crate) fn check(head: Head, bytes: &[u8]) -> Option<Frame> {
    let covered = bytes.get(8..head.len)?;
    if crc32fast::hash(covered) != head.checksum {
        return None;
    }
    let (kind, count) = match head.kind {
        ENTRY => (Kind::Entry, 1),
        code => {
            let count = bytes.get(HEADER..head.len)?.first_chunk::<8>()?;
            (Kind::Gap(Reason::from_code(code)?), u64::from_le_bytes(*count))
        }
    };
    let end = head.sequence.checked_add(count)?;
    Some(Frame { kind, sequence: head.sequence, end, len: head.len })
}
