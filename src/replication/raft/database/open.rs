//! Opening a folder of data, or making one: the lock, the checks, and what is refused.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::super::disk::{Disk, sync_folder};
use super::writer::Writer;
use super::{Database, Facts, Identity, Mark, Synchronous, Vouched};

/// The database within the folder.
const DATABASE_FILE: &str = "raft.sqlite";
const MARK_FILE: &str = "mark";
const LOCK_FILE: &str = "lock";
/// The arrangement of tables and files that this program reads and writes.
const LAYOUT: &str = "1";

/// Why a folder of data cannot be used. Every message names the folder and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made, read or written.
    #[error("the data folder {} cannot be used: {error}; check DATA_DIR, its owner and its permissions", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its permissions forbid writing.
    #[error("the data folder {} is read-only: a node has to write there; check DATA_DIR and its permissions", .folder.display())]
    ReadOnly {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process has it.
    #[error("the data folder {} is in use by another process: give each node a DATA_DIR of its own", .folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// What is in it cannot be understood.
    #[error(
        "the data folder {} is damaged: {what}; do not mend it by hand: remove this member from the cluster, and let \
         the node join again with an empty folder", .folder.display()
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The database has lost what the node has vouched for.
    #[error(
        "the data folder {} has lost its newest entries: {what}; a node that went on would have forgotten what it \
         promised. Was {DATABASE_FILE} put back from a copy, or left without {DATABASE_FILE}-wal? Remove this member \
         from the cluster, and let the node join again with an empty folder", .folder.display()
    )]
    Behind {
        /// The folder.
        folder: PathBuf,
        /// What was vouched for, and what is there.
        what: String,
    },
}

/// A database that has been opened, and what it held.
pub struct Opened {
    /// The handle.
    pub database: Database,
    /// Who the node is.
    pub identity: Identity,
    /// Vote and ends of the log.
    pub facts: Facts,
}

/// Opens the folder, or makes it with the id `storage_id` if there is none or it is empty. Blocks.
pub fn open(
    folder: &Path,
    storage_id: u64,
    synchronous: Synchronous,
    disk: &Disk,
) -> Result<Opened, OpenError> {
    let system = |error| OpenError::Folder { folder: folder.to_owned(), error };
    let damaged = |what: String| OpenError::Damaged { folder: folder.to_owned(), what };
    create_folder(folder).map_err(system)?;
    let permissions = fs::metadata(folder).map_err(system)?.permissions();
    if permissions.readonly() {
        return Err(OpenError::ReadOnly { folder: folder.to_owned() });
    }
    let lock = lock(folder)?;
    let (database, mark) = (folder.join(DATABASE_FILE), folder.join(MARK_FILE));
    let has_mark = mark.exists();
    if has_mark && !database.exists() {
        return Err(damaged(format!("{DATABASE_FILE} is missing")));
    }
    let connection = match connect(&database, storage_id, has_mark, synchronous) {
        Ok(connection) => connection,
        Err(error) if is_lock(&error) => return Err(OpenError::InUse { folder: folder.to_owned() }),
        Err(error) => return Err(damaged(format!("{DATABASE_FILE}: {error}"))),
    };
    let mut writer = Writer::new(connection, folder.to_owned(), lock);
    let (identity, facts) = writer.load().map_err(|error| damaged(format!("{DATABASE_FILE}: {error}")))?;
    let there = writer.vouched();
    // The mark is made after the database, and before anything is promised.
    let mark = match has_mark {
        true => {
            Mark::open(&mark).map_err(system)?.ok_or_else(|| damaged(format!("{MARK_FILE} is unreadable")))?
        }
        false if there == Vouched::default() => Mark::create(folder, MARK_FILE).map_err(system)?,
        false => return Err(damaged(format!("{MARK_FILE} is missing beside {DATABASE_FILE}"))),
    };
    if !mark.vouched().is_held_by(&there) {
        let what = format!("it vouched for {}, and holds {there}", mark.vouched());
        return Err(OpenError::Behind { folder: folder.to_owned(), what });
    }
    writer.set_mark(mark, synchronous);
    let database = Database::start(folder.to_owned(), writer, disk).map_err(system)?;
    Ok(Opened { database, identity, facts })
}

/// For a test: a database that may not grow beyond so many pages.
#[cfg(test)]
pub(super) fn open_with_pages(folder: &Path, pages_max: u32) -> Result<Opened, OpenError> {
    let opened = open(folder, 0, Synchronous::Full, &Disk::Threads)?;
    let (done, set) = std::sync::mpsc::channel();
    opened.database.send(super::Request::LimitPages { pages_max, done });
    let _ = set.recv();
    Ok(opened)
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let system = |error| OpenError::Folder { folder: folder.to_owned(), error };
    let options = File::options().read(true).write(true).create(true).truncate(false).clone();
    let lock = options.open(folder.join(LOCK_FILE)).map_err(system)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(system(error)),
    }
}

/// Makes the folder if it is missing, and those above it.
fn create_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(folder)?;
    for above in missing.into_iter().filter_map(Path::parent) {
        sync_folder(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
    }
    Ok(())
}

fn connect(
    path: &Path,
    storage_id: u64,
    has_mark: bool,
    synchronous: Synchronous,
) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous.as_str())?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && !has_mark {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        transaction.execute_batch(
            "CREATE TABLE logs (
                 index_ INTEGER PRIMARY KEY,
                 term INTEGER NOT NULL,
                 command TEXT NOT NULL,
                 timestamp REAL NOT NULL
             );
             CREATE TABLE node_state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
        )?;
        let put = "INSERT INTO node_state (key, value) VALUES (?1, ?2)";
        transaction.execute(put, ["layout", LAYOUT])?;
        transaction.execute(put, ["storage_id", &storage_id.to_string()])?;
        transaction.commit()?;
    }
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let layout: String =
        connection.query_row("SELECT value FROM node_state WHERE key = 'layout'", [], |row| row.get(0))?;
    let wrong = |what: String| {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(what))
    };
    match (sound.as_str(), layout.as_str()) {
        ("ok", LAYOUT) => Ok(connection),
        ("ok", other) => Err(wrong(format!("its layout is {other}, this program knows {LAYOUT}"))),
        (problem, _) => Err(wrong(problem.to_owned())),
    }
}

fn is_lock(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
