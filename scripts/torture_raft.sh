#!/bin/sh
# Kills and freezes members of a raft cluster of five at random, up to two at a time or all at once, under load, until so
# many processes were killed (60), and judges whether what the clients saw is linearizable: scripts/torture_raft.sh [kills].
# It prints its seed; TORTURE_SEED=… deals the same blows again, though not at the same instants: these are real processes.
set -eu
cd "$(dirname "$0")/.."
TORTURE_KILLS=${1:-60} exec cargo test --release --test it -- --ignored --exact \
    histories::members_killed_for_a_long_time_leave_a_linearizable_history
