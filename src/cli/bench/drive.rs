//! The load: writers that send their writes over connections of their own, and what they saw.
//!
//! It must cost little beside six nodes on two cores. So it runs on one thread with a runtime of its own, speaks just
//! enough HTTP/1.1 over a plain socket, lays its request out once, and reads of an answer what it needs. The writers
//! are tasks of that runtime rather than parts of one future: waking the runtime's outermost future costs a system
//! call each time, waking a task none.
//!
//! Owns the writers, their connections and the counting. Refuses to know what a write holds (`workload`), when an open
//! loop's arrivals are due (`schedule`), and what the figures mean (`report`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{self, Progress};
use super::cost;
use super::errors::Errors;
use super::schedule::{OpenLoop, Schedule};
use super::workload::{Request, Workload};
use crate::observe::LatencyRecorder;

/// How long a writer of the closed loop pauses after an error: a node that refuses would otherwise be asked without
/// end, and a run of 10,000 writes be over in no time.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// Bytes that an answer may have beyond the value it repeats.
const ANSWER_BYTES: usize = 64 * 1024;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Amount {
    /// So many writes.
    Writes(u64),
    /// As many as begin in this time.
    Duration(Duration),
}

/// One run of the load.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Where the leader is.
    pub address: SocketAddr,
    /// What it is called there: `name:port`.
    pub host: String,
    /// Followers to wait for.
    pub quorum: usize,
    /// Writers at a time, each with one write under way.
    pub writers: usize,
    /// Writes before the measured ones, over the same connections.
    pub warmup: u64,
    /// How many are measured.
    pub amount: Amount,
    /// Writes a second of an open loop; `None` for a closed one.
    pub rate: Option<f64>,
    /// How long one write may take.
    pub timeout: Duration,
    /// What they hold.
    pub workload: Workload,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Processes whose CPU time is of interest: the nodes, if they are on this machine.
    pub pids: Vec<u32>,
}

/// What a progress bar may look at meanwhile.
#[derive(Default)]
pub(super) struct Watch {
    /// When measuring began.
    pub began: OnceLock<Instant>,
    /// Measured writes that are over, well or not.
    pub done: AtomicU64,
}

/// What a run saw.
pub(super) struct Figures {
    /// Of the successful writes: from the request (open loop: from when it was due) to the answer.
    pub latency: LatencyRecorder,
    /// The other ones.
    pub errors: Errors,
    /// From the first write to the last answer.
    pub elapsed: Duration,
    /// How an open loop went.
    pub open_loop: Option<OpenLoop>,
    /// CPU time of this process meanwhile.
    pub own_cpu: Duration,
    /// CPU time of the `pids` meanwhile; `None` if unknown.
    pub nodes_cpu: Option<Duration>,
}

/// Runs a load to its end on a thread of its own. If the future is dropped, the load stops.
pub(super) async fn drive(load: Load, watch: Arc<Watch>) -> Result<Figures, String> {
    let (ended, end) = oneshot::channel();
    let (_stop, stopped) = oneshot::channel::<()>();
    let work = move || {
        let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Err(error) => Err(format!("cannot start the load: {error}")),
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    outcome = run(load, &watch) => outcome,
                    _ = stopped => Err("stopped".into()),
                }
            }),
        };
        // Nobody listens any more if the run was stopped.
        let _ = ended.send(outcome);
    };
    std::thread::Builder::new()
        .name("bench-load".into())
        .spawn(work)
        .map_err(|error| format!("cannot start a thread for the load: {error}"))?;
    end.await.map_err(|_| "the load broke off".to_owned())?
}

async fn run(load: Load, watch: &Arc<Watch>) -> Result<Figures, String> {
    let mut writers = (0..load.writers).map(|_| Writer::new(&load)).collect();
    if load.warmup > 0 {
        let warmup = Phase::new(0, load.warmup, None, None, Arc::default());
        writers = warmup.run(writers).await.1?;
    }
    let nodes_before = cost::cpu_of(&load.pids);
    let own_before = cost::own_cpu();
    let start = Instant::now();
    let _ = watch.began.set(start);
    let (total, deadline) = match (load.amount, load.rate) {
        (Amount::Writes(writes), _) => (writes, None),
        (Amount::Duration(duration), None) => (u64::MAX, Some(start + duration)),
        // One is due at once, and one at the end of each interval but the last.
        (Amount::Duration(duration), Some(rate)) => {
            (((duration.as_secs_f64() * rate) as u64).max(1), Some(start + duration))
        }
    };
    let schedule = load.rate.map(|rate| Schedule::new(start, rate, total));
    let phase = Phase::new(load.warmup, total, deadline, schedule, watch.clone());
    let (phase, writers) = phase.run(writers).await;
    drop(writers?);
    let own_cpu = cost::own_cpu().saturating_sub(own_before);
    let nodes_cpu = match load.pids.is_empty() {
        true => None,
        false => {
            cost::cpu_of(&load.pids).zip(nodes_before).and_then(|(after, before)| after.checked_sub(before))
        }
    };
    let Counted { latency, errors, lag, last_begun, last_done } = phase.counted.lock().clone();
    let after_start = |instant: Option<Instant>| instant.map_or(Duration::ZERO, |instant| instant - start);
    let open_loop = load.rate.map(|rate| {
        let begun = latency.count() + errors.count();
        let not_begun = total - begun.min(total);
        OpenLoop::judge(rate, begun, not_begun, after_start(last_begun), lag.mean().zip(lag.max()))
    });
    Ok(Figures { latency, errors, elapsed: after_start(last_done), open_loop, own_cpu, nodes_cpu })
}

