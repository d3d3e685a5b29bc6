//! The messages of quorum mode and the identities they carry. Shapes only.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::address::PeerUrl;
use crate::store::{Entry, Value, Version};

/// One start of a node, drawn at random: a node that comes back is another one, for it has forgotten everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = String;
    fn from_str(text: &str) -> Result<Incarnation, String> {
        u64::from_str_radix(text, 16).map(Incarnation).map_err(|error| error.to_string())
    }
}

/// The reign of one start of a leader, ordered by number and then by that start's id. Written `number-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// max(highest seen + 1, unix time in ms), so that it grows from start to start.
    pub number: u64,
    /// The leader's incarnation: no two starts share an epoch.
    pub leader: Incarnation,
}

impl Epoch {
    /// Below every epoch of a leader: what a node that never promised anything has promised.
    pub const ZERO: Epoch = Epoch { number: 0, leader: Incarnation(0) };
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.leader)
    }
}

impl FromStr for Epoch {
    type Err = String;
    fn from_str(text: &str) -> Result<Epoch, String> {
        let (number, leader) = text.split_once('-').ok_or("an epoch is written number-id")?;
        let number = number.parse().map_err(|error| format!("number {number:?} of the epoch: {error}"))?;
        Ok(Epoch { number, leader: leader.parse()? })
    }
}

/// Written as text in JSON, like the types' `Display`: 64-bit numbers do not survive every JSON reader.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
as_text!(Incarnation);
as_text!(Epoch);

/// Who is asked, and in whose name. A lower epoch or another incarnation is refused and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The incarnation this message is meant for.
    pub to: Incarnation,
}

/// What an epoch's promises rest on: its followers, the quorum its writes are acknowledged at, and its `MAX_TAIL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// All followers, sorted.
    pub followers: Vec<PeerUrl>,
    /// Followers that must hold a write before it is acknowledged.
    pub write_quorum: usize,
    /// Versions its leader may assign above what `write_quorum` followers hold: what the next leader has to skip.
    pub max_tail: u64,
    /// Followers that had not counted for anything in this epoch when this was written down, and the start they were
    /// in. One that is blank in the same start later has acknowledged nothing in between either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uncounted: BTreeMap<PeerUrl, Incarnation>,
}

impl Membership {
    /// Whether both ask the same of a later start.
    pub fn has_terms_of(&self, other: &Membership) -> bool {
        (&self.followers, self.write_quorum, self.max_tail)
            == (&other.followers, other.write_quorum, other.max_tail)
    }
}

/// `POST /promise`: follow this epoch and no lower one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// The new epoch.
    pub epoch: Epoch,
    /// Where the new leader is reached.
    pub leader: PeerUrl,
}

/// What a follower holds when it promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseReply {
    /// Always `success`.
    pub status: Success,
    /// The follower's name.
    pub node_id: String,
    /// The follower's incarnation.
    pub incarnation: Incarnation,
    /// The highest epoch it has promised, now.
    pub promised: Epoch,
    /// Its last complete state; `None` from a blank follower.
    pub complete: Option<CompleteState>,
}

/// The last complete state of a follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteState {
    /// The epoch in which its store was last complete.
    pub data_epoch: Epoch,
    /// The memberships recorded with it, all of which a later start must honour: that of its epoch, and until this has come
    /// to serve, those before it.
    pub memberships: Vec<Membership>,
    /// Every version up to this one is held.
    pub applied_through: Version,
}

/// `POST /replicate`: store these entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicateRequest {
    /// Who and whom.
    pub header: Header,
    /// The oldest version in the leader's backlog: tombstones below it may be dropped.
    pub floor: Version,
    /// The entries, in any order.
    pub entries: Vec<WireEntry>,
}

/// The answer to `/replicate`: every entry of the request is stored here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicateReply {
    /// Always `success`.
    pub status: Success,
    /// The follower's name.
    pub node_id: String,
    /// Every version up to this one is held (while a snapshot is being installed: of the last complete state).
    pub applied_through: Version,
}

