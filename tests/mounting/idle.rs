//! Unmounting what nobody uses.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{World, wait_until};

/// The timeout that the mounts here have.
const IDLE: Duration = Duration::from_secs(1);
/// Long enough for an idle mount to be gone.
const LONG: Duration = Duration::from_secs(4);

fn mounted(world: &World) -> bool {
    !world.daemons().is_empty()
}

fn is_mount_point(path: &Path) -> bool {
    // Not by the table of mounts: whoever reads that while others mount and unmount may miss a line.
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev());
    device(path).unwrap() != device(path.parent().unwrap()).unwrap()
}

/// Does something again and again for longer than the timeout.
fn for_long(mut something: impl FnMut()) {
    let begin = Instant::now();
    while begin.elapsed() < LONG {
        something();
        std::thread::sleep(IDLE / 10);
    }
}

#[test]
fn an_idle_mount_is_unmounted_and_its_data_is_there() {
    let Some(world) = World::new("an_idle_mount_is_unmounted_and_its_data_is_there") else { return };
    world.run(&["init", "volume"]);
    let mnt = world.mount("volume", &["--idle-timeout", "1s"]);
    std::fs::write(mnt.join("file"), "kept").unwrap();
    world.wait_for_daemons();
    assert!(!is_mount_point(&mnt));
    let mnt = world.mount("volume", &["-o", "idle_timeout=1s,ro"]);
    assert_eq!(std::fs::read(mnt.join("file")).unwrap(), b"kept");
    world.wait_for_daemons();
}

#[test]
fn a_mount_in_use_stays() {
    let Some(world) = World::new("a_mount_in_use_stays") else { return };
    world.run(&["init", "volume"]);
    let mnt = world.mount("volume", &["--idle-timeout", "1s"]);
    // Requests: the kernel has not heard of any of these names.
    let mut names = 0_u32..;
    for_long(|| assert!(!mnt.join(format!("absent {:?}", names.next())).exists()));
    assert!(is_mount_point(&mnt), "unmounted while requests came");
    // A file that is open and otherwise left alone.
    let file = File::create(mnt.join("file")).unwrap();
    std::thread::sleep(LONG);
    assert!(is_mount_point(&mnt), "unmounted while a file was open");
    drop(file);
    // A program's current directory, of which no request tells.
    std::fs::create_dir(mnt.join("dir")).unwrap();
    let mut program =
        Command::new("sleep").arg("60").current_dir(mnt.join("dir")).stdin(Stdio::null()).spawn().unwrap();
    std::thread::sleep(LONG);
    assert!(is_mount_point(&mnt), "unmounted while a program worked in it");
    program.kill().unwrap();
    program.wait().unwrap();
    world.wait_for_daemons();
    assert!(!is_mount_point(&mnt));
}

#[test]
fn looking_from_outside_keeps_nothing_mounted() {
    let Some(world) = World::new("looking_from_outside_keeps_nothing_mounted") else { return };
    world.run(&["init", "volume"]);
    let mnt = world.mount("volume", &["--idle-timeout", "1s"]);
    wait_until("df and a listing of the directory above let it go", || {
        Command::new("df").arg(&mnt).stdout(Stdio::null()).status().unwrap();
        Command::new("ls").arg("-l").arg(world.dir.path()).stdout(Stdio::null()).status().unwrap();
        !mounted(&world)
    });
}

#[test]
fn a_timeout_has_a_unit_and_is_not_zero() {
    let world = World::with_volume();
    for bad in ["90", "0s", "soon"] {
        let ran = world.try_run(&["mount", "volume", "volume.mnt", "--idle-timeout", bad]);
        assert_eq!(ran.code, 2, "{ran:?}");
        let option = format!("idle_timeout={bad}");
        world.try_run(&["mount", "volume", "volume.mnt", "-o", &option]).fails(2, &[&option]);
    }
}
