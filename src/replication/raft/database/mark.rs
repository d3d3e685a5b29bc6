//! The high-water mark: how far this node has vouched for its log and its vote, kept outside of the database.
//!
//! SQLite forgives too much. If the end of its write-ahead log is missing (a disk that lied about a flush, a folder
//! copied without that file, a backup put back), it opens without a word and without the last transactions. A node
//! that then votes or acknowledges has forgotten what it promised, and the cluster may lose what it acknowledged. So
//! after every commit, before anybody is told, what was vouched for is written here, and a database that is behind it
//! is not opened.
//!
//! *Written at once, synced a little later.* The database itself is on disk before anybody is told; this file is there
//! for the case that it does not stay there. A file that was copied, put back or cut off is caught whether the mark was
//! synced or only written: both are read through the same kernel. Only a power cut together with a lost end of the
//! write-ahead log finds a mark that is older than the last acknowledgement, by [`super::MARK_SYNC_EVERY`] at the most.
//! A sync before every answer closed that gap at the price of a second wait for the disk, a quarter of a lone write's
//! time (docs/BENCHMARKS.md). Votes, and marks that go down, are synced at once.
//!
//! The file has two slots of one sector each. The one that is on disk for certain is left alone until the other one is:
//! a write that is torn never takes the last synced mark with it. A slot is a line of JSON that a person can read.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::disk::sync_folder;
use super::{Position, VoteRecord};
use crate::wire::Checksum;

/// The bytes of a slot: the least that disks write at once.
const SLOT_BYTES: usize = 512;

/// What has been vouched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// The end of the log, if it has one.
    pub last: Option<Position>,
    /// The vote, if there was one.
    pub vote: Option<VoteRecord>,
}

impl Vouched {
    /// Whether a log and a vote as these hold all that `self` has vouched for.
    pub fn is_held_by(&self, database: &Vouched) -> bool {
        self.last <= database.last && self.vote.map(VoteRecord::rank) <= database.vote.map(VoteRecord::rank)
    }
}

