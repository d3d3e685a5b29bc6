#!/usr/bin/env bash
# Brings the composed cluster up for real and hurts it: builds the image, writes and reads with curl, kills a follower,
# cuts one off from the network and joins it again, restarts and kills the leader, changes the quorum. Meanwhile writers
# write and delete, and keep an account of every answer. At the end all six nodes must be equal, with every acknowledged
# write and none that was refused.
#
#   scripts/docker_test.sh
#
# Needs a Docker engine, curl, and `docker compose` or `docker-compose`; where no registry of images is in reach, also what
# scripts/base_images.sh needs. Image, project and ports are its own, so it runs beside a cluster that is up. Whatever
# happens it leaves no container, network, volume or image behind; base images that were there before stay.
set -euo pipefail
cd "$(dirname "$0")/.."

nodes=(leader follower1 follower2 follower3 follower4 follower5)
writers=3
project=quorate-test-$$
network=${project}_quorate
image=$project
build_image=$project-build
title=org.opencontainers.image.title=quorate
work=$(mktemp --directory)
log=$work/log
passed=0

export COMPOSE_PROJECT_NAME=$project QUORATE_IMAGE=$image
# Ports chosen by the system. A container gets another one each time it starts.
export LEADER_PORT=0 FOLLOWER1_PORT=0 FOLLOWER2_PORT=0 FOLLOWER3_PORT=0 FOLLOWER4_PORT=0 FOLLOWER5_PORT=0
unset WRITE_QUORUM CLUSTER_TOKEN MIN_DELAY MAX_DELAY

# shellcheck source=scripts/account.sh
. scripts/account.sh

# ---- leaving nothing behind -------------------------------------------------------------------------------------------

images() { docker image ls --all --quiet --filter "label=$title" | sort --unique; }

# What there is of this run, a line each.
left_behind() {
  local kind
  docker container ls --all --filter "label=com.docker.compose.project=$project" --format 'container {{.Names}}'
  for kind in network volume; do
    docker "$kind" ls --filter "label=com.docker.compose.project=$project" --format "$kind {{.Name}}"
  done
  images | comm -13 "$work/images_before" - | sed 's/^/image /'
}

clean_up() {
  local status=$? left base
  # From here on everything is tried, whatever failed before it.
  set +e +o pipefail
  trap '' INT TERM
  touch "$work/stop"
  if [ -n "$child" ]; then kill -TERM -- "-$child"; fi
  if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -s "$log" ]; then
    echo "--- the last of the log" >&2
    tail -n 40 "$log" >&2
    scripts/compose.sh logs --tail=30 2>&1 | tail -n 120 >&2
  fi
  wait
  {
    scripts/compose.sh down --volumes --remove-orphans --timeout 5
    docker image rm --force "$image" "$build_image"
    # A build that was broken off leaves layers without a name, each in the way of the one below.
    while left=$(images | comm -13 "$work/images_before" -) && [ -n "$left" ]; do
      # shellcheck disable=SC2086 # ids, one a word
      docker image rm --force $left | grep '^Deleted' || break
    done
    for base in "${base_images[@]}"; do docker image rm --force "$base"; done
  } >/dev/null 2>&1
  left=$(left_behind)
  if [ -n "$left" ]; then
    printf 'left behind:\n%s\n' "$left" >&2
    status=1
  fi
  rm -rf "$work"
  if [ "$status" -eq 0 ]; then echo "docker: $passed passed, 0 failed"; fi
  exit "$status"
}

child=
base_images=()
images >"$work/images_before"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command that takes long, in a process group of its own: a signal is heard meanwhile, and ends all of it.
run() {
  setsid --wait "$@" >>"$log" 2>&1 &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=
  return "$status"
}

# ---- looking at the cluster -------------------------------------------------------------------------------------------

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

ok() {
  passed=$((passed + 1))
  printf 'ok %3ds  %s\n' "$SECONDS" "$*"
}

# until_true SECONDS WHAT COMMAND…: waits for the command to succeed.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then fail "in vain waited for: $what"; fi
    sleep 0.1
  done
}

container() {
  docker container ls --all --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$1"
}

containers() { for node in "${nodes[@]}"; do echo "$node $(container "$node")"; done; }

# Where a node is reached from this machine now.
url() {
  local address
  address=$(docker port "$(container "$1")" 5000 | head -n 1)
  echo "http://$address"
}

