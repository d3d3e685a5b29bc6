//! The measuring kit behind `scripts/compare_peers.sh` and `scripts/how_cost_grows.sh`: this project beside others in
//! one run, and how its cost grows.
//!
//! For every repetition, row and system a fresh cluster is started, every key written once, the load run unmeasured and
//! then measured, and the cluster killed: systems take turns, so that a machine that changes its speed changes it for
//! all. Each measurement is a line of JSON; at the end come tables of medians. It reports and does not judge: the exit
//! code is 0 unless something failed to run.
//!
//! ```text
//!  rows     what is measured, what is asked of it  (pure)    peers  clusters: start, ready, CPU, end
//!  report   medians and tables                     (pure)      slow   a slow link to one node
//!  failover   what happens when something dies              load   the clients
//! ```

mod failover;
mod load;
mod peers;
mod report;
mod rows;
mod slow;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::ClockId;

use load::Load;
use peers::{Cluster, Peer, Programs};
use report::{FOREIGN_CORES_MAX, Line};
use rows::{Figures, Operation, Row, Work};

/// Files that a process may have open, if the system allows it: a client is one for the load and one for the leader.
const OPEN_FILES: u64 = 8192;
/// How often a measurement is taken if other work disturbs it.
const TRIES: usize = 3;

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// This project beside others
    Compare,
    /// This project with more clients, values, keys, followers, and with a slow one
    Growth,
    /// Raft mode beside etcd, with fsync
    Raft,
    /// Raft mode when leaders are killed, nodes catch up, and under a minute of load
    Failover,
}

/// Measures clusters on this machine, each on loopback and alone, and prints tables of medians
#[derive(Parser)]
struct Args {
    mode: Mode,
    /// Systems to measure, where a row has them
    #[arg(long, value_delimiter = ',', default_value = "quorate,redis,bare,plain,raft,etcd")]
    peers: Vec<Peer>,
    /// Rows, or groups of rows (`write`, `clients`); all unless given. --list names them
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Names the rows and ends
    #[arg(long)]
    list: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Measured time of each
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Time of the same load before, which is not measured
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Where the lines of JSON go, target/MODE.jsonl unless given
    #[arg(long)]
    out: Option<PathBuf>,
    /// Add to that file instead of beginning it anew; the tables are of all that is in it
    #[arg(long)]
    append: bool,
    /// Measure nothing: the tables of what is in the file
    #[arg(long)]
    report_only: bool,
    /// A Markdown file to put the tables into, between the marks `measured: MODE`
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Another binary of this project
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// A setting for its nodes, such as WORKER_THREADS=2
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
    /// What was built, for the report
    #[arg(long, default_value = "another build")]
    commit: String,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let (mode, all) = match args.mode {
        Mode::Failover => {
            allow_files().map_err(|error| format!("cannot ask for the number of open files: {error}"))?;
            let text = failover::measure(&programs(args)?, &args.commit, &machine())?;
            return publish(args, "failover", &text);
        }
        Mode::Compare => ("compare", rows::compare()),
        Mode::Growth => ("growth", rows::growth()),
        Mode::Raft => ("raft", rows::raft()),
    };
    if args.list {
        all.iter().for_each(|row| println!("{:<14} {}", row.name, row.title));
        return Ok(());
    }
    if let Some(name) = args.rows.iter().find(|name| !all.iter().any(|row| is_named(row, name))) {
        return Err(format!("there is no row {name}: --list names them"));
    }
    let out = args.out.clone().unwrap_or_else(|| format!("target/{mode}.jsonl").into());
    let failed = if args.report_only { 0 } else { measure_all(args, &all, &out)? };
    let file = |path: &PathBuf, error| format!("{}: {error}", path.display());
    let lines = fs::read_to_string(&out).map_err(|error| file(&out, error.to_string()))?;
    let lines: Result<Vec<Line>, _> = lines.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| file(&out, error.to_string()))?;
    let text = report::report(&all, &lines, matches!(args.mode, Mode::Growth));
    publish(args, mode, &text)?;
    if failed > 0 { Err(format!("{failed} measurements failed")) } else { Ok(()) }
}