impl fmt::Display for Vouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(Position { term, index }) => write!(f, "the log up to index {index} of term {term}")?,
            None => f.write_str("no log")?,
        }
        match self.vote {
            Some(VoteRecord { term, voted_for, .. }) => {
                write!(f, " and a vote for {voted_for} in term {term}")
            }
            None => f.write_str(" and no vote"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Slot {
    sequence: u64,
    #[serde(flatten)]
    vouched: Vouched,
    checksum: u32,
}

impl Slot {
    fn checksum(sequence: u64, vouched: &Vouched) -> u32 {
        let mut checksum = Checksum::default();
        // Numbers and options of numbers always serialize.
        checksum.add_bytes(&serde_json::to_vec(&(sequence, vouched)).unwrap_or_default());
        checksum.finish()
    }
}

/// The file, open.
#[derive(Debug)]
pub struct Mark {
    file: File,
    sequence: u64,
    vouched: Vouched,
    /// The slot that is written next: the other one is on disk.
    slot: u64,
    is_synced: bool,
}

impl Mark {
    /// Makes the file, with nothing vouched for. It is whole or not there.
    pub fn create(folder: &Path, name: &str) -> io::Result<Mark> {
        let (path, new_path) = (folder.join(name), folder.join(format!("{name}.new")));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&new_path)?;
        let mut mark = Mark { file, sequence: 0, vouched: Vouched::default(), slot: 0, is_synced: true };
        // Both slots are written, so that the file never grows again: a sync of it then touches nothing but its data.
        for _ in 0..2 {
            mark.write(Vouched::default())?;
            mark.sync()?;
        }
        mark.file.sync_all()?;
        fs::rename(new_path, path)?;
        sync_folder(folder)?;
        Ok(mark)
    }

    /// Opens the file; `None` in place of a mark if neither slot can be read.
    pub fn open(path: &Path) -> io::Result<Option<Mark>> {
        let file = File::options().read(true).write(true).open(path)?;
        let slots = (0..2).filter_map(|slot| Some((slot, read_slot(&file, slot)?)));
        let newest = slots.max_by_key(|(_, slot)| slot.sequence);
        let Some((slot, Slot { sequence, vouched, .. })) = newest else { return Ok(None) };
        // It may never have got to the disk, and the other one is about to be written over.
        file.sync_data()?;
        Ok(Some(Mark { file, sequence, vouched, slot: 1 - slot, is_synced: true }))
    }

    /// What has been vouched for.
    pub fn vouched(&self) -> Vouched {
        self.vouched
    }

    /// Whether what is vouched for is on disk.
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Vouches for this from now on; on disk after [`Mark::sync`].
    pub fn write(&mut self, vouched: Vouched) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = Slot { sequence, vouched, checksum: Slot::checksum(sequence, &vouched) };
        let mut bytes = serde_json::to_vec(&slot)?;
        bytes.resize(SLOT_BYTES - 1, b' ');
        bytes.push(b'\n');
        self.file.write_all_at(&bytes, self.slot * SLOT_BYTES as u64)?;
        (self.sequence, self.vouched, self.is_synced) = (sequence, vouched, false);
        Ok(())
    }

    /// Waits until what is vouched for is on disk.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            (self.slot, self.is_synced) = (1 - self.slot, true);
        }
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<Slot> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let slot: Slot = serde_json::from_slice(bytes.trim_ascii_end()).ok()?;
    (Slot::checksum(slot.sequence, &slot.vouched) == slot.checksum).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn vouched(term: u64, index: u64) -> Vouched {
        let vote = VoteRecord { term, voted_for: 7, committed: index.is_multiple_of(2) };
        Vouched { last: Some(Position { term, index }), vote: Some(vote) }
    }

    #[test]
    fn the_newest_mark_is_read_back() {
        let folder = Folder::new();
        let path = folder.path().join("mark");
        let mut mark = Mark::create(folder.path(), "mark").unwrap();
        for index in 0..8 {
            mark.write(vouched(u64::MAX, index)).unwrap();
            if index % 3 == 0 {
                mark.sync().unwrap();
            }
            assert_eq!(Mark::open(&path).unwrap().unwrap().vouched(), vouched(u64::MAX, index));
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn a_torn_write_leaves_the_mark_that_was_synced_last() {
        let folder = Folder::new();
        let path = folder.path().join("mark");
        let mut mark = Mark::create(folder.path(), "mark").unwrap();
        mark.write(vouched(1, 1)).unwrap();
        mark.sync().unwrap();
        for index in 2..=4 {
            mark.write(vouched(1, index)).unwrap();
        }
        assert_eq!(Mark::open(&path).unwrap().unwrap().vouched(), vouched(1, 4));
        mark.file.write_all_at(&[0; 40], mark.slot * SLOT_BYTES as u64).unwrap();
        assert_eq!(Mark::open(&path).unwrap().unwrap().vouched(), vouched(1, 1));
        mark.file.write_all_at(&[0; 2 * SLOT_BYTES], 0).unwrap();
        assert!(Mark::open(&path).unwrap().is_none());
    }

    #[test]
    fn what_is_behind_in_log_or_vote_does_not_hold_it() {
        let mark = vouched(3, 4);
        assert!(mark.is_held_by(&vouched(3, 4)));
        assert!(mark.is_held_by(&vouched(4, 1)), "a higher term comes after");
        for behind in [
            vouched(3, 3),
            vouched(2, 9),
            Vouched { last: None, ..mark },
            Vouched { vote: None, ..mark },
            Vouched { vote: Some(VoteRecord { term: 3, voted_for: 7, committed: false }), ..mark },
        ] {
            assert!(!mark.is_held_by(&behind), "{behind:?}");
        }
        assert!(Vouched::default().is_held_by(&Vouched::default()));
    }
}
