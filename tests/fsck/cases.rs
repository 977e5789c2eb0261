//! What an adversary or a failing disk can do to a volume, and what a check has to say to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kmsfs::chunk::Backing;
use kmsfs::crypto::kdf::sha256;
use kmsfs::format::layout::{Layout, MapPage};
use rustix::fs::XattrFlags;

use crate::bench::{
    Bench, LEVEL_2_CHUNK, LEVEL_3_CHUNK, PAGE, PAYLOAD, block, fill, flip, long_name, overwrite, unit, write,
};

/// A finding that is expected: where (a path in the volume, or after `:` one below the backing
/// directory; several between `|`), its kind, and the first chunk and their number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expected {
    pub(crate) place: String,
    pub(crate) kind: &'static str,
    pub(crate) chunks: Option<(u64, u64)>,
}

type Expectation = dyn Fn(&Bench) -> Vec<Expected>;

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) damage: Box<dyn Fn(&Bench)>,
    /// Evaluated before the damage is done.
    pub(crate) found: Box<Expectation>,
    /// Kinds found without keys.
    pub(crate) keyless: Vec<&'static str>,
    /// Kinds that a repair leaves.
    pub(crate) left: Vec<&'static str>,
    /// Files whose contents are lost, wholly or in part.
    pub(crate) lost: Vec<&'static str>,
}

fn at(place: impl Into<String>, kind: &'static str) -> Expected {
    Expected { place: place.into(), kind, chunks: None }
}

fn chunks(place: &str, kind: &'static str, first: u64, count: u64) -> Expected {
    Expected { place: place.to_owned(), kind, chunks: Some((first, count)) }
}

/// A backing path, as [`Expected::place`] has it.
fn stored(bench: &Bench, path: &Path) -> String {
    format!(":{}", path.strip_prefix(bench.volume()).unwrap().display())
}

impl Case {
    fn new(
        name: impl Into<String>,
        damage: impl Fn(&Bench) + 'static,
        found: impl Fn(&Bench) -> Vec<Expected> + 'static,
    ) -> Self {
        let (damage, found) = (Box::new(damage), Box::new(found));
        Self { name: name.into(), damage, found, keyless: Vec::new(), left: Vec::new(), lost: Vec::new() }
    }

    /// One finding, which needs no more to be told than where.
    fn one(name: &str, place: &str, kind: &'static str, damage: impl Fn(&Bench) + 'static) -> Self {
        let place = place.to_owned();
        Self::new(name, damage, move |_| vec![at(place.clone(), kind)])
    }

