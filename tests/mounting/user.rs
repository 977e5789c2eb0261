//! Users without privileges, through `fusermount3`.

use std::os::unix::fs::PermissionsExt;

use crate::common::skipped;
use crate::namespace;

/// Whether `fusermount3` can do its work.
fn is_setuid(test: &str) -> bool {
    let setuid = ["/usr/bin/fusermount3", "/bin/fusermount3"].iter().any(|path| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o4000 != 0)
    });
    if !setuid {
        skipped(test, "fusermount3 is not installed set-user-ID");
    }
    setuid
}

#[test]
fn a_user_mounts_and_unmounts_a_volume_of_his_own() {
    const TEST: &str = "a_user_mounts_and_unmounts_a_volume_of_his_own";
    let Some(world) = namespace::world(TEST, &[]).filter(|_| is_setuid(TEST)) else { return };
    let script = r#"
        export KMSFS_KEYSTORE="$W/home/keys"
        cd "$W/home"
        k() { as 1500 kmsfs --key-file key "$@"; }
        k init cipher
        as 1500 mkdir plain
        k mount cipher plain
        as 1500 sh -c 'echo long ago > plain/file; mkdir plain/dir; ln -s file plain/link'
        as 1500 sh -c 'echo one > plain/file; chmod 700 plain/dir; touch -d 2001-02-03 plain/dir'
        same "$(as 1500 stat -c %u:%g plain plain/file plain/dir | sort -u)" 1500:1500
        # Nobody else sees anything of it, neither another user nor root.
        chmod 755 "$W/home"
        refused 1 'Permission denied' as 1501 cat plain/file
        refused 1 'Permission denied' cat plain/file
        refused 2 'Permission denied' ls plain
        # Busy while it is used, as for root.
        as 1500 sh -c 'exec 5< plain/file; sleep 1' &
        until_true as 1500 sh -c 'ls -l /proc/*/fd 2>/dev/null | grep -q plain/file'
        refused 26 busy k umount plain
        wait $!
        k umount plain
        same "$(ls plain)" ''
        # The backing files are his as well.
        same "$(find cipher ! -user 1500 | wc -l)" 0
        k mount cipher plain
        same "$(as 1500 cat plain/link)" one
        # What only root may ask for.
        k umount plain
        if [ -e /dev/cpu_dma_latency ]; then
            refused 16 'leave it out, or mount as root' k mount -o low_latency cipher plain
        fi
        refused 16 user_allow_other k mount cipher plain -o allow_other
        k mount cipher plain -o ro
        refused 2 'Read-only' as 1500 sh -c 'echo two > plain/file'
        as 1500 fusermount3 -u plain
        k mount cipher plain
        same "$(as 1500 cat plain/file)" one
        k umount plain
    "#;
    namespace::script(&world, script).ok();
}

#[test]
fn an_idle_mount_of_a_user_is_unmounted_and_a_signal_ends_it() {
    const TEST: &str = "an_idle_mount_of_a_user_is_unmounted_and_a_signal_ends_it";
    let Some(world) = namespace::world(TEST, &["pgrep"]).filter(|_| is_setuid(TEST)) else { return };
    let script = r#"
        export KMSFS_KEYSTORE="$W/home/keys"
        cd "$W/home"
        k() { as 1500 kmsfs --key-file key "$@"; }
        gone() { ! grep -q fuse.kmsfs /proc/mounts && ! pgrep -r D,R,S kmsfs; }
        k init cipher
        as 1500 mkdir plain
        k mount cipher plain --idle-timeout 1s
        as 1500 sh -c 'echo one > plain/file'
        until_true gone
        # Asked to end while a program works in it: everything written is there.
        k mount cipher plain
        as 1500 sh -c 'cd plain; exec 5> open; echo two >&5; echo three > file; exec sleep 60' &
        until_true as 1500 grep -q three plain/file
        kill -TERM "$(pgrep kmsfs)"
        sleep 0.3
        kill -TERM "$(pgrep kmsfs)"
        until_true gone
        k mount cipher plain
        same "$(as 1500 cat plain/open plain/file)" "two
three"
        k umount plain
    "#;
    namespace::script(&world, script).ok();
}
