//! What is stored: keys, values as the raw JSON text the client sent, and versions.
//!
//! Knows nothing of replication: a version is a number that orders writes, whoever assigned it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Orders all accepted writes of a cluster: 1, 2, 3, … 0 stands for "no write yet".
pub type Version = u64;

/// A key: any non-empty Unicode text up to `MAX_KEY_BYTES` bytes. Cheap to clone.
pub type Key = Arc<str>;

/// A JSON value, kept as the exact text that was sent (number text, key order, nesting). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Value(Arc<str>);

impl Value {
    /// Wraps a text that the caller knows to be one JSON value.
    pub fn from_json_text(text: &str) -> Value {
        Value(text.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Value(raw.get().into()))
    }
}

/// One write as it is stored and replicated: the newest version of a key wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key written.
    pub key: Key,
    /// The version of this write.
    pub version: Version,
    /// The value, or `None` for a delete: a tombstone, which has a version like any write.
    pub value: Option<Value>,
}

impl Entry {
    /// Bytes this entry takes, roughly: its texts and a fixed share for what surrounds them.
    pub fn size_bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.as_str().len()) + 96
    }
}
