//! The kernels neither branch on secrets nor use them as addresses. valgrind watches: it is told
//! that keys and plaintext are uninitialized, follows what is computed from them, and counts each
//! branch and each address that depends on it. The first test runs the others under it.
//!
//! valgrind knows AES-NI and PCLMULQDQ, not their wider forms. The wider kernels are the same
//! code, compiled for vectors of two and of four blocks.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::arch::asm;
use std::hint::black_box;
use std::io::{ErrorKind, Write};
use std::process::Command;

use kmsfs::crypto::aead::{self, Aead, Nonce, Open, Seal, TAG_LEN, Tag};
use kmsfs::secret::{KEY_LEN, Key};

/// Batches of more messages than a kernel derives keys for at a time, of lengths that end within
/// each part of a message.
const LENS: [usize; 6] = [0, 7, 64, 333, 4064, 4100];
const COUNTS: [usize; 3] = [1, 8, 11];

#[test]
fn the_kernels_run_in_constant_time() {
    let this = std::env::current_exe().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-limit=no"]).arg(this).args(["--ignored", "--test-threads=1"]);
    let output = match valgrind.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = "valgrind is not installed";
            writeln!(std::io::stderr(), "skipped: the_kernels_run_in_constant_time: {why}").unwrap();
            return;
        }
        Err(error) => panic!("valgrind: {error}"),
    };
    let [said, watched] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success() && said.contains("3 passed"), "{said}\n{watched}");
}

#[test]
#[ignore = "is run under valgrind by the first test"]
fn sealing_depends_on_no_secret() {
    each_kernel(|kernel, batch| {
        let before = dependences();
        batch.seal(kernel);
        assert_eq!(dependences() - before, 0, "{}", kernel.name());
    });
}

#[test]
#[ignore = "is run under valgrind by the first test"]
fn opening_depends_on_the_verdict_alone() {
    each_kernel(|kernel, batch| {
        batch.seal(kernel);
        let before = dependences();
        batch.open(kernel);
        assert_eq!(dependences() - before, 1, "{}", kernel.name());
    });
}

/// That the others can fail.
#[test]
#[ignore = "is run under valgrind by the first test"]
fn a_dependence_is_counted() {
    let secret = black_box([3u8; 1]);
    make_secret(&secret);
    let before = dependences();
    // SAFETY: a reference. Volatile: the compiler knows that the bytes have not changed.
    let read = unsafe { std::ptr::read_volatile(&raw const secret[0]) };
    if read > 2 {
        black_box(0);
    }
    assert_eq!(dependences() - before, 1);
}

fn each_kernel(mut test: impl FnMut(&dyn Aead, &mut Batch)) {
    let kernels = aead::all().iter().filter(|kernel| kernel.name() != "portable");
    let mut count = 0;
    for kernel in kernels {
        for messages in COUNTS {
            for len in LENS {
                test(*kernel, &mut Batch::new(len, messages));
            }
        }
        count += 1;
    }
    assert!(count > 0, "valgrind offers no instructions that a kernel needs");
}

/// Messages of one length, with secrets marked as such.
struct Batch {
    key: Key,
    nonces: Vec<Nonce>,
    plaintexts: Vec<Vec<u8>>,
    ciphertexts: Vec<Vec<u8>>,
    tags: Vec<Tag>,
}

impl Batch {
    fn new(len: usize, count: usize) -> Self {
        let batch = Self {
            key: Key::take_from(&mut [0x42; KEY_LEN]),
            nonces: (0..count).map(|index| [index as u8; 12]).collect(),
            plaintexts: vec![vec![0x17; len]; count],
            ciphertexts: vec![vec![0; len]; count],
            tags: vec![[0; TAG_LEN]; count],
        };
        make_secret(batch.key.expose());
        batch.plaintexts.iter().for_each(|plaintext| make_secret(plaintext));
        batch
    }

    /// Ciphertexts and tags are public afterwards.
    fn seal(&mut self, kernel: &dyn Aead) {
        let texts = self.plaintexts.iter().zip(&mut self.ciphertexts);
        let mut batch: Vec<Seal<'_>> = texts
            .zip(self.nonces.iter().zip(&mut self.tags))
            .map(|((plaintext, ciphertext), (nonce, tag))| Seal {
                nonce,
                aad: &[0x5a; 23],
                plaintext,
                ciphertext,
                tag,
            })
            .collect();
        kernel.seal(&self.key, &mut batch);
        self.ciphertexts.iter().for_each(|ciphertext| make_public(ciphertext));
        self.tags.iter().for_each(|tag| make_public(tag));
    }

    fn open(&mut self, kernel: &dyn Aead) {
        let texts = self.plaintexts.iter_mut().zip(&self.ciphertexts);
        let mut batch: Vec<Open<'_>> = texts
            .zip(self.nonces.iter().zip(&self.tags))
            .map(|((plaintext, ciphertext), (nonce, tag))| Open {
                nonce,
                aad: &[0x5a; 23],
                ciphertext,
                plaintext,
                tag,
            })
            .collect();
        // The verdict is secret, so to look at it here would be one more dependence.
        let _ = black_box(kernel.open(&self.key, &mut batch));
    }
}

/// Branches and addresses so far that depended on a secret.
fn dependences() -> u64 {
    const COUNT_ERRORS: u64 = 0x1201;
    request([COUNT_ERRORS, 0, 0])
}

fn make_secret(bytes: &[u8]) {
    const MAKE_MEM_UNDEFINED: u64 = 0x4d43_0001;
    request([MAKE_MEM_UNDEFINED, bytes.as_ptr().addr() as u64, bytes.len() as u64]);
}

fn make_public(bytes: &[u8]) {
    const MAKE_MEM_DEFINED: u64 = 0x4d43_0002;
    request([MAKE_MEM_DEFINED, bytes.as_ptr().addr() as u64, bytes.len() as u64]);
}

/// Asks valgrind for something, as its `valgrind.h` does.
fn request([code, first, second]: [u64; 3]) -> u64 {
    let arguments = [code, first, second, 0, 0, 0];
    let mut answer = 0u64;
    // SAFETY: to a CPU these instructions do nothing: four rotations by 128 bits in all, and an
    // exchange of a register with itself. valgrind knows them and answers in `rdx`.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") &raw const arguments,
            inout("rdx") answer,
        );
    }
    answer
}
