//! Every parser of bytes that somebody else may have written, as a function of those bytes. Each
//! holds what it reads against its encoder, where there is one.
//!
//! `tests/parsers.rs` runs them over kept seeds and mutations of those, the targets in `fuzz/` over
//! whatever libFuzzer finds.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kmsfs::format::PAGE_LEN;
use kmsfs::format::floors::ENTRIES;
use kmsfs::format::head::{CHECKED_LEN, HEAD_LEN, Head, Kind};
use kmsfs::format::layout::{MapPage, UNIT_HEAD_LEN};
use kmsfs::format::page::{HEAD_COPY_OFFSET, Page};
use kmsfs::format::slot::{self, SLOT_LEN, SLOT_OFFSETS};
use kmsfs::format::state::{DirectoryState, FileState, STATE_LEN, VolumeState};
use kmsfs::format::unit::{EpochBounds, UnitHead, open_map, seal_map};
use kmsfs::kms::policy::{self, Action, ConditionKey, Effect, Facts, Identity, Policy, Verdict};
use kmsfs::kms::wire::{self, Event, EventReply, Reply, Request};
use kmsfs::kms::{Blob, Caller, DATA_KEY_BLOB_LEN, ReceiptKey, SignedReceipt, api};
use kmsfs::mount::MountOptions;
use kmsfs::names::{self, Entry, target};
use kmsfs::provider::Provider;
use kmsfs::secret::Key;
use rustix::fs::XattrFlags;
use serde_json::Value;

use super::world::{World, world};

/// A parser, and the name of its seeds.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code, reason = "each fuzz target uses one")]
pub(crate) const TARGETS: [Target; 15] = [
    ("page", page),
    ("state", state),
    ("map", map),
    ("name", name),
    ("link", link),
    ("xattr", xattr),
    ("blob", blob),
    ("store", store),
    ("slot", unlock_slot),
    ("frame", frame),
    ("request", request),
    ("answer", answer),
    ("options", options),
    ("policy", policy),
    ("receipt", receipt),
];

/// The key that everything here is sealed under.
pub(crate) fn key() -> Key {
    Key::take_from(&mut [5; 32])
}

/// The first bytes, zeros where there are none.
fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = data.len().min(N);
    out[..len].copy_from_slice(&data[..len]);
    out
}

/// A header page, as it is and with its checksums made right.
pub(crate) fn page(data: &[u8]) {
    let mut bytes: [u8; PAGE_LEN] = padded(data);
    look_at_page(&bytes);
    for at in [0, HEAD_COPY_OFFSET] {
        let sum = kmsfs::crypto::kdf::sha256(&[&bytes[at..at + CHECKED_LEN]]);
        bytes[at + CHECKED_LEN..at + HEAD_LEN].copy_from_slice(&sum);
    }
    for at in SLOT_OFFSETS {
        let sum = kmsfs::crypto::kdf::sha256(&[&bytes[at..at + slot::CHECKED_LEN]]);
        bytes[at + slot::CHECKED_LEN..at + SLOT_LEN].copy_from_slice(&sum[..slot::SLOT_CHECKSUM_LEN]);
    }
    look_at_page(&bytes);
}

fn look_at_page(bytes: &[u8; PAGE_LEN]) {
    for kind in [Kind::File, Kind::Volume, Kind::Directory] {
        let Ok(page) = Page::parse(bytes, kind) else { continue };
        assert_eq!(Head::parse(&page.head.encode()), Ok(page.head));
        for slot in page.slots() {
            assert!(slot.wrapped.key_arn.len() + slot.wrapped.blob.len() < slot::WRAPPED_AREA_LEN);
            if let Ok(state) = page.open(slot, &key()) {
                look_at_state(&state);
            }
        }
    }
}

/// What a slot seals, once it is open.
pub(crate) fn state(data: &[u8]) {
    look_at_state(&padded(data));
}

fn look_at_state(bytes: &[u8; STATE_LEN]) {
    if let Ok(state) = FileState::parse(bytes) {
        assert_eq!(FileState::parse(&state.encode()), Ok(state));
    }
    if let Ok(state) = VolumeState::parse(bytes) {
        assert_eq!(VolumeState::parse(&state.encode().unwrap()), Ok(state));
    }
    if let Ok(state) = DirectoryState::parse(bytes) {
        assert_eq!(DirectoryState::parse(&state.encode().unwrap()), Ok(state));
    }
}

