//! Where the work is done that waits for the disk: on threads, or, in simulation, under tokio's clock.
//!
//! A simulation needs the same database and the same files, but neither threads, whose turns nobody can repeat, nor a
//! disk of only one speed. There each piece of work is done at one moment, after a time that the simulation draws, and
//! a crash takes what has not been done by then.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::tasks::Tasks;

/// The disk, as those who work with it see it. Cheap to clone.
#[derive(Clone)]
pub enum Disk {
    /// On threads: the database has one of its own, other work goes to those that tokio has for it.
    Threads,
    /// In tasks.
    Simulated(SimulatedDisk),
}

/// A disk under tokio's clock.
#[derive(Clone)]
pub struct SimulatedDisk {
    /// Draws how long the next piece of work takes: a transaction, a snapshot.
    pub latency: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The disk's own. Cancelled, it is a crash: what has not been done is not done any more.
    pub tasks: Tasks,
}

impl Disk {
    /// Does work that may wait for the disk.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Disk::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten(),
            Disk::Simulated(disk) => {
                sleep((disk.latency)()).await;
                if disk.tasks.is_stopping() { Err(io::Error::other("crashed")) } else { work() }
            }
        }
    }
}

/// What was made in a folder is there for certain only once the folder itself is on disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
