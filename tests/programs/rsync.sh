# rsync: into the mount and out of it, with everything that it can keep; a second run, by checksum,
# has nothing to do; what is gone from the source goes.
# shellcheck shell=bash

NEEDS=(rsync setfattr getfattr)

work() {
    [[ -d $WORK/tree ]] || make_tree "$WORK/tree"
    sync "$WORK/tree/" "$1/tree/"
    same_listing "$WORK/tree" "$1/tree"
    : >"$1/tree/deep/stray"
    mkdir "$1/tree/stray" && : >"$1/tree/stray/file"
    printf X | dd of="$1/tree/bytes-65536" bs=1 seek=30000 conv=notrunc status=none
    sync --checksum "$WORK/tree/" "$1/tree/"
    nothing_to_do "$WORK/tree/" "$1/tree/"
    same_listing "$WORK/tree" "$1/tree"
    # Parts of files are exchanged in place.
    cp -a "$1/tree/bytes-1000000" "$WORK/changed"
    printf Y | dd of="$WORK/changed" bs=1 seek=500000 conv=notrunc status=none
    rsync --ignore-times --inplace --no-whole-file "$WORK/changed" "$1/changed"
    printf Z | dd of="$WORK/changed" bs=1 seek=900000 conv=notrunc status=none
    rsync --ignore-times --inplace --no-whole-file "$WORK/changed" "$1/changed"
    cmp "$WORK/changed" "$1/changed"
}

check() {
    nothing_to_do "$WORK/tree/" "$1/tree/"
    rm -rf "$WORK/back"
    sync "$1/tree/" "$WORK/back/"
    nothing_to_do "$1/tree/" "$WORK/back/"
    same_listing "$WORK/tree" "$WORK/back"
}

sync() {
    rsync -aHAXS --numeric-ids --delete "$@"
}

nothing_to_do() {
    local changes
    changes=$(sync --checksum --dry-run --itemize-changes "$@")
    [[ -z $changes ]] || fail "rsync of $1 to $2 is not done: $(head -n 5 <<<"$changes")"
}
