#!/usr/bin/env bash
# Measures what each write quorum costs in the composed cluster, and writes the report:
#
#   scripts/quorum_latency.sh [DIR [OPTION…]]      DIR: target/quorum_latency; OPTION: of `quorate bench`
#
# The load is made by `quorate bench` in a container of its own on the cluster's network, quorum by quorum from 1 to 5. A
# cluster that is up is measured as it is, and keeps the keys that were written; where there is none, one is started for
# the measurement and taken down after it. Exit code 1 if a follower ends up different from the leader.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
compose=$root/scripts/compose.sh

folder=${1:-$root/target/quorum_latency}
shift || true
mkdir -p "$folder"

bench=quorum-latency-$$
is_ours=
clean_up() {
  trap '' INT TERM
  docker container rm --force "$bench" >/dev/null 2>&1 || true
  if [ -n "$is_ours" ]; then "$compose" down >/dev/null 2>&1; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -z "$("$compose" ps --quiet 2>/dev/null)" ]; then
  echo "no cluster is up: starting one"
  is_ours=yes
  "$compose" up --build --detach
fi
leader=$("$compose" ps --quiet leader)
deadline=$((SECONDS + 60))
until docker exec "$leader" quorate health --ready >/dev/null 2>&1; do
  if [ "$SECONDS" -ge "$deadline" ]; then
    echo "the leader is not ready:" >&2
    docker exec "$leader" quorate health --ready >&2 || true
    exit 1
  fi
  sleep 0.2
done

# Of the leader: for the ideal, the delays that it injects.
setting() { docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$leader" | sed -n "s/^$1=//p"; }
image=$(docker inspect --format '{{.Image}}' "$leader")
network=$(docker inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$leader")

report=(--report .)
if ! docker run --rm "$image" bench --help | grep -q -e '--report '; then report=(--json results.json); fi

status=0
# Ctrl-C reaches the bench too, which ends with a report of what it has measured: that is still worth something.
trap : INT
docker run --name "$bench" --network "$network" --workdir /home/nonroot "$image" bench \
  --leader http://leader:5000 --min-delay "$(setting MIN_DELAY)" --max-delay "$(setting MAX_DELAY)" \
  "${report[@]}" "$@" || status=$?
docker cp "$bench:/home/nonroot/." "$folder" >/dev/null || status=1
echo "the report is in $folder"
[ "$status" -eq 0 ]
