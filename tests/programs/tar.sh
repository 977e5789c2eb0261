# tar: a tree with everything in it comes back equal, sparse where it was, out of the mount as well.
# shellcheck shell=bash

NEEDS=(tar setfattr getfattr)

work() {
    [[ -d $WORK/tree ]] || make_tree "$WORK/tree"
    mkdir "$1/tree"
    pack "$WORK/tree" | unpack "$1/tree"
    same_listing "$WORK/tree" "$1/tree"
}

check() {
    same_listing "$WORK/tree" "$1/tree"
    rm -rf "$WORK/back"
    mkdir "$WORK/back"
    pack "$1/tree" | unpack "$WORK/back"
    same_listing "$WORK/tree" "$WORK/back"
}

# Everything but sockets, which tar leaves out.
KEEP=(--xattrs "--xattrs-include=*" --acls --numeric-owner)

pack() {
    tar -C "$1" -c --format=posix --sparse "${KEEP[@]}" .
}

unpack() {
    # It remarks on times far away.
    tar -C "$1" -x --same-owner --preserve-permissions --warning=no-timestamp "${KEEP[@]}"
}
