#!/usr/bin/env bash
# `docker compose` or `docker-compose`, whichever is installed, on this repository's docker-compose.yml:
# scripts/compose.sh up --build --detach. COMPOSE=docker-compose insists on that one.
set -euo pipefail
file=$(realpath "$(dirname "$0")/../docker-compose.yml")

if [ -z "${COMPOSE:-}" ]; then
  if docker compose version >/dev/null 2>&1; then
    COMPOSE="docker compose"
  elif command -v docker-compose >/dev/null; then
    COMPOSE=docker-compose
  else
    echo "neither 'docker compose' nor 'docker-compose' is installed" >&2
    exit 1
  fi
fi
read -ra command <<<"$COMPOSE"
exec "${command[@]}" --file "$file" "$@"
