//! The simulated network: messages are lost, late, doubled, cut off or held up, as a seeded generator says.
//!
//! It carries the very bytes that HTTP would. A message goes its own way once it is posted: that its sender has given up
//! on it, or died, does not keep it from arriving.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate::address::PeerUrl;
use quorate::tasks::Tasks;
use quorate::wire::{CallError, PeerPath, Refusal, Transport};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

/// How often each fault fired, and what the protocol did about it. Summed over all seeds, none may stay zero.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    pub fn merge(&mut self, other: &Counts) {
        other.0.iter().for_each(|(what, n)| self.add(what, *n));
    }
}

/// What goes wrong with messages, in per mille.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u32,
    pub delayed: u32,
    pub doubled: u32,
    pub doubled_late: u32,
}

/// Who messages are for: a node of either mode.
pub trait Addressee: Clone + Send + 'static {
    /// Handles a message.
    fn handle(&self, path: PeerPath, body: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>>;

    /// Whether it has crashed: then nothing that it still says is heard.
    fn is_dead(&self) -> bool;
}

struct State<Node> {
    rng: fastrand::Rng,
    nodes: BTreeMap<PeerUrl, Node>,
    cut: BTreeSet<(PeerUrl, PeerUrl)>,
    paused: BTreeSet<PeerUrl>,
    weather: Weather,
    counts: Counts,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Network<Node> {
    state: Arc<Mutex<State<Node>>>,
    resumed: Arc<Notify>,
    tasks: Tasks,
}

/// What happens to one message.
struct Fate {
    lost: bool,
    reply_lost: bool,
    /// What is lost is lost with the connection, and the sender hears of it at once.
    reset: bool,
    delay: Duration,
    reply_delay: Duration,
    again_after: Option<Duration>,
}

impl<Node: Addressee> Network<Node> {
    pub fn new(seed: u64, tasks: Tasks) -> Network<Node> {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            weather: Weather::default(),
            counts: Counts::default(),
        };
        Network { state: Arc::new(Mutex::new(state)), resumed: Arc::new(Notify::new()), tasks }
    }

    /// The way out of a node. It ends with the sender's `tasks`.
    pub fn transport(&self, from: &PeerUrl, tasks: &Tasks) -> Arc<dyn Transport> {
        Arc::new(SimTransport { network: self.clone(), from: from.clone(), tasks: tasks.clone() })
    }

    pub fn put(&self, url: &PeerUrl, node: Node) {
        self.state.lock().nodes.insert(url.clone(), node);
    }

    pub fn remove(&self, url: &PeerUrl) {
        self.state.lock().nodes.remove(url);
    }

    pub fn node(&self, url: &PeerUrl) -> Option<Node> {
        self.state.lock().nodes.get(url).cloned()
    }

    pub fn count(&self, what: &'static str) {
        self.state.lock().counts.add(what, 1);
    }

    pub fn counts(&self) -> Counts {
        self.state.lock().counts.clone()
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// Cuts messages from `a` to `b` (not the other way).
    pub fn cut(&self, a: &PeerUrl, b: &PeerUrl) {
        self.state.lock().cut.insert((a.clone(), b.clone()));
    }

    pub fn mend(&self) {
        self.state.lock().cut.clear();
    }

    pub fn pause(&self, url: &PeerUrl) {
        self.state.lock().paused.insert(url.clone());
    }

    pub fn resume_all(&self) {
        self.state.lock().paused.clear();
        self.resumed.notify_waiters();
    }

    fn fate(&self, path: PeerPath) -> Fate {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (rng, counts, weather) = (&mut state.rng, &mut state.counts, state.weather);
        let mut happens = |per_mille: u32, what: &'static str| {
            let happens = rng.u32(..1_000) < per_mille;
            if happens {
                counts.add(what, 1);
            }
            happens
        };
        let (lost, reply_lost) = (happens(weather.lost, "loss"), happens(weather.lost, "loss"));
        let reset = (lost || reply_lost) && happens(500, "reset");
        let delayed = happens(weather.delayed, "delay");
        // HTTP does not double messages. Where it did, only these would not bear it: each would be another write.
        let (once, twice) =
            if path == PeerPath::RaftWrite { (0, 0) } else { (weather.doubled, weather.doubled_late) };
        let (doubled, doubled_late) = (happens(once, "duplicate"), happens(twice, "late duplicate"));
        let delay = if delayed { rng.u64(10..150) } else { rng.u64(0..4) };
        let again = if doubled_late { rng.u64(200..2_000) } else { rng.u64(0..5) };
        Fate {
            lost,
            reply_lost,
            reset,
            delay: Duration::from_millis(delay),
            reply_delay: Duration::from_millis(rng.u64(0..4)),
            again_after: (doubled || doubled_late).then(|| Duration::from_millis(again)),
        }
    }

