//! Quorum mode: a fixed leader, F followers, and a write that is answered once W of them hold it.
//!
//! # The promise
//!
//! Once a client was told that W = `WRITE_QUORUM` followers hold its write, any W nodes may be lost at once, the leader or
//! not, and the write stays; then the cluster has to become whole again before the next loss. All is in memory: a node
//! that restarts has forgotten everything, and the others put it back.
//!
//! ```text
//!  client ── POST /write ──▶ leader: lock { admission · version · backlog · store · tally }
//!                               │ wakes one link per follower
//!               ┌───────────────┼───────────────┐
//!          delay│          delay│          delay│        each entry its own, for each follower
//!               ▼               ▼               ▼
//!           follower        follower        follower     stores by version, acknowledges
//!               └───────┬───────┘               │
//!                 W-th acknowledgement          └ goes on in the background: every follower gets every write
//!                       ▼
//!                client is answered
//! ```
//!
//! # The rules
//!
//! Each closes a hole, and each has a test that fails without it (docs/ARCHITECTURE.md lists which).
//!
//! 1. *Versions.* The leader numbers writes; a key keeps its highest version ([`crate::store`]); a delete is a tombstone.
//! 2. *Identity.* Every start of a node is another *incarnation*. Messages name the one they are meant for; an answer is
//!    believed only from that one. A tally is a set of followers, and a restarted one is taken out of it.
//! 3. *Epochs.* Every start of a leader is a new *epoch*, promised by followers, who then refuse every lower one.
//! 4. *Complete.* A follower counts (quorum, admission, reads) only once it holds a whole store of this epoch, installed
//!    from a snapshot in one step; the older one stays in use until then.
//! 5. *Backlog.* Only a complete follower, or one that stages a snapshot, is served from the backlog; one that needs an
//!    entry that has gone gets another snapshot.
//! 6. *Admission.* Fewer complete followers up than the quorum: refused, nothing stored. Quorum not reached in time:
//!    *unknown*; the entry stays and replication goes on. The two are different types all the way up.
//! 7. *Refusals rest on something.* A failed `if_version`, or a delete of nothing, is answered once W followers hold the
//!    version it rests on and have confirmed the leader, else refused as unavailable.
//! 8. *Tail.* No version is assigned more than `MAX_TAIL` above what W followers hold contiguously, and a new leader skips
//!    as many: no version is ever used twice.
//! 9. *Start.* See [`recovery`]: which answers are enough, and whose obligations are inherited.
//! 10. *Tombstones* are dropped below the backlog's floor, by the leader once W followers hold all up to there, by
//!     a follower once it does itself; by nobody into a stage. That a key is absent then rests on every version up to
//!     the last one dropped.
//!
//! # Who does what
//!
//! Pure, no I/O, time and randomness as arguments: [`backlog`], [`progress`], [`tally`], [`ranges`], [`follower`],
//! [`recovery`], [`delay::Schedule`]. Acting on what these decide: `leader`, `link`, `start`, `read`.
//!
//! # Caveats
//!
//! The leader stores first: a plain read may show a write that no quorum has yet and that a dying leader takes with it.
//! A follower that restarts forgets its promise: an old leader that nobody has told of the new one could win it back.
//! That takes two leaders at once, which is a mistake of operation, and is noticed at the first message to any other
//! follower. If all nodes are lost at once, all data is.

pub mod backlog;
pub mod delay;
pub mod follower;
mod leader;
mod link;
pub mod progress;
pub mod ranges;
mod read;
pub mod recovery;
mod start;
pub mod tally;

mod node;

use std::sync::Arc;
use std::time::Duration;

use crate::address::PeerUrl;
use crate::tasks::Tasks;
use crate::timer::Timers;
use crate::wire::Transport;
pub use delay::DelayRange;
pub use node::Quorum;

/// What a node needs of the world: replaced by a simulation in tests.
#[derive(Clone)]
pub struct Environment {
    /// This node's name.
    pub node_id: String,
    /// Where other nodes reach this one.
    pub advertise: PeerUrl,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// How links wait for a delay to pass.
    pub timers: Arc<dyn Timers>,
    /// Owns every task of the node.
    pub tasks: Tasks,
    /// Seeds everything the node draws: its incarnation, its delays.
    pub seed: u64,
    /// The wall clock in milliseconds since 1970, for epochs.
    pub unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A leader's settings, checked: `1 ≤ write_quorum ≤ followers.len() ≤` [`tally::FOLLOWERS_MAX`], no follower twice.
#[derive(Clone, Debug)]
pub struct LeaderSettings {
    /// `FOLLOWERS`
    pub followers: Vec<PeerUrl>,
    /// `WRITE_QUORUM`
    pub write_quorum: usize,
    /// `MIN_DELAY`
    pub min_delay: Duration,
    /// `MAX_DELAY`
    pub max_delay: Duration,
    /// `HEARTBEAT_INTERVAL`
    pub heartbeat_interval: Duration,
    /// `MAX_MISSED_HEARTBEATS`
    pub max_missed_heartbeats: u32,
    /// `RECOVERY_WAIT`
    pub recovery_wait: Duration,
    /// `WRITE_TIMEOUT`
    pub write_timeout: Duration,
    /// `READ_TIMEOUT`
    pub read_timeout: Duration,
    /// `MAX_TAIL`
    pub max_tail: u64,
    /// `BACKLOG_MAX_BYTES`
    pub backlog_max_bytes: usize,
    /// `BATCH_MAX_BYTES`
    pub batch_max_bytes: usize,
    /// `MAX_WAITING_READS`
    pub max_waiting_reads: usize,
}

impl LeaderSettings {
    /// Writes whose acknowledgements are kept: all that may be waiting, and the newest of the rest.
    fn tally_slots(&self) -> usize {
        usize::try_from(self.max_tail).map_or(1 << 20, |tail| tail.clamp(1, 1 << 20))
    }
}

/// A follower's settings, checked.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// `HEARTBEAT_INTERVAL`: a leader silent for `max_missed_heartbeats` of these is reported.
    pub heartbeat_interval: Duration,
    /// `MAX_MISSED_HEARTBEATS`
    pub max_missed_heartbeats: u32,
    /// `READ_TIMEOUT`
    pub read_timeout: Duration,
    /// `BATCH_MAX_BYTES`: pages of its store for a leader that starts are about this large.
    pub batch_max_bytes: usize,
    /// `MAX_WAITING_READS`
    pub max_waiting_reads: usize,
}
