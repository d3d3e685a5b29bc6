//! Messages to peers over HTTP/1.1: kept connections, one exchange at a time on each.
//!
//! A write costs the leader one message per follower, so this is the path that decides what a write costs. The client
//! that the commands use ([`super::HttpClient`]) pools connections behind tasks of their own and builds each request
//! from a URL; here the caller's own task drives its connection, and what does not change from message to message is
//! kept with the peer (docs/BENCHMARKS.md has the figures). It knows addresses, connections and statuses; it does not
//! know what a message means.
//!
//! A kept connection may turn out to have been closed by the peer meanwhile. The message is then sent on a new one: if
//! it has surely not left yet, or if a peer that has had it after all takes the second for the duplicate it is.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::client::{CONNECT_TIMEOUT, bearer, chain};
use super::{CallError, PeerPath, PeerUrl, Refusal, Transport};

/// Connections kept per peer while nobody uses them: one for each kind of message that a link sends, and one to spare.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long a connection is kept unused: less than a node leaves an idle one open, so that it seldom meets a closed one.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// Messages between nodes over HTTP/1.1 with keep-alive.
pub struct HttpTransport {
    authorization: Option<HeaderValue>,
    reply_bytes_max: usize,
    peers: Mutex<HashMap<PeerUrl, Arc<Peer>>>,
}

/// What is kept of a peer.
struct Peer {
    /// Where to connect to: `host:port`.
    authority: String,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection and the one who drives it: whoever holds it.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    idle_since: Instant,
}

/// Why an exchange came to nothing.
enum Broken {
    /// The request has not left.
    NotSent(AnyError),
    /// The request has left, whole or in part.
    Sent(AnyError),
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl HttpTransport {
    /// A transport that sends `token` with every message, if there is one, and takes replies of at most
    /// `reply_bytes_max` bytes. Fails if the token fits into no header.
    pub fn new(token: Option<&str>, reply_bytes_max: usize) -> Result<HttpTransport, String> {
        let authorization = token.map(bearer).transpose()?;
        Ok(HttpTransport { authorization, reply_bytes_max, peers: Mutex::default() })
    }

    fn peer(&self, url: &PeerUrl) -> Result<Arc<Peer>, CallError> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(url) {
            return Ok(peer.clone());
        }
        let authority = url.authority();
        let host = HeaderValue::from_str(authority)
            .map_err(|error| CallError::NoAnswer(format!("{url} fits into no header: {error}")))?;
        let peer = Arc::new(Peer {
            authority: authority.to_owned(),
            host,
            authorization: self.authorization.clone(),
            idle: Mutex::default(),
        });
        peers.insert(url.clone(), peer.clone());
        Ok(peer)
    }
}

impl Transport for HttpTransport {
    fn post(
        &self,
        to: &PeerUrl,
        path: PeerPath,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let peer = match self.peer(to) {
            Ok(peer) => peer,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let reply_bytes_max = self.reply_bytes_max;
        async move {
            let (status, body) = match timeout(deadline, peer.exchange(path, body, reply_bytes_max)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Broken::NotSent(error))) => return Err(CallError::NotSent(chain(&*error))),
                Ok(Err(Broken::Sent(error))) => return Err(CallError::NoAnswer(chain(&*error))),
                Err(_) => return Err(CallError::NoAnswer(format!("nothing within {deadline:?}"))),
            };
            if status.is_success() {
                return Ok(body);
            }
            match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) => Err(CallError::Refused(refusal)),
                Err(_) => Err(CallError::Garbled(format!("status {status}"))),
            }
        }
        .boxed()
    }
}

impl Peer {
    /// Posts `body` on a kept connection if there is one, else (or if that was closed) on a new one.
    async fn exchange(
        &self,
        path: PeerPath,
        body: Bytes,
        reply_bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), Broken> {
        if let Some(mut connection) = self.take_idle() {
            match connection.exchange(self.request(path, body.clone()), reply_bytes_max).await {
                Ok(answer) => {
                    self.keep(connection);
                    return Ok(answer);
                }
                Err(Broken::Sent(error)) if !path.may_be_repeated() => return Err(Broken::Sent(error)),
                Err(Broken::NotSent(error) | Broken::Sent(error)) => {
                    tracing::debug!(peer = self.authority, %error, "a kept connection broke");
                }
            }
        }
        let mut connection = Connection::open(&self.authority).await.map_err(Broken::NotSent)?;
        let answer = connection.exchange(self.request(path, body), reply_bytes_max).await?;
        self.keep(connection);
        Ok(answer)
    }