/// `POST /heartbeat`: a sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// Who and whom.
    pub header: Header,
    /// Where the leader is reached.
    pub leader: PeerUrl,
    /// All followers and the quorum.
    pub membership: Membership,
    /// The oldest version in the leader's backlog.
    pub floor: Version,
    /// Whether the leader serves: memberships of earlier epochs need no longer be honoured.
    pub serving: bool,
}

/// The answer to `/heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Always `success`.
    pub status: Success,
    /// The follower's name.
    pub node_id: String,
    /// Every version up to this one is held in the last complete state.
    pub applied_through: Version,
}

/// `POST /snapshot`: one part of a snapshot, to be staged beside the store in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Who and whom.
    pub header: Header,
    /// Numbers the snapshots of an epoch: 1, 2, 3, … A part of an older one is refused.
    pub snapshot: u64,
    /// The part.
    pub part: SnapshotPart,
}

/// A snapshot is a beginning, pages in key order, and an end with count and checksum.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPart {
    /// Drop what is staged, stage a new one.
    Begin {
        /// Once installed, every version up to this one is held.
        through: Version,
        /// What to record with the state: see [`CompleteState::memberships`].
        memberships: Vec<Membership>,
    },
    /// The next entries.
    Page {
        /// 0, 1, 2, …
        number: u64,
        /// In key order, tombstones included.
        entries: Vec<WireEntry>,
    },
    /// Install it, if it is whole.
    End {
        /// Entries in all pages.
        count: u64,
        /// [`Checksum`] over all entries of all pages, in order.
        checksum: u32,
    },
}

/// The answer to `/snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// Always `success`.
    pub status: Success,
    /// The follower's name.
    pub node_id: String,
    /// Every version up to this one is held in the last complete state (after the end: the snapshot's).
    pub applied_through: Version,
}

/// `POST /pull`: a page of the follower's last complete store, for a leader that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// Who and whom.
    pub header: Header,
    /// Only entries of versions above this one (0: all).
    pub above: Version,
    /// Only keys after this one.
    pub after: Option<String>,
}

/// The answer to `/pull`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullReply {
    /// Always `success`.
    pub status: Success,
    /// The follower's name.
    pub node_id: String,
    /// In key order, tombstones included.
    pub entries: Vec<WireEntry>,
    /// Pass as `after` for the next page; absent after the last.
    pub next: Option<String>,
}

/// `POST /peek`: what does this node hold for a key?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeekRequest {
    /// The key.
    pub key: String,
}

/// The answer to `/peek`, from a complete node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeekReply {
    /// Always `success`.
    pub status: Success,
    /// The node's name.
    pub node_id: String,
    /// The node's incarnation, so that no node is counted twice.
    pub incarnation: Incarnation,
    /// The epoch in which its store was last complete.
    pub data_epoch: Epoch,
    /// Every version up to this one is held.
    pub applied_through: Version,
    /// The key's version, if the node holds one (a tombstone's too).
    pub version: Option<Version>,
    /// Its value, unless deleted.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
}

/// The word `success`, which every answer to a message carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Success {
    /// `"success"`
    #[default]
    Success,
}

/// An entry in a message: `{"key","version","value"}`, or `{"key","version","deleted":true}` for a tombstone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    /// The key.
    pub key: std::sync::Arc<str>,
    /// The version.
    pub version: Version,
    /// The value as it was sent by the client.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
    /// Whether it is a tombstone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// Keeps a JSON `null` that is there apart from a value that is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> WireEntry {
        WireEntry {
            key: entry.key,
            version: entry.version,
            deleted: entry.value.is_none(),
            value: entry.value,
        }
    }
}

impl TryFrom<WireEntry> for Entry {
    type Error = String;
    fn try_from(entry: WireEntry) -> Result<Entry, String> {
        if entry.deleted == entry.value.is_some() || entry.version == 0 || entry.key.is_empty() {
            return Err(format!(
                "entry of key {:?}, version {}: it needs a key, a version above 0, and either a value or \"deleted\":true",
                entry.key, entry.version
            ));
        }
        Ok(Entry { key: entry.key, version: entry.version, value: entry.value })
    }
}

