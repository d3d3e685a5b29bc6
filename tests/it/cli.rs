//! The program as a person meets it: the real binary, its output, its exit codes, and the processes it leaves behind
//! (none). Ports are always the system's choice; every wait is for a condition and has a deadline.
#![expect(
    clippy::unwrap_used,
    reason = "clippy lets only functions marked as tests unwrap, not their helpers"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for a loaded machine, short enough to notice a hang.
const DEADLINE: Duration = Duration::from_secs(60);

/// The binary with an environment of its own: nothing of the test's shell gets in.
fn quorate(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut child =
        quorate(args, env).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || text_of(&mut stdout));
    let err = std::thread::spawn(move || text_of(&mut stderr));
    let code = exit_code(&mut child);
    (code, out.join().unwrap(), err.join().unwrap())
}

fn text_of(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end of a child; kills it and fails when it does not come.
fn exit_code(child: &mut Child) -> i32 {
    let mut status = None;
    let ended = wait_until(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the command did not end within {DEADLINE:?}");
    }
    status.and_then(|status| status.code()).unwrap_or(-1)
}

fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("a process id is not 0")
}

/// Whether the process is there and is one of ours: its number may belong to another by now.
fn is_running(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.windows(b"--die-with-parent".len()).any(|part| part == b"--die-with-parent"))
}

/// A `quorate cluster` that is ready.
struct Cluster {
    child: Child,
    lines: Receiver<String>,
    /// The nodes' ids, URLs and processes, the leader first.
    nodes: Vec<(String, String, u32)>,
}

impl Cluster {
    fn start(args: &[&str]) -> Cluster {
        let args: Vec<&str> = ["cluster", "--base-port", "0", "--log", "warn"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let mut child = quorate(&args, &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (send, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = send.send(line);
                }
            });
        }
        drop(send);
        let mut cluster = Cluster { child, lines, nodes: Vec::new() };
        for line in cluster.read_to("Ctrl-C stops it.") {
            if let [id, url, "process", pid] = line.split_whitespace().collect::<Vec<_>>()[..] {
                cluster.nodes.push((id.to_owned(), url.to_owned(), pid.parse().unwrap()));
            }
        }
        cluster
    }

    /// Its lines up to one that contains `part`.
    fn read_to(&mut self, part: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(part)) {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {part:?} ({error}), only:\n{}", seen.join("\n")),
            }
        }
        seen
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.child.id()), signal).unwrap();
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|(_, _, pid)| *pid).collect()
    }

    /// Runs a client command against node `nth`.
    fn ask(&self, nth: usize, args: &[&str]) -> (i32, String, String) {
        run(args, &[("QUORATE_URL", &self.nodes[nth].1)])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_settings_stop_the_start_with_every_complaint_at_once() {
    let leader = [("ROLE", "leader"), ("FOLLOWERS", "a:1,b:2,c:3,d:4,e:5")];
    let follower = [("ROLE", "follower"), ("PORT", "0")];
    let both =
        |base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| [base, more].concat();
    for (env, complaints) in [
        (vec![], vec!["ROLE: it is not set"]),
        (both(&leader, &[("WRITE_QUORUM", "6")]), vec!["WRITE_QUORUM=6: there are 5 followers"]),
        (both(&leader, &[("MIN_DELAY", "2ms")]), vec!["MIN_DELAY=2ms: it is above MAX_DELAY, which is 1ms"]),
        (both(&leader, &[("MAX_DELAY", "5")]), vec!["MAX_DELAY=5: the number has no unit"]),
        (both(&follower, &[("FOLLOWERS", "a:1")]), vec!["FOLLOWERS=a:1: only a leader has followers"]),
        (
            both(&leader, &[("FOLLOWERS", "a:1,b:2,a:1,c:3")]),
            vec!["FOLLOWERS=a:1: http://a:1 is in it twice"],
        ),
        (both(&leader, &[("FOLLOWERS", "a:1,b:2,c:3,http://:x")]), vec!["FOLLOWERS=http://:x: follower 4:"]),
        (both(&follower, &[("HOST", "0.0.0.0")]), vec!["CLUSTER_TOKEN: it is not set, and HOST=0.0.0.0"]),
        (
            both(&leader, &[("WRITE_QUORUM", "0"), ("RECOVERY_WAIT", "2"), ("PORT", "x"), ("MODE", "grpc")]),
            vec!["4 settings are wrong", "WRITE_QUORUM=0:", "RECOVERY_WAIT=2:", "PORT=x:", "MODE=grpc:"],
        ),
    ] {
        let (code, stdout, stderr) = run(&["serve"], &env);
        assert_eq!((code, stdout.as_str()), (2, ""), "{env:?}: {stderr}");
        for complaint in complaints {
            assert!(stderr.contains(complaint), "{env:?}: {complaint:?} is not in\n{stderr}");
        }
        assert!(stderr.contains("(for example "), "{env:?}: no example in\n{stderr}");
    }
}

#[test]
fn a_port_in_use_is_named_and_ends_with_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, stderr) = run(&["serve"], &[("ROLE", "follower"), ("PORT", &port)]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains(&format!("port {port} is already in use")), "{stderr}");
}

