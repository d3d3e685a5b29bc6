#!/usr/bin/env bash
# Builds what is measured and what measures it, and runs the latter: scripts/measure.sh MODE [options].
set -euo pipefail
cd "$(dirname "$0")/.."

# The program by itself first: built together with the examples it would get the features that only tests need.
cargo build --quiet --release --bin quorate
cargo build --quiet --release --example measure --example plain
case " $* " in
    *" --quorate"* | *" --commit"*) ;;
    *)
        commit=$(git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)
        git diff --quiet HEAD -- src Cargo.toml Cargo.lock 2>/dev/null || commit+=" with changes"
        set -- "$@" --commit "$commit"
        ;;
esac
exec "${CARGO_TARGET_DIR:-target}/release/examples/measure" "$@"
