//! Reads that consult more than the node's own copy.
//!
//! `quorum=R` at any node: ask all nodes, answer from R complete ones of the highest data epoch. `min_acks=N` at the
//! leader: see [`super::leader`]. [`newest`] is the pure part.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::Environment;
use crate::address::PeerUrl;
use crate::replication::outcome::{Found, ReadError, Unavailable};
use crate::store::{Value, Version};
use crate::wire::{Epoch, Incarnation, PeekReply, PeekRequest, PeerPath, Refusal, call};

/// What R nodes say about a key, taken together.
///
/// A node without the key is not silent: it says that as of every version up to its `applied_through` the key does not
/// exist (it may have dropped the tombstone). So its word beats a value of a version up to that, which another node
/// still shows because it is behind.
pub(super) fn newest<'a>(
    replies: impl Iterator<Item = &'a PeekReply> + Clone,
) -> Option<(Version, &'a Value)> {
    let absent_through =
        replies.clone().filter(|reply| reply.version.is_none()).map(|reply| reply.applied_through).max();
    let newest = replies.filter(|reply| reply.version.is_some()).max_by_key(|reply| reply.version)?;
    match (newest.version, &newest.value) {
        (Some(version), Some(value)) if absent_through.is_none_or(|through| version > through) => {
            Some((version, value))
        }
        _ => None,
    }
}

/// Answers of different nodes; as many as wanted of the highest data epoch, or how many there are.
fn quorum_of(replies: &BTreeMap<Incarnation, PeekReply>, wanted: usize) -> Result<Vec<&PeekReply>, usize> {
    let highest = replies.values().map(|reply| reply.data_epoch).max().unwrap_or(Epoch::ZERO);
    let of_highest: Vec<_> = replies.values().filter(|reply| reply.data_epoch == highest).collect();
    if of_highest.len() >= wanted { Ok(of_highest) } else { Err(of_highest.len()) }
}

