//! Parsers of bytes that somebody else may have written, over kept seeds and random mutations of
//! them: none panics, none takes much memory, and what is read is written again as it was.
//!
//! `KMSFS_PARSER_MUTATIONS` sets how many mutations of each seed are tried; a failure names the
//! target, the seed and the number of the mutation.
#![allow(clippy::unwrap_used, clippy::panic)]

mod seeds;
mod targets;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Resource, Rlimit, setrlimit};

/// Mutations of each seed.
const MUTATIONS: u64 = 400;
/// The same of a key store, each of which is opened as a file.
const FEW_MUTATIONS: u64 = 40;
/// Bytes of address space that all of it may take.
const MEMORY: u64 = 2 << 30;
/// Longest mutation in bytes.
const LONGEST: usize = 20_000;

#[test]
fn parsers_take_whatever_they_are_given() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) }).unwrap();
    let asked = std::env::var("KMSFS_PARSER_MUTATIONS").ok().map(|count| count.parse::<u64>().unwrap());
    for (target, parse) in targets::TARGETS {
        let seeds = targets::seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        let usual = if matches!(target, "store" | "slot") { FEW_MUTATIONS } else { MUTATIONS };
        for (name, seed) in &seeds {
            for number in 0..=asked.unwrap_or(usual) {
                let (_, other) = &seeds[number as usize % seeds.len()];
                let bytes = mutated(seed, other, number);
                let parsed = catch_unwind(AssertUnwindSafe(|| parse(&bytes)));
                assert!(parsed.is_ok(), "{target}: mutation {number} of {name}: {bytes:?}");
            }
        }
    }
}

/// The `number`th mutation of a seed; the seed itself is number 0.
fn mutated(seed: &[u8], other: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % end.max(1)
    };
    let changes = if number == 0 { 0 } else { 1 + below(4) };
    for _ in 0..changes {
        let at = below(bytes.len() + 1);
        match below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, below(256) as u8),
            2 => bytes.extend_from_slice(&other[below(other.len() + 1)..]),
            3 => {
                let end = bytes.len().min(at + 1 + below(40));
                bytes.drain(at..end);
            }
            4 => {
                let (from, len) = (below(other.len() + 1), below(64));
                let part = other[from..].iter().take(len).copied();
                bytes.splice(at..at, part).for_each(drop);
            }
            5 => {
                let value = [0, 1, 0x7f, 0x80, 0xff][below(5)];
                bytes.iter_mut().skip(at).take(1 + below(8)).for_each(|byte| *byte = value);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(8);
                }
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
