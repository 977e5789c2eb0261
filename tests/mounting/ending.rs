//! The end of a mount by signals and by umount(8): what was written is there, and the volume counts
//! as properly unmounted.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{World, wait_until};
use crate::namespace;

/// How long a mount that nothing uses may take to end.
const SOON: Duration = Duration::from_secs(5);
/// How long programs may hold up a mount that was asked to end, with time for the rest.
const GRACE: Duration = Duration::from_secs(18);

/// A mount in the foreground.
struct Foreground {
    child: Child,
    mnt: PathBuf,
    log: PathBuf,
}

impl Foreground {
    fn new(world: &World) -> Self {
        Self::with(world, "rw")
    }

    fn with(world: &World, options: &str) -> Self {
        let (mnt, log) = (world.path("volume.mnt"), world.path("log"));
        let mut command =
            world.command(&["-v", "mount", "-f", "volume", mnt.to_str().unwrap(), "-o", options]);
        command.stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        wait_until("it is mounted", || said(&log, "is mounted at"));
        Self { child, mnt, log }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which must be a proper one and come in time.
    #[track_caller]
    fn ends_well(mut self, within: Duration) {
        let begin = Instant::now();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status:?}\n{}", std::fs::read_to_string(&self.log).unwrap());
        assert!(begin.elapsed() < within, "took {:?}", begin.elapsed());
    }
}

fn said(log: &Path, text: &str) -> bool {
    std::fs::read_to_string(log).unwrap().contains(text)
}

/// Mounts again and looks at what is there. Only after a crash a mount says that it recovers.
#[track_caller]
fn opens_as_clean(world: &World, look: impl FnOnce(&Path)) {
    let mount = Foreground::new(world);
    look(&mount.mnt);
    let (mnt, log) = (mount.mnt.clone(), mount.log.clone());
    world.umount(&mnt);
    mount.ends_well(SOON);
    assert!(!said(&log, "recovery"), "opened as interrupted: {}", std::fs::read_to_string(&log).unwrap());
}

#[test]
fn what_was_written_just_before_a_signal_is_there() {
    let Some(world) = World::new("what_was_written_just_before_a_signal_is_there") else { return };
    world.run(&["init", "volume"]);
    for (signal, name) in [(Signal::TERM, "term"), (Signal::INT, "int"), (Signal::HUP, "hup")] {
        let mount = Foreground::new(&world);
        std::fs::write(mount.mnt.join(name), vec![7; 3 << 20]).unwrap();
        mount.send(signal);
        mount.ends_well(SOON);
        opens_as_clean(&world, |mnt| assert_eq!(std::fs::read(mnt.join(name)).unwrap(), vec![7; 3 << 20]));
    }
}

#[test]
fn a_program_that_closes_its_files_in_time_loses_nothing() {
    let Some(world) = World::new("a_program_that_closes_its_files_in_time_loses_nothing") else { return };
    world.run(&["init", "volume"]);
    let mount = Foreground::new(&world);
    let mut file = File::create(mount.mnt.join("file")).unwrap();
    file.write_all(b"before, ").unwrap();
    mount.send(Signal::TERM);
    std::thread::sleep(Duration::from_secs(1));
    file.write_all(b"after").unwrap();
    drop(file);
    mount.ends_well(SOON);
    opens_as_clean(&world, |mnt| assert_eq!(std::fs::read(mnt.join("file")).unwrap(), b"before, after"));
}

#[test]
fn a_program_that_goes_on_writing_is_cut_off_and_keeps_what_it_wrote_before() {
    const TEST: &str = "a_program_that_goes_on_writing_is_cut_off_and_keeps_what_it_wrote_before";
    let Some(world) = World::new(TEST) else { return };
    world.run(&["init", "volume"]);
    for (signals, within, options) in [(1, GRACE, "rw"), (2, SOON, "rw"), (2, SOON, "writeback")] {
        let mount = Foreground::with(&world, options);
        // Numbered lines into one open file, and new files beside it; the last line that surely was
        // written before the signal is passed on.
        let script = "cd \"$1\"; n=0; exec 5> lines; while :; do n=$((n+1)); echo $n >&5 || exit; \
                      echo $n > file.$((n % 50)) || exit; echo $n > \"$2\"; done";
        let told = world.path("told");
        let _ = std::fs::remove_file(&told);
        let mut writer = Command::new("sh");
        let writer = writer.args(["-c", script, "-"]).arg(&mount.mnt).arg(&told).stderr(Stdio::null());
        let mut writer = writer.spawn().unwrap();
        let last = || std::fs::read_to_string(&told).ok().and_then(|n| n.trim().parse::<u64>().ok());
        wait_until("the program writes", || last().is_some_and(|n| n > 200));
        let written = std::iter::repeat_with(last).flatten().next().unwrap();
        mount.send(Signal::TERM);
        if signals == 2 {
            std::thread::sleep(Duration::from_millis(300));
            mount.send(Signal::TERM);
        }
        mount.ends_well(within);
        let _ = writer.kill();
        writer.wait().unwrap();
        opens_as_clean(&world, |mnt| {
            let lines = std::fs::read_to_string(mnt.join("lines")).unwrap();
            for n in 1..=written {
                assert_eq!(lines.lines().nth(n as usize - 1), Some(n.to_string().as_str()));
            }
            for entry in std::fs::read_dir(mnt).unwrap() {
                std::fs::read(entry.unwrap().path()).unwrap();
            }
        });
    }
}