/// Writes that belong together: the warm-up, or the measured ones.
struct Phase {
    first: u64,
    total: u64,
    deadline: Option<Instant>,
    schedule: Option<Schedule>,
    taken: AtomicU64,
    // All on one thread: the lock is never waited for.
    counted: Mutex<Counted>,
    watch: Arc<Watch>,
}

#[derive(Clone, Default)]
struct Counted {
    latency: LatencyRecorder,
    errors: Errors,
    lag: LatencyRecorder,
    last_begun: Option<Instant>,
    last_done: Option<Instant>,
}

impl Phase {
    fn new(
        first: u64,
        total: u64,
        deadline: Option<Instant>,
        schedule: Option<Schedule>,
        watch: Arc<Watch>,
    ) -> Phase {
        let (taken, counted) = (AtomicU64::new(0), Mutex::default());
        Phase { first, total, deadline, schedule, taken, counted, watch }
    }

    /// Lets the writers work until nothing is left, and gives them back.
    async fn run(self, writers: Vec<Writer>) -> (Arc<Phase>, Result<Vec<Writer>, String>) {
        let phase = Arc::new(self);
        let mut tasks: JoinSet<Option<Writer>> = JoinSet::new();
        let count = writers.len();
        for writer in writers {
            let phase = phase.clone();
            tasks.spawn(async move { Some(writer.run(&phase).await) });
        }
        if phase.schedule.is_some() {
            let phase = phase.clone();
            tasks.spawn(async move {
                if let Some(schedule) = &phase.schedule {
                    schedule.run(count).await;
                }
                None
            });
        }
        let mut writers = Vec::with_capacity(count);
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok(writer) => writers.extend(writer),
                Err(error) => return (phase, Err(format!("a writer failed: {error}"))),
            }
        }
        (phase, Ok(writers))
    }

    /// The next write's number and, in an open loop, when it is due, which has come.
    async fn next(&self) -> Option<(u64, Option<Instant>)> {
        let Some(schedule) = &self.schedule else {
            let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let taken = if is_over { self.total } else { self.taken.fetch_add(1, Ordering::Relaxed) };
            return (taken < self.total).then_some((self.first + taken, None));
        };
        loop {
            let arrival = schedule.take().await?;
            // Those that waited for a free writer until time was up are not sent any more, or a rate far too high
            // would make the run last as long as it likes. They are reported.
            if self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
                return Some((self.first + arrival, Some(schedule.due_at(arrival))));
            }
        }
    }

    fn count(&self, begun: Instant, due: Option<Instant>, outcome: Result<(), Failure>) {
        let now = Instant::now();
        let mut counted = self.counted.lock();
        match outcome {
            Ok(()) => counted.latency.record(now - due.unwrap_or(begun)),
            Err(failure) => counted.errors.count_one(failure.kind, failure.message),
        }
        if let Some(due) = due {
            counted.lag.record(begun.saturating_duration_since(due));
        }
        counted.last_begun = counted.last_begun.max(Some(begun));
        counted.last_done = Some(now);
        drop(counted);
        self.watch.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a write was not answered with success.
struct Failure {
    kind: String,
    message: String,
}

impl Failure {
    fn new(kind: impl Into<String>, message: impl ToString) -> Failure {
        Failure { kind: kind.into(), message: message.to_string() }
    }
}

/// One writer: a connection, and one write under way at a time.
struct Writer {
    address: SocketAddr,
    timeout: Duration,
    max_body_bytes: usize,
    request: Request,
    stream: Option<TcpStream>,
    input: Vec<u8>,
}

impl Writer {
    fn new(load: &Load) -> Writer {
        Writer {
            address: load.address,
            timeout: load.timeout,
            max_body_bytes: load.value_bytes + ANSWER_BYTES,
            request: Request::new(load.workload, &load.host, load.quorum),
            stream: None,
            input: Vec::new(),
        }
    }

    async fn run(mut self, phase: &Phase) -> Writer {
        while let Some((write, due)) = phase.next().await {
            let begun = Instant::now();
            let outcome = match timeout(self.timeout, self.write(write)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::new("timeout", format!("no answer within {:?}", self.timeout))),
            };
            let is_error = outcome.is_err();
            phase.count(begun, due, outcome);
            if is_error && due.is_none() {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
        self
    }

    async fn write(&mut self, write: u64) -> Result<(), Failure> {
        // Taken out, and only put back after a whole answer: whatever else happens, an answer may still be on its way
        // and would be taken for that of the next write.
        let mut stream = match self.stream.take().filter(|stream| !is_closed(stream)) {
            Some(stream) => stream,
            None => {
                let connect = async {
                    let stream = TcpStream::connect(self.address).await?;
                    stream.set_nodelay(true).map(|()| stream)
                };
                connect.await.map_err(|error| Failure::new("connection refused", error))?
            }
        };
        let lost = |error: io::Error| Failure::new("connection lost", error);
        stream.write_all(self.request.of(write)).await.map_err(lost)?;
        self.input.clear();
        let answer = loop {
            self.input.reserve(4096);
            if stream.read_buf(&mut self.input).await.map_err(lost)? == 0 {
                return Err(Failure::new("connection lost", "closed before the answer was whole"));
            }
            match answer::parse(&self.input, self.max_body_bytes) {
                Ok(Progress::Whole(answer)) => break answer,
                Ok(Progress::More) => {}
                Err(message) => return Err(Failure::new("answer not understood", message)),
            }
        };
        // More bytes than the answer has would belong to no request.
        if !answer.is_last && self.input.len() == answer.body.end {
            self.stream = Some(stream);
        }
        let body = &self.input[answer.body];
        match answer.status {
            200..=299 if answer::is_success(body) => Ok(()),
            200..=299 => Err(Failure::new("answer without success", String::from_utf8_lossy(body))),
            status => {
                let (kind, message) = answer::refusal(status, body);
                Err(Failure::new(kind, message))
            }
        }
    }
}

/// Whether the node has closed this connection while it was idle. Costs no system call as long as nothing came.
fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Reply};
    use super::*;

    const AT_ONCE: Reply = Reply::After(Duration::ZERO);

    fn load(fake: &Fake, writers: usize, amount: Amount) -> Load {
        let host = fake.urls[0].authority().to_owned();
        Load {
            address: host.parse().unwrap(),
            host,
            quorum: 1,
            writers,
            warmup: 0,
            amount,
            rate: None,
            timeout: Duration::from_secs(10),
            workload: Workload::new(10, 64, 1, 1),
            value_bytes: 64,
            pids: vec![std::process::id()],
        }
    }

    async fn figures(load: Load) -> Figures {
        drive(load, Arc::default()).await.unwrap()
    }

    #[tokio::test]
    async fn exactly_the_writes_asked_for_are_measured_and_the_warm_up_is_not() {
        Fake::with(
            0,
            |_| AT_ONCE,
            async |fake| {
                let mut load = load(&fake, 4, Amount::Writes(50));
                load.warmup = 20;
                let figures = figures(load).await;
                assert_eq!(figures.latency.count(), 50);
                assert_eq!(figures.errors.count(), 0);
                assert_eq!(fake.writes.load(Ordering::SeqCst), 70);
                assert_eq!(fake.stores[0].lock().data.len(), 10);
                assert!(figures.open_loop.is_none() && figures.elapsed > Duration::ZERO);
                assert!(figures.own_cpu > Duration::ZERO && figures.nodes_cpu.is_some());
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_duration_ends_a_closed_loop() {
        Fake::with(
            0,
            |_| AT_ONCE,
            async |fake| {
                let load = load(&fake, 2, Amount::Duration(Duration::from_millis(100)));
                let figures = figures(load).await;
                assert!(figures.elapsed > Duration::ZERO);
                assert_eq!(figures.latency.count(), fake.writes.load(Ordering::SeqCst));
            },
        )
        .await;
    }

    #[tokio::test]
    async fn errors_are_told_apart_and_are_no_part_of_the_latency() {
        let script = |write| match write {
            0 => Reply::Refuse(503, "unavailable"),
            1 | 2 => Reply::Refuse(504, "quorum_timeout"),
            3 => Reply::Silence,
            4 => Reply::Close,
            5 => Reply::Lie,
            6 => Reply::Babble,
            _ => AT_ONCE,
        };
        Fake::with(0, script, async |fake| {
            let mut load = load(&fake, 1, Amount::Writes(20));
            load.timeout = Duration::from_secs(1);
            let figures = figures(load).await;
            assert_eq!((figures.latency.count(), figures.errors.count()), (13, 7));
            let told = figures.errors.describe().unwrap();
            for kind in [
                "1 × 503 unavailable",
                "2 × 504 quorum_timeout",
                "1 × timeout",
                "1 × connection lost",
                "1 × answer without success",
                "1 × answer not understood",
                "the first: 503 unavailable: on purpose",
            ] {
                assert!(told.contains(kind), "{kind} is not in {told}");
            }
            // The silent one alone took a second.
            assert!(figures.latency.max().unwrap() < Duration::from_secs(1));
        })
        .await;
    }

    #[tokio::test]
    async fn nobody_listening_is_an_error_and_no_hang() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        Fake::with(
            0,
            |_| AT_ONCE,
            async |fake| {
                let load = Load { address, ..load(&fake, 2, Amount::Writes(4)) };
                let figures = figures(load).await;
                assert_eq!((figures.latency.count(), figures.errors.count()), (0, 4));
                assert!(figures.errors.describe().unwrap().starts_with("4 × connection refused"));
            },
        )
        .await;
    }

    /// Keeps out coordinated omission: with one writer and one stall, the writes that were due during the stall are
    /// slow too, though each of them is answered at once when it is sent.
    #[tokio::test]
    async fn an_open_loop_counts_the_wait_of_writes_that_a_stall_held_up() {
        let stall = Duration::from_millis(100);
        let script = move |write| if write == 10 { Reply::After(stall) } else { AT_ONCE };
        Fake::with(0, script, async |fake| {
            let mut load = load(&fake, 1, Amount::Writes(200));
            load.rate = Some(1000.0);
            let open = figures(load.clone()).await;
            // About 100 of 200 were due during the stall, the later the shorter was their wait.
            let late = open.latency.quantile(0.7).unwrap();
            assert!(late > Duration::from_millis(20), "{late:?}");
            let open_loop = open.open_loop.unwrap();
            assert!(open_loop.max_lag_us >= 80_000.0 && open_loop.not_begun == 0, "{open_loop:?}");

            fake.writes.store(0, Ordering::SeqCst);
            load.rate = None;
            let closed = figures(load).await;
            let late = closed.latency.quantile(0.7).unwrap();
            assert!(late < stall / 2, "a closed loop does not see it: {late:?}");
            assert!(closed.latency.max().unwrap() >= stall);
        })
        .await;
    }

    #[tokio::test]
    async fn a_rate_that_cannot_be_held_is_reported_and_ends_in_time() {
        let script = |_| Reply::After(Duration::from_millis(10));
        Fake::with(0, script, async |fake| {
            let mut load = load(&fake, 2, Amount::Duration(Duration::from_millis(200)));
            load.rate = Some(2000.0);
            let figures = figures(load).await;
            let open_loop = figures.open_loop.unwrap();
            assert!(!open_loop.is_held);
            assert_eq!(open_loop.not_begun + figures.latency.count(), 400);
            assert!(open_loop.not_begun > 300 && open_loop.begun_per_s < 400.0, "{open_loop:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn an_open_loop_does_not_run_ahead_of_its_schedule() {
        Fake::with(
            0,
            |_| AT_ONCE,
            async |fake| {
                let mut load = load(&fake, 4, Amount::Writes(101));
                load.rate = Some(500.0);
                let figures = figures(load).await;
                let open_loop = figures.open_loop.unwrap();
                assert!(figures.elapsed >= Duration::from_millis(200), "{:?}", figures.elapsed);
                assert!(open_loop.begun_per_s <= 500.0 && open_loop.not_begun == 0, "{open_loop:?}");
                assert_eq!(figures.latency.count(), 101);
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_load_that_is_dropped_stops() {
        Fake::with(
            0,
            |_| AT_ONCE,
            async |fake| {
                let endless = load(&fake, 2, Amount::Duration(Duration::from_secs(3600)));
                let watch = Arc::new(Watch::default());
                tokio::select! {
                    _ = drive(endless, watch.clone()) => panic!("it ended"),
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
                // The load's thread lets go of what it shares when it is gone.
                while Arc::strong_count(&watch) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                assert!(watch.done.load(Ordering::SeqCst) > 0);
            },
        )
        .await;
    }
}
