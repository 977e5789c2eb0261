//! The sealed state of each kind of object: what its slots protect.

use super::FormatError;
use super::floors::{RootTable, TABLE_LEN};
use crate::codec::{Reader, Writer};

/// Bytes of a sealed state before sealing.
pub const STATE_LEN: usize = 736;
/// Longest key reference in a volume's or directory's state, in bytes.
pub const MAX_KEY_REFERENCE_LEN: usize = 256;

/// Flag of a file's state: chunks may have been written since it was sealed.
pub const UNSETTLED: u32 = 1;
/// Flag of a file: promises were taken back since the last settling.
pub const LOWERED: u32 = 2;
/// Flag of a file: it is being re-encrypted, and has two data keys.
pub const REENCRYPTING: u32 = 4;
/// Flag of the volume's state: the last read-write mount ended properly.
pub const CLEAN: u32 = 1;
/// Flag of a volume: every file in it was settled when it was unmounted.
pub const ALL_SETTLED: u32 = 2;

/// What a file's header promises about its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// Plaintext size in bytes; of an unsettled file, that of its last settling.
    pub size: u64,
    /// The smallest size in bytes that an unsettled file may have; a shorter one was cut.
    /// Chunks behind it have no floor.
    pub min_size: u64,
    /// Chunks may have been written since the state was sealed.
    pub unsettled: bool,
    /// The file was to be cut or a hole punched since the last settling: a chunk or map page may
    /// still be there that has lost its floor.
    pub lowered: bool,
    /// Newest epoch in the file, or being written.
    pub epoch: u32,
    /// Newest epoch at the last settling. A chunk or map page without a floor is newer unless the
    /// state is `lowered`, or else an old copy of something that was cut off or punched out.
    pub settled_epoch: u32,
    /// Floors of the first chunks and of the topmost map pages.
    pub floors: RootTable,
    /// Of a file that is being re-encrypted, the epoch from which on everything is under its present
    /// data key; what is older is under the previous one. Zero for any other file.
    pub new_key_since: u32,
}

impl FileState {
    /// The state of a file that is being created in `epoch`.
    pub fn new(epoch: u32) -> Self {
        Self {
            size: 0,
            min_size: 0,
            unsettled: true,
            lowered: false,
            epoch,
            settled_epoch: 0,
            floors: [0; TABLE_LEN],
            new_key_since: 0,
        }
    }

    /// The state's bytes, for sealing.
    pub fn encode(&self) -> [u8; STATE_LEN] {
        let mut out = [0; STATE_LEN];
        let flags = flag(self.unsettled, UNSETTLED)
            | flag(self.lowered, LOWERED)
            | flag(self.new_key_since != 0, REENCRYPTING);
        let mut w = Writer::new(&mut out);
        w.u64(self.size).u64(self.min_size).u32(flags).u32(self.epoch).u32(self.settled_epoch);
        for floor in self.floors {
            w.u32(floor);
        }
        w.u32(self.new_key_since);
        out
    }

    /// Reads a state that was authenticated.
    ///
    /// # Errors
    /// [`FormatError::Impossible`] for flags of a newer program, and for a file that is being re-encrypted
    /// since no epoch.
    pub fn parse(bytes: &[u8; STATE_LEN]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let (size, min_size, flags, epoch) = (r.u64()?, r.u64()?, r.u32()?, r.u32()?);
        let settled_epoch = r.u32()?;
        if flags & !(UNSETTLED | LOWERED | REENCRYPTING) != 0 {
            return Err(FormatError::Impossible);
        }
        let mut floors = [0; TABLE_LEN];
        for floor in &mut floors {
            *floor = r.u32()?;
        }
        let new_key_since = r.u32()?;
        if (flags & REENCRYPTING != 0) != (new_key_since != 0) {
            return Err(FormatError::Impossible);
        }
        Ok(Self {
            size,
            min_size,
            unsettled: flags & UNSETTLED != 0,
            lowered: flags & LOWERED != 0,
            epoch,
            settled_epoch,
            floors,
            new_key_since,
        })
    }
}

/// What the volume's page protects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeState {
    /// No file has an epoch at or above this. Raised durably before epochs are used, so that a
    /// session after a crash never repeats one.
    pub epochs_reserved: u32,
    /// The last read-write mount ended properly and nothing is left to recover.
    pub clean: bool,
    /// Every file was settled then: one that says otherwise shows an old header.
    pub all_settled: bool,
    /// Unix time in seconds at which the first mount began that did not end properly.
    pub unclean_since: i64,
    /// ARN of the master key for new files where no directory says otherwise.
    pub default_key: String,
}