    fn keyless<const N: usize>(self, kinds: [&'static str; N]) -> Self {
        Self { keyless: kinds.into(), ..self }
    }

    fn left<const N: usize>(self, kinds: [&'static str; N]) -> Self {
        Self { left: kinds.into(), ..self }
    }

    fn lost<const N: usize>(self, files: [&'static str; N]) -> Self {
        Self { lost: files.into(), ..self }
    }
}

pub(crate) fn all() -> Vec<Case> {
    [headers(), data(), maps(), lengths(), entries(), directories(), pages(), links(), attributes()]
        .into_iter()
        .flatten()
        .collect()
}

const SLOTS: [usize; 2] = [512, 2048];
const HEADS: [usize; 2] = [0, 3584];

/// Puts a right checksum on a slot, as somebody does who knows the format and no key.
fn fix_slot(page: &mut [u8], slot: usize) {
    let checksum = sha256(&[&page[SLOTS[slot]..SLOTS[slot] + 1520]]);
    page[SLOTS[slot] + 1520..SLOTS[slot] + 1536].copy_from_slice(&checksum[..16]);
}

/// Changes a byte of slots and hides it behind right checksums.
fn forge_slots(file: &Path, slots: &[usize], byte: usize) {
    let mut page = block(file, 0);
    for &slot in slots {
        page[SLOTS[slot] + byte] ^= 1;
        fix_slot(&mut page, slot);
    }
    overwrite(file, 0, &page);
}

/// A byte of the sealed data key within a slot: behind the lengths, the ARN and the blob's head.
fn byte_of_key(file: &Path) -> usize {
    let page = block(file, 0);
    let arn = u16::from_le_bytes([page[SLOTS[0] + 48], page[SLOTS[0] + 49]]);
    48 + 2 + usize::from(arn) + 2 + 60
}

/// Writes to a file in another session, with its settled state from before at hand.
fn rewrite(bench: &Bench, path: &'static str, chunks: &[u64]) -> Vec<u8> {
    let before = block(&bench.backing(path), 0);
    let fs = bench.mount();
    write(&fs, path, chunks);
    fs.shut_down().unwrap();
    before
}

fn headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for place in [HEADS[0] + 20, HEADS[1] + 500, SLOTS[0], SLOTS[0] + 1500, SLOTS[1] + 100, SLOTS[1] + 1530] {
        let damage = move |b: &Bench| flip(&b.backing("small"), place as u64);
        cases.push(
            Case::one(&format!("byte {place} of a header"), "/small", "part-damaged", damage)
                .keyless(["part-damaged"]),
        );
    }
    let both = |places: [usize; 2]| {
        move |b: &Bench| places.iter().for_each(|&at| flip(&b.backing("small"), at as u64 + 9))
    };
    cases.extend([
        Case::one("both slots", "/small", "header-lost", both(SLOTS))
            .keyless(["header-lost"])
            .lost(["small"]),
        Case::one("both heads", "/small", "header-lost", both(HEADS))
            .keyless(["header-lost"])
            .lost(["small"]),
        Case::one("a zeroed header", "/small", "header-lost", |b| {
            overwrite(&b.backing("small"), 0, &[0; PAGE]);
        })
        .keyless(["header-lost"])
        .lost(["small"]),
        Case::one("a forged slot", "/small", "part-damaged", |b| forge_slots(&b.backing("small"), &[0], 800))
            .keyless(["part-damaged"]),
        Case::one("forged slots", "/small", "header-lost", |b| {
            forge_slots(&b.backing("small"), &[0, 1], 800);
        })
        .lost(["small"]),
        Case::one("a forged data key", "/small", "key-forged", |b| {
            let file = b.backing("small");
            forge_slots(&file, &[0, 1], byte_of_key(&file));
        })
        .lost(["small"]),
        Case::one("a data key forged in one slot", "/small", "part-damaged", |b| {
            let file = b.backing("small");
            forge_slots(&file, &[0], byte_of_key(&file));
        })
        .keyless(["part-damaged"]),
        Case::new(
            "the settled header from before a session",
            |b| {
                let before = rewrite(b, "small", &[2]);
                overwrite(&b.backing("small"), 0, &before);
            },
            |_| vec![chunks("/small", "chunks", 2, 1)],
        )
        .left(["chunks"])
        .lost(["small"]),
        Case::one("the unsettled header of a session", "/small", "header-lost", |b| {
            let fs = b.mount();
            write(&fs, "small", &[2]);
            let during = block(&b.backing_of(fs.volume(), "small"), 0);
            fs.shut_down().unwrap();
            drop(fs);
            overwrite(&b.backing("small"), 0, &during);
        })
        .left(["header-lost"])
        .lost(["small"]),
        Case::new(
            "another file's header",
            |b| {
                let page = block(&b.backing("dir/inside"), 0);
                overwrite(&b.backing("small"), 0, &page);
            },
            |_| vec![at("/small|/dir/inside", "duplicate-id"), at("/small", "wrong-length")],
        )
        .keyless(["duplicate-id"])
        .left(["duplicate-id", "wrong-length"])
        .lost(["small"]),
        Case::one("a file of another volume", "/small", "other-volume", |b| {
            let other = Bench::new();
            fill(&other);
            fs::copy(other.backing("small"), b.backing("small")).unwrap();
        })
        .keyless(["other-volume"])
        .lost(["small"]),
        Case::one("a file copied over another", "/small|/tiny", "duplicate-id", |b| {
            fs::copy(b.backing("small"), b.backing("tiny")).unwrap();
        })
        .keyless(["duplicate-id"])
        .left(["duplicate-id"])
        .lost(["tiny"]),
    ]);
    cases
}

fn data() -> Vec<Case> {
    let one = |name: &str, damage: fn(&Bench)| {
        Case::new(name, damage, |_| vec![chunks("/small", "chunks", 1, 1)]).left(["chunks"]).lost(["small"])
    };
    vec![
        one("a chunk's nonce", |b| flip(&b.backing("small"), unit(1))),
        one("a chunk's tag", |b| flip(&b.backing("small"), unit(1) + 20)),
        one("a chunk's epoch", |b| flip(&b.backing("small"), unit(1) + 28)),
        one("a chunk's ciphertext", |b| flip(&b.backing("small"), unit(1) + 4095)),
        one("a zeroed chunk", |b| overwrite(&b.backing("small"), unit(1), &[0; PAGE])),
        one("a punched chunk", |b| {
            let file = File::options().write(true).open(b.backing("small")).unwrap();
            file.punch(unit(1), PAGE as u64).unwrap();
        }),
        one("a chunk of another file", |b| {
            let chunk = block(&b.backing("dir/inside"), unit(1));
            overwrite(&b.backing("small"), unit(1), &chunk);
        }),
        one("an older copy of a chunk", |b| {
            let before = block(&b.backing("small"), unit(1));
            rewrite(b, "small", &[1]);
            overwrite(&b.backing("small"), unit(1), &before);
        }),
        Case::new(
            "two chunks exchanged",
            |b| {
                let file = b.backing("small");
                let (first, second) = (block(&file, unit(1)), block(&file, unit(2)));
                overwrite(&file, unit(1), &second);
                overwrite(&file, unit(2), &first);
            },
            |_| vec![chunks("/small", "chunks", 1, 2)],
        )
        .left(["chunks"])
        .lost(["small"]),
        Case::new(
            "chunks apart from each other",
            |b| {
                [5, 128, 1144].iter().for_each(|&chunk| flip(&b.backing("mapped"), unit(chunk) + 99));
            },
            |_| [5, 128, 1144].map(|chunk| chunks("/mapped", "chunks", chunk, 1)).into(),
        )
        .left(["chunks", "chunks", "chunks"])
        .lost(["mapped"]),
        Case::new(
            "chunks erased at the far end of a sparse file",
            |b| {
                let file = File::options().write(true).open(b.backing("deep")).unwrap();
                file.punch(unit(LEVEL_2_CHUNK), PAGE as u64).unwrap();
                file.punch(unit(LEVEL_3_CHUNK), PAGE as u64).unwrap();
            },
            |_| [LEVEL_2_CHUNK, LEVEL_3_CHUNK].map(|chunk| chunks("/deep", "chunks", chunk, 1)).into(),
        )
        .left(["chunks", "chunks"])
        .lost(["deep"]),
    ]
}

fn map_offset(level: u8, index: u64) -> u64 {
    Layout::default().map_offset(MapPage { level, index })
}

fn maps() -> Vec<Case> {
    let end = LEVEL_3_CHUNK + 1;
    let level_1 = |name: &str, damage: fn(&Bench)| {
        Case::new(name, damage, |_| vec![chunks("/mapped", "map", 128, 1016)]).left(["map"]).lost(["mapped"])
    };
    vec![
        level_1("a map page", |b| flip(&b.backing("mapped"), map_offset(1, 0) + 77)),
        level_1("a zeroed map page", |b| overwrite(&b.backing("mapped"), map_offset(1, 0), &[0; PAGE])),
        level_1("an impossible map page", |b| {
            let mut page = block(&b.backing("mapped"), map_offset(1, 0));
            page[28..32].fill(0);
            overwrite(&b.backing("mapped"), map_offset(1, 0), &page);
        })
        .keyless(["map"]),
        level_1("an older map page", |b| {
            let before = block(&b.backing("mapped"), map_offset(1, 0));
            rewrite(b, "mapped", &[128]);
            overwrite(&b.backing("mapped"), map_offset(1, 0), &before);
        }),
        Case::new(
            "two map pages exchanged",
            |b| {
                let file = b.backing("mapped");
                let (first, second) = (block(&file, map_offset(1, 0)), block(&file, map_offset(1, 1)));
                overwrite(&file, map_offset(1, 0), &second);
                overwrite(&file, map_offset(1, 1), &first);
            },
            |_| vec![chunks("/mapped", "map", 128, 1016), chunks("/mapped", "map", 1144, 1)],
        )
        .left(["map", "map"])
        .lost(["mapped"]),
        Case::new(
            "a map page of level 2",
            |b| flip(&b.backing("deep"), map_offset(2, 0) + 99),
            |_| vec![chunks("/deep", "map", LEVEL_2_CHUNK, 1016 * 1016)],
        )
        .left(["map"])
        .lost(["deep"]),
        Case::new(
            "a map page of level 3, erased with all below it",
            |b| {
                let file = File::options().write(true).open(b.backing("deep")).unwrap();
                file.punch(map_offset(3, 0), unit(LEVEL_3_CHUNK) + PAGE as u64 - map_offset(3, 0)).unwrap();
            },
            move |_| vec![chunks("/deep", "map", LEVEL_3_CHUNK, end - LEVEL_3_CHUNK)],
        )
        .left(["map"])
        .lost(["deep"]),
    ]
}

fn lengths() -> Vec<Case> {
    let set = |path: &'static str, change: i64| {
        move |b: &Bench| {
            let file = File::options().write(true).open(b.backing(path)).unwrap();
            let length = Backing::length(&file).unwrap().checked_add_signed(change).unwrap();
            file.set_len(length).unwrap();
        }
    };
    let one = |name: &str, change: i64| {
        Case::one(name, "/small", "wrong-length", set("small", change)).left(["wrong-length"]).lost(["small"])
    };
    vec![
        one("a file cut by a byte", -1),
        one("a file cut by a chunk", -(PAGE as i64)),
        one("a file lengthened by a chunk", PAGE as i64),
        one("a file of a length that there is not", PAYLOAD as i64 - 100).keyless(["wrong-length"]),
        Case::one("a file cut to nothing", "/small", "header-lost", |b| {
            File::options().write(true).open(b.backing("small")).unwrap().set_len(0).unwrap();
        })
        .keyless(["header-lost"])
        .lost(["small"]),
        Case::one("a file without chunks, lengthened", "/empty", "wrong-length", set("empty", 1))
            .keyless(["wrong-length"])
            .left(["wrong-length"])
            .lost(["empty"]),
    ]
}

fn entries() -> Vec<Case> {
    let moved = |b: &Bench| b.backing("plain").join(b.backing("small").file_name().unwrap());
    let renamed = |b: &Bench| {
        let name = b.backing("small").file_name().unwrap().to_str().unwrap().to_owned();
        let changed = if name.starts_with('A') { "B" } else { "A" };
        b.volume().join(format!("{changed}{}", &name[1..]))
    };
    vec![
        Case::new(
            "a file moved to another directory",
            move |b| fs::rename(b.backing("small"), moved(b)).unwrap(),
            move |b| vec![at(stored(b, &moved(b)), "name-forged")],
        )
        .lost(["small"]),
        Case::new(
            "a name with another letter",
            move |b| fs::rename(b.backing("small"), renamed(b)).unwrap(),
            move |b| vec![at(stored(b, &renamed(b)), "name-forged")],
        )
        .lost(["small"]),
        Case::new(
            "a directory moved to another",
            |b| {
                let sub = b.backing("dir/sub");
                fs::rename(&sub, b.backing("plain").join(sub.file_name().unwrap())).unwrap();
            },
            |b| {
                let to = b.backing("plain").join(b.backing("dir/sub").file_name().unwrap());
                vec![at(stored(b, &to), "name-forged")]
            },
        )
        .lost(["dir/sub/below"]),
        Case::new(
            "a sidecar removed",
            |b| fs::remove_file(b.sidecar(&long_name())).unwrap(),
            |b| vec![at(stored(b, &b.backing(&long_name())), "sidecar-missing")],
        )
        .keyless(["sidecar-missing"]),
        Case::new(
            "a sidecar's contents",
            |b| flip(&b.sidecar(&long_name()), 30),
            |b| vec![at(stored(b, &b.backing(&long_name())), "sidecar-forged")],
        )
        .keyless(["sidecar-forged"]),
        Case::new(
            "a sidecar lengthened",
            |b| overwrite(&b.sidecar(&long_name()), 300, b"x"),
            |b| vec![at(stored(b, &b.backing(&long_name())), "sidecar-forged")],
        )
        .keyless(["sidecar-forged"]),
        Case::new(
            "an entry with a long name removed",
            |b| fs::remove_file(b.backing(&long_name())).unwrap(),
            |b| vec![at(stored(b, &b.sidecar(&long_name())), "sidecar-orphaned")],
        )
        .keyless(["sidecar-orphaned"]),
        Case::new(
            "foreign entries",
            |b| {
                fs::write(b.volume().join("README"), "hello").unwrap();
                fs::create_dir(b.backing("dir").join(".git")).unwrap();
                fs::write(b.volume().join("kmsfs.dir"), "").unwrap();
            },
            |b| {
                vec![
                    at(":README", "foreign"),
                    at(stored(b, &b.backing("dir").join(".git")), "foreign"),
                    at(":kmsfs.dir", "foreign"),
                ]
            },
        )
        .keyless(["foreign", "foreign", "foreign"])
        .left(["foreign", "foreign", "foreign"]),
        Case::one("what a creation left", ":kmsfs.volume.copy.new", "leftover", |b| {
            fs::write(b.volume().join("kmsfs.volume.copy.new"), [1; PAGE]).unwrap();
        })
        .keyless(["leftover"]),
    ]
}

fn directories() -> Vec<Case> {
    let record = |b: &Bench, path: &str| b.backing(path).join("kmsfs.dir");
    let mut cases = Vec::new();
    for place in [HEADS[0] + 20, HEADS[1] + 500, SLOTS[0] + 900, SLOTS[1] + 100] {
        let damage = move |b: &Bench| flip(&record(b, "dir"), place as u64);
        cases.push(
            Case::one(&format!("byte {place} of a record"), "/dir", "part-damaged", damage)
                .keyless(["part-damaged"]),
        );
    }
    for path in ["dir", "dir/sub", "plain", "void"] {
        let damage = move |b: &Bench| fs::remove_file(record(b, path)).unwrap();
        cases.push(
            Case::one(&format!("the record of {path} removed"), &format!("/{path}"), "record-lost", damage)
                .keyless(["record-lost"]),
        );
    }
    cases.extend([
        Case::one("a record with its id's copy removed", "/dir", "record-lost", move |b| {
            fs::remove_file(record(b, "dir")).unwrap();
            rustix::fs::removexattr(b.backing("dir"), "user.kmsfs.dir").unwrap();
        })
        .keyless(["record-lost"]),
        Case::one("both slots of a record", "/dir", "record-lost", move |b| {
            SLOTS.iter().for_each(|&at| flip(&record(b, "dir"), at as u64 + 70));
        })
        .keyless(["record-lost"]),
        Case::one("a forged record", "/dir", "record-lost", move |b| {
            forge_slots(&record(b, "dir"), &[0, 1], 800);
        }),
        Case::new(
            "two records exchanged",
            move |b| {
                let (first, second) = (record(b, "dir"), record(b, "plain"));
                let aside = b.volume().join("aside");
                fs::rename(&first, &aside).unwrap();
                fs::rename(&second, &first).unwrap();
                fs::rename(&aside, &second).unwrap();
            },
            |_| vec![at("/dir", "record-of-another"), at("/plain", "record-of-another")],
        )
        .keyless(["directory-id-differs", "directory-id-differs"]),
        Case::one("the copy of a directory's id", "/dir", "directory-id-differs", |b| {
            rustix::fs::setxattr(b.backing("dir"), "user.kmsfs.dir", &[5; 16], XattrFlags::empty()).unwrap();
        })
        .keyless(["directory-id-differs"]),
    ]);
    cases
}

fn pages() -> Vec<Case> {
    let main = |b: &Bench| b.volume().join("kmsfs.volume");
    let copy = |b: &Bench| b.volume().join("kmsfs.volume.copy");
    let both = move |b: &Bench| -> [PathBuf; 2] { [main(b), copy(b)] };
    let mut cases = Vec::new();
    for place in [HEADS[0] + 20, HEADS[1] + 500, SLOTS[0] + 900, SLOTS[1] + 100] {
        for name in ["kmsfs.volume", "kmsfs.volume.copy"] {
            let damage = move |b: &Bench| flip(&b.volume().join(name), place as u64);
            cases.push(
                Case::one(&format!("byte {place} of {name}"), &format!(":{name}"), "part-damaged", damage)
                    .keyless(["part-damaged"]),
            );
        }
    }
    for name in ["kmsfs.volume", "kmsfs.volume.copy"] {
        let place = format!(":{name}");
        cases.extend([
            Case::one(&format!("{name} removed"), &place, "volume-page-missing", move |b| {
                fs::remove_file(b.volume().join(name)).unwrap();
            })
            .keyless(["volume-page-missing"]),
            Case::one(&format!("{name} zeroed"), &place, "volume-page-damaged", move |b| {
                overwrite(&b.volume().join(name), 0, &[0; PAGE]);
            })
            .keyless(["volume-page-damaged"]),
            Case::one(&format!("{name} forged"), &place, "volume-page-damaged", move |b| {
                forge_slots(&b.volume().join(name), &[0, 1], 1000);
            }),
            Case::one(&format!("{name} from before"), &place, "volume-page-old", move |b| {
                let before = block(&b.volume().join(name), 0);
                rewrite(b, "small", &[1]);
                overwrite(&b.volume().join(name), 0, &before);
            })
            .keyless(["volume-page-old"]),
        ]);
    }
    cases.extend([
        Case::new(
            "both pages damaged in different places",
            move |b| {
                flip(&main(b), SLOTS[0] as u64 + 9);
                flip(&copy(b), HEADS[1] as u64 + 9);
            },
            |_| vec![at(":kmsfs.volume", "part-damaged"), at(":kmsfs.volume.copy", "part-damaged")],
        )
        .keyless(["part-damaged", "part-damaged"]),
        Case::one("pages from a time when it was mounted", ":kmsfs.volume", "not-clean", move |b| {
            let fs = b.mount();
            let during = both(b).map(|page| block(&page, 0));
            write(&fs, "small", &[1]);
            fs.shut_down().unwrap();
            drop(fs);
            both(b).iter().zip(during).for_each(|(page, bytes)| overwrite(page, 0, &bytes));
        }),
        Case::one("pages from before the last mount", "/small", "epochs-behind", move |b| {
            let before = both(b).map(|page| block(&page, 0));
            rewrite(b, "small", &[1]);
            both(b).iter().zip(before).for_each(|(page, bytes)| overwrite(page, 0, &bytes));
        }),
    ]);
    cases
}

fn links() -> Vec<Case> {
    vec![
        Case::one("a link's target", "/short-link", "link-forged", |b| {
            let link = b.backing("short-link");
            let mut text = fs::read_link(&link).unwrap().to_str().unwrap().to_owned();
            text.replace_range(20..21, if &text[20..21] == "A" { "B" } else { "A" });
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink(text, link).unwrap();
        }),
        Case::one("a link to somewhere else", "/short-link", "link-forged", |b| {
            let link = b.backing("short-link");
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        })
        .keyless(["link-forged"]),
        Case::one("a stored target", "/long-link", "link-forged", |b| flip(&b.target("long-link"), 100)),
        Case::one("a stored target cut", "/long-link", "link-forged", |b| {
            File::options().write(true).open(b.target("long-link")).unwrap().set_len(99).unwrap();
        })
        .keyless(["link-forged"]),
        Case::one("a stored target removed", "/long-link", "target-missing", |b| {
            fs::remove_file(b.target("long-link")).unwrap();
        })
        .keyless(["target-missing"]),
        Case::new(
            "a link with a stored target removed",
            |b| fs::remove_file(b.backing("long-link")).unwrap(),
            |b| vec![at(stored(b, &b.target("long-link")), "target-orphaned")],
        )
        .keyless(["target-orphaned"]),
        Case::new(
            "a link copied over another",
            |b| {
                let text = fs::read_link(b.backing("long-link")).unwrap();
                fs::remove_file(b.backing("long-link-2")).unwrap();
                std::os::unix::fs::symlink(text, b.backing("long-link-2")).unwrap();
            },
            |b| {
                let orphan = stored(b, &b.target("long-link-2"));
                vec![at("/long-link|/long-link-2", "target-shared"), at(orphan, "target-orphaned")]
            },
        )
        .keyless(["target-shared", "target-orphaned"])
        .left(["target-shared"]),
    ]
}

/// The one sealed attribute of a backing entry.
fn attribute(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let mut names = vec![0; 4096];
    let len = rustix::fs::listxattr(path, &mut names).unwrap();
    let name = names[..len].split(|&b| b == 0).find(|name| name.starts_with(b"user.kmsfs.x.")).unwrap();
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value).unwrap();
    value.truncate(len);
    (name.to_vec(), value)
}