    /// Waits while either end is paused. Gives false if the way is cut.
    async fn passable(&self, from: &PeerUrl, to: &PeerUrl) -> bool {
        loop {
            let resumed = self.resumed.notified();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            {
                let state = self.state.lock();
                if !state.paused.contains(from) && !state.paused.contains(to) {
                    return !state.cut.contains(&(from.clone(), to.clone()));
                }
            }
            resumed.await;
        }
    }

    async fn carry(
        self,
        from: PeerUrl,
        to: PeerUrl,
        path: PeerPath,
        body: Bytes,
        answer: oneshot::Sender<Result<Bytes, CallError>>,
    ) {
        let fate = self.fate(path);
        let lose = |answer: oneshot::Sender<_>| {
            if fate.reset {
                let _ = answer.send(Err(CallError::NoAnswer("connection reset".into())));
            }
        };
        if fate.lost {
            return lose(answer);
        }
        sleep(fate.delay).await;
        if !self.passable(&from, &to).await {
            return;
        }
        if let Some(after) = fate.again_after {
            let (network, from, to, body) = (self.clone(), from.clone(), to.clone(), body.clone());
            self.tasks.spawn("duplicate", async move {
                sleep(after).await;
                if network.passable(&from, &to).await
                    && let Some(node) = network.node(&to)
                {
                    let _ = node.handle(path, body).await;
                }
            });
        }
        let Some(node) = self.node(&to) else {
            // A second copy may still arrive.
            let error = match fate.again_after {
                Some(_) => CallError::NoAnswer("connection refused".into()),
                None => CallError::NotSent("connection refused".into()),
            };
            let _ = answer.send(Err(error));
            return;
        };
        let reply = node.handle(path, body).await;
        if fate.reply_lost || node.is_dead() {
            return lose(answer);
        }
        if !self.passable(&to, &from).await {
            return;
        }
        sleep(fate.reply_delay).await;
        let _ = answer.send(reply.map_err(CallError::Refused));
    }
}

struct SimTransport<Node> {
    network: Network<Node>,
    from: PeerUrl,
    tasks: Tasks,
}

impl<Node: Addressee> Transport for SimTransport<Node> {
    fn post(
        &self,
        to: &PeerUrl,
        path: PeerPath,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        if self.tasks.is_stopping() {
            return std::future::ready(Err(CallError::NotSent("the sender is dead".into()))).boxed();
        }
        let (answer, answered) = oneshot::channel();
        let (network, from, to) = (self.network.clone(), self.from.clone(), to.clone());
        self.network.tasks.spawn("message", network.carry(from, to, path, body, answer));
        async move {
            let answered = async {
                match answered.await {
                    Ok(answer) => answer,
                    // Lost: nobody will ever say so.
                    Err(_) => std::future::pending().await,
                }
            };
            timeout(deadline, answered).await.unwrap_or_else(|_| Err(CallError::NoAnswer("deadline".into())))
        }
        .boxed()
    }
}
