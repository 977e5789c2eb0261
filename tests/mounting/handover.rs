//! A mount that follows right after an unmount, as a service manager's restart does.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::World;

#[test]
fn a_mount_right_after_umount_waits_for_the_process_that_ends() {
    let Some(world) = World::new("a_mount_right_after_umount_waits_for_the_process_that_ends") else {
        return;
    };
    let mut mnt = world.volume("volume");
    for round in 0..5 {
        // Much to settle: the process is still at it when umount(8) has returned.
        for n in 0..100 {
            std::fs::write(mnt.join(format!("{round}-{n}")), vec![n; 20_000]).unwrap();
        }
        assert!(Command::new("umount").arg(&mnt).status().unwrap().success());
        mnt = world.mount("volume", if round % 2 == 0 { &[] } else { &["-o", "ro"] });
        assert_eq!(std::fs::read(mnt.join(format!("{round}-99"))).unwrap(), vec![99; 20_000]);
        if round % 2 == 1 {
            assert!(Command::new("umount").arg(&mnt).status().unwrap().success());
            mnt = world.mount("volume", &[]);
        }
    }
    world.umount(&mnt);
}

#[test]
fn a_volume_that_stays_mounted_is_refused_at_once() {
    let Some(world) = World::new("a_volume_that_stays_mounted_is_refused_at_once") else { return };
    world.volume("volume");
    std::fs::create_dir(world.path("other")).unwrap();
    let begin = Instant::now();
    world.try_run(&["mount", "volume", "other"]).fails(12, &["mounted already by process"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "waited for a mount that stays");
}
