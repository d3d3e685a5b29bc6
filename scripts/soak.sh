#!/bin/sh
# 1,000,000 writes on 100 keys with one follower stopped: prints the leader's memory, fails at 200 MB.
set -eu
cd "$(dirname "$0")/.."
exec cargo test --release --test it -- --ignored --exact \
    faults::a_million_writes_with_a_stopped_follower_keep_the_leader_below_200_mb
