//! Whole clusters in one process, under paused time, with every fault the protocols claim to survive.
//!
//! Each seed is one cluster: real nodes on a simulated network ([`network`]), clients, at least 200 operations, and a
//! hand that breaks things; [`quorum`] and [`raft`] say which. What clients were told is judged as they were told it,
//! and the end state. Two runs of a seed take the same way.
//!
//! `SIM_SEED=n cargo test --test sim raft` runs one seed of raft mode and prints its history; `SIM_SEEDS=n` runs that
//! many.

#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod linearizability;
mod network;
mod quorum;
mod raft;
mod seeds;
