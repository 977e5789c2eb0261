//! The steps of a round: what is timed, and what is made ready before the clock starts.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::cold::{self, Ciphertext, Left};
use super::scratch::Scratch;
use super::{CacheState, LARGE, MountOperation, MountSpeedOptions, SMALL, Step};

/// The file that is streamed.
const STREAM: &str = "stream";
/// Of how many small requests in the file one is made at random, and how many are made at most.
const SHARE: u64 = 8;
const MOST_RANDOM: u64 = 10_000;

/// What a step came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) operations: u64,
    pub(super) seconds: f64,
    pub(super) cache: Option<CacheState>,
}

/// A place to measure in.
pub(super) struct Bench<'a> {
    scratch: &'a Scratch,
    ciphertext: Option<Ciphertext>,
    /// What was left of it in the worst case; `None` before the first look.
    left: Option<Left>,
    options: MountSpeedOptions,
    stop: &'a AtomicBool,
    /// What is written: nothing that could be compressed, were it stored in plain.
    data: Vec<u8>,
    buffer: Vec<u8>,
    names: Vec<String>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        scratch: &'a Scratch,
        ciphertext: Option<Ciphertext>,
        options: MountSpeedOptions,
        stop: &'a AtomicBool,
    ) -> io::Result<Self> {
        let mut data = vec![0; LARGE as usize];
        getrandom::fill(&mut data).map_err(io::Error::other)?;
        let names = (0..options.files).map(|number| format!("file-{number:06}")).collect();
        let buffer = vec![0; LARGE as usize];
        Ok(Self { scratch, ciphertext, left: None, options, stop, data, buffer, names })
    }

    /// What was left of the ciphertext in memory, in the worst case.
    pub(super) fn ciphertext_left(&self) -> Left {
        self.left.unwrap_or(Left::Unknown)
    }

    /// Does one step. Cut short when it is to stop: the figure means nothing then.
    pub(super) fn run(&mut self, step: Step) -> io::Result<Measured> {
        let request = step.request.unwrap_or(SMALL);
        let cold = step.cold.unwrap_or(false);
        let mut measured = match step.operation {
            MountOperation::SequentialWrite => self.write_stream(request),
            MountOperation::SequentialRead => self.read_stream(request, cold),
            MountOperation::RandomRead => self.read_at_random(cold),
            MountOperation::RandomWrite => self.write_at_random(),
            MountOperation::Create => self.create(),
            MountOperation::Stat => self.stat(),
            MountOperation::ReadSmall => self.read_small(cold),
            MountOperation::Unlink => self.unlink(),
        }?;
        if step.cold == Some(false) && measured.cache.is_none() {
            measured.cache = Some(CacheState::Warm);
        }
        Ok(measured)
    }

    fn write_stream(&self, request: u64) -> io::Result<Measured> {
        self.scratch.unlink_if_any(STREAM)?;
        self.time(None, self.options.size / request, |offsets| {
            let file = self.scratch.create(STREAM)?;
            offsets
                .try_for_each(|index| file.write_all_at(&self.data[..request as usize], index * request))?;
            file.sync_all()
        })
    }

    fn read_stream(&mut self, request: u64, cold: bool) -> io::Result<Measured> {
        let file = self.scratch.open(STREAM)?;
        let cache = if cold { Some(self.forget(&[&file])?) } else { None };
        let mut buffer = std::mem::take(&mut self.buffer);
        let measured = self.time(cache, self.options.size / request, |offsets| {
            let part = &mut buffer[..request as usize];
            offsets.try_for_each(|index| file.read_exact_at(part, index * request))
        });
        self.buffer = buffer;
        measured
    }

    fn read_at_random(&mut self, cold: bool) -> io::Result<Measured> {
        let file = self.scratch.open(STREAM)?;
        let cache = if cold { Some(self.forget(&[&file])?) } else { None };
        let mut buffer = [0; SMALL as usize];
        let places = Places(self.options.size / SMALL);
        self.time(cache, self.random_requests(), |numbers| {
            numbers.try_for_each(|number| file.read_exact_at(&mut buffer, places.offset(number)))
        })
    }

    fn write_at_random(&self) -> io::Result<Measured> {
        let file = self.scratch.open_for_writing(STREAM)?;
        // Other places than were read just now.
        let (places, first) = (Places(self.options.size / SMALL), self.random_requests());
        self.time(None, self.random_requests(), |numbers| {
            numbers.try_for_each(|number| {
                file.write_all_at(&self.data[..SMALL as usize], places.offset(first + number))
            })?;
            file.sync_all()
        })
    }

    fn create(&self) -> io::Result<Measured> {
        self.time(None, u64::from(self.options.files), |numbers| {
            numbers.try_for_each(|number| {
                let file = self.scratch.create(&self.names[number as usize])?;
                file.write_all_at(&self.data[..SMALL as usize], 0)
            })
        })
    }

    fn stat(&mut self) -> io::Result<Measured> {
        // Nothing but this has the kernel forget names and attributes.
        let cache = match self.options.drop_caches {
            true => Some(self.forget(&[])?),
            false => None,
        };
        self.time(cache, u64::from(self.options.files), |numbers| {
            numbers.try_for_each(|number| match self.scratch.size_of(&self.names[number as usize])? {
                SMALL => Ok(()),
                other => Err(io::Error::other(format!("a file has {other} bytes instead of {SMALL}"))),
            })
        })
    }

    fn read_small(&mut self, cold: bool) -> io::Result<Measured> {
        let mut cache = None;
        if cold {
            // One at a time, as there may be more files than may be open.
            let mut worst = CacheState::Cold;
            for name in &self.names {
                let file = self.scratch.open(name)?;
                if cold::forget(&file) != Left::Nothing {
                    worst = CacheState::NotCold;
                }
            }
            cache = Some(worst.max(self.forget(&[])?));
        }
        let mut buffer = [0; SMALL as usize];
        self.time(cache, u64::from(self.options.files), |numbers| {
            numbers.try_for_each(|number| {
                self.scratch.open(&self.names[number as usize])?.read_exact_at(&mut buffer, 0)
            })
        })
    }

    fn unlink(&self) -> io::Result<Measured> {
        self.time(None, u64::from(self.options.files), |numbers| {
            numbers.try_for_each(|number| self.scratch.unlink(&self.names[number as usize]))
        })
    }

    /// Times `work`, which goes through the numbers of its operations; they end early when it is to
    /// stop.
    fn time(
        &self,
        cache: Option<CacheState>,
        operations: u64,
        work: impl FnOnce(&mut Numbers<'_>) -> io::Result<()>,
    ) -> io::Result<Measured> {
        let mut numbers = Numbers { left: 0..operations, stop: self.stop };
        let start = Instant::now();
        work(&mut numbers)?;
        Ok(Measured { operations, seconds: start.elapsed().as_secs_f64(), cache })
    }

    /// Has the kernel forget the files, which are on disk, and all ciphertext in the directory.
    fn forget(&mut self, files: &[&File]) -> io::Result<CacheState> {
        if self.options.drop_caches {
            cold::drop_all()?;
        }
        let plain = files.iter().map(|file| cold::forget(file)).max().unwrap_or(Left::Nothing);
        let sealed = self.ciphertext.as_ref().map_or(Left::Unknown, Ciphertext::forget);
        self.left = self.left.max(Some(sealed));
        Ok(if plain == Left::Nothing { CacheState::Cold } else { CacheState::NotCold })
    }

    fn random_requests(&self) -> u64 {
        (self.options.size / SMALL / SHARE).clamp(1, MOST_RANDOM)
    }
}

/// The numbers of operations, until it is to stop.
struct Numbers<'a> {
    left: Range<u64>,
    stop: &'a AtomicBool,
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.stop.load(Ordering::Relaxed) { None } else { self.left.next() }
    }
}

/// Places of small requests in a file of so many, the same in every run.
struct Places(u64);

impl Places {
    /// The offset of the request of this number: `SplitMix64`'s output function.
    fn offset(&self, number: u64) -> u64 {
        let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % self.0) * SMALL
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn random_places_are_aligned_spread_and_within_the_file() {
        let requests = 4096;
        let offsets: BTreeSet<u64> = (0..1000).map(|number| Places(requests).offset(number)).collect();
        assert!(offsets.len() > 800, "{} different ones", offsets.len());
        assert!(offsets.iter().all(|offset| offset % SMALL == 0 && *offset < requests * SMALL));
        let halves = offsets.iter().filter(|offset| **offset < requests / 2 * SMALL).count();
        assert!((offsets.len() / 3..offsets.len() * 2 / 3).contains(&halves), "{halves} in the first half");
    }
}
