#!/usr/bin/env bash
# Puts known bugs back into the sources, one at a time, and shows which test catches each.
#
#   scripts/put_bugs_back.sh          all of scripts/bugs/*.patch
#   scripts/put_bugs_back.sh 03 17    only these
#   scripts/put_bugs_back.sh --first  in a hurry: leaves out the simulation where a test of the library fails already
#
# A patch is a unified diff; the lines before it say what the bug is and which rule it breaks. The tests are those of
# the library and the simulation; a patch whose head has a line "tests: it" also has the contract tests run, with
# "tests: it NAME" those of that name. With a line "mode: raft" they are those of raft mode, else the simulation is that of quorum mode.
#
# First the tests must pass without any bug. Then every bug must make at least one test fail. The run fails if a bug is
# caught by no test, and if a patch does not apply or does not compile: it has to follow the sources it is about.
#
# Nothing happens in the checkout itself: a copy of it is made under target/bugs (with what is not committed yet), and
# removed at the end. The logs of the tests stay in target/bugs/logs.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$root/target/bugs
copy=$work/checkout
logs=$work/logs

# Longest run of the tests of one bug, in seconds: a bug may also make them hang.
patience=900

mkdir -p "$logs"
exec 9>"$work/lock"
flock --nonblock 9 || { echo "another run is under way in $work" >&2; exit 2; }
child=
clean_up() {
    # The tests are in a process group of their own (see below), which Ctrl-C does not reach.
    if [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null || true; fi
    rm -rf "$copy"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

export CARGO_TARGET_DIR=$work/target
# Where git looks for a repository: not above the copy, or the patches would be applied to the checkout.
export GIT_CEILING_DIRECTORIES=$work
# The same cases in every run, and none left behind by one bug for the next.
export PROPTEST_RNG_SEED=1 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# Nobody looks into these with a debugger, and they are built many times.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0

first_only=
if [ "${1:-}" = --first ]; then
    first_only=yes
    shift
fi
patches=()
if [ $# -eq 0 ]; then
    patches=("$root"/scripts/bugs/*.patch)
else
    for wanted in "$@"; do
        found=("$root"/scripts/bugs/"$wanted"*.patch)
        [ -e "${found[0]}" ] || { echo "no bug $wanted in scripts/bugs" >&2; exit 2; }
        patches+=("${found[@]}")
    done
fi

rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
    tar --create --null --files-from=- | tar --extract --touch --directory="$copy"
cd "$copy"

# Runs a command in its own process group, so that it and its children can be ended.
run() {
    setsid --wait timeout --kill-after=10 "$patience" "$@" &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

# run_target LOG TARGET…: 0 its tests pass, 1 some fail (names go to LOG.failed), 2 it does not compile or did not run.
run_target() {
    local log=$1 status=0 found
    shift
    rm -f "$log.failed"
    run cargo test --quiet --no-run "$@" >"$log" 2>&1 || return 2
    run cargo test --no-fail-fast "$@" >"$log" 2>"$log.errors" || status=$?
    if [ "$status" -eq 0 ]; then
        # Tests that did not run have not passed.
        grep -q '^test .* \.\.\. ok$' "$log" || return 2
        return 0
    fi
    found=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then found+="(no end within $patience s)"; fi
    [ -n "$found" ] || return 2
    printf '%s\n' "$found" >>"$log.failed"
    return 1
}

# run_tests LOG PATCH: the same over the library, the simulation and, if the patch says so, the contract tests.
run_tests() {
    local log=$1 result=0 status target head="" lib="" sim="" it=""
    : >"$log.failed"
    local targets=(lib sim)
    head=$(sed '/^diff --git/,$d' "$2")
    if grep -q '^tests: it' <<<"$head"; then targets+=(it); fi
    it=$(sed -n 's/^tests: it *//p' <<<"$head")
    # A bug in one mode is not looked for in the other.
    case $(sed -n 's/^mode: //p' <<<"$head") in
        raft) lib=replication::raft:: sim=raft:: ;;
        all) ;;
        *) sim=quorum:: ;;
    esac
    for target in "${targets[@]}"; do
        status=0
        case $target in
            lib) run_target "$log.lib" --lib "$lib" || status=$? ;;
            sim) run_target "$log.sim" --test sim "$sim" || status=$? ;;
            *) run_target "$log.$target" --test "$target" "$it" || status=$? ;;
        esac
        [ "$status" -ne 2 ] || return 2
        if [ "$status" -eq 1 ]; then
            cat "$log.$target.failed" >>"$log.failed"
            rm "$log.$target.failed"
            result=1
            [ -z "$first_only" ] || break
        fi
    done
    return "$result"
}

row() { printf '%-44s | %-78s | %7s\n' "$1" "$2" "$3"; }

row bug "caught by" seconds
row "$(printf -- '-%.0s' {1..44})" "$(printf -- '-%.0s' {1..78})" -------

started=$SECONDS
# The tests of both modes; with the contract tests if any bug is left to them.
{ echo 'mode: all'; grep -h '^tests: it' "${patches[@]}" | sort -u | head -1 || true; } >"$logs/00-head"
if ! run_tests "$logs/00-none" "$logs/00-head"; then
    row "(none)" "FAILS WITHOUT ANY BUG" $((SECONDS - started))
    cat "$logs/00-none.failed" >&2
    echo "the tests must pass before a bug is put in: see $logs/00-none" >&2
    exit 1
fi
row "(none)" "all tests pass" $((SECONDS - started))

missed=() broken=()
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    started=$SECONDS
    if ! git apply "$patch" 2>"$logs/$name"; then
        row "$name" "ERROR: THE PATCH DOES NOT APPLY" $((SECONDS - started))
        sed 's/^/    /' "$logs/$name" >&2
        broken+=("$name")
        continue
    fi
    status=0
    run_tests "$logs/$name" "$patch" || status=$?
    case $status in
        0)
            row "$name" "NOT CAUGHT" $((SECONDS - started))
            missed+=("$name")
            ;;
        1)
            first=yes
            while IFS= read -r test; do
                if [ -n "$first" ]; then row "$name" "$test" $((SECONDS - started)); else row "" "$test" ""; fi
                first=
            done <"$logs/$name.failed"
            ;;
        *)
            row "$name" "ERROR: DOES NOT COMPILE, OR NO TEST RAN" $((SECONDS - started))
            broken+=("$name")
            ;;
    esac
    git apply --reverse "$patch"
done

echo
echo "${#patches[@]} bugs: $((${#patches[@]} - ${#missed[@]} - ${#broken[@]})) caught, ${#missed[@]} not caught, ${#broken[@]} in error; logs in target/bugs/logs"
[ ${#missed[@]} -eq 0 ] && [ ${#broken[@]} -eq 0 ]
