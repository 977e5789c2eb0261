//! The end of a version: who may, in which state, and what stays.

use super::*;
use crate::kms::api::{NoteVolumeRequest, RetireKeyVersionRequest};
use crate::kms::state::{KeyManager, KeyState};
use crate::kms::watch::{VolumeFiles, WrappedFiles};

const VOLUME: &str = "6f0c5a0e-0000-4000-8000-000000000001";

impl World {
    fn retire(&self, key: &KeyMetadata, key_version: u32, leave_out: &[&str]) -> Result<(), KmsError> {
        let request = RetireKeyVersionRequest {
            key_id: key.key_id.to_string(),
            key_version,
            leave_out: leave_out.iter().map(|id| (*id).to_owned()).collect(),
        };
        self.service().retire_key_version(&self.caller, &request).map(drop)
    }

    /// Makes a volume known that has so many files under version 1 of a key.
    fn note(&self, key: &KeyMetadata, files: u64, open: bool) {
        let wrapped = WrappedFiles { key_arn: key.arn.clone(), key_version: 1, files, bytes: 0 };
        let files = VolumeFiles { certain: true, counting: false, wrapped: vec![wrapped] };
        let note = NoteVolumeRequest { volume_id: VOLUME.to_owned(), path: "/v".to_owned(), open, files };
        self.service().note_volume(&self.caller, &note).unwrap();
    }

    fn make_volume(&self) {
        let request = CreateKeyRequest {
            description: format!("kmsfs volume {VOLUME}"),
            manager: KeyManager::Internal,
            ..CreateKeyRequest::default()
        };
        self.service().create_key(&self.caller, &request).unwrap();
    }
}

fn kind(result: Result<(), KmsError>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_retired_version_stays_listed_and_unwraps_nothing_for_ever() {
    let mut world = World::new();
    let key = world.key();
    let [old, new] = [true, false].map(|first| {
        let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
        if first {
            world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
        }
        made
    });
    world.retire(&key, 1, &[]).unwrap();
    for _ in 0..2 {
        let opened = world.service().decrypt_data_key(&world.caller, &old.blob, &context());
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound);
        let opened = world.service().decrypt_data_key(&world.caller, &new.blob, &context()).unwrap();
        assert_eq!(opened.plaintext, new.plaintext);
        // It is done, and may be asked for again.
        world.retire(&key, 1, &[]).unwrap();
        world.reopen();
    }
}

#[test]
fn a_version_is_retired_in_every_state_but_one() {
    let world = World::new();
    for (state, refused) in [
        (KeyState::Enabled, None),
        (KeyState::Disabled, None),
        (KeyState::PendingImport, None),
        (KeyState::Unavailable, None),
        (KeyState::PendingDeletion, Some(ErrorKind::InvalidState)),
    ] {
        let key = world.key();
        world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
        world.service().force_state(&key.key_id, state);
        assert_eq!(kind(world.retire(&key, 1, &[])), refused, "{state}");
    }
}

#[test]
fn only_an_old_version_can_be_retired() {
    let world = World::new();
    let key = world.key();
    for version in [0, 1, 2] {
        assert_eq!(kind(world.retire(&key, version, &[])), Some(ErrorKind::Validation), "{version}");
    }
}

#[test]
fn a_volume_that_needs_it_or_may_need_it_keeps_a_version() {
    let world = World::new();
    let key = world.key();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    world.make_volume();
    assert_eq!(kind(world.retire(&key, 1, &[])), Some(ErrorKind::InvalidState), "never heard of");
    world.note(&key, 0, true);
    assert_eq!(kind(world.retire(&key, 1, &[])), Some(ErrorKind::InvalidState), "in use");
    world.note(&key, 1, false);
    assert_eq!(kind(world.retire(&key, 1, &[])), Some(ErrorKind::InvalidState), "a file");
    assert_eq!(kind(world.retire(&key, 1, &["another"])), Some(ErrorKind::Validation));
    world.note(&key, 0, false);
    world.retire(&key, 1, &[]).unwrap();
}

#[test]
fn whoever_may_not_unwrap_a_volumes_own_key_does_not_speak_for_it() {
    let world = World::new();
    world.make_volume();
    let somebody = super::access::user(61_000);
    assert!(world.service().speaks_for(&world.caller, VOLUME));
    assert!(!world.service().speaks_for(&somebody, VOLUME));
    // A volume that was made elsewhere, which nobody here can contradict.
    assert!(world.service().speaks_for(&somebody, "elsewhere"));
}
