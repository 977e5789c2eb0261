# What a program that copies trees must keep, one line a file: kind, mode, owner, size, time of
# modification, target, extended attributes with ACLs, links, whether it is sparse, and contents.
# shellcheck shell=bash

# listing DIRECTORY
listing() (
    cd "$1"
    # Directories' sizes are the filesystem's own affair, and rsync leaves out times of special files.
    find . -type d -printf '%y %m %U:%G - %T@ %p\n' -o \( -type f -o -type l \) \
        -printf '%y %m %U:%G %s %T@ %p -> %l\n' -o -printf '%y %m %U:%G - - %p\n' | sort
    find . ! -type l -exec getfattr --no-dereference --dump --match=- --encoding=hex {} + 2>/dev/null |
        awk '/^# file: / { file = $0; next } NF { print file, $0 }' | sort
    # Names of one file, by its first name.
    find . -type f -links +1 -printf '%i %p\n' | sort -k 2 |
        awk '{ if (!($1 in first)) first[$1] = $2; print "link", first[$1], $2 }'
    find . -type f -size +64k -printf '%b %s %p\n' |
        awk '{ print ($1 * 512 < $2 / 2 ? "sparse" : "full"), $3 }' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum
    find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort
)

# same_listing DIRECTORY OTHER
same_listing() {
    diff <(listing "$1") <(listing "$2") >"$WORK/listing.diff" ||
        fail "$2 differs from $1:"$'\n'"$(head -n 20 "$WORK/listing.diff")"
}

# A tree with all kinds of things in it. What the machine does not allow is left out.
make_tree() {
    local i
    mkdir -p "$1/deep/er/and/deeper"
    cp -r "$SOURCE/src" "$SOURCE/docs" "$1/"
    for i in 0 1 4063 4064 4065 4096 65536 1000000; do head -c "$i" /dev/urandom >"$1/bytes-$i"; done
    ln "$1/bytes-4064" "$1/deep/er/hard"
    ln "$1/bytes-4064" "$1/a-hard"
    ln "$1/bytes-0" "$1/deep/empty"
    ln -s ../bytes-1 "$1/deep/soft"
    ln -s "$(printf 'long/%.0s' {1..300})" "$1/deep/long-soft"
    : >"$1/$(printf 'n%.0s' {1..255})"
    : >"$1/$(printf 'ü%.0s' {1..127})"
    : >"$1/"$'new\nline and \t tab \\ "'"'"
    truncate -s 50M "$1/hole"
    truncate -s 20M "$1/islands"
    for i in 0 5000000 11111111; do
        head -c 200000 /dev/urandom | dd of="$1/islands" bs=1 seek="$i" conv=notrunc status=none iflag=fullblock obs=200000
    done
    mkfifo -m 640 "$1/fifo"
    chmod 4755 "$1/bytes-65536"
    chmod 2770 "$1/deep"
    chmod 1777 "$1/deep/er"
    chmod 0 "$1/bytes-1"
    touch -d '1965-05-05 05:05:05.123456789' "$1/bytes-4063"
    touch -d '2100-01-01 00:00:00.987654321' "$1/bytes-4096" "$1/deep/er/and"
    # rsync takes a link that it just made for as old as one made within the same second.
    touch -h -d '2001-02-03 04:05:06.789' "$1/deep/soft" "$1/deep/long-soft"
    setfattr -n user.comment -v "kept" "$1/bytes-4096" "$1/deep"
    setfattr -n user.binary -v 0x00ff00 "$1/bytes-1000000"
    setfattr -n user.empty "$1/bytes-0"
    if [[ $EUID -eq 0 ]]; then
        chown 1:2 "$1/bytes-4065" "$1/deep/er/and"
        chown -h 3:4 "$1/deep/soft"
        # cap_net_raw=ep
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 "$1/bytes-4096"
        mknod "$1/device" c 1 3
        setfattr -n trusted.note -v "root's" "$1/bytes-4065"
    fi
    if has setfacl; then
        setfacl -m u:1:r--,g:2:rw-,m::rw- "$1/bytes-4096"
        setfacl -m u:1:rwx,d:u:1:r-x,d:g:2:rwx "$1/deep/er/and/deeper"
    fi
    # Modification times of directories last; the children are made.
    find "$1" -depth -type d -exec touch -d '2001-02-03 04:05:06.789' {} +
}
