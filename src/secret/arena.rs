//! The pages that keys live in: anonymous memory, locked, left out of core dumps, cut into slots.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use zeroize::Zeroize;

use super::KEY_LEN;

/// Bytes mapped at a time. 64 KiB hold 2,048 keys and are the smallest `RLIMIT_MEMLOCK` in use.
const REGION_LEN: usize = 64 * 1024;

static FREE: Mutex<FreeList> = Mutex::new(FreeList(Vec::new()));
static ALL_LOCKED: AtomicBool = AtomicBool::new(true);

/// Slots nobody owns; each is zeroed.
struct FreeList(Vec<NonNull<[u8; KEY_LEN]>>);

// SAFETY: the pointers are to process-wide memory that is never unmapped, and each is owned by
// exactly one place at a time: this list or one `Slot`.
unsafe impl Send for FreeList {}

/// Sole owner of [`KEY_LEN`] bytes of arena memory.
pub(super) struct Slot(NonNull<[u8; KEY_LEN]>);

// SAFETY: a `Slot` owns its bytes exclusively and hands out references by the usual rules of
// `&self` and `&mut self`.
unsafe impl Send for Slot {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Slot {}

impl Slot {
    /// A zeroed slot.
    pub(super) fn take() -> Self {
        let mut free = FREE.lock();
        loop {
            if let Some(slot) = free.0.pop() {
                return Self(slot);
            }
            map_region(&mut free);
        }
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        // SAFETY: the pointer is aligned (u8), valid for the process's life and owned by `self`.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; KEY_LEN] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        FREE.lock().0.push(self.0);
    }
}

pub(super) fn all_locked() -> bool {
    ALL_LOCKED.load(Ordering::Relaxed)
}

fn map_region(free: &mut FreeList) {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choosing touches no
    // existing memory.
    let mapped = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            REGION_LEN,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    let Some(base) = mapped.ok().and_then(NonNull::new) else {
        // As any failed allocation in Rust: there is no memory left to report it with.
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; REGION_LEN]>());
    };
    // SAFETY: the range is the mapping just made.
    let locked = unsafe { rustix::mm::mlock(base.as_ptr(), REGION_LEN) };
    // SAFETY: the range is the mapping just made; the advice changes no contents.
    let undumped = unsafe { rustix::mm::madvise(base.as_ptr(), REGION_LEN, Advice::LinuxDontDump) };
    if locked.is_err() || undumped.is_err() {
        ALL_LOCKED.store(false, Ordering::Relaxed);
    }
    let first: NonNull<[u8; KEY_LEN]> = base.cast();
    for index in 0..REGION_LEN / KEY_LEN {
        // SAFETY: `index` stays within the mapping.
        free.0.push(unsafe { first.add(index) });
    }
}
