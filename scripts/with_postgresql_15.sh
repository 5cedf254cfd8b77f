#!/usr/bin/env bash
# Runs a command with a throw-away cluster of Debian's PostgreSQL 15 and its DSN as TEST_ADMIN_URL.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin
# Thrown away: in memory where there is room for it and for what runs on it, as tests/places.py has it.
place=/tmp
if [ -d /dev/shm ] && [ "$(df --output=avail /dev/shm | tail -1)" -ge $((8 << 20)) ] &&
    [ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -ge $((12 << 20)) ]; then place=/dev/shm; fi
home=$(mktemp -d "$place/postgresql-15-XXXXXX")
chmod 755 "$home"
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
if [ "$(id -u)" = 0 ]; then chown postgres "$home"; fi
as "$bin/initdb" --no-sync -D "$home/data" -U postgres --auth=trust -E UTF8 --locale=C >/dev/null
as "$bin/pg_ctl" -D "$home/data" -l "$home/log" -w -s \
    -o "-k $home -c listen_addresses='' -c max_connections=200 -c fsync=off -c full_page_writes=off" start
stop() { as "$bin/pg_ctl" -D "$home/data" -m fast -s stop; rm -rf "$home"; }
trap stop EXIT
export TEST_ADMIN_URL="postgresql://postgres@/postgres?host=$home"
"$@"
