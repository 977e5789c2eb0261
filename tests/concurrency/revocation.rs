//! Cutting a master key off while its file is in use.

use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use kmsfs::fs::{Fs, KernelCache, Watcher};
use kmsfs::kms::{KeyState, KeyWatcher};
use kmsfs::provider::Provider;
use kmsfs::sync::atomic::{AtomicBool, Ordering};
use kmsfs::sync::thread;

use crate::explore::explore;
use crate::master::Master;
use crate::volume::{Unmounted, file, open_and_read, read, write};

const BUDGET: Duration = Duration::from_secs(10);

/// How far a revocation has come.
#[derive(Default)]
struct Progress {
    /// Programs are refused.
    drained: AtomicBool,
    /// The cut has begun.
    cutting: AtomicBool,
    /// Everyone is refused.
    cut: AtomicBool,
}

struct World {
    fs: Arc<Fs>,
    master: Arc<Master>,
    progress: Progress,
    /// The file's inode, and two handles.
    ino: u64,
    reading: u64,
    writing: u64,
}

impl World {
    fn mount(volume: &Unmounted) -> Arc<Self> {
        let master = Arc::new(Master::new());
        let fs = volume.mount(&(Arc::clone(&master) as Arc<dyn Provider>));
        let ino = file(&fs);
        let (reading, writing) = (fs.open(ino, false).unwrap(), fs.open(ino, true).unwrap());
        write(&fs, writing, 1, false).unwrap();
        Arc::new(Self { fs, master, progress: Progress::default(), ino, reading, writing })
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || work(&world))
    }

    /// As the key service orders it.
    fn revoke(&self) {
        assert!(Watcher(Arc::clone(&self.fs)).drain(&Master::id(), BUDGET, true).unwritten.is_empty());
        self.progress.drained.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// As the key service orders it where the key was not usable, as far as it knew.
    fn cut(&self) {
        let watcher = Watcher(Arc::clone(&self.fs));
        self.master.revoke();
        self.progress.cutting.store(true, Ordering::SeqCst);
        watcher.cut(&Master::id(), Some(KeyState::Disabled));
        self.progress.cut.store(true, Ordering::SeqCst);
    }

    fn restore(&self) {
        self.master.restore();
        Watcher(Arc::clone(&self.fs)).restore(&Master::id());
    }

    fn is_read(&self) -> bool {
        read(&self.fs, self.reading).is_ok()
    }

    fn is_opened(&self) -> bool {
        open_and_read(&self.fs, self.ino).is_ok()
    }

    fn is_written(&self) -> bool {
        write(&self.fs, self.writing, 2, true).is_ok()
    }

    /// Opens the gate while the key service still refuses: whatever can be read now was kept.
    fn assert_nothing_was_kept(&self) {
        Watcher(Arc::clone(&self.fs)).restore(&Master::id());
        assert!(!self.is_read(), "the open file has its keys still");
        assert!(!self.is_opened(), "a data key is cached still");
    }

    fn assert_holds(&self, allowed: &[u8]) {
        assert!(allowed.contains(&read(&self.fs, self.reading).unwrap()));
        [self.reading, self.writing].into_iter().for_each(|fh| self.fs.release(fh));
        self.fs.shut_down().unwrap();
    }
}

#[test]
fn what_begins_after_the_cut_is_refused_and_no_key_is_kept() {
    let volume = Unmounted::new();
    explore(600, move || {
        let world = World::mount(&volume);
        let reader = world.spawn(|world| {
            for _ in 0..2 {
                let late = world.progress.drained.load(Ordering::SeqCst);
                assert!(!(late && world.is_read()), "read after the cut");
            }
        });
        let opener = world.spawn(|world| {
            let late = world.progress.drained.load(Ordering::SeqCst);
            assert!(!(late && world.is_opened()), "opened after the cut");
        });
        let writer = world.spawn(|world| {
            let late = world.progress.cut.load(Ordering::SeqCst);
            let written = write(&world.fs, world.writing, 2, true);
            assert!(!(late && written.is_ok()), "written after the cut");
            assert!(written.is_ok() || world.progress.cutting.load(Ordering::SeqCst), "not written back");
        });
        world.revoke();
        [reader, opener, writer].into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_nothing_was_kept();
        world.restore();
        world.assert_holds(&[1, 2]);
    });
}

#[test]
fn a_cut_needs_no_draining() {
    let volume = Unmounted::new();
    explore(600, move || {
        let world = World::mount(&volume);
        let users = [World::is_read, World::is_opened, World::is_written].map(|works| {
            world.spawn(move |world| {
                let late = world.progress.cut.load(Ordering::SeqCst);
                assert!(!(late && works(world)), "used after the cut");
            })
        });
        world.cut();
        users.into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_nothing_was_kept();
        world.restore();
        world.assert_holds(&[1, 2]);
    });
}

