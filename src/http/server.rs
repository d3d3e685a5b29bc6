//! The accept loop: from a listener to one task per connection, within `MAX_CONNECTIONS`, until the node stops.
//!
//! At the limit the loop accepts no more until a connection closes; those who come meanwhile wait in the system's
//! queue, and nothing of theirs has been read. That is rather slow than wrong, and heals by itself, since idle
//! connections are closed in time (`connection.rs`). When the system itself runs out (of file descriptors, of
//! memory) the loop pauses and tries again: a node that stopped accepting for good would be dead without looking so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Routes, connection};
use crate::config::Limits;
use crate::tasks::Tasks;

/// The pause after the first failed accept, which doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves `routes` on `listener` until `tasks` are told to stop: no more connections then, open requests are
/// answered, and whoever joins the tasks decides how long that may take.
pub async fn serve(listener: TcpListener, routes: Routes, limits: Limits, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut pause = PAUSE_MIN;
    let accept = async {
        loop {
            let Some(slot) = take(&slots).await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    pause = PAUSE_MIN;
                    start(stream, slot, &routes, limits.header_timeout, &tasks);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection, trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = tasks.stopping() => {}
    }
}

async fn take(slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = slots.clone().try_acquire_owned() {
        return Some(slot);
    }
    tracing::warn!("all connections that MAX_CONNECTIONS allows are in use: new ones wait");
    slots.clone().acquire_owned().await.ok()
}

fn start(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    routes: &Routes,
    header_timeout: Duration,
    tasks: &Tasks,
) {
    // Answers are small and awaited: they must not linger for more to come.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it began");
        return;
    }
    let (routes, stopping) = (routes.clone(), tasks.stopping());
    tasks.spawn("connection", async move {
        connection::drive(stream, routes, header_timeout, stopping).await;
        drop(slot);
    });
}

/// Errors of one connection that was given up before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
