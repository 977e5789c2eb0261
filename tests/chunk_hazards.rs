//! Orders of events in which a sealed file once lost or showed what it must not.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use kmsfs::chunk::{Backing, ChunkError, Integrity, Memory, Opened, SealedFile, Step};
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::{Id, PAGE_LEN};
use kmsfs::secret::Key;

const P: u64 = 4064;
type Hook = Box<dyn FnMut(u64, usize) -> std::io::Result<()> + Send>;

#[derive(Clone)]
struct Shared(Arc<Memory>, Arc<Mutex<Option<Hook>>>);
impl Backing for Shared {
    fn read_at(&self, b: &mut [u8], o: u64) -> std::io::Result<usize> {
        self.0.read_at(b, o)
    }
    fn write_at(&self, b: &[u8], o: u64) -> std::io::Result<()> {
        let hook = self.1.lock().unwrap().take();
        if let Some(mut h) = hook {
            let r = h(o, b.len());
            *self.1.lock().unwrap() = Some(h);
            r?;
        }
        self.0.write_at(b, o)
    }
    fn length(&self) -> std::io::Result<u64> {
        self.0.length()
    }
    fn set_len(&self, l: u64) -> std::io::Result<()> {
        self.0.set_len(l)
    }
    fn sync(&self, d: bool) -> std::io::Result<()> {
        self.0.sync(d)
    }
    fn punch(&self, o: u64, l: u64) -> std::io::Result<()> {
        self.0.punch(o, l)
    }
    fn allocate(&self, o: u64, l: u64) -> std::io::Result<()> {
        self.0.allocate(o, l)
    }
    fn seek_data(&self, o: u64) -> std::io::Result<Option<u64>> {
        self.0.seek_data(o)
    }
    fn seek_hole(&self, o: u64) -> std::io::Result<u64> {
        self.0.seek_hole(o)
    }
}
struct B {
    disk: Shared,
    key: Arc<Key>,
    file: SealedFile<Shared>,
    keys: FileKeys,
}
static EPOCH: AtomicU64 = AtomicU64::new(10);
fn ep(n: u32) -> Result<u32, ChunkError> {
    Ok((EPOCH.fetch_add(1, Ordering::SeqCst) as u32).max(n + 1))
}
impl B {
    fn new() -> Self {
        let disk = Shared(Arc::default(), Arc::default());
        let key = Arc::new(Key::random().unwrap());
        let head = Head::new(Kind::File, Id([1; 16]), Id::random().unwrap(), Id([3; 16]));
        let Opened { file, keys } =
            SealedFile::create(disk.clone(), head, &key, Wrapped::default(), 1).unwrap();
        Self { disk, key, file, keys }
    }
    fn settle(&self) {
        if let Some(mut s) = self.file.begin_settling(&self.keys, ep).unwrap() {
            while self.file.settle(&self.keys, &mut s).unwrap() != Step::Done {}
        }
    }
    fn reopen(&mut self, i: Integrity) -> Result<(), ChunkError> {
        let k = Arc::clone(&self.key);
        let o = SealedFile::open(self.disk.clone(), i, |_, _| Ok::<_, ChunkError>(k))?;
        self.file = o.file;
        self.keys = o.keys;
        Ok(())
    }
    fn write(&self, at: u64, d: &[u8]) -> Result<(), ChunkError> {
        self.file.write(&self.keys, at, d, ep)
    }
    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, ChunkError> {
        let mut v = vec![0; len];
        self.file.read(&self.keys, at, &mut v).map(|_| v)
    }
}

#[test]
fn append_that_fills_the_last_chunk_with_the_mark_lost_opens_after_a_crash() {
    let mut b = B::new();
    b.write(0, &vec![1; 4000]).unwrap();
    b.settle();
    let header = b.disk.0.snapshot()[..PAGE_LEN].to_vec();
    b.write(4000, &[2; 64]).unwrap();
    let mut crashed = b.disk.0.snapshot();
    crashed[..PAGE_LEN].copy_from_slice(&header);
    b.disk.0.replace(crashed);
    b.reopen(Integrity::Recovering).unwrap();
    b.read(0, 4000).unwrap();
}