/// Prints a report, and puts it into the paper.
fn publish(args: &Args, mode: &str, text: &str) -> Result<(), String> {
    println!("\n{text}");
    let Some(path) = &args.markdown else { return Ok(()) };
    let file = |error: String| format!("{}: {error}", path.display());
    let paper = fs::read_to_string(path).map_err(|error| file(error.to_string()))?;
    let paper = report::put_into(&paper, mode, text).map_err(file)?;
    fs::write(path, paper).map_err(|error| file(error.to_string()))
}

fn programs(args: &Args) -> Result<Programs, String> {
    let folder = std::env::current_exe().map_err(|error| format!("cannot find this executable: {error}"))?;
    let folder = folder.parent().ok_or("this executable is nowhere")?;
    Ok(Programs {
        quorate: args.quorate.clone().unwrap_or_else(|| folder.join("../quorate")),
        plain: folder.join("plain"),
        data: folder.to_owned(),
        settings: args.settings.clone(),
    })
}

/// Whether a name asks for this row: it is the row's, or that of its group.
fn is_named(row: &Row, name: &str) -> bool {
    row.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Measures what was asked for, line by line into the file. Gives how many failed.
fn measure_all(args: &Args, all: &[Row], path: &Path) -> Result<usize, String> {
    let programs = programs(args)?;
    let mut how = OpenOptions::new();
    how.create(true).append(args.append).write(true).truncate(!args.append);
    let mut out = how.open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    allow_files().map_err(|error| format!("cannot ask for the number of open files: {error}"))?;
    let machine = machine();
    let mut failed = 0;
    for repetition in 1..=args.repetitions {
        for row in
            all.iter().filter(|row| args.rows.is_empty() || args.rows.iter().any(|name| is_named(row, name)))
        {
            for peer in row.peers.iter().filter(|peer| args.peers.contains(peer)) {
                let about = format!("{repetition} {:<14} {peer:<8}", row.name);
                for _ in 0..TRIES {
                    let figures = match measure(*peer, &row.work, &programs, args) {
                        Ok(figures) => figures,
                        // The others are still worth measuring.
                        Err(error) => {
                            eprintln!("{about} FAILED: {error}");
                            failed += 1;
                            break;
                        }
                    };
                    eprintln!("{about} {}", in_short(&figures));
                    let is_disturbed = figures.foreign_cores > FOREIGN_CORES_MAX;
                    let line = Line {
                        row: row.name.clone(),
                        peer: *peer,
                        repetition,
                        commit: args.commit.clone(),
                        machine: machine.clone(),
                        seconds: args.seconds,
                        figures,
                    };
                    write_line(&mut out, &line).map_err(|error| format!("{}: {error}", path.display()))?;
                    if !is_disturbed {
                        break;
                    }
                }
            }
        }
    }
    Ok(failed)
}

/// Nodes inherit it.
fn allow_files() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(OPEN_FILES.min(hard)), hard)
}

fn in_short(figures: &Figures) -> String {
    let Figures { per_second, p50_us, p99_us, nodes_cpu_us, foreign_cores, errors, .. } = figures;
    let error = figures.first_error.as_deref().unwrap_or_default();
    format!(
        "{per_second:>8.0}/s  p50 {p50_us:>6.0} µs  p99 {p99_us:>6.0} µs  CPU {nodes_cpu_us:>6.1} µs  \
         others {foreign_cores:.2}  errors {errors} {error}"
    )
}

fn write_line(out: &mut File, line: &Line) -> std::io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(line)?)
}

