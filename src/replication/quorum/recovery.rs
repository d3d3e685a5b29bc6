//! A leader's start: which answers of followers are enough to go on from, and what they amount to. PURE.
//!
//! In memory does not mean amnesia: a leader that comes back knows nothing, but its followers do. It asks all of them
//! to promise its new epoch, which shuts the old leader out, and to tell what they hold. [`decide`] says when it may
//! stop asking.
//!
//! **The rule.** Let e be the highest data epoch among the answers, with followers F and quorum W as recorded there. A
//! write acknowledged in e is held by W of those F. A follower that answers with data of e holds what it held; one
//! that answers with data of an *older* epoch was never complete in e and acknowledged nothing there; one that does
//! not answer, or answers blank, may have held anything. So as long as fewer than W are in the dark, that is, once
//! F − W + 1 answered with any data at all, every acknowledged write is in the hands of at least one that answered
//! with data of e. (Asking for F − W + 1 answers *of e* would be stricter and would lock itself out: a leader killed
//! just after its first follower became complete leaves a single one of e behind.)
//!
//! One that answers blank is in the light all the same if it was in the very same start of it when the epoch began,
//! for then it has never been complete in it: [`Membership::uncounted`]. Without that, a leader killed between its first
//! complete follower and its W-th would leave a state behind that no later leader may go on from: the followers it had
//! not come to are blank, and nothing would ever tell that they had never counted.
//!
//! An epoch that never came to serve passes its obligations on: until it serves, a state is recorded together with
//! the memberships of the epochs before it that did, and the rule is checked for each of them. It is what joint
//! consensus does for a change of members (Ongaro, *Consensus: Bridging Theory and Practice*, 2014, 4.3), with quorums
//! of W and F − W + 1 in place of two majorities.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::PeerUrl;
use crate::store::Version;
use crate::wire::{CompleteState, Epoch, Incarnation, Membership};

/// What a follower answered when asked to promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The start of the follower that answered.
    pub incarnation: Incarnation,
    /// What it holds; `None` if it is blank.
    pub complete: Option<CompleteState>,
}

/// What to do with the answers so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// All followers are there, and all are blank: there is nothing to recover.
    FirstStart,
    /// These answers are enough.
    Adopt(Adoption),
    /// They are not, or there is time to wait for more.
    Wait(Wait),
}

/// From what the leader builds its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Take its whole store. `None` only if a loss of everything was accepted.
    pub base: Option<PeerUrl>,
    /// Every version up to this one is in the base.
    pub applied_through: Version,
    /// Take their entries above that.
    pub others: Vec<PeerUrl>,
    /// Versions that may have been assigned above it.
    pub max_tail: u64,
    /// Memberships to be honoured until this epoch serves: in each, max(its W, the new W) followers must be complete.
    pub obligations: Vec<Membership>,
    /// Whether acknowledged writes may be missing.
    pub loss_accepted: bool,
}

/// Why the answers are not enough yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The highest data epoch among the answers; [`Epoch::ZERO`] if all are blank.
    pub data_epoch: Epoch,
    /// Followers that have not answered, or blank.
    pub missing: Vec<PeerUrl>,
    /// For people.
    pub message: String,
}

