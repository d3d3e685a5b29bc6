//! What consensus is about: members, commands, and what becomes of each operation.
//!
//! Owns the types that openraft is told of ([`Types`]) and their JSON. A command is a list of operations, so that many
//! writes of clients become one entry of the log; its JSON is written once and shared by the log, the links to all
//! followers and the database. Knows nothing of how a log is kept or moved.

use std::fmt;
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::store::{Key, Value, Version};

openraft::declare_raft_types!(
    /// The types of this cluster, for openraft.
    pub Types:
        D = Command,
        R = Outcomes,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::Runtime,
);

/// Names a folder of data, and with it a member: drawn once when the folder is made. A wiped member comes back as
/// another one, for it has forgotten its votes.
pub type StorageId = u64;

/// A place in the log: term and index.
pub type LogId = openraft::alias::LogIdOf<Types>;
/// A vote, as openraft has it.
pub type Vote = openraft::alias::VoteOf<Types>;
/// An entry of the log.
pub type Entry = openraft::alias::EntryOf<Types>;
/// Who belongs to the cluster, and where in the log that was decided.
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
/// What is said about a snapshot.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// What the members know of each other, in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name.
    pub node_id: String,
    /// Where the others reach it.
    pub url: String,
    /// The cluster it belongs to.
    pub cluster_id: String,
}

/// What a client asked to be done to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: Key,
    /// The new value, or `None` to delete the key.
    pub value: Option<Value>,
    /// Only if the key's version is this one when it is applied (0: the key must not exist).
    pub if_version: Option<Version>,
}

/// An operation as JSON: `{"op":"write","key","value"}`, `{"op":"delete","key"}`, each with `if_version` if there is one.
#[derive(Serialize, Deserialize)]
struct WireOperation {
    op: Op,
    key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_version: Option<Version>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Write,
    Delete,
}

/// Keeps a JSON `null` that is there apart from a value that is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let op = if self.value.is_some() { Op::Write } else { Op::Delete };
        let (key, value) = (self.key.clone(), self.value.clone());
        WireOperation { op, key, value, if_version: self.if_version }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Operation, D::Error> {
        let WireOperation { op, key, value, if_version } = WireOperation::deserialize(deserializer)?;
        if (op == Op::Write) != value.is_some() {
            return Err(de::Error::custom("a write has a value, a delete has none"));
        }
        Ok(Operation { key, value, if_version })
    }
}

/// Operations in order, and their JSON. Cheap to clone.
#[derive(Clone)]
pub struct Command {
    text: Arc<RawValue>,
    operations: Arc<[Operation]>,
}

impl Command {
    /// A command of these operations.
    ///
    /// # Panics
    /// Never: operations are plain texts and numbers, which always have a JSON form.
    pub fn new(operations: Vec<Operation>) -> Command {
        #[expect(clippy::expect_used, reason = "texts, numbers and raw JSON always serialize")]
        let text = serde_json::value::to_raw_value(&operations).expect("operations serialize");
        Command { text: text.into(), operations: operations.into() }
    }

    /// The operations.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The JSON array of the operations.
    pub fn text(&self) -> &Arc<RawValue> {
        &self.text
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Command, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let operations: Vec<Operation> = serde_json::from_str(text.get()).map_err(de::Error::custom)?;
        Ok(Command { text: text.into(), operations: operations.into() })
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.get())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.operations.len())
    }
}

/// What became of one operation when it was applied. All nodes come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, as this version.
    Done(Version),
    /// `if_version` did not hold: the key is at this version (0: it does not exist). Nothing was changed.
    Mismatch(Version),
    /// A delete of a key that does not exist. Nothing was changed.
    NotFound,
}

/// What became of each operation of a command, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Outcome>);

/// The text that stands for an entry in the database: a JSON array of operations, empty for the mark that a new leader
/// sets, with a membership as the one operation of its kind.
pub fn command_text(payload: &EntryPayload<Command, StorageId, Member>) -> Arc<RawValue> {
    #[derive(Serialize)]
    struct Change<'a> {
        op: &'static str,
        membership: &'a openraft::Membership<StorageId, Member>,
    }
    let made = match payload {
        EntryPayload::Normal(command) => return command.text().clone(),
        EntryPayload::Blank => serde_json::value::to_raw_value::<[u8; 0]>(&[]),
        EntryPayload::Membership(membership) => {
            serde_json::value::to_raw_value(&[Change { op: "membership", membership }])
        }
    };
    #[expect(clippy::expect_used, reason = "string keys, texts and numbers always serialize")]
    made.expect("memberships serialize").into()
}

/// The other way round. The error says what is wrong with the text.
pub fn parse_command(text: &str) -> Result<EntryPayload<Command, StorageId, Member>, String> {
    #[derive(Deserialize)]
    struct Change {
        op: String,
        membership: Option<openraft::Membership<StorageId, Member>>,
    }
    if text == "[]" {
        return Ok(EntryPayload::Blank);
    }
    if let Ok([Change { op, membership: Some(membership) }]) = serde_json::from_str::<[Change; 1]>(text)
        && op == "membership"
    {
        return Ok(EntryPayload::Membership(membership));
    }
    serde_json::from_str(text).map(EntryPayload::Normal).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn operation(value: Option<&str>, if_version: Option<u64>) -> Operation {
        Operation { key: "k\"ü".into(), value: value.map(Value::from_json_text), if_version }
    }

    #[test]
    fn commands_survive_their_json_letter_by_letter() {
        let command = Command::new(vec![
            operation(Some("null"), None),
            operation(Some(r#"{"b":[1, 2.0],"a":1e999}"#), Some(0)),
            operation(None, Some(u64::MAX)),
        ]);
        let json = serde_json::to_string(&command).unwrap();
        let back: Command = serde_json::from_str(&json).unwrap();
        assert_eq!(back.operations(), command.operations());
        assert_eq!(back.text().get(), command.text().get());
        assert!(json.contains(r#""value":{"b":[1, 2.0],"a":1e999}"#), "{json}");
    }

    #[test]
    fn operations_that_say_two_things_are_refused() {
        for json in [
            r#"{"op":"write","key":"k"}"#,
            r#"{"op":"delete","key":"k","value":null}"#,
            r#"{"op":"x","key":"k"}"#,
        ] {
            assert!(serde_json::from_str::<Operation>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn every_kind_of_entry_has_its_text() {
        let member = Member { node_id: "n".into(), url: "http://a:1".into(), cluster_id: "c".into() };
        let membership =
            openraft::Membership::new(vec![BTreeSet::from([7])], BTreeMap::from([(7, member)])).unwrap();
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Membership(membership),
            EntryPayload::Normal(Command::new(vec![operation(Some("1"), None)])),
        ];
        for payload in payloads {
            let text = command_text(&payload);
            assert!(text.get().starts_with('['), "{text}");
            let back = parse_command(text.get()).unwrap();
            assert_eq!(command_text(&back).get(), text.get());
            assert_eq!(std::mem::discriminant(&back), std::mem::discriminant(&payload));
        }
        assert!(parse_command("{}").is_err());
    }
}