    fn request(&self, path: PeerPath, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path.as_str());
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let connection = idle.pop().filter(|connection| connection.idle_since.elapsed() < IDLE_TIME_MAX);
        if connection.is_none() {
            // The last one used was too old, so all are.
            idle.clear();
        }
        connection
    }

    fn keep(&self, mut connection: Connection) {
        connection.idle_since = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn open(authority: &str) -> Result<Connection, AnyError> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver, idle_since: Instant::now() })
    }

    /// Sends a request and reads the answer, driving the connection meanwhile.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        reply_bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), Broken> {
        let Connection { sender, driver, .. } = self;
        // Nobody has looked since the last exchange: a peer that has closed the connection meanwhile, or died, is noticed
        // before anything is sent.
        let has_ended = poll_fn(|context| Poll::Ready(Pin::new(&mut *driver).poll(context).is_ready())).await;
        if has_ended {
            return Err(Broken::NotSent("the peer closed the connection".into()));
        }
        let ready = drive(driver, sender.ready()).await.map_err(Broken::NotSent)?;
        ready.map_err(|error| Broken::NotSent(error.into()))?;
        let answer = async {
            let response = sender.try_send_request(request).await.map_err(|mut error| {
                // Who gets the request back knows that nothing of it was written.
                let is_unsent = error.take_message().is_some();
                let error = error.into_error().into();
                if is_unsent { Broken::NotSent(error) } else { Broken::Sent(error) }
            })?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), reply_bytes_max).collect().await.map_err(Broken::Sent)?;
            Ok((status, body.to_bytes()))
        };
        drive(driver, answer).await.map_err(Broken::Sent)?
    }
}