fn set_attribute(path: &Path, name: &[u8], value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn attributes() -> Vec<Case> {
    let one = |name: &str, place: &str, damage: fn(&Bench)| {
        Case::one(name, place, "attribute-forged", damage).left(["attribute-forged"])
    };
    vec![
        one("a file's attribute", "/small", |b| {
            let (name, mut value) = attribute(&b.backing("small"));
            *value.last_mut().unwrap() ^= 1;
            set_attribute(&b.backing("small"), &name, &value);
        }),
        one("an attribute moved to another file", "/tiny", |b| {
            let (name, value) = attribute(&b.backing("small"));
            set_attribute(&b.backing("tiny"), &name, &value);
        }),
        one("an attribute moved to another directory", "/plain", |b| {
            let (name, value) = attribute(&b.backing("dir"));
            set_attribute(&b.backing("plain"), &name, &value);
        }),
        one("the root's attribute", "/", |b| {
            let (name, mut value) = attribute(&b.volume());
            value[5] ^= 1;
            set_attribute(&b.volume(), &name, &value);
        }),
        one("an attribute under another name", "/small", |b| {
            let (_, value) = attribute(&b.backing("small"));
            set_attribute(&b.backing("small"), b"user.kmsfs.x.AAAAAAAAAAAAAAAAAAAAAA", &value);
        }),
        one("an attribute cut to nothing", "/small", |b| {
            let (name, _) = attribute(&b.backing("small"));
            set_attribute(&b.backing("small"), &name, b"\0");
        })
        .keyless(["attribute-forged"]),
    ]
}
