//! The whole flow against a cluster that only pretends.

use clap::Parser;
use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn args(fake: &Fake, more: &str) -> BenchArgs {
    let followers: Vec<&str> = fake.urls[1..].iter().map(PeerUrl::as_str).collect();
    let line = format!(
        "bench --leader {} --followers {} --writes 60 --writers 3 --keys 30 --warmup 5 {more}",
        fake.urls[0],
        followers.join(",")
    );
    Cli::try_parse_from(line.split_ascii_whitespace()).unwrap().bench
}

/// What `measure` does and leaves behind.
async fn measured(args: &BenchArgs) -> (Result<(), CliError>, Report) {
    let mut report = None;
    let outcome = measure(args, &args.check().unwrap(), None, &mut report).await;
    (outcome, report.unwrap())
}

fn failure(outcome: Result<(), CliError>) -> String {
    match outcome {
        Err(CliError::Failed(message)) => message,
        other => panic!("{other:?}"),
    }
}

const AT_ONCE: Reply = Reply::After(Duration::ZERO);

#[tokio::test]
async fn every_quorum_is_measured_and_found_equal() {
    Fake::with(
        3,
        |_| AT_ONCE,
        async |fake| {
            let args = args(&fake, "--min-delay 0.1ms --max-delay 1ms");
            let (outcome, report) = measured(&args).await;
            outcome.unwrap();
            let quorums: Vec<usize> = report.quorums.iter().map(|row| row.quorum).collect();
            assert_eq!(quorums, [1, 2, 3]);
            for (index, row) in report.quorums.iter().enumerate() {
                assert_eq!(row.latency.unwrap().count, 60);
                assert!((row.ideal.unwrap().mean_us - (100.0 + 225.0 * (index + 1) as f64)).abs() < 1e-6);
                let delay = row.delay.unwrap();
                // The pretended leader counts one delay per write, the warm-up's included.
                assert_eq!((delay.count, delay.injected_mean_us.round()), (65, 520.0));
                let Convergence::Equal { version, .. } = row.convergence else { panic!("{row:?}") };
                assert_eq!(version, 65 * (index as u64 + 1));
            }
        },
    )
    .await;
}

