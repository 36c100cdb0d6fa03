//! The ledger: up to where entries are acknowledged, and up to where they were dropped.
//!
//! - *In*: the state at open, and each new state.
//! - *Out*: the newest state that was written completely.
//! - *Never*: a torn state; new blocks after its creation, so that a full disk can be emptied.
//!
//! The file has two places in different pages, which are overwritten in turn. A crash tears at most
//! one of them, and the other has the state before.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::frame::Reason;

pub(crate) const NAME: &str = "ledger";
const MAGIC: [u8; 8] = *b"LLLEDGR1";
/// Distance of the two places: a page.
const PLACE: u64 = 4096;
const LEN: usize = 40;

/// What a ledger states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// All entries before this sequence number are acknowledged.
    pub(crate) acknowledged: u64,
    /// Unacknowledged entries before this sequence number were dropped.
    pub(crate) dropped: u64,
    /// Why they were dropped.
    pub(crate) reason: Reason,
}

/// The open ledger.
pub(crate) struct Ledger<D: Disk> {
    file: D::File,
    /// It grows with each write; its last bit is the place.
    generation: u64,
    state: State,
}

impl<D: Disk> Ledger<D> {
    /// Opens the ledger; `None` if it does not exist or neither place is valid.
    pub(crate) fn open(disk: &D, folder: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(&folder.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = Vec::new();
        for place in 0..2 {
            let mut bytes = [0; LEN];
            let read = disk.read_at(&file, &mut bytes, place * PLACE)?;
            found.extend(if read == LEN { decode(&bytes) } else { None });
        }
        let newest = found.into_iter().max_by_key(|(generation, _)| *generation);
        Ok(newest.map(|(generation, state)| Ledger { file, generation, state }))
    }

    /// Creates the ledger with a first state.
    pub(crate) fn create(disk: &D, folder: &Path, state: State) -> io::Result<Self> {
        let file = disk.create(&folder.join(NAME))?;
        for generation in 0..2 {
            disk.write_at(&file, &encode(generation, state), generation * PLACE)?;
        }
        disk.sync(&file)?;
        disk.sync_folder(folder)?;
        Ok(Ledger { file, generation: 1, state })
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Writes a state and waits until it is on the disk. After an error the old state is in force.
    pub(crate) fn write(&mut self, disk: &D, state: State) -> io::Result<()> {
        if state == self.state {
            return Ok(());
        }
        let generation = self.generation + 1;
        disk.write_at(&self.file, &encode(generation, state), (generation & 1) * PLACE)?;
        disk.sync(&self.file)?;
        (self.generation, self.state) = (generation, state);
        Ok(())
    }
}

fn encode(generation: u64, state: State) -> [u8; LEN] {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&state.acknowledged.to_le_bytes());
    bytes.extend_from_slice(&state.dropped.to_le_bytes());
    bytes.extend_from_slice(&state.reason.code().to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.try_into().expect("invariant: the fields have 40 bytes")
}

/// A state with its generation.
fn decode(bytes: &[u8; LEN]) -> Option<(u64, State)> {
    let (covered, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(covered).to_le_bytes() != *checksum {
        return None;
    }
    let rest = covered.strip_prefix(&MAGIC)?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (acknowledged, rest) = rest.split_first_chunk::<8>()?;
    let (dropped, rest) = rest.split_first_chunk::<8>()?;
    let (reason, _) = rest.split_first_chunk::<4>()?;
    let state = State {
        acknowledged: u64::from_le_bytes(*acknowledged),
        dropped: u64::from_le_bytes(*dropped),
        reason: Reason::from_code(u32::from_le_bytes(*reason))?,
    };
    Some((u64::from_le_bytes(*generation), state))
}
