//! Sealing and opening of batches.

use zeroize::Zeroize;

use super::isa::Isa;
use super::keys::{GROUP, GroupKeys, MasterKey, MessageKeys, STRIDE};
use super::text::{Division, Hash, KeyStream, load, strides};
use crate::crypto::aead::{Open, OpenError, Seal, Tag};
use crate::secret::KEY_LEN;

/// A message is encrypted while the one this many after it is hashed. One would do for hashing
/// and encrypting to go on side by side; with two, neither waits for the tag in between.
const LAG: usize = 2;

/// The keys of a batch on their way through a kernel; erased when dropped.
pub(super) struct Scratch<Groups: ?Sized = [GroupKeys]> {
    master: MasterKey,
    groups: Groups,
}

/// For a batch of one group, or for one of any size that is opened. To make and erase the longer
/// one takes as long as to seal some hundred bytes.
pub(super) type Short = Scratch<[GroupKeys; 1]>;
/// For a batch of any size: two groups by turns, as one is still encrypted when the next one is
/// hashed already.
pub(super) type Long = Scratch<[GroupKeys; 2]>;

impl<const N: usize> Scratch<[GroupKeys; N]> {
    pub(super) const fn new() -> Self {
        Self { master: MasterKey::new(), groups: [const { GroupKeys::new() }; N] }
    }
}

/// Seals a batch: one of more than a group with room for two. `ALL` is `GROUP` divided by the
/// blocks in a vector.
///
/// A message is read twice, as the tag is the first counter: the second time while it is in the
/// cache, together with the first time of a later message.
#[inline(always)]
pub(super) fn seal<I: Isa, const ALL: usize>(
    isa: I,
    scratch: &mut Scratch,
    key: &[u8; KEY_LEN],
    batch: &mut [Seal<'_>],
) {
    let Scratch { master, groups } = scratch;
    master.expand(isa, key);
    for step in 0..batch.len() + LAG {
        let (before, after) = batch.split_at_mut(step.min(batch.len()));
        if step % GROUP == 0 && !after.is_empty() {
            let group = &after[..after.len().min(GROUP)];
            let longest = group.iter().map(|message| message.plaintext.len()).max().unwrap_or(0);
            let nonces = group.iter().map(|message| message.nonce);
            let turn = turn(groups, step);
            groups[turn].derive::<I, ALL>(isa, master, nonces, strides(isa, longest));
        }
        let hashed = after.first_mut();
        let encrypted = step.checked_sub(LAG).and_then(|index| before.get_mut(index));
        match (hashed, encrypted) {
            (Some(hashed), Some(encrypted)) => {
                let old = keys(groups, step - LAG);
                hash_and_encrypt(isa, keys(groups, step), hashed, old, encrypted);
            }
            (Some(hashed), None) => hash(isa, keys(groups, step), hashed),
            (None, Some(encrypted)) => encrypt(isa, keys(groups, step - LAG), encrypted),
            (None, None) => {}
        }
    }
}

/// Which of the groups' keys a message's are among.
#[inline(always)]
fn turn(groups: &[GroupKeys], index: usize) -> usize {
    // One or two.
    (index / GROUP) & (groups.len() - 1)
}

#[inline(always)]
fn keys(groups: &[GroupKeys], index: usize) -> MessageKeys<'_> {
    groups[turn(groups, index)].message(index % GROUP)
}

/// Sets a message's tag.
#[inline(always)]
fn hash<I: Isa>(isa: I, keys: MessageKeys<'_>, message: &mut Seal<'_>) {
    let at = Division::of(isa, message.plaintext.len());
    let mut hash = begin_hash(isa, keys, message, at);
    hash.add_body(&message.plaintext[at.head..at.whole]);
    *message.tag = hash.tag(message.nonce, &message.plaintext[at.whole..], message.aad.len(), at.len);
}

#[inline(always)]
fn begin_hash<'k, I: Isa>(isa: I, keys: MessageKeys<'k>, message: &Seal<'_>, at: Division) -> Hash<'k, I> {
    let mut hash = Hash::new(isa, keys, message.aad, at.head);
    if at.head > 0 {
        hash.add_head(isa.load_last(&message.plaintext[..at.head]));
    }
    hash
}

/// Encrypts a message whose tag is set.
#[inline(always)]
fn encrypt<I: Isa>(isa: I, keys: MessageKeys<'_>, message: &mut Seal<'_>) {
    let at = Division::of(isa, message.plaintext.len());
    let mut stream = KeyStream::new(isa, keys, message.tag, at.head);
    stream.apply_head(&message.plaintext[..at.head], &mut message.ciphertext[..at.head]);
    let (input, output) = (&message.plaintext[at.head..at.whole], &mut message.ciphertext[at.head..at.whole]);
    stream.apply_body(input, output);
    stream.apply_rest(&message.plaintext[at.whole..], &mut message.ciphertext[at.whole..]);
}

