//! The bytes of an answer to a write, read with as little work as will do.
//!
//! Owns the small part of HTTP/1.1 that the load needs: a status, a length, whether the connection goes on, and
//! whether the body says success. Pure. Refuses chunked bodies: a node's answer to a write is short and has a length.

use std::ops::Range;

use serde::Deserialize;

/// Bytes of an answer's head, at the most.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What the body of a successful write holds, as nodes write it.
const SUCCESS: &[u8] = br#""status":"success""#;
/// Characters of an error code or message that are kept.
const MAX_ERROR_CHARS: usize = 300;

/// How far an answer has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    More,
    /// It is here.
    Whole(Answer),
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    /// Where its body is in the bytes.
    pub body: Range<usize>,
    /// Whether the node closes the connection after it.
    pub is_last: bool,
}

/// Looks for a whole answer in `bytes`, which start with it. The error says why this is none.
pub(super) fn parse(bytes: &[u8], max_body_bytes: usize) -> Result<Progress, String> {
    let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() {
            0..=MAX_HEAD_BYTES => Ok(Progress::More),
            _ => Err("the head does not end".into()),
        };
    };
    let mut lines = bytes[..head_end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status_line = lines.next().unwrap_or_default();
    let (status, mut is_last) = match status_line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', status @ ..] => {
            let status = status.get(..3).and_then(number).ok_or("the status is not a number")?;
            (status as u16, *minor == b'0')
        }
        _ => return Err("it does not begin as HTTP/1 does".into()),
    };
    let mut length = None;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(number(value).ok_or("content-length is not a number")?);
        } else if name.eq_ignore_ascii_case(b"connection") {
            is_last = value.eq_ignore_ascii_case(b"close")
                || (is_last && !value.eq_ignore_ascii_case(b"keep-alive"));
        }
    }
    let length = length.ok_or("it has no content-length")?;
    if length > max_body_bytes {
        return Err(format!("a body of {length} bytes is too large for the answer to a write"));
    }
    let body = head_end + 4..head_end + 4 + length;
    Ok(if bytes.len() < body.end {
        Progress::More
    } else {
        Progress::Whole(Answer { status, body, is_last })
    })
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether this body is that of a successful write.
pub(super) fn is_success(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Status {
        status: String,
    }
    // Nodes write the status first, so the short way hardly looks at anything. Others may set spaces elsewhere.
    body.windows(SUCCESS.len()).any(|window| window == SUCCESS)
        || serde_json::from_slice::<Status>(body).is_ok_and(|body| body.status == "success")
}

/// A refused write: what kind of refusal (`503 unavailable`), and the whole story.
pub(super) fn refusal(status: u16, body: &[u8]) -> (String, String) {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { error, message }) => (format!("{status} {}", shorten(&error)), shorten(&message)),
        Err(_) => (status.to_string(), shorten(&String::from_utf8_lossy(body))),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Answer {
        match parse(bytes, 1000) {
            Ok(Progress::Whole(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_status_a_length_and_whether_it_is_the_last() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";
        let answer = whole(bytes);
        assert_eq!((answer.status, &bytes[answer.body], answer.is_last), (200, &b"abc"[..], false));
        let last = |head: &str| whole(format!("{head}\r\ncontent-length:0\r\n\r\n").as_bytes()).is_last;
        assert!(last("HTTP/1.1 503 Service Unavailable\r\nconnection: close"));
        assert!(last("HTTP/1.0 200 OK"));
        assert!(!last("HTTP/1.0 200 OK\r\nConnection: keep-alive"));
        assert!(!last("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 abc\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n",
            &"x".repeat(20_000),
        ] {
            assert!(parse(bytes.as_bytes(), 1000).is_err(), "{bytes:.40} was accepted");
        }
    }

    #[test]
    fn success_and_refusals_are_told_apart() {
        assert!(is_success(br#"{"status":"success","version":1}"#));
        assert!(is_success(br#"{ "version": 1, "status" : "success" }"#));
        assert!(!is_success(br#"{"status":"error"}"#));
        assert!(!is_success(b"status success"));
        let body = br#"{"status":"error","error":"unavailable","message":"2 of 3 followers are up"}"#;
        assert_eq!(refusal(503, body), ("503 unavailable".into(), "2 of 3 followers are up".into()));
        assert_eq!(refusal(502, b"Bad\nGateway"), ("502".into(), "BadGateway".into()));
    }

    proptest! {
        #[test]
        fn an_answer_is_whole_with_its_last_byte_and_not_before(body in "[a-z]{0,50}", status in 200u16..600) {
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            for end in 0..text.len() {
                prop_assert_eq!(parse(&text.as_bytes()[..end], 1000), Ok(Progress::More));
            }
            let answer = whole(text.as_bytes());
            prop_assert_eq!((answer.status, &text[answer.body]), (status, &body[..]));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), tail in "[ -~\r\n]{0,100}") {
            let _ = parse(&bytes, 1000);
            let _ = parse(format!("HTTP/1.1 {tail}\r\n\r\n").as_bytes(), 1000);
            is_success(&bytes);
            refusal(500, &bytes);
        }
    }
}
