//! What may stand in a request's JSON: pure checks over bytes, made before anything is stored.
//!
//! `serde_json` alone lets pass what would harm a reader of the value later: a raw value may nest 100,000 brackets or
//! hold half of a surrogate pair, on which other JSON readers choke. So one scan over the text looks for these first.
//! Knows no status codes and no sockets; an error is a sentence for the client, with line and column where it helps.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::wire::Epoch;

/// The body of `/write` (with a value) and `/delete` (without).
#[derive(Deserialize, Debug)]
#[serde(expecting = "an object with \"key\"")]
pub(super) struct WriteBody<'a> {
    /// The key, unescaped.
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    /// The value's text as it was sent.
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) value: Option<&'a RawValue>,
    // These belong in the query. Other members nobody knows are ignored, but to ignore a condition or a guarantee
    // that was asked for would be a lie.
    quorum: Option<IgnoredAny>,
    if_version: Option<IgnoredAny>,
}

/// Keeps a JSON `null` that is there apart from a value that is not.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> WriteBody<'a> {
    /// Reads and checks a body, all but the presence of `value`.
    pub(super) fn parse(
        body: &'a [u8],
        key_bytes_max: usize,
        depth_max: usize,
    ) -> Result<WriteBody<'a>, String> {
        let parsed: WriteBody<'a> = object(body, depth_max)?;
        for (name, is_there) in
            [("quorum", parsed.quorum.is_some()), ("if_version", parsed.if_version.is_some())]
        {
            if is_there {
                return Err(format!(
                    "`{name}` does not belong in the body: pass it in the query, as in /write?{name}=1"
                ));
            }
        }
        check_key(&parsed.key, key_bytes_max)?;
        Ok(parsed)
    }
}

/// What `/api/command` can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Op {
    /// As `/write`.
    Write,
    /// As `/delete`.
    Delete,
    /// As `/read`.
    Read,
}

/// Reads what the body of `/api/command` asks for. The rest of it is a [`WriteBody`].
pub(super) fn parse_op(body: &[u8], depth_max: usize) -> Result<Op, String> {
    #[derive(Deserialize)]
    struct Command {
        op: Op,
    }
    object::<Command>(body, depth_max).map(|command| command.op)
}

/// The body of `/recover`.
#[derive(Deserialize, Debug)]
struct RecoverBody {
    epoch: Epoch,
}

/// Reads the body of `/recover`: `{"epoch":"<number>-<id>"}`.
pub(super) fn parse_recover(body: &[u8], depth_max: usize) -> Result<Epoch, String> {
    object::<RecoverBody>(body, depth_max).map(|body| body.epoch)
}

/// The body of `/cluster/leader`.
#[derive(Deserialize, Debug)]
struct LeaderBody {
    to: String,
}

/// Reads the body of `/cluster/leader`: `{"to":"<name>"}`.
pub(super) fn parse_leader(body: &[u8], depth_max: usize) -> Result<String, String> {
    object::<LeaderBody>(body, depth_max).map(|body| body.to)
}

/// Reads the body of `POST /cluster/members`: `{"url":"<host:port>"}`.
pub(super) fn parse_member(body: &[u8], depth_max: usize) -> Result<String, String> {
    #[derive(Deserialize)]
    struct MemberBody {
        url: String,
    }
    object::<MemberBody>(body, depth_max).map(|body| body.url)
}

/// A key is not empty and not too long.
pub(super) fn check_key(key: &str, bytes_max: usize) -> Result<(), String> {
    match key.len() {
        0 => Err("the key is empty: a key has at least one character".into()),
        bytes if bytes > bytes_max => {
            Err(format!("the key has {bytes} bytes, more than the {bytes_max} that MAX_KEY_BYTES allows"))
        }
        _ => Ok(()),
    }
}