# Writers take the address from a file: it changes whenever the leader starts.
publish_leader() {
  url leader >"$work/leader.new"
  mv "$work/leader.new" "$work/leader"
}

# A quorate command in the container of a node.
in_node() {
  local node=$1
  shift
  docker exec "$(container "$node")" quorate "$@"
}

is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }

is_ready() { curl --silent --fail --max-time 5 --output /dev/null "$(url "$1")/ready"; }

# Stops and starts a container. Were the node not done within the time that compose grants it, the engine would kill it.
restart() {
  local id code
  id=$(container "$1")
  docker stop "$id" >/dev/null
  code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
  [ "$code" -eq 0 ] || fail "$1 did not stop by itself: exit code $code"
  docker start "$id" >/dev/null
}

# How the leader calls a follower.
has_state() { in_node leader status 2>/dev/null | grep -Eq "^[^ ]+ +follower +$2(,.*[^ ])? .* http://$1:5000\$"; }

is_whole() { [ "$(in_node leader status 2>/dev/null | grep -Ec '^[^ ]+ +follower +up ')" -eq 5 ]; }

has_acknowledged() { [ "$(count acked)" -ge "$1" ]; }

# writes_go_on WHILE: so many more are acknowledged.
writes_go_on() {
  until_true 60 "300 more acknowledged writes, $1" has_acknowledged $(($(count acked) + 300))
  ok "writes are acknowledged $1"
}

# What a node holds, as lines of key, version, value.
holdings() { in_node "$1" data; }

are_equal() {
  local node
  holdings leader >"$work/data.leader" 2>>"$log" || return 1
  for node in "${nodes[@]:1}"; do
    holdings "$node" >"$work/data.$node" 2>>"$log" || return 1
    cmp --silent "$work/data.leader" "$work/data.$node" || return 1
  done
}

# ---- the images -------------------------------------------------------------------------------------------------------

check_judge

mapfile -t from < <(sed -n 's/^FROM \([^ ]*\).*/\1/p' Dockerfile)
for base in "${from[@]}"; do
  docker image inspect "$base" >/dev/null 2>&1 || base_images+=("$base")
done
for base in "${base_images[@]}"; do
  if ! run timeout 300 docker pull "$base"; then
    echo "$base cannot be pulled: making the base images here"
    run scripts/base_images.sh make || fail "the base images cannot be made"
    break
  fi
done
ok "the images that the Dockerfile starts from are there"

# By itself and with a name, so that its layers can be removed.
run docker build --target build --tag "$build_image" . || fail "the program was not built"
run scripts/compose.sh up --build --detach || fail "the cluster did not come up"
ok "the image is built, and six containers are started"

bytes=$(docker image inspect --format '{{.Size}}' "$image")
[ "$bytes" -lt 50000000 ] || fail "the image has $bytes bytes"
settings=$(docker image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$image" | sed 's/=.*//' | xargs)
for setting in $settings; do
  case $setting in
    PATH | SSL_CERT_FILE | HOST | PORT | QUORATE_URL) ;;
    *) fail "the image has a variable of the machine that made it: $setting" ;;
  esac
done
ok "the image has $((bytes / 1000000)) MB, and nothing of this machine's settings"

# ---- a cluster as it should be ----------------------------------------------------------------------------------------

for node in "${nodes[@]}"; do until_true 60 "$node to be healthy" is_healthy "$node"; done
ok "all six are healthy"
until_true 30 "the leader to be ready" is_ready leader
for node in "${nodes[@]}"; do
  [ "$(docker top "$(container "$node")" -o pid,uid | awk 'NR > 1 && $2 == 0' | wc -l)" -eq 0 ] || fail "$node runs as root"
done
ok "none runs as root"

answer=$(curl --silent --json '{"key":"greeting","value":{"text":"hello","n":1.0}}' "$(url leader)/write")
[[ $answer == *'"version":1,"acks":3,"quorum":3,"node_id":"leader"'* ]] || fail "the first write was answered with $answer"
for node in "${nodes[@]}"; do
  answer=$(curl --silent "$(url "$node")/read?key=greeting&min_version=1")
  [[ $answer == *'"value":{"text":"hello","n":1.0},"version":1,"node_id":"'"$node"'"'* ]] || fail "$node answered a read with $answer"
done
answer=$(curl --silent --json '{"key":"greeting","value":1}' "$(url follower1)/write")
[[ $answer == *'"error":"not_leader"'* ]] || fail "a follower answered a write with $answer"
ok "what curl writes to the leader it reads from all six"