#[test]
fn a_cluster_whose_ports_are_taken_names_the_port_and_starts_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, stdout, stderr) = run(&["cluster", "--base-port", &port], &[]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains(&format!("port {port} is already in use")), "{stderr}");
}

#[test]
fn arguments_that_make_no_sense_end_with_code_2() {
    for args in [
        &["dance"][..],
        &["cluster", "--followers", "0"],
        &["cluster", "--followers", "2", "--write-quorum", "3"],
        &["cluster", "--mode", "paxos"],
        &["cluster", "--mode", "raft", "--nodes", "0"],
        &["cluster", "--min-delay", "5"],
        &["cluster", "--min-delay", "2ms", "--max-delay", "1ms"],
        &["put", "k", "hello"],
        &["put", "k", "1", "--quorum", "-1"],
        &["get", "k", "--url", "https://example.org"],
        &["bench", "--report", "/proc/quorate"],
        &["recover"],
        &["recover", "--accept-loss", "7"],
    ] {
        let (code, stdout, stderr) = run(args, &[]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    }
    let (_, _, stderr) = run(&["put", "k", "hello"], &[]);
    assert!(stderr.contains(r#"'"hello"'"#), "no hint about the quotes in: {stderr}");
}

#[test]
fn help_and_version_are_no_errors_and_help_names_every_setting() {
    assert_eq!(run(&["--version"], &[]).1, format!("quorate {}\n", env!("CARGO_PKG_VERSION")));
    let (code, stdout, _) = run(&["serve", "--help"], &[]);
    assert_eq!(code, 0);
    for setting in quorate::config::SETTINGS {
        assert!(stdout.contains(setting.name), "{} is not in\n{stdout}", setting.name);
    }
    assert!(!stdout.contains("die-with-parent"), "{stdout}");
}

#[test]
fn a_node_that_is_not_there_is_a_failure_with_code_1() {
    // Bound but never accepting would hang; bound and dropped refuses.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    for args in [
        &["get", "k"][..],
        &["put", "k", "1"],
        &["delete", "k"],
        &["data"],
        &["status"],
        &["health"],
        &["health", "--ready"],
    ] {
        let (code, stdout, stderr) = run(args, &[("QUORATE_URL", &url)]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("refused"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_node_stops_in_order_on_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let env = [("ROLE", "follower"), ("PORT", "0"), ("LOG", "info")];
        let mut child = quorate(&["serve"], &env).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listening = log.find(|line| line.contains("listening on http://127.0.0.1:"));
        assert!(listening.is_some(), "it never said that it listens");
        kill_process(pid_of(child.id()), signal).unwrap();
        let rest: Vec<String> = log.collect();
        assert_eq!(exit_code(&mut child), 0, "{rest:?}");
    }
}

#[test]
fn a_cluster_becomes_ready_and_leaves_no_process_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::start(&["--followers", "2"]);
        let pids = cluster.pids();
        assert_eq!(pids.len(), 3);
        assert!(pids.iter().all(|pid| is_running(*pid)));
        cluster.signal(signal);
        assert_eq!(exit_code(&mut cluster.child), 0);
        // At once, not some time later: the cluster ends after its nodes.
        assert!(!pids.iter().any(|pid| is_running(*pid)));
    }
}

#[test]
fn a_raft_cluster_keeps_its_data_where_it_is_told_to() {
    let folder =
        std::env::temp_dir().join(format!("quorate-cli-{}-{:x}", std::process::id(), fastrand::u64(..)));
    let data = folder.to_string_lossy().into_owned();
    let mut cluster = Cluster::start(&["--mode", "raft", "--nodes", "3", "--data", &data]);
    let url = cluster.nodes[2].1.clone();
    let (code, _, stderr) = run(&["put", "k", "7", "--url", &url], &[]);
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, _) = run(&["status", "--url", &url], &[]);
    assert_eq!(code, 0);
    for name in ["node1", "node2", "node3", "leader"] {
        assert!(stdout.contains(name), "{stdout}");
    }
    let pids = cluster.pids();
    cluster.signal(Signal::TERM);
    assert_eq!(exit_code(&mut cluster.child), 0);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(folder.join("node3").join("raft.sqlite").exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_nodes_of_a_cluster_that_is_killed_or_holds_a_frozen_node_do_not_outlive_it() {
    let mut cluster = Cluster::start(&["--followers", "1"]);
    let pids = cluster.pids();
    kill_process(pid_of(pids[1]), Signal::STOP).unwrap();
    cluster.signal(Signal::KILL);
    exit_code(&mut cluster.child);
    assert!(wait_until(|| !pids.iter().any(|pid| is_running(*pid))), "a node outlived its cluster");

    let mut cluster = Cluster::start(&["--followers", "1"]);
    let pids = cluster.pids();
    kill_process(pid_of(pids[1]), Signal::STOP).unwrap();
    cluster.signal(Signal::TERM);
    assert_eq!(exit_code(&mut cluster.child), 0);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
}

#[test]
fn nodes_that_die_are_reported_and_when_none_is_left_the_cluster_fails() {
    let mut cluster = Cluster::start(&["--followers", "2"]);
    let pids = cluster.pids();
    kill_process(pid_of(pids[2]), Signal::KILL).unwrap();
    let line = cluster.read_to("has ended").pop().unwrap();
    assert!(line.contains("follower2 has ended (signal: 9 (SIGKILL)): 2 others go on"), "{line}");
    assert!(is_running(pids[0]) && is_running(pids[1]));

    kill_process(pid_of(pids[0]), Signal::KILL).unwrap();
    let line = cluster.read_to("leader has ended").pop().unwrap();
    assert!(line.contains("takes no writes"), "{line}");

    kill_process(pid_of(pids[1]), Signal::KILL).unwrap();
    cluster.read_to("no node is left");
    assert_eq!(exit_code(&mut cluster.child), 1);
}

#[test]
fn settings_of_the_shell_do_not_reach_the_nodes_of_a_cluster() {
    let Output { status, stderr, .. } = quorate(
        &["cluster", "--base-port", "0", "--followers", "1", "--log", "nonsense"],
        &[("ROLE", "boss"), ("PORT", "x"), ("FOLLOWERS", "?"), ("MAX_TAIL", "0"), ("LOG", "info")],
    )
    .output()
    .unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("LOG=nonsense") && stderr.contains("a setting is wrong"), "{stderr}");
    assert!(!stderr.contains("settings are wrong"), "{stderr}");
}

#[test]
fn the_commands_for_people_do_what_they_say() {
    let cluster = Cluster::start(&["--followers", "2"]);
    let ok = |answer: (i32, String, String)| {
        assert_eq!((answer.0, answer.2.as_str()), (0, ""), "{}", answer.1);
        answer.1
    };
    let refused = |answer: (i32, String, String), code: &str| {
        assert_eq!((answer.0, answer.1.as_str()), (1, ""), "{}", answer.2);
        assert!(answer.2.contains(code), "{code} is not in {}", answer.2);
    };
    let value = r#"{"b": 1.0,"a":[null, -0]}"#;
    let put = ok(cluster.ask(0, &["put", "user:1", value, "--quorum", "2", "--if-version", "0"]));
    assert!(put.starts_with("stored as version 1, acknowledged by 2 followers (quorum 2)"), "{put}");
    assert_eq!(ok(cluster.ask(0, &["get", "user:1"])), format!("{value}\n"));
    for option in ["--quorum", "--min-acks"] {
        assert_eq!(ok(cluster.ask(0, &["get", "user:1", option, "2"])), format!("{value}\n"));
    }
    assert_eq!(ok(cluster.ask(1, &["get", "user:1", "--min-version", "1"])), format!("{value}\n"));
    ok(cluster.ask(0, &["put", "odd key", "-1", "--quorum", "2"]));
    assert_eq!(ok(cluster.ask(2, &["data"])), format!("\"odd key\"\t2\t-1\nuser:1\t1\t{value}\n"));
    assert_eq!(
        ok(cluster.ask(0, &["data", "--prefix", "user:", "--limit", "1"])),
        format!("user:1\t1\t{value}\n")
    );
    let json = ok(cluster.ask(0, &["get", "odd key", "--json"]));
    assert!(json.contains(r#""version":2"#), "{json}");

    refused(cluster.ask(0, &["put", "user:1", "2", "--if-version", "9"]), "version_mismatch");
    refused(cluster.ask(0, &["put", "user:1", "2", "--quorum", "3"]), "invalid_request");
    refused(cluster.ask(1, &["put", "user:1", "2"]), &cluster.nodes[0].1);
    refused(cluster.ask(0, &["get", "nobody"]), "key_not_found");
    refused(cluster.ask(0, &["delete", "nobody"]), "key_not_found");

    ok(cluster.ask(0, &["delete", "user:1"]));
    refused(cluster.ask(0, &["get", "user:1"]), "key_not_found");

    assert_eq!(ok(cluster.ask(0, &["health"])), "healthy\n");
    assert_eq!(ok(cluster.ask(2, &["health", "--ready"])), "ready\n");
    // Asked at a follower, the table is the leader's.
    for nth in [0, 1] {
        let table = ok(cluster.ask(nth, &["status"]));
        for (id, url, _) in &cluster.nodes {
            assert!(table.contains(id) && table.contains(url), "{id} is not in\n{table}");
        }
        assert!(table.contains("acknowledged by 2 of 2 followers"), "{table}");
    }
}

#[test]
fn a_bench_writes_its_report_to_a_folder() {
    let scratch = std::env::temp_dir().join(format!("quorate-cli-report-{}", std::process::id()));
    let folder = scratch.join("made/by the bench");
    let bench = |folder: &std::path::Path| {
        let args = [
            "bench",
            "--writes",
            "300",
            "--writers",
            "4",
            "--follower-count",
            "3",
            "--quorums",
            "1,3",
            "--report",
        ];
        let args = [&args[..], &[folder.to_str().unwrap()]].concat();
        run(&args, &[])
    };
    let (code, stdout, stderr) = bench(&folder);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("every follower equals the leader after each quorum"), "{stdout}");
    let page = folder.join("report.html");
    assert!(stdout.ends_with(&format!("\nreport: {}\n", page.display())), "{stdout}");

    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let results: serde_json::Value = serde_json::from_str(&read("results.json")).unwrap();
    let rows = results["quorums"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["quorum"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(3)]);
    for row in rows {
        assert_eq!((&row["latency"]["count"], &row["errors"]["count"]), (&300.into(), &0.into()), "{row}");
        let delay = |name: &str| row["delay"][name].as_f64().unwrap();
        assert!((400.0..700.0).contains(&delay("asked_mean_us")), "{row}");
        assert!(delay("injected_mean_us") >= delay("asked_mean_us"), "{row}");
        assert_eq!(row["convergence"]["outcome"], "equal");
    }
    assert!(results["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{results}");

    let page = read("report.html");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    let kernel = results["machine"]["kernel"].as_str().unwrap();
    for told in [
        "Half of the writes took at most",
        "quorum 1 and",
        kernel,
        "0.1 to 1 ms",
        "No write that was measured",
    ] {
        assert!(page.contains(told), "{told} is not in\n{page}");
    }
    for name in ["latency", "distribution", "tail", "throughput", "delay"] {
        let picture = read(&format!("{name}.svg"));
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert!(!picture.contains("no figures"), "{name} is empty:\n{picture}");
        assert!(page.contains(picture.trim_end()), "{name} is not on the page");
    }

    // Found out before anything is measured or started.
    let (code, stdout, stderr) = bench(&folder.join("report.html"));
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains("--report ") && stderr.contains("report.html"), "{stderr}");
    std::fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn a_bench_of_raft_mode_measures_a_majority_and_leaves_nothing_behind() {
    let scratch =
        std::env::temp_dir().join(format!("quorate-cli-{}-{:x}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir_all(&scratch).unwrap();
    let (json, place) = (scratch.join("results.json"), scratch.to_string_lossy().into_owned());
    let (code, stdout, stderr) = run(
        &[
            "bench",
            "--mode",
            "raft",
            "--nodes",
            "3",
            "--writes",
            "200",
            "--warmup",
            "20",
            "--quorums",
            "1,2",
            "--json",
            &json.to_string_lossy(),
        ],
        &[("TMPDIR", &place)],
    );
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("a raft cluster of its own: 3 members, each with its log on disk"), "{stdout}");
    assert!(stdout.contains("every follower equals the leader after each quorum"), "{stdout}");
    assert!(!stdout.contains("delay"), "{stdout}");
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(results["settings"]["mode"], "raft");
    let rows = results["quorums"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["quorum"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for row in rows {
        assert_eq!((&row["latency"]["count"], &row["ideal"]), (&200.into(), &serde_json::Value::Null));
    }
    std::fs::remove_file(&json).unwrap();
    let left: Vec<_> = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "the members' data was left behind: {left:?}");
    std::fs::remove_dir(&scratch).unwrap();
}

#[test]
fn status_of_a_raft_cluster_shows_term_leader_index_and_lag() {
    // The cluster is killed at the end, so its data is the test's to remove.
    let data =
        std::env::temp_dir().join(format!("quorate-cli-{}-{:x}", std::process::id(), fastrand::u64(..)));
    let cluster = Cluster::start(&["--mode", "raft", "--nodes", "3", "--data", &data.to_string_lossy()]);
    let url = cluster.nodes[2].1.clone();
    let mut text = String::new();
    let is_whole = wait_until(|| {
        let (code, stdout, _) = run(&["status", "--url", &url], &[]);
        text = stdout;
        code == 0 && text.matches("  follower  up  ").count() == 2
    });
    assert!(is_whole, "{text}");
    for words in [
        "NODE",
        "LAG",
        "leader",
        "a write is acknowledged by 1 of 2 followers",
        "term ",
        "committed up to index ",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let pids: Vec<u32> = cluster.nodes.iter().map(|node| node.2).collect();
    drop(cluster);
    assert!(wait_until(|| pids.iter().all(|pid| !is_running(*pid))), "members outlive their cluster");
    std::fs::remove_dir_all(&data).unwrap();
}
