//! Extended attributes of every namespace: what programs see, and what the backing files show.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::pair::{Pair, errno, outcome, pattern};
use common::user::{ADA, BOB};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::fs::{lgetxattr, llistxattr, lremovexattr, lsetxattr};

fn set(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> Result<(), i32> {
    outcome(lsetxattr(path, name, value, flags))
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, i32> {
    let mut value = vec![0; 70_000];
    let len = errno(lgetxattr(path, name, &mut value))?;
    value.truncate(len);
    Ok(value)
}

/// The names of all attributes, sorted.
fn list(path: &Path) -> Vec<Vec<u8>> {
    let mut names = vec![0; 70_000];
    let len = llistxattr(path, &mut names).unwrap();
    let mut names: Vec<_> =
        names[..len].split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}

/// A file, a directory and others in `dir`.
fn one_of_each(dir: &Path) -> [std::path::PathBuf; 5] {
    fs::write(dir.join("file"), "contents").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::RWXU, 0).unwrap();
    ["file", "dir", "link", "fifo", "socket"].map(|name| dir.join(name))
}

#[test]
fn attributes_are_made_replaced_listed_and_removed() {
    let Some(pair) = Pair::new("attributes_are_made_replaced_listed_and_removed", "") else { return };
    pair.alike("extended attributes", |dir| {
        let mut said = Vec::new();
        for path in one_of_each(dir) {
            for name in ["user.a", "user.ü", "trusted.a", "security.a"] {
                let mut results = vec![
                    set(&path, name, b"x", XattrFlags::REPLACE),
                    set(&path, name, b"first", XattrFlags::CREATE),
                    set(&path, name, b"x", XattrFlags::CREATE),
                    set(&path, name, b"", XattrFlags::REPLACE),
                ];
                let empty = get(&path, name);
                results.push(set(&path, name, &pattern(1, 1500), XattrFlags::empty()));
                said.push((name, results, empty, get(&path, name), list(&path)));
            }
            for name in ["user.a", "trusted.a", "security.a", "user.absent"] {
                let removed = outcome(lremovexattr(&path, name));
                said.push((name, vec![removed], get(&path, name), Ok(Vec::new()), list(&path)));
            }
        }
        said
    });
    let before: Vec<_> = ["file", "dir"].map(|name| list(&pair.mount.join("round-0").join(name))).into();
    assert_eq!(before[0], ["user.ü".as_bytes()]);
    pair.remount();
    let after: Vec<_> = ["file", "dir"].map(|name| list(&pair.mount.join("round-0").join(name))).into();
    assert_eq!(before, after);
    assert_eq!(get(&pair.mount.join("round-0/file"), "user.ü"), Ok(pattern(1, 1500)));
}

#[test]
fn names_and_buffers_have_the_sizes_of_everywhere() {
    let Some(pair) = Pair::new("names_and_buffers_have_the_sizes_of_everywhere", "") else { return };
    pair.alike("sizes", |dir| {
        let path = dir.join("file");
        fs::write(&path, "").unwrap();
        let longest = format!("user.{}", "n".repeat(250));
        let mut small = [0; 4];
        let query = |name: &str| errno(rustix::fs::getxattr_query(&path, name));
        let said = vec![
            set(&path, &longest, b"value", XattrFlags::empty()),
            set(&path, &format!("{longest}n"), b"value", XattrFlags::empty()),
            set(&path, "user.", b"value", XattrFlags::empty()),
            set(&path, "nowhere.a", b"value", XattrFlags::empty()),
            set(&path, "plain", b"value", XattrFlags::empty()),
            set(&path, "user.big", &vec![1; 65_537], XattrFlags::empty()),
            outcome(lgetxattr(&path, longest.as_str(), &mut small)),
            outcome(llistxattr(&path, &mut small)),
        ];
        (
            said,
            query(&longest),
            query("user.absent"),
            errno(rustix::fs::listxattr_query(&path)),
            get(&path, &longest),
        )
    });
}

#[test]
fn every_attribute_that_fits_is_kept_and_a_larger_one_is_refused() {
    let Some(pair) = Pair::new("every_attribute_that_fits_is_kept", "") else { return };
    let path = pair.mount.join("file");
    fs::write(&path, "").unwrap();
    let mut kept = Vec::new();
    for len in [0, 1, 100, 1000, 3000, 4000, 5000, 30_000, 65_536] {
        let value = pattern(len as u64, len);
        match set(&path, "user.value", &value, XattrFlags::empty()) {
            Ok(()) => kept = value,
            Err(error) => {
                assert!([libc::ENOSPC, libc::E2BIG, libc::ERANGE].contains(&error), "{len}: {error}");
            }
        }
        assert!(get(&path, "user.value").unwrap() == kept, "after {len}");
    }
    assert!(kept.len() >= 3000);
}

#[test]
fn user_names_and_values_do_not_show_in_the_backing_files() {
    let Some(pair) = Pair::new("user_names_and_values_do_not_show", "") else { return };
    let secret = b"a value nobody else may read";
    for path in one_of_each(&pair.mount).iter().take(2) {
        set(path, "user.telling.name", secret, XattrFlags::empty()).unwrap();
        set(path, "trusted.open", b"passed through", XattrFlags::empty()).unwrap();
        let backing = pair.backing(path);
        let mut all = Vec::new();
        for name in list(&backing) {
            all.extend_from_slice(&name);
            all.extend(get(&backing, std::str::from_utf8(&name).unwrap()).unwrap());
        }
        let shows = |what: &[u8]| all.windows(what.len()).any(|part| part == what);
        assert!(!shows(b"telling") && !shows(&secret[..8]));
        assert!(shows(b"trusted.open") && shows(b"passed through"));
    }
}

#[test]
fn a_sealed_attribute_opens_on_its_own_file_alone() {
    let Some(pair) = Pair::new("a_sealed_attribute_opens_on_its_own_file_alone", "") else { return };
    let [a, b] = ["a", "b"].map(|name| pair.mount.join(name));
    for (path, value) in [(&a, b"Ada's"), (&b, b"Bob's")] {
        fs::write(path, "contents").unwrap();
        set(path, "user.owner", value, XattrFlags::empty()).unwrap();
    }
    let [from, to] = [&a, &b].map(|path| pair.backing(path));
    for name in list(&from) {
        let name = std::str::from_utf8(&name).unwrap();
        set(&to, name, &get(&from, name).unwrap(), XattrFlags::REPLACE).unwrap();
    }
    pair.remount();
    assert_eq!((get(&a, "user.owner"), get(&b, "user.owner")), (Ok(b"Ada's".to_vec()), Err(libc::EIO)));
}

#[test]
fn permissions_on_attributes_are_the_kernels() {
    let Some(pair) = Pair::new("permissions_on_attributes_are_the_kernels", "allow_other") else { return };
    pair.alike("attributes and users", |dir| {
        let paths = one_of_each(dir);
        fs::create_dir(dir.join("sticky")).unwrap();
        fs::set_permissions(dir.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
        for (path, mode) in [(&paths[0], 0o644), (&paths[1], 0o755)] {
            std::os::unix::fs::chown(path, Some(ADA.uid), Some(ADA.gid)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            set(path, "trusted.a", b"x", XattrFlags::empty()).unwrap();
        }
        let mut said = Vec::new();
        for path in [&paths[0], &paths[1], &dir.join("sticky"), &paths[2], &paths[3]] {
            for user in [ADA, BOB] {
                said.push(user.run(|| {
                    let try_set = |name| set(path, name, b"x", XattrFlags::empty());
                    let results = [try_set("user.a"), try_set("trusted.a"), try_set("security.a")];
                    (results, get(path, "user.a"), get(path, "trusted.a"), list(path))
                }));
            }
        }
        said
    });
}

#[test]
fn file_capabilities_end_with_the_first_write_or_truncation() {
    let Some(pair) = Pair::new("file_capabilities_end_with_the_first_write", "allow_other,suid") else {
        return;
    };
    // cap_net_bind_service, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let ways: [fn(&File); 4] = [
        |mut file| file.write_all(b"x").unwrap(),
        |file| file.set_len(3).unwrap(),
        |file| common::sys::fallocate(file, 0, 0, 9000).unwrap(),
        |file| std::os::unix::fs::fchown(file, Some(ADA.uid), Some(BOB.gid)).unwrap_or(()),
    ];
    pair.alike("security.capability", |dir| {
        let mut said = Vec::new();
        for user in [ADA, common::user::ROOT] {
            for (i, way) in ways.into_iter().enumerate() {
                let path = dir.join(format!("{}-{i}", user.uid));
                fs::write(&path, "contents").unwrap();
                std::os::unix::fs::chown(&path, Some(ADA.uid), Some(ADA.gid)).unwrap();
                set(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
                assert_eq!(get(&path, "security.capability"), Ok(capability.to_vec()));
                user.run(|| way(&File::options().write(true).open(&path).unwrap()));
                File::open(&path).unwrap().sync_all().unwrap();
                said.push((user.uid, i, get(&path, "security.capability")));
            }
        }
        said
    });
}

#[test]
fn the_filesystems_own_names_are_hidden_and_reserved() {
    let Some(pair) = Pair::new("the_filesystems_own_names_are_hidden_and_reserved", "") else { return };
    let paths = one_of_each(&pair.mount);
    for path in &paths[..2] {
        let info: serde_json::Value = serde_json::from_slice(&get(path, "user.kmsfs.info").unwrap()).unwrap();
        assert!(info["volume_id"].is_string());
        assert_eq!(list(path), Vec::<Vec<u8>>::new());
        for name in ["user.kmsfs.info", "user.kmsfs.dir", "user.kmsfs.anything"] {
            assert_eq!(set(path, name, b"x", XattrFlags::empty()), Err(libc::EPERM), "{name}");
            assert_eq!(outcome(lremovexattr(path, name)), Err(libc::EPERM), "{name}");
        }
    }
    assert_eq!(set(&paths[0], "user.kmsfs.key", b"alias/default", XattrFlags::empty()), Err(libc::EPERM));
}
