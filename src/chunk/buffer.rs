//! Buffers that threads keep: no request allocates once its thread has served one of its size.

use std::cell::RefCell;

use zeroize::Zeroize;

/// Bytes beyond which a buffer is not kept.
const KEEP_LEN: usize = 4 << 20;
/// Buffers that a thread keeps of each kind.
const KEEP: usize = 4;

thread_local! {
    static CIPHERTEXT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static PLAINTEXT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` bytes for ciphertext. Their contents are what was left there before.
pub(super) fn with_ciphertext<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = take(&CIPHERTEXT, len);
    let result = f(&mut buffer[..len]);
    CIPHERTEXT.with_borrow_mut(|kept| keep(kept, buffer));
    result
}

/// Runs `f` with `len` zeroed bytes for plaintext, which are zeroized afterwards.
pub(super) fn with_plaintext<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = take(&PLAINTEXT, len);
    let result = f(&mut buffer[..len]);
    buffer[..len].zeroize();
    PLAINTEXT.with_borrow_mut(|kept| keep(kept, buffer));
    result
}

fn take(pool: &'static std::thread::LocalKey<RefCell<Vec<Vec<u8>>>>, len: usize) -> Vec<u8> {
    let mut buffer = pool.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer
}

fn keep(kept: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    if kept.len() < KEEP && buffer.len() <= KEEP_LEN {
        kept.push(buffer);
    }
}
