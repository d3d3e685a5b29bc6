//! Tells the program which compiler built it and how, for the bench's report. Refuses to fail: what it cannot find out
//! is left out.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let compiler = env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("--version").output().ok());
    if let Some(version) = compiler.and_then(|output| String::from_utf8(output.stdout).ok()) {
        println!("cargo::rustc-env=QUORATE_COMPILER={}", version.trim());
    }
    if let Some(profile) = env::var_os("PROFILE").and_then(|profile| profile.into_string().ok()) {
        println!("cargo::rustc-env=QUORATE_BUILD={profile}");
    }
}
