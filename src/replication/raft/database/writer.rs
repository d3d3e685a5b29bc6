//! The writer: requests into transactions. Runs on the database's thread and blocks as long as the disk does.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Done, Facts, Identity, MARK_SYNC_EVERY, Mark, Position, Request, Row, Synchronous, VoteRecord, Vouched,
    WAS_MEMBER, WAS_REMOVED,
};
use crate::observe::LatencyRecorder;

/// Rows of purged entries that one transaction deletes, at the most: a large delete would hold up the writes behind it.
const PURGE_ROWS_MAX: u64 = 256;
/// And bytes of their commands, but for the last of them.
const PURGE_BYTES_MAX: u64 = 4 << 20;

/// What is committed is written down with other writes, but not more often.
const COMMITTED_EVERY: Duration = Duration::from_millis(100);

/// Counts and times of commits.
#[derive(Clone, Default)]
pub struct CommitStats {
    /// Transactions.
    pub transactions: u64,
    /// Requests to append that they carried.
    pub appends: u64,
    /// Times that the end of the log was taken back, because another leader's entries took its place.
    pub truncations: u64,
    /// Times from the beginning of a transaction until it is on disk.
    pub commit: LatencyRecorder,
}

/// The connection and what is known of what it holds.
pub(super) struct Writer {
    connection: Connection,
    /// Set before anything is written.
    mark: Option<Mark>,
    folder: PathBuf,
    facts: Facts,
    /// The index of the lowest row, below `purged` while purged rows are still being deleted.
    first_row: Option<u64>,
    /// What is committed, not yet written down. Set by others: it is not worth waking this thread.
    committed: Arc<Mutex<Option<Position>>>,
    // Times by tokio's clock, which is the system's on a thread and stands still in simulation.
    committed_written: Instant,
    mark_synced: Instant,
    synchronous: Synchronous,
    failure: Option<String>,
    stats: Arc<Mutex<CommitStats>>,
    /// The lock on the folder, held as long as the writer lives.
    _lock: std::fs::File,
}

impl Writer {
    pub(super) fn new(connection: Connection, folder: PathBuf, lock: std::fs::File) -> Writer {
        Writer {
            connection,
            mark: None,
            folder,
            facts: Facts::default(),
            first_row: None,
            committed: Arc::default(),
            committed_written: Instant::now(),
            mark_synced: Instant::now(),
            synchronous: Synchronous::Full,
            failure: None,
            stats: Arc::default(),
            _lock: lock,
        }
    }

    /// Reads what the database holds.
    pub(super) fn load(&mut self) -> rusqlite::Result<(Identity, Facts)> {
        let number = |key: &str| -> rusqlite::Result<Option<u64>> {
            Ok(self.fact(key)?.and_then(|text| text.parse().ok()))
        };
        let position = |term: &str, index: &str| -> rusqlite::Result<Option<Position>> {
            Ok(number(term)?.zip(number(index)?).map(|(term, index)| Position { term, index }))
        };
        let is_true =
            |key: &str| -> rusqlite::Result<bool> { Ok(self.fact(key)?.is_some_and(|text| text == "true")) };
        let vote = number("current_term")?.zip(number("voted_for")?);
        let committed = is_true("vote_committed")?;
        let purged = position("purged_term", "purged_index")?;
        let row = |order: &str| {
            let sql = format!("SELECT term, index_ FROM logs ORDER BY index_ {order} LIMIT 1");
            self.connection.query_row(&sql, [], read_position).optional()
        };
        // The size stands in the head of a row: what is in it is not read.
        let sizes = "SELECT ifnull(sum(octet_length(command)), 0) FROM logs";
        let facts = Facts {
            vote: vote.map(|(term, voted_for)| VoteRecord { term, voted_for, committed }),
            committed: position("commit_term", "commit_index")?,
            purged,
            last: row("DESC")?
                .filter(|last| purged.is_none_or(|purged| last.index > purged.index))
                .or(purged),
            bytes: self.connection.query_row(sizes, [], |row| row.get::<_, i64>(0))?.cast_unsigned(),
        };
        let first_row = row("ASC")?.map(|first| first.index);
        let identity = Identity {
            storage_id: number("storage_id")?.unwrap_or_default(),
            cluster_id: self.fact("cluster_id")?,
            was_member: is_true(WAS_MEMBER)?,
            was_removed: is_true(WAS_REMOVED)?,
        };
        (self.facts, self.first_row) = (facts, first_row);
        Ok((identity, facts))
    }

