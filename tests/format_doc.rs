//! `docs/FORMAT.md` and the program say the same: every constant that the page names, every offset
//! that it draws.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;

use kmsfs::chunk::{Memory, Opened, SealedFile};
use kmsfs::codec::Reader;
use kmsfs::crypto::kdf::{Kdf, sha256};
use kmsfs::crypto::wrap::{self, open_into, seal_with};
use kmsfs::format::floors::{DIRECT, ENTRIES, INLINE, ROOTS_2, ROOTS_3, TABLE_LEN};
use kmsfs::format::head::{self, HEAD_LEN, Head, Kind};
use kmsfs::format::layout::{self, Layout, MapPage};
use kmsfs::format::page::{HEAD_COPY_OFFSET, Page};
use kmsfs::format::schedule::{FileKeys, VolumeKeys, labels, seal_previous};
use kmsfs::format::slot::{self, SLOT_OFFSETS, Wrapped};
use kmsfs::format::state::{self, DirectoryState, FileState, STATE_LEN, VolumeState};
use kmsfs::format::{self, Id, PAGE_LEN, unit};
use kmsfs::secret::Key;
use kmsfs::{fs, kms, names};

/// A field: where it begins and how long it is.
type Field = (usize, usize);

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).unwrap()
}

/// The cells of all rows of the tables whose header row has these cells.
fn rows(header: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page().lines() {
        let cells: Vec<String> =
            line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        if !line.starts_with('|') {
            inside = false;
        } else if inside && !cells[0].starts_with("---") {
            found.push(cells);
        } else if cells == header {
            inside = true;
        }
    }
    assert!(!found.is_empty(), "the page has no table {header:?}");
    found
}

/// The fields of the drawing called `what`, by the first words of their description. Fields of
/// fixed length must follow one another without a gap.
fn fields(what: &str) -> BTreeMap<String, Field> {
    let mut next = 0;
    let mut found = BTreeMap::new();
    for row in rows(&["offset", "length", what]) {
        let (Ok(offset), Ok(len)) = (row[0].parse::<usize>(), row[1].parse::<usize>()) else { continue };
        assert_eq!(offset, next, "{what}: {}", row[2]);
        next = offset + len;
        let name = row[2].split([':', ',', ';']).next().unwrap().to_owned();
        found.insert(name, (offset, len));
    }
    found
}

/// Bytes that the fields of a drawing cover.
fn len_of(fields: &BTreeMap<String, Field>) -> usize {
    fields.values().map(|(offset, len)| offset + len).max().unwrap()
}

fn bytes<'a>(from: &'a [u8], field: &Field) -> &'a [u8] {
    &from[field.0..field.0 + field.1]
}