/// Whether a content type says JSON. Parameters do no harm, unless they name an encoding other than UTF-8.
pub(super) fn check_content_type(content_type: Option<&[u8]>) -> Result<(), String> {
    let hint = "send the header `content-type: application/json` (curl: --json instead of -d)";
    let Some(content_type) = content_type else {
        return Err(format!("the request has no content type: {hint}"));
    };
    let text = String::from_utf8_lossy(content_type);
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(format!("content type {essence:?} is not supported: {hint}"));
    }
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim_matches('"');
        if name.trim_end().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8") {
            return Err(format!("charset {value:?} is not supported: JSON is sent as UTF-8; {hint}"));
        }
    }
    Ok(())
}

/// Reads a body that must be one JSON object, after the checks that `serde_json` does not make.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8], depth_max: usize) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|error| {
        format!("the body is not UTF-8: byte {} (counted from 0) begins no character", error.valid_up_to())
    })?;
    // An array would otherwise do as well: serde reads structs from sequences.
    match text.bytes().enumerate().find(|(_, byte)| !byte.is_ascii_whitespace()) {
        Some((_, b'{')) => {}
        Some((at, _)) => return Err(format!("the body must be a JSON object, {}", place(text, at))),
        None => return Err("the body is empty: send a JSON object".into()),
    }
    scan(text, depth_max)?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Finds nesting deeper than `depth_max` and escapes of half a surrogate pair, in one pass that does not recurse.
