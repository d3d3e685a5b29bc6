//! The command line. (A stand-in that only has what `bench` needs.)

pub mod bench;
pub mod cluster;

/// Why a command failed.
#[derive(Debug)]
pub enum CliError {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It did not work out.
    Failed(String),
}
