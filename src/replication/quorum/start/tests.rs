//! Tests of what a leader that starts makes of an adoption: versions, links, obligations.

use super::super::leader::tests::{incarnation, recovering, url};
use super::*;
use crate::replication::outcome::Detail;
use crate::wire::{Refusal, RefusalReason, Success};

fn membership(followers: impl IntoIterator<Item = usize>, write_quorum: usize) -> Membership {
    let followers = followers.into_iter().map(url).collect();
    Membership { followers, write_quorum, max_tail: 50, uncounted: BTreeMap::new() }
}

fn adoption(obligations: Vec<Membership>, loss_accepted: bool) -> Adoption {
    Adoption {
        base: Some(url(0)),
        applied_through: 40,
        others: vec![],
        max_tail: 50,
        obligations,
        loss_accepted,
    }
}

/// Followers 0 to 5 have answered, each under the address of its own.
fn recovery(shared: &Arc<Shared>) -> Recovery<'_> {
    let mut recovery = Recovery::new(shared);
    recovery.answers =
        (0..6).map(|n| (url(n), Answer { incarnation: incarnation(n), complete: None })).collect();
    recovery
}

#[tokio::test(start_paused = true)]
async fn versions_that_may_have_been_assigned_are_skipped() {
    let shared = recovering(3, 2, 10);
    recovery(&shared).begin(Some(&adoption(vec![membership(0..3, 2)], false)), vec![]);
    let core = shared.core.lock();
    assert_eq!((core.version, core.backlog.next(), core.tally.span().0), (90, 91, 91));
    assert_eq!(first_version(None, 1_000), 0, "a first start begins at 1");
    assert_eq!(
        first_version(Some(&adoption(vec![], true)), 1_000),
        1_000_000,
        "nobody knows how many were lost"
    );
}

#[tokio::test(start_paused = true)]
async fn earlier_lists_are_honoured_until_this_epoch_serves() {
    let (old, older) = (membership([0, 3, 4], 1), membership([4, 5], 2));
    let shared = recovering(3, 2, 10);
    recovery(&shared).begin(Some(&adoption(vec![older.clone(), old.clone()], false)), vec![]);
    let core = shared.core.lock();
    let uncounted = (0..3).map(|n| (url(n), incarnation(n))).collect();
    let own = Membership { uncounted, ..shared.membership.clone() };
    assert_eq!(shared.memberships(&core), [older, old, own], "recorded with every snapshot");
    let links: Vec<&PeerUrl> = shared.links().iter().map(|link| &link.url).collect();
    let expected = [0, 1, 2, 4, 5, 3].map(url);
    assert_eq!(
        links,
        expected.iter().collect::<Vec<_>>(),
        "its own, in the order of FOLLOWERS, then the others"
    );
    let obligations: Vec<_> = core.obligations.iter().map(|o| (o.links.as_slice(), o.needed)).collect();
    let expected: [(&[usize], usize); 3] = [(&[3, 4], 2), (&[0, 3, 5], 2), (&[0, 1, 2], 2)];
    assert_eq!(obligations, expected, "max(old W, new W) of each old list, W of its own");
    assert!(matches!(core.phase, Phase::Recovering));
}

/// Keeps out: all followers were `down` in `/health` until the leader had its store, those it was reading from too.
#[tokio::test(start_paused = true)]
async fn a_leader_that_starts_tells_of_its_followers_what_it_has_heard() {
    let shared = recovering(4, 2, 10);
    let mut recovery = Recovery::new(&shared);
    let states = || match shared.health().detail {
        Detail::Leader { followers, .. } => {
            followers.into_iter().map(|f| (f.state, f.node_id, f.problem)).collect::<Vec<_>>()
        }
        _ => panic!("asked a leader"),
    };
    let unheard = ("down", None, None);
    assert_eq!(states(), vec![unheard.clone(); 4]);

    let epoch = recovery.epoch;
    let promise = |n| PromiseReply {
        status: Success::Success,
        node_id: format!("f{n}"),
        incarnation: incarnation(n),
        promised: epoch,
        complete: None,
    };
    let refused = |reason, promised| {
        let message = "no".to_owned();
        Err(CallError::Refused(Refusal { reason, message, promised, incarnation: None }))
    };
    let higher = Epoch { number: epoch.number + 1, ..epoch };
    let silence = || Err(CallError::NoAnswer("deadline".into()));
    for (n, answer) in [
        (0, Ok(promise(0))),
        (1, refused(RefusalReason::Unauthorized, None)),
        (2, silence()),
        // Outbid: from here on it is another epoch.
        (3, refused(RefusalReason::StaleEpoch, Some(higher))),
    ] {
        recovery.answered((url(n), epoch, answer)).unwrap();
    }
    let promised = ("catching_up", Some("f0".to_owned()), None);
    let answered = ("catching_up", None, None);
    let [_, (state, _, problem), ..] = &states()[..] else { panic!("four followers") };
    assert!(*state == "down" && problem.as_ref().is_some_and(|problem| problem.contains("no")));
    assert_eq!((&states()[0], &states()[2], &states()[3]), (&promised, &unheard, &answered));

    recovery.begin(None, vec![]);
    assert_eq!((&states()[0], &states()[2]), (&promised, &unheard), "until the links know better");
    assert!(shared.core.lock().progress.iter().all(|progress| progress.incarnation().is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_same_node_under_another_address_gets_one_link() {
    let shared = recovering(2, 1, 10);
    let mut recovery = recovery(&shared);
    // Follower 5 of the old list is what the new one calls 1.
    recovery.answers.insert(url(5), Answer { incarnation: incarnation(1), complete: None });
    recovery.begin(Some(&adoption(vec![membership([0, 5], 2)], false)), vec![]);
    assert_eq!(shared.links().len(), 2);
    assert_eq!(shared.core.lock().obligations[0].links, [0, 1]);
}
