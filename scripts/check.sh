#!/usr/bin/env bash
# The gate: format, lints (warnings are errors), tests, documentation. What CI runs, and all that it runs.
# It writes nothing outside cargo's target directory; scripts/fix.sh is the one that writes.
set -euo pipefail
cd "$(dirname "$0")/.."

# A test that fails must not leave its seed behind in the tree.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true

step() {
  printf '\n== %s\n' "$*"
  "$@"
}

# Fails if Cargo.lock would have to change; the steps after it then leave it alone.
step cargo fetch --locked
step cargo fmt --check
step cargo clippy --all-targets -- -D warnings
step cargo test
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps
