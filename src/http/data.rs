//! `/data`: this node's entries, streamed page by page, so that a large store never stands in memory twice.

use std::io;
use std::sync::Arc;
use std::vec;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use futures::stream;

use super::answer::{json, write_json};
use super::error::Failure;
use super::query::Query;
use super::schema::{DataAnswer, ErrorAnswer};
use super::{Api, status};
use crate::replication::Replication;
use crate::store::{Entry, Key};

/// Entries taken from the store at a time: their texts are shared with it, not copied.
const PAGE_ENTRIES: usize = 256;

/// Bytes put together before they go out (one more entry may come on top).
const CHUNK_BYTES: usize = 64 << 10;

/// This node's own entries in key order, or a page of them.
#[utoipa::path(get, path = "/data", tag = "store",
    params(
        ("prefix" = Option<String>, Query, description = "Only keys that begin with this"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "At most so many entries"),
        ("after" = Option<String>, Query, description = "Only keys after this one: `next` of the page before"),
    ),
    responses(
        (status = 200, description = "The entries; keys written meanwhile may or may not be among them", body = DataAnswer),
        (status = 400, description = "`invalid_request`", body = ErrorAnswer),
        (status = 503, description = "`unavailable`: this node was never complete since its start", body = ErrorAnswer),
    ))]
pub(super) async fn data(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(list(&api, request.uri()))
}

fn list(api: &Api, uri: &Uri) -> Result<Response, Failure> {
    let query = Query::parse(uri.query(), &["prefix", "limit", "after"])?;
    let limit = query.number("limit", 1)?.unwrap_or(u64::MAX);
    let prefix = query.text("prefix").unwrap_or_default().to_owned();
    let after: Option<Key> = query.text("after").map(Key::from);
    let health = api.replication.health();
    // The first page is taken before the answer begins: afterwards no status can be given any more.
    let first = api.replication.page(&prefix, after.as_deref(), page_size(limit))?;

    let mut buffer = Vec::with_capacity(1024);
    buffer.extend_from_slice(br#"{"status":"success","node_id":"#);
    write_json(&mut buffer, &*api.node_id);
    buffer.extend_from_slice(br#","role":"#);
    write_json(&mut buffer, status::role_name(health.role));
    buffer.extend_from_slice(br#","version":"#);
    write_json(&mut buffer, &health.version);
    buffer.extend_from_slice(br#","data":{"#);
    let listing = Listing {
        replication: api.replication.clone(),
        prefix,
        is_last: first.entries.len() < page_size(limit),
        page: first.entries.into_iter(),
        last: after,
        left: limit,
        count: 0,
        buffer,
    };
    Ok(json(Body::from_stream(stream::unfold(Some(listing), |listing| async {
        let mut listing = listing?;
        match listing.fill() {
            Ok(Progress::More) => Some((Ok(Bytes::from(std::mem::take(&mut listing.buffer))), Some(listing))),
            Ok(Progress::Done) => Some((Ok(Bytes::from(listing.buffer)), None)),
            // The connection breaks off, and the client sees that the answer is not whole.
            Err(error) => Some((Err(error), None)),
        }
    }))))
}

fn page_size(left: u64) -> usize {
    usize::try_from(left).map_or(PAGE_ENTRIES, |left| left.min(PAGE_ENTRIES))
}

/// A scan under way.
struct Listing {
    replication: Replication,
    prefix: String,
    /// What is left of the current page.
    page: vec::IntoIter<Entry>,
    /// Whether no page comes after it.
    is_last: bool,
    /// The last key written, or the one to start after.
    last: Option<Key>,
    /// Entries that may still come.
    left: u64,
    /// Entries written.
    count: u64,
    buffer: Vec<u8>,
}

enum Progress {
    More,
    Done,
}

impl Listing {
    /// Fills the buffer with the next chunk of the answer.
    fn fill(&mut self) -> io::Result<Progress> {
        while self.buffer.len() < CHUNK_BYTES {
            match self.page.next() {
                Some(entry) => self.put(entry),
                None if self.left == 0 => {
                    let is_cut = !self.next_page(1)?.is_empty();
                    self.finish(is_cut);
                    return Ok(Progress::Done);
                }
                None if self.is_last => {
                    self.finish(false);
                    return Ok(Progress::Done);
                }
                None => {
                    let size = page_size(self.left);
                    let page = self.next_page(size)?;
                    self.is_last = page.len() < size;
                    self.page = page.into_iter();
                }
            }
        }
        Ok(Progress::More)
    }

    fn next_page(&self, size: usize) -> io::Result<Vec<Entry>> {
        let page = self.replication.page(&self.prefix, self.last.as_deref(), size);
        page.map(|page| page.entries).map_err(io::Error::other)
    }

    fn put(&mut self, entry: Entry) {
        // Pages hold live entries only.
        let Some(value) = &entry.value else { return };
        if self.count > 0 {
            self.buffer.push(b',');
        }
        write_json(&mut self.buffer, &*entry.key);
        self.buffer.extend_from_slice(br#":{"value":"#);
        self.buffer.extend_from_slice(value.as_str().as_bytes());
        self.buffer.extend_from_slice(br#","version":"#);
        write_json(&mut self.buffer, &entry.version);
        self.buffer.push(b'}');
        self.count += 1;
        self.left -= 1;
        self.last = Some(entry.key);
    }

    fn finish(&mut self, is_cut: bool) {
        self.buffer.extend_from_slice(br#"},"count":"#);
        write_json(&mut self.buffer, &self.count);
        if let Some(last) = self.last.as_ref().filter(|_| is_cut) {
            self.buffer.extend_from_slice(br#","next":"#);
            write_json(&mut self.buffer, &**last);
        }
        self.buffer.push(b'}');
    }
}
