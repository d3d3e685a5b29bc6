//! `quorate serve`: a node as a process: settings, log, runtime, signals. What a node is, `node` knows.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::CliError;
use super::signals::StopSignals;
use crate::config::{Config, RoleConfig, SETTINGS};
use crate::node::{Node, StartError};

/// How long threads that still block are waited for after the node has stopped.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(1);
/// In the message about a port that is taken; `cluster` tells by it that other ports are worth a try.
pub(super) const PORT_TAKEN: &str = "is already in use";

/// Arguments of `serve`.
#[derive(Args)]
#[command(after_help = settings_help())]
pub(super) struct ServeArgs {
    /// End when the process of this id, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<i32>,
    /// Form a raft cluster in spite of PEERS, if DATA_DIR is empty (as BOOTSTRAP=1)
    #[arg(long)]
    bootstrap: bool,
}

pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    if let Some(parent) = args.die_with_parent {
        die_with_parent(parent)?;
    }
    let mut config = Config::from_env().map_err(|complaints| CliError::Usage(complaints.to_string()))?;
    if args.bootstrap {
        let RoleConfig::Member(member) = &mut config.role else {
            return Err(CliError::Usage("--bootstrap forms a raft cluster: it needs MODE=raft".into()));
        };
        member.bootstrap = true;
    }
    start_log(&config)?;
    use_small_pages();
    let mut builder = if config.worker_threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder
        .worker_threads(config.worker_threads)
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    result
}

async fn serve(config: Config) -> Result<(), CliError> {
    let mut signals = StopSignals::catch()?;
    let node_id = config.node_id.clone();
    let node = Node::start(config).await.map_err(|error| not_started(&error))?;
    tracing::info!(node_id, "listening on http://{}", node.addr());
    let result = tokio::select! {
        signal = signals.next() => {
            tracing::info!("{signal}: stopping");
            Ok(())
        }
        () = node.failed() => Err(CliError::Failed("the node has failed: see its log".into())),
    };
    tokio::select! {
        () = node.stop() => tracing::info!("stopped"),
        signal = signals.next() => {
            return Err(CliError::Failed(format!("{signal} again: open requests were cut off")));
        }
    }
    result
}

fn not_started(error: &StartError) -> CliError {
    use std::io::ErrorKind;
    match error {
        StartError::Bind { address, error } if error.kind() == ErrorKind::AddrInUse => {
            CliError::Usage(format!(
                "port {} {PORT_TAKEN} on {}: set PORT to another, or to 0 for any",
                address.port(),
                address.ip()
            ))
        }
        StartError::Bind { .. } => CliError::Usage(format!("{error}: check HOST and PORT")),
        StartError::Client(_) => CliError::Failed(error.to_string()),
        StartError::Raft(error) => CliError::Failed(error.to_string()),
    }
}

/// What openraft logs beside errors is for those who work on it, and its warnings come with every message that a member
/// who is down does not answer: they are shown to who asks for `openraft=…`.
const OPENRAFT_LOG: &str = "openraft=error";

fn start_log(config: &Config) -> Result<(), CliError> {
    let text = match config.log.contains("openraft") {
        true => config.log.clone(),
        false => format!("{OPENRAFT_LOG},{}", config.log),
    };
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| CliError::Usage(format!("LOG={}: {error} (for example LOG=info)", config.log)))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| CliError::Failed(format!("cannot start the log: {error}")))
}

/// Memory in pages of the usual size. The allocator asks for huge ones, and the first touch of each can take milliseconds,
/// in which nobody is answered: while a leader's backlog filled up, the p99 of 256 clients was twice what it is without
/// (docs/BENCHMARKS.md).
#[cfg(target_os = "linux")]
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "the kernel may give this process huge pages");
    }
}

#[cfg(not(target_os = "linux"))]
fn use_small_pages() {}

/// The kernel kills this process when the thread that started it ends: a cluster's nodes never outlive it, even if
/// it is killed with SIGKILL. SIGKILL here too, for a node that is stopped (SIGSTOP) heeds nothing else.
#[cfg(target_os = "linux")]
fn die_with_parent(parent: i32) -> Result<(), CliError> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| CliError::Failed(format!("cannot tie this process to its parent: {error}")))?;
    // It may have ended before the line above: then no signal comes any more.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(CliError::Failed(format!("process {parent} is not, or no longer, the parent")));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_parent: i32) -> Result<(), CliError> {
    Ok(())
}

fn settings_help() -> String {
    let mut text = String::from("Environment variables (defaults in brackets):\n");
    for setting in SETTINGS {
        let default =
            if setting.default.is_empty() { String::new() } else { format!(" [{}]", setting.default) };
        text.push_str(&format!("  {:<22} {}{default}\n", setting.name, setting.what));
    }
    text.push_str("Sizes are in bytes, or with KiB, MiB, GiB; durations need a unit: ns, us, ms, s, m, h.");
    text
}
