//! Mounts whose key store another process has open, or another user owns.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Instant;

use crate::common::pair::outcome;
use crate::common::user::{ADA, BOB};
use crate::{REFUSED, Shared, namespace, reads};

#[test]
fn through_a_socket_users_are_decided_on_alike_and_nothing_hangs_without_it() {
    let Some(shared) = Shared::new("through_a_socket_users_are_decided_on_alike") else { return };
    let world = &shared.world;
    world.run(&["init", "second"]);
    // The first mount has the key store open; the second asks it.
    let second = world.mount("second", &["-o", "allow_other"]);
    fs::set_permissions(&second, PermissionsExt::from_mode(0o777)).unwrap();
    let grant = shared.grant(ADA, "Decrypt,GenerateDataKey");
    let (held, closed) = (second.join("held"), second.join("closed"));
    for file in [&held, &closed] {
        ADA.run(|| fs::write(file, "contents")).unwrap();
        fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!((reads(ADA, file), reads(BOB, file)), (Ok(()), REFUSED));
    }
    shared.revoke(&grant);
    assert_eq!(reads(ADA, &held), REFUSED);
    let grant = shared.grant(ADA, "Decrypt");
    let open = ADA.run(|| File::open(&held)).unwrap();
    world.kill(&shared.mount);
    let begin = Instant::now();
    let mut found = [0; 8];
    open.read_exact_at(&mut found, 0).unwrap();
    // What is in the cache and open already is no way in either.
    for file in [&held, &closed] {
        assert_eq!(ADA.run(|| outcome(File::open(file))), Err(libc::ENOKEY));
    }
    fs::rename(&closed, second.join("moved")).unwrap();
    assert!(begin.elapsed().as_secs() < 10, "something hung");
    world.mount("vol", &["-o", "allow_other"]);
    crate::common::wait_until("the key service is back", || reads(ADA, &held).is_ok());
    shared.revoke(&grant);
    assert_eq!(reads(ADA, &held), REFUSED);
}

#[test]
fn another_user_mounts_a_volume_by_one_grant_a_key_and_loses_it_by_revoking() {
    const TEST: &str = "another_user_mounts_a_volume_by_one_grant_a_key";
    let Some(world) = namespace::world(TEST, &["fusermount3"]) else { return };
    let script = r#"
        mkdir bob && chown 1501:1501 bob
        as_bob() { as 1501 env XDG_STATE_HOME="$W/bob" "$@"; }
        mkdir store && chmod 711 store
        export KMSFS_KEYSTORE="$W/store"
        kmsfs --key-file key-file init vol
        # fusermount3 wants a name for him; the key service knows him by number.
        echo "bob:x:1501:1501::/:/bin/sh" >> "$W/passwd"
        unshare --mount sh -c 'umount /etc/passwd; exec kmsfs --key-file key-file serve' &
        until_true kmsfs key list
        mkdir first && kmsfs mount vol first
        field() { kmsfs --json file info first | sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
        volume_key=$(field volume_key) default_key=$(field default_key)
        kmsfs umount first
        chown -R 1501:1501 vol && mkdir -m 755 mnt && chown 1501:1501 mnt
        cd "$W"
        if as_bob kmsfs mount vol mnt; then exit 98; fi

        grant() { kmsfs --json grant create "$@" | sed -n 's/.*"GrantId": *"\([^"]*\)".*/\1/p'; }
        own=$(grant "$volume_key" --grantee 1501 --operations Decrypt)
        files=$(grant "$default_key" --grantee 1501 --operations Decrypt,GenerateDataKey)
        as_bob kmsfs mount vol mnt
        as_bob sh -c 'echo one > mnt/file; mkdir mnt/dir; echo two > mnt/dir/file'
        same "$(as_bob cat mnt/file mnt/dir/file | tr '\n' ' ')" "one two "
        as_bob kmsfs umount mnt
        as_bob kmsfs mount vol mnt
        same "$(as_bob cat mnt/file)" one
        same "$(ls bob/kmsfs/log | wc -l)" 1

        kmsfs grant revoke "$default_key" "$files"
        as_bob kmsfs umount mnt
        as_bob kmsfs mount vol mnt
        same "$(as_bob ls mnt | tr '\n' ' ')" "dir file "
        refused 1 'Permission denied' as_bob cat mnt/file
        refused 2 'Permission denied' as_bob sh -c 'echo three > mnt/new'
        as_bob kmsfs umount mnt
        kmsfs grant revoke "$volume_key" "$own"
        if as_bob kmsfs mount vol mnt; then exit 98; fi
    "#;
    namespace::script(&world, script).ok();
}
