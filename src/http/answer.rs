//! Answers with success, written by hand: a value goes out as the bytes it came in, without being parsed again.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::Serialize;

use crate::store::Value;

/// A flat JSON object under construction, beginning with `"status":"success"`.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// An answer of about `size` bytes.
    pub(super) fn success(size: usize) -> Answer {
        let mut bytes = Vec::with_capacity(size + 96);
        bytes.extend_from_slice(br#"{"status":"success""#);
        Answer(bytes)
    }

    /// Adds a member whose value `serde` writes: a text, a number.
    pub(super) fn add<T: Serialize + ?Sized>(mut self, name: &'static str, value: &T) -> Answer {
        self.name(name);
        write_json(&mut self.0, value);
        self
    }

    /// Adds a member that is JSON already.
    pub(super) fn add_value(mut self, name: &'static str, value: &Value) -> Answer {
        self.name(name);
        self.0.extend_from_slice(value.as_str().as_bytes());
        self
    }

    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// The whole answer: status 200.
    pub(super) fn finish(mut self) -> Response {
        self.0.push(b'}');
        json(Body::from(self.0))
    }
}

/// Appends a text or a number as JSON.
pub(super) fn write_json<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    // Writing into a Vec does not fail, nor do texts, numbers and plain structs of them.
    let _ = serde_json::to_writer(bytes, value);
}

/// A body of JSON with status 200.
pub(super) fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
