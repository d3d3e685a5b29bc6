//! Query strings, read strictly: a parameter that is misspelt, repeated or out of range is an error, for ignoring it
//! would answer another question than the one asked. Pure; knows no status codes. An error is a sentence.

use std::borrow::Cow;

/// The parameters of one request: each known, each at most once.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pairs: Vec<(&'static str, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads what follows the `?`; `known` are the names this route takes.
    pub(super) fn parse(raw: Option<&'a str>, known: &[&'static str]) -> Result<Query<'a>, String> {
        let mut pairs: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(name) = known.iter().copied().find(|known| **known == *name) else {
                let names = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(format!("the query parameter {name:?} is unknown; this route knows {names}"));
            };
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(format!("the query parameter {name:?} is there more than once"));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Query { pairs })
    }

    /// A parameter's text, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// A parameter that must be a whole number of at least `min`.
    pub(super) fn number(&self, name: &str, min: u64) -> Result<Option<u64>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // `parse` would take a leading `+`.
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_digits && number >= min => Ok(Some(number)),
            _ => Err(format!("{name} must be a whole number from {min} to {}, not {text:?}", u64::MAX)),
        }
    }
}

/// Undoes the escapes of a form: `%41` is a byte, `+` is a space.
fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digit = |nth: usize| char::from(*after.get(nth)?).to_digit(16);
                let byte = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                let byte = byte.ok_or_else(|| {
                    format!("in the query, {text:?} has a % without two hex digits after it")
                })?;
                rest = &after[2..];
                byte
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| format!("in the query, {text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["key", "quorum"];

    #[test]
    fn parameters_are_unescaped() {
        let query = Query::parse(Some("key=a%20b+c%2B%C3%BC=d&&quorum=3"), KNOWN).unwrap();
        assert_eq!(query.text("key"), Some("a b c+ü=d"));
        assert_eq!(query.number("quorum", 1), Ok(Some(3)));
        assert_eq!(Query::parse(None, KNOWN).unwrap().text("key"), None);
        assert_eq!(Query::parse(Some("key"), KNOWN).unwrap().text("key"), Some(""));
    }

    #[test]
    fn what_is_unknown_repeated_or_malformed_is_refused() {
        for (raw, complaint) in [
            ("kye=a", "this route knows key, quorum"),
            ("key=a&key=a", "more than once"),
            ("key=%zz", "two hex digits"),
            ("key=%2", "two hex digits"),
            ("key=%", "two hex digits"),
            ("key=%ff", "not UTF-8"),
            ("%ff=a", "not UTF-8"),
        ] {
            let error = Query::parse(Some(raw), KNOWN).unwrap_err();
            assert!(error.contains(complaint), "{raw}: {error}");
        }
    }

    #[test]
    fn numbers_are_whole_and_in_range() {
        for bad in ["", "0", "-1", "+1", "1.0", "1e3", "x", "18446744073709551616", "0x1", "%201", "١"] {
            let raw = format!("quorum={bad}");
            let query = Query::parse(Some(&raw), KNOWN).unwrap();
            assert!(query.number("quorum", 1).unwrap_err().contains("whole number from 1"), "{bad}");
        }
        let query = Query::parse(Some("quorum=18446744073709551615"), KNOWN).unwrap();
        assert_eq!(query.number("quorum", 1), Ok(Some(u64::MAX)));
    }
}
