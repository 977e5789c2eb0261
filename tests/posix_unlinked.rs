//! Files that are open and have no name left, and directories alike.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use common::pair::{Pair, errno, outcome, pattern};
use common::sys::Mapping;
use rustix::fs::{FallocateFlags, Mode, OFlags, XattrFlags, openat};

#[test]
fn an_unlinked_file_goes_on_for_those_who_have_it_open() {
    let Some(pair) = Pair::new("an_unlinked_file_goes_on_for_those_who_have_it_open", "") else { return };
    pair.alike("an unlinked file", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, 20_000)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let look = |file: &File| {
            let metadata = file.metadata().unwrap();
            let mut bytes = vec![0; metadata.len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            (metadata.nlink(), metadata.mode(), bytes)
        };
        let mut said = vec![look(&reader)];
        file.write_all_at(b"over the end", 19_995).unwrap();
        said.push(look(&reader));
        file.set_len(4070).unwrap();
        said.push(look(&reader));
        file.set_len(9000).unwrap();
        said.push(look(&reader));
        let mapping = Mapping::shared(&file, 9000).unwrap();
        mapping.write(5000, b"mapped");
        mapping.sync().unwrap();
        said.push(look(&reader));
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 5000)
            .unwrap();
        said.push(look(&reader));
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o604)).unwrap();
        rustix::fs::fsetxattr(&file, "user.a", b"value", XattrFlags::empty()).unwrap();
        let mut value = [0; 16];
        let len = rustix::fs::fgetxattr(&file, "user.a", &mut value).unwrap();
        assert_eq!(&value[..len], b"value");
        file.sync_all().unwrap();
        said.push(look(&file));
        // Its name is free.
        fs::write(&path, "new").unwrap();
        (said, look(&file), fs::read(&path).unwrap())
    });
}

#[test]
fn an_unlinked_file_outlives_its_directory() {
    let Some(pair) = Pair::new("an_unlinked_file_outlives_its_directory", "") else { return };
    pair.alike("a file whose directory is gone", |dir| {
        let (sub, name) = (dir.join("sub"), "n".repeat(240));
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("short"), pattern(1, 5000)).unwrap();
        fs::write(sub.join(&name), pattern(2, 5000)).unwrap();
        let open = |name| File::options().read(true).write(true).open(sub.join(name)).unwrap();
        let files = [open("short"), open(&name)];
        fs::remove_dir_all(&sub).unwrap();
        fs::create_dir(&sub).unwrap();
        files.map(|file| {
            file.write_all_at(b"later", 4998).unwrap();
            file.sync_all().unwrap();
            let mut bytes = vec![0; 5003];
            file.read_exact_at(&mut bytes, 0).unwrap();
            (bytes, file.metadata().unwrap().nlink())
        })
    });
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_stays_so() {
    let Some(pair) = Pair::new("a_removed_directory_that_is_open_is_empty", "") else { return };
    pair.alike("a removed directory", |dir| {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        let held = File::open(&sub).unwrap();
        fs::remove_dir(&sub).unwrap();
        let create = |name| openat(&held, name, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        let mode = Mode::RWXU;
        let mut entries = Vec::new();
        let listed = rustix::fs::Dir::read_from(&held).map(|dir| {
            entries.extend(dir.filter_map(Result::ok).map(|entry| entry.file_name().to_owned()));
        });
        (
            outcome(create("new")),
            outcome(rustix::fs::mkdirat(&held, "new", mode)),
            outcome(rustix::fs::symlinkat("target", &held, "new")),
            outcome(openat(&held, "..", OFlags::RDONLY, mode)),
            errno(listed),
            entries,
            held.metadata().unwrap().mode(),
            held.metadata().unwrap().nlink(),
        )
    });
}

#[test]
fn the_last_close_of_an_unlinked_file_gives_its_space_back() {
    let Some(pair) = Pair::new("the_last_close_of_an_unlinked_file", "") else { return };
    let path = pair.mount.join("big");
    fs::write(&path, pattern(1, 3_000_000)).unwrap();
    let file = File::open(&path).unwrap();
    file.sync_all().unwrap();
    let backing = File::open(pair.backing(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(backing.metadata().unwrap().nlink(), 0);
    let held = |ino: u64| {
        let pid = pair.world.process(&pair.mount).as_raw_nonzero();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
        open.filter(|fd| fs::metadata(fd.path()).is_ok_and(|of| of.ino() == ino)).count()
    };
    let ino = backing.metadata().unwrap().ino();
    assert!(held(ino) > 0);
    drop(file);
    common::wait_until("nothing holds the file", || held(ino) == 0);
}
