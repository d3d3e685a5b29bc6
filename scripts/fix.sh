#!/usr/bin/env bash
# Repairs what can be repaired without thinking: format, and the lints that know their own remedy. Writes into src,
# tests and examples; scripts/check.sh says what is left.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --fix --allow-dirty --allow-staged --all-targets
cargo fmt
