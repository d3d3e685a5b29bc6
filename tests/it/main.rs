//! Tests of whole nodes over real sockets, and of the real binary.

mod cli;
mod contract;
mod harness;
mod malformed;
