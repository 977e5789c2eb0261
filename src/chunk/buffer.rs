//! Buffers that threads keep: no request allocates once its thread has served one of its size.

use std::cell::RefCell;
use std::thread::LocalKey;

use zeroize::optimization_barrier;

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
    with(&CIPHERTEXT, len, f)
}

/// Runs `f` with `len` zeroed bytes for plaintext, which are erased afterwards.
pub(super) fn with_plaintext<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    with(&PLAINTEXT, len, |buffer| {
        let result = f(buffer);
        erase(buffer);
        result
    })
}

/// Zeros that the compiler does not leave out, though nobody reads them. `Zeroize` stores each byte by
/// itself, which takes as long as to decrypt it.
fn erase(buffer: &mut [u8]) {
    buffer.fill(0);
    optimization_barrier(buffer);
}

fn with<R>(pool: &'static LocalKey<RefCell<Vec<Vec<u8>>>>, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = pool.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        // Not resized: that would copy what nobody wants.
        buffer = vec![0; len];
    }
    let result = f(&mut buffer[..len]);
    pool.with_borrow_mut(|kept| {
        if kept.len() < KEEP && buffer.len() <= KEEP_LEN {
            kept.push(buffer);
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_does_not_outlive_its_use() {
        for len in [4064, 1, 300_000, 10, 4064] {
            with_plaintext(len, |buffer| {
                assert_eq!(buffer.len(), len);
                assert!(buffer.iter().all(|&byte| byte == 0), "left from before");
                buffer.fill(7);
            });
        }
    }

    #[test]
    fn a_buffer_within_another_ones_use_is_another_one() {
        with_plaintext(100, |outer| {
            outer.fill(1);
            with_plaintext(100, |inner| inner.fill(2));
            assert!(outer.iter().all(|&byte| byte == 1));
        });
    }
}