/// One measurement on a cluster of its own.
fn measure(peer: Peer, work: &Work, programs: &Programs, args: &Args) -> Result<Figures, String> {
    let cluster = Cluster::start(peer, work, programs)?;
    let connect = |addresses: &[_], answers| {
        Load::connect(addresses, answers, work).map_err(|error| format!("cannot connect: {error}"))
    };
    let (mut fill, answers) = cluster.request(&Work { operation: Operation::Write, ..work.clone() });
    let filled = connect(&[cluster.leader], answers)?.fill(&mut fill)?;
    if let Some(error) = filled.first_error {
        return Err(format!("a key could not be written: {error}"));
    }
    let (mut request, answers) = cluster.request(work);
    let mut load = connect(&cluster.targets(work.target), answers)?;
    load.run_for(&mut request, Duration::from_secs_f64(args.warm_up))?;
    let before = Clocks::read(&cluster)?;
    let seen = load.run_for(&mut request, Duration::from_secs_f64(args.seconds))?;
    let after = Clocks::read(&cluster)?;
    let operations = seen.latency.count();
    let latency = seen.latency.summary().ok_or_else(|| format!("no success: {:?}", seen.first_error))?;
    let per_operation =
        |get: fn(&Clocks) -> Duration| (get(&after) - get(&before)).as_secs_f64() * 1e6 / operations as f64;
    let own = (after.nodes + after.process) - (before.nodes + before.process);
    let wall = (after.at - before.at).as_secs_f64();
    Ok(Figures {
        operations,
        per_second: operations as f64 / seen.elapsed.as_secs_f64(),
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        errors: seen.errors,
        first_error: seen.first_error,
        nodes_cpu_us: per_operation(|clocks| clocks.nodes),
        leader_cpu_us: per_operation(|clocks| clocks.leader),
        load_cpu_us: per_operation(|clocks| clocks.load),
        foreign_cores: ((after.machine - before.machine).as_secs_f64() - own.as_secs_f64()) / wall,
    })
}

/// Processor time used so far, and when that was.
struct Clocks {
    at: Instant,
    leader: Duration,
    nodes: Duration,
    /// This thread: the load. And this whole process: a slow link too.
    load: Duration,
    process: Duration,
    /// All that the machine's processors did, or that was taken from them by other machines.
    machine: Duration,
}

impl Clocks {
    fn read(cluster: &Cluster) -> Result<Clocks, String> {
        let own =
            |clock: ClockId| clock.now().map(Duration::from).map_err(|error| format!("no clock: {error}"));
        let (leader, nodes) = cluster.cpu()?;
        let load = own(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let process = own(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        let stat = fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
        Ok(Clocks { at: Instant::now(), leader, nodes, load, process, machine: busy(&stat) })
    }
}

/// Time that all processors were not idle: the first line of `/proc/stat`, in hundredths of a second, without idle
/// (the fourth figure) and waiting for disks (the fifth), and without guests, which are counted as user time already.
fn busy(stat: &str) -> Duration {
    let figures =
        stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8).enumerate();
    let ticks: u64 = figures
        .filter(|(nth, _)| ![3, 4].contains(nth))
        .filter_map(|(_, text)| text.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The machine in a few words.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "{count} × {}, Linux {}",
        model.unwrap_or("processor"),
        read("/proc/sys/kernel/osrelease").trim()
    );
    for (name, program, before) in [("Redis", "redis-server", "v="), ("etcd", "etcd", "etcd Version: ")] {
        if let Ok(out) = Command::new(program).arg("--version").output()
            && let Some((_, version)) = String::from_utf8_lossy(&out.stdout).split_once(before)
            && let Some(version) = version.split_whitespace().next()
        {
            text += &format!(", {name} {version}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood() {
        let args = Args::try_parse_from(["measure", "growth", "--rows", "keys,clients-1", "--set", "A=b=c"])
            .unwrap();
        assert_eq!(args.settings, [("A".to_owned(), "b=c".to_owned())]);
        let rows = rows::growth();
        let named = |name: &str| rows.iter().filter(|row| is_named(row, name)).count();
        assert_eq!((named("keys"), named("clients-1"), named("key"), named("clients-1024")), (5, 1, 0, 1));
        assert!(Args::try_parse_from(["measure", "growth", "--set", "A"]).is_err());
        assert!(Args::try_parse_from(["measure", "compare", "--peers", "zookeeper"]).is_err());
    }

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        let stat = "cpu  100 10 20 5000 300 3 2 5 70 70\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), Duration::from_millis(1400));
        let (before, start) = (busy(&fs::read_to_string("/proc/stat").unwrap()), Instant::now());
        while start.elapsed() < Duration::from_millis(50) {}
        assert!(busy(&fs::read_to_string("/proc/stat").unwrap()) > before);
    }
}