/// A unit's head, and a map page as it is and sealed from these floors.
pub(crate) fn map(data: &[u8]) {
    let bytes: [u8; PAGE_LEN] = padded(data);
    let head = UnitHead::parse(&padded::<UNIT_HEAD_LEN>(data));
    assert_eq!(head.is_blank(), bytes[..UNIT_HEAD_LEN].iter().all(|&b| b == 0));
    let page = MapPage { level: 1 + bytes[0] % 3, index: u64::from(bytes[1]) };
    let any = EpochBounds { floor: 0, settled: 0, ceiling: u32::MAX };
    if let Ok(table) = open_map(&key(), page, &bytes, any) {
        assert_eq!(table.len(), ENTRIES as usize);
    }
    let mut floors = [0; ENTRIES as usize];
    for (floor, bytes) in floors.iter_mut().zip(bytes.as_chunks().0) {
        *floor = u32::from_le_bytes(*bytes);
    }
    let sealed = seal_map(&key(), page, 1, &floors).unwrap();
    assert_eq!(open_map(&key(), page, &sealed, any), Ok(floors));
}

/// A backing name, a sidecar, and the same as a name to be sealed.
pub(crate) fn name(data: &[u8]) {
    let stored = OsStr::from_bytes(data);
    if let Entry::Name(name) = names::open(&key(), stored) {
        assert_eq!(names::seal(&key(), &name).name.as_bytes(), data);
    }
    let (own, sidecar) = data.split_at(data.len().min(54));
    let _ = names::open_sidecar(&key(), OsStr::from_bytes(own), sidecar);
    if data.is_empty() || data.len() > names::MAX_NAME_LEN || data.contains(&0) {
        return;
    }
    let sealed = names::seal(&key(), data);
    match &sealed.sidecar {
        None => assert_eq!(names::open(&key(), OsStr::new(&sealed.name)), Entry::Name(data.to_vec())),
        Some(sidecar) => {
            let opened = names::open_sidecar(&key(), OsStr::new(&sealed.name), sidecar);
            assert_eq!(opened.unwrap(), data);
        }
    }
}

