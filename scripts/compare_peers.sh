#!/usr/bin/env bash
# This project beside others in one run: Redis with five replicas, a bare axum handler, and the plain way to replicate.
#
#   scripts/compare_peers.sh                         everything, three times: about ten minutes
#   scripts/compare_peers.sh --peers quorate,bare    not Redis, so nothing is installed
#   scripts/compare_peers.sh --help                  rows, repetitions, seconds, where the lines of JSON go
#
# Installs redis-server with apt-get (Debian) if Redis is to be measured and is missing, without letting its service
# start; it stays installed. Builds, measures on loopback alone, prints tables, and leaves no process behind. How it
# measures stands in examples/measure and docs/BENCHMARKS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

wants_redis() {
    case " $* " in
        *" --help "* | *" --list "* | *" --report-only "*) false ;;
        *redis*) true ;;
        *" --peers"*) false ;;
        *) true ;;
    esac
}

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
# What Debian asks before it starts a service; 101 forbids it.
policy=/usr/sbin/policy-rc.d
remove_policy() { "${as_root[@]}" rm -f "$policy"; }

install_redis() {
    if [ ! -e "$policy" ]; then
        trap remove_policy EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    "${as_root[@]}" apt-get update --quiet=2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends redis-server
    echo "redis-server is installed now, its service not started (apt-get purge redis-server removes it)" >&2
}

if wants_redis "$@" && ! command -v redis-server >/dev/null; then
    # In a shell of its own, so that what it does at its end is done before the measuring begins.
    (install_redis)
fi
exec scripts/measure.sh compare "$@"
