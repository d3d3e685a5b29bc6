//! The load: clients that each have one request under way, on one thread, and what they saw.
//!
//! It must cost little beside the nodes it measures, on the same few processors. So a request is laid out once and only
//! its key and value change, an answer is looked at as little as will do, and the clients are entries of a table behind
//! one epoll, not tasks. Sockets block: a request is written in one go, and read only when epoll has promised bytes.
//!
//! Owns the clients, the bytes of HTTP/1.1 and RESP that they need, and the counting. Refuses to know who is measured,
//! and why.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use quorate::observe::LatencyRecorder;

use crate::rows::{Operation, Work};

/// How long all clients together may wait for any answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers taken from epoll at a time.
const EVENTS: usize = 256;
/// Bytes of an error that are kept.
const ERROR_BYTES: usize = 200;
/// How HTTP answers of success begin.
const SUCCESS: &[u8] = br#"{"status":"success""#;

/// A request with room for its key and value.
#[derive(Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    key: Range<usize>,
    value: Range<usize>,
}

impl Request {
    /// `POST /write?quorum=`, for nodes of `quorate` and all who speak like them.
    pub(super) fn http_write(work: &Work, host: SocketAddr) -> Request {
        let start = "{\"key\":\"key-";
        let length = start.len() + key_digits(work) + "\",\"value\":\"\"}".len() + work.value_bytes;
        let query = work.quorum.map_or_else(String::new, |quorum| format!("?quorum={quorum}"));
        let head = format!(
            "POST /write{query} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{start}"
        );
        Request::lay_out(work, head, "\",\"value\":\"", work.value_bytes, "\"}")
    }

    /// `GET /read`, linearizable if the work is about such.
    pub(super) fn http_read(work: &Work, host: SocketAddr) -> Request {
        let is_linearizable = work.operation == Operation::LinearizableRead;
        let option = if is_linearizable { "&consistency=linearizable" } else { "" };
        let end = format!("{option} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        Request::lay_out(work, "GET /read?key=key-".into(), &end, 0, "")
    }

    /// `POST` to `path` of etcd's JSON gateway, which wants key and value in base64. Digits and letters are base64 as they
    /// stand, in groups of four.
    pub(super) fn etcd(path: &str, work: &Work, host: SocketAddr) -> Request {
        let is_write = work.operation == Operation::Write;
        let digits = key_digits(work).next_multiple_of(4);
        let value_bytes = if is_write { work.value_bytes.div_ceil(3) * 4 } else { 0 };
        let (start, middle, end) = ("{\"key\":\"key0", if is_write { "\",\"value\":\"" } else { "" }, "\"}");
        let length = start.len() + digits + middle.len() + value_bytes + end.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{start}"
        );
        Request::lay_out_digits(digits, head, middle, value_bytes, end)
    }

    /// `SET` and `WAIT` in one pipeline.
    pub(super) fn redis_write(work: &Work) -> Request {
        let start = format!("*3\r\n$3\r\nSET\r\n${}\r\nkey-", "key-".len() + key_digits(work));
        let middle = format!("\r\n${}\r\n", work.value_bytes);
        let copies = work.quorum.unwrap_or(0);
        let end = format!("\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n{copies}\r\n$4\r\n1000\r\n");
        Request::lay_out(work, start, &middle, work.value_bytes, &end)
    }

    fn lay_out(work: &Work, start: String, middle: &str, value_bytes: usize, end: &str) -> Request {
        Request::lay_out_digits(key_digits(work), start, middle, value_bytes, end)
    }

    fn lay_out_digits(
        key_digits: usize,
        start: String,
        middle: &str,
        value_bytes: usize,
        end: &str,
    ) -> Request {
        let mut bytes = start.into_bytes();
        let key = bytes.len()..bytes.len() + key_digits;
        bytes.resize(key.end, b'0');
        bytes.extend_from_slice(middle.as_bytes());
        let value = bytes.len()..bytes.len() + value_bytes;
        bytes.resize(value.end, b'v');
        bytes.extend_from_slice(end.as_bytes());
        Request { bytes, key, value }
    }