#[test]
fn a_failed_write_leaves_the_chunk_readable_after_settling() {
    let mut b = B::new();
    b.write(0, &vec![1; 4 * P as usize]).unwrap();
    b.settle();
    *b.disk.1.lock().unwrap() =
        Some(Box::new(|o, _| if o > 0 { Err(std::io::Error::from_raw_os_error(28)) } else { Ok(()) }));
    assert!(b.write(P, &vec![2; P as usize]).is_err());
    *b.disk.1.lock().unwrap() = None;
    assert_eq!(b.read(P, 5).unwrap(), [1; 5]);
    b.settle();
    assert_eq!(b.read(P, 5).unwrap(), [1; 5]);
    b.reopen(Integrity::Strict).unwrap();
    assert_eq!(b.read(P, 5).unwrap(), [1; 5]);
}

#[test]
fn a_damaged_edge_chunk_does_not_take_its_neighbours_with_it() {
    let b = B::new();
    b.write(0, &vec![1; 20 * P as usize]).unwrap();
    b.settle();
    let mut d = b.disk.0.snapshot();
    d[PAGE_LEN + 100] ^= 1;
    b.disk.0.replace(d);
    assert!(b.write(5, &vec![2; 19 * P as usize]).is_err());
    b.settle();
    assert_eq!(b.read(7 * P, 5).unwrap(), [1; 5]);
}

#[test]
fn a_unit_put_back_into_a_settled_hole_is_refused() {
    let mut b = B::new();
    b.write(0, &vec![1; 4 * P as usize]).unwrap();
    b.settle();
    let old = b.disk.0.snapshot();
    b.file.punch(&b.keys, P..2 * P, ep).unwrap();
    b.settle();
    let mut d = b.disk.0.snapshot();
    d[2 * PAGE_LEN..3 * PAGE_LEN].copy_from_slice(&old[2 * PAGE_LEN..3 * PAGE_LEN]);
    b.disk.0.replace(d);
    b.reopen(Integrity::Strict).unwrap();
    let got = b.read(P, 5);
    assert!(got.is_err() || got.as_ref().unwrap() == &[0; 5], "punched data is back: {got:?}");
}

#[test]
fn an_abandoned_settling_does_not_spoil_a_later_punch() {
    let mut b = B::new();
    b.file.extend(&b.keys, 300 * P, ep).unwrap();
    b.write(140 * P, &vec![1; P as usize]).unwrap();
    b.settle();
    b.read(140 * P, 5).unwrap(); // the map page is cached now
    b.write(150 * P, &vec![2; P as usize]).unwrap();
    let mut s = b.file.begin_settling(&b.keys, ep).unwrap().unwrap();
    assert_eq!(b.file.settle(&b.keys, &mut s).unwrap(), Step::Flush);
    b.file.punch(&b.keys, 150 * P..151 * P, ep).unwrap();
    assert_eq!(b.file.settle(&b.keys, &mut s).unwrap(), Step::Busy);
    b.settle();
    b.reopen(Integrity::Strict).unwrap();
    assert_eq!(b.read(150 * P, 5).unwrap(), [0; 5]);
}

