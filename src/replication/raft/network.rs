//! openraft's messages over [`Peers`]: entries, votes, snapshots, the hand-over of the lead; and their receiving end.

use std::future::Future;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::Core;
use super::disk::Disk;
use super::message::{SnapshotPart, SnapshotPartReply, refusal};
use super::peers::Peers;
use super::snapshot::{SnapshotFile, Stage};
use super::types::{Member, StorageId, Types, Vote};
use crate::wire::{CallError, PeerPath, Refusal, RefusalReason, encode};

/// Bytes of lines in one part of a snapshot, about (a single line may be larger).
const PART_BYTES: usize = 1 << 20;
/// How long the answer to a part may take, unless it is the last: a slow line or disk is no reason to begin anew.
const PART_PATIENCE: Duration = Duration::from_secs(2);
/// The first pause before a member that does not answer is tried again; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_millis(100);
/// Parts of a snapshot that a receiver surely checks, syncs and installs in the time in which any message is answered;
/// one part more, as much time more.
const INSTALL_PARTS: u32 = 5;
/// How long the last part of a snapshot may take, with that, at the most.
const INSTALL_MAX: Duration = Duration::from_secs(60);

/// Makes links.
pub(super) struct Network {
    /// The way to the others.
    pub peers: Arc<Peers>,
    /// Where snapshots are read.
    pub disk: Disk,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: StorageId, node: &Member) -> Link {
        Link { peers: self.peers.clone(), disk: self.disk.clone(), to: target, url: node.url.clone() }
    }
}

/// The way to one member. Messages of several links to one member do not wait for each other.
pub(super) struct Link {
    peers: Arc<Peers>,
    disk: Disk,
    to: StorageId,
    url: String,
}

impl Link {
    async fn say<Body: Serialize, Reply: DeserializeOwned>(
        &self,
        path: PeerPath,
        body: Body,
    ) -> Result<Reply, RPCError<Types>> {
        // Not openraft's own deadline of one heartbeat interval: the answer waits for the receiver's disk, and a slow
        // disk is not an error. Who is gone is noticed by other means.
        let said = self.peers.say(self.to, &self.url, path, body, self.peers.patience).await;
        said.map_err(|error| match error {
            // Without an answer it would be tried again at once, and without end, but for the pause that goes with this.
            CallError::NotSent(_) | CallError::NoAnswer(_) | CallError::Refused(_) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            CallError::Garbled(_) => RPCError::Network(NetworkError::new(&error)),
        })
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, CallError> {
        let (sending, mut number, mut lines) = (fastrand::u64(..), 0, file.reader().split(b'\n'));
        loop {
            let read = move || {
                let part = next_part(&mut lines);
                part.map(|part| (part, lines))
            };
            let read = self.disk.work(read).await;
            let (part, rest) = read.map_err(|error| CallError::Garbled(format!("the snapshot: {error}")))?;
            lines = rest;
            let is_last = part.is_empty();
            let deadline = match is_last {
                true => install_patience(self.peers.patience, number),
                false => self.peers.patience.max(PART_PATIENCE),
            };
            let part = SnapshotPart { vote, sending, number, lines: part, is_last };
            let reply: SnapshotPartReply =
                self.peers.say(self.to, &self.url, PeerPath::RaftSnapshot, part, deadline).await?;
            if let Some(vote) = reply.vote {
                return Ok(SnapshotResponse::new(vote));
            }
            number += 1;
        }
    }
}

/// How long to wait for the answer to the last part, after so many others. No longer than a snapshot of this size needs:
/// if the answer is lost, the receiver gets nothing else until then.
fn install_patience(patience: Duration, parts: u64) -> Duration {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX).saturating_add(INSTALL_PARTS);
    patience.saturating_mul(parts).min(INSTALL_MAX)
}

/// The next lines of a snapshot; none at its end.
fn next_part(lines: &mut impl Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<Vec<Box<RawValue>>> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    while bytes < PART_BYTES
        && let Some(line) = lines.next()
    {
        let line = String::from_utf8(line?).map_err(io::Error::other)?;
        bytes += line.len();
        part.push(RawValue::from_string(line)?);
    }
    Ok(part)
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.say(PeerPath::RaftAppend, rpc).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.say(PeerPath::RaftVote, rpc).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.say(PeerPath::RaftPreVote, rpc).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot.snapshot) => {
                sent.map_err(|error| Unreachable::new(&error).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.say(PeerPath::RaftTransfer, req).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(RETRY_FIRST), |pause| Some((*pause * 2).min(RETRY_MAX)));
        Some(Backoff::new(pauses))
    }
}