    /// The request for this key, its value unlike any other.
    fn of(&mut self, key: u64, number: u64) -> &[u8] {
        put_number(&mut self.bytes[self.key.clone()], key);
        let digits = self.value.len().min(16);
        put_number(&mut self.bytes[self.value.clone()][..digits], number);
        &self.bytes
    }
}

/// Keys all have as many digits as the last one, so that requests all have one length.
fn key_digits(work: &Work) -> usize {
    (work.keys - 1).max(1).ilog10() as usize + 1
}

fn put_number(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// How answers are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers {
    /// HTTP/1.1 with a `content-length`, as nodes of `quorate` write it.
    Http,
    /// The same from etcd's gateway; a success holds this text.
    Etcd(&'static str),
    /// What Redis says to `SET` and `WAIT`; fewer copies than these are no success.
    Redis(usize),
}

impl Answers {
    /// Whether the answer that these bytes hold is one of success; `None` while it is not whole.
    fn is_success(self, bytes: &[u8]) -> Option<bool> {
        match self {
            Answers::Http | Answers::Etcd(_) => {
                let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
                let head = std::str::from_utf8(&bytes[..head_end]).ok()?;
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
                });
                let (body, length) = (&bytes[head_end + 4..], length.unwrap_or(0));
                let is_good = match self {
                    Answers::Etcd(text) => std::str::from_utf8(body).is_ok_and(|body| body.contains(text)),
                    _ => body.starts_with(SUCCESS),
                };
                let is_success = head.get(9..12) == Some("200") && is_good;
                (body.len() >= length).then_some(is_success)
            }
            Answers::Redis(quorum) => {
                let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
                let (set, wait) = (lines.next()?, lines.next().filter(|line| line.ends_with(b"\n"))?);
                let copies = wait
                    .strip_prefix(b":")
                    .and_then(|digits| std::str::from_utf8(digits.trim_ascii()).ok()?.parse::<usize>().ok());
                Some(set == b"+OK\r\n" && copies.is_some_and(|copies| copies >= quorum))
            }
        }
    }
}

/// What is sent, and until when.
#[derive(Clone, Copy)]
enum Phase {
    /// Every key once, in order.
    Fill,
    /// Any key, until then.
    Until(Instant),
}

/// What a phase saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Of the answers of success, from the request's first byte to the answer's last.
    pub latency: LatencyRecorder,
    /// Other answers.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

struct Client {
    stream: TcpStream,
    begun: Instant,
    input: Vec<u8>,
}

/// The clients, connected.
pub(super) struct Load {
    epoll: Epoll,
    clients: Vec<Client>,
    answers: Answers,
    keys: u64,
    numbers: fastrand::Rng,
    sent: u64,
    scratch: Vec<u8>,
}

