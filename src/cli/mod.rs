//! The command line: which commands there are, and how each is run.
//!
//! `serve` runs a node from its environment, `cluster` a whole cluster of them on this machine, `bench` measures one; the rest talk to
//! nodes over HTTP as any client would. A command says what went wrong as a [`CliError`]; `main` turns it into the
//! exit code.

pub mod bench;
mod client;
pub mod cluster;
mod serve;
mod signals;
mod status;

use std::io::{ErrorKind, Write};

use clap::{Parser, Subcommand};

/// A replicated key-value store over HTTP and JSON that shows what every write quorum costs and buys.
#[derive(Parser)]
#[command(name = "quorate", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node, with its settings from environment variables
    Serve(serve::ServeArgs),
    /// Run a whole cluster on this machine: one leader and its followers, each a process
    Cluster(cluster::ClusterArgs),
    /// Measure the latency of every quorum, on a cluster of its own or a given one
    Bench(bench::BenchArgs),
    /// Store a value
    Put(client::PutArgs),
    /// Print the value of a key
    Get(client::GetArgs),
    /// Delete a key
    Delete(client::DeleteArgs),
    /// Print all keys with their versions and values
    Data(client::DataArgs),
    /// Print a table of all nodes: role, state, version, lag
    Status(status::StatusArgs),
    /// Ask whether a node works: exit code 0 if it does
    Health(status::HealthArgs),
    /// Let a leader go on that waits for followers which will never come back
    Recover(client::RecoverArgs),
}

/// Why a command did not do what it was asked for. The message is for a person; empty if all has been said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CliError {
    /// The request is wrong: arguments, settings, a port that is taken. Exit code 2.
    Usage(String),
    /// It was tried and failed. Exit code 1.
    Failed(String),
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Cluster(args) => block_on(cluster::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Put(args) => block_on(client::put(args)),
        Command::Get(args) => block_on(client::get(args)),
        Command::Delete(args) => block_on(client::delete(args)),
        Command::Data(args) => block_on(client::data(args)),
        Command::Status(args) => block_on(status::status(args)),
        Command::Health(args) => block_on(status::health(args)),
        Command::Recover(args) => block_on(client::recover(args)),
    }
}

/// One thread is enough for a command. It is also the thread that children of `cluster` are tied to.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(command)
}

/// Prints to stdout. A reader that has gone (`quorate data | head`) is the end of the command, not a failure.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