fn number(from: &[u8], field: &Field) -> u64 {
    bytes(from, field).iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

#[test]
fn every_constant_has_the_value_that_the_page_gives() {
    macro_rules! numbers {
        ($($($part:ident)::+ $([$at:literal])?),* $(,)?) => {
            [$((
                concat!(stringify!($($part)::+) $(, "[", $at, "]")?),
                ($($part)::+ $([$at])? as u64).to_string(),
            )),*]
        };
    }
    macro_rules! texts {
        ($($($part:ident)::+),* $(,)?) => {
            [$((
                stringify!($($part)::+),
                format!("`{}`", String::from_utf8(AsRef::<[u8]>::as_ref(&$($part)::+).to_vec()).unwrap()),
            )),*]
        };
    }
    let numbers = numbers![
        format::VERSION,
        format::KNOWN_FEATURES,
        format::PAGE_LEN,
        format::head::HEAD_LEN,
        format::head::CHECKED_LEN,
        format::head::CHECKSUM_LEN,
        format::page::HEAD_COPY_OFFSET,
        format::slot::SLOT_LEN,
        format::slot::SLOT_OFFSETS[0],
        format::slot::SLOT_OFFSETS[1],
        format::slot::PUBLIC_LEN,
        format::slot::CHECKED_LEN,
        format::slot::WRAPPED_AREA_LEN,
        format::slot::COMMITMENT_LEN,
        format::slot::SEALED_STATE_LEN,
        format::slot::SLOT_CHECKSUM_LEN,
        format::state::STATE_LEN,
        format::state::MAX_KEY_REFERENCE_LEN,
        format::state::UNSETTLED,
        format::state::LOWERED,
        format::state::REENCRYPTING,
        format::state::CLEAN,
        format::state::ALL_SETTLED,
        format::unit::AAD_LEN,
        format::layout::UNIT_HEAD_LEN,
        format::layout::DEFAULT_UNIT_SHIFT,
        format::layout::MAX_UNIT_SHIFT,
        format::layout::Layout::MAX_CHUNKS,
        format::floors::INLINE,
        format::floors::DIRECT,
        format::floors::ROOTS_2,
        format::floors::ROOTS_3,
        format::floors::ENTRIES,
        format::floors::TABLE_LEN,
        format::index::INDEX_VERSION,
        format::index::INDEX_HEAD_LEN,
        format::index::MAX_INDEX_LEN,
        names::MAX_NAME_LEN,
        names::target::MAX_TARGET_LEN,
        names::MAX_SIDECAR_LEN,
        kms::OVERHEAD,
        kms::DATA_KEY_BLOB_LEN,
        kms::MAX_BLOB,
    ];
    let texts = texts![
        format::VOLUME_NAME,
        format::VOLUME_COPY_NAME,
        format::DIRECTORY_NAME,
        format::index::INDEX_NAME,
        names::target::TARGETS_NAME,
        format::RESERVED_PREFIX,
        format::SEALED_XATTR_PREFIX,
        format::slot::LABEL,
        format::unit::CHUNK_LABEL,
        format::unit::MAP_LABEL,
        format::schedule::labels::CONTENT,
        format::schedule::labels::HEADER,
        format::schedule::labels::XATTR,
        format::schedule::labels::PREVIOUS_KEY,
        format::schedule::labels::COMMITMENT,
        format::schedule::labels::VOLUME_HEADER,
        format::schedule::labels::VOLUME_COMMITMENT,
        format::schedule::labels::DIRECTORY_RECORD,
        format::schedule::labels::NAMES,
        format::schedule::labels::SYMLINKS,
        format::schedule::labels::XATTR_NAMES,
        format::schedule::labels::DIRECTORY_XATTR,
        format::schedule::labels::INDEX,
        names::LONG_PREFIX,
        names::SIDECAR_SUFFIX,
        fs::KEY_XATTR,
        fs::INFO_XATTR,
        fs::INDEX_XATTR,
        fs::REENCRYPT_XATTR,
    ];
    let spaceless = |name: &str| name.replace(' ', "");
    let ours: BTreeMap<String, String> =
        numbers.into_iter().chain(texts).map(|(name, value)| (spaceless(name), value)).collect();
    let drawn: BTreeMap<String, String> = rows(&["constant", "value"])
        .into_iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
        .collect();
    assert_eq!(drawn, ours);
}

#[test]
fn the_page_is_divided_as_drawn() {
    let page = fields("page");
    assert_eq!(page["head"], (0, HEAD_LEN));
    assert_eq!(page["slot 0"], (SLOT_OFFSETS[0], slot::SLOT_LEN));
    assert_eq!(page["slot 1"], (SLOT_OFFSETS[1], slot::SLOT_LEN));
    assert_eq!(page["copy of the head"], (HEAD_COPY_OFFSET, HEAD_LEN));
    assert_eq!(len_of(&page), PAGE_LEN);
    assert_eq!(len_of(&fields("head")), HEAD_LEN);
    assert_eq!(len_of(&fields("slot")), slot::SLOT_LEN);
    assert_eq!(len_of(&fields("file state")), STATE_LEN);
    assert_eq!(len_of(&fields("unit")), PAGE_LEN);
    assert_eq!(len_of(&fields("associated data")), unit::AAD_LEN);
}

#[test]
fn a_page_has_its_fields_where_they_are_drawn() {
    let mut head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
    head.unit_shift = 14;
    let arn = "arn:aws:kms:local:000000000000:key/x";
    let wrapped = Wrapped { key_arn: arn.into(), key_version: 0x0102_0304, blob: vec![9; 98] };
    let key = || Key::take_from(&mut [5; 32]);
    let state = [7; STATE_LEN];
    let previous = [4; 60];
    let built = Page::build(&head, 0x1122, &wrapped, &[6; 32], Some(&previous), &state, &key());
    let bytes_on_disk = built.unwrap();

    let f = fields("head");
    let drawn_head = &bytes_on_disk[..HEAD_LEN];
    assert_eq!(bytes(drawn_head, &f["magic"]), b"KMSFS\r\n\x1a");
    assert_eq!(bytes(drawn_head, &f["magic"]), head::MAGIC);
    assert_eq!(number(drawn_head, &f["format version"]), 1);
    assert_eq!(number(drawn_head, &f["kind"]), Kind::File as u64);
    assert_eq!(number(drawn_head, &f["unit shift"]), 14);
    assert_eq!(number(drawn_head, &f["feature flags"]), 0);
    assert_eq!(bytes(drawn_head, &f["volume id"]), [1; 16]);
    assert_eq!(bytes(drawn_head, &f["object id"]), [2; 16]);
    assert_eq!(bytes(drawn_head, &f["birth directory"]), [3; 16]);
    assert_eq!(bytes(drawn_head, &f["zero"]), [0; 416]);
    assert_eq!(bytes(drawn_head, &f["checksum"]), sha256(&[&drawn_head[..f["checksum"].0]]));
    assert_eq!(bytes_on_disk[HEAD_COPY_OFFSET..], *drawn_head);

    let f = fields("slot");
    for at in SLOT_OFFSETS {
        let slot = &bytes_on_disk[at..at + slot::SLOT_LEN];
        assert_eq!(number(slot, &f["sequence"]), 0x1122);
        assert_eq!(number(slot, &f["key version"]), 0x0102_0304);
        assert_eq!(bytes(slot, &f["commitment"]), [6; 32]);
        let mut area = Reader::new(bytes(slot, &f["wrapped key"]));
        assert_eq!(area.string16().unwrap(), arn.as_bytes());
        assert_eq!(area.string16().unwrap(), [9; 98]);
        assert_eq!(area.string16().unwrap(), previous);
        assert!(area.rest().iter().all(|&b| b == 0));
        assert_eq!(bytes(slot, &f["checksum"]), &sha256(&[&slot[..f["checksum"].0]])[..16]);
        // Sealed as described: label, head and the public part are its associated data.
        let aad = [b"kmsfs v1 slot", drawn_head, &slot[..f["sealed state"].0]].concat();
        let mut opened = [0; STATE_LEN];
        open_into(&key(), &aad, bytes(slot, &f["sealed state"]), &mut opened).unwrap();
        assert_eq!(opened, state);
    }
}

#[test]
fn kinds_have_the_numbers_that_are_drawn() {
    let drawn: Vec<(String, u64)> =
        rows(&["kind", "value"]).into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect();
    let ours = [("file", Kind::File), ("volume", Kind::Volume), ("directory", Kind::Directory)];
    assert_eq!(drawn, ours.map(|(name, kind)| (name.to_owned(), kind as u64)));
}

#[test]
fn states_have_their_fields_where_they_are_drawn() {
    let mut file = FileState::new(0x0506);
    file.size = 0x1_0000_0001;
    file.min_size = 77;
    file.lowered = true;
    file.settled_epoch = 0x0304;
    file.new_key_since = 0x0203;
    for (at, floor) in file.floors.iter_mut().enumerate() {
        *floor = at as u32 + 1;
    }
    let sealed = file.encode();
    let f = fields("file state");
    assert_eq!(number(&sealed, &f["size"]), file.size);
    assert_eq!(number(&sealed, &f["minimum size"]), 77);
    assert_eq!(
        number(&sealed, &f["flags"]),
        u64::from(state::UNSETTLED | state::LOWERED | state::REENCRYPTING)
    );
    assert_eq!(number(&sealed, &f["epoch"]), 0x0506);
    assert_eq!(number(&sealed, &f["settled epoch"]), 0x0304);
    assert_eq!(number(&sealed, &f["first epoch of the present data key"]), 0x0203);
    let mut first = 0;
    for (name, count) in [
        ("floors of chunks 0 to 127", INLINE),
        ("floors of level-1 map pages 0 to 31", DIRECT),
        ("floors of level-2 map pages 0 to 7", ROOTS_2),
        ("floors of level-3 map pages 0 to 3", ROOTS_3),
    ] {
        let (offset, len) = f[name];
        assert_eq!(len as u64, 4 * count, "{name}");
        assert_eq!(number(&sealed, &(offset, 4)), first + 1, "{name}");
        first += count;
    }
    assert_eq!(first, TABLE_LEN as u64);

    let volume = VolumeState {
        epochs_reserved: 512,
        clean: true,
        all_settled: true,
        unclean_since: -2,
        default_key: "arn:aws:kms:a".into(),
    };
    let sealed = volume.encode().unwrap();
    let f = fields("volume state");
    assert_eq!(number(&sealed, &f["reserved epochs"]), 512);
    assert_eq!(number(&sealed, &f["flags"]), u64::from(state::CLEAN | state::ALL_SETTLED));
    assert_eq!(number(&sealed, &f["unclean since"]).cast_signed(), -2);
    assert_eq!(number(&sealed, &f["*n*"]), 13);
    assert_eq!(&sealed[18..18 + 13], b"arn:aws:kms:a");

    let directory = DirectoryState { assigned_key: "arn".into() };
    let sealed = directory.encode().unwrap();
    assert_eq!(number(&sealed, &fields("directory state")["*n*"]), 3);
    assert_eq!(&sealed[2..5], b"arn");
}

#[test]
fn a_unit_is_sealed_as_drawn() {
    let data_key = Key::take_from(&mut [4; 32]);
    let (volume, file_id) = (Id([1; 16]), Id([2; 16]));
    let head = Head::new(Kind::File, volume, file_id, Id([3; 16]));
    let Opened { file, keys } =
        SealedFile::create(Memory::default(), head, &data_key, Wrapped::default(), 9).unwrap();
    let next = |epoch: u32| Ok::<_, kmsfs::chunk::ChunkError>(epoch + 1);
    file.write(&keys, 0, &vec![0x5a; 4064 + 10], next).unwrap();
    let disk = file.backing().snapshot();

    let f = fields("unit");
    let second = &disk[2 * PAGE_LEN..3 * PAGE_LEN];
    assert_eq!(number(second, &f["epoch"]), 9);
    let aad_fields = fields("associated data");
    let mut aad = [0; unit::AAD_LEN];
    let mut put = |name: &str, value: &[u8]| {
        let (offset, len) = aad_fields[name];
        aad[offset..offset + len].copy_from_slice(value);
    };
    put("label", b"KMC1");
    put("epoch", &9u32.to_le_bytes());
    put("place", &1u64.to_le_bytes());
    assert_eq!(aad, unit::chunk_aad(1, 9));

    // The content key as the page derives it.
    let kdf = Kdf::new(&data_key, &file_id.0);
    let content = kdf.key(&[b"kmsfs v1 content", &volume.0]);
    let sealed =
        [bytes(second, &f["nonce"]), bytes(second, &f["ciphertext"]), bytes(second, &f["tag"])].concat();
    let mut plaintext = vec![0; f["ciphertext"].1];
    open_into(&content, &aad, &sealed, &mut plaintext).unwrap();
    assert_eq!(plaintext[..10], [0x5a; 10]);
    assert!(plaintext[10..].iter().all(|&b| b == 0), "the last chunk is padded with zeros");
    // The end of the file: two units and ten bytes.
    assert_eq!(disk.len(), 3 * PAGE_LEN + 10);
    assert!(disk[3 * PAGE_LEN..].iter().all(|&b| b == 0));
}

#[test]
fn keys_are_derived_as_drawn() {
    let key = || Key::take_from(&mut [8; 32]);
    let (volume, object) = (Id([1; 16]), Id([2; 16]));
    let file = FileKeys::derive(&key(), volume, object);
    let from_data_key = |label: &[u8]| Kdf::new(&key(), &object.0).key(&[label, &volume.0]);
    let ours = VolumeKeys::derive(&key(), volume);
    let from_volume_key = |info: &[&[u8]]| Kdf::new(&key(), &volume.0).key(info);
    let names_key = ours.names(object);
    // What it seals is bound to volume and file once more.
    let (previous, aad) =
        (from_data_key(labels::PREVIOUS_KEY), [labels::PREVIOUS_KEY, &volume.0, &object.0].concat());
    let sealed = seal_previous(&key(), volume, object, &Key::take_from(&mut [9; 32])).unwrap();
    assert_eq!(wrap::unwrap(&previous, &aad, &sealed).unwrap(), Key::take_from(&mut [9; 32]));
    let derived: [(&[u8], &str, &Key, Key); 11] = [
        (labels::CONTENT, "‖ volume id", &file.content, from_data_key(labels::CONTENT)),
        (labels::HEADER, "‖ volume id", &file.header, from_data_key(labels::HEADER)),
        (labels::XATTR, "‖ volume id", &file.xattr, from_data_key(labels::XATTR)),
        (labels::PREVIOUS_KEY, "‖ volume id", &previous, from_data_key(labels::PREVIOUS_KEY)),
        (labels::VOLUME_HEADER, "", &ours.header, from_volume_key(&[labels::VOLUME_HEADER])),
        (labels::DIRECTORY_RECORD, "", &ours.directory, from_volume_key(&[labels::DIRECTORY_RECORD])),
        (labels::NAMES, "‖ directory id", &names_key, from_volume_key(&[labels::NAMES, &object.0])),
        (labels::SYMLINKS, "", &ours.symlinks, from_volume_key(&[labels::SYMLINKS])),
        (labels::INDEX, "", &ours.index, from_volume_key(&[labels::INDEX])),
        (labels::XATTR_NAMES, "", &ours.xattr_names, from_volume_key(&[labels::XATTR_NAMES])),
        (labels::DIRECTORY_XATTR, "", &ours.directory_xattr, from_volume_key(&[labels::DIRECTORY_XATTR])),
    ];
    let drawn: Vec<String> = rows(&["from", "info", "key"]).into_iter().map(|row| row[1].clone()).collect();
    for (label, behind, program, page) in &derived {
        assert_eq!(*program, page);
        let label = std::str::from_utf8(label).unwrap();
        assert!(drawn.contains(&format!("`{label}` {behind}").trim().to_owned()), "{label}");
    }
    assert_eq!(drawn.len(), derived.len() + 2, "and two commitments");
    assert_eq!(file.commitment, *from_data_key(labels::COMMITMENT).expose());
    assert_eq!(ours.commitment, *from_volume_key(&[labels::VOLUME_COMMITMENT]).expose());
}

#[test]
fn names_are_sealed_as_described() {
    let key = Key::take_from(&mut [8; 32]);
    let mut padded = *b"a.txt\0\0\0\0\0\0\0\0\0\0\0";
    let mut sealed = [0; 12 + 16 + 16];
    seal_with(&key, &[0; 12], b"kmsfs v1 name", &padded, &mut sealed);
    let base64url = data_encoding::BASE64URL_NOPAD;
    assert_eq!(names::seal(&key, b"a.txt").name, base64url.encode(&sealed[12..]));
    assert!(names::seal(&key, &[b'x'; 160]).sidecar.is_none());
    assert!(names::seal(&key, &[b'x'; 161]).sidecar.is_some());

    let target = names::target::seal(&key, b"a.txt").unwrap();
    open_into(&key, b"kmsfs v1 symlink", &target, &mut padded).unwrap();
    assert_eq!(&padded, b"a.txt\0\0\0\0\0\0\0\0\0\0\0");
}

/// Labels that only their module knows must stand in its source, and on the page.
#[test]
fn labels_of_other_modules_are_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, code, drawn) in [
        ("src/names/mod.rs", r#"b"kmsfs v1 name""#, "`kmsfs v1 name`"),
        ("src/names/target.rs", r#"b"kmsfs v1 symlink""#, "`kmsfs v1 symlink`"),
        ("src/names/target.rs", r#""kmsfs.target.""#, "`kmsfs.target.`"),
        ("src/fs/sealed_xattr.rs", r#"b"kmsfs v1 xattr""#, "`kmsfs v1 xattr`"),
        ("src/fs/sealed_xattr.rs", r#"[LABEL, b" value ", &object.0, name]"#, "‖ ` value ` ‖ id ‖ *name*"),
        ("src/fs/directory.rs", r#""user.kmsfs.dir""#, "`user.kmsfs.dir`"),
        ("src/fs/volume.rs", "EPOCH_BATCH: u32 = 256", "with a count 256 above it"),
        ("src/fs/volume.rs", "CLOCK_SLACK: i64 = 3600", "an hour before"),
        ("src/kms/schedule.rs", r#"b"kmsfs kms blob v1\0""#, "`kmsfs kms blob v1` ‖ one zero byte"),
    ] {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(source.contains(code), "{file} has no {code}");
        assert!(page().contains(drawn), "the page has no {drawn}");
    }
}

#[test]
fn units_map_pages_and_sizes_lie_where_the_samples_say() {
    let layout = Layout::default();
    let parse = |text: &str| text.parse::<u64>().unwrap();
    for row in rows(&["chunk", "offset of its unit"]) {
        assert_eq!(layout.unit_offset(parse(&row[0])), parse(&row[1]), "chunk {}", row[0]);
    }
    for row in rows(&["map page", "offset"]) {
        let (level, index) = row[0].trim_start_matches("level ").split_once(", ").unwrap();
        let page = MapPage { level: level.parse().unwrap(), index: parse(index) };
        assert_eq!(layout.map_offset(page), parse(&row[1]), "{page:?}");
    }
    for row in rows(&["size", "length"]) {
        assert_eq!(layout.physical_size(parse(&row[0])), parse(&row[1]), "size {}", row[0]);
        assert_eq!(layout.logical_size(parse(&row[1])), Some(parse(&row[0])), "length {}", row[1]);
    }
    assert_eq!(layout::PAGE, PAGE_LEN as u64);
    assert_eq!(ENTRIES * 4 + layout::UNIT_HEAD_LEN as u64, layout::PAGE);
}

/// The blob's drawing ends where the program says that a blob of no plaintext does.
#[test]
fn the_blob_is_as_long_as_drawn() {
    let f = fields("blob");
    assert_eq!(len_of(&f), kms::OVERHEAD - 16);
    let mut blob = vec![0; kms::DATA_KEY_BLOB_LEN];
    let mut put = |name: &str, value: &[u8]| {
        let (offset, len) = f[name];
        blob[offset..offset + len].copy_from_slice(value);
    };
    put("version", &[1]);
    put("key store id", &[2; 16]);
    put("master key id", &[3; 16]);
    put("material version", &4u32.to_le_bytes());
    put("algorithm", &[1]);
    let parsed = kms::Blob::parse(&blob).unwrap();
    assert_eq!(parsed.head.store.as_bytes(), &[2; 16]);
    assert_eq!(parsed.head.key.as_bytes(), &[3; 16]);
    assert_eq!(parsed.head.version, 4);
    assert_eq!(parsed.plaintext_len(), 32);
}

/// The backup that is kept for ever lies as drawn, from both ends.
#[test]
fn a_backup_lies_as_drawn() {
    let f = fields("backup");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/backup-v1");
    let bytes = std::fs::read(path).unwrap();
    let at = |name: &str| {
        let (offset, len) = f[name];
        &bytes[offset..offset + len]
    };
    assert_eq!(at("magic"), b"KMSFSBAK");
    assert_eq!(at("format version"), 1u32.to_le_bytes());
    let mut r = Reader::new(&bytes[f["length of the program's version"].0..]);
    assert_eq!(r.string16().unwrap(), b"0.1.0");
    assert!(r.string16().unwrap().starts_with(b"KMSFSKEY"));
    let (next, slots) = (r.u32().unwrap(), r.u32().unwrap());
    assert_eq!((next, slots), (3, 3));
    for (number, kind) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(r.u32().unwrap(), number);
        let len = r.u32().unwrap() as usize;
        assert_eq!(r.bytes(len).unwrap()[0], kind);
    }
    // Three keys and an alias; four versions of material.
    for (rows, sealed_len) in [(4, None), (4, Some(12 + 32 + 16))] {
        assert_eq!(r.u32().unwrap(), rows);
        for _ in 0..rows {
            r.bytes(32).unwrap();
            let len = r.u32().unwrap() as usize;
            assert!(sealed_len.is_none_or(|expected| expected == len));
            r.bytes(len).unwrap();
        }
    }
    let (covered, checksum) = bytes.split_at(bytes.len() - 32);
    assert_eq!(r.rest().len(), 28 + 32);
    assert_eq!(sha256(&[covered]), checksum);
}