/// The body of a `/replicate` from entries that were encoded before, each once for all followers.
pub fn replicate_body<'a>(
    header: Header,
    floor: Version,
    entries: impl Iterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    let size: usize = entries.clone().map(|entry| entry.len() + 1).sum();
    let mut body = Vec::with_capacity(size + 128);
    body.extend_from_slice(
        format!(
            r#"{{"header":{{"epoch":"{}","to":"{}"}},"floor":{floor},"entries":["#,
            header.epoch, header.to
        )
        .as_bytes(),
    );
    for (nth, entry) in entries.enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(entry);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// CRC-32, over entries in order (key, version, value) or over plain bytes. What a snapshot's end is checked against.
#[derive(Default)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Takes the next entry in.
    pub fn add(&mut self, entry: &Entry) {
        self.0.update(&(entry.key.len() as u64).to_le_bytes());
        self.0.update(entry.key.as_bytes());
        self.0.update(&entry.version.to_le_bytes());
        match &entry.value {
            Some(value) => {
                self.0.update(&[1]);
                self.0.update(value.as_str().as_bytes());
            }
            None => self.0.update(&[0]),
        }
    }

    /// Takes bytes in as they are, for what is checked as a text and not entry by entry.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all that was taken in so far.
    pub fn finish(&self) -> u32 {
        self.0.clone().finalize()
    }
}

/// A peer's refusal. It changed nothing there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason, for programs.
    #[serde(rename = "error")]
    pub reason: RefusalReason,
    /// What happened and what to do, for people.
    pub message: String,
    /// The highest epoch the peer has promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<Epoch>,
    /// The peer's incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.reason, self.message)
    }
}

/// Why a peer refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The epoch is not the one promised.
    StaleEpoch,
    /// The message is meant for an earlier start of this node.
    Restarted,
    /// A part of a snapshot that is not being staged, or a whole one that does not add up: begin again.
    SnapshotDiscarded,
    /// Entries for a node that has no store in this epoch to put them into: it needs a snapshot.
    Incomplete,
    /// This node is a leader.
    NotFollower,
    /// The message is of another cluster, or meant for another member.
    WrongCluster,
    /// The sender was removed from the cluster.
    Removed,
    /// This node cannot answer now.
    Unavailable,
    /// The message itself is wrong.
    InvalidRequest,
    /// The token is wrong or missing.
    Unauthorized,
    /// Anything else.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: Option<&str>) -> Entry {
        Entry { key: "k\"ü".into(), version: 7, value: value.map(Value::from_json_text) }
    }

    #[test]
    fn entries_survive_the_wire_letter_by_letter() {
        for value in [Some("null"), Some("1.0e+2"), Some(r#"{"b":[1, 2],"a":"\u00fc"}"#), None] {
            let json = super::super::encode(&WireEntry::from(entry(value)));
            let back: WireEntry = serde_json::from_slice(&json).unwrap();
            assert_eq!(Entry::try_from(back).unwrap(), entry(value), "{json:?}");
        }
    }

    #[test]
    fn a_body_of_encoded_entries_reads_back() {
        let header = Header { epoch: Epoch { number: 5, leader: Incarnation(u64::MAX) }, to: Incarnation(3) };
        let encoded = [Some("1"), None].map(|value| super::super::encode(&WireEntry::from(entry(value))));
        let body = replicate_body(header, 4, encoded.iter());
        let back: ReplicateRequest = serde_json::from_slice(&body).unwrap();
        assert_eq!((back.header, back.floor, back.entries.len()), (header, 4, 2));
    }

    #[test]
    fn entries_that_say_nothing_or_two_things_are_refused() {
        for json in [
            r#"{"key":"k","version":1}"#,
            r#"{"key":"k","version":1,"value":1,"deleted":true}"#,
            r#"{"key":"","version":1,"value":1}"#,
            r#"{"key":"k","version":0,"value":1}"#,
        ] {
            let parsed: WireEntry = serde_json::from_str(json).unwrap();
            assert!(Entry::try_from(parsed).is_err(), "{json}");
        }
    }
}
