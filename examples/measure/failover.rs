//! What raft mode does when something dies: how long writes stop, how long a node takes to catch up, whether a minute of
//! full load with snapshots holds any surprise, and all that on a machine whose processors and disk others keep busy.
//!
//! *Fail-over.* Three members; the one that leads is killed, and from that moment a client writes to another one until
//! it is acknowledged. Detection ends when a member says in its log that it stands for election, the election when one
//! says that it leads. Then the killed one comes back, and it goes on with whoever leads now.
//!
//! Owns the members' lives. Its figures are of this project alone: nobody else's log says when these moments are.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{Answers, Load, Request};
use crate::peers::{self, Peer, Programs};
use crate::report::{markdown, number, spread, yes_or_no};
use crate::rows::{BASE, TOLERANCE, Work};

/// How often a leader is killed, for each pair of time-outs.
const KILLS: usize = 20;
/// Entries that a node misses before it catches up.
const ENTRIES_MISSED: u64 = 10_000;
/// The long load.
const LONG: Duration = Duration::from_secs(60);
/// The load beside others that keep processors and disk busy.
const DISTURBED: Duration = Duration::from_secs(30);
/// How often a leader is killed amid that.
const DISTURBED_KILLS: usize = 10;
/// Threads that do nothing but write so many bytes and sync them, where the members' data is.
const SYNCERS: usize = 2;
const SYNCED_BYTES: usize = 1 << 20;
/// Anything that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a node.
const POLL: Duration = Duration::from_millis(2);
/// Election time-outs that are measured, with the bound that is asked for the next acknowledged write, in milliseconds.
const TIME_OUTS: [([&str; 2], f64); 2] = [(["150ms", "300ms"], 550.0), (["75ms", "150ms"], 300.0)];

/// A line of a member's log, and when it was read.
struct Said {
    at: Instant,
    line: String,
}

/// A cluster whose members are killed and come back.
struct Members<'a> {
    programs: &'a Programs,
    settings: Vec<(String, String)>,
    addresses: Vec<SocketAddr>,
    children: Vec<Option<Child>>,
    folder: PathBuf,
    log: (Sender<Said>, Receiver<Said>),
}

impl<'a> Members<'a> {
    fn start(programs: &'a Programs, settings: &[(&str, &str)]) -> Result<Members<'a>, String> {
        let addresses = peers::free_addresses(3).map_err(|error| format!("no free ports: {error}"))?;
        let mut members = Members {
            programs,
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            children: addresses.iter().map(|_| None).collect(),
            addresses,
            folder: programs.data.join(format!("failover-{}", std::process::id())),
            log: channel(),
        };
        (0..3).try_for_each(|nth| members.spawn(nth))?;
        (0..3).try_for_each(|nth| members.wait_ready(nth))?;
        Ok(members)
    }

    fn spawn(&mut self, nth: usize) -> Result<(), String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).env_clear();
        peers::raft(&mut command, nth, &self.addresses, &self.folder, self.programs);
        command.envs(self.settings.iter().map(|(name, value)| (name, value))).env("LOG", "info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot run setpriv: {error}"))?;
        let (stderr, said) = (child.stderr.take(), self.log.0.clone());
        thread::spawn(move || {
            for line in
                stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok)
            {
                // Nobody listens any more at the end.
                let _ = said.send(Said { at: Instant::now(), line });
            }
        });
        self.children[nth] = Some(child);
        Ok(())
    }

    fn kill(&mut self, nth: usize) {
        if let Some(mut child) = self.children[nth].take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn wait_ready(&self, nth: usize) -> Result<(), String> {
        self.wait(&format!("member {nth} is ready"), || peers::is_ready(Peer::Raft, self.addresses[nth], 2))
            .map(drop)
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<Duration, String> {
        let begun = Instant::now();
        while !is_so() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("it was not so within {PATIENCE:?} that {what}"));
            }
            thread::sleep(POLL);
        }
        Ok(begun.elapsed())
    }

    fn leader(&self) -> Result<usize, String> {
        let mut leader = None;
        self.wait("a member leads", || {
            leader = (0..3)
                .find(|nth| self.children[*nth].is_some() && peers::leads(Peer::Raft, self.addresses[*nth]));
            leader.is_some()
        })?;
        leader.ok_or_else(|| "no leader".to_owned())
    }

    /// A figure of a member's health.
    fn health(&self, nth: usize, name: &str) -> Option<u64> {
        let body = peers::get(self.addresses[nth], "/health").ok()?;
        let (_, rest) = body.split_once(&format!("\"{name}\":"))?;
        rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
    }

    /// Writes to a member until it says that it is done.
    fn write_until_acknowledged(&self, nth: usize) -> Result<(), String> {
        let body = r#"{"key":"k","value":1}"#;
        let address = self.addresses[nth];
        let request = format!(
            "POST /write HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.wait("a write is acknowledged", || {
            peers::ask(address, &request).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .map(drop)
    }

    fn forget_log(&self) {
        while self.log.1.try_recv().is_ok() {}
    }
}

