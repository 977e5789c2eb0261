//! No implementation of the AEAD reads or writes a byte outside the buffers that it was given:
//! they lie next to pages that cannot be accessed, now with their ends and now with their
//! beginnings, and a stray access ends the test with `SIGSEGV`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::c_void;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::slice;

use kmsfs::crypto::aead::{self, NONCE_LEN, Open, OpenError, Seal, TAG_LEN};
use kmsfs::secret::{KEY_LEN, Key};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// A multiple of the page size on every machine.
const GUARD_LEN: usize = 1 << 16;
const ROOM_LEN: usize = 1 << 16;

/// Every length up to more than what a kernel takes at a time, and those around a chunk.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=530).chain(1020..=1030).chain(4050..=4100).chain([16_352])
}

#[test]
fn nothing_outside_the_buffers_is_touched() {
    let key = Key::take_from(&mut [0x42; KEY_LEN]);
    let mut rooms = Rooms::new();
    for implementation in aead::all() {
        for len in lengths() {
            for place in [Room::beginning, Room::end] {
                let Rooms { nonce, aad, plaintext, ciphertext, tag } = &mut rooms;
                let nonce: &[u8; NONCE_LEN] = (&*place(nonce, NONCE_LEN)).try_into().unwrap();
                let aad: &[u8] = place(aad, len % 70);
                let plaintext = place(plaintext, len);
                let ciphertext = place(ciphertext, len);
                let tag: &mut [u8; TAG_LEN] = place(tag, TAG_LEN).try_into().unwrap();
                plaintext.fill(0x17);

                implementation.seal(&key, &mut [Seal { nonce, aad, plaintext, ciphertext, tag }]);
                plaintext.fill(0xa5);
                let opened =
                    implementation.open(&key, &mut [Open { nonce, aad, ciphertext, plaintext, tag }]);
                assert_eq!(opened, Ok(()), "{} {len}", implementation.name());
                assert!(plaintext.iter().all(|byte| *byte == 0x17), "{} {len}", implementation.name());

                tag[0] ^= 1;
                let opened =
                    implementation.open(&key, &mut [Open { nonce, aad, ciphertext, plaintext, tag }]);
                assert_eq!(opened, Err(OpenError), "{} {len}", implementation.name());
                assert!(plaintext.iter().all(|byte| *byte == 0), "{} {len}", implementation.name());
            }
        }
    }
}

/// That the other test can fail: the bytes before and after a room cannot be read. The kernel is
/// asked to, as it answers with an error where a program would get a signal.
#[test]
fn the_bytes_around_a_room_cannot_be_read() {
    let mut room = Room::new();
    let (_reader, writer) = std::io::pipe().unwrap();
    let within = room.all().as_ptr_range();
    for (address, expected) in [
        (within.start.wrapping_sub(1), Err(Errno::FAULT)),
        (within.start, Ok(1)),
        (within.end.wrapping_sub(1), Ok(1)),
        (within.end, Err(Errno::FAULT)),
    ] {
        // SAFETY: `write(2)` checks addresses itself, and takes any.
        let written = unsafe { libc::write(writer.as_raw_fd(), address.cast(), 1) };
        let written =
            if written == 1 { Ok(1) } else { Err(Errno::from_io_error(&Error::last_os_error()).unwrap()) };
        assert_eq!(written, expected);
    }
}

/// A room for each buffer of a message.
struct Rooms {
    nonce: Room,
    aad: Room,
    plaintext: Room,
    ciphertext: Room,
    tag: Room,
}

impl Rooms {
    fn new() -> Self {
        Self {
            nonce: Room::new(),
            aad: Room::new(),
            plaintext: Room::new(),
            ciphertext: Room::new(),
            tag: Room::new(),
        }
    }
}

/// `ROOM_LEN` bytes between two pages that cannot be accessed.
struct Room {
    mapping: *mut c_void,
}

impl Room {
    fn new() -> Self {
        let len = ROOM_LEN + 2 * GUARD_LEN;
        // SAFETY: a fresh mapping, which nothing else refers to.
        let mapping =
            unsafe { mmap_anonymous(null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE) }.unwrap();
        let room = mapping.wrapping_byte_add(GUARD_LEN);
        // SAFETY: the pages are the mapping's own, and nothing refers to them yet.
        unsafe { mprotect(room, ROOM_LEN, MprotectFlags::READ | MprotectFlags::WRITE) }.unwrap();
        Self { mapping }
    }

    fn all(&mut self) -> &mut [u8] {
        let room = self.mapping.wrapping_byte_add(GUARD_LEN).cast();
        // SAFETY: readable, writable and initialized by the kernel; borrowed as `self` is.
        unsafe { slice::from_raw_parts_mut(room, ROOM_LEN) }
    }

    /// The first `len` bytes.
    fn beginning(&mut self, len: usize) -> &mut [u8] {
        &mut self.all()[..len]
    }

    /// The last `len` bytes.
    fn end(&mut self, len: usize) -> &mut [u8] {
        &mut self.all()[ROOM_LEN - len..]
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.mapping, ROOM_LEN + 2 * GUARD_LEN) };
        assert_eq!(unmapped, Ok(()));
    }
}