/// Asks this node (`own`) and all `others`, and answers from the first `wanted` complete ones.
pub(super) async fn read_quorum(
    env: &Environment,
    key: &str,
    wanted: usize,
    own: BoxFuture<'_, Result<PeekReply, Refusal>>,
    others: Vec<PeerUrl>,
    deadline: Instant,
) -> Result<Found, ReadError> {
    let request = PeekRequest { key: key.to_owned() };
    let patience = deadline.saturating_duration_since(Instant::now());
    let mut asking: FuturesUnordered<BoxFuture<'_, Option<PeekReply>>> = FuturesUnordered::new();
    asking.push(Box::pin(async { own.await.ok() }));
    for url in &others {
        let request = &request;
        asking.push(Box::pin(async move {
            call(&*env.transport, url, PeerPath::Peek, request, patience).await.ok()
        }));
    }
    let mut replies = BTreeMap::new();
    let mut reached = 0;
    while let Ok(Some(reply)) = timeout_at(deadline, asking.next()).await {
        let Some(reply) = reply else { continue };
        replies.insert(reply.incarnation, reply);
        match quorum_of(&replies, wanted) {
            Ok(quorum) => {
                return match newest(quorum.into_iter()) {
                    Some((version, value)) => Ok(Found { version, value: value.clone() }),
                    None => Err(ReadError::KeyNotFound),
                };
            }
            Err(count) => reached = count,
        }
    }
    Err(ReadError::Unavailable(Unavailable::new(
        "quorum_not_reached",
        format!(
            "{reached} complete nodes of the newest epoch answered, quorum={wanted} were asked for: try again, or ask for fewer"
        ),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Entry, Store};
    use crate::wire::Success;

    fn reply(node: u64, epoch: u64, through: Version, held: Option<(Version, Option<&str>)>) -> PeekReply {
        PeekReply {
            status: Success::Success,
            node_id: node.to_string(),
            incarnation: Incarnation(node),
            data_epoch: Epoch { number: epoch, leader: Incarnation(9) },
            applied_through: through,
            version: held.map(|(version, _)| version),
            value: held.and_then(|(_, value)| value.map(Value::from_json_text)),
        }
    }

    #[test]
    fn a_dropped_tombstone_still_beats_the_value_it_deleted() {
        let (behind, ahead) = (reply(1, 1, 4, Some((4, Some("1")))), reply(2, 1, 9, None));
        assert_eq!(newest([&behind, &ahead].into_iter()), None);
        let newer = reply(1, 1, 4, Some((12, Some("1"))));
        assert_eq!(newest([&newer, &ahead].into_iter()).map(|(version, _)| version), Some(12));
        let tombstone = reply(3, 1, 4, Some((13, None)));
        assert_eq!(newest([&newer, &ahead, &tombstone].into_iter()), None);
    }

    #[test]
    fn only_the_highest_data_epoch_counts_and_each_node_once() {
        let replies = |list: &[(u64, u64)]| -> BTreeMap<_, _> {
            list.iter().map(|(node, epoch)| (Incarnation(*node), reply(*node, *epoch, 1, None))).collect()
        };
        assert_eq!(quorum_of(&replies(&[(1, 1), (2, 1), (3, 2)]), 2).unwrap_err(), 1);
        assert_eq!(quorum_of(&replies(&[(1, 2), (2, 1), (3, 2), (3, 2)]), 2).unwrap().len(), 2);
    }

    proptest! {
        /// R > F − W nodes see every acknowledged write, whatever each holds above its gaps, tombstones dropped or not.
        #[test]
        fn a_quorum_read_is_as_new_as_every_acknowledged_write(
            f in 1usize..6, w_offset in 0usize..5, seed in any::<u64>(), deletes in proptest::collection::vec(any::<bool>(), 1..12),
        ) {
            let w = 1 + w_offset % f;
            let mut rng = fastrand::Rng::with_seed(seed);
            let stores: Vec<Store> = (0..=f).map(|_| Store::new()).collect();
            let mut through = vec![0; f + 1];
            let mut gap = vec![false; f + 1];
            let (mut acknowledged, mut last) = (0, (0, None));
            for (version, delete) in (1..).zip(&deletes) {
                let value = (!delete).then(|| Value::from_json_text(&version.to_string()));
                let entry = Entry { key: "k".into(), version, value };
                // The leader is node f and holds everything.
                let holders: Vec<usize> = (0..f).filter(|_| rng.bool()).collect();
                for node in holders.iter().copied().chain([f]) { stores[node].apply(&entry); }
                for node in 0..=f {
                    gap[node] |= node != f && !holders.contains(&node);
                    if !gap[node] { through[node] = version; }
                }
                if holders.len() >= w { acknowledged = version; last = (version, entry.value.clone()); }
            }
            let floor = rng.u64(0..=deletes.len() as u64 + 1);
            for node in 0..=f { stores[node].drop_tombstones(floor.saturating_sub(1).min(through[node])); }
            let mut nodes: Vec<usize> = (0..=f).collect();
            rng.shuffle(&mut nodes);
            let replies: Vec<_> = nodes[..f - w + 1].iter().map(|node| {
                let held = stores[*node].get("k");
                PeekReply {
                    version: held.as_ref().map(|h| h.version), value: held.and_then(|h| h.value),
                    ..reply(*node as u64, 1, through[*node], None)
                }
            }).collect();
            let answer = newest(replies.iter());
            if acknowledged > 0 {
                match answer {
                    Some((version, value)) => {
                        prop_assert!(version >= acknowledged);
                        if version == acknowledged { prop_assert_eq!(Some(value), last.1.as_ref()); }
                    }
                    None => {
                        // Absence must rest on a delete that is as new.
                        let newest_delete = deletes.iter().rposition(|d| *d).map_or(0, |n| n as u64 + 1);
                        prop_assert!(last.1.is_none() || newest_delete >= acknowledged);
                    }
                }
            }
        }
    }
}