impl Load {
    /// Connects all clients of this work, to these addresses in turn.
    pub(super) fn connect(addresses: &[SocketAddr], answers: Answers, work: &Work) -> std::io::Result<Load> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut clients = Vec::with_capacity(work.clients);
        for nth in 0..work.clients {
            let stream = TcpStream::connect(addresses[nth % addresses.len()])?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, nth as u64))?;
            clients.push(Client { stream, begun: Instant::now(), input: Vec::new() });
        }
        let (numbers, scratch) = (fastrand::Rng::with_seed(1), vec![0; 128 * 1024]);
        Ok(Load { epoll, clients, answers, keys: work.keys, numbers, sent: 0, scratch })
    }

    /// Sends the request once for every key.
    pub(super) fn fill(&mut self, request: &mut Request) -> Result<Seen, String> {
        self.sent = 0;
        self.run(request, Phase::Fill)
    }

    /// Sends the request with random keys for so long.
    pub(super) fn run_for(&mut self, request: &mut Request, duration: Duration) -> Result<Seen, String> {
        self.run(request, Phase::Until(Instant::now() + duration))
    }

    fn run(&mut self, request: &mut Request, phase: Phase) -> Result<Seen, String> {
        let mut seen = Seen::default();
        let start = Instant::now();
        let mut under_way = 0;
        for nth in 0..self.clients.len() {
            under_way += usize::from(self.send(nth, request, phase)?);
        }
        let patience = EpollTimeout::try_from(PATIENCE).map_err(|error| format!("{PATIENCE:?}: {error}"))?;
        let mut events = [EpollEvent::empty(); EVENTS];
        while under_way > 0 {
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(0) => return Err(format!("no answer within {PATIENCE:?}")),
                Ok(count) => count,
                // After the process was stopped and went on.
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(format!("cannot wait for answers: {error}")),
            };
            for event in &events[..count] {
                let nth = event.data() as usize;
                if self.receive(nth, &mut seen)? && !self.send(nth, request, phase)? {
                    under_way -= 1;
                }
            }
        }
        seen.elapsed = start.elapsed();
        Ok(seen)
    }

    /// Sends the client's next request. False if there is none.
    fn send(&mut self, nth: usize, request: &mut Request, phase: Phase) -> Result<bool, String> {
        let now = Instant::now();
        let key = match phase {
            Phase::Fill if self.sent < self.keys => self.sent,
            Phase::Until(end) if now < end => self.numbers.u64(..self.keys),
            Phase::Fill | Phase::Until(_) => return Ok(false),
        };
        self.sent += 1;
        let client = &mut self.clients[nth];
        client.begun = now;
        let written = client.stream.write_all(request.of(key, self.sent));
        written.map(|()| true).map_err(|error| format!("a request was not taken: {error}"))
    }

    /// Reads what has come for this client. True if its answer is whole, which is then counted.
    fn receive(&mut self, nth: usize, seen: &mut Seen) -> Result<bool, String> {
        let client = &mut self.clients[nth];
        let count = client.stream.read(&mut self.scratch);
        let count = count.map_err(|error| format!("a connection broke: {error}"))?;
        if count == 0 {
            return Err(format!("a connection was closed: {}", String::from_utf8_lossy(&client.input)));
        }
        client.input.extend_from_slice(&self.scratch[..count]);
        let Some(is_success) = self.answers.is_success(&client.input) else { return Ok(false) };
        if is_success {
            seen.latency.record(client.begun.elapsed());
        } else {
            seen.errors += 1;
            let shown = &client.input[..client.input.len().min(ERROR_BYTES)];
            seen.first_error.get_or_insert_with(|| String::from_utf8_lossy(shown).into_owned());
        }
        client.input.clear();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use serde_json::Value;

    use super::*;

    const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"status\":\"success\"}";
    const BAD: &str = "HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno";

    fn work(clients: usize, keys: u64) -> Work {
        Work { clients, keys, value_bytes: 20, ..crate::rows::BASE }
    }

    /// A server that tells which bodies it got, and answers each as `answer` says. It ends with its connections.
    fn serve(
        clients: usize,
        answer: fn(&Value) -> &'static str,
    ) -> (SocketAddr, std::sync::mpsc::Receiver<Value>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (got, bodies) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().take(clients) {
                let got = got.clone();
                thread::spawn(move || serve_one(stream.unwrap(), &got, answer));
            }
        });
        (address, bodies)
    }

    fn serve_one(stream: TcpStream, got: &Sender<Value>, answer: fn(&Value) -> &'static str) {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        loop {
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                if input.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            input.read_exact(&mut body).unwrap();
            let body = serde_json::from_slice(&body).unwrap();
            (&stream).write_all(answer(&body).as_bytes()).unwrap();
            let _ = got.send(body);
        }
    }

    #[test]
    fn every_key_is_filled_once_and_values_are_as_long_as_asked_and_never_the_same() {
        let work = work(3, 120);
        let (address, bodies) = serve(3, |_| GOOD);
        let mut load = Load::connect(&[address], Answers::Http, &work).unwrap();
        let seen = load.fill(&mut Request::http_write(&work, address)).unwrap();
        drop(load);
        assert_eq!((seen.latency.count(), seen.errors), (120, 0));
        let bodies: Vec<Value> = bodies.iter().collect();
        let set = |name: &str| bodies.iter().map(|body| body[name].to_string()).collect::<BTreeSet<_>>();
        assert_eq!((bodies.len(), set("key").len(), set("value").len()), (120, 120, 120));
        assert!(set("value").iter().all(|value| value.len() == 22), "with their quotes");
        assert!(set("key").contains("\"key-007\""));
    }

    #[test]
    fn a_run_ends_in_time_and_errors_are_no_successes() {
        let work = work(2, 10);
        let (address, bodies) = serve(2, |body| if body["key"] == "key-3" { BAD } else { GOOD });
        let mut load = Load::connect(&[address], Answers::Http, &work).unwrap();
        let (start, duration) = (Instant::now(), Duration::from_millis(100));
        let seen = load.run_for(&mut Request::http_write(&work, address), duration).unwrap();
        drop(load);
        let refused = |body: &Value| body["key"] == "key-3";
        let (bad, good): (Vec<Value>, Vec<Value>) = bodies.iter().partition(refused);
        assert_eq!((seen.errors, seen.latency.count()), (bad.len() as u64, good.len() as u64));
        assert!(seen.errors > 0 && start.elapsed() >= duration);
        assert!(seen.first_error.unwrap().ends_with("no"));
    }

    #[test]
    fn a_connection_that_is_closed_ends_the_run() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, work) = (listener.local_addr().unwrap(), work(1, 1));
        let mut load = Load::connect(&[address], Answers::Http, &work).unwrap();
        drop(listener.accept().unwrap());
        assert!(load.fill(&mut Request::http_write(&work, address)).is_err());
    }

    #[test]
    fn requests_are_what_each_protocol_wants() {
        let work = work(1, 100);
        let host = "127.0.0.1:80".parse().unwrap();
        let text = |mut request: Request| String::from_utf8(request.of(7, 9).to_vec()).unwrap();
        let redis = "*3\r\n$3\r\nSET\r\n$6\r\nkey-07\r\n$20\r\n0000000000000009vvvv\r\n\
                     *3\r\n$4\r\nWAIT\r\n$1\r\n3\r\n$4\r\n1000\r\n";
        assert_eq!(text(Request::redis_write(&work)), redis);
        let read = "GET /read?key=key-07 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n";
        assert_eq!(text(Request::http_read(&work, host)), read);
        assert!(text(Request::http_write(&work, host)).starts_with("POST /write?quorum=3 HTTP/1.1\r\n"));
        let linearizable = Work { operation: Operation::LinearizableRead, ..work.clone() };
        let read = "GET /read?key=key-07&consistency=linearizable HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n";
        assert_eq!(text(Request::http_read(&linearizable, host)), read);
        let put = text(Request::etcd("/put", &work, host));
        let (head, body) = put.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        assert_eq!(body, "{\"key\":\"key00007\",\"value\":\"0000000000000009vvvvvvvvvvvv\"}");
        let range = text(Request::etcd("/range", &linearizable, host));
        assert!(range.ends_with("\r\n\r\n{\"key\":\"key00007\"}"), "{range}");
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_a_success_only_if_it_says_so() {
        for (answers, text, is_success) in [
            (Answers::Http, GOOD, true),
            (Answers::Http, BAD, false),
            (Answers::Http, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
            (Answers::Etcd("kvs"), "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"kvs\"}", true),
            (Answers::Etcd("kvs"), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false),
            (Answers::Redis(3), "+OK\r\n:3\r\n", true),
            (Answers::Redis(3), "+OK\r\n:2\r\n", false),
            (Answers::Redis(3), "-READONLY\r\n:5\r\n", false),
        ] {
            for end in 0..text.len() {
                assert_eq!(answers.is_success(&text.as_bytes()[..end]), None, "{}", &text[..end]);
            }
            assert_eq!(answers.is_success(text.as_bytes()), Some(is_success), "{text}");
        }
    }
}
