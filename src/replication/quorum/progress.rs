//! What the leader knows of one follower: the automaton of a link. PURE.
//!
//! ```text
//!              promised                    begin_snapshot              snapshot_begun
//!   Unknown ──────────────▶ NeedsSnapshot ────────────────▶ Beginning ────────────────▶ Staging
//!      ▲                       ▲   ▲                            │ snapshot_failed          │ │
//!      │ restarted             │   └────────────────────────────┴──────────────────────────┘ │
//!      │ (from any state)      │ fell_behind                                                 │ installed
//!      └───────────────────    └──────────────────────── Complete ◀──────────────────────────┘
//! ```
//!
//! Entries flow in *Staging* and *Complete* while the follower is up. In *Beginning* they do not: the leader has
//! picked the version the snapshot covers, and an entry above it that reached the follower before the beginning of
//! the snapshot would be thrown away with the stage before it, though acknowledged.
//!
//! Invariants: `held` says nothing before *Staging*. Acknowledgements count (for quorums, reads, admission) in
//! *Complete* alone, and then all at once.

use std::fmt;

use tokio::time::Instant;

use super::ranges::Versions;
use crate::store::Version;
use crate::wire::Incarnation;

/// Where a link stands: see the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This start of the follower has not promised this epoch.
    Unknown,
    /// It has, and has no store in this epoch that could be brought up to date.
    NeedsSnapshot,
    /// The beginning of a snapshot is under way.
    Beginning {
        /// The snapshot's number.
        snapshot: u64,
        /// The version it covers.
        through: Version,
    },
    /// The pages are under way, and live entries beside them.
    Staging {
        /// The snapshot's number.
        snapshot: u64,
    },
    /// It holds a whole store.
    Complete,
}

/// One follower, as the leader knows it.
#[derive(Clone, Debug)]
pub struct Progress {
    state: State,
    incarnation: Option<Incarnation>,
    node_id: Option<String>,
    held: Versions,
    missed: u32,
    missed_max: u32,
    up: bool,
    session: u64,
    confirmed: u64,
    snapshots: u64,
    problem: Option<String>,
    heard_at: Option<Instant>,
}

impl Progress {
    /// A follower nobody has spoken to; down after `missed_max` missed heartbeats in a row.
    pub fn new(missed_max: u32) -> Progress {
        Progress {
            state: State::Unknown,
            incarnation: None,
            node_id: None,
            held: Versions::default(),
            missed: 0,
            missed_max,
            up: false,
            session: 0,
            confirmed: 0,
            snapshots: 0,
            problem: None,
            heard_at: None,
        }
    }

    /// Where the link stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The start of the follower this is about, once known.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    /// The follower's name, once known.
    pub fn node_id(&self) -> Option<&str> {
        self.node_id.as_deref()
    }

    /// What it has acknowledged. Counts only if [`Progress::is_complete`].
    pub fn held(&self) -> &Versions {
        &self.held
    }

    /// Heartbeats missed in a row.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether its acknowledgements count.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether it counts for admission.
    pub fn is_serving(&self) -> bool {
        self.up && self.is_complete()
    }

    /// Whether entries may be sent to it.
    pub fn is_streaming(&self) -> bool {
        self.up && matches!(self.state, State::Staging { .. } | State::Complete)
    }

