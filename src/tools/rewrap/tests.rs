use std::cell::RefCell;

use super::*;

const A: &str = "arn:aws:kms:local:000000000000:key/a";
const B: &str = "arn:aws:kms:local:000000000000:key/b";

/// A directory of files by inode number.
#[derive(Default)]
struct Fake {
    files: RefCell<BTreeMap<u64, Wrapping>>,
    /// Files that refuse, and with what.
    refuses: BTreeMap<u64, i32>,
    flushes: RefCell<u32>,
    assigned: RefCell<Vec<String>>,
}

fn by(key: &str, version: u32) -> Wrapping {
    Wrapping { key_arn: key.to_owned(), key_version: version }
}

fn fake(files: &[(u64, Wrapping)]) -> Fake {
    Fake { files: RefCell::new(files.iter().cloned().collect()), ..Fake::default() }
}

fn place(ino: u64, kind: FileKind) -> Place {
    Place { path: PathBuf::from(ino.to_string()), ino, kind }
}

impl Tree for Fake {
    fn each(&self, _: &Place, visit: &mut Visit<'_>) -> io::Result<ControlFlow<()>> {
        let inos: Vec<u64> = self.files.borrow().keys().copied().collect();
        let mut places = inos.into_iter().map(|ino| place(ino, FileKind::Regular));
        Ok(places.try_for_each(visit))
    }

    fn wrapping(&self, place: &Place) -> io::Result<Wrapping> {
        let absent = || io::Error::from_raw_os_error(libc::ENODATA);
        self.files.borrow().get(&place.ino).cloned().ok_or_else(absent)
    }

    fn wrap(&self, file: &Place, key: &str) -> io::Result<()> {
        if let Some(errno) = self.refuses.get(&file.ino) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let mut files = self.files.borrow_mut();
        let wrapping = files.get_mut(&file.ino).unwrap();
        if !key.is_empty() {
            key.clone_into(&mut wrapping.key_arn);
        }
        wrapping.key_version = newest(&wrapping.key_arn).unwrap();
        Ok(())
    }

    fn assign(&self, _: &Place, key: &str) -> io::Result<()> {
        self.assigned.borrow_mut().push(key.to_owned());
        Ok(())
    }

    fn reencryption(&self, _: &Place) -> io::Result<Option<Progress>> {
        Ok(None)
    }

    fn hold<'t>(&'t self, file: &Place) -> io::Result<Box<dyn Held + 't>> {
        Ok(Box::new(FakeHeld { tree: self, ino: file.ino, steps: RefCell::new(3) }))
    }

    fn flush(&self, _: &Place) -> io::Result<()> {
        *self.flushes.borrow_mut() += 1;
        Ok(())
    }
}

fn newest(arn: &str) -> Result<u32, i32> {
    match arn {
        A => Ok(3),
        B => Ok(1),
        _ => Err(libc::EKEYREJECTED),
    }
}

fn run(tree: &Fake, goal: &Goal) -> Outcome {
    let top = place(0, FileKind::Directory);
    rewrap(tree, &top, goal, &mut newest, None, &Tally::new(true), &AtomicBool::new(false))
}

const ALL: Goal = Goal::Newest { key: None, older_than: None };

#[test]
fn what_is_old_is_wrapped_anew_once_and_flushed_and_the_last_pass_proves_it() {
    let tree = fake(&[(1, by(A, 1)), (2, by(A, 3)), (3, by(B, 1)), (4, by(A, 2))]);
    let outcome = run(&tree, &ALL);
    assert!(outcome.is_complete());
    assert_eq!((outcome.rewrapped, *tree.flushes.borrow()), (2, 1));
    assert_eq!(outcome.found, HashMap::from([(by(A, 3), 3), (by(B, 1), 1)]));
    let again = run(&tree, &ALL);
    assert_eq!((again.rewrapped, *tree.flushes.borrow()), (0, 1), "nothing is left to do");
}

#[test]
fn a_selection_leaves_other_keys_and_newer_versions_alone() {
    let files = [(1, by(A, 1)), (2, by(A, 2)), (3, by("gone", 1))];
    let tree = fake(&files);
    let outcome = run(&tree, &Goal::Newest { key: Some(A.to_owned()), older_than: Some(2) });
    assert!(outcome.is_complete());
    assert_eq!(outcome.rewrapped, 1);
    let after: Vec<Wrapping> = tree.files.borrow().values().cloned().collect();
    assert_eq!(after, [by(A, 3), by(A, 2), by("gone", 1)]);
}

