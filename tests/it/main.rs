//! Tests of whole nodes over real sockets.

mod contract;
mod harness;
mod malformed;