/// The receiving end.
pub(super) struct Receiver {
    core: Core,
    peers: Arc<Peers>,
    /// The snapshot that is coming in.
    staging: Mutex<Option<Staging>>,
    folder: PathBuf,
    disk: Disk,
}

struct Staging {
    sending: u64,
    next: u64,
    stage: Stage,
}

impl Receiver {
    /// Hands messages to `core`; snapshots are staged in `folder`.
    pub(super) fn new(core: Core, peers: Arc<Peers>, folder: PathBuf, disk: Disk) -> Receiver {
        Receiver { core, peers, staging: Mutex::new(None), folder, disk }
    }

    /// Takes entries.
    pub(super) async fn append(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let appended = self.core.append_entries(self.peers.receive(body)?).await;
        if let Ok(AppendEntriesResponse::Success | AppendEntriesResponse::Conflict) = &appended {
            self.peers.hear();
        }
        answer(appended)
    }

    /// Votes.
    pub(super) async fn vote(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        answer(self.core.vote(self.peers.receive(body)?).await)
    }

    /// Says whether it would vote.
    pub(super) async fn pre_vote(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        answer(self.core.pre_vote(self.peers.receive(body)?).await)
    }

    /// Takes the lead over.
    pub(super) async fn transfer(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let transferred = self.core.handle_transfer_leader(self.peers.receive(body)?).await;
        answer(transferred.map_err(RaftError::Fatal))
    }

    /// Takes a part of a snapshot, and installs the whole after the last.
    pub(super) async fn snapshot(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let SnapshotPart { vote, sending, number, lines, is_last } = self.peers.receive(body)?;
        let disk = |error: io::Error| refusal(RefusalReason::Unavailable, format!("snapshot: {error}"));
        let discarded =
            || refusal(RefusalReason::SnapshotDiscarded, "this part follows none that is known here");
        let whole = {
            let mut staging = self.staging.lock();
            let came_before = |staging: &Staging| staging.sending == sending && staging.next == number + 1;
            if !is_last && staging.as_ref().is_some_and(came_before) {
                // The answer was lost, and the transport has sent it again.
                return Ok(encode(&SnapshotPartReply { vote: None }));
            }
            if number == 0 {
                let stage = Stage::begin(&self.folder, sending).map_err(disk)?;
                *staging = Some(Staging { sending, next: 0, stage });
            }
            let follows = |staging: &&mut Staging| staging.sending == sending && staging.next == number;
            let current = staging.as_mut().filter(follows).ok_or_else(discarded)?;
            current.next += 1;
            for line in &lines {
                current.stage.line(line.get().as_bytes()).map_err(disk)?;
            }
            if is_last { staging.take() } else { None }
        };
        let Some(Staging { stage, .. }) = whole else {
            return Ok(encode(&SnapshotPartReply { vote: None }));
        };
        // Checked here, where a damaged one is refused: once openraft has it, it must be whole.
        let check = move || {
            let file = stage.finish()?;
            let contents = file.load()?;
            Ok::<_, io::Error>((contents.meta, file))
        };
        let (meta, snapshot) = self
            .disk
            .work(check)
            .await
            .map_err(|error| refusal(RefusalReason::SnapshotDiscarded, error.to_string()))?;
        let installed =
            self.core.install_full_snapshot(vote, SnapshotOf::<Types, _> { meta, snapshot }).await;
        let response = installed.map_err(|fatal| refusal(RefusalReason::Unavailable, fatal.to_string()))?;
        Ok(encode(&SnapshotPartReply { vote: Some(response.vote) }))
    }
}

fn answer<T: Serialize>(result: Result<T, RaftError<Types>>) -> Result<Bytes, Refusal> {
    result.map(|reply| encode(&reply)).map_err(|error| refusal(RefusalReason::Unavailable, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps out a minute of nothing when one answer was lost.
    #[test]
    fn the_answer_to_a_small_snapshot_is_not_waited_for_like_that_to_a_large_one() {
        let patience = Duration::from_millis(250);
        assert!(install_patience(patience, 1) < Duration::from_secs(2));
        assert!(install_patience(patience, 100) > Duration::from_secs(20));
        assert_eq!(install_patience(patience, u64::MAX), INSTALL_MAX);
    }
}
