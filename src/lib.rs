//! `quorate`: a replicated key-value store that speaks plain HTTP and JSON.
//!
//! # The map
//!
//! Imports go down the floors, never up or sideways, and a replication mode knows nothing of another.
//!
//! ```text
//! 5  main · cli            serve · cluster · bench · commands for people
//! 4  node                  composition root: builds store, replication and router; owns every task; start and stop
//! 3  http          [axum]  routes <-> calls; the only place that knows status codes
//! 2  replication           Replication { Quorum, Raft }: what a mode promises, and the answers both give
//!      quorum              a fixed leader, W acknowledgements, everything in memory
//!      raft    [openraft]  an elected leader; log and votes on disk, in SQLite [rusqlite]
//! 1  wire [reqwest] · observe [hdrhistogram] · tasks [tokio-util] · timer · config [envy]    independent of each other
//! 0  store       [dashmap] the versioned map with an ordered key index; no clock, no task, no log
//!    address     [url]         where a node is
//! ```
//!
//! `tests/architecture.rs` holds the code to this drawing.

pub mod address;
pub mod cli;
pub mod config;
pub mod http;
pub mod node;
pub mod observe;
pub mod replication;
pub mod store;
pub mod tasks;
pub mod timer;
pub mod wire;
