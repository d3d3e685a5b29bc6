//! How much of the log is kept, in bytes. openraft counts entries, and one entry may be as large as a batch.
//!
//! `SNAPSHOT_EVERY` bounds the log in entries: a snapshot after so many, and `LOG_KEPT` of them behind it. Here the same in
//! bytes: a snapshot after so many bytes, and behind it no more than the log holds in memory ([`LOG_CACHE_BYTES_MAX`]).
//! The bytes between snapshots are [`LOG_BYTES_MAX`], or as many as the last snapshot has, if those are more: so that
//! writing snapshots never takes more of the disk than writing the log does.
//!
//! [`LOG_CACHE_BYTES_MAX`]: super::log::LOG_CACHE_BYTES_MAX

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::log::Log;
use super::snapshot;

/// Bytes of entries between snapshots, unless the last snapshot has more.
pub(super) const LOG_BYTES_MAX: u64 = 64 << 20;
/// How long a snapshot that was asked for is waited for before it is asked for again: there may have been nothing new to
/// put into one.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Keeps the log within its bytes, for ever.
pub(super) async fn keep_within_bytes(cluster: Arc<Cluster>, log: Log, folder: PathBuf) {
    let mut begun = 0;
    loop {
        log.grown_to(begun + LOG_BYTES_MAX.max(snapshot::size(&folder))).await;
        begun = log.bytes_appended();
        if take_snapshot(&cluster).await.is_none() || purge(&cluster, &log).await.is_none() {
            // It stops.
            return;
        }
    }
}

/// Takes a snapshot. `None`: consensus has ended.
async fn take_snapshot(cluster: &Cluster) -> Option<()> {
    let mut metrics = cluster.core.metrics();
    let before = metrics.borrow_and_update().snapshot;
    loop {
        cluster.core.trigger().snapshot().await.ok()?;
        let taken = async {
            while metrics.borrow_and_update().snapshot <= before {
                metrics.changed().await.ok()?;
            }
            Some(())
        };
        if let Ok(taken) = timeout(ASK_AGAIN, taken).await {
            return taken;
        }
    }
}

/// Purges what the snapshot covers and the log does not hold in memory. `None`: consensus has ended.
async fn purge(cluster: &Cluster, log: &Log) -> Option<()> {
    let covered = cluster.core.metrics().borrow_watched().snapshot?;
    match log.first_cached().checked_sub(1) {
        Some(older) => cluster.core.trigger().purge_log(older.min(covered.index)).await.ok(),
        None => Some(()),
    }
}
