//! A backing filesystem without room: errors reach the program, nothing synced is lost, and after
//! something was removed everything works again.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use common::World;
use rustix::mount::{MountFlags, UnmountFlags};

#[test]
fn a_full_disk_is_reported_and_survived() {
    let Some(world) = World::new("a_full_disk_is_reported_and_survived") else { return };
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    rustix::mount::mount("none", &disk, "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
    let mount = world.volume("disk/vol");
    let contents: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let save = |name: &str| {
        let mut file = File::create(mount.join(name))?;
        file.write_all(&contents)?;
        file.sync_all()
    };
    save("kept").unwrap();
    let full = (|| {
        let mut file = File::create(mount.join("big"))?;
        for _ in 0..4 {
            file.write_all(&contents)?;
        }
        file.sync_all()
    })();
    assert_eq!(full.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert!(fs::read(mount.join("kept")).unwrap() == contents);
    // Its space is free as soon as the kernel has forgotten it, which it is about to tell.
    fs::remove_file(mount.join("big")).unwrap();
    let begin = Instant::now();
    while save("after").is_err() {
        assert!(begin.elapsed() < Duration::from_secs(2), "the space is not free");
        std::thread::sleep(Duration::from_millis(10));
    }
    world.umount(&mount);
    let mount = world.mount("disk/vol", &[]);
    for name in ["kept", "after"] {
        assert!(fs::read(mount.join(name)).unwrap() == contents, "{name}");
    }
    world.umount(&mount);
    world.wait_for_daemons();
    rustix::mount::unmount(&disk, UnmountFlags::empty()).unwrap();
}
