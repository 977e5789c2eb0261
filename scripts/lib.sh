# What several scripts share. To be sourced, from the project's directory.
# shellcheck shell=bash

has() {
    command -v "$1" >/dev/null 2>&1
}

skip() {
    echo "skipped: $1: $2"
}

# Installs the Debian packages of commands that are missing: install_missing "COMMAND PACKAGE"...
# What cannot be installed is said, and no error.
install_missing() {
    local packages=() entry
    for entry in "$@"; do
        has "${entry% *}" || packages+=("${entry#* }")
    done
    if ((${#packages[@]} == 0)); then
        return
    fi
    if [[ $EUID -ne 0 ]] || ! has apt-get; then
        echo "${0##*/}: not installed: ${packages[*]} (needs root and apt)" >&2
    elif ! apt_install "${packages[@]}"; then
        echo "${0##*/}: apt could not install: ${packages[*]}" >&2
    fi
}

# Quiet, unless it fails.
apt_install() {
    local log
    log=$(mktemp)
    if (
        export DEBIAN_FRONTEND=noninteractive
        apt-get update && apt-get install --yes --no-install-recommends "$@"
    ) </dev/null >"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        rm -f "$log"
        return 1
    fi
}

# Programs from crates.io that the tests use, of a known version, built under target/ where the
# machine has none. Needs the network once.
readonly SUITES=("pjdfstest 0.2.2" "fsx 0.3.2")
install_suites() {
    local entry log
    PATH=$PATH:$PWD/target/tools/bin
    log=$(mktemp)
    for entry in "${SUITES[@]}"; do
        if ! has "${entry% *}" && ! cargo install --quiet --locked "${entry% *}" --version "${entry#* }" \
            --root target/tools --target-dir target/tools/build </dev/null >"$log" 2>&1; then
            echo "${0##*/}: could not build $entry: $(grep . "$log" | tail -n 1)" >&2
        fi
    done
    rm -f "$log"
}

# A temporary volume on the disk of $TMPDIR (by default /var/tmp): $WORK/mnt is its mount point and
# $WORK/plain a directory of the same backing filesystem. All of it goes when the script ends.
make_volume() {
    WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/kmsfs-${0##*/}-XXXXXX")
    trap remove_volume EXIT
    trap 'exit 130' INT TERM
    # Other users must get to the mount point.
    chmod 755 "$WORK"
    mkdir "$WORK/mnt" "$WORK/plain"
    (umask 077 && head -c 64 /dev/urandom >"$WORK/key-file")
    export KMSFS_KEYSTORE=$WORK/keys
    volume init "$WORK/volume" >/dev/null 2>&1
    mount_volume
}

# kmsfs, with the key of the temporary store.
volume() {
    "$KMSFS" --key-file "$WORK/key-file" "$@"
}

# With what a local filesystem may have, if that is allowed.
mount_volume() {
    local options=()
    [[ $EUID -ne 0 ]] || options=(-o "allow_other,key_access=mount,dev,suid")
    volume mount "$WORK/volume" "$WORK/mnt" "${options[@]}"
}

# Programs that were told to stop may still have files open for a moment.
# A copy of the mount in another mount namespace would keep it for ever.
unmount_volume() {
    local tries
    for ((tries = 0; tries < 50; tries++)); do
        timeout 120 "$KMSFS" umount "$WORK/mnt" 2>"$WORK/umount.log" && return 0
        sleep 0.2
    done
    cat "$WORK/umount.log" >&2
    return 1
}

remove_volume() {
    ! mountpoint -q "$WORK/mnt" || unmount_volume || umount -l "$WORK/mnt" || true
    rm -rf "$WORK"
}

# Seconds from then, a value of EPOCHREALTIME, to now.
seconds_since() {
    awk -v then="$1" -v now="$EPOCHREALTIME" 'BEGIN { printf "%.2f", now - then }'
}
