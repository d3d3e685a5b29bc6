#!/usr/bin/env bash
# This project beside others in one run. Quorum mode beside Redis with five replicas, a bare axum handler, and the plain
# way to replicate; raft mode beside etcd, both with fsync.
#
#   scripts/compare_peers.sh                         everything, three times: about a quarter of an hour
#   scripts/compare_peers.sh compare                 quorum mode alone
#   scripts/compare_peers.sh raft                    raft mode alone
#   scripts/compare_peers.sh compare --peers quorate,bare    not Redis, so nothing is installed
#   scripts/compare_peers.sh compare --help          rows, repetitions, seconds, where the lines of JSON go
#
# Installs redis-server and etcd-server with apt-get (Debian) if they are to be measured and are missing, without letting
# their services start; they stay installed. Builds, measures on loopback alone, prints tables, and leaves no process
# behind. How it measures stands in examples/measure and docs/BENCHMARKS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

modes=(compare raft)
case "${1:-}" in
    compare | raft)
        modes=("$1")
        shift
        ;;
    *)
        # They name what only one of the modes has.
        case " $* " in
            *" --peers"* | *" --rows"* | *" --out"* | *" --list "* | *" --help "*)
                echo "say which first: scripts/compare_peers.sh compare|raft $*" >&2
                exit 2
                ;;
        esac
        ;;
esac

# wants SYSTEM MODE OPTIONS: whether this run measures that system, which belongs to that mode.
wants() {
    local system=$1 mode=$2
    shift 2
    case " ${modes[*]} " in *" $mode "*) ;; *) return 1 ;; esac
    case " $* " in
        *" --help "* | *" --list "* | *" --report-only "*) false ;;
        *" --peers"*) case " $* " in *"$system"*) true ;; *) false ;; esac ;;
        *) true ;;
    esac
}

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
# What Debian asks before it starts a service; 101 forbids it.
policy=/usr/sbin/policy-rc.d
remove_policy() { "${as_root[@]}" rm -f "$policy"; }

install() {
    if [ ! -e "$policy" ]; then
        trap remove_policy EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    "${as_root[@]}" apt-get update --quiet=2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends "$@"
    echo "installed, and its service not started: $* (apt-get purge removes it)" >&2
}

missing=()
if wants redis compare "$@" && ! command -v redis-server >/dev/null; then missing+=(redis-server); fi
if wants etcd raft "$@" && ! command -v etcd >/dev/null; then missing+=(etcd-server); fi
if [ ${#missing[@]} -gt 0 ]; then
    # In a shell of its own, so that what it does at its end is done before the measuring begins.
    (install "${missing[@]}")
fi
for mode in "${modes[@]}"; do
    scripts/measure.sh "$mode" "$@"
done