/// Whether the text is JSON at all is left to the parser.
fn scan(text: &str, depth_max: usize) -> Result<(), String> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0usize, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                at += escape(bytes, at).ok_or_else(|| {
                    format!("an escape of half a surrogate pair stands for no character, {}", place(text, at))
                })?;
                continue;
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > depth_max {
                    return Err(format!(
                        "the JSON is nested deeper than the {depth_max} levels that MAX_JSON_DEPTH allows, {}",
                        place(text, at)
                    ));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The length of the escape at `at`, a whole surrogate pair taken as one; `None` if it is half of one.
fn escape(bytes: &[u8], at: usize) -> Option<usize> {
    match unit(bytes, at) {
        Some(0xD800..0xDC00) => match unit(bytes, at + 6) {
            Some(0xDC00..0xE000) => Some(12),
            _ => None,
        },
        Some(0xDC00..0xE000) => None,
        Some(_) => Some(6),
        None => Some(2),
    }
}

/// The UTF-16 unit that `\uXXXX` at `at` stands for.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

/// `at line 1 column 2`, as `serde_json` says it.
fn place(text: &str, at: usize) -> String {
    let before = &text.as_bytes()[..at];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + at - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    format!("at line {line} column {column}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> Result<WriteBody<'_>, String> {
        WriteBody::parse(body.as_bytes(), 8, 4)
    }

    #[test]
    fn the_value_is_the_text_that_was_sent() {
        for value in
            ["null", "1.0e+2", "1e999", r#"{"b":[1, 2],"a":"\u00fc\ud83d\ude00"}"#, r#""\\ud800""#, "-0"]
        {
            let body = format!("{{ \"key\" : \"k\\n\" ,\n \"value\" :  {value}  }} ");
            let parsed = parse(&body).unwrap();
            assert_eq!((&*parsed.key, parsed.value.unwrap().get()), ("k\n", value));
        }
        assert!(parse(r#"{"key":"k"}"#).unwrap().value.is_none());
        assert!(parse(r#"{"key":"k","ttl":5}"#).is_ok(), "members nobody knows are ignored");
    }

    #[test]
    fn bad_bodies_are_refused_with_what_and_where() {
        for (body, complaint) in [
            ("", "empty"),
            (" \n ", "empty"),
            ("[\"k\",1]", "must be a JSON object, at line 1 column 1"),
            ("\n  7", "at line 2 column 3"),
            ("{\"key\":\"k\",\n\"value\":}", "line 2 column 9"),
            ("{\"key\":\"k\",\"value\":1", "EOF while parsing an object at line 1 column 20"),
            ("{\"key\":\"k\",\"value\":1} x", "trailing characters at line 1 column 23"),
            ("{\"key\":\"k\",\"value\":01}", "line 1 column"),
            ("{\"key\":\"k\",\"value\":\"\u{1}\"}", "control character"),
            (r#"{"value":1}"#, "missing field `key`"),
            (r#"{"key":7,"value":1}"#, "invalid type: integer `7`, expected a string"),
            (r#"{"key":null,"value":1}"#, "invalid type: null"),
            (r#"{"key":"k","key":"k","value":1}"#, "duplicate field `key`"),
            (r#"{"key":"k","value":1,"value":1}"#, "duplicate field `value`"),
            (r#"{"key":"","value":1}"#, "the key is empty"),
            (r#"{"key":"123456789","value":1}"#, "the key has 9 bytes, more than the 8"),
            (r#"{"key":"k","value":[[[[1]]]]}"#, "nested deeper than the 4 levels"),
            (
                r#"{"key":"k","value":"\ud800"}"#,
                "surrogate pair stands for no character, at line 1 column 21",
            ),
            (r#"{"key":"k","value":{"\udc00":1}}"#, "surrogate"),
            (r#"{"key":"\ud800","value":1}"#, "surrogate"),
            (r#"{"key":"k","value":"\ud800\ud800"}"#, "surrogate"),
            (r#"{"key":"k","value":"\ud800\\udc00"}"#, "surrogate"),
            (r#"{"key":"k","value":1,"quorum":3}"#, "/write?quorum=1"),
            (r#"{"key":"k","value":1,"if_version":0}"#, "in the query"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(complaint), "{body}: {error}");
        }
        let error = WriteBody::parse(b"{\"key\":\"k\xff\"}", 8, 4).unwrap_err();
        assert!(error.contains("byte 9 "), "{error}");
    }

    #[test]
    fn brackets_in_strings_do_not_nest_and_a_hundred_thousand_do_no_harm() {
        assert!(parse(r#"{"key":"[[[[[[","value":"{{{{{{\"[[[[["}"#).is_ok());
        assert!(parse(r#"{"key":"k","value":[[[]],[[]],{"a":[]}]}"#).is_ok());
        let deep = format!("{{\"key\":\"k\",\"value\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).unwrap_err().contains("MAX_JSON_DEPTH"));
    }

    #[test]
    fn json_is_asked_for_and_other_encodings_are_refused() {
        let check = |text: &str| check_content_type(Some(text.as_bytes()));
        for good in [
            "application/json",
            "Application/JSON;charset=utf-8",
            "application/json; charset=\"UTF-8\"",
            "application/json ; x=y",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "application/json;charset=latin1",
        ] {
            assert!(check(bad).unwrap_err().contains("--json"), "{bad}");
        }
        assert!(check_content_type(None).is_err());
    }

    #[test]
    fn an_epoch_to_give_up_is_read() {
        assert_eq!(
            parse_recover(br#"{"epoch":"7-00000000000000ff"}"#, 4).unwrap().to_string(),
            "7-00000000000000ff"
        );
        assert!(parse_recover(br#"{"epoch":7}"#, 4).is_err());
        assert!(parse_recover(br#"{"epoch":"7"}"#, 4).unwrap_err().contains("number-id"));
        assert!(parse_recover(b"{}", 4).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_json_that_any_reader_takes(body in r#"\{"key":"[a-z"\\u0-9df]{0,6}","value":[\[\]{}"\\ud80-9dc,:]{0,12}\}"#) {
            let parsed = WriteBody::parse(body.as_bytes(), 1024, 128);
            if let Some(value) = parsed.ok().and_then(|parsed| parsed.value) {
                let strict = serde_json::from_str::<serde_json::Value>(value.get());
                prop_assert!(strict.is_ok(), "{}", value.get());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = WriteBody::parse(&body, 8, 4);
            let _ = scan(&String::from_utf8_lossy(&body), 4);
        }
    }
}
