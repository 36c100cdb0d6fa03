//! The bytes of a file: a head, frames, and an index when the file is complete.
//!
//! ```text
//! head   magic 8, key id 4, salt 32, time of creation 8
//! frame  length 4, number 4, unique id 16, ciphertext and tag
//! index  (unique id 16, offset 8) for each frame, by id
//! end    offset of the index 8, entries 4, number 4, tag 16, magic 8
//! ```
//!
//! Numbers are big-endian. Each file has its own key, derived from its salt, and the nonce of a
//! frame is its number, so that no nonce repeats: a process creates a file, numbers its frames
//! once, and never appends after it has closed the file or failed to write to it. The associated
//! data are the head, the offset of the frame and its unique id, so that a frame opens at its
//! place only.
//!
//! - *In*: plain bytes, or those of a file.
//! - *Out*: sealed frames, or the plain bytes of one frame.
//! - *Never*: plain bytes of a frame that was changed or moved.

use ring::aead::{
    Aad, BoundKey, LessSafeKey, NONCE_LEN, Nonce, NonceSequence, SealingKey, Tag, UnboundKey,
};
use ring::error::Unspecified;

use crate::key::{KeyId, MasterKey};

const MAGIC: [u8; 8] = *b"LLMLCON1";
const INDEX_MAGIC: [u8; 8] = *b"LLMLIDX1";
const SALT: usize = 32;
/// Bytes of the head of a file.
pub(crate) const HEAD: usize = 8 + 4 + SALT + 8;
/// Bytes before the ciphertext of a frame.
pub(crate) const FRAME_HEAD: usize = 4 + 4 + 16;
/// Bytes after the plain bytes of a frame.
pub(crate) const TAG: usize = 16;
/// Maximum bytes of a frame's ciphertext and tag.
pub(crate) const MAX_SEALED: usize = 16 << 20;
/// Bytes of an entry of the index.
pub(crate) const ENTRY: usize = 16 + 8;
/// Bytes after the index.
pub(crate) const END: usize = 8 + 4 + 4 + TAG + 8;
/// In place of a unique id for the index.
const INDEX_ID: UniqueId = [0xff; 16];

/// The 16 bytes of a unique id.
pub(crate) type UniqueId = [u8; 16];

/// The head of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHead([u8; HEAD]);

impl FileHead {
    pub(crate) fn new(key: KeyId, salt: [u8; SALT], created_ms: u64) -> Self {
        let mut head = [0; HEAD];
        let parts = [&MAGIC[..], &key.0, &salt, &created_ms.to_be_bytes()].concat();
        head.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        FileHead(head)
    }