    pub(super) fn vouched(&self) -> Vouched {
        Vouched { last: self.facts.last, vote: self.facts.vote }
    }

    /// The mark, which is synced if everything is.
    pub(super) fn set_mark(&mut self, mark: Mark, synchronous: Synchronous) {
        self.mark = Some(mark);
        self.synchronous = synchronous;
    }

    pub(super) fn stats(&self) -> Arc<Mutex<CommitStats>> {
        self.stats.clone()
    }

    pub(super) fn committed(&self) -> Arc<Mutex<Option<Position>>> {
        self.committed.clone()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Carries out a group of requests in one transaction, in order, and answers them. `is_last`: the node stops, and
    /// what could wait must not wait any longer.
    pub(super) fn carry_out(&mut self, group: &mut Vec<Request>, is_last: bool) {
        let (mut waiting, mut reads) = (Vec::new(), Vec::new());
        let has_writes = group.iter().any(Request::is_write);
        let is_idle = group.is_empty();
        let has_leftovers = self.has_purged_rows() || (is_last && self.committed.lock().is_some());
        let result = match self.failure.clone() {
            Some(reason) => {
                refuse(group.drain(..), &mut waiting, &mut reads);
                Err(reason)
            }
            None if has_writes || has_leftovers => self.transact(group, is_last, &mut waiting, &mut reads),
            None => self.without_transaction(group, &mut reads),
        };
        if let Err(reason) = &result
            && self.failure.is_none()
        {
            self.fail(reason);
        }
        let error = || self.failure.clone().map_or(Ok(()), |reason| Err(io::Error::other(reason)));
        for done in waiting {
            done(error());
        }
        for (reply, rows) in reads {
            // Who has given up waiting needs no answer.
            let _ = reply.send(error().and(rows));
        }
        if self.failure.is_none()
            && (is_idle || is_last || self.mark_synced.elapsed() >= MARK_SYNC_EVERY)
            && let Err(reason) = self.sync_mark()
        {
            self.fail(&reason);
        }
    }

    fn fail(&mut self, reason: &str) {
        let folder = self.folder.display();
        let reason = format!("the database in {folder} cannot be written any more: {reason}");
        tracing::error!("{reason}");
        self.failure = Some(reason);
    }

    /// Requests that write nothing.
    fn without_transaction(
        &mut self,
        group: &mut Vec<Request>,
        reads: &mut Vec<Answer>,
    ) -> Result<(), String> {
        for request in group.drain(..) {
            match request {
                Request::Read { indexes, bytes_max, reply } => {
                    reads.push((reply, self.read(indexes, bytes_max)));
                }
                #[cfg(test)]
                Request::LimitPages { pages_max, done } => {
                    self.connection.pragma_update(None, "max_page_count", pages_max).map_err(text)?;
                    let _ = done.send(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn transact(
        &mut self,
        group: &mut Vec<Request>,
        is_last: bool,
        waiting: &mut Vec<Done>,
        reads: &mut Vec<Answer>,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let (mut appends, mut has_voted) = (0, false);
        let mut outcome = self.execute("BEGIN IMMEDIATE");
        let mut requests = group.drain(..);
        for request in requests.by_ref() {
            if outcome.is_ok() {
                appends += u64::from(matches!(request, Request::Append { .. }));
                has_voted |= matches!(request, Request::Vote { .. });
                outcome = self.apply(request, waiting, reads);
            } else {
                refuse(std::iter::once(request), waiting, reads);
            }
        }
        drop(requests);
        outcome
            .and_then(|()| self.write_committed(is_last))
            .and_then(|()| self.delete_purged_rows())
            .and_then(|()| self.lower_mark())
            .and_then(|()| self.execute("COMMIT"))
            .and_then(|()| self.raise_mark())
            .and_then(|()| if has_voted { self.sync_mark() } else { Ok(()) })?;
        let mut stats = self.stats.lock();
        stats.transactions += 1;
        stats.appends += appends;
        stats.commit.record(begun.elapsed());
        Ok(())
    }

    /// Puts a request into the open transaction.
    fn apply(
        &mut self,
        request: Request,
        waiting: &mut Vec<Done>,
        reads: &mut Vec<Answer>,
    ) -> Result<(), String> {
        match request {
            Request::Append { rows, done } => {
                waiting.push(done);
                self.insert(&rows)
            }
            Request::Vote { vote, done } => {
                waiting.push(done);
                self.facts.vote = Some(vote);
                self.put("current_term", &vote.term.to_string())?;
                self.put("voted_for", &vote.voted_for.to_string())?;
                self.put("vote_committed", if vote.committed { "true" } else { "false" })
            }
            Request::JoinCluster { cluster_id, done } => {
                waiting.push(done);
                self.put("cluster_id", &cluster_id)
            }
            Request::Remember { what, done } => {
                waiting.push(done);
                self.put(what, "true")
            }
            Request::Truncate { after } => {
                self.stats.lock().truncations += 1;
                self.truncate(after)
            }
            Request::Purge { through } => self.purge(through),
            Request::Read { indexes, bytes_max, reply } => {
                let rows = self.read(indexes, bytes_max);
                reads.push((reply, rows));
                Ok(())
            }
            #[cfg(test)]
            Request::LimitPages { .. } => Err("only by itself".to_owned()),
            Request::Stop => Ok(()),
        }
    }

    fn insert(&mut self, rows: &[Row]) -> Result<(), String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO logs (index_, term, command, timestamp) VALUES (?1, ?2, ?3, ?4)")
            .map_err(text)?;
        for Row { position, command } in rows {
            let (index, term) = (position.index.cast_signed(), position.term.cast_signed());
            insert.execute(params![index, term, command.get(), since.as_secs_f64()]).map_err(text)?;
            self.facts.last = Some(*position);
            self.first_row.get_or_insert(position.index);
        }
        Ok(())
    }

    fn truncate(&mut self, after: Option<u64>) -> Result<(), String> {
        let from = after.map_or(0, |after| after.saturating_add(1)).cast_signed();
        self.connection.execute("DELETE FROM logs WHERE index_ >= ?1", [from]).map_err(text)?;
        let last = "SELECT term, index_ FROM logs ORDER BY index_ DESC LIMIT 1";
        let last = self.connection.query_row(last, [], read_position).optional().map_err(text)?;
        let is_kept = |last: &Position| self.facts.purged.is_none_or(|purged| last.index > purged.index);
        self.facts.last = last.filter(is_kept).or(self.facts.purged);
        if last.is_none() {
            self.first_row = None;
        }
        Ok(())
    }

    fn purge(&mut self, through: Position) -> Result<(), String> {
        if self.facts.purged.is_some_and(|purged| purged.index >= through.index) {
            return Ok(());
        }
        self.facts.purged = Some(through);
        if self.facts.last.is_none_or(|last| last.index <= through.index) {
            self.facts.last = Some(through);
        }
        self.put("purged_term", &through.term.to_string())?;
        self.put("purged_index", &through.index.to_string())
    }

    fn has_purged_rows(&self) -> bool {
        self.facts.purged.zip(self.first_row).is_some_and(|(purged, first)| first <= purged.index)
    }

    /// Deletes some of the rows whose entries are purged: the rest waits for the next transaction.
    fn delete_purged_rows(&mut self) -> Result<(), String> {
        let Some((purged, first)) = self.facts.purged.zip(self.first_row) else { return Ok(()) };
        if first > purged.index {
            return Ok(());
        }
        let through = self.last_to_delete(first, purged.index.min(first + PURGE_ROWS_MAX - 1))?;
        let mut delete =
            self.connection.prepare_cached("DELETE FROM logs WHERE index_ <= ?1").map_err(text)?;
        delete.execute([through.cast_signed()]).map_err(text)?;
        // The log has no holes, so the next row, if there is one, is the next index.
        let next = "SELECT index_ FROM logs ORDER BY index_ LIMIT 1";
        let mut next = self.connection.prepare_cached(next).map_err(text)?;
        let next = next.query_row([], |row| row.get::<_, i64>(0)).optional().map_err(text)?;
        self.first_row = next.map(i64::cast_unsigned);
        Ok(())
    }

    /// The last of these rows that one transaction deletes.
    fn last_to_delete(&self, first: u64, last: u64) -> Result<u64, String> {
        // The size stands in the head of a row: what is in it is not read.
        let sizes =
            "SELECT index_, octet_length(command) FROM logs WHERE index_ BETWEEN ?1 AND ?2 ORDER BY index_";
        let mut sizes = self.connection.prepare_cached(sizes).map_err(text)?;
        let mut rows = sizes.query([first.cast_signed(), last.cast_signed()]).map_err(text)?;
        let mut bytes = 0;
        while let Some(row) = rows.next().map_err(text)? {
            let (index, size): (i64, i64) = (row.get(0).map_err(text)?, row.get(1).map_err(text)?);
            bytes += size.cast_unsigned();
            if bytes >= PURGE_BYTES_MAX {
                return Ok(index.cast_unsigned());
            }
        }
        Ok(last)
    }

    /// Writes down what is committed, at times: it is a hint that lets a node that starts apply at once what it would
    /// otherwise learn from its leader, and costs a page of its own.
    fn write_committed(&mut self, is_last: bool) -> Result<(), String> {
        if !is_last && self.committed_written.elapsed() < COMMITTED_EVERY {
            return Ok(());
        }
        // What is committed may be known before its entries are here.
        let held = self.committed.lock().take_if(|committed| Some(*committed) <= self.facts.last);
        let Some(Position { term, index }) = held else { return Ok(()) };
        self.committed_written = Instant::now();
        self.facts.committed = Some(Position { term, index });
        self.put("commit_term", &term.to_string())?;
        self.put("commit_index", &index.to_string())
    }

    /// A log that was cut back is vouched for no longer, before the cut is on disk.
    fn lower_mark(&mut self) -> Result<(), String> {
        let last = self.facts.last;
        let Some(mark) = &mut self.mark else { return Ok(()) };
        let vouched = mark.vouched();
        if vouched.last <= last {
            return Ok(());
        }
        mark.write(Vouched { last, ..vouched }).map_err(text)?;
        self.sync_mark()
    }

    /// What is on disk now is vouched for, before anybody is told.
    fn raise_mark(&mut self) -> Result<(), String> {
        let now = self.vouched();
        let Some(mark) = &mut self.mark else { return Ok(()) };
        if mark.vouched() == now { Ok(()) } else { mark.write(now).map_err(text) }
    }

    fn sync_mark(&mut self) -> Result<(), String> {
        if self.synchronous == Synchronous::Full
            && let Some(mark) = self.mark.as_mut().filter(|mark| !mark.is_synced())
        {
            mark.sync().map_err(text)?;
            self.mark_synced = Instant::now();
        }
        Ok(())
    }

    fn read(&self, indexes: std::ops::Range<u64>, bytes_max: usize) -> io::Result<Vec<Row>> {
        let from = self.facts.purged.map_or(indexes.start, |purged| indexes.start.max(purged.index + 1));
        let bounds = [from, indexes.end].map(|index| i64::try_from(index).unwrap_or(i64::MAX));
        let select =
            "SELECT term, index_, command FROM logs WHERE index_ >= ?1 AND index_ < ?2 ORDER BY index_";
        let mut select = self.connection.prepare_cached(select).map_err(io::Error::other)?;
        let mut rows = select.query(bounds).map_err(io::Error::other)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && let Some(row) = rows.next().map_err(io::Error::other)?
        {
            let position = read_position(row).map_err(io::Error::other)?;
            let command: String = row.get(2).map_err(io::Error::other)?;
            bytes += command.len();
            let command = RawValue::from_string(command).map_err(|error| {
                io::Error::other(format!("entry {} of the log is no JSON: {error}", position.index))
            })?;
            found.push(Row { position, command: command.into() });
        }
        Ok(found)
    }

    fn fact(&self, key: &str) -> rusqlite::Result<Option<String>> {
        let mut select = self.connection.prepare_cached("SELECT value FROM node_state WHERE key = ?1")?;
        select.query_row([key], |row| row.get(0)).optional()
    }

    fn put(&self, key: &str, value: &str) -> Result<(), String> {
        let put = "INSERT INTO node_state (key, value) VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let mut put = self.connection.prepare_cached(put).map_err(text)?;
        put.execute([key, value]).map(drop).map_err(text)
    }

    fn execute(&self, sql: &str) -> Result<(), String> {
        self.connection.prepare_cached(sql).and_then(|mut sql| sql.execute([])).map(drop).map_err(text)
    }
}

type Answer = (tokio::sync::oneshot::Sender<io::Result<Vec<Row>>>, io::Result<Vec<Row>>);

/// Requests that are not carried out any more: only who waits for them matters.
fn refuse(requests: impl Iterator<Item = Request>, waiting: &mut Vec<Done>, reads: &mut Vec<Answer>) {
    for request in requests {
        match request {
            Request::Append { done, .. }
            | Request::Vote { done, .. }
            | Request::JoinCluster { done, .. }
            | Request::Remember { done, .. } => waiting.push(done),
            Request::Read { reply, .. } => reads.push((reply, Ok(Vec::new()))),
            _ => {}
        }
    }
}

fn read_position(row: &rusqlite::Row<'_>) -> rusqlite::Result<Position> {
    let [term, index]: [i64; 2] = [row.get(0)?, row.get(1)?];
    Ok(Position { term: term.cast_unsigned(), index: index.cast_unsigned() })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
