//! Raft mode by groups, one fact a test: elections, voting, heartbeats, the state machine, storage, and every route.
//!
//! Where a member takes part there is one real one, and the test plays the others ([`played`]): it sees what the member
//! says, answers as it likes, and speaks to it as its peers would. Whole clusters are the simulation's part.

mod elections;
mod heartbeats;
mod played;
mod routes;
mod state_machine;
mod storage;
mod voting;

use super::types::{Command, Entry, LogId, Operation};
use crate::replication::outcome::Write;
use crate::store::Value;
use openraft::entry::RaftEntry;

/// Term and index, as tests write them.
type At = (u64, u64);

fn log_id((term, index): At) -> LogId {
    LogId::new_term_index(term, index)
}

fn at(log_id: LogId) -> At {
    (log_id.leader_id.term, log_id.index)
}

fn write(key: &str, value: &str) -> Operation {
    Operation { key: key.into(), value: Some(Value::from_json_text(value)), if_version: None }
}

/// The same as a client asks for it.
fn put(key: &str, value: &str) -> Write {
    Write { key: key.into(), value: Some(Value::from_json_text(value)), quorum: None, if_version: None }
}

fn entry(at: At, operations: Vec<Operation>) -> Entry {
    Entry::new_normal(log_id(at), Command::new(operations))
}
