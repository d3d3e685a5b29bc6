//! The program: reads the command line, runs the command, and alone decides the exit code.
//!
//! 0: done. 1: it failed. 2: what was asked for is wrong (arguments, settings, a port that is taken).

use std::process::ExitCode;

use clap::Parser;
use quorate::cli::{self, Cli, CliError};

/// A node makes and drops a handful of small things per request, some of which stay for long (values, the backlog): the
/// system's allocator spends a tenth of the leader's time on that (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come here as well, with exit code 0.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Failed(message)) => {
            say(&message);
            ExitCode::from(1)
        }
        Err(CliError::Usage(message)) => {
            say(&message);
            ExitCode::from(2)
        }
    }
}

fn say(message: &str) {
    use std::io::Write;
    if !message.is_empty() {
        // Not `eprintln`: it would panic when nobody listens.
        let _ = writeln!(std::io::stderr(), "quorate: {message}");
    }
}
