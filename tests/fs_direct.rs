//! Direct handles and the kernel's pages of the same file, in the orders that matter: played by a kernel
//! that does at each moment the worst that it may.
#![allow(clippy::unwrap_used)]

#[path = "common/unmounted.rs"]
mod unmounted;

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex};

use kmsfs::fs::{Fs, IoMode, KernelCache, NewMode, ROOT_INO, Requester};
use kmsfs::provider::without_waiting;
use unmounted::Unmounted;

const PAGE: usize = 4096;

/// A kernel with one dirty page of a mapping, which it writes back before it drops it.
struct Kernel {
    fs: Arc<Fs>,
    /// The mapping's handle, and the page as it was fetched, with what the program changed.
    dirty: Mutex<Option<(u64, Vec<u8>)>>,
    dropped: Mutex<Vec<(u64, Option<u64>)>>,
}

impl KernelCache for Kernel {
    fn invalidate(&self, _ino: u64, from: u64, len: Option<u64>) -> io::Result<()> {
        self.dropped.lock().unwrap().push((from, len));
        if let Some((fh, page)) = self.dirty.lock().unwrap().take() {
            self.fs.write(fh, 0, &page, true, None).unwrap();
        }
        Ok(())
    }

    fn forget_attributes(&self, _ino: u64) -> io::Result<()> {
        Ok(())
    }

    fn gathers_writes(&self) -> bool {
        false
    }
}

/// A file of one page of zeros that somebody writes directly and somebody else has mapped.
struct Scene {
    _volume: Unmounted,
    fs: Arc<Fs>,
    writer: u64,
    mapper: u64,
    kernel: Arc<Kernel>,
}

impl Scene {
    fn new() -> Self {
        let volume = Unmounted::new();
        let fs = volume.mount();
        let kernel = Kernel { fs: Arc::clone(&fs), dirty: Mutex::default(), dropped: Mutex::default() };
        let kernel = Arc::new(kernel);
        fs.set_kernel(kernel.clone());
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (attr, writer) = fs.create(Requester::own(), ROOT_INO, OsStr::new("file"), mode).unwrap();
        assert_eq!(fs.choose_io_mode(writer, IoMode::Direct).unwrap(), IoMode::Direct);
        fs.write(writer, 0, &[0; PAGE], false, None).unwrap();
        let mapper = fs.open(attr.ino, true).unwrap();
        assert_eq!(fs.choose_io_mode(mapper, IoMode::Cached).unwrap(), IoMode::Direct);
        Self { _volume: volume, fs, writer, mapper, kernel }
    }

    /// The kernel fetches the page.
    fn fetch(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        assert_eq!(self.fs.read_pages(self.mapper, 0, &mut page).unwrap(), PAGE);
        page
    }

    fn contents(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        assert_eq!(self.fs.read(self.mapper, 0, &mut page).unwrap(), PAGE);
        page
    }

    fn dropped(&self) -> Vec<(u64, Option<u64>)> {
        std::mem::take(&mut self.kernel.dropped.lock().unwrap())
    }
}

#[test]
fn pages_that_a_direct_write_overtook_are_dropped_before_it_is_answered() {
    let scene = Scene::new();
    scene.fs.write(scene.writer, 10, b"one", false, None).unwrap();
    assert_eq!(scene.dropped(), [], "nobody has pages");
    scene.fetch();
    scene.fs.write(scene.writer, 20, b"two", false, None).unwrap();
    assert_eq!(scene.dropped(), [(20, Some(3))]);
    // When the last of them is closed, what the kernel has is what the file holds.
    for fh in [scene.writer, scene.mapper] {
        scene.fs.release(fh);
    }
    assert_eq!(scene.dropped(), []);
}

#[test]
fn a_page_from_before_a_direct_write_takes_nothing_of_it_back() {
    let scene = Scene::new();
    let mut page = scene.fetch();
    page[100] = 1;
    *scene.kernel.dirty.lock().unwrap() = Some((scene.mapper, page));
    scene.fs.write(scene.writer, 200, &[2; 300], false, None).unwrap();
    let mut expected = vec![0; PAGE];
    expected[100] = 1;
    expected[200..500].fill(2);
    assert!(scene.contents() == expected);
    // A page that is fetched from now on may be written back as a whole.
    let mut page = scene.fetch();
    assert!(page == expected);
    page[250] = 3;
    scene.fs.write(scene.mapper, 0, &page, true, None).unwrap();
    assert!(scene.contents() == page);
}

#[test]
fn a_thread_that_serves_the_kernel_does_not_wait_for_it() {
    let scene = Scene::new();
    let serve = |bytes: &[u8]| without_waiting(|| scene.fs.write(scene.writer, 0, bytes, false, None));
    serve(b"alone").unwrap();
    scene.fetch();
    assert!(serve(b"beside").unwrap_err().would_wait());
    assert_eq!(scene.dropped(), []);
    assert_eq!(&scene.contents()[..6], b"alone\0");
}
