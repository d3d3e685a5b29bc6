//! How much of the log is kept: when a snapshot is taken, and what is purged behind it.
//!
//! A snapshot is due after `SNAPSHOT_EVERY` entries or `SNAPSHOT_EVERY_BYTES`, whichever comes first: openraft by itself
//! counts entries alone, and one may be as large as a batch. Once snapshots are larger than `SNAPSHOT_EVERY_BYTES`, the
//! next is due after as many bytes as the last one has: writing snapshots then takes no more of the disk than writing the
//! log does, and a member that receives one finds the log after it still there, if it takes snapshots in faster than
//! writes come. Behind a snapshot the log keeps some entries ([`LOG_KEPT`]) for members that are a little behind, as far as
//! they are in memory.
//!
//! openraft's own rules for both are switched off: of its rule and ours for purging, each may take back what the other has
//! decided.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::log::{Amount, Log};
use super::snapshot;

/// Entries kept in the log behind a snapshot, for members that are a little behind; no more than `SNAPSHOT_EVERY`.
const LOG_KEPT: u64 = 1000;
/// How long a snapshot that was asked for is waited for before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Takes snapshots when they are due, and purges the log behind them. Ends with consensus.
pub(super) async fn keep_bounded(cluster: Arc<Cluster>, log: Log, folder: PathBuf) {
    let settings = &cluster.settings;
    let mut begun = Amount::default();
    loop {
        let between =
            amount_between(settings.snapshot_every, settings.snapshot_every_bytes, snapshot::size(&folder));
        let due = Amount {
            entries: begun.entries.saturating_add(between.entries),
            bytes: begun.bytes.saturating_add(between.bytes),
        };
        log.grown_to(due).await;
        begun = log.appended();
        if take_snapshot(&cluster).await.is_none() || purge(&cluster, &log).await.is_none() {
            return;
        }
    }
}

/// What may be appended between a snapshot of this size and the next.
fn amount_between(entries: u64, bytes: u64, size: u64) -> Amount {
    match size <= bytes {
        true => Amount { entries, bytes },
        false => Amount { entries: u64::MAX, bytes: size },
    }
}

/// Takes a snapshot. `None`: consensus has ended.
async fn take_snapshot(cluster: &Cluster) -> Option<()> {
    let mut metrics = cluster.core.metrics();
    let before = metrics.borrow_and_update().snapshot;
    loop {
        // Without anything new in it there would be none.
        while metrics.borrow_and_update().last_applied <= before {
            metrics.changed().await.ok()?;
        }
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

/// Purges what the snapshot covers, but for what is kept. `None`: consensus has ended.
async fn purge(cluster: &Cluster, log: &Log) -> Option<()> {
    let covered = cluster.core.metrics().borrow_watched().snapshot?.index;
    let few = covered.saturating_sub(LOG_KEPT.min(cluster.settings.snapshot_every));
    let in_memory = log.first_cached().saturating_sub(1);
    cluster.core.trigger().purge_log(few.max(in_memory).min(covered)).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_snapshot_is_not_written_anew_for_every_few_entries() {
        let between = |size| {
            let Amount { entries, bytes } = amount_between(10, 1000, size);
            (entries, bytes)
        };
        assert_eq!([between(0), between(1000)], [(10, 1000); 2]);
        assert_eq!(between(1001), (u64::MAX, 1001));
    }
}
