#!/usr/bin/env bash
# How the cost of a write grows: with the clients, the size of values, the number of keys, the followers; and that one
# slow follower beside four fast ones does not slow a quorum of three.
#
#   scripts/how_cost_grows.sh           everything, three times: about eight minutes
#   scripts/how_cost_grows.sh --help    rows, repetitions, seconds, where the lines of JSON go
#
# Builds, measures on loopback alone, prints tables, and leaves no process behind. examples/measure says how.
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/measure.sh growth "$@"
