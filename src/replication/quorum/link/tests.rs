//! Tests of a link that need no network.

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
