//! Device nodes, FIFOs and sockets.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use common::pair::{Pair, errno, outcome, seen};
use common::user::ADA;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

fn mknod(path: &Path, kind: FileType, dev: u64) -> Result<(), i32> {
    outcome(mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), dev))
}

#[test]
fn device_nodes_reach_their_devices_where_the_mount_allows_it() {
    let Some(pair) = Pair::new("device_nodes_reach_their_devices", "dev,allow_other") else { return };
    pair.alike("devices", |dir| {
        let (null, zero) = (dir.join("null"), dir.join("zero"));
        mknod(&null, FileType::CharacterDevice, makedev(1, 3)).unwrap();
        mknod(&zero, FileType::CharacterDevice, makedev(1, 5)).unwrap();
        File::options().write(true).open(&null).unwrap().write_all(b"gone").unwrap();
        let mut found = [1; 5000];
        File::open(&zero).unwrap().read_exact(&mut found).unwrap();
        // A device that is not there.
        let made = mknod(&dir.join("none"), FileType::CharacterDevice, makedev(4095, 1_048_575));
        (
            fs::read(&null).unwrap(),
            found,
            made,
            outcome(File::open(dir.join("none"))),
            seen(&null),
            seen(&zero),
            seen(dir.join("none")),
        )
    });
    pair.alike("who may make nodes", |dir| {
        ADA.run(|| {
            let device = |kind| mknod(&dir.join("device"), kind, makedev(1, 3));
            (
                device(FileType::CharacterDevice),
                device(FileType::BlockDevice),
                mknod(&dir.join("fifo"), FileType::Fifo, 0),
            )
        })
    });
    let path = pair.mount.join("round-0/zero");
    let before = seen(&path);
    pair.remount();
    assert_eq!(seen(&path), before);
    assert!(path.metadata().unwrap().file_type().is_char_device());
}

#[test]
fn device_nodes_are_closed_by_default() {
    let Some(pair) = Pair::new("device_nodes_are_closed_by_default", "") else { return };
    let path = pair.mount.join("null");
    mknod(&path, FileType::CharacterDevice, makedev(1, 3)).unwrap();
    assert_eq!(outcome(File::open(&path)), Err(libc::EACCES));
}

#[test]
fn fifos_connect_and_wait() {
    let Some(pair) = Pair::new("fifos_connect_and_wait", "") else { return };
    pair.alike("FIFOs", |dir| {
        let path = dir.join("fifo");
        mknod(&path, FileType::Fifo, 0).unwrap();
        let nobody_reads = outcome(File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path));
        let received = std::thread::scope(|scope| {
            let reader = scope.spawn(|| fs::read(&path).unwrap());
            let mut writer = File::options().write(true).open(&path).unwrap();
            writer.write_all(b"through the FIFO").unwrap();
            drop(writer);
            reader.join().unwrap()
        });
        (nobody_reads, received, seen(&path))
    });
}

#[test]
fn sockets_are_bound_connected_and_removed() {
    let Some(pair) = Pair::new("sockets_are_bound_connected_and_removed", "") else { return };
    pair.alike("sockets", |dir| {
        // Names of sockets are short: 107 bytes.
        let path = dir.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let said = std::thread::scope(|scope| {
            let answer = scope.spawn(|| {
                let mut said = String::new();
                listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
                said
            });
            UnixStream::connect(&path).unwrap().write_all(b"hello").unwrap();
            answer.join().unwrap()
        });
        let datagrams = UnixDatagram::bind(dir.join("d")).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"datagram", dir.join("d")).unwrap();
        let mut received = [0; 8];
        datagrams.recv(&mut received).unwrap();
        let (taken, kind) = (outcome(UnixListener::bind(&path)), seen(&path));
        let opened = outcome(File::open(&path));
        drop(listener);
        // A program that another test is just starting may hold the listener for a moment.
        common::wait_until("nobody listens", || UnixStream::connect(&path).is_err());
        let nobody = outcome(UnixStream::connect(&path));
        fs::remove_file(&path).unwrap();
        (said, received, taken, kind, opened, nobody, errno(fs::read_dir(dir).map(Iterator::count)))
    });
}