/// [`hash`] of one message and [`encrypt`] of another, in steps by turns.
#[inline(always)]
fn hash_and_encrypt<I: Isa>(
    isa: I,
    hash_keys: MessageKeys<'_>,
    hashed: &mut Seal<'_>,
    stream_keys: MessageKeys<'_>,
    encrypted: &mut Seal<'_>,
) {
    let hash_at = Division::of(isa, hashed.plaintext.len());
    let mut hash = begin_hash(isa, hash_keys, hashed, hash_at);
    let text = &hashed.plaintext[hash_at.head..hash_at.whole];

    let at = Division::of(isa, encrypted.plaintext.len());
    let mut stream = KeyStream::new(isa, stream_keys, encrypted.tag, at.head);
    stream.apply_head(&encrypted.plaintext[..at.head], &mut encrypted.ciphertext[..at.head]);
    let input = &encrypted.plaintext[at.head..at.whole];
    let output = &mut encrypted.ciphertext[at.head..at.whole];

    let group = STRIDE * I::BYTES;
    let both = text.len().min(input.len()) / group * group;
    let groups = text[..both].chunks_exact(group);
    let groups = groups.zip(input[..both].chunks_exact(group)).zip(output[..both].chunks_exact_mut(group));
    for ((text, input), output) in groups {
        stream.apply::<STRIDE>(input, output);
        hash.add(&load::<I, STRIDE>(isa, text));
    }
    hash.add_body(&text[both..]);
    *hashed.tag = hash.tag(hashed.nonce, &hashed.plaintext[hash_at.whole..], hashed.aad.len(), hash_at.len);
    stream.apply_body(&input[both..], &mut output[both..]);
    stream.apply_rest(&encrypted.plaintext[at.whole..], &mut encrypted.ciphertext[at.whole..]);
}

/// Opens a batch. `ALL` is `GROUP` divided by the blocks in a vector.
///
/// A message is decrypted and hashed in one pass.
///
/// # Errors
/// A message is not authentic. No plaintext of the batch is left then.
#[inline(always)]
pub(super) fn open<I: Isa, const ALL: usize>(
    isa: I,
    scratch: &mut Scratch,
    key: &[u8; KEY_LEN],
    batch: &mut [Open<'_>],
) -> Result<(), OpenError> {
    let Scratch { master, groups } = scratch;
    let keys = &mut groups[0];
    master.expand(isa, key);
    // Gathered over the whole batch, so that only its outcome shows in the time that it takes.
    let mut difference = 0;
    for group in batch.chunks_mut(GROUP) {
        let longest = group.iter().map(|message| message.ciphertext.len()).max().unwrap_or(0);
        let nonces = group.iter().map(|message| message.nonce);
        keys.derive::<I, ALL>(isa, master, nonces, strides(isa, longest));
        for (index, message) in group.iter_mut().enumerate() {
            let tag = decrypt(isa, keys.message(index), message);
            difference |= u128::from_ne_bytes(tag) ^ u128::from_ne_bytes(*message.tag);
        }
    }
    if difference == 0 {
        return Ok(());
    }
    for message in batch {
        message.plaintext.zeroize();
    }
    Err(OpenError)
}

/// Decrypts a message and returns the tag that it ought to have.
#[inline(always)]
fn decrypt<I: Isa>(isa: I, keys: MessageKeys<'_>, message: &mut Open<'_>) -> Tag {
    let at = Division::of(isa, message.ciphertext.len());
    let mut hash = Hash::new(isa, keys, message.aad, at.head);
    let mut stream = KeyStream::new(isa, keys, message.tag, at.head);
    if at.head > 0 {
        stream.apply_head(&message.ciphertext[..at.head], &mut message.plaintext[..at.head]);
        hash.add_head(isa.load_last(&message.plaintext[..at.head]));
    }
    let (input, output) = (&message.ciphertext[at.head..at.whole], &mut message.plaintext[at.head..at.whole]);
    let (input, output) = decrypt_groups::<I, STRIDE>(&mut stream, &mut hash, input, output);
    let (input, output) = decrypt_groups::<I, 4>(&mut stream, &mut hash, input, output);
    let (input, output) = decrypt_groups::<I, 2>(&mut stream, &mut hash, input, output);
    decrypt_groups::<I, 1>(&mut stream, &mut hash, input, output);
    stream.apply_rest(&message.ciphertext[at.whole..], &mut message.plaintext[at.whole..]);
    hash.tag(message.nonce, &message.plaintext[at.whole..], message.aad.len(), at.len)
}

/// Decrypts as many groups of `N` vectors as there are; returns what is left.
#[inline(always)]
fn decrypt_groups<'t, I: Isa, const N: usize>(
    stream: &mut KeyStream<'_, I>,
    hash: &mut Hash<'_, I>,
    input: &'t [u8],
    output: &'t mut [u8],
) -> (&'t [u8], &'t mut [u8]) {
    let whole = input.len() / (N * I::BYTES) * (N * I::BYTES);
    let (input, input_left) = input.split_at(whole);
    let (output, output_left) = output.split_at_mut(whole);
    for (input, output) in input.chunks_exact(N * I::BYTES).zip(output.chunks_exact_mut(N * I::BYTES)) {
        hash.add(&stream.apply::<N>(input, output));
    }
    (input_left, output_left)
}