/// The file's keys were taken away once, so each user has to fetch them while they are cut again.
#[test]
fn a_key_that_came_back_may_be_cut_again() {
    let volume = Unmounted::new();
    explore(600, move || {
        let world = World::mount(&volume);
        world.cut();
        world.restore();
        world.progress.cut.store(false, Ordering::SeqCst);
        let users = [World::is_read, World::is_opened].map(|works| {
            world.spawn(move |world| {
                let late = world.progress.cut.load(Ordering::SeqCst);
                assert!(!(late && works(world)), "used after the cut");
            })
        });
        world.cut();
        users.into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_nothing_was_kept();
        world.restore();
        world.assert_holds(&[1]);
    });
}

/// The first to open a file of the key: its gate may not be there yet.
#[test]
fn whoever_opens_the_first_file_during_the_cut_keeps_no_key() {
    let volume = Unmounted::new();
    explore(600, move || {
        let master = Arc::new(Master::new());
        let fs = volume.mount(&(Arc::clone(&master) as Arc<dyn Provider>));
        let ino = file(&fs);
        let openers = [(); 2].map(|()| {
            let fs = Arc::clone(&fs);
            thread::spawn(move || fs.open(ino, false).ok())
        });
        let watcher = Watcher(Arc::clone(&fs));
        watcher.drain(&Master::id(), BUDGET, false);
        master.revoke();
        watcher.cut(&Master::id(), Some(KeyState::Disabled));
        let opened: Vec<_> = openers.into_iter().filter_map(|opener| opener.join().unwrap()).collect();
        assert!(opened.iter().all(|fh| read(&fs, *fh).is_err()), "read after the cut");
        watcher.restore(&Master::id());
        assert!(opened.iter().all(|fh| read(&fs, *fh).is_err()), "the open file has its keys still");
        assert!(open_and_read(&fs, ino).is_err(), "a data key is cached still");
        master.restore();
        opened.into_iter().for_each(|fh| fs.release(fh));
        assert!(open_and_read(&fs, ino).is_ok());
        fs.shut_down().unwrap();
    });
}

#[test]
fn a_key_may_come_back_while_its_file_is_in_use() {
    let volume = Unmounted::new();
    explore(600, move || {
        let world = World::mount(&volume);
        let reader = world.spawn(|world| {
            for _ in 0..2 {
                let outcome = read(&world.fs, world.reading);
                assert!(matches!(outcome, Ok(1) | Err(libc::EKEYREVOKED)), "{outcome:?}");
            }
        });
        let opener = world.spawn(|world| {
            let outcome = open_and_read(&world.fs, world.ino);
            assert!(matches!(outcome, Ok(1) | Err(libc::EKEYREVOKED)), "{outcome:?}");
        });
        world.revoke();
        world.restore();
        [reader, opener].into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(open_and_read(&world.fs, world.ino), Ok(1));
        world.revoke();
        world.assert_nothing_was_kept();
        world.restore();
        world.assert_holds(&[1]);
    });
}

/// A kernel that holds a page which it has not passed on.
struct Dirty {
    page: AtomicBool,
    fs: OnceLock<Weak<Fs>>,
    fh: u64,
}

impl KernelCache for Dirty {
    fn invalidate(&self, _ino: u64, _from: u64, _len: Option<u64>) -> io::Result<()> {
        let fs = self.fs.get().and_then(Weak::upgrade).unwrap();
        if self.page.swap(false, Ordering::SeqCst) {
            write(&fs, self.fh, 9, true).map_err(io::Error::from_raw_os_error)?;
        }
        Ok(())
    }

    fn forget_attributes(&self, _ino: u64) -> io::Result<()> {
        Ok(())
    }

    fn gathers_writes(&self) -> bool {
        true
    }
}

#[test]
fn what_the_kernel_holds_is_written_before_the_cut() {
    let volume = Unmounted::new();
    explore(600, move || {
        let world = World::mount(&volume);
        let kernel = Dirty { page: AtomicBool::new(true), fs: OnceLock::new(), fh: world.writing };
        kernel.fs.set(Arc::downgrade(&world.fs)).unwrap();
        world.fs.set_kernel(Arc::new(kernel));
        let reader = world.spawn(|world| {
            let late = world.progress.drained.load(Ordering::SeqCst);
            assert!(!(late && world.is_read()), "read after the cut");
        });
        world.revoke();
        reader.join().unwrap();
        world.assert_nothing_was_kept();
        world.restore();
        world.assert_holds(&[9]);
    });
}
