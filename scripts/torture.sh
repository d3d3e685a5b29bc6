#!/bin/sh
# Kills and freezes up to three of six nodes at a time, at random, under load, for so many rounds of four blows each
# (20): scripts/torture.sh [rounds]. It prints its seed; TORTURE_SEED=… deals the same blows again, though not at the
# same instants: these are real processes.
set -eu
cd "$(dirname "$0")/.."
TORTURE_ROUNDS=${1:-20} exec cargo test --release --test it -- --ignored --exact \
    faults::killed_and_frozen_at_random_the_cluster_keeps_what_it_acknowledged
