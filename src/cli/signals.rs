//! The signals that ask a command to stop. It knows nothing of what stopping means.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// SIGINT (Ctrl-C) and SIGTERM, caught from the moment this is made.
///
/// SIGHUP is left alone, so that `nohup` does what it says.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(super) fn catch() -> Result<StopSignals, CliError> {
        let catch =
            |kind| signal(kind).map_err(|error| CliError::Failed(format!("cannot catch signals: {error}")));
        Ok(StopSignals {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and names it.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
