# git: a clone with all its history, old trees checked out, a commit, a merge, gc and fsck.
# REPOSITORY is cloned; a copy of the project's sources with some history where there is none.
# shellcheck shell=bash

NEEDS=(git)

work() {
    local place=$1 repository=${REPOSITORY:-}
    if [[ -z $repository || -n $QUICK ]]; then
        repository=$WORK/repository
        [[ -d $repository ]] || make_repository "$repository"
    fi
    git clone --quiet --no-local "$repository" "$place/clone"
    cd "$place/clone"
    echo "$(git rev-list --count --all) commits, $(git ls-files | wc -l) files"
    local head middle
    head=$(git rev-parse HEAD)
    middle=$(git rev-list HEAD | awk '{ line[NR] = $0 } END { print line[int(NR / 2) + 1] }')
    git checkout --quiet "$middle"
    clean
    git checkout --quiet -b side "$head~1"
    echo a change >>a-new-file
    git add a-new-file
    author commit --quiet --message "A change"
    author merge --quiet --no-edit "$head"
    git fetch --quiet "$repository"
    git gc --quiet --prune=now
    git fsck --full --strict --no-progress --no-dangling >"$WORK/fsck.log" 2>&1 || sound "$repository"
    clean
    git ls-files --stage | sha256sum >"$place/staged"
}

check() {
    local place=$1
    cd "$place/clone"
    git fsck --full --no-progress --no-dangling >"$WORK/fsck.log" 2>&1 || sound "${REPOSITORY:-}"
    git ls-files --stage | sha256sum | cmp - "$place/staged"
    # Reads every file, instead of trusting what the index remembers.
    rm .git/index
    git read-tree HEAD
    clean
}

clean() {
    [[ -z $(git status --porcelain) ]] || fail "git sees changes: $(git status --porcelain | head -n 3)"
}

# Old repositories have findings of their own, which a clone inherits.
sound() {
    git -C "$1" fsck --full --no-progress --no-dangling >/dev/null 2>&1 && fail "fsck: $(head -n 3 "$WORK/fsck.log")"
    ! grep -Eq "missing|corrupt|broken" "$WORK/fsck.log" || fail "fsck: $(head -n 3 "$WORK/fsck.log")"
}

make_repository() {
    local round
    git init --quiet "$1"
    for round in 1 2 3; do
        cp -r "$SOURCE/src" "$1/"
        find "$1/src" -name '*.rs' -exec sed -i "1i // Round $round" {} +
        git -C "$1" add --all
        (cd "$1" && author commit --quiet --message "Round $round")
    done
}

author() {
    git -c user.name=kmsfs -c user.email=kmsfs@localhost "$@"
}