impl Drop for Members<'_> {
    fn drop(&mut self) {
        (0..self.children.len()).for_each(|nth| self.kill(nth));
        // Another run of this one would begin with it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// From the kill: when a member stood for election, when one led, when a write was acknowledged, in milliseconds.
type Moments = [f64; 3];

fn fail_over(members: &mut Members) -> Result<Moments, String> {
    let leader = members.leader()?;
    let other = (leader + 1) % 3;
    members.write_until_acknowledged(other)?;
    members.forget_log();
    let killed = Instant::now();
    members.kill(leader);
    members.write_until_acknowledged(other)?;
    let acknowledged = killed.elapsed();
    let (mut stood, mut led) = (None, None);
    while led.is_none() {
        let said =
            members.log.1.recv_timeout(PATIENCE).map_err(|_| "nobody said that it leads".to_owned())?;
        if said.line.contains("stands for election") {
            stood = stood.or(Some(said.at));
        } else if said.line.contains("leads in term") {
            led = Some(said.at);
        }
    }
    let stood = stood.or(led);
    members.spawn(leader)?;
    members.wait_ready(leader)?;
    let since = |at: Option<Instant>| at.map_or(f64::NAN, |at| millis(at.saturating_duration_since(killed)));
    Ok([since(stood), since(led), millis(acknowledged)])
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How long a member that missed [`ENTRIES_MISSED`] entries takes until it has applied them: from its start, and from its
/// first answer.
fn catch_up(members: &mut Members) -> Result<[f64; 2], String> {
    let leader = members.leader()?;
    let away = (leader + 1) % 3;
    members.kill(away);
    let work = Work { clients: 4, followers: 2, quorum: None, ..BASE };
    let address = members.addresses[leader];
    let applied = |nth| members.health(nth, "last_applied").unwrap_or(0);
    let goal = applied(leader) + ENTRIES_MISSED;
    let mut request = Request::http_write(&work, address);
    let mut load = Load::connect(&[address], Answers::Http, &work)
        .map_err(|error| format!("cannot connect: {error}"))?;
    while applied(leader) < goal {
        load.run_for(&mut request, Duration::from_millis(500))?;
    }
    let goal = applied(leader);
    let begun = Instant::now();
    members.spawn(away)?;
    let answered = members.wait("it answers", || members.health(away, "last_applied").is_some())?;
    members.wait("it has caught up", || {
        members.health(away, "last_applied").is_some_and(|applied| applied >= goal)
    })?;
    let all = begun.elapsed();
    members.wait_ready(away)?;
    Ok([millis(all), millis(all - answered)])
}

/// Everything, as Markdown.
pub(super) fn measure(programs: &Programs, commit: &str, machine: &str) -> Result<String, String> {
    let mut text = format!("Commit {commit}; {machine}.\n\n");
    let head = ["election time-outs", "moment", "median ms", "(least–most)", "asked", "met"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for ([min, max], asked) in TIME_OUTS {
        let settings = [("ELECTION_TIMEOUT_MIN", min), ("ELECTION_TIMEOUT_MAX", max)];
        let mut members = Members::start(programs, &settings)?;
        let mut all: Vec<Moments> = Vec::new();
        for nth in 1..=KILLS {
            all.push(fail_over(&mut members)?);
            eprintln!("{min}–{max}, kill {nth}: stands, leads, acknowledges after {:.0?} ms", all[nth - 1]);
        }
        let moments = ["a member stands for election", "a member leads", "the next write is acknowledged"];
        for (nth, moment) in moments.into_iter().enumerate() {
            let [median, least, most] = spread(all.iter().map(|moments| moments[nth]));
            let asked = (nth == 2).then_some(asked);
            table.push(vec![
                format!("{min}–{max}"),
                moment.to_owned(),
                number(median),
                format!("{}–{}", number(least), number(most)),
                asked.map_or_else(String::new, |asked| format!("≤ {asked}")),
                asked.map_or_else(String::new, |asked| yes_or_no(median <= asked * (1.0 + TOLERANCE))),
            ]);
        }
    }
    let _ = writeln!(text, "{KILLS} kills of the leader each; from the kill:\n\n{}", markdown(&table));

    let mut members = Members::start(programs, &[])?;
    let [all, answering] = catch_up(&mut members)?;
    let met = yes_or_no(answering <= 500.0 * (1.0 + TOLERANCE));
    let _ = writeln!(
        text,
        "A member that missed {} entries has applied them {} ms after its process was started, {} ms after its first \
         answer (asked: 500 ms; met: {met}).\n",
        number(ENTRIES_MISSED as f64),
        number(all),
        number(answering),
    );
    eprintln!("caught up after {all:.0} ms");
    drop(members);

    let members = Members::start(programs, &[])?;
    let minute = long_load(&members, LONG)?;
    let met = yes_or_no(minute.p999_ms <= 15.0 * (1.0 + TOLERANCE) && !minute.is_lead_changed);
    let _ = writeln!(
        text,
        "{} s at 64 clients: {} (asked: p99.9 ≤ 15 ms and no change; met: {met}).\n",
        LONG.as_secs(),
        minute.text
    );
    drop(members);

    let mut members = Members::start(programs, &[])?;
    let disturbance = Disturbance::start(&members.folder);
    let amid = long_load(&members, DISTURBED)?;
    let mut acknowledged = Vec::new();
    for nth in 1..=DISTURBED_KILLS {
        let [.., millis] = fail_over(&mut members)?;
        eprintln!("disturbed, kill {nth}: acknowledges after {millis:.0} ms");
        acknowledged.push(millis);
    }
    let [median, least, most] = spread(acknowledged.into_iter());
    let synced = disturbance.end()?;
    let _ = writeln!(
        text,
        "{} s at 64 clients while {} threads compute without a pause and {SYNCERS} write {} MiB and sync it, again and \
         again ({} times in all): {} (asked: no change; met: {}). Killed {DISTURBED_KILLS} times amid that, a leader was \
         followed by the next acknowledged write after {} ms ({}–{}).",
        DISTURBED.as_secs(),
        spinners(),
        SYNCED_BYTES >> 20,
        number(synced as f64),
        amid.text,
        yes_or_no(!amid.is_lead_changed),
        number(median),
        number(least),
        number(most),
    );
    Ok(text)
}

/// What came of a load of some length.
struct Seen {
    text: String,
    p999_ms: f64,
    is_lead_changed: bool,
}

fn long_load(members: &Members, length: Duration) -> Result<Seen, String> {
    let leader = members.leader()?;
    let address = members.addresses[leader];
    let work = Work { followers: 2, quorum: None, ..BASE };
    let mut request = Request::http_write(&work, address);
    let mut load = Load::connect(&[address], Answers::Http, &work)
        .map_err(|error| format!("cannot connect: {error}"))?;
    load.run_for(&mut request, Duration::from_secs(1))?;
    let figure =
        |name: &str| members.health(leader, name).ok_or_else(|| format!("the leader tells no {name}"));
    let (term, applied) = (figure("term")?, figure("last_applied")?);
    let seen = load.run_for(&mut request, length)?;
    let (term_after, applied_after) = (figure("term")?, figure("last_applied")?);
    let quantile = |quantile| seen.latency.quantile(quantile).map_or(f64::NAN, millis);
    let text = format!(
        "{} writes/s in {} entries, {} errors; p50 {} ms, p99 {} ms, p99.9 {} ms, longest {} ms; {}",
        number(seen.latency.count() as f64 / seen.elapsed.as_secs_f64()),
        number((applied_after - applied) as f64),
        seen.errors,
        number(quantile(0.5)),
        number(quantile(0.99)),
        number(quantile(0.999)),
        number(quantile(1.0)),
        if term == term_after { "the leader stayed the same" } else { "the lead changed" },
    );
    Ok(Seen { text, p999_ms: quantile(0.999), is_lead_changed: term != term_after })
}

/// Threads that do nothing but compute: twice as many as there are processors.
fn spinners() -> usize {
    2 * thread::available_parallelism().map_or(1, usize::from)
}

/// Others on the same machine, who want its processors and its disk for themselves.
struct Disturbance {
    is_over: Arc<AtomicBool>,
    spinners: Vec<thread::JoinHandle<()>>,
    syncers: Vec<thread::JoinHandle<io::Result<u64>>>,
}

impl Disturbance {
    fn start(folder: &Path) -> Disturbance {
        let is_over = Arc::new(AtomicBool::new(false));
        let spinners = (0..spinners()).map(|_| {
            let is_over = is_over.clone();
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) {})
        });
        let syncers = (0..SYNCERS).map(|nth| {
            let (is_over, path) = (is_over.clone(), folder.join(format!("disturbance-{nth}")));
            thread::spawn(move || {
                let (file, bytes) = (File::create(path)?, vec![1; SYNCED_BYTES]);
                let mut synced = 0;
                while !is_over.load(Ordering::Relaxed) {
                    file.write_all_at(&bytes, 0)?;
                    file.sync_data()?;
                    synced += 1;
                }
                Ok(synced)
            })
        });
        let (spinners, syncers) = (spinners.collect(), syncers.collect());
        Disturbance { is_over, spinners, syncers }
    }

    /// Ends it. Gives the number of syncs.
    fn end(mut self) -> Result<u64, String> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = std::mem::take(&mut self.syncers).into_iter().map(|syncer| match syncer.join() {
            Ok(synced) => synced.map_err(|error| format!("the disk was not kept busy: {error}")),
            Err(_) => Err("a thread that keeps the disk busy has panicked".to_owned()),
        });
        ended.sum()
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for spinner in std::mem::take(&mut self.spinners) {
            // It has nothing to say.
            let _ = spinner.join();
        }
    }
}
