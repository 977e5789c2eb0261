//! Settling a file that others use meanwhile.

use std::sync::Arc;

use kmsfs::sync::thread;

use crate::explore::explore;
use crate::sealed::{FAR, PAYLOAD, Sealed};

const P: u64 = PAYLOAD as u64;
const LAST: u64 = 3 * P;
const FAR_AT: u64 = FAR * P;

/// A settled file of ones in its first two chunks and in the one at `last`, and the epoch of
/// whatever is written from now on.
fn settled_file(last: u64) -> (Arc<Sealed>, u32) {
    let file = Sealed::create();
    file.write(0, &[1; 2 * PAYLOAD]);
    file.write(last, &[1; PAYLOAD]);
    assert!(file.settle());
    file.sync();
    file.crashed();
    let epoch = file.epoch();
    (Arc::new(file), epoch)
}

/// Does all this at once, and settles when it is done.
fn all_at_once(file: &Arc<Sealed>, work: &[fn(&Sealed)]) {
    let spawn = |work: fn(&Sealed), file: Arc<Sealed>| thread::spawn(move || work(&file));
    let threads: Vec<_> = work.iter().map(|work| spawn(*work, Arc::clone(file))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(file.settle(), "nobody is in the way");
    assert!(file.is_settled());
}

/// The byte that the whole of a chunk holds.
fn filled(chunk: &[u8]) -> u8 {
    assert!(chunk.iter().all(|byte| *byte == chunk[0]), "a chunk is torn");
    chunk[0]
}

/// After a crash each chunk is old or new.
fn assert_survives_crashes(file: &Sealed, chunks: &[(u64, &[u8])]) {
    for crashed in file.crashed() {
        for (at, allowed) in chunks {
            let chunk = crashed.read(*at, PAYLOAD);
            assert!(chunk.is_empty() || allowed.contains(&filled(&chunk)), "{} after a crash", chunk[0]);
        }
    }
}

fn settle(file: &Sealed) {
    file.settle();
}

#[test]
fn what_is_written_meanwhile_is_kept_and_vouched_for() {
    explore(800, || {
        let (file, epoch) = settled_file(LAST);
        all_at_once(
            &file,
            &[
                |file| file.write(0, &[2; PAYLOAD]),
                |file| file.write(LAST, &[2; PAYLOAD]),
                |file| assert!([1, 2].contains(&filled(&file.read(0, PAYLOAD)))),
                settle,
            ],
        );
        for at in [0, LAST] {
            assert_eq!(filled(&file.reopened().read(at, PAYLOAD)), 2);
            for outcome in file.replayed(epoch, at, PAYLOAD) {
                assert!(
                    outcome.is_err() || outcome.is_ok_and(|read| filled(&read) == 2),
                    "an old copy was taken"
                );
            }
        }
        assert_survives_crashes(&file, &[(0, &[1, 2]), (P, &[1]), (LAST, &[1, 2])]);
    });
}

#[test]
fn two_may_settle_at_once() {
    explore(200, || {
        let (file, epoch) = settled_file(FAR_AT);
        file.write(FAR_AT, &[2; PAYLOAD]);
        all_at_once(&file, &[settle, settle, |file| file.write(FAR_AT, &[3; PAYLOAD])]);
        assert_eq!(filled(&file.reopened().read(FAR_AT, PAYLOAD)), 3);
        for outcome in file.replayed(epoch, FAR_AT, PAYLOAD) {
            assert!(
                outcome.is_err() || outcome.is_ok_and(|read| filled(&read) == 3),
                "an old copy was taken"
            );
        }
        assert_survives_crashes(&file, &[(0, &[1]), (FAR_AT, &[1, 2, 3])]);
    });
}

#[test]
fn a_file_may_be_cut_and_grow_meanwhile() {
    explore(800, || {
        let (file, _) = settled_file(LAST);
        all_at_once(
            &file,
            &[
                |file| file.truncate(P / 2),
                |file| file.write(2 * P, &[3; PAYLOAD]),
                |file| assert!([0, 1].contains(file.read(P / 2, 1).first().unwrap_or(&0))),
                settle,
            ],
        );
        let reopened = file.reopened();
        let mut expected = vec![1; PAYLOAD / 2];
        match reopened.size() {
            size if size == P / 2 => {}
            size => {
                assert_eq!(size, 3 * P);
                expected.resize(2 * PAYLOAD, 0);
                expected.resize(3 * PAYLOAD, 3);
            }
        }
        assert!(
            reopened.read(0, 4 * PAYLOAD) == expected,
            "what was cut off is gone, what was written is there"
        );
        for crashed in file.crashed() {
            assert_eq!(filled(&crashed.read(0, PAYLOAD / 2)), 1);
            assert!([0, 1].contains(crashed.read(P, 1).first().unwrap_or(&0)));
            assert!([0, 3].contains(crashed.read(2 * P, 1).first().unwrap_or(&0)));
        }
    });
}

#[test]
fn holes_may_be_punched_meanwhile() {
    explore(600, || {
        let (file, epoch) = settled_file(LAST);
        all_at_once(
            &file,
            &[
                |file| file.punch(0, P),
                |file| file.write(0, &[2; PAYLOAD]),
                |file| file.punch(LAST, LAST + P),
                settle,
            ],
        );
        let first = filled(&file.reopened().read(0, PAYLOAD));
        assert!([0, 2].contains(&first));
        assert_eq!(filled(&file.reopened().read(LAST, PAYLOAD)), 0);
        for outcome in file.replayed(epoch, 0, PAYLOAD) {
            assert!(
                outcome.is_err() || outcome.is_ok_and(|read| filled(&read) == first),
                "an old copy was taken"
            );
        }
        assert_survives_crashes(&file, &[(0, &[0, 1, 2]), (P, &[1]), (LAST, &[0, 1])]);
    });
}