# ---- faults -----------------------------------------------------------------------------------------------------------

publish_leader
for ((writer = 1; writer <= writers; writer++)); do
  : >"$work/account.$writer"
  write_and_account "$writer" &
done
writes_go_on "with all nodes up"

docker kill "$(container follower2)" >/dev/null
until_true 10 "follower2 to be called down" has_state follower2 down
writes_go_on "without a follower that was killed"
docker start "$(container follower2)" >/dev/null
until_true 30 "follower2 to be up again" has_state follower2 up
ok "a follower that was killed comes back, and catches up"

docker network disconnect "$network" "$(container follower4)"
until_true 10 "follower4 to be called down" has_state follower4 down
writes_go_on "without a follower that is cut off"
in_node follower4 get greeting >/dev/null || fail "a follower that is cut off does not answer with what it holds"
in_node follower4 health --ready >/dev/null || fail "a follower that is cut off is no longer ready to read from"
[ "$(in_node follower4 health)" = degraded ] || fail "a follower that is cut off does not say that it misses its leader"
docker network connect --alias follower4 "$network" "$(container follower4)"
until_true 30 "follower4 to be up again" has_state follower4 up
curl --silent --fail --output /dev/null "$(url follower4)/read?key=greeting" || fail "its port is not published again"
ok "a follower that was cut off goes on reading, and catches up when it is joined again"

restart leader
publish_leader
until_true 30 "the restarted leader to be ready" is_ready leader
writes_go_on "by a leader that was restarted"
until_true 30 "all followers to be up" is_whole

docker kill "$(container leader)" >/dev/null
docker start "$(container leader)" >/dev/null
publish_leader
until_true 30 "the killed leader to be ready" is_ready leader
writes_go_on "by a leader that was killed and started"
until_true 30 "all followers to be up" is_whole

restart follower1
until_true 30 "all followers to be up" is_whole
ok "nodes that are told to stop do so by themselves, in time"

# ---- another quorum ---------------------------------------------------------------------------------------------------

containers >"$work/containers_before"
WRITE_QUORUM=5 run scripts/compose.sh up --detach || fail "the quorum was not changed"
export WRITE_QUORUM=5
containers >"$work/containers_after"
changed=$(comm -13 <(sort "$work/containers_before") <(sort "$work/containers_after") | cut -d ' ' -f 1 | xargs)
[ "$changed" = leader ] || fail "another quorum made these anew: $changed"
publish_leader
until_true 30 "the leader with another quorum to be ready" is_ready leader
answer=$(curl --silent --json '{"key":"greeting","value":"all of you"}' "$(url leader)/write")
[[ $answer == *'"acks":5,"quorum":5,'* ]] || fail "with WRITE_QUORUM=5 a write was answered with $answer"
writes_go_on "by all five, with WRITE_QUORUM=5, and only the leader was made anew"

# ---- nothing is lost --------------------------------------------------------------------------------------------------

touch "$work/stop"
wait
until_true 30 "all six to be equal" are_equal
ok "all six hold the same $(wc -l <"$work/data.leader") keys, values and versions"
sed '/^greeting\t/d' "$work/data.leader" >"$work/data"
complaints=$(judge "$work/data" "$work"/account.[0-9])
[ -z "$complaints" ] || fail "$complaints"
ok "of $(count acked) acknowledged writes none is lost; $(count unknown) were unknown, $(count refused) refused"

# ---- the measurement --------------------------------------------------------------------------------------------------

is_measured() {
  local quorum
  for quorum in 1 2 3 4 5; do grep -Eq "\"quorum\": ?$quorum\>" "$1/results.json" || return 1; done
}
run scripts/quorum_latency.sh "$work/there" --writes 200 --warmup 20 || fail "the composed cluster was not measured"
is_measured "$work/there" || fail "not all five quorums were measured"
[ -n "$(container leader)" ] || fail "the measurement has taken the cluster down"
run scripts/compose.sh down || fail "the cluster did not go down"
run scripts/quorum_latency.sh "$work/own" --writes 200 --warmup 20 || fail "no cluster was started and measured"
is_measured "$work/own" || fail "not all five quorums were measured"
[ -z "$(container leader)" ] || fail "the measurement has left its cluster behind"
ok "quorum_latency.sh measures a cluster that is there, and one that it starts and takes down"