/// Drives a connection until `future`, which waits for something of it, is done; fails if the connection ends before.
async fn drive<T>(
    driver: &mut http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    future: impl Future<Output = T>,
) -> Result<T, AnyError> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // The two hand things to each other: the request, the head, the body. What one does may let the other go on.
        for _ in 0..3 {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            if let Poll::Ready(end) = Pin::new(&mut *driver).poll(context) {
                // A driver that has ended hands over what it had, and wakes nobody who still waits for more.
                return Poll::Ready(match (future.as_mut().poll(context), end) {
                    (Poll::Ready(output), _) => Ok(output),
                    (Poll::Pending, Err(error)) => Err(error.into()),
                    (Poll::Pending, Ok(())) => Err("the peer closed the connection".into()),
                });
            }
        }
        future.as_mut().poll(context).map(Ok)
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A peer that is played by the test.
    struct Played {
        listener: TcpListener,
        url: PeerUrl,
    }

    impl Played {
        async fn listen() -> Played {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = PeerUrl::parse(&listener.local_addr().unwrap().to_string()).unwrap();
            Played { listener, url }
        }

        async fn accept(&self) -> TcpStream {
            self.listener.accept().await.unwrap().0
        }
    }

    /// Reads a request whose body ends so, and gives all of it.
    async fn hear(stream: &mut TcpStream, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "closed too early: {heard:?}");
        }
        String::from_utf8(heard).unwrap()
    }

    async fn say(stream: &mut TcpStream, status: &str, body: &str) {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_one_that_was_closed_is_replaced() {
        let (peer, transport) = (Played::listen().await, HttpTransport::new(Some("secret"), 1_000).unwrap());
        let post = |body: &'static str| {
            transport.post(&peer.url, PeerPath::Replicate, Bytes::from_static(body.as_bytes()), PATIENCE)
        };
        let played = async {
            let mut first = peer.accept().await;
            let heard = hear(&mut first, "one").await;
            assert!(heard.starts_with("POST /replicate HTTP/1.1\r\n"), "{heard}");
            assert!(heard.contains(&format!("host: {}\r\n", peer.url.authority())), "{heard}");
            assert!(heard.contains("authorization: Bearer secret\r\n"), "{heard}");
            assert!(heard.contains("content-type: application/json\r\n"), "{heard}");
            say(&mut first, "200 OK", "first").await;
            hear(&mut first, "two").await;
            say(&mut first, "200 OK", "second").await;
            drop(first);
            let mut second = peer.accept().await;
            hear(&mut second, "three").await;
            say(&mut second, "200 OK", "third").await;
        };
        let posted = async {
            assert_eq!(post("one").await.unwrap(), "first");
            assert_eq!(post("two").await.unwrap(), "second");
            assert_eq!(post("three").await.unwrap(), "third");
        };
        tokio::join!(played, posted);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_from_a_refusal() {
        let (peer, transport) = (Played::listen().await, HttpTransport::new(None, 1_000).unwrap());
        let post =
            |deadline| transport.post(&peer.url, PeerPath::Heartbeat, Bytes::from_static(b"x"), deadline);
        let played = async {
            let mut stream = peer.accept().await;
            hear(&mut stream, "x").await;
            say(&mut stream, "409 Conflict", r#"{"error":"restarted","message":"anew"}"#).await;
            hear(&mut stream, "x").await;
            say(&mut stream, "502 Bad Gateway", "<html>").await;
            hear(&mut stream, "x").await;
            say(&mut stream, "200 OK", &"y".repeat(1_001)).await;
            // What follows a broken exchange comes on connections of its own, and is never answered.
            let mut silent = Vec::new();
            for _ in 0..2 {
                let mut stream = peer.accept().await;
                hear(&mut stream, "x").await;
                silent.push(stream);
            }
            silent
        };
        let posted = async {
            let refused = post(PATIENCE).await.unwrap_err();
            assert!(
                matches!(&refused, CallError::Refused(r) if r.reason == crate::wire::RefusalReason::Restarted),
                "{refused}"
            );
            let garbled = post(PATIENCE).await.unwrap_err();
            assert!(matches!(&garbled, CallError::Garbled(status) if status.contains("502")), "{garbled}");
            for _ in 0..2 {
                let late = post(Duration::from_millis(50)).await.unwrap_err();
                assert!(matches!(&late, CallError::NoAnswer(_)), "{late}");
            }
        };
        tokio::join!(played, posted);
        drop(peer.listener);
        let nobody =
            transport.post(&peer.url, PeerPath::Heartbeat, Bytes::new(), PATIENCE).await.unwrap_err();
        assert!(matches!(&nobody, CallError::NotSent(reason) if reason.contains("refused")), "{nobody}");
    }

    #[tokio::test]
    async fn a_forwarded_write_that_may_have_arrived_is_not_sent_again() {
        let (peer, transport) = (Played::listen().await, HttpTransport::new(None, 1_000).unwrap());
        let post = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            transport.post(&peer.url, PeerPath::RaftWrite, body, PATIENCE)
        };
        let (closed, is_closed) = tokio::sync::oneshot::channel();
        let played = async {
            let mut stream = peer.accept().await;
            hear(&mut stream, "one").await;
            say(&mut stream, "200 OK", "first").await;
            // Heard, and then silence: whether it was carried out, the sender cannot know.
            hear(&mut stream, "two").await;
            drop(stream);
            let mut stream = peer.accept().await;
            hear(&mut stream, "three").await;
            say(&mut stream, "200 OK", "third").await;
            // Closed while it is idle: what is sent next has surely not arrived.
            stream.shutdown().await.unwrap();
            closed.send(()).unwrap();
            let mut stream = peer.accept().await;
            hear(&mut stream, "four").await;
            say(&mut stream, "200 OK", "fourth").await;
        };
        let posted = async {
            assert_eq!(post("one").await.unwrap(), "first");
            let unknown = post("two").await.unwrap_err();
            assert!(matches!(&unknown, CallError::NoAnswer(_)), "{unknown}");
            assert_eq!(post("three").await.unwrap(), "third");
            is_closed.await.unwrap();
            assert_eq!(post("four").await.unwrap(), "fourth");
        };
        tokio::join!(played, posted);
    }

    #[tokio::test]
    async fn a_peer_that_died_while_nobody_spoke_to_it_is_noticed_before_a_write_leaves() {
        let (peer, transport) = (Played::listen().await, HttpTransport::new(None, 1_000).unwrap());
        let post = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            transport.post(&peer.url, PeerPath::RaftWrite, body, PATIENCE)
        };
        let played = async {
            let mut stream = peer.accept().await;
            hear(&mut stream, "one").await;
            say(&mut stream, "200 OK", "first").await;
            drop(stream);
            // Whatever has come on the first connection by the end of this one has been noticed.
            drop(peer.accept().await);
            let mut stream = peer.accept().await;
            hear(&mut stream, "two").await;
            say(&mut stream, "200 OK", "second").await;
        };
        let posted = async {
            assert_eq!(post("one").await.unwrap(), "first");
            let mut other = TcpStream::connect(peer.url.authority()).await.unwrap();
            assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(post("two").await.unwrap(), "second");
        };
        tokio::join!(played, posted);
    }
}
