//! What processes took of the CPU: this one, which makes the load, and the nodes.
//!
//! Owns the clocks and the files under `/proc`. Refuses to know when to look at them: the load does, at the beginning
//! and the end of what it measures.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// One tick of `/proc/PID/stat`. The kernel shows 100 a second to user space, whatever it uses itself.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of this process so far, all its threads.
pub(super) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// CPU time of all these processes together; `None` if one of them cannot be read.
pub(super) fn cpu_of(pids: &[u32]) -> Option<Duration> {
    pids.iter().map(|pid| process_cpu(*pid)).sum()
}

/// CPU time of a process so far.
///
/// `schedstat` counts nanoseconds, but only of threads that are still there; `stat` counts all, but in ticks. Neither
/// says too much, so the larger is the better one.
fn process_cpu(pid: u32) -> Option<Duration> {
    let ticks = ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let mut threads = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        threads += on_cpu(&schedstat).unwrap_or_default();
    }
    Some(threads.max(ticks))
}

/// User and system time in the text of `/proc/PID/stat`, fields 14 and 15. The second field is the name in brackets,
/// which may hold anything, so the count begins behind its last bracket.
fn ticks(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

/// Time on a CPU in the text of `/proc/PID/task/TID/schedstat`.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_proc_are_understood() {
        let stat = "42 (a ) b) R 1 2 3 4 5 6 7 8 9 10 239 5 0 0 20 0";
        assert_eq!(ticks(stat), Some(Duration::from_millis(2440)));
        assert_eq!(ticks("42 (short) R 1"), None);
        assert_eq!(on_cpu("2439802454 25230761 130\n"), Some(Duration::from_nanos(2_439_802_454)));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn work_shows_on_both_clocks_and_they_agree() {
        let own = std::process::id();
        let (before, before_proc) = (own_cpu(), cpu_of(&[own]).unwrap());
        let mut x = 1u64;
        while own_cpu() - before < Duration::from_millis(30) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after_proc = cpu_of(&[own]).unwrap();
        // Other tests of this process work meanwhile, and the last tick may not be written down yet.
        assert!(after_proc - before_proc >= Duration::from_millis(10), "{before_proc:?} {after_proc:?}");
        assert_eq!(cpu_of(&[u32::MAX]), None);
    }
}
