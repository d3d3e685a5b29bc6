//! A snapshot on disk: the store as it was after one entry of the log, in a file that is whole or not there.
//!
//! ```text
//! {"snapshot":1,"meta":{…},"version":812}          what it covers, and the last version given
//! {"key":"a","version":3,"value":"x"}              an entry a line, in key order
//! {"count":1,"checksum":271733878}                 over every byte above
//! ```
//!
//! It is written beside the one in use (`snapshot.new`), synced, renamed, and the folder synced: whoever opens
//! `snapshot` finds a whole one. What came over the network is checked in the same way before it takes the place.
//! Knows files and lines; when one is made, and what becomes of it, `machine` and `network` know.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::sync_folder;
use super::types::SnapshotMeta;
use crate::store::{Entry, Store, Version};
use crate::wire::{Checksum, WireEntry};

/// The arrangement of lines that this program reads and writes.
const LAYOUT: u32 = 1;
/// The snapshot in use.
const FILE: &str = "snapshot";
/// The one being written.
const NEW_FILE: &str = "snapshot.new";
/// The ones being received: this, and a number for each.
const STAGED_FILE: &str = "snapshot.staged-";

/// A whole snapshot, open for reading. It stays readable when another one takes its place.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    /// Held while it is no more than staged.
    _stage: Option<Arc<StagedFile>>,
}

/// The snapshot in use: the file of that name, and only the newest. Cheap to clone.
///
/// A snapshot is written, or comes in and is installed, while others do: one that covers less than the one in place must
/// not take its place, for the log up to there may be purged.
#[derive(Clone, Debug)]
pub struct InUse {
    folder: PathBuf,
    /// Held, by threads that may wait for the disk, while one takes the place of another.
    turn: Arc<Mutex<()>>,
    held: Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
}

