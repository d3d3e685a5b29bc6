//! A node that is told to stop: in time, with the right exit code, with nobody told anything untrue, and nothing left.

use std::time::{Duration, Instant};

use super::load::{Load, Oracle, Shape};
use super::processes::{Cluster, say, until};

/// A test's own patience on top of what the node promises: the machine may be busy.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn a_leader_told_to_stop_under_load_answers_what_is_open_and_leaves() {
    let shutdown_timeout = Duration::from_secs(5);
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::shaped(&cluster, 0, &oracle, Shape { writers: 8, ..Shape::default() });
    oracle.wait_acknowledged(300);
    cluster.nodes[5].terminate();
    assert_eq!(cluster.nodes[5].exit().code(), Some(0), "a follower, in the middle of its batches");
    oracle.wait_acknowledged(100);
    let (pid, told_at) = (cluster.nodes[0].pid(), Instant::now());
    cluster.nodes[0].terminate();
    let status = cluster.nodes[0].exit();
    let took = told_at.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < shutdown_timeout + SLACK, "it took {took:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "something is left of it");
    load.stop();

    // Nobody was refused a write that is there, or promised one that is not.
    cluster.restart(&[5, 0]);
    cluster.wait_whole(0);
    oracle.judge(&cluster.converged(&[0, 1, 2, 3, 4, 5]));
    say(&format!("shutdown: under load, in {took:?}: {oracle}"));
}

#[test]
fn writes_that_wait_for_their_quorum_are_unknown_when_the_leader_stops_never_refused() {
    for (write_timeout, shutdown_timeout) in [("500ms", "5s"), ("5s", "500ms")] {
        let settings = [("WRITE_TIMEOUT", write_timeout), ("SHUTDOWN_TIMEOUT", shutdown_timeout)];
        let (mut cluster, oracle) = (Cluster::start(3, 2, &settings), Oracle::default());
        let load = Load::start(&cluster, 0, &oracle);
        oracle.wait_acknowledged(50);
        // From here on no write reaches its quorum: when the leader is told to stop, all writers wait.
        [1, 2].iter().for_each(|node| cluster.nodes[*node].freeze());
        std::thread::sleep(Duration::from_millis(100));
        let told_at = Instant::now();
        cluster.nodes[0].terminate();
        assert_eq!(cluster.nodes[0].exit().code(), Some(0));
        let took = told_at.elapsed();
        assert!(took < Duration::from_secs(1) + SLACK, "it took {took:?}");
        [1, 2].iter().for_each(|node| cluster.nodes[*node].thaw());
        load.stop();
        // What waited was a write for its quorum, or a refusal for what it rests on: that one stored nothing.
        let open = oracle.unknown() + oracle.refused("unsettled");
        assert!(open >= 4 && oracle.unknown() > 0, "every writer had a write open: {oracle}");

        cluster.restart(&[0]);
        cluster.wait_whole(0);
        oracle.judge(&cluster.converged(&[0, 1, 2, 3]));
        say(&format!(
            "shutdown: with writes open, SHUTDOWN_TIMEOUT={shutdown_timeout}, in {took:?}: {oracle}"
        ));
    }
}

#[test]
fn a_second_node_on_the_same_port_says_so_with_exit_code_2_and_harms_nobody() {
    let mut cluster = Cluster::start(1, 1, &[]);
    let mut second = cluster.twin(1);
    second.start();
    assert_eq!(second.exit().code(), Some(2));
    until("it says so", || match second.log() {
        log if log.contains("already in use") => Ok(()),
        log => Err(log),
    });
    cluster.wait_whole(0);
    cluster.nodes[1].terminate();
    assert_eq!(cluster.nodes[1].exit().code(), Some(0));
}
