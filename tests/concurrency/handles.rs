//! Opening and closing a file while the settler has it.

use std::sync::Arc;
use std::time::Duration;

use kmsfs::fs::{Fs, Watcher};
use kmsfs::kms::KeyWatcher;
use kmsfs::provider::Provider;
use kmsfs::sync::{advance, thread};

use crate::explore::explore;
use crate::master::Master;
use crate::volume::{Unmounted, file, open_and_read, read, write};

/// Longer than a file rests before it is settled.
const LONG: Duration = Duration::from_secs(10);

fn mount(volume: &Unmounted) -> Arc<Fs> {
    volume.mount(&(Arc::new(Master::new()) as Arc<dyn Provider>))
}

/// The volume is as it should be when everyone has gone: nobody counts as having the file open,
/// and the next mount finds it settled, with these contents.
fn assert_left_behind(volume: &Unmounted, fs: Arc<Fs>, expected: u8) {
    assert!(Watcher(Arc::clone(&fs)).describe().open_files.is_empty(), "a handle was counted twice");
    fs.shut_down().unwrap();
    drop(fs);
    let fs = mount(volume);
    assert!(fs.volume().began_settled(), "the file was not settled");
    assert_eq!(open_and_read(&fs, file(&fs)), Ok(expected));
    fs.shut_down().unwrap();
}

/// Writes a byte through a handle of its own.
fn write_once(fs: &Fs, ino: u64, byte: u8) {
    let fh = fs.open(ino, true).unwrap();
    write(fs, fh, byte, false).unwrap();
    fs.release(fh);
}

#[test]
fn the_last_close_a_new_open_and_the_settler_get_on() {
    let volume = Unmounted::new();
    explore(500, move || {
        let fs = mount(&volume);
        let ino = file(&fs);
        write_once(&fs, ino, 1);
        let spawn = |work: fn(&Fs, u64)| {
            let fs = Arc::clone(&fs);
            thread::spawn(move || work(&fs, ino))
        };
        let settler = spawn(|fs, _| fs.run_settler());
        let writer = spawn(|fs, ino| {
            write_once(fs, ino, 2);
            write_once(fs, ino, 3);
        });
        let reader = spawn(|fs, ino| assert!((1..=3).contains(&open_and_read(fs, ino).unwrap())));
        advance(LONG);
        writer.join().unwrap();
        reader.join().unwrap();
        fs.stop_settler();
        settler.join().unwrap();
        assert_left_behind(&volume, fs, 3);
    });
}

#[test]
fn two_settlers_and_a_writer_lose_nothing() {
    let volume = Unmounted::new();
    explore(500, move || {
        let fs = mount(&volume);
        let ino = file(&fs);
        write_once(&fs, ino, 1);
        let spawn = |work: fn(&Fs, u64)| {
            let fs = Arc::clone(&fs);
            thread::spawn(move || work(&fs, ino))
        };
        let first = spawn(|fs, _| fs.settle_closed());
        let second = spawn(|fs, ino| {
            fs.release(fs.open(ino, true).unwrap());
            fs.settle_closed();
        });
        let writer = spawn(|fs, ino| write_once(fs, ino, 2));
        [first, second, writer].into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(open_and_read(&fs, ino), Ok(2));
        assert_left_behind(&volume, fs, 2);
    });
}

#[test]
fn whoever_opens_at_once_shares_one_file() {
    let volume = Unmounted::new();
    explore(500, move || {
        let fs = mount(&volume);
        let ino = file(&fs);
        let openers = [true, true, false].map(|writes| {
            let fs = Arc::clone(&fs);
            thread::spawn(move || fs.open(ino, writes).unwrap())
        });
        let [first, second, third] = openers.map(|opener| opener.join().unwrap());
        write(&fs, first, 4, false).unwrap();
        assert_eq!([read(&fs, second), read(&fs, third)], [Ok(4), Ok(4)]);
        fs.release(first);
        write(&fs, second, 5, false).unwrap();
        fs.release(second);
        assert_eq!(read(&fs, third), Ok(5));
        assert_eq!(Watcher(Arc::clone(&fs)).describe().open_files.values().sum::<u64>(), 1);
        fs.release(third);
        assert_left_behind(&volume, fs, 5);
    });
}
