# PostgreSQL, as the ordinary user that it insists on: bank transfers with every commit durable, a
# crash, a restart; every index agrees with its table, and a dump is the same after a remount.
# shellcheck shell=bash

NEEDS=(pg_ctl pgbench pg_amcheck pg_dump runuser)

# Debian keeps these off the path.
for PGBIN in /usr/lib/postgresql/*/bin; do PATH=$PATH:$PGBIN; done
PGUSER=postgres

work() {
    local scale=20 seconds=30
    [[ -z $QUICK ]] || scale=1 seconds=3
    mkdir "$1/data" "$WORK/socket"
    chown "$PGUSER" "$1/data" "$WORK/socket"
    as_user initdb --auth=peer --no-locale --encoding=UTF8 --data-checksums -D "$1/data" >"$WORK/postgres.log"
    start "$1"
    client psql -qc 'CREATE EXTENSION amcheck' postgres
    client pgbench -i -q -s "$scale" postgres 2>"$WORK/pgbench.log"
    client pgbench -c 4 -j 2 -T "$seconds" postgres >"$WORK/pgbench.log" 2>&1
    sed -n 's/^tps = \([0-9.]*\).*/pgbench: \1 transactions a second/p' "$WORK/pgbench.log"
    balanced
    # As in a crash: no checkpoint, the log is replayed.
    as_user pg_ctl -D "$1/data" -m immediate -w stop >/dev/null
    start "$1"
    balanced
    whole
    client pg_dump postgres | grep -v '^\\' | sha256sum >"$WORK/dump"
    stop "$1"
}

check() {
    start "$1"
    client pg_dump postgres | grep -v '^\\' | sha256sum | cmp - "$WORK/dump" || fail "the dump differs"
    whole
    stop "$1"
    as_user pg_checksums --check -D "$1/data" >"$WORK/postgres.log" || fail "$(cat "$WORK/postgres.log")"
    rm -rf "$WORK/socket"
}

# What the tellers, branches and accounts have moved is what the history says.
balanced() {
    [[ $(client psql -Atc "
        SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
           AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
           AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)
           AND (SELECT count(*) FROM pgbench_history) > 0" postgres) == t ]] || fail "money was lost"
}

whole() {
    client pg_amcheck --heapallindexed postgres || fail "pg_amcheck found damage"
}

start() {
    as_user pg_ctl -D "$1/data" -w -l "$WORK/socket/log" \
        -o "-c listen_addresses= -c unix_socket_directories=$WORK/socket -c fsync=on" start >/dev/null ||
        fail "PostgreSQL does not start: $(tail -n 5 "$WORK/socket/log")"
}

stop() {
    as_user pg_ctl -D "$1/data" -m fast -w stop >/dev/null
}

client() {
    PGHOST=$WORK/socket as_user "$@"
}

as_user() {
    runuser -u "$PGUSER" -- env PATH="$PATH" PGHOST="${PGHOST:-}" "$@"
}
