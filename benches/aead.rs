//! Sealing and opening throughput of every AES-256-GCM-SIV implementation that runs here.
//!
//! One group per operation, message size and batch; within a group, one line per
//! implementation. Three lines give the scale: `memcpy` of the same bytes is the ceiling,
//! AWS-LC's AES-256-CTR is what encryption takes that neither derives keys nor authenticates, and
//! AWS-LC's AES-256-GCM-SIV is what a mature library in C and assembly reaches.
//!
//! AWS-LC has no out-of-place sealing, and its counter mode none at all, so these include a copy
//! of the text into place.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start should stop")]

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead as aws;
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::crypto::aead::{self, NONCE_LEN, Nonce, Open, Seal, TAG_LEN, Tag};
use kmsfs::secret::{KEY_LEN, Key};

/// Plaintext bytes in chunks of 4, 16 and 64 KiB.
const MESSAGE_LENS: [usize; 3] = [4064, 16_352, 65_504];
/// A large read or write as the kernel sends it: 256 chunks of 4 KiB.
const REQUEST_LEN: usize = 1 << 20;

/// A chunk's associated data is of this order.
const AAD: &[u8] = &[0x5a; 16];
const RAW_KEY: [u8; KEY_LEN] = [0x42; KEY_LEN];

criterion_group!(name = benches; config = config(); targets = throughput);
criterion_main!(benches);

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

fn throughput(c: &mut Criterion) {
    bench(c, MESSAGE_LENS[0], 1);
    for len in MESSAGE_LENS {
        bench(c, len, REQUEST_LEN / (len + TAG_LEN + NONCE_LEN));
    }
}

fn bench(c: &mut Criterion, len: usize, count: usize) {
    let key = Key::take_from(&mut RAW_KEY.clone());
    let ctr = EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, &RAW_KEY).unwrap()).unwrap();
    let aws_key = aws::LessSafeKey::new(aws::UnboundKey::new(&aws::AES_256_GCM_SIV, &RAW_KEY).unwrap());
    let mut data = Batch::new(len, count);
    let bytes = Throughput::Bytes((len * count) as u64);

    let mut group = c.benchmark_group(format!("seal/{count} x {len} B"));
    group.throughput(bytes.clone());
    group.bench_function("memcpy", |b| b.iter(|| data.copy()));
    group.bench_function("aws-lc-ctr", |b| b.iter(|| data.encrypt_only(&ctr)));
    for implementation in aead::all() {
        group.bench_function(BenchmarkId::from_parameter(implementation.name()), |b| {
            b.iter(|| implementation.seal(&key, &mut data.unsealed()));
        });
    }
    group.bench_function("aws-lc", |b| b.iter(|| data.seal_with_aws(&aws_key)));
    group.finish();

    // Whoever sealed last, the bytes are the same, so everyone can open them.
    let mut group = c.benchmark_group(format!("open/{count} x {len} B"));
    group.throughput(bytes);
    group.bench_function("memcpy", |b| b.iter(|| data.copy_back()));
    for implementation in aead::all() {
        implementation.seal(&key, &mut data.unsealed());
        group.bench_function(BenchmarkId::from_parameter(implementation.name()), |b| {
            b.iter(|| implementation.open(&key, &mut data.sealed()).unwrap());
        });
    }
    group.bench_function("aws-lc", |b| b.iter(|| data.open_with_aws(&aws_key)));
    group.finish();
}

/// A request's worth of messages: contiguous plaintext on one side, contiguous ciphertext on the
/// other.
struct Batch {
    len: usize,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    nonces: Vec<Nonce>,
    tags: Vec<Tag>,
}

impl Batch {
    fn new(len: usize, count: usize) -> Self {
        let nonces = (0..count as u64).map(|index| {
            let mut nonce = Nonce::default();
            nonce[..8].copy_from_slice(&index.to_le_bytes());
            nonce
        });
        Self {
            len,
            plaintext: vec![0x17; len * count],
            ciphertext: vec![0x71; len * count],
            nonces: nonces.collect(),
            tags: vec![[0; TAG_LEN]; count],
        }
    }

    fn copy(&mut self) {
        black_box(&mut self.ciphertext[..]).copy_from_slice(black_box(&self.plaintext));
    }

    fn copy_back(&mut self) {
        black_box(&mut self.plaintext[..]).copy_from_slice(black_box(&self.ciphertext));
    }

    fn unsealed(&mut self) -> Vec<Seal<'_>> {
        let plaintexts = self.plaintext.chunks_exact(self.len);
        let ciphertexts = self.ciphertext.chunks_exact_mut(self.len);
        let heads = self.nonces.iter().zip(&mut self.tags);
        let messages = plaintexts.zip(ciphertexts).zip(heads);
        messages
            .map(|((plaintext, ciphertext), (nonce, tag))| Seal {
                nonce,
                aad: AAD,
                plaintext,
                ciphertext,
                tag,
            })
            .collect()
    }

    fn sealed(&mut self) -> Vec<Open<'_>> {
        let plaintexts = self.plaintext.chunks_exact_mut(self.len);
        let ciphertexts = self.ciphertext.chunks_exact(self.len);
        let heads = self.nonces.iter().zip(&self.tags);
        let messages = plaintexts.zip(ciphertexts).zip(heads);
        messages
            .map(|((plaintext, ciphertext), (nonce, tag))| Open {
                nonce,
                aad: AAD,
                ciphertext,
                plaintext,
                tag,
            })
            .collect()
    }

    fn encrypt_only(&mut self, key: &EncryptingKey) {
        let plaintexts = self.plaintext.chunks_exact(self.len);
        for (plaintext, ciphertext) in plaintexts.zip(self.ciphertext.chunks_exact_mut(self.len)) {
            ciphertext.copy_from_slice(plaintext);
            let counter = EncryptionContext::Iv128(FixedLength::from([0; 16]));
            key.less_safe_encrypt(ciphertext, counter).unwrap();
        }
    }

    fn seal_with_aws(&mut self, key: &aws::LessSafeKey) {
        for message in self.unsealed() {
            message.ciphertext.copy_from_slice(message.plaintext);
            let nonce = aws::Nonce::assume_unique_for_key(*message.nonce);
            let tag = key.seal_in_place_separate_tag(nonce, aws::Aad::from(AAD), message.ciphertext).unwrap();
            message.tag.copy_from_slice(tag.as_ref());
        }
    }

    fn open_with_aws(&mut self, key: &aws::LessSafeKey) {
        for message in self.sealed() {
            let nonce = aws::Nonce::assume_unique_for_key(*message.nonce);
            key.open_separate_gather(
                nonce,
                aws::Aad::from(AAD),
                message.ciphertext,
                message.tag,
                message.plaintext,
            )
            .unwrap();
        }
    }
}
