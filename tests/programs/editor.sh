# An editor saves a file in both of its ways: a new file renamed over the old one, and the old one
# written anew. Mode, owner and ACL stay, and nothing else is left.
# shellcheck shell=bash

NEEDS=(vim)

work() {
    local how
    for how in no yes; do
        mkdir "$1/$how"
        printf 'one\ntwo\nthree\n' >"$1/$how/text"
        chmod 640 "$1/$how/text"
        [[ $EUID -ne 0 ]] || chown 1:2 "$1/$how/text"
        ! has setfacl || setfacl -m u:3:r "$1/$how/text"
        attributes "$1/$how/text" >"$WORK/attributes"
        edit "$how" "$1/$how/text" 's/two/zwei/'
        edit "$how" "$1/$how/text" 's/three/drei/'
        printf 'one\nzwei\ndrei\n' | cmp - "$1/$how/text"
        attributes "$1/$how/text" | diff "$WORK/attributes" - || fail "backupcopy=$how: mode, owner or ACL were lost"
        [[ $(ls -A "$1/$how") == text ]] || fail "backupcopy=$how left $(ls -A "$1/$how")"
    done
}

check() {
    local how
    for how in no yes; do
        printf 'one\nzwei\ndrei\n' | cmp - "$1/$how/text"
    done
}

edit() {
    vim -u NONE -i NONE -n -es -c "set writebackup backupcopy=$1 fsync" -c "%$3" -c wq "$2" </dev/null
}

attributes() {
    stat -c '%a %u:%g' "$1"
    ! has getfacl || getfacl --absolute-names --numeric --omit-header "$1"
}
