#!/bin/sh
# Raft mode when leaders are killed, when a node comes back 10,000 entries behind, and under a minute of full load:
# scripts/failover.sh [--markdown docs/BENCHMARKS.md]. Takes about two minutes.
exec "$(dirname "$0")/measure.sh" failover "$@"
