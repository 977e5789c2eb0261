//! Implementations of AES-256-GCM-SIV: the portable one, and kernels for instruction sets.
//!
//! The kernels are one algorithm, written once over vectors of one, two or four blocks ([`isa`]):
//!
//! | file | what it does |
//! |---|---|
//! | `batch` | goes over a batch; seals and opens messages |
//! | `text` | divides a message, hashes its parts, applies the key stream |
//! | `keys` | derives the keys of eight messages side by side |
//! | `aes`, `polyval` | the two primitives |
//! | `x86_64`, `aarch64` | the instruction sets |
//! | `entry` | their detection, and the functions that enable them |
//!
//! `unsafe` is in the last two only.
//!
//! **Constant time.** Branches and addresses depend on lengths and counts alone, never on keys,
//! text or tags: there are no tables, and the tags of a batch are compared together. Whether a
//! batch is authentic shows in the time that it takes; which message is not, does not.
//!
//! **Keys in memory.** Schedules and powers lie in a [`batch::Scratch`], which is erased when the
//! batch is done, as is the part of the stack where the compiler may have put what did not fit
//! into registers. Plaintext that a batch was opened to is zeroed if it turns out not to be
//! authentic.
//!
//! **Choice.** The fastest that the CPU has, once in a process; `KMSFS_AEAD` names another one, for
//! tests and measurements. `docs/decisions/0022-one-kernel-over-three-widths.md` has the figures.
#![allow(unsafe_code, reason = "the instructions of AES and of carry-less multiplication")]
#![cfg_attr(
    not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))),
    allow(dead_code, reason = "no kernel has been written for this CPU")
)]

mod aes;
mod batch;
mod isa;
mod keys;
mod polyval;
mod portable;
mod text;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[allow(
    unknown_lints,
    inline_always_mismatching_target_features,
    reason = "operations are inlined into the entry points, which enable what the instructions need"
)]
mod aarch64;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little")))]
mod entry;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::env;
use std::ffi::OsString;
use std::sync::OnceLock;

use thiserror::Error;
use zeroize::zeroize_stack;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use self::aarch64::kernels;
#[cfg(target_arch = "x86_64")]
use self::x86_64::kernels;
use super::aead::{Aead, Choice, Open, OpenError, Seal};
#[cfg(feature = "copy-cipher")]
use super::copying::Copying;
use crate::secret::{KEY_LEN, Key};
use batch::{Long, Scratch, Short};
use isa::Isa;
use keys::GROUP;

pub use portable::Portable;

/// The environment variable that names the implementation to use.
pub const VARIABLE: &str = "KMSFS_AEAD";

/// Most bytes in a message (RFC 8452, section 6).
const MAX_LEN: u64 = 1 << 36;
/// Bytes of stack that are erased after a kernel. Its frame has at most 2500 in a release build; it
/// may have more without optimization.
const STACK: usize = if cfg!(debug_assertions) { 32 << 10 } else { 4096 };

/// [`VARIABLE`] names no implementation that runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{VARIABLE}={asked} names no implementation that runs here; unset it, or set it to one of: {}", .known.join(", "))]
pub struct UnknownImplementation {
    asked: String,
    known: Vec<&'static str>,
}

/// The implementation to use: what [`VARIABLE`] names, else the fastest. Decided once.
///
/// # Errors
/// [`UnknownImplementation`].
pub(super) fn choose() -> Result<Choice, UnknownImplementation> {
    static CHOICE: OnceLock<Result<Choice, UnknownImplementation>> = OnceLock::new();
    CHOICE.get_or_init(|| named(env::var_os(VARIABLE))).clone()
}

fn named(asked: Option<OsString>) -> Result<Choice, UnknownImplementation> {
    let fastest = all().last().copied().unwrap_or(&Portable);
    let Some(asked) = asked else {
        return Ok(Choice::one(fastest));
    };
    let asked = asked.to_string_lossy().into_owned();
    #[cfg(feature = "copy-cipher")]
    if asked == Copying::NAME {
        return Ok(Choice { best: fastest, for_contents: &Copying });
    }
    all()
        .iter()
        .find(|aead| aead.name() == asked)
        .map(|aead| Choice::one(*aead))
        .ok_or_else(|| UnknownImplementation { asked, known: all().iter().map(|aead| aead.name()).collect() })
}

