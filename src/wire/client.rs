//! The HTTP client of the commands: a node's answer as anybody would get it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

/// How long a connection may take to be made, at the most.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

fn builder(token: Option<&str>) -> Result<reqwest::ClientBuilder, String> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, bearer(token)?);
    }
    // A proxy from the environment must not come between nodes; redirects are no part of the protocol.
    Ok(reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .default_headers(headers))
}

/// `CLUSTER_TOKEN` as the value of a header.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "CLUSTER_TOKEN has characters that do not fit into an HTTP header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// An answer to a command's request, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// What the commands use to talk to a node as any client would.
#[derive(Clone)]
pub struct HttpClient {
    client: reqwest::Client,
}

impl HttpClient {
    /// A client that gives up on a request after `timeout`, and sends `token` if there is one.
    pub fn new(timeout: Duration, token: Option<&str>) -> Result<HttpClient, String> {
        let client = builder(token)?.timeout(timeout).build().map_err(|error| error.to_string())?;
        Ok(HttpClient { client })
    }

    /// `GET url`, with query parameters, which are escaped here.
    pub async fn get(&self, url: &str, query: &[(&str, &str)]) -> Result<Answer, String> {
        self.send(self.client.get(with_query(url, query)?)).await
    }

    /// `POST url` with a JSON body.
    pub async fn post(&self, url: &str, query: &[(&str, &str)], body: Bytes) -> Result<Answer, String> {
        let request = self.client.post(with_query(url, query)?);
        self.send(request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, String> {
        let response = request.send().await.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|error| chain(&error))?;
        Ok(Answer { status, body })
    }
}

fn with_query(url: &str, query: &[(&str, &str)]) -> Result<reqwest::Url, String> {
    let mut url = reqwest::Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

/// An error with its causes: reqwest's own text leaves out the one that helps ("connection refused").
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
