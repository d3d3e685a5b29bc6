//! Tests of whole nodes over real sockets, and of the real binary.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails, its helpers included")]

mod api;
mod cli;
mod contract;
mod disks;
mod faults;
mod forgetful_disk;
mod harness;
mod histories;
#[expect(unreachable_pub, reason = "the simulation has it too")]
#[path = "../sim/linearizability.rs"]
mod linearizability;
mod load;
mod malformed;
mod processes;
mod raft;
mod shutdown;