#[test]
fn settling_waits_for_writes_under_way() {
    let b = Arc::new(B::new());
    b.write(0, &vec![1; 4 * P as usize]).unwrap();
    b.settle();
    b.write(0, &[3; 1]).unwrap(); // begin the session
    let (inside, entered) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let first = AtomicBool::new(true);
    *b.disk.1.lock().unwrap() = Some(Box::new(move |o, _| {
        if o > 0 && first.swap(false, Ordering::SeqCst) {
            inside.send(()).unwrap();
            wait.recv().unwrap();
        }
        Ok(())
    }));
    std::thread::scope(|s| {
        let bb = Arc::clone(&b);
        s.spawn(move || bb.write(2 * P, &vec![2; P as usize]).unwrap());
        entered.recv().unwrap();
        let (done, begun) = mpsc::channel();
        let bb = Arc::clone(&b);
        s.spawn(move || drop(done.send(bb.file.begin_settling(&bb.keys, ep).unwrap())));
        let early = begun.recv_timeout(std::time::Duration::from_millis(300));
        let durable = b.disk.0.snapshot(); // what the settling's flush would make durable
        go.send(()).unwrap();
        let Ok(Some(mut settling)) = early else { return };
        std::thread::sleep(std::time::Duration::from_millis(100));
        if b.file.settle(&b.keys, &mut settling).unwrap() != Step::Done {
            return;
        }
        // crash: only the header of what came after the flush is on disk
        let mut crashed = durable;
        crashed[..PAGE_LEN].copy_from_slice(&b.disk.0.snapshot()[..PAGE_LEN]);
        b.disk.0.replace(crashed);
        let k = Arc::clone(&b.key);
        let o =
            SealedFile::open(b.disk.clone(), Integrity::Recovering, |_, _| Ok::<_, ChunkError>(k)).unwrap();
        let mut out = [0; 5];
        let got = o.file.read(&o.keys, 2 * P, &mut out);
        assert!(got.is_ok(), "neither old nor new: {got:?}");
    });
}

#[test]
fn an_overwrite_with_its_mark_lost_stays_readable_when_the_file_says_settled() {
    // What fs::open_file::close_file does with it: is_settled() is asked, and the file let go.
    let mut b = B::new();
    b.write(0, &vec![1; 4 * P as usize]).unwrap();
    b.settle();
    let header = b.disk.0.snapshot()[..PAGE_LEN].to_vec();
    b.write(P, &vec![2; P as usize]).unwrap();
    let mut crashed = b.disk.0.snapshot();
    crashed[..PAGE_LEN].copy_from_slice(&header);
    b.disk.0.replace(crashed);
    b.reopen(Integrity::Recovering).unwrap();
    b.read(P, 5).unwrap();
    if !b.file.is_settled() {
        b.settle();
    } // as close_file
    b.reopen(Integrity::Strict).unwrap(); // the next, clean mount
    b.read(P, 5).unwrap();
}

#[test]
fn a_punched_chunk_behind_the_map_cannot_be_put_back_with_its_map_page() {
    let mut b = B::new();
    b.write(0, &vec![1; 300 * P as usize]).unwrap();
    b.settle();
    let old = b.disk.0.snapshot();
    b.file.punch(&b.keys, 150 * P..151 * P, ep).unwrap();
    b.settle();
    let mut d = b.disk.0.snapshot();
    d[129 * PAGE_LEN..130 * PAGE_LEN].copy_from_slice(&old[129 * PAGE_LEN..130 * PAGE_LEN]);
    let unit = (150 + 2) * PAGE_LEN;
    d[unit..unit + PAGE_LEN].copy_from_slice(&old[unit..unit + PAGE_LEN]);
    b.disk.0.replace(d);
    b.reopen(Integrity::Strict).unwrap();
    let got = b.read(150 * P, 5);
    assert!(got.is_err(), "punched data is back: {got:?}");
}

#[test]
fn a_punch_to_the_end_spares_what_is_appended_meanwhile() {
    let b = Arc::new(B::new());
    b.write(0, &vec![1; P as usize + 30]).unwrap();
    // The head of the range is zeroed first, with a write that the hook sees.
    let other = Arc::clone(&b);
    let first = AtomicBool::new(true);
    let (tx, rx) = mpsc::channel();
    *b.disk.1.lock().unwrap() = Some(Box::new(move |_, _| {
        if first.swap(false, Ordering::SeqCst) {
            let (o, tx) = (Arc::clone(&other), tx.clone());
            std::thread::spawn(move || {
                o.write(P + 30, &[9; 50]).unwrap();
                tx.send(()).unwrap();
            });
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Ok(())
    }));
    // keep the punch out of the way of the append between its zeroing and its lock
    b.file.punch(&b.keys, 10..P + 30, ep).unwrap();
    rx.recv().unwrap();
    let got = b.read(P + 30, 50).unwrap();
    assert_eq!(got, [9; 50]);
}