/// Every implementation that runs on this machine, the slowest first: that is the portable one.
pub(super) fn all() -> &'static [&'static dyn Aead] {
    static ALL: OnceLock<Vec<&'static dyn Aead>> = OnceLock::new();
    ALL.get_or_init(|| std::iter::once(&Portable as &dyn Aead).chain(kernels()).collect())
}

/// No kernel has been written for this CPU.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))))]
fn kernels() -> impl Iterator<Item = &'static dyn Aead> {
    std::iter::empty()
}

/// The kernel of an instruction set. It has no size, so nothing is leaked.
fn leaked<K: Kernel>(isa: K) -> &'static dyn Aead {
    Box::leak(Box::new(Accelerated(isa)))
}

/// An instruction set with [`batch::seal`] and [`batch::open`] compiled for it.
trait Kernel: Isa + Send + Sync + 'static {
    const NAME: &str;

    fn seal(self, scratch: &mut Scratch, key: &[u8; KEY_LEN], batch: &mut [Seal<'_>]);

    fn open(
        self,
        scratch: &mut Scratch,
        key: &[u8; KEY_LEN],
        batch: &mut [Open<'_>],
    ) -> Result<(), OpenError>;
}

struct Accelerated<K>(K);

impl<K: Kernel> Aead for Accelerated<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn seal(&self, key: &Key, batch: &mut [Seal<'_>]) {
        for message in &*batch {
            assert_lengths(message.plaintext, message.ciphertext);
        }
        if batch.len() <= GROUP {
            self.0.seal(&mut Short::new(), key.expose(), batch);
        } else {
            self.0.seal(&mut Long::new(), key.expose(), batch);
        }
        zeroize_stack::<STACK>();
    }

    fn open(&self, key: &Key, batch: &mut [Open<'_>]) -> Result<(), OpenError> {
        for message in &*batch {
            assert_lengths(message.ciphertext, message.plaintext);
        }
        let opened = self.0.open(&mut Short::new(), key.expose(), batch);
        zeroize_stack::<STACK>();
        opened
    }
}

fn assert_lengths(input: &[u8], output: &[u8]) {
    assert!(input.len() as u64 <= MAX_LEN, "message exceeds RFC 8452's limit");
    assert_eq!(input.len(), output.len(), "both buffers of a message have one length");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_is_used_unless_one_is_named() {
        let used = |name: Option<&str>| {
            let choice = named(name.map(OsString::from)).unwrap();
            assert!(choice.encrypts_contents());
            (choice.best.name(), choice.for_contents.name())
        };
        let fastest = all().last().unwrap().name();
        assert_eq!(used(None), (fastest, fastest));
        for aead in all() {
            assert_eq!(used(Some(aead.name())), (aead.name(), aead.name()));
        }
    }

    #[test]
    fn a_name_that_does_not_run_here_is_an_error_that_lists_those_that_do() {
        let mut wrongs = vec!["", "AESNI", "vax", "Copy"];
        if cfg!(not(feature = "copy-cipher")) {
            wrongs.push("copy");
        }
        for wrong in wrongs {
            let error = named(Some(wrong.into())).err().unwrap().to_string();
            assert!(error.starts_with(&format!("KMSFS_AEAD={wrong} ")), "{error}");
            assert!(all().iter().all(|aead| error.contains(aead.name())), "{error}");
        }
    }

    #[cfg(feature = "copy-cipher")]
    #[test]
    fn only_contents_are_copied() {
        let choice = named(Some("copy".into())).unwrap();
        assert!(!choice.encrypts_contents());
        assert_eq!(choice.best.name(), all().last().unwrap().name());
        assert_eq!(choice.for_contents.name(), "copy");
    }
}
