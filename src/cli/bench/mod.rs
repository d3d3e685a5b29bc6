//! `quorate bench`: what each write quorum costs, on a real cluster, and whether nothing went astray meanwhile.
//!
//! For each quorum a number of writers write to the leader, each asking for that quorum alone (`?quorum=k`), and their
//! latency is measured as a client sees it. Beside it stands the *ideal*: what the delays that the leader injects would
//! take by themselves. What lies between is the price of the machinery. Then all followers must have reached the
//! leader's version and hold what it holds, keys, values and versions: a benchmark of a store that loses writes
//! measures nothing.
//!
//! ```text
//!  args       what was asked for            drive      the load, on a thread of its own
//!  health     what nodes tell                 workload   which key, which value           (pure)
//!  converge   waits, fetches                  answer     the bytes of an answer           (pure)
//!    compare  are the stores equal?  (pure)   schedule   the open loop and its timer
//!  ideal      order statistics       (pure)   errors     counted by kind                  (pure)
//!  report     table, JSON, page,              cost       CPU clocks
//!             pictures               (pure)   machine    where it all took place
//!                                             output     the files
//! ```
//!
//! In raft mode nothing is delayed, so there is no ideal; the quorum that is measured is a majority's unless others are
//! asked for, and smaller ones are answered as that.
//!
//! # Caveats
//! - The load shares the machine with the nodes, and says what it took. Figures of a busy machine compare only within
//!   one run.
//! - Writers of the closed loop (the default) wait for their answers, so a slow cluster is asked less: `--rate` is for
//!   the question how long a write takes at a given load.
//! - Against a cluster that others write to, the followers may never be seen at the leader's version.

mod answer;
mod args;
mod compare;
mod converge;
mod cost;
mod drive;
mod errors;
#[cfg(test)]
mod fake;
mod health;
mod ideal;
mod machine;
mod output;
mod report;
mod schedule;
#[cfg(test)]
mod tests;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use args::BenchArgs;

use super::cluster::{ClusterOptions, LocalCluster, Temporary};
use super::{CliError, print};
use crate::wire::{HttpClient, PeerUrl};
use args::{Mode, Plan, Target};
use converge::Convergence;
use drive::{Amount, Load, Watch};
use health::Health;
use machine::Machine;
use output::Output;
use report::{Cost, Report, Row, Settings};
use workload::Workload;

/// How long a node may take to answer a question about itself, or for a page of what it holds.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the members of a cluster of its own may take until all of them vote.
const VOTERS_MAX: Duration = Duration::from_secs(30);
/// Between two looks of the progress bar. Each costs the nodes some CPU.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the benchmark, prints its report, and fails if a follower differed from the leader.
pub async fn run(args: BenchArgs) -> Result<(), CliError> {
    let mut text = String::new();
    let outcome = bench(args, &mut text).await;
    // What went wrong before is the more important failure.
    outcome.and(print(&text))
}

/// Runs it and writes its files. What is to be printed, however it ends, is in `text`.
async fn bench(args: BenchArgs, text: &mut String) -> Result<(), CliError> {
    let plan = args.check().map_err(CliError::Usage)?;
    let output = Output::open(args.json.as_deref(), args.report.as_deref()).map_err(CliError::Usage)?;
    let mut interrupt = Interrupt::listen()?;
    // Outlives the nodes that write there.
    let data = (args.mode == Mode::Raft).then(|| Temporary::new("bench"));
    let cluster = match plan.target {
        Target::Own { followers } => Some(tokio::select! {
            cluster = start(&plan, followers, data.as_ref()) => cluster?,
            () = interrupt.happens() => return Err(interrupted()),
        }),
        Target::Foreign { .. } => None,
    };
    let mut report = None;
    let outcome = tokio::select! {
        outcome = measure(&args, &plan, cluster.as_ref(), &mut report) => outcome,
        () = interrupt.happens() => Err(interrupted()),
    };
    if let Some(cluster) = cluster {
        cluster.stop().await;
    }
    // Of a run that was broken off, what was measured is still worth something.
    if let Some(mut report) = report {
        report.failure = outcome.as_ref().err().map(|error| match error {
            CliError::Usage(message) | CliError::Failed(message) => message.clone(),
        });
        if !report.quorums.is_empty() {
            text.push_str(&format!("{}\n", report.text().trim_end()));
        }
        match (output.write(&report), &args.report) {
            (Ok(()), None) => {}
            (Ok(()), Some(folder)) => {
                text.push_str(&format!("report: {}\n", folder.join(report::PAGE).display()));
            }
            (Err(error), _) if outcome.is_err() => text.push_str(&format!("{error}\n")),
            (Err(error), _) => return Err(CliError::Failed(error)),
        }
    }
    outcome
}

