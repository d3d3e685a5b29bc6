//! Tests of a link that need no network.

use futures::FutureExt;

use super::super::leader::tests::{incarnation, serving};
use super::*;
use crate::wire::Success;

#[test]
fn two_addresses_of_one_node_are_one_follower() {
    let shared = serving(3, 2, 10);
    shared.forget(&mut shared.core.lock(), 1);
    let link = Link { shared: shared.clone(), index: 1, name: "link" };
    let reply = |n| PromiseReply {
        status: Success::Success,
        node_id: "f".into(),
        incarnation: incarnation(n),
        promised: shared.core.lock().epoch,
        complete: None,
    };
    assert!(!link.promised(&reply(0)), "it is behind the first address already");
    let problem = shared.core.lock().progress[1].problem().map(str::to_owned);
    assert!(problem.is_some_and(|problem| problem.contains("same node as http://f0:1")));
    assert_eq!(shared.core.lock().progress[1].incarnation(), None);
    assert!(link.promised(&reply(1)));
    assert_eq!(shared.core.lock().progress[1].incarnation(), Some(incarnation(1)));
}

/// Keeps out: the acknowledgement of a batch brought a follower up again without a word to the task that sends
/// snapshots; the heartbeats after that found it up, and it was never brought up to date.
#[test]
fn whatever_shows_that_a_follower_is_up_again_wakes_its_link() {
    let heartbeat = |link: &Link| link.alive(incarnation(1), 0);
    let batch = |link: &Link| link.shared.acked(1, incarnation(1), &[]);
    for answered in [heartbeat as fn(&Link), batch] {
        let shared = serving(3, 2, 10);
        let link = Link { shared: shared.clone(), index: 1, name: "link" };
        let woken = || {
            let link = &shared.links()[1];
            [&link.stream, &link.snapshot].map(|task| task.notified().now_or_never().is_some())
        };
        let _ = woken();
        shared.core.lock().progress[1].fell_behind();
        assert!(shared.core.lock().progress[1].went_down());
        answered(&link);
        assert!(shared.core.lock().progress[1].is_up());
        assert_eq!(woken(), [true, true]);
        answered(&link);
        assert_eq!(woken(), [false, false], "it is no news any more");
    }
}
