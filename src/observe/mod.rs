//! What the program learns about itself while it runs: recorders of latency. No I/O, no clock, no opinion.

mod histogram;

pub use histogram::{LatencyRecorder, LatencySummary};
