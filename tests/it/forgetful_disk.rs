//! A disk that forgets what was not synced, or cannot sync, under a real node.
//!
//! kill -9 takes nothing that was written: the kernel has it. A power cut takes whatever was not synced. A library that
//! is loaded into the node (`forgetful_disk.c`) notes every change to its folder and every sync of it; [`ForgetfulDisk::cut_power`]
//! then leaves in the folder what a disk without power may have left there. It can also end the node in place of any
//! one of its changes, and let syncs fail.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::processes::Process;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A node's data folder on a disk that forgets.
pub(crate) struct ForgetfulDisk {
    folder: PathBuf,
    journal: PathBuf,
}

/// Something the library has noted. Inodes stand for files and folders.
enum Note {
    /// This was there from `offset` on, in a file of so many bytes.
    Content { inode: u64, offset: u64, size: u64, was: Vec<u8> },
    /// A file, or a folder, was synced.
    Synced { inode: u64 },
    /// A name in a folder has changed.
    Name { folder: u64, inode: u64, change: NameChange },
}

enum NameChange {
    Made { name: String },
    Renamed { old: String, new: String, kept: Option<String> },
    Removed { name: String, kept: String },
}

impl ForgetfulDisk {
    /// Puts the data of a node there, from its next start on. `name` is that of the journal beside the data.
    pub(crate) fn under(node: &mut Process, data: &Path, name: &str) -> ForgetfulDisk {
        let journal = data.with_file_name(name);
        fs::create_dir_all(data).unwrap();
        fs::create_dir_all(&journal).unwrap();
        // The library compares the paths of open files, which have no links in them.
        let (folder, journal) = (data.canonicalize().unwrap(), journal.canonicalize().unwrap());
        node.set("LD_PRELOAD", &library().to_string_lossy());
        node.set("DISK_FOLDER", &folder.to_string_lossy());
        node.set("DISK_JOURNAL", &journal.to_string_lossy());
        ForgetfulDisk { folder, journal }
    }

    /// Lets all syncs fail, or none.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        let path = self.journal.join("fail");
        if fail { fs::write(path, []).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// Syncs so far.
    pub(crate) fn syncs(&self) -> usize {
        let notes = read_notes(&self.journal.join("notes"));
        notes.iter().filter(|note| matches!(note, Note::Synced { .. })).count()
    }

    /// The power was cut when the node ended. Without `rng` all is gone that was not synced; with it, whatever chance
    /// leaves: each sector of a file as it was synced or as it was last written, and the first few changes of names.
    pub(crate) fn cut_power(&self, rng: Option<&mut fastrand::Rng>) {
        let notes = read_notes(&self.journal.join("notes"));
        let mut synced: HashMap<u64, usize> = HashMap::new();
        for (nth, note) in notes.iter().enumerate() {
            if let Note::Synced { inode } = note {
                synced.insert(*inode, nth);
            }
        }
        let is_open = |inode: &u64, nth: usize| synced.get(inode).is_none_or(|synced| *synced < nth);
        let mut lost_content: BTreeMap<u64, Vec<&Note>> = BTreeMap::new();
        let mut lost_names = Vec::new();
        for (nth, note) in notes.iter().enumerate() {
            match note {
                Note::Content { inode, .. } if is_open(inode, nth) => {
                    lost_content.entry(*inode).or_default().push(note)
                }
                Note::Name { folder, inode, change } if is_open(folder, nth) => {
                    lost_names.push((*inode, change))
                }
                _ => {}
            }
        }
        let mut rng = rng;
        for (inode, changes) in lost_content {
            self.take_back_content(inode, &changes, rng.as_deref_mut());
        }
        let survive = rng.map_or(0, |rng| rng.usize(..=lost_names.len()));
        for (inode, change) in lost_names[survive..].iter().rev() {
            self.take_back_name(*inode, change);
        }
        for file in fs::read_dir(&self.journal).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }

    fn take_back_content(&self, inode: u64, changes: &[&Note], rng: Option<&mut fastrand::Rng>) {
        let files =
            [&self.folder, &self.journal].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let Some(file) = files.map(Result::unwrap).find(|file| file.metadata().unwrap().ino() == inode)
        else {
            // It was made and not noted: the process ended in between.
            return;
        };
        let mut file = File::options().read(true).write(true).open(file.path()).unwrap();
        let mut written = Vec::new();
        file.read_to_end(&mut written).unwrap();
        let mut synced = written.clone();
        for change in changes.iter().rev() {
            let Note::Content { offset, size, was, .. } = change else { continue };
            synced.resize(*size as usize, 0);
            synced[*offset as usize..][..was.len()].copy_from_slice(was);
        }
        if let Some(rng) = rng {
            if rng.bool() {
                synced.resize(written.len(), 0);
            } else {
                written.resize(synced.len(), 0);
            }
            for (left, survivor) in synced.chunks_mut(SECTOR).zip(written.chunks(SECTOR)) {
                if rng.bool() {
                    left.copy_from_slice(survivor);
                }
            }
        }
        file.set_len(synced.len() as u64).unwrap();
        file.write_all_at(&synced, 0).unwrap();
    }

    fn take_back_name(&self, inode: u64, change: &NameChange) {
        let is_that = |path: &Path| fs::metadata(path).is_ok_and(|found| found.ino() == inode);
        match change {
            NameChange::Made { name } => {
                let path = self.folder.join(name);
                if is_that(&path) {
                    fs::remove_file(path).unwrap();
                }
            }
            NameChange::Renamed { old, new, kept } => {
                let (old, new) = (self.folder.join(old), self.folder.join(new));
                if is_that(&new) {
                    fs::rename(&new, old).unwrap();
                    if let Some(kept) = kept {
                        fs::hard_link(self.journal.join(kept), new).unwrap();
                    }
                }
            }
            NameChange::Removed { name, kept } => {
                let path = self.folder.join(name);
                if !path.exists() {
                    fs::hard_link(self.journal.join(kept), path).unwrap();
                }
            }
        }
    }
}

/// Builds the library, once. Whoever can build this program has a C compiler: SQLite is built with it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forgetful_disk.so");
        // Several runs may do so at a time.
        let own = library.with_extension(format!("so.{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/forgetful_disk.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&own).arg(source);
        let output = compile.arg("-ldl").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(own, &library).unwrap();
        library
    })
}

fn read_notes(path: &Path) -> Vec<Note> {
    let mut notes = Vec::new();
    // A node that never started has noted nothing.
    let Ok(bytes) = fs::read(path) else { return notes };
    let mut rest = bytes.as_slice();
    let mut line = String::new();
    while rest.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |nth: usize| words[nth].parse::<u64>().unwrap();
        let text = |nth: usize| words[nth].to_owned();
        let name = |change| Note::Name { folder: number(1), inode: number(2), change };
        notes.push(match words[0] {
            "W" => {
                let count = number(4) as usize;
                if rest.len() < count {
                    // The process ended while it noted this; the change was not made.
                    break;
                }
                let (was, after) = rest.split_at(count);
                rest = after;
                Note::Content { inode: number(1), offset: number(2), size: number(3), was: was.to_vec() }
            }
            "S" => Note::Synced { inode: number(1) },
            "C" => name(NameChange::Made { name: text(3) }),
            "R" => name(NameChange::Renamed {
                old: text(3),
                new: text(4),
                kept: Some(text(5)).filter(|kept| kept != "-"),
            }),
            "U" => name(NameChange::Removed { name: text(3), kept: text(4) }),
            other => panic!("a note {other:?}"),
        });
        line.clear();
    }
    notes
}
