//! Reading a request's body: type, size and time are checked here, before anybody looks at what it says.
//!
//! A body that will not be read is still taken from the wire, up to a limit: closing a socket with unread bytes sends
//! a reset, which can destroy the answer before the client has seen why it was refused.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use futures::{Stream, StreamExt, TryStreamExt};

use super::error::{Code, Failure};
use super::json;

/// Bytes of a refused body that are read and thrown away so that its sender hears the answer.
const DISCARD_BYTES_MAX: usize = 16 << 20;

/// Reads a JSON body of at most `bytes_max` bytes, which must be there within `patience`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    patience: Duration,
) -> Result<Bytes, Failure> {
    if let Err(complaint) = json::check_content_type(headers.get(CONTENT_TYPE).map(AsRef::as_ref)) {
        discard(headers, body, patience).await;
        return Err(Failure::new(Code::UnsupportedMediaType, complaint));
    }
    let announced: Option<u64> =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()).and_then(|n| n.parse().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        discard(headers, body, patience).await;
        return Err(too_large(bytes_max));
    }
    tokio::time::timeout(patience, collect(body, bytes_max)).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Code::RequestTimeout,
            format!("the body was not there within {patience:?} (HEADER_TIMEOUT); nothing was stored"),
        ))
    })
}

/// Takes a body nobody wants from the wire, so that the answer can be heard.
pub(super) async fn discard(headers: &HeaderMap, body: Body, patience: Duration) {
    if headers.contains_key(EXPECT) {
        // The client waits for leave to send it, and will hear the answer instead.
        return;
    }
    // In time or not, the answer is the same.
    let _ = tokio::time::timeout(patience, drain(body.into_data_stream())).await;
}

async fn drain<E>(stream: impl Stream<Item = Result<Bytes, E>>) {
    let mut stream = std::pin::pin!(stream);
    let mut bytes = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        bytes += chunk.len();
        if bytes > DISCARD_BYTES_MAX {
            break;
        }
    }
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let mut stream = body.into_data_stream().map_err(|error| {
        Failure::invalid(format!("the body broke off: {error}; nothing was stored, send the request again"))
    });
    // A small body is one chunk, which is then taken as it is.
    let Some(first) = stream.try_next().await? else { return Ok(Bytes::new()) };
    let Some(second) = stream.try_next().await? else {
        return if first.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(first) };
    };
    let mut whole = Vec::with_capacity(2 * (first.len() + second.len()));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if whole.len() + chunk.len() > bytes_max {
            drain(stream).await;
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&chunk);
        next = stream.try_next().await?;
    }
    Ok(whole.into())
}

fn too_large(bytes_max: usize) -> Failure {
    Failure::new(
        Code::TooLarge,
        format!("the body is larger than the {bytes_max} bytes that are allowed; nothing was stored"),
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    async fn status_of(headers: &[(axum::http::HeaderName, &'static str)], body: Body) -> Result<Bytes, u16> {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let read = read(&headers, body, 8, Duration::from_secs(1)).await;
        read.map_err(|failure| failure.into_response("n").status().as_u16())
    }

    fn chunks(chunks: &'static [&'static str]) -> Body {
        Body::from_stream(futures::stream::iter(chunks.iter().map(|c| Ok::<_, std::io::Error>(*c))))
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_limited_in_type_size_and_time() {
        let json = (CONTENT_TYPE, "application/json");
        assert_eq!(
            status_of(std::slice::from_ref(&json), chunks(&["1234", "56", "78"])).await.unwrap(),
            "12345678"
        );
        assert_eq!(status_of(std::slice::from_ref(&json), chunks(&[])).await.unwrap(), "");
        assert_eq!(status_of(std::slice::from_ref(&json), chunks(&["123456789"])).await, Err(413));
        assert_eq!(status_of(std::slice::from_ref(&json), chunks(&["1234", "56", "789"])).await, Err(413));
        assert_eq!(status_of(&[json.clone(), (CONTENT_LENGTH, "9")], chunks(&["1"])).await, Err(413));
        assert_eq!(status_of(&[], chunks(&["{}"])).await, Err(415));
        let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(status_of(std::slice::from_ref(&json), stalled).await, Err(408));
        let broken = Body::from_stream(futures::stream::iter([
            Ok(Bytes::from_static(b"{")),
            Err(std::io::Error::other("gone")),
        ]));
        assert_eq!(status_of(&[json], broken).await, Err(400));
    }
}
