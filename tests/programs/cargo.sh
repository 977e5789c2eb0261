# cargo: this project, built with everything that it makes on the mount. After a remount nothing is
# built again, as cargo judges by times, and what was built runs.
# shellcheck shell=bash

NEEDS=(cargo cc)

work() {
    build "$1"
    "$1/target/debug/kmsfs" --version >/dev/null
}

check() {
    build "$1"
    ! grep -q Compiling "$WORK/cargo.log" || fail "built again: $(grep -m 3 Compiling "$WORK/cargo.log")"
    "$1/target/debug/kmsfs" --version >/dev/null
}

build() {
    CARGO_TARGET_DIR=$1/target cargo build --offline --manifest-path "$SOURCE/Cargo.toml" >"$WORK/cargo.log" 2>&1 ||
        fail "the build failed: $(tail -n 5 "$WORK/cargo.log")"
}