impl VolumeState {
    /// The state's bytes, for sealing.
    ///
    /// # Errors
    /// [`FormatError::Impossible`] if the key reference is too long.
    pub fn encode(&self) -> Result<[u8; STATE_LEN], FormatError> {
        let mut out = [0; STATE_LEN];
        let mut w = Writer::new(&mut out);
        w.u32(self.epochs_reserved).u32(flag(self.clean, CLEAN) | flag(self.all_settled, ALL_SETTLED));
        w.u64(self.unclean_since.cast_unsigned());
        write_reference(&mut w, &self.default_key)?;
        Ok(out)
    }

    /// Reads a state that was authenticated.
    ///
    /// # Errors
    /// [`FormatError::Impossible`].
    pub fn parse(bytes: &[u8; STATE_LEN]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let (epochs_reserved, flags, since) = (r.u32()?, r.u32()?, r.u64()?);
        if flags & !(CLEAN | ALL_SETTLED) != 0 {
            return Err(FormatError::Impossible);
        }
        Ok(Self {
            epochs_reserved,
            clean: flags & CLEAN != 0,
            all_settled: flags & ALL_SETTLED != 0,
            unclean_since: since.cast_signed(),
            default_key: read_reference(&mut r)?,
        })
    }
}

/// What a directory's record protects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectoryState {
    /// ARN of the master key for new files here; empty for the volume's default.
    pub assigned_key: String,
}

impl DirectoryState {
    /// The state's bytes, for sealing.
    ///
    /// # Errors
    /// [`FormatError::Impossible`] if the key reference is too long.
    pub fn encode(&self) -> Result<[u8; STATE_LEN], FormatError> {
        let mut out = [0; STATE_LEN];
        write_reference(&mut Writer::new(&mut out), &self.assigned_key)?;
        Ok(out)
    }

    /// Reads a state that was authenticated.
    ///
    /// # Errors
    /// [`FormatError::Impossible`].
    pub fn parse(bytes: &[u8; STATE_LEN]) -> Result<Self, FormatError> {
        Ok(Self { assigned_key: read_reference(&mut Reader::new(bytes))? })
    }
}

fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}

fn write_reference(w: &mut Writer<'_>, reference: &str) -> Result<(), FormatError> {
    if reference.len() > MAX_KEY_REFERENCE_LEN {
        return Err(FormatError::Impossible);
    }
    let len = u16::try_from(reference.len()).map_err(|_| FormatError::Impossible)?;
    w.u16(len).bytes(reference.as_bytes());
    Ok(())
}

fn read_reference(r: &mut Reader<'_>) -> Result<String, FormatError> {
    let bytes = r.string16()?;
    if bytes.len() > MAX_KEY_REFERENCE_LEN {
        return Err(FormatError::Impossible);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| FormatError::Impossible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_the_round_trip() {
        let mut file = FileState::new(9);
        file.size = 1 << 40;
        file.min_size = 77;
        file.settled_epoch = 8;
        file.floors[TABLE_LEN - 1] = u32::MAX;
        assert_eq!(FileState::parse(&file.encode()), Ok(file.clone()));
        file.new_key_since = 6;
        assert_eq!(FileState::parse(&file.encode()), Ok(file));
        let volume = VolumeState {
            epochs_reserved: 512,
            clean: true,
            all_settled: false,
            unclean_since: -5,
            default_key: "arn:aws:kms:local:000000000000:key/x".into(),
        };
        assert_eq!(VolumeState::parse(&volume.encode().unwrap()), Ok(volume));
        let directory = DirectoryState { assigned_key: "k".repeat(MAX_KEY_REFERENCE_LEN) };
        assert_eq!(DirectoryState::parse(&directory.encode().unwrap()), Ok(directory));
    }

    #[test]
    fn flags_of_a_newer_program_are_refused() {
        let mut bytes = FileState::new(1).encode();
        bytes[16] |= 8;
        assert_eq!(FileState::parse(&bytes), Err(FormatError::Impossible));
    }

    #[test]
    fn a_second_data_key_has_both_its_flag_and_its_epoch() {
        let mut bytes = FileState::new(1).encode();
        bytes[16] |= REENCRYPTING as u8;
        assert_eq!(FileState::parse(&bytes), Err(FormatError::Impossible));
        let mut state = FileState::new(1);
        state.new_key_since = 1;
        let mut bytes = state.encode();
        bytes[16] &= !REENCRYPTING as u8;
        assert_eq!(FileState::parse(&bytes), Err(FormatError::Impossible));
    }
}
