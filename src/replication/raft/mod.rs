//! Raft mode: a leader that its members elect, and a log on disk that a majority must hold before a write is answered.
//!
//! # The promise
//!
//! A write that was acknowledged is on the disks of a majority and stays: after the loss of any minority, after the
//! power cut of all. Writes go on while a majority is up and in reach of each other. A linearizable read, on any node,
//! shows every write acknowledged before it began.
//!
//! ```text
//!  client ─ POST /write ─▶ any node ── writes: batches ──▶ leader: one entry of the log
//!                                                            │ openraft
//!                     ┌──────────────────────────────────────┼────────────────────┐
//!                 own disk                              follower's disk      follower's disk     side by side
//!                     └────────────────── a majority: committed ──────────────────┘
//!                                                            │ applied, in order, on every node
//!                                                        store ─▶ answer, each write its own
//! ```
//!
//! # Who does what
//!
//! Consensus itself (terms, votes, what is committed) is [openraft]'s; here is what it stands on and what stands on it.
//! Below: `database` (SQLite, one thread), `log` over it, `machine` over the store, `snapshot` and `view`, `network` over
//! [`crate::wire::Transport`]. Above: `writes`, `reads`, `membership`, and `node`, which is what the program sees.
//!
//! # Rules
//!
//! 1. *On disk before anybody is told*: entries and votes are synced before they are acknowledged, in one transaction for
//!    all that wait.
//! 2. *No amnesia*: a node whose database has lost what it vouched for does not start ([`database::Mark`]).
//! 3. *Decided when applied*: versions, `if_version` and deletes, by every node alike ([`machine`]).
//! 4. *Retried is only what surely was not appended*; everything else that goes wrong on the way is unknown (`writes`).
//! 5. *A read joins only a round that began after it arrived* (`reads`).
//! 6. *Identity*: messages name cluster and addressee, and are refused where either is another ([`message::Header`]).
//!
//! # Caveats
//!
//! All of the data is in memory as well. openraft starts tasks of its own, which end with [`Raft`]'s, but not through
//! [`crate::tasks::Tasks`]. Peers trust each other.

mod cluster;
pub mod database;
mod disk;
mod fates;
pub mod log;
pub mod machine;
mod membership;
pub mod message;
mod narration;
mod network;
mod node;
mod overview;
mod peers;
mod reads;
mod retention;
mod runtime;
pub mod snapshot;
#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod tests;
pub mod types;
pub mod view;
mod writes;

use std::sync::Arc;

use crate::address::PeerUrl;
use crate::tasks::Tasks;
use crate::wire::Transport;

pub use cluster::Settings;
pub use database::Synchronous;
pub use disk::{Disk, SimulatedDisk};
pub use node::{Raft, StartError};

/// Consensus.
type Core = openraft::Raft<types::Types, machine::Machine>;

/// What a member needs of the world: replaced by a simulation in tests.
#[derive(Clone)]
pub struct Environment {
    /// Where other nodes reach this one.
    pub advertise: PeerUrl,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// Where the work is done that waits for the disk.
    pub disk: Disk,
    /// Owns every task of the node but openraft's own.
    pub tasks: Tasks,
    /// Seeds what the node draws: its storage id, the id of a cluster that it forms.
    pub seed: u64,
}