/// Its own cluster. Its `WRITE_QUORUM` is 1, so that every quorum asked for is the one that is waited for.
async fn start(
    plan: &Plan,
    followers: usize,
    raft_data: Option<&Temporary>,
) -> Result<LocalCluster, CliError> {
    let (min_delay, max_delay) = plan.delay.map_or_else(Default::default, |delay| (delay.min, delay.max));
    let options = ClusterOptions {
        followers,
        write_quorum: 1,
        min_delay,
        max_delay,
        base_port: None,
        log: "warn".into(),
        raft_data: raft_data.map(|folder| folder.path().to_owned()),
        quiet: true,
        env: Vec::new(),
    };
    LocalCluster::start(options)
        .await
        .map_err(|error| CliError::Failed(format!("the cluster did not start: {error}")))
}

/// Measures every quorum. What is done when it ends, however it ends, is in `report`.
async fn measure(
    args: &BenchArgs,
    plan: &Plan,
    cluster: Option<&LocalCluster>,
    report: &mut Option<Report>,
) -> Result<(), CliError> {
    let client = HttpClient::new(QUESTION_TIMEOUT, None).map_err(CliError::Failed)?;
    let nodes = Nodes::find(&client, args.mode, plan, cluster).await.map_err(CliError::Failed)?;
    let quorums = args.quorums_of(nodes.followers.len()).map_err(CliError::Usage)?;
    let report = report.insert(Report {
        program: format!("quorate {}", env!("CARGO_PKG_VERSION")),
        began: machine::now(),
        machine: Machine::look(),
        settings: nodes.settings(args, plan),
        quorums: Vec::new(),
        failure: None,
    });
    for quorum in quorums {
        let row = measure_one(args, plan, &client, &nodes, quorum).await.map_err(CliError::Failed)?;
        let failure = match (&row.latency, row.convergence.failure()) {
            (_, Some(failure)) => Some(format!("after quorum {quorum}: {failure}")),
            (None, None) => Some(format!("not one write succeeded with quorum {quorum}")),
            (Some(_), None) => None,
        };
        report.quorums.push(row);
        if let Some(failure) = failure {
            return Err(CliError::Failed(failure));
        }
    }
    Ok(())
}

/// The nodes that are measured.
struct Nodes {
    leader: PeerUrl,
    /// Where the leader listens, and what it is called there.
    address: SocketAddr,
    host: String,
    followers: Vec<PeerUrl>,
    /// Of its own cluster.
    pids: Vec<u32>,
}

impl Nodes {
    async fn find(
        client: &HttpClient,
        mode: Mode,
        plan: &Plan,
        cluster: Option<&LocalCluster>,
    ) -> Result<Nodes, String> {
        let (leader, mut followers, pids) = match (&plan.target, cluster) {
            (_, Some(cluster)) => {
                let (leader, followers) = match mode {
                    Mode::Quorum => (cluster.leader.clone(), cluster.followers.clone()),
                    Mode::Raft => elected(client, cluster).await?,
                };
                (leader, followers, cluster.pids())
            }
            (Target::Foreign { leader, followers }, None) => (leader.clone(), followers.clone(), Vec::new()),
            (Target::Own { .. }, None) => return Err("its own cluster is not there".into()),
        };
        let health = Health::ask(client, &leader).await?;
        if let Some(other) = health.mode.as_deref().filter(|other| *other != mode.as_str()) {
            return Err(format!("{leader} runs in {other} mode: say --mode {other}"));
        }
        if let Some(role) = health.role.as_deref().filter(|role| *role != "leader") {
            return Err(format!("{leader} is a {role}, and writes go to the leader"));
        }
        if followers.is_empty() {
            followers = health.followers()?;
        }
        if followers.is_empty() {
            return Err(format!("{leader} does not tell its followers: name them with --followers"));
        }
        for follower in &followers {
            Health::ask(client, follower).await?;
        }
        let host = leader.authority().to_owned();
        let address = reachable(&host).await?;
        Ok(Nodes { leader, address, host, followers, pids })
    }

    fn settings(&self, args: &BenchArgs, plan: &Plan) -> Settings {
        let (writes, duration_s) = match plan.amount {
            Amount::Writes(writes) => (Some(writes), None),
            Amount::Duration(duration) => (None, Some(duration.as_secs_f64())),
        };
        let micros = |delay: Duration| delay.as_nanos() as f64 / 1e3;
        Settings {
            mode: args.mode,
            leader: self.leader.to_string(),
            followers: self.followers.iter().map(ToString::to_string).collect(),
            is_own_cluster: matches!(plan.target, Target::Own { .. }),
            writes,
            duration_s,
            rate_per_s: args.rate,
            warmup_writes: args.warmup,
            writers: args.writers as usize,
            keys: args.keys,
            value_bytes: args.value_bytes as usize,
            seed: args.seed,
            min_delay_us: plan.delay.map(|delay| micros(delay.min)),
            max_delay_us: plan.delay.map(|delay| micros(delay.max)),
            request_timeout_s: args.request_timeout.as_secs_f64(),
            converge_timeout_s: args.converge_timeout.as_secs_f64(),
        }
    }
}