#[tokio::test]
async fn the_leader_tells_its_followers_if_nobody_else_does() {
    Fake::with(
        2,
        |_| AT_ONCE,
        async |fake| {
            let mut args = args(&fake, "--quorums 2");
            args.followers.clear();
            let (outcome, report) = measured(&args).await;
            outcome.unwrap();
            assert_eq!(report.settings.followers.len(), 2);
            args.quorums = vec![3];
            let outcome = measure(&args, &args.check().unwrap(), None, &mut None).await;
            assert!(matches!(outcome, Err(CliError::Usage(_))), "{outcome:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_follower_that_differs_fails_the_run_and_the_keys_are_named() {
    Fake::with(
        3,
        |_| AT_ONCE,
        async |fake| {
            {
                // A key that no write touches, so that the difference stays.
                fake.stores[0].lock().data.insert("only".into(), json!({"value": 1, "version": 0}));
                let mut follower = fake.stores[2].lock();
                for n in 0..11 {
                    follower.data.insert(format!("a-{n:02}"), json!({"value": null, "version": 0}));
                }
            }
            let (outcome, report) = measured(&args(&fake, "")).await;
            let failure = failure(outcome);
            assert!(failure.starts_with("after quorum 1: 12 of "), "{failure}");
            let node = &fake.urls[2];
            assert!(failure.contains(&format!("\n  a-00: the leader has nothing, {node} has version 0")));
            assert!(failure.ends_with("\n  and 2 more"), "{failure}");
            assert_eq!(report.quorums.len(), 1, "it went on");
        },
    )
    .await;
}

#[tokio::test]
async fn a_follower_that_stays_behind_fails_the_run() {
    Fake::with(
        2,
        |_| AT_ONCE,
        async |fake| {
            fake.reached.store(2, Ordering::SeqCst);
            let (outcome, report) = measured(&args(&fake, "--converge-timeout 50ms")).await;
            let failure = failure(outcome);
            let behind = &fake.urls[2];
            let expected = format!("the leader is at version 65; after 50ms {behind} is at version 0");
            assert!(failure.ends_with(&expected), "{failure}");
            assert!(matches!(report.quorums[0].convergence, Convergence::NotReached { .. }));
        },
    )
    .await;
}

#[tokio::test]
async fn errors_are_reported_and_only_a_run_without_any_success_fails() {
    let script = |write| if write % 2 == 0 { Reply::Refuse(503, "unavailable") } else { AT_ONCE };
    Fake::with(1, script, async |fake| {
        let (outcome, report) = measured(&args(&fake, "")).await;
        outcome.unwrap();
        assert!(report.text().contains("quorum 1: errors, which no latency includes: "), "{}", report.text());
    })
    .await;
    Fake::with(
        1,
        |_| Reply::Refuse(503, "unavailable"),
        async |fake| {
            let (outcome, report) = measured(&args(&fake, "")).await;
            assert_eq!(failure(outcome), "not one write succeeded with quorum 1");
            assert_eq!(report.quorums[0].errors.count(), 60);
        },
    )
    .await;
}

#[tokio::test]
async fn writes_do_not_go_to_a_follower() {
    Fake::with(
        1,
        |_| AT_ONCE,
        async |fake| {
            let mut args = args(&fake, "");
            args.leader = Some(fake.urls[1].clone());
            args.followers = vec![fake.urls[0].clone()];
            let outcome = measure(&args, &args.check().unwrap(), None, &mut None).await;
            assert!(failure(outcome).contains("is a follower"));
        },
    )
    .await;
}

#[tokio::test]
async fn the_whole_command_writes_its_report_and_a_later_one_takes_its_place() {
    let folder = std::env::temp_dir().join(format!("quorate-bench-report-{}", std::process::id()));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let script = |write| if write < 200 { AT_ONCE } else { Reply::Refuse(503, "unavailable") };
    Fake::with(2, script, async |fake| {
        let mut args = args(&fake, "");
        args.report = Some(folder.clone());
        let mut text = String::new();
        bench(args.clone(), &mut text).await.unwrap();
        assert!(text.ends_with(&format!("\nreport: {}\n", folder.join("report.html").display())), "{text}");
        let mut names: Vec<String> = Report::file_names().collect();
        names.sort();
        let mut found: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
        let results: Value = serde_json::from_str(&read("results.json")).unwrap();
        assert_eq!(results["quorums"][1]["latency"]["count"], 60);
        assert!(read("report.html").contains("; every follower equals the leader after each quorum"));
        assert!(!read("latency.svg").contains("no figures"));

        // From here on every write is refused.
        fake.writes.store(200, Ordering::SeqCst);
        assert_eq!(failure(bench(args, &mut text).await), "not one write succeeded with quorum 1");
        let results: Value = serde_json::from_str(&read("results.json")).unwrap();
        assert_eq!(results["failure"], "not one write succeeded with quorum 1");
        assert!(read("report.html").contains("This run failed"));
        assert!(read("distribution.svg").contains("no figures"));
    })
    .await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_whole_command_writes_its_json() {
    let path = std::env::temp_dir().join(format!("quorate-bench-{}.json", std::process::id()));
    Fake::with(
        2,
        |_| AT_ONCE,
        async |fake| {
            let mut args = args(&fake, "--rate 5000");
            args.json = Some(path.clone());
            bench(args, &mut String::new()).await.unwrap();
            let text = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let json: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(json["settings"]["rate_per_s"], 5000.0);
            assert_eq!(json["quorums"][1]["latency"]["count"], 60);
            assert_eq!(json["quorums"][1]["open_loop"]["not_begun"], 0);
            assert!(json["failure"].is_null());
        },
    )
    .await;
}