/// Decides. `asked` are all followers known, the new list's and those that answers named; `waited` says whether
/// `RECOVERY_WAIT` is over; `accepted_loss` is the epoch an operator gave up, if one did.
pub fn decide(
    new: &Membership,
    asked: &BTreeSet<PeerUrl>,
    answers: &BTreeMap<PeerUrl, Answer>,
    waited: bool,
    accepted_loss: Option<Epoch>,
) -> Decision {
    let holders = || answers.iter().filter_map(|(url, answer)| Some((url, answer.complete.as_ref()?)));
    let data_epoch = holders().map(|(_, state)| state.data_epoch).max().unwrap_or(Epoch::ZERO);
    let newest = || holders().filter(|(_, state)| state.data_epoch == data_epoch);
    let loss_accepted = accepted_loss == Some(data_epoch);
    let unheard: Vec<PeerUrl> = asked.iter().filter(|url| !answers.contains_key(url)).cloned().collect();

    // Whoever knows that the epoch came to serve has dropped the memberships before it; the others are behind the news.
    let obligations = newest()
        .map(|(_, state)| &state.memberships)
        .min_by_key(|memberships| memberships.len())
        .cloned()
        .unwrap_or_default();

    if data_epoch == Epoch::ZERO && !loss_accepted {
        if unheard.is_empty() && distinct(&new.followers, answers, |_, _| true) == new.followers.len() {
            return Decision::FirstStart;
        }
        let message = if unheard.is_empty() {
            "two addresses in FOLLOWERS lead to the same node: give each follower once".to_owned()
        } else if answers.is_empty() {
            "no follower has answered yet".to_owned()
        } else {
            format!(
                "every follower that answered is blank: this is a first start only if all {} answer",
                asked.len()
            )
        };
        return Decision::Wait(Wait { data_epoch, missing: unheard, message });
    }

    if !loss_accepted {
        for Membership { followers, write_quorum, uncounted, .. } in &obligations {
            let needed = followers.len() + 1 - write_quorum.min(&followers.len());
            let is_clear = |url: &PeerUrl, answer: &Answer| {
                answer.complete.is_some() || uncounted.get(url) == Some(&answer.incarnation)
            };
            let have = distinct(followers, answers, is_clear);
            if have < needed {
                let is_missing =
                    |url: &&PeerUrl| answers.get(*url).is_none_or(|answer| !is_clear(url, answer));
                let missing = followers.iter().filter(is_missing).cloned().collect();
                let message = format!(
                    "{have} of {} followers answered with data; with WRITE_QUORUM {write_quorum} it takes {needed} to be \
                     sure that no acknowledged write is missing. Bring the missing ones back with their memory, or give \
                     up what only they may hold: quorate recover --accept-loss {data_epoch}",
                    followers.len(),
                );
                return Decision::Wait(Wait { data_epoch, missing, message });
            }
        }
        if !waited && !unheard.is_empty() {
            let message = "enough followers answered; waiting RECOVERY_WAIT for the others".to_owned();
            return Decision::Wait(Wait { data_epoch, missing: unheard, message });
        }
    }

    let base = newest().max_by_key(|(_, state)| state.applied_through);
    let others = newest().map(|(url, _)| url).filter(|url| base.is_none_or(|(base, _)| base != *url));
    Decision::Adopt(Adoption {
        base: base.map(|(url, _)| url.clone()),
        applied_through: base.map_or(0, |(_, state)| state.applied_through),
        others: others.cloned().collect(),
        max_tail: obligations.iter().map(|membership| membership.max_tail).max().unwrap_or(new.max_tail),
        obligations: if loss_accepted { Vec::new() } else { obligations },
        loss_accepted,
    })
}

