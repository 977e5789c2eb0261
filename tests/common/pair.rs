//! The same done twice, on a mount and in a plain directory of the backing filesystem: what a
//! program can observe must not differ.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::World;

/// A mounted volume and a directory beside it on the backing filesystem.
pub(crate) struct Pair {
    pub(crate) mount: PathBuf,
    pub(crate) plain: PathBuf,
    options: String,
    rounds: Cell<usize>,
    // Unmounts when it is dropped.
    pub(crate) world: World,
}

impl Pair {
    /// A pair with the volume `vol` mounted with `options`. `None`, said on standard error, where
    /// that is not possible.
    pub(crate) fn new(test: &str, options: &str) -> Option<Self> {
        let world = World::new(test)?;
        // Other users reach both directories.
        fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let plain = world.path("plain");
        fs::create_dir(&plain).unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o755)).unwrap();
        world.run(&["init", "vol"]);
        if options.contains("allow_other") {
            // Each of them is decided on, and modes and ACLs are what may differ.
            world.let_everybody_use("alias/default");
        }
        let mount = mount(&world, options);
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { mount, plain, options: options.to_owned(), rounds: Cell::new(0), world })
    }

    /// Does `f` in an empty directory of the plain filesystem and in one of the mount, each open to
    /// everybody. It must answer the same.
    #[track_caller]
    pub(crate) fn alike<T: Debug + PartialEq>(&self, what: &str, f: impl Fn(&Path) -> T) {
        let _ = self.answer_alike(what, f);
    }

    /// As [`Pair::alike`]; tells what was answered.
    #[track_caller]
    pub(crate) fn answer_alike<T: Debug + PartialEq>(&self, what: &str, f: impl Fn(&Path) -> T) -> T {
        let [plain, ours] = self.fresh();
        let expected = f(&plain);
        let found = f(&ours);
        assert_eq!(found, expected, "{what}: the mount (left) differs from the plain directory (right)");
        found
    }

    /// Two empty directories that are open to everybody: a plain one, and one on the mount.
    pub(crate) fn fresh(&self) -> [PathBuf; 2] {
        let round = self.rounds.get();
        self.rounds.set(round + 1);
        [&self.plain, &self.mount].map(|root| {
            let dir = root.join(format!("round-{round}"));
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
            dir
        })
    }

    /// Unmounts and mounts again, so that nothing comes from a cache.
    #[track_caller]
    pub(crate) fn remount(&self) {
        self.world.umount(&self.mount);
        mount(&self.world, &self.options);
    }

    /// The backing file or directory of something on the mount.
    #[track_caller]
    pub(crate) fn backing(&self, path: &Path) -> PathBuf {
        backing_of(&self.world.path("vol"), path)
    }
}

fn mount(world: &World, options: &str) -> PathBuf {
    let options: &[&str] = if options.is_empty() { &[] } else { &["-o", options] };
    world.mount("vol", options)
}

/// The backing entry of something on a mount of `volume`: they share the inode number.
#[track_caller]
pub(crate) fn backing_of(volume: &Path, path: &Path) -> PathBuf {
    let ino = path.symlink_metadata().unwrap().ino();
    find(volume, ino).unwrap()
}

fn find(dir: &Path, ino: u64) -> Option<PathBuf> {
    fs::read_dir(dir).unwrap().map(Result::unwrap).find_map(|entry| {
        let metadata = entry.metadata().unwrap();
        match metadata.ino() == ino {
            true => Some(entry.path()),
            false => metadata.is_dir().then(|| find(&entry.path(), ino)).flatten(),
        }
    })
}

/// What stat(2) says that must not depend on where a file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) nlink: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of directories, zero.
    pub(crate) size: u64,
    pub(crate) rdev: u64,
}

impl From<fs::Metadata> for Seen {
    fn from(of: fs::Metadata) -> Self {
        Self {
            mode: of.mode(),
            nlink: of.nlink(),
            uid: of.uid(),
            gid: of.gid(),
            size: if of.is_dir() { 0 } else { of.size() },
            rdev: of.rdev(),
        }
    }
}

/// What lstat(2) says.
pub(crate) fn seen(path: impl AsRef<Path>) -> Result<Seen, i32> {
    errno(path.as_ref().symlink_metadata().map(Seen::from))
}

/// A result that can be compared: what it was, or the error's number.
pub(crate) fn errno<T, E: Into<io::Error>>(result: Result<T, E>) -> Result<T, i32> {
    result.map_err(|e| e.into().raw_os_error().unwrap_or(-1))
}

/// The same, where only success matters.
pub(crate) fn outcome<T, E: Into<io::Error>>(result: Result<T, E>) -> Result<(), i32> {
    errno(result).map(drop)
}

/// Bytes that are not zero and differ from place to place and from seed to seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}