/// Who leads a cluster of its own in raft mode, and the rest, once all of them vote.
async fn elected(client: &HttpClient, cluster: &LocalCluster) -> Result<(PeerUrl, Vec<PeerUrl>), String> {
    let all: Vec<&PeerUrl> = std::iter::once(&cluster.leader).chain(&cluster.followers).collect();
    let deadline = Instant::now() + VOTERS_MAX;
    loop {
        let first = Health::ask(client, all[0]).await?;
        let leader = first.leader.as_deref().map(PeerUrl::parse).transpose()?;
        if let Some(leader) = leader
            && Health::ask(client, &leader).await?.has_all_up(cluster.followers.len())
        {
            let followers = all.into_iter().filter(|node| **node != leader).cloned().collect();
            return Ok((leader, followers));
        }
        if Instant::now() > deadline {
            return Err(format!("after {VOTERS_MAX:?} there is no leader with all other members up"));
        }
        tokio::time::sleep(BAR_INTERVAL).await;
    }
}

/// The first address of `host` that takes a connection: `localhost` has two, and a node listens on one.
async fn reachable(host: &str) -> Result<SocketAddr, String> {
    let addresses = tokio::net::lookup_host(host).await.map_err(|error| format!("{host}: {error}"))?;
    let mut failure = format!("{host} has no address");
    for address in addresses {
        match tokio::time::timeout(QUESTION_TIMEOUT, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) => failure = format!("{host}: {error}"),
            Err(_) => failure = format!("{host} does not answer"),
        }
    }
    Err(failure)
}

async fn measure_one(
    args: &BenchArgs,
    plan: &Plan,
    client: &HttpClient,
    nodes: &Nodes,
    quorum: usize,
) -> Result<Row, String> {
    let value_bytes = args.value_bytes as usize;
    let load = Load {
        address: nodes.address,
        host: nodes.host.clone(),
        quorum,
        writers: args.writers as usize,
        warmup: args.warmup,
        amount: plan.amount,
        rate: args.rate,
        timeout: args.request_timeout,
        workload: Workload::new(args.keys, value_bytes, args.seed, quorum as u64),
        value_bytes,
        pids: nodes.pids.clone(),
    };
    let delays_before = Health::ask(client, &nodes.leader).await?.delays();
    let watch = Arc::new(Watch::default());
    let figures = tokio::select! {
        figures = drive::drive(load, watch.clone()) => figures?,
        never = show_progress(quorum, plan.amount, args.rate, &watch) => match never {},
    };
    let convergence =
        converge::converge(client, &nodes.leader, &nodes.followers, value_bytes, args.converge_timeout).await;
    // After convergence: by then the slowest followers' delays have been counted too.
    let delays_after = match convergence {
        Convergence::NotReached { .. } => None,
        _ => Health::ask(client, &nodes.leader).await?.delays(),
    };
    let latency = figures.latency.summary();
    let ideal = plan.delay.map(|delay| ideal::ideal(quorum, nodes.followers.len(), delay));
    let writes = figures.latency.count();
    let seconds = figures.elapsed.as_secs_f64();
    Ok(Row {
        quorum,
        latency,
        quantiles_us: report::quantiles(&figures.latency),
        writes_per_s: if seconds > 0.0 { writes as f64 / seconds } else { 0.0 },
        seconds,
        errors: figures.errors,
        ideal,
        p50_above_ideal_us: latency.zip(ideal).map(|(latency, ideal)| latency.p50_us - ideal.p50_us),
        delay: health::injected(delays_before, delays_after),
        open_loop: figures.open_loop,
        generator_cpu: Cost::new(figures.own_cpu, writes),
        nodes_cpu: figures.nodes_cpu.map(|cpu| Cost::new(cpu, writes)),
        convergence,
    })
}

/// Shows how far a run has come, on a terminal, until it is dropped.
async fn show_progress(
    quorum: usize,
    amount: Amount,
    rate: Option<f64>,
    watch: &Watch,
) -> std::convert::Infallible {
    let length = match amount {
        Amount::Writes(writes) => writes,
        Amount::Duration(duration) => duration.as_millis() as u64,
    };
    // Hidden by itself where standard error is no terminal.
    let bar = Bar(ProgressBar::new(length));
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3} %  {msg}") {
        bar.0.set_style(style);
    }
    let open_loop = rate.map_or("", |_| ", open loop");
    bar.0.set_prefix(format!("quorum {quorum}{open_loop}"));
    loop {
        let done = watch.done.load(Ordering::Relaxed);
        match watch.began.get() {
            None => bar.0.set_message("warming up"),
            Some(began) => {
                bar.0.set_message(format!("{done} writes"));
                bar.0.set_position(match amount {
                    Amount::Writes(_) => done,
                    Amount::Duration(_) => (began.elapsed().as_millis() as u64).min(length),
                });
            }
        }
        tokio::time::sleep(BAR_INTERVAL).await;
    }
}

/// A bar that leaves nothing behind.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn interrupted() -> CliError {
    CliError::Failed("interrupted".into())
}

/// Ctrl-C, or what a service manager sends.
struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn listen() -> Result<Interrupt, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Interrupt {
            ctrl_c: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn happens(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
