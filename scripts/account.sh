# shellcheck shell=bash
# The account that writers keep of their writes, and the judge of what a store holds in the end. For docker_test.sh, which
# sets `work`: the folder with the accounts, a file `leader` that says where to write, and a file `stop` to end it.
#
# A line of an account is: key, value or "-" for a delete, acked or refused or unknown, version or 0. Each key has one
# writer, each write its own value.
: "${work:?}"

# write_and_account WRITER: writes to its own keys one after the other, and deletes now and then, until it is told to stop.
write_and_account() {
  local n=0 key value path body answer status outcome version address
  while [ ! -e "$work/stop" ]; do
    n=$((n + 1))
    key=w$1/$((n % 20))
    if [ $((n % 17)) -eq 0 ]; then
      path=delete value=- body="{\"key\":\"$key\"}"
    else
      path=write value=$n body="{\"key\":\"$key\",\"value\":$n}"
    fi
    read -r address <"$work/leader"
    answer=$(curl --silent --max-time 10 --write-out '\n%{http_code}' --json "$body" "$address/$path") || true
    status=${answer##*$'\n'}
    version=0 outcome=unknown
    case $status in
      200)
        outcome=acked
        [[ $answer =~ \"version\":([0-9]+) ]] && version=${BASH_REMATCH[1]}
        ;;
      404 | 503) outcome=refused ;;
    esac
    echo "$key $value $outcome $version" >>"$work/account.$1"
    # Nobody there, or nothing to be had: no use in asking a hundred times a second.
    [ "$outcome" = acked ] || [ "$status" = 404 ] || sleep 0.05
  done
}

# count OUTCOME: how many writes ended so up to now.
count() { cat "$work"/account.[0-9] | grep -c " $1 " || true; }

# judge HOLDINGS ACCOUNT…: prints what must not be, a line each.
#
# A key must be as its last acknowledged write left it, with that version; or as a write left it whose outcome is
# unknown and that came after, with a higher version. No version may have been acknowledged twice.
judge() {
  awk '
    BEGIN { FS = "[ \t]" }
    FILENAME == ARGV[1] { held_version[$1] = $2; held_value[$1] = $3; next }
    {
      keys[$1]
      if ($3 == "acked") {
        if ($4 == 0 || $4 in used) print "version " $4 " was acknowledged twice, at last for " $1
        if ($4 <= acked_version[$1] + 0) print $1 ": version " $4 " came after " acked_version[$1]
        used[$4]
        acked_value[$1] = $2
        acked_version[$1] = $4
        unknown[$1] = " "
      } else if ($3 == "unknown") unknown[$1] = ($1 in unknown ? unknown[$1] : " ") $2 " "
    }
    END {
      for (key in keys) {
        n++
        value = key in held_value ? held_value[key] : "-"
        version = key in held_value ? held_version[key] : 0
        if (key in acked_value) { if (acked_value[key] == value && (value == "-" || acked_version[key] == version)) continue }
        else if (value == "-") continue
        if (index(unknown[key], " " value " ") && (value == "-" || version > acked_version[key] + 0)) continue
        print key ": holds " value " at " version ", acknowledged was " acked_value[key] " at " acked_version[key] ", unknown since:" unknown[key]
      }
      for (key in held_value) if (!(key in keys)) print key ": nobody has written it"
      if (n < 20) print "only " n + 0 " keys were looked at"
    }' "$@"
}

# A judge that lets all pass is none.
check_judge() {
  local n
  for n in {1..20}; do echo "k$n 1 acked $n"; done >"$work/account"
  for n in {1..20}; do printf 'k%s\t%s\t1\n' "$n" "$n"; done >"$work/held"
  judged() { judge "$work/held.other" "$work/account" | wc -l; }
  cp "$work/held" "$work/held.other"
  [ "$(judged)" -eq 0 ] || fail "the judge complains of a store as it should be"
  : >"$work/held.other"
  [ "$(judged)" -eq 20 ] || fail "the judge does not miss a whole store"
  sed 1d "$work/held" >"$work/held.other"
  [ "$(judged)" -eq 1 ] || fail "the judge does not miss a lost write"
  sed '1s/1$/7/' "$work/held" >"$work/held.other"
  [ "$(judged)" -eq 1 ] || fail "the judge does not see a wrong value"
  printf 'k1 2 unknown 0\nk1 3 refused 0\n' >>"$work/account"
  sed '1s/.*/k1\t30\t2/' "$work/held" >"$work/held.other"
  [ "$(judged)" -eq 0 ] || fail "the judge refuses a write that may have been stored"
  sed '1s/.*/k1\t30\t3/' "$work/held" >"$work/held.other"
  [ "$(judged)" -eq 1 ] || fail "the judge does not see a write that was refused"
  printf 'k1 4 acked 20\n' >>"$work/account"
  sed '1s/.*/k1\t20\t4/' "$work/held" >"$work/held.other"
  [ "$(judged)" -eq 1 ] || fail "the judge does not see a version used twice"
}
