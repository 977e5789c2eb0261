//! mount(8), its helpers' protocol, and fstab(5).

use crate::namespace;

/// Makes a volume and lets the script put helpers into a copy of /sbin.
const VOLUME: &str = r#"
        sbin=$(realpath /sbin)
        mkdir "$W/sbin"
        mount --bind "$sbin" "$W/sbin"
        mount -t tmpfs tmpfs "$sbin"
        for program in "$W"/sbin/*; do ln -s "$program" "$sbin/"; done
        rm -f "$sbin/mount.fuse.kmsfs"
        kmsfs --key-file key-file init cipher >/dev/null
        mkdir plain
        key=key_file=$W/key-file
        flags() { findmnt -no VFS-OPTIONS "$W/plain"; }
        # Has the mount these flags, the ones with an exclamation mark not?
        has() {
            local flag
            for flag; do
                case ",$(flags)," in *",${flag#!},"*) [ "$flag" = "${flag#!}" ] ;; *) [ "$flag" != "${flag#!}" ] ;; esac ||
                    { echo "$flag does not hold: $(flags)" >&2; exit 99; }
            done
        }
"#;

/// What must be the same whichever helper mount(8) finds.
const BOTH: &str = r#"
        mount -t fuse.kmsfs "$W/cipher" "$W/plain" -o "$key"
        same "$(findmnt -no FSTYPE,SOURCE plain)" "fuse.kmsfs $W/cipher"
        has rw '!nodev' '!nosuid' '!noexec'
        echo one > plain/file
        umount plain
        mount -t fuse.kmsfs "$W/cipher" "$W/plain" -r -o "$key,nodev,nosuid,noexec,nofail,_netdev,x-any=1,comment=c"
        has ro nodev nosuid noexec
        same "$(cat plain/file)" one
        umount plain
        mount -t fuse.kmsfs "$W/cipher" "$W/plain" -o "defaults,relatime,lazytime,allow_other,key_access=mount,threads=2,idle_timeout=1h,$key"
        same "$(setpriv --reuid 1500 --clear-groups cat plain/file)" one
        umount plain
        # What goes wrong is said, with mount's own exit codes.
        refused 32 'not a kmsfs volume' mount -t fuse.kmsfs "$W/home" "$W/plain" -o "$key"
        refused 32 'no passphrase' mount -t fuse.kmsfs "$W/cipher" "$W/plain"
        refused 1 "unknown mount option 'frob'" mount -t fuse.kmsfs "$W/cipher" "$W/plain" -o "frob,$key"
        refused 1 'no mount option' mount -t fuse.kmsfs "$W/cipher" "$W/plain" -o 'passphrase_command=cat key'
        refused 1 'given twice' mount -t fuse.kmsfs "$W/cipher" "$W/plain" -o "passphrase_file=/x,$key"
        # fstab: with a name of its own for the key store, found by the mount point alone.
        unset KMSFS_KEYSTORE
        mkdir 'pl ain'
        cat > fstab <<END
$W/cipher $W/plain fuse.kmsfs noauto,nofail,keystore=$W/keys,$key,x-systemd.automount 0 0
$W/cipher $W/pl\040ain fuse.kmsfs ro,user,keystore=$W/keys,$key 0 0
END
        mount --bind fstab /etc/fstab
        mount plain
        same "$(cat plain/file)" one
        umount plain
        mount --all
        same "$(cat 'pl ain/file')" one
        has() { :; }
        umount "$W/pl ain"
        until_true sh -c '! grep -q fuse.kmsfs /proc/mounts'
"#;

#[test]
fn mount_finds_its_own_helper() {
    let Some(world) = namespace::world("mount_finds_its_own_helper", &[]) else { return };
    let script = [
        VOLUME,
        r#"
        ln -s "$W/bin/kmsfs" "$sbin/mount.fuse.kmsfs"
        rm -f "$sbin/mount.fuse" "$sbin/mount.fuse3"
"#,
        BOTH,
        r#"
        # Only its own helper is asked what it would do, and passes over what it does not know.
        mount --fake -t fuse.kmsfs "$W/cipher" "$W/plain" -o "keystore=$W/keys,$key"
        refused 32 'does not exist' mount.fuse.kmsfs "$W/cipher" "$W/none" -f
        refused 1 'nsenter' mount.fuse.kmsfs "$W/cipher" "$W/plain" -N /proc/1/ns/mnt
        refused 1 'fuse.sshfs' mount.fuse.kmsfs "$W/cipher" "$W/plain" -t fuse.sshfs
        same "$(ls plain)" ''
        mount -s -t fuse.kmsfs "$W/cipher" "$W/plain" -o "frob,keystore=$W/keys,$key"
        same "$(cat plain/file)" one
        refused 1 'mount it anew' mount -o remount,ro "$W/plain"
        umount plain
"#,
    ]
    .concat();
    namespace::script(&world, &script).ok();
}

#[test]
fn mount_fuse3_finds_the_program() {
    let Some(world) = namespace::world("mount_fuse3_finds_the_program", &["mount.fuse3"]) else { return };
    // mount(8) leaves no PATH, and sh has one of its own then.
    let path = r#"ln -s "$W/bin/kmsfs" "$sbin/kmsfs""#;
    namespace::script(&world, &[VOLUME, path, BOTH].concat()).ok();
}

#[test]
fn users_mount_what_fstab_lets_them() {
    let Some(world) = namespace::world("users_mount_what_fstab_lets_them", &["mount.fuse3", "fusermount3"])
    else {
        return;
    };
    let script = [
        VOLUME,
        r#"
        ln -s "$W/bin/kmsfs" "$sbin/mount.fuse.kmsfs"
        as 1500 kmsfs --keystore "$W/home/keys" --key-file "$W/home/key" init "$W/home/cipher" >/dev/null
        as 1500 mkdir "$W/home/plain"
        options=noauto,user,keystore=$W/home/keys,key_file=$W/home/key
        echo "$W/home/cipher $W/home/plain fuse.kmsfs $options 0 0" > fstab
        mount --bind fstab /etc/fstab
        as 1500 mount "$W/home/plain"
        as 1500 sh -c 'echo one > "$1/file"; stat -c %u "$1/file"' - "$W/home/plain"
        same "$(findmnt -no VFS-OPTIONS "$W/home/plain" | grep -o 'nosuid,nodev,noexec')" nosuid,nodev,noexec
        as 1500 umount "$W/home/plain"
        as 1500 mount "$W/home/plain"
        same "$(as 1500 cat "$W/home/plain/file")" one
        as 1500 umount "$W/home/plain"
"#,
    ]
    .concat();
    namespace::script(&world, &script).ok();
}
