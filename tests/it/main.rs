//! Tests of whole nodes over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails, its helpers included")]

mod contract;
mod harness;
mod malformed;
