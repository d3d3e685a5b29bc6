//! The log as openraft asks for it, over the [`Database`].
//!
//! Owns the newest part of the log in memory: an entry can be read as soon as it was handed in, before it is on disk,
//! and followers that keep up are served without the database. Older entries are read from there; its requests are
//! carried out in order, so that nothing handed in is ever missed. Knows nothing of what a command does.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::database::{Database, Facts, Position, Row, VoteRecord};
use super::types::{Entry, LogId, Types, Vote, command_text, parse_command};

/// Entries read from the database at a time when a follower that is far behind is served.
const READ_ROWS_MAX: u64 = 512;
/// What an entry takes beside its text, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The log. Cheap to clone; clones are the same log.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    database: Arc<Database>,
    /// Bytes of entries in one answer to a reader that accepts less than it asked for.
    read_bytes_max: usize,
    /// Bytes of the newest entries that are kept in memory (and always the last one).
    cache_bytes_max: usize,
    state: Mutex<State>,
    /// Tells that as much was appended as `State::tell_at` says.
    grown: Notify,
}

/// Entries, and the bytes of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    /// How many.
    pub entries: u64,
    /// How large.
    pub bytes: u64,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without holes, up to `last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// What was in the log at the start, and what was appended since.
    appended: Amount,
    tell_at: Option<Amount>,
}

impl Log {
    /// The log of an opened database that holds `facts`. A reader that accepts less than it asked for gets about
    /// `read_bytes_max`; the newest entries, of `cache_bytes_max`, stay in memory.
    pub fn new(database: Arc<Database>, facts: &Facts, read_bytes_max: usize, cache_bytes_max: usize) -> Log {
        let index = |position: Option<Position>| position.map_or(0, |position| position.index);
        let entries = index(facts.last) - index(facts.purged);
        let state = State {
            vote: facts.vote.map(vote_of),
            committed: facts.committed.map(log_id_of),
            purged: facts.purged.map(log_id_of),
            last: facts.last.map(log_id_of),
            appended: Amount { entries, bytes: facts.bytes },
            ..State::default()
        };
        Log(Arc::new(Shared {
            database,
            read_bytes_max,
            cache_bytes_max,
            state: Mutex::new(state),
            grown: Notify::new(),
        }))
    }

    /// The vote, as handed in last.
    pub fn vote(&self) -> Option<Vote> {
        self.0.state.lock().vote
    }

    /// The index of the first entry, and the one after the last: the same, if there is none.
    pub fn ends(&self) -> (u64, u64) {
        let state = self.0.state.lock();
        // openraft begins at 0, with the membership that formed the cluster.
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        (first, state.last.map_or(0, |last| last.index + 1).max(first))
    }

    /// What was in the log at the start, and what was appended since, whatever became of it.
    pub fn appended(&self) -> Amount {
        self.0.state.lock().appended
    }

    /// Completes once so many entries or so many bytes were appended, counted as [`Log::appended`] does. For one task.
    pub async fn grown_to(&self, amount: Amount) {
        loop {
            {
                let mut state = self.0.state.lock();
                if state.appended.reaches(amount) {
                    return;
                }
                state.tell_at = Some(amount);
            }
            self.0.grown.notified().await;
        }
    }

    /// The index of the first entry in memory, or the one after the last, if there is none.
    pub fn first_cached(&self) -> u64 {
        let (_, end) = self.ends();
        self.0.state.lock().cache.front().map_or(end, |entry| entry.log_id.index)
    }

    /// The entries from `from` (at least one, if there is one) to before `end`, until they reach `bytes_max`.
    pub async fn entries(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (older, mut entries) = {
            let state = self.0.state.lock();
            let first_cached = state.cache.front().map_or(end, |entry| entry.log_id.index);
            let from_cache = state.cache.iter().skip_while(|entry| entry.log_id.index < from);
            let from_cache = from_cache.take_while(|entry| entry.log_id.index < end);
            let older = from..end.min(first_cached).min(from.saturating_add(READ_ROWS_MAX));
            // With older ones to come, the ones in memory may not follow without a hole: they can be asked for next.
            (
                older.clone(),
                if older.is_empty() { limited(from_cache.cloned(), bytes_max) } else { Vec::new() },
            )
        };
        if !older.is_empty() {
            let rows = self.0.database.read(older, bytes_max).await?;
            entries = limited(rows.into_iter().map(entry_of).collect::<io::Result<Vec<_>>>()?, bytes_max);
        }
        Ok(entries)
    }
}

/// The first entries until they reach `bytes_max`: at least one, if there is one.
fn limited(entries: impl IntoIterator<Item = Entry>, bytes_max: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let is_within = |entry: &Entry| {
        let is_within = bytes < bytes_max;
        bytes += size_of_entry(entry);
        is_within
    };
    entries.into_iter().take_while(is_within).collect()
}

fn size_of_entry(entry: &Entry) -> usize {
    let text = match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.text().get().len(),
        _ => 0,
    };
    text + ENTRY_OVERHEAD_BYTES
}

impl Amount {
    /// In entries or in bytes.
    fn reaches(self, other: Amount) -> bool {
        self.entries >= other.entries || self.bytes >= other.bytes
    }
}

impl State {
    fn push(&mut self, entry: Entry, cache_bytes_max: usize) {
        self.last = Some(entry.log_id);
        let bytes = size_of_entry(&entry);
        self.cache_bytes += bytes;
        self.appended.entries += 1;
        self.appended.bytes += bytes as u64;
        self.cache.push_back(entry);
        while self.cache_bytes > cache_bytes_max && self.cache.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= size_of_entry(&entry);
        }
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut next = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries: Vec<Entry> = Vec::new();
        while next < end {
            let part = self.entries(next, end, usize::MAX).await?;
            match part.last() {
                Some(last) => next = last.log_id.index + 1,
                // Nothing in a stretch that the database was asked for: before the first entry, or behind the last.
                None => match self.0.state.lock().cache.front() {
                    Some(first) if first.log_id.index > next && entries.is_empty() => {
                        next = first.log_id.index
                    }
                    _ => break,
                },
            }
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, self.0.read_bytes_max).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.0.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.database.save_vote(vote_record(vote)).await?;
        self.0.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.state.lock().committed = committed;
        if let Some(committed) = committed {
            self.0.database.save_committed(position(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut rows = Vec::new();
        let mut state = self.0.state.lock();
        for entry in entries {
            rows.push(Row { position: position(&entry.log_id()), command: command_text(&entry.payload) });
            state.push(entry, self.0.cache_bytes_max);
        }
        let appended = state.appended;
        if state.tell_at.take_if(|amount| appended.reaches(*amount)).is_some() {
            self.0.grown.notify_one();
        }
        self.0.database.append(rows, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.0.state.lock();
        while state.cache.back().is_some_and(|entry| last.is_none_or(|last| entry.log_id.index > last.index))
        {
            if let Some(entry) = state.cache.pop_back() {
                state.cache_bytes -= size_of_entry(&entry);
            }
        }
        state.last = state.last.min(last).max(state.purged);
        self.0.database.truncate(last.map(|last| last.index));
        Ok(())
    }

    async fn purge(&mut self, through: LogId) -> Result<(), io::Error> {
        let mut state = self.0.state.lock();
        state.purged = state.purged.max(Some(through));
        state.last = state.last.max(Some(through));
        while state.cache.front().is_some_and(|entry| entry.log_id.index <= through.index) {
            state.pop_front();
        }
        self.0.database.purge(position(&through));
        Ok(())
    }
}

fn entry_of(row: Row) -> io::Result<Entry> {
    let Row { position, command } = row;
    let payload = parse_command(command.get()).map_err(|error| {
        io::Error::other(format!("entry {} of the log is not understood: {error}", position.index))
    })?;
    Ok(Entry { log_id: log_id_of(position), payload })
}

fn position(log_id: &LogId) -> Position {
    Position { term: log_id.leader_id.term, index: log_id.index }
}

fn log_id_of(position: Position) -> LogId {
    LogId::new_term_index(position.term, position.index)
}

fn vote_record(vote: &Vote) -> VoteRecord {
    let leader = vote.leader_id;
    VoteRecord { term: leader.term, voted_for: leader.voted_for, committed: vote.committed }
}

fn vote_of(record: VoteRecord) -> Vote {
    let VoteRecord { term, voted_for, committed } = record;
    if committed { Vote::new_committed(term, voted_for) } else { Vote::new(term, voted_for) }
}