impl InUse {
    /// The one in `folder`, if there is one. What was left half-made there is removed. Blocks.
    pub fn open(folder: &Path) -> io::Result<InUse> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == NEW_FILE || name.to_string_lossy().starts_with(STAGED_FILE) {
                fs::remove_file(entry.path())?;
            }
        }
        let held = match SnapshotFile::open(folder.join(FILE)) {
            Ok(file) => Some((file.head()?.meta, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(InUse { folder: folder.to_owned(), turn: Arc::default(), held: Arc::new(Mutex::new(held)) })
    }

    /// What it covers, and the file.
    pub fn get(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.held.lock().clone()
    }

    /// An error of this folder: it stops the node, and says where.
    pub fn named(&self, error: &io::Error) -> io::Error {
        let folder = self.folder.display();
        io::Error::new(error.kind(), format!("no snapshot can be kept in {folder}: {error}"))
    }

    /// Writes a snapshot of what `next_page` gives until it gives nothing, and puts it in place, unless a newer one came
    /// meanwhile. One at a time. Blocks.
    pub fn write(
        &self,
        meta: SnapshotMeta,
        version: Version,
        next_page: impl FnMut() -> Vec<Entry>,
    ) -> io::Result<SnapshotFile> {
        let file = write(&self.folder.join(NEW_FILE), meta.clone(), version, next_page)?;
        if !self.put(meta, &file)? {
            fs::remove_file(&file.path)?;
        }
        Ok(file)
    }

    /// Puts a snapshot in place, unless a newer one is there; gives whether it did. Blocks.
    pub fn put(&self, meta: SnapshotMeta, file: &SnapshotFile) -> io::Result<bool> {
        let _turn = self.turn.lock();
        let is_newer = |held: &SnapshotMeta| held.last_log_id > meta.last_log_id;
        if self.held.lock().as_ref().is_some_and(|(held, _)| is_newer(held)) {
            return Ok(false);
        }
        let path = if file.path.parent() == Some(&self.folder) {
            file.path.clone()
        } else {
            // From elsewhere.
            let path = self.folder.join(format!("{STAGED_FILE}copy"));
            let mut copy = File::create(&path)?;
            io::copy(&mut file.reader(), &mut copy)?;
            copy.sync_all()?;
            path
        };
        let place = self.folder.join(FILE);
        if path != place {
            fs::rename(path, &place)?;
            sync_folder(&self.folder)?;
        }
        *self.held.lock() = Some((meta, SnapshotFile::open(place)?));
        Ok(true)
    }
}

/// Removes what was staged, unless it was put in place and has that name no more.
#[derive(Debug)]
struct StagedFile(PathBuf);

impl Drop for StagedFile {
    fn drop(&mut self) {
        // Should it stay behind, the next start removes it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The first line.
#[derive(Serialize, Deserialize)]
pub struct Head {
    snapshot: u32,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// The last version that was given.
    pub version: Version,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct End {
    count: u64,
    checksum: u32,
}

/// What a snapshot holds.
pub struct Contents {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// The last version that was given.
    pub version: Version,
    /// The entries.
    pub store: Store,
}

/// Writes a snapshot of what `next_page` gives until it gives nothing, to a file of its own. Blocks.
pub fn write(
    path: &Path,
    meta: SnapshotMeta,
    version: Version,
    mut next_page: impl FnMut() -> Vec<Entry>,
) -> io::Result<SnapshotFile> {
    let mut writer = Lines::create(path)?;
    writer.line(&serde_json::to_vec(&Head { snapshot: LAYOUT, meta, version })?)?;
    let mut count = 0;
    loop {
        let page = next_page();
        if page.is_empty() {
            break;
        }
        for entry in page {
            writer.line(&serde_json::to_vec(&WireEntry::from(entry))?)?;
            count += 1;
        }
    }
    let end = End { count, checksum: writer.checksum.finish() };
    writer.line(&serde_json::to_vec(&end)?)?;
    writer.sync()?;
    SnapshotFile::open(path.to_owned())
}

/// Bytes of the snapshot in use in `folder`; none without one.
pub fn size(folder: &Path) -> u64 {
    fs::metadata(folder.join(FILE)).map_or(0, |file| file.len())
}

/// A file of lines that keeps their checksum.
struct Lines {
    file: BufWriter<File>,
    checksum: Checksum,
}

impl Lines {
    fn create(path: &Path) -> io::Result<Lines> {
        Ok(Lines {
            file: BufWriter::with_capacity(64 << 10, File::create(path)?),
            checksum: Checksum::default(),
        })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.file.write_all(b"\n")?;
        self.checksum.add_bytes(line);
        self.checksum.add_bytes(b"\n");
        Ok(())
    }

    fn sync(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

impl SnapshotFile {
    fn open(path: PathBuf) -> io::Result<SnapshotFile> {
        Ok(SnapshotFile { file: Arc::new(File::open(&path)?), path, _stage: None })
    }

    /// Its lines from the first on, independently of other readers.
    pub fn reader(&self) -> BufReader<FileReader> {
        BufReader::with_capacity(64 << 10, FileReader { file: self.file.clone(), at: 0 })
    }

    /// Reads the first line. Blocks.
    pub fn head(&self) -> io::Result<Head> {
        let mut line = Vec::new();
        self.reader().read_until(b'\n', &mut line)?;
        let head: Head = serde_json::from_slice(&line).map_err(|error| self.damaged(&error))?;
        if head.snapshot == LAYOUT { Ok(head) } else { Err(self.damaged(&"its layout is another")) }
    }

    /// Reads and checks all of it. Blocks.
    pub fn load(&self) -> io::Result<Contents> {
        let Head { meta, version, .. } = self.head()?;
        let (store, mut checksum, mut count) = (Store::new(), Checksum::default(), 0);
        let mut lines = self.reader();
        let (mut line, mut before) = (Vec::new(), Vec::new());
        while lines.read_until(b'\n', &mut line)? > 0 {
            // The line before is no end: it counts, and is an entry unless it is the first.
            if !before.is_empty() {
                checksum.add_bytes(&before);
                if count > 0 {
                    let entry: WireEntry =
                        serde_json::from_slice(&before).map_err(|error| self.damaged(&error))?;
                    store.apply(&Entry::try_from(entry).map_err(|error| self.damaged(&error))?);
                }
                count += 1;
            }
            std::mem::swap(&mut line, &mut before);
            line.clear();
        }
        let end: End = serde_json::from_slice(&before).map_err(|error| self.damaged(&error))?;
        if (end.count + 1, end.checksum) != (count, checksum.finish()) {
            return Err(self.damaged(&"count and checksum do not agree with what is in it"));
        }
        Ok(Contents { meta, version, store })
    }

    fn damaged(&self, what: &dyn std::fmt::Display) -> io::Error {
        let path = self.path.display();
        io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {path} is damaged: {what}"))
    }
}

/// Reads a shared file from a place of its own.
pub struct FileReader {
    file: Arc<File>,
    at: u64,
}

impl io::Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A snapshot on its way in, line by line.
pub struct Stage {
    file: StagedFile,
    lines: Lines,
}

impl Stage {
    /// Begins one. `number` sets it apart from others that may still be on their way.
    pub fn begin(folder: &Path, number: u64) -> io::Result<Stage> {
        let path = folder.join(format!("{STAGED_FILE}{number}"));
        Ok(Stage { lines: Lines::create(&path)?, file: StagedFile(path) })
    }

    /// Takes the next line in.
    pub fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.lines.line(line)
    }

    /// Syncs what has come. Whether it is whole shows when it is loaded. Blocks.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        self.lines.sync()?;
        let file = SnapshotFile::open(self.file.0.clone())?;
        Ok(SnapshotFile { _stage: Some(Arc::new(self.file)), ..file })
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::testing::Folder;
    use super::*;
    use crate::replication::raft::types::LogId;
    use crate::store::Value;

    fn entries(count: u64) -> Vec<Entry> {
        let value = |n: u64| Some(Value::from_json_text(&format!("{{\"n\": {n}.0}}")));
        (1..=count).map(|n| Entry { key: format!("k\n{n:04}").into(), version: n, value: value(n) }).collect()
    }

    /// Its last log index is the number of its entries.
    fn meta(count: u64) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(LogId::new_term_index(1, count)), ..SnapshotMeta::default() }
    }

    fn write_some(folder: &Path, count: u64) -> SnapshotFile {
        let mut pages = vec![entries(count)].into_iter();
        let next_page = || pages.next().unwrap_or_default();
        InUse::open(folder).unwrap().write(meta(count), count + 7, next_page).unwrap()
    }

    fn in_use(folder: &Folder) -> Option<Contents> {
        InUse::open(folder.path()).unwrap().get().map(|(_, file)| file.load().unwrap())
    }

    #[test]
    fn what_was_written_is_read_back() {
        for count in [0, 1, 300] {
            let folder = Folder::new();
            assert!(in_use(&folder).is_none());
            write_some(folder.path(), count);
            let contents = in_use(&folder).unwrap();
            assert_eq!(contents.version, count + 7);
            assert_eq!(contents.store.snapshot_page(None, usize::MAX), entries(count));
        }
    }

    #[test]
    fn a_snapshot_with_any_byte_changed_or_missing_is_refused() {
        let folder = Folder::new();
        write_some(folder.path(), 3);
        let path = folder.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let loaded = SnapshotFile::open(path.clone()).unwrap().load();
            assert!(loaded.is_err(), "byte {at} of {}", String::from_utf8_lossy(&bad));
            // Only the last line break may go.
            fs::write(&path, &good[..at]).unwrap();
            let is_whole = SnapshotFile::open(path.clone()).unwrap().load().is_ok();
            assert_eq!(is_whole, at == good.len() - 1, "cut at {at}");
        }
    }

    #[test]
    fn an_open_one_stays_whole_when_another_takes_its_place() {
        let folder = Folder::new();
        let old = write_some(folder.path(), 5);
        write_some(folder.path(), 9);
        assert_eq!(old.load().unwrap().store.count(), 5);
        assert_eq!(in_use(&folder).unwrap().store.count(), 9);
    }

    #[test]
    fn one_from_elsewhere_is_staged_and_then_put_in_place() {
        let (from, to) = (Folder::new(), Folder::new());
        write_some(to.path(), 1);
        let sent = write_some(from.path(), 40);
        let mut stage = Stage::begin(to.path(), 1).unwrap();
        for line in sent.reader().split(b'\n') {
            stage.line(&line.unwrap()).unwrap();
        }
        let staged = stage.finish().unwrap();
        assert_eq!(staged.load().unwrap().store.count(), 40);
        assert_eq!(SnapshotFile::open(to.path().join(FILE)).unwrap().load().unwrap().store.count(), 1);
        InUse::open(to.path()).unwrap().put(meta(40), &sent).unwrap();
        assert_eq!(in_use(&to).unwrap().store.count(), 40);
        // Half of one that was left behind is removed, and harms nobody.
        drop(Stage::begin(to.path(), 2).unwrap());
        fs::write(to.path().join("snapshot.staged-3"), b"{").unwrap();
        assert_eq!(in_use(&to).unwrap().store.count(), 40);
        drop(staged);
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_staged_and_not_put_in_place_leaves_nothing_behind() {
        let folder = Folder::new();
        let in_use = InUse::open(folder.path()).unwrap();
        let stage = |number| Stage::begin(folder.path(), number).unwrap().finish().unwrap();
        let (refused, installed) = (stage(1), stage(2));
        drop(refused.clone());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(refused);
        in_use.put(meta(3), &installed).unwrap();
        drop(installed);
        let files: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, [FILE]);
    }

    /// Keeps one that was written for a while from taking the place of a newer one that was installed meanwhile: the log
    /// up to the newer one is purged by then, and the node would not start again.
    #[test]
    fn an_older_one_does_not_take_the_place_of_a_newer_one() {
        let (folder, elsewhere) = (Folder::new(), Folder::new());
        let newer = write_some(elsewhere.path(), 9);
        let in_use = InUse::open(folder.path()).unwrap();
        let mut pages = vec![entries(5)].into_iter();
        let older = in_use
            .write(meta(5), 12, || {
                // While it is written.
                in_use.put(meta(9), &newer).unwrap();
                pages.next().unwrap_or_default()
            })
            .unwrap();
        assert_eq!(older.load().unwrap().store.count(), 5, "whoever asked for it may still send it");
        for in_use in [in_use, InUse::open(folder.path()).unwrap()] {
            let (held, file) = in_use.get().unwrap();
            assert_eq!((held, file.load().unwrap().store.count()), (meta(9), 9));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