#[test]
fn what_cannot_be_wrapped_is_named_with_its_reason_and_the_rest_is_done() {
    let mut tree = fake(&[(1, by(A, 1)), (2, by(A, 1)), (3, by("gone", 1)), (4, by(A, 2))]);
    tree.refuses = BTreeMap::from([(2, libc::EKEYREVOKED), (4, libc::ENOENT)]);
    let outcome = run(&tree, &ALL);
    assert!(!outcome.is_complete());
    assert_eq!(outcome.rewrapped, 1);
    let left: Vec<_> = outcome.left.iter().map(|left| (left.path.to_str().unwrap(), left.errno)).collect();
    assert_eq!(left, [("2", libc::EKEYREVOKED), ("3", libc::EKEYREJECTED)], "what went away is no loss");
}

#[test]
fn another_key_is_also_assigned_to_directories() {
    let tree = fake(&[(1, by(A, 3)), (2, by(B, 1))]);
    let outcome = run(&tree, &Goal::Under(B.to_owned()));
    assert!(outcome.is_complete());
    assert_eq!((outcome.rewrapped, outcome.found), (1, HashMap::from([(by(B, 1), 2)])));
    assert_eq!(tree.assigned.borrow()[0], B);
}

#[test]
fn a_signal_ends_it_before_the_next_file() {
    let tree = fake(&[(1, by(A, 1))]);
    let top = place(0, FileKind::Directory);
    let stop = AtomicBool::new(true);
    let outcome = rewrap(&tree, &top, &ALL, &mut newest, None, &Tally::new(false), &stop);
    assert!(outcome.cancelled && outcome.rewrapped == 0 && !outcome.is_complete());
}

#[test]
fn no_more_files_a_second_than_allowed() {
    let files: Vec<_> = (1..=20).map(|ino| (ino, by(A, 1))).collect();
    let tree = fake(&files);
    let begin = Instant::now();
    let top = place(0, FileKind::Directory);
    let stop = AtomicBool::new(false);
    rewrap(&tree, &top, &ALL, &mut newest, Some(100), &Tally::new(false), &stop);
    assert!(begin.elapsed() >= Duration::from_millis(190), "took {:?}", begin.elapsed());
}

/// A file that takes three steps.
struct FakeHeld<'t> {
    tree: &'t Fake,
    ino: u64,
    steps: RefCell<u64>,
}

impl Held for FakeHeld<'_> {
    fn begin(&self, key: &str) -> io::Result<()> {
        self.tree.wrap(&place(self.ino, FileKind::Regular), key)
    }

    fn step(&self) -> io::Result<Option<Progress>> {
        let mut left = self.steps.borrow_mut();
        if *left == 0 {
            return Ok(None);
        }
        *left -= 1;
        Ok(Some(Progress { done: 300 - *left * 100, size: 300 }))
    }
}

fn reencrypt_all(tree: &Fake, limit: Option<u64>, stop: bool) -> Reencrypted {
    let top = place(0, FileKind::Directory);
    reencrypt(tree, &top, B, limit, &Tally::new(true), &AtomicBool::new(stop))
}

#[test]
fn every_file_gets_one_new_data_key_in_a_run_however_often_it_is_met() {
    let tree = fake(&[(1, by(A, 1)), (2, by(B, 1)), (3, by(A, 3))]);
    let outcome = reencrypt_all(&tree, None, false);
    assert!(outcome.is_complete());
    assert_eq!((outcome.files, outcome.bytes), (3, 900), "the second walk found nothing new");
    assert!(tree.files.borrow().values().all(|wrapping| *wrapping == by(B, 1)));
    assert_eq!((tree.assigned.borrow()[0].as_str(), *tree.flushes.borrow()), (B, 1));
}

#[test]
fn what_cannot_be_reencrypted_is_named_once_and_the_rest_is_done() {
    let mut tree = fake(&[(1, by(A, 1)), (2, by(A, 1)), (3, by(A, 2))]);
    tree.refuses = BTreeMap::from([(2, libc::EKEYREVOKED), (3, libc::ENOENT)]);
    let outcome = reencrypt_all(&tree, None, false);
    assert!(!outcome.is_complete());
    assert_eq!((outcome.files, outcome.left_count), (1, 1), "what went away is no loss");
    assert_eq!((outcome.left[0].path.to_str(), outcome.left[0].errno), (Some("2"), libc::EKEYREVOKED));
}

#[test]
fn a_signal_ends_a_reencryption_and_a_limit_slows_it() {
    let tree = fake(&[(1, by(A, 1))]);
    assert!(reencrypt_all(&tree, None, true).cancelled);
    let begin = Instant::now();
    assert!(reencrypt_all(&tree, Some(1500), false).is_complete());
    assert!(begin.elapsed() >= Duration::from_millis(190), "took {:?}", begin.elapsed());
}
