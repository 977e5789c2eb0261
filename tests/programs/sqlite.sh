# SQLite with both kinds of journal, every commit durable, and its process killed in the middle:
# what it had acknowledged is there, and the database is whole.
# shellcheck shell=bash

NEEDS=(sqlite3)

work() {
    local journal
    for journal in wal delete; do
        load "$1/$journal.db" "$journal"
        interrupt "$1/$journal.db" "$journal"
    done
}

check() {
    local journal
    for journal in wal delete; do
        whole "$1/$journal.db"
        [[ $(query "$1/$journal.db" "SELECT count(*), sum(n) FROM load") == $(<"$1/$journal.sum") ]] ||
            fail "$journal.db has other rows than before"
        query "$1/$journal.db" "DELETE FROM load WHERE n % 3 = 0; VACUUM;"
        whole "$1/$journal.db"
    done
}

load() {
    local rows=20000
    [[ -z $QUICK ]] || rows=2000
    query "$1" "
        PRAGMA journal_mode = $2;
        PRAGMA synchronous = FULL;
        CREATE TABLE load (n INTEGER PRIMARY KEY, text TEXT, bytes BLOB);
        CREATE INDEX by_text ON load (text);
        WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < $rows)
            INSERT INTO load SELECT n, hex(randomblob(20)), randomblob(n % 900) FROM count;
        UPDATE load SET text = hex(randomblob(30)) WHERE n % 7 = 0;
        DELETE FROM load WHERE n % 11 = 0;" >/dev/null
    whole "$1"
}

# Commits row by row until it is killed. It says each number after its commit.
interrupt() {
    local said last pid rounds=5 i
    [[ -z $QUICK ]] || rows=1 rounds=2
    said=$WORK/said
    for ((i = 1; i <= rounds; i++)); do
        : >"$said"
        statements $((i * 1000000)) | sqlite3 -bail "$1" >"$said" 2>"$WORK/sqlite.log" &
        pid=$!
        # At least some commits, and then somewhere.
        while (($(wc -l <"$said") < 20)); do
            kill -0 "$pid" 2>/dev/null || fail "sqlite3 ended by itself: $(cat "$WORK/sqlite.log")"
            sleep 0.05
        done
        kill -KILL "$pid"
        wait "$pid" 2>/dev/null || true
        last=$(grep -E '^[0-9]+$' "$said" | tail -n 1)
        whole "$1"
        [[ $(query "$1" "SELECT count(*) FROM load WHERE n BETWEEN $((i * 1000000)) AND $last") == $((last - i * 1000000 + 1)) ]] ||
            fail "$2: a row up to $last was committed and is missing"
    done
    query "$1" "SELECT count(*), sum(n) FROM load" >"${1%.db}.sum"
}

# The pipe's reader is what is killed; this ends with it.
statements() {
    local n
    echo "PRAGMA synchronous = FULL;"
    for ((n = $1; n < $1 + 100000; n++)); do
        echo "INSERT INTO load VALUES ($n, hex(randomblob(10)), randomblob(500)); SELECT $n;"
    done 2>/dev/null
}

whole() {
    [[ $(query "$1" "PRAGMA integrity_check") == ok ]] || fail "$1 is damaged"
}

query() {
    sqlite3 -bail "$@"
}