/// Different nodes of `followers` whose answer is as wanted: two addresses of one node count once.
fn distinct(
    followers: &[PeerUrl],
    answers: &BTreeMap<PeerUrl, Answer>,
    wanted: impl Fn(&PeerUrl, &Answer) -> bool,
) -> usize {
    let answered = followers.iter().filter_map(|url| Some((url, answers.get(url)?)));
    let wanted = answered.filter(|(url, answer)| wanted(url, answer));
    wanted.map(|(_, answer)| answer.incarnation).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(n: usize) -> PeerUrl {
        PeerUrl::parse(&format!("f{n}:1")).unwrap()
    }

    fn membership(followers: impl IntoIterator<Item = usize>, write_quorum: usize) -> Membership {
        let followers = followers.into_iter().map(url).collect();
        Membership { followers, write_quorum, max_tail: 100, uncounted: BTreeMap::new() }
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, leader: Incarnation(1) }
    }

    fn holder(n: usize, number: u64, applied_through: u64, memberships: &[Membership]) -> (PeerUrl, Answer) {
        let complete =
            CompleteState { data_epoch: epoch(number), memberships: memberships.to_vec(), applied_through };
        (url(n), Answer { incarnation: Incarnation(n as u64), complete: Some(complete) })
    }

    fn blank(n: usize) -> (PeerUrl, Answer) {
        (url(n), Answer { incarnation: Incarnation(n as u64), complete: None })
    }

    fn decide_all(new: &Membership, answers: Vec<(PeerUrl, Answer)>, waited: bool) -> Decision {
        let asked = new.followers.iter().cloned().chain(answers.iter().map(|(url, _)| url.clone())).collect();
        decide(new, &asked, &answers.into_iter().collect(), waited, None)
    }

    fn waits(decision: &Decision) -> bool {
        matches!(decision, Decision::Wait(_))
    }

    #[test]
    fn a_first_start_needs_every_follower_blank() {
        let new = membership(0..3, 2);
        assert_eq!(decide_all(&new, vec![blank(0), blank(1), blank(2)], false), Decision::FirstStart);
        assert!(waits(&decide_all(&new, vec![blank(0), blank(1)], true)), "the third may hold everything");
    }

    #[test]
    fn one_node_under_two_addresses_is_not_two_followers() {
        let new = membership(0..2, 1);
        let (other, mut answer) = blank(1);
        answer.incarnation = Incarnation(0);
        assert!(waits(&decide_all(&new, vec![blank(0), (other, answer)], true)));
    }

    #[test]
    fn blank_followers_do_not_count() {
        let new = membership(0..5, 3);
        let m = [new.clone()];
        let answers = vec![holder(0, 9, 5, &m), holder(1, 9, 4, &m), blank(2), blank(3), blank(4)];
        assert!(waits(&decide_all(&new, answers, true)), "three blank ones may have been the whole quorum");
    }

    #[test]
    fn the_quorum_that_counts_is_the_recorded_one() {
        let new = membership(0..5, 5);
        let m = [membership(0..5, 1)];
        let answers =
            vec![holder(0, 9, 5, &m), holder(1, 9, 4, &m), holder(2, 9, 4, &m), holder(3, 9, 4, &m)];
        assert!(waits(&decide_all(&new, answers, true)), "at W=1 any single follower may hold the only copy");
    }

    #[test]
    fn the_followers_that_count_are_the_recorded_ones() {
        let new = membership(3..6, 1);
        let m = [membership(0..3, 2)];
        let answers = vec![holder(0, 9, 5, &m), blank(3), blank(4), blank(5)];
        assert!(waits(&decide_all(&new, answers.clone(), true)));
        let with = [answers, vec![holder(1, 9, 7, &m)]].concat();
        let Decision::Adopt(adoption) = decide_all(&new, with, true) else { panic!("two of three at W=2") };
        assert_eq!((adoption.base, adoption.others), (Some(url(1)), vec![url(0)]));
        assert_eq!(adoption.obligations, m);
    }

    /// Keeps out a leader that locks itself out: killed when the first follower had become complete in its epoch.
    #[test]
    fn an_epoch_that_never_served_does_not_block_the_next() {
        let new = membership(0..5, 3);
        let m = [new.clone()];
        let answers = vec![holder(0, 10, 70_000, &m), holder(1, 9, 5, &m), holder(2, 9, 6, &m)];
        let Decision::Adopt(adoption) = decide_all(&new, answers, true) else {
            panic!("three of five answered")
        };
        assert_eq!((adoption.base, adoption.others), (Some(url(0)), vec![]));
    }

    /// Keeps out another leader that locks itself out: killed as above, with followers that were blank before it and
    /// are after it, since it never came to them.
    #[test]
    fn a_follower_blank_since_before_the_epoch_has_not_acknowledged_in_it() {
        for new in [membership(0..3, 2), membership([0, 3, 4], 1)] {
            let began = Membership {
                uncounted: new.followers.iter().cloned().zip([0, 3, 4].map(Incarnation)).collect(),
                ..new.clone()
            };
            let blanks = |number| {
                let answers = new.followers[1..].iter().zip([3u64, 4]);
                let answers = answers.map(move |(url, n)| {
                    (url.clone(), Answer { incarnation: Incarnation(n + number), complete: None })
                });
                answers.collect::<Vec<_>>()
            };
            let m = [began.clone()];
            let same = [vec![holder(0, 10, 5, &m)], blanks(0)].concat();
            assert!(matches!(decide_all(&new, same, true), Decision::Adopt(_)));
            let restarted = [vec![holder(0, 10, 5, &m)], blanks(100)].concat();
            let Decision::Wait(wait) = decide_all(&new, restarted, true) else {
                panic!("they may have counted")
            };
            assert_eq!(wait.missing, new.followers[1..]);
        }
    }

    #[test]
    fn the_memberships_before_an_epoch_that_never_served_still_count() {
        let (old, new) = (membership(0..3, 2), membership([0, 3, 4], 2));
        let m = [old, new.clone()];
        let answers = vec![holder(3, 10, 5, &m), holder(0, 9, 5, &m[..1]), blank(4)];
        assert!(waits(&decide_all(&new, answers.clone(), true)), "of the old list, 1 and 2 are in the dark");
        let with = [answers, vec![holder(1, 9, 5, &m[..1])]].concat();
        assert!(matches!(decide_all(&new, with, true), Decision::Adopt(_)));
    }

    #[test]
    fn it_waits_for_the_others_as_long_as_it_was_told_to() {
        let new = membership(0..3, 2);
        let m = [new.clone()];
        let answers = vec![holder(0, 9, 5, &m), holder(1, 9, 4, &m)];
        assert!(waits(&decide_all(&new, answers.clone(), false)));
        assert!(matches!(decide_all(&new, answers, true), Decision::Adopt(_)));
        let all = vec![holder(0, 9, 5, &m), holder(1, 9, 4, &m), blank(2)];
        assert!(matches!(decide_all(&new, all, false), Decision::Adopt(_)), "nobody left to wait for");
    }

    #[test]
    fn a_loss_is_accepted_for_the_epoch_named_and_no_other() {
        let new = membership(0..5, 3);
        let m = [new.clone()];
        let answers: BTreeMap<_, _> = [holder(0, 9, 5, &m), blank(1)].into();
        let asked = new.followers.iter().cloned().collect();
        let with = |accepted| decide(&new, &asked, &answers, true, Some(accepted));
        assert!(waits(&with(epoch(8))));
        let Decision::Adopt(adoption) = with(epoch(9)) else { panic!("accepted") };
        assert!(adoption.loss_accepted && adoption.obligations.is_empty());
        assert_eq!(adoption.base, Some(url(0)));
    }

    proptest! {
        /// The promise itself: whatever W of F followers acknowledged, an adoption has it, whoever is lost or late.
        #[test]
        fn an_adoption_has_every_acknowledged_write(
            f in 1usize..6, w_offset in 0usize..5, seed in any::<u64>(), writes in 0usize..20,
        ) {
            let w = 1 + w_offset % f;
            let mut rng = fastrand::Rng::with_seed(seed);
            let new = membership(0..f, w);
            // Some were never complete in this epoch, and some of these are known to have been there when it began.
            let never: BTreeSet<usize> = (0..f).filter(|_| rng.u8(..4) == 0).collect();
            let known: BTreeSet<usize> = never.iter().copied().filter(|_| rng.bool()).collect();
            let m = [Membership {
                uncounted: known.iter().map(|n| (url(*n), Incarnation(*n as u64))).collect(), ..new.clone()
            }];
            // Each write is held by a random set of followers; those with at least W holders were acknowledged.
            let mut holds = vec![BTreeSet::new(); f];
            let mut acknowledged = Vec::new();
            for version in 1..=writes as u64 {
                let holders: Vec<usize> = (0..f).filter(|n| !never.contains(n) && rng.u8(..10) < 7).collect();
                holders.iter().for_each(|n| { holds[*n].insert(version); });
                if holders.len() >= w { acknowledged.push(version); }
            }
            // Some followers are away, some blank (fewer than W), some never became complete in this epoch.
            let mut answers = Vec::new();
            let mut dark = 0;
            for (n, held) in holds.iter().enumerate() {
                let through = (1..).take_while(|v| held.contains(v)).last().unwrap_or(0);
                match rng.u8(..6) {
                    0 => dark += 1,
                    1 => {
                        // Once restarted it is not the one that is known.
                        let (url, mut answer) = blank(n);
                        answer.incarnation.0 += 100;
                        answers.push((url, answer));
                        dark += 1;
                    }
                    2 if known.contains(&n) => answers.push(blank(n)),
                    2 | 3 if never.contains(&n) => answers.push(holder(n, 8, 0, &m)),
                    _ => answers.push(holder(n, 9, through, &m)),
                }
            }
            let any_data = answers.iter().any(|(_, a)| a.complete.as_ref().is_some_and(|c| c.data_epoch == epoch(9)));
            match decide_all(&new, answers.clone(), true) {
                Decision::Adopt(adoption) if any_data => {
                    prop_assert!(dark < w);
                    let index = |u: &PeerUrl| (0..f).find(|n| url(*n) == *u).unwrap();
                    let base = &holds[index(adoption.base.as_ref().unwrap())];
                    for version in acknowledged {
                        let found = base.contains(&version)
                            || version > adoption.applied_through && adoption.others.iter().any(|u| holds[index(u)].contains(&version));
                        prop_assert!(found, "version {} is lost", version);
                    }
                }
                Decision::Adopt(_) | Decision::FirstStart => {}
                // Who has never counted is known from those with data: if all that answered are blank, from nobody.
                Decision::Wait(_) if answers.iter().all(|(_, answer)| answer.complete.is_none()) => {}
                Decision::Wait(_) => prop_assert!(dark >= w, "{} in the dark at W={} must not block", dark, w),
            }
        }
    }
}
