//! Fresh nonces: random bytes of the operating system, fetched for many messages at a time.
//!
//! A thread keeps what it fetched and hands out each nonce once. This is a buffer and no generator
//! of its own: what it holds came from getrandom(2), and nothing is computed from it. Nonces are no
//! secrets, so that it matters to nobody who sees them early. Two copies of one machine that was
//! stopped in between begin with the same buffer; AES-256-GCM-SIV then shows no more than whether two
//! messages are equal (RFC 8452, section 9), and after `FETCHED` of them they are apart. A process
//! forks before it has threads that seal (`sys::process::fork_daemon`), and the child keeps what the
//! parent then has no use for.

use std::cell::RefCell;

use super::{NONCE_LEN, aead::Nonce};

/// Nonces that are fetched at a time: as many as a request of 1 MiB takes for its chunks of 4 KiB.
const FETCHED: usize = 256;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { nonces: [[0; NONCE_LEN]; FETCHED], left: 0 }) };
}

struct Pool {
    nonces: [Nonce; FETCHED],
    /// Those before this have not been handed out.
    left: usize,
}

/// Sets each of `nonces` to one that nobody had before.
///
/// # Errors
/// When the operating system has no random bytes.
pub fn fresh(nonces: &mut [Nonce]) -> Result<(), getrandom::Error> {
    POOL.with_borrow_mut(|pool| {
        for nonce in nonces {
            if pool.left == 0 {
                getrandom::fill(pool.nonces.as_flattened_mut())?;
                pool.left = FETCHED;
            }
            pool.left -= 1;
            *nonce = std::mem::take(&mut pool.nonces[pool.left]);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_nonce_is_handed_out_twice_on_any_thread() {
        let draw = || {
            let mut drawn = vec![Nonce::default(); 3 * FETCHED + 5];
            // Across the ends of what is fetched at a time.
            drawn.chunks_mut(7).for_each(|nonces| fresh(nonces).unwrap());
            drawn
        };
        let threads = [(); 4].map(|()| std::thread::spawn(draw));
        let drawn: Vec<Nonce> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let distinct: HashSet<&Nonce> = drawn.iter().collect();
        assert_eq!(distinct.len(), drawn.len());
        assert!(!distinct.contains(&Nonce::default()), "what was taken out already");
    }
}
