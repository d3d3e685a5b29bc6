//! What is written: which key and which value each write has, and the request that carries them.
//!
//! Pure and seeded: write number n is the same in every run with the same seed, whichever writer sends it. Keys all
//! have the same length, and so do values: a request is laid out once and only its key and value change.

use std::ops::Range;

/// Before the number in each key, so that a cluster in use shows whose keys they are.
const KEY_PREFIX: &str = "bench-";
/// What values are made of: 64 characters that JSON does not escape.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Characters that one random number is good for, at six bits each.
const CHARACTERS_PER_NUMBER: usize = 10;

/// The writes of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    keys: u64,
    value_bytes: usize,
    stream: u64,
}

impl Workload {
    /// Writes on `keys` (≥ 1) keys with strings of `value_bytes` bytes. Runs with different `(seed, run)` differ.
    pub(super) fn new(keys: u64, value_bytes: usize, seed: u64, run: u64) -> Workload {
        Workload { keys: keys.max(1), value_bytes, stream: mix(mix(seed).wrapping_add(run)) }
    }

    /// The random numbers of one write.
    fn numbers(&self, write: u64) -> Numbers {
        Numbers(self.stream ^ mix(write))
    }
}

/// An HTTP/1.1 request for one write, with room for its key and value.
pub(super) struct Request {
    workload: Workload,
    bytes: Vec<u8>,
    digits: Range<usize>,
    value: Range<usize>,
}

impl Request {
    /// `POST /write?quorum=…` to `host` (`name:port`).
    pub(super) fn new(workload: Workload, host: &str, quorum: usize) -> Request {
        let digits = (workload.keys - 1).max(1).ilog10() as usize + 1;
        let before_key = format!("{{\"key\":\"{KEY_PREFIX}");
        let before_value = "\",\"value\":\"";
        let end = "\"}";
        let length = before_key.len() + digits + before_value.len() + workload.value_bytes + end.len();
        let mut bytes = format!(
            "POST /write?quorum={quorum} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{before_key}"
        )
        .into_bytes();
        let mut room = |length: usize, after: &str| {
            let start = bytes.len();
            bytes.resize(start + length, b'0');
            bytes.extend_from_slice(after.as_bytes());
            start..start + length
        };
        let digits = room(digits, before_value);
        let value = room(workload.value_bytes, end);
        Request { workload, bytes, digits, value }
    }

    /// The request of this write.
    pub(super) fn of(&mut self, write: u64) -> &[u8] {
        let mut numbers = self.workload.numbers(write);
        // The high bits of a product choose evenly among the keys (Lemire, 2019), without a division.
        let mut key = ((u128::from(numbers.next()) * u128::from(self.workload.keys)) >> 64) as u64;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
        for characters in self.bytes[self.value.clone()].chunks_mut(CHARACTERS_PER_NUMBER) {
            let mut number = numbers.next();
            for character in characters {
                *character = ALPHABET[(number & 63) as usize];
                number >>= 6;
            }
        }
        &self.bytes
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a random sequence from any state, in a few instructions.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn body(request: &[u8]) -> (String, serde_json::Value) {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = head.split_once("content-length: ").unwrap().1.parse().unwrap();
        assert_eq!(length, body.len());
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_request_is_what_the_contract_asks_for() {
        let mut request = Request::new(Workload::new(100, 8, 1, 3), "localhost:8000", 3);
        let (head, body) = body(request.of(17));
        assert!(head.starts_with("POST /write?quorum=3 HTTP/1.1\r\nhost: localhost:8000\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"));
        assert_eq!(body["value"].as_str().unwrap().len(), 8);
        assert_eq!(body["key"].as_str().unwrap().len(), "bench-42".len());
    }

    #[test]
    fn every_key_is_written_about_as_often_as_the_others() {
        let mut request = Request::new(Workload::new(10, 64, 1, 1), "h:1", 1);
        let mut counts = std::collections::BTreeMap::new();
        let mut values = BTreeSet::new();
        for write in 0..10_000 {
            let (_, body) = body(request.of(write));
            *counts.entry(body["key"].to_string()).or_insert(0) += 1;
            values.insert(body["value"].to_string());
        }
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(values.len(), 10_000, "values repeat");
    }

    proptest! {
        #[test]
        fn a_write_depends_on_its_number_alone(
            keys in 1u64..=2_000_000, value_bytes in 0usize..200, seed: u64, run in 1u64..10,
            writes in prop::collection::vec(any::<u64>(), 1..20),
        ) {
            let workload = Workload::new(keys, value_bytes, seed, run);
            let mut reused = Request::new(workload, "h:1", 1);
            for write in writes {
                let bytes = reused.of(write).to_vec();
                let mut fresh = Request::new(workload, "h:1", 1);
                prop_assert_eq!(&bytes, fresh.of(write));
                let (_, body) = body(&bytes);
                let key = body["key"].as_str().unwrap().strip_prefix(KEY_PREFIX).unwrap().parse::<u64>().unwrap();
                prop_assert!(key < keys);
                prop_assert_eq!(body["value"].as_str().unwrap().len(), value_bytes);
            }
        }
    }
}