#[test]
fn a_hangup_does_not_end_a_mount_in_the_background() {
    let Some(world) = World::new("a_hangup_does_not_end_a_mount_in_the_background") else { return };
    let mnt = world.volume("volume");
    let daemon = i32::try_from(world.daemons()[0]).unwrap();
    let send = |signal| kill_process(Pid::from_raw(daemon).unwrap(), signal).unwrap();
    send(Signal::HUP);
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(mnt.join("file"), "still here").unwrap();
    send(Signal::TERM);
    world.wait_for_daemons();
    opens_as_clean(&world, |mnt| assert_eq!(std::fs::read(mnt.join("file")).unwrap(), b"still here"));
}

#[test]
fn umount_ends_the_process_and_loses_nothing() {
    let Some(world) = World::new("umount_ends_the_process_and_loses_nothing") else { return };
    world.run(&["init", "volume"]);
    let mount = Foreground::new(&world);
    std::fs::write(mount.mnt.join("file"), vec![8; 3 << 20]).unwrap();
    assert!(Command::new("umount").arg(&mount.mnt).status().unwrap().success());
    mount.ends_well(SOON);
    opens_as_clean(&world, |mnt| assert_eq!(std::fs::read(mnt.join("file")).unwrap(), vec![8; 3 << 20]));
}

#[test]
fn a_lazy_umount_ends_the_process_with_its_last_user() {
    let Some(world) = World::new("a_lazy_umount_ends_the_process_with_its_last_user") else { return };
    world.run(&["init", "volume"]);
    let mut mount = Foreground::new(&world);
    let mut file = File::create(mount.mnt.join("file")).unwrap();
    assert!(Command::new("umount").arg("-l").arg(&mount.mnt).status().unwrap().success());
    file.write_all(b"written after").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(mount.child.try_wait().unwrap().is_none(), "ended before its last user");
    drop(file);
    mount.ends_well(SOON);
    opens_as_clean(&world, |mnt| assert_eq!(std::fs::read(mnt.join("file")).unwrap(), b"written after"));
}

/// What the tests above rely on: a mount that was killed is told from one that ended.
#[test]
fn a_killed_mount_is_recovered() {
    let Some(world) = World::new("a_killed_mount_is_recovered") else { return };
    world.run(&["init", "volume"]);
    let mut mount = Foreground::new(&world);
    std::fs::write(mount.mnt.join("file"), "data").unwrap();
    mount.send(Signal::KILL);
    mount.child.wait().unwrap();
    world.umount(&mount.mnt);
    let mount = Foreground::new(&world);
    wait_until("it says that it recovered", || said(&mount.log, "recovery complete"));
    mount.send(Signal::TERM);
    mount.ends_well(SOON);
}

#[test]
fn umount_says_who_else_has_the_mount() {
    let test = "umount_says_who_else_has_the_mount";
    let Some(world) = namespace::world(test, &[]) else { return };
    let said = namespace::script(
        &world,
        r#"
kmsfs --key-file key-file init volume
kmsfs --key-file key-file mount volume volume.mnt
unshare --mount --propagation private sleep 60 &
until_true sh -c "[ \"\$(readlink /proc/$!/ns/mnt)\" != \"\$(readlink /proc/self/ns/mnt)\" ]"
refused 26 "process $! has the same mount" kmsfs umount volume.mnt
kill $!
until_true kmsfs --key-file key-file mount volume volume.mnt
kmsfs umount volume.mnt
"#,
    );
    said.ok();
}
