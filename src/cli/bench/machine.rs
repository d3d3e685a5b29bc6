//! The machine that a run took place on, and the build that ran: without them its figures cannot be compared.
//!
//! Owns the files of `/proc` and `/etc` that tell it. What one of them does not tell stays unknown: no run fails for it.
//! Refuses to know what cluster was measured: of a cluster elsewhere this is only where the load was made.

use std::fs;

use serde::Serialize;

/// What was built into this program by the build script.
const COMPILER: Option<&str> = option_env!("QUORATE_COMPILER");
const BUILD: Option<&str> = option_env!("QUORATE_BUILD");

/// A machine, and a build.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Machine {
    /// The processor's model, in its maker's words.
    pub processor: Option<String>,
    /// Processors that this process may use.
    pub cores: Option<usize>,
    pub memory_bytes: Option<u64>,
    /// The distribution.
    pub system: Option<String>,
    pub kernel: Option<String>,
    pub architecture: &'static str,
    /// Processes that ran or wanted to, over the minute before: what else the machine was busy with.
    pub load_average_1m: Option<f64>,
    /// Which `rustc`.
    pub compiler: Option<&'static str>,
    /// `release` or `debug`.
    pub build: Option<&'static str>,
}

impl Machine {
    /// Has a look at the machine as it is now.
    pub(super) fn look() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Machine {
            processor: processor(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            system: system(&read("/etc/os-release")),
            kernel: kernel(&read("/proc/sys/kernel/ostype"), &read("/proc/sys/kernel/osrelease")),
            architecture: std::env::consts::ARCH,
            load_average_1m: load_average(&read("/proc/loadavg")),
            compiler: COMPILER,
            build: BUILD,
        }
    }
}

/// The time by the machine's clock: UTC, as in RFC 3339, to the second.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// From `/proc/cpuinfo`, whose lines have other names on each architecture.
fn processor(cpuinfo: &str) -> Option<String> {
    let value = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let names = ["model name", "Model", "Hardware", "cpu model", "cpu"];
    names.into_iter().filter_map(value).find(|value| !value.is_empty())
}

/// `MemTotal` in the text of `/proc/meminfo`.
fn memory_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `PRETTY_NAME` in the text of `/etc/os-release`.
fn system(os_release: &str) -> Option<String> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned())
}

fn kernel(kind: &str, release: &str) -> Option<String> {
    let text = format!("{} {}", kind.trim(), release.trim()).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The first number in the text of `/proc/loadavg`.
fn load_average(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_linux_are_understood() {
        let x86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU\n";
        assert_eq!(processor(x86).as_deref(), Some("Intel(R) Xeon(R) CPU"));
        let arm = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(processor(arm).as_deref(), Some("Raspberry Pi 4"));
        assert_eq!(processor("processor : 0\nmodel name :\n"), None);
        assert_eq!(memory_bytes("MemTotal:       8052168 kB\nMemFree: 1 kB\n"), Some(8_052_168 * 1024));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(system("ID=debian\nPRETTY_NAME=\"Debian 13\"\n").as_deref(), Some("Debian 13"));
        assert_eq!(kernel("Linux\n", "6.1.0-9\n").as_deref(), Some("Linux 6.1.0-9"));
        assert_eq!(kernel("", ""), None);
        assert_eq!(load_average("0.52 0.58 0.59 1/389 1234\n"), Some(0.52));
        assert_eq!(load_average(""), None);
    }

    #[test]
    fn this_machine_and_build_are_known() {
        let machine = Machine::look();
        assert!(machine.cores.is_some_and(|cores| cores > 0), "{machine:?}");
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 24), "{machine:?}");
        assert!(machine.kernel.as_ref().is_some_and(|kernel| kernel.starts_with("Linux ")), "{machine:?}");
        assert!(machine.compiler.is_some_and(|compiler| compiler.starts_with("rustc 1.")), "{machine:?}");
        assert!(machine.build.is_some(), "{machine:?}");
    }

    #[test]
    fn the_time_is_readable_for_people_and_programs() {
        let before = std::time::SystemTime::now();
        let now = now();
        let parsed = humantime::parse_rfc3339(&now).unwrap();
        let second = std::time::Duration::from_secs(1);
        assert!(parsed + second > before && parsed <= before + 60 * second, "{now}");
    }
}