    /// Changes whenever a link must look anew at what the follower lacks.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The highest round of confirmations it has answered.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Snapshots it has installed.
    pub fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// Why it is not used although it answers.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// When it answered last.
    pub fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// It has answered something at this time, whatever that was.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
    }

    /// It answers, but cannot be used. Returns whether that is news.
    pub fn set_problem(&mut self, problem: String) -> bool {
        let is_news = self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        is_news
    }

    /// `up`, `catching_up` (it answers, and is not complete) or `down`.
    pub fn word(&self) -> &'static str {
        match () {
            () if !self.up => "down",
            () if self.is_complete() => "up",
            () => "catching_up",
        }
    }

    /// This start of the follower has promised the leader's epoch.
    pub fn promised(&mut self, incarnation: Incarnation, node_id: String) {
        if self.incarnation != Some(incarnation) {
            self.restarted();
            self.incarnation = Some(incarnation);
        }
        self.node_id = Some(node_id);
        if self.state == State::Unknown {
            self.state = State::NeedsSnapshot;
        }
        self.alive();
    }

    /// The follower is another one than it was: it has forgotten everything.
    pub fn restarted(&mut self) {
        self.state = State::Unknown;
        self.incarnation = None;
        self.held = Versions::default();
        self.confirmed = 0;
        self.session += 1;
    }

    /// It has answered.
    pub fn alive(&mut self) {
        self.missed = 0;
        self.problem = None;
        if !self.up {
            self.up = true;
            // What was under way when it went down may or may not have arrived.
            self.session += 1;
        }
    }

    /// It has not answered for a heartbeat interval. Returns whether that makes it down now.
    pub fn missed_one(&mut self) -> bool {
        self.missed = self.missed.saturating_add(1);
        self.up && self.missed >= self.missed_max && self.went_down()
    }

    /// It has not answered for as long as makes it down. Returns whether it was up.
    pub fn went_down(&mut self) -> bool {
        std::mem::replace(&mut self.up, false)
    }

    /// It answered a heartbeat that was sent when `round` rounds of confirmation had been asked for.
    pub fn confirm(&mut self, round: u64) {
        self.confirmed = self.confirmed.max(round);
    }

    /// The entries it lacks are not in the backlog any more.
    pub fn fell_behind(&mut self) {
        self.state = State::NeedsSnapshot;
        self.session += 1;
    }

    /// A snapshot that covers `through` begins. No entry above it has been sent that this stage could lack.
    pub fn begin_snapshot(&mut self, snapshot: u64, through: Version) {
        debug_assert_eq!(self.state, State::NeedsSnapshot, "a snapshot begins where one is needed");
        self.state = State::Beginning { snapshot, through };
    }

    /// The follower stages it: entries may flow.
    pub fn snapshot_begun(&mut self, snapshot: u64) -> bool {
        match self.state {
            State::Beginning { snapshot: current, through } if current == snapshot => {
                self.state = State::Staging { snapshot };
                self.held = Versions::through_only(through);
                self.session += 1;
                true
            }
            _ => false,
        }
    }

    /// Whether `snapshot` is still what is being sent.
    pub fn is_sending(&self, snapshot: u64) -> bool {
        match self.state {
            State::Beginning { snapshot: current, .. } | State::Staging { snapshot: current } => {
                current == snapshot
            }
            _ => false,
        }
    }

    /// It did not arrive whole: another one is needed.
    pub fn snapshot_failed(&mut self, snapshot: u64) {
        if self.is_sending(snapshot) {
            self.state = State::NeedsSnapshot;
        }
    }

    /// The follower has installed it: from here on, all it holds counts.
    pub fn installed(&mut self, snapshot: u64) -> bool {
        if self.state != (State::Staging { snapshot }) {
            return false;
        }
        self.state = State::Complete;
        self.snapshots += 1;
        true
    }

    /// It holds `version`. Returns whether that is news.
    pub fn acked(&mut self, version: Version) -> bool {
        self.held.insert(version)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node_id.as_deref().unwrap_or("?");
        write!(
            f,
            "{node} {} {:?} held={}+{}",
            self.word(),
            self.state,
            self.held.through(),
            self.held.ranges()
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete() -> Progress {
        let mut progress = Progress::new(3);
        progress.promised(Incarnation(1), "f".into());
        progress.begin_snapshot(1, 10);
        assert!(progress.snapshot_begun(1));
        assert!(progress.installed(1));
        progress
    }

    #[test]
    fn acknowledgements_count_only_once_the_snapshot_is_installed() {
        let mut progress = Progress::new(3);
        progress.promised(Incarnation(1), "f".into());
        assert!(!progress.is_streaming(), "no snapshot, no entries");
        progress.begin_snapshot(1, 10);
        assert!(!progress.is_streaming(), "entries above 10 would be lost with the stage before");
        progress.snapshot_begun(1);
        assert!(progress.is_streaming() && !progress.is_serving());
        progress.acked(12);
        progress.installed(1);
        assert!(progress.is_serving());
        assert!(progress.held().contains(12) && !progress.held().contains(11));
    }

    #[test]
    fn another_incarnation_starts_from_nothing() {
        let mut progress = complete();
        progress.confirm(7);
        progress.promised(Incarnation(2), "f".into());
        assert_eq!(
            (progress.state(), progress.held().through(), progress.confirmed()),
            (State::NeedsSnapshot, 0, 0)
        );
    }

    #[test]
    fn the_same_incarnation_promising_again_keeps_what_it_holds() {
        let mut progress = complete();
        progress.promised(Incarnation(1), "f".into());
        assert!(progress.is_complete());
    }

    #[test]
    fn missed_heartbeats_in_a_row_make_it_down_and_one_answer_up_again() {
        let mut progress = complete();
        assert!(!progress.missed_one() && !progress.missed_one());
        progress.alive();
        assert!(!progress.missed_one() && !progress.missed_one());
        assert!(progress.missed_one());
        assert_eq!(progress.word(), "down");
        assert!(!progress.missed_one(), "down is reported once");
        let session = progress.session();
        progress.alive();
        assert!(progress.is_serving() && progress.session() > session);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Promised(u64),
        Restarted,
        Alive,
        Missed,
        FellBehind,
        Begin,
        Begun(u64),
        Failed(u64),
        Installed(u64),
        Acked(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => (1u64..3).prop_map(Event::Promised),
            1 => Just(Event::Restarted),
            1 => Just(Event::Alive),
            1 => Just(Event::Missed),
            1 => Just(Event::FellBehind),
            3 => Just(Event::Begin),
            3 => (0u64..4).prop_map(Event::Begun),
            1 => (0u64..4).prop_map(Event::Failed),
            3 => (0u64..4).prop_map(Event::Installed),
            3 => (1u64..30).prop_map(Event::Acked),
        ]
    }

    proptest! {
        /// Late and lost answers in any order never make a follower count that has not installed a snapshot since
        /// it last started over.
        #[test]
        fn it_is_complete_only_through_a_whole_snapshot(events in proptest::collection::vec(event(), 0..60)) {
            let (mut progress, mut number, mut begun, mut installed) = (Progress::new(2), 0u64, None, false);
            for event in events {
                match event {
                    Event::Promised(incarnation) => {
                        if progress.incarnation() != Some(Incarnation(incarnation)) { installed = false; }
                        progress.promised(Incarnation(incarnation), "f".into());
                    }
                    Event::Restarted => { progress.restarted(); installed = false; }
                    Event::Alive => progress.alive(),
                    Event::Missed => { progress.missed_one(); }
                    Event::FellBehind if progress.is_complete() => { progress.fell_behind(); installed = false; }
                    Event::FellBehind => {}
                    Event::Begin if progress.state() == State::NeedsSnapshot => {
                        number += 1;
                        progress.begin_snapshot(number, number * 5);
                    }
                    Event::Begin => {}
                    Event::Begun(back) => {
                        let snapshot = number.saturating_sub(back);
                        if progress.snapshot_begun(snapshot) {
                            prop_assert_eq!(snapshot, number);
                            prop_assert_eq!(progress.held().through(), number * 5);
                            begun = Some(snapshot);
                        }
                    }
                    Event::Failed(back) => progress.snapshot_failed(number.saturating_sub(back)),
                    Event::Installed(back) => {
                        let snapshot = number.saturating_sub(back);
                        if progress.installed(snapshot) {
                            prop_assert_eq!(begun, Some(snapshot));
                            installed = true;
                        }
                    }
                    Event::Acked(version) => { if progress.is_streaming() { progress.acked(version); } }
                }
                prop_assert_eq!(progress.is_complete(), installed, "{}", progress);
            }
        }
    }
}