/// A backing link's target, a stored target, and the same as a target to be sealed.
pub(crate) fn link(data: &[u8]) {
    if let Ok(link) = target::Link::parse(data) {
        // Hexadecimal digits are all that may differ.
        assert!(link.text().as_bytes().eq_ignore_ascii_case(data));
        if let target::Link::Stored(name) = &link {
            assert!(name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }
    let _ = target::open(&key(), data);
    if !data.is_empty() && data.len() <= target::MAX_TARGET_LEN && data.last() != Some(&0) {
        let sealed = target::seal(&key(), data).unwrap();
        assert_eq!(target::open(&key(), &sealed).unwrap(), data);
    }
}

/// The backing value of an extended attribute.
pub(crate) fn xattr(data: &[u8]) {
    let World { fs, file, backing, attribute, .. } = world();
    if data.len() > 60_000 || rustix::fs::setxattr(backing, attribute, data, XattrFlags::empty()).is_err() {
        return;
    }
    if let Ok(value) = fs.getxattr(*file, OsStr::new("user.seed")) {
        assert_eq!(value, b"a value");
    }
    let listed = fs.listxattr(super::world::me(), *file).unwrap();
    assert!(listed.is_empty() || listed == b"user.seed\0");
}

/// A wrapped key.
pub(crate) fn blob(data: &[u8]) {
    if let Ok(blob) = Blob::parse(data) {
        assert!(blob.plaintext_len() < data.len());
    }
    let context = kmsfs::kms::EncryptionContext::new().with("a", "b");
    if let Ok(opened) = world().provider.unwrap(data, &context) {
        assert_eq!((data.len(), opened.key_version), (DATA_KEY_BLOB_LEN, 1));
    }
}

/// Damage to a key store's file: pairs of an offset and what is there instead.
pub(crate) fn store(data: &[u8]) {
    let world = world();
    let mut bytes = world.store_file.clone();
    for damage in data.as_chunks::<5>().0 {
        let at = u32::from_le_bytes(*damage.first_chunk().unwrap()) as usize % bytes.len();
        bytes[at] = damage[4];
    }
    world.open_store(&bytes);
}

/// A receipt of a deleted key, and the public key that it is verified with.
pub(crate) fn receipt(data: &[u8]) {
    if let Ok(signed) = SignedReceipt::verify(data, None) {
        let text = signed.to_text().unwrap();
        assert_eq!(text.as_bytes(), data.strip_suffix(b"\n").unwrap_or(data));
    }
    if let Some(key) = std::str::from_utf8(data).ok().and_then(ReceiptKey::parse) {
        assert_eq!(ReceiptKey::parse(&key.to_pem()), Some(key));
        assert_eq!(ReceiptKey::parse(&key.to_base64()), Some(key));
    }
}

/// An unlock slot of a key store.
pub(crate) fn unlock_slot(data: &[u8]) {
    // A passphrase's cost is the store's choice, within bounds; it is not tried here.
    if data.first() != Some(&1) {
        world().open_slot(data);
    }
}

/// Frames of the key service's socket.
pub(crate) fn frame(data: &[u8]) {
    fn round<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
        let Ok(message) = wire::read_frame::<T>(&mut &data[..]) else { return };
        let mut frame = Vec::new();
        wire::write_frame(&mut frame, &message).unwrap();
        assert_eq!(wire::read_frame::<T>(&mut &frame[..]).unwrap(), message);
    }
    round::<Request>(data);
    round::<Reply>(data);
    round::<Event>(data);
    round::<EventReply>(data);
}

/// A request to the key service: its target, a line end, its body.
pub(crate) fn request(data: &[u8]) {
    let end = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let target = String::from_utf8_lossy(&data[..end]);
    let body: Value = serde_json::from_slice(data.get(end + 1..).unwrap_or_default()).unwrap_or_default();
    let service = &world().service;
    // Keys and aliases are kept: enough is enough.
    let makes = ["CreateKey", "CreateAlias", "RotateKeyOnDemand"].iter().any(|o| target.ends_with(o));
    if !makes || world().may_make() {
        let _ = wire::dispatch(service, &Caller::current(), &target, &body);
    }
}

/// What a key service answers a mount.
pub(crate) fn answer(data: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(value: &Value) {
        let _ = T::deserialize(value);
    }
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    read::<api::GenerateDataKeyResponse>(&value);
    read::<api::DecryptResponse>(&value);
    read::<api::KeyResponse>(&value);
    read::<api::ListKeysResponse>(&value);
    let error = Reply { status: 400, body: value }.into_result().unwrap_err();
    let wire = error.to_wire();
    assert_eq!(kmsfs::kms::KmsError::from_wire(&wire).to_wire(), wire);
}

/// Options of a mount.
pub(crate) fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lists: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let together = MountOptions::parse(&[lists.join(",")]);
    assert_eq!(MountOptions::parse(&lists), together);
}

/// A key's policy, and what it comes to.
pub(crate) fn policy(data: &[u8]) {
    /// Has two values of every key.
    struct Everything;
    impl Facts for Everything {
        fn values(&self, _: &ConditionKey, found: &mut dyn FnMut(policy::Value<'_>)) {
            found(policy::Value::Text("pay"));
            found(policy::Value::Number(7));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    let identity = Identity::user("000000000000", "alice", "1000", &["staff".to_owned()]);
    let resource = "arn:aws:kms:local:000000000000:key/04eb2118-6bc5-4196-b96d-fb7f8999317b";
    for (action, facts) in
        Action::all().flat_map(|action| [(action, &() as &dyn Facts), (action, &Everything)])
    {
        let request = policy::Request { identity: &identity, action, resource, facts };
        let applies = |effect| {
            policy.explain(&request).iter().any(|one| one.effect == effect && one.mismatches.is_empty())
        };
        let wanted = match (applies(Effect::Deny), applies(Effect::Allow)) {
            (true, _) => Verdict::ExplicitlyDenied,
            (false, true) => Verdict::Allowed,
            (false, false) => Verdict::ImplicitlyDenied,
        };
        assert_eq!(policy.decide(&request).verdict, wanted);
    }
}

/// The seeds of a target, by the names of their files.
#[allow(dead_code, reason = "the fuzz targets have their own way to them")]
pub(crate) fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::fs::File::open(entry.path()).unwrap().read_to_end(&mut bytes).unwrap();
        seeds.push((entry.file_name().into_string().unwrap(), bytes));
    }
    seeds.sort();
    seeds
}