    /// The head of these bytes, if they are one.
    pub(crate) fn parse(bytes: [u8; HEAD]) -> Option<Self> {
        bytes.starts_with(&MAGIC).then_some(FileHead(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn key_id(&self) -> KeyId {
        KeyId(array(&self.0, 8))
    }

    fn file_key(&self, key: &MasterKey) -> UnboundKey {
        key.file_key(&array::<SALT>(&self.0, 12))
    }

    /// What a frame at this offset is bound to.
    fn associated(&self, offset: u64, id: &UniqueId, more: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([&self.0[..], &offset.to_be_bytes(), id, more].concat())
    }
}

/// The bytes from `at` on; zeros beyond the end.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    array
}

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

/// The numbers of a file's frames.
struct Numbers(u32);

impl NonceSequence for Numbers {
    fn advance(&mut self) -> Result<Nonce, Unspecified> {
        let number = self.0;
        self.0 = number.checked_add(1).ok_or(Unspecified)?;
        Ok(nonce(number))
    }
}

/// Seals the frames of one file, and its index.
pub(crate) struct Sealer {
    key: SealingKey<Numbers>,
    head: FileHead,
    /// The number that the key uses next.
    number: u32,
}

impl Sealer {
    pub(crate) fn new(key: &MasterKey, head: FileHead) -> Self {
        Sealer { key: SealingKey::new(head.file_key(key), Numbers(0)), head, number: 0 }
    }

    /// Appends the frame of plain bytes that will be at `offset`.
    pub(crate) fn seal(
        &mut self,
        (id, offset): (&UniqueId, u64),
        mut plain: Vec<u8>,
        to: &mut Vec<u8>,
    ) -> Result<(), Unspecified> {
        let length = u32::try_from(plain.len() + TAG).map_err(|_| Unspecified)?;
        if length as usize > MAX_SEALED {
            return Err(Unspecified);
        }
        let (associated, number) = (self.head.associated(offset, id, &[]), self.next_number());
        self.key.seal_in_place_append_tag(associated, &mut plain)?;
        to.extend_from_slice(&length.to_be_bytes());
        to.extend_from_slice(&number.to_be_bytes());
        to.extend_from_slice(id);
        to.extend_from_slice(&plain);
        Ok(())
    }

    /// The index and the end of the file; the index begins at `offset`.
    pub(crate) fn index(
        &mut self,
        mut entries: Vec<(UniqueId, u64)>,
        offset: u64,
    ) -> Result<Vec<u8>, Unspecified> {
        entries.sort_unstable();
        let count = u32::try_from(entries.len()).map_err(|_| Unspecified)?;
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY + END);
        for (id, at) in entries {
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(&at.to_be_bytes());
        }
        let (associated, number) =
            (self.head.associated(offset, &INDEX_ID, &bytes), self.next_number());
        let tag = self.key.seal_in_place_separate_tag(associated, &mut [])?;
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(tag.as_ref());
        bytes.extend_from_slice(&INDEX_MAGIC);
        Ok(bytes)
    }

    /// The number of the next call of the key, which numbers its calls in the same way.
    fn next_number(&mut self) -> u32 {
        let number = self.number;
        self.number = number.saturating_add(1);
        number
    }
}

/// What precedes the ciphertext of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// Bytes of ciphertext and tag.
    pub(crate) length: usize,
    number: u32,
    pub(crate) id: UniqueId,
}

impl FrameHead {
    /// `None`: these bytes are not a frame.
    pub(crate) fn parse(bytes: &[u8; FRAME_HEAD]) -> Option<Self> {
        let length = u32::from_be_bytes(array(bytes, 0)) as usize;
        let is_valid = (TAG..=MAX_SEALED).contains(&length);
        let number = u32::from_be_bytes(array(bytes, 4));
        is_valid.then(|| FrameHead { length, number, id: array(bytes, 8) })
    }
}

/// The end of a complete file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileEnd {
    pub(crate) offset: u64,
    pub(crate) entries: usize,
    number: u32,
    tag: [u8; TAG],
}

impl FileEnd {
    /// `None`: these bytes are not the end of a file of `size` bytes.
    pub(crate) fn parse(bytes: &[u8; END], size: u64) -> Option<Self> {
        let entries = u32::from_be_bytes(array(bytes, 8)) as usize;
        let offset = u64::from_be_bytes(array(bytes, 0));
        let index = (entries as u64).checked_mul(ENTRY as u64)?;
        let is_valid = array::<8>(bytes, END - 8) == INDEX_MAGIC
            && offset.checked_add(index)?.checked_add(END as u64)? == size;
        let number = u32::from_be_bytes(array(bytes, 12));
        is_valid.then(|| FileEnd { offset, entries, number, tag: array(bytes, 16) })
    }
}

/// Opens the frames of one file.
pub(crate) struct Opener {
    key: LessSafeKey,
    head: FileHead,
}

impl Opener {
    pub(crate) fn new(key: &MasterKey, head: FileHead) -> Self {
        Opener { key: LessSafeKey::new(head.file_key(key)), head }
    }

    /// The plain bytes of the frame at `offset`. `None`: it was changed or moved.
    pub(crate) fn open(
        &self,
        frame: FrameHead,
        offset: u64,
        mut sealed: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let associated = self.head.associated(offset, &frame.id, &[]);
        let length =
            self.key.open_in_place(nonce(frame.number), associated, &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }

    /// Whether the bytes are the index that was written.
    pub(crate) fn is_index(&self, end: &FileEnd, entries: &[u8]) -> bool {
        let associated = self.head.associated(end.offset, &INDEX_ID, entries);
        let tag = Tag::from(end.tag);
        let opened =
            self.key.open_in_place_separate_tag(nonce(end.number), associated, tag, &mut [], 0..);
        opened.is_ok()
    }
}
