//! Reads and writes of one file that overlap.

use std::sync::Arc;

use kmsfs::sync::atomic::{AtomicU32, Ordering};
use kmsfs::sync::{RangeLock, thread};

use crate::explore::{explore, pause};
use crate::sealed::{PAYLOAD, Sealed};

const P: u64 = PAYLOAD as u64;

#[test]
fn overlapping_ranges_exclude_each_other_and_nobody_waits_for_ever() {
    explore(3000, || {
        let state = Arc::new((RangeLock::default(), [const { AtomicU32::new(0) }; 4]));
        let threads =
            [(0, 2, true), (1, 4, true), (0, 3, false), (3, 4, false)].map(|(from, to, exclusive)| {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    let (lock, inside) = &*state;
                    let range = from..to;
                    let _guard = if exclusive { lock.exclusive(range) } else { lock.shared(range) };
                    let weight = if exclusive { 1000 } else { 1 };
                    for cell in &inside[from as usize..to as usize] {
                        let others = cell.fetch_add(weight, Ordering::SeqCst);
                        assert!(others == 0 || !exclusive && others < 1000, "{others}");
                    }
                    pause();
                    for cell in &inside[from as usize..to as usize] {
                        cell.fetch_sub(weight, Ordering::SeqCst);
                    }
                })
            });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn two_who_write_parts_of_a_chunk_both_succeed() {
    explore(1500, || {
        let file = Arc::new(Sealed::create());
        let halves = [(0, 1), (P / 2, 2)].map(|(at, byte)| {
            let file = Arc::clone(&file);
            thread::spawn(move || file.write(at, &[byte; PAYLOAD / 2]))
        });
        halves.into_iter().for_each(|half| half.join().unwrap());
        let written = file.read(0, 2 * PAYLOAD);
        assert_eq!(written, [[1; PAYLOAD / 2], [2; PAYLOAD / 2]].concat());
    });
}

#[test]
fn a_read_sees_all_of_a_write_or_nothing() {
    explore(1500, || {
        let file = Arc::new(Sealed::create());
        file.write(0, &[1; 2 * PAYLOAD]);
        let writing = {
            let file = Arc::clone(&file);
            thread::spawn(move || file.write(0, &[2; 2 * PAYLOAD]))
        };
        let read = file.read(0, 2 * PAYLOAD);
        assert!(
            read.len() == 2 * PAYLOAD && read.iter().all(|byte| *byte == read[0]),
            "a write was seen in part"
        );
        writing.join().unwrap();
    });
}

#[test]
fn two_who_let_the_file_grow_both_succeed() {
    explore(1500, || {
        let file = Arc::new(Sealed::create());
        let writers = [(P / 2, 1), (2 * P + 5, 2)].map(|(at, byte)| {
            let file = Arc::clone(&file);
            thread::spawn(move || file.write(at, &[byte; PAYLOAD]))
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let mut expected = vec![0; PAYLOAD / 2];
        expected.resize(PAYLOAD * 3 / 2, 1);
        expected.resize(2 * PAYLOAD + 5, 0);
        expected.resize(3 * PAYLOAD + 5, 2);
        assert!(file.read(0, 4 * PAYLOAD) == expected);
    });
}
