//! Imported material: its ways in, its end, and how the mounts follow.

use jiff::SignedDuration;

use super::*;
use crate::kms::material::{WrappingAlgorithm, wrap_for_import};
use crate::kms::spec::KeySpec;
use crate::kms::state::KeyState;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

impl World {
    pub(super) fn external(&self, spec: KeySpec) -> KeyMetadata {
        let request = CreateKeyRequest {
            key_spec: Some(spec.name().to_owned()),
            key_usage: Some(spec.usages().last().unwrap().name().to_owned()),
            origin: Some("EXTERNAL".to_owned()),
            ..CreateKeyRequest::default()
        };
        self.service().create_key(&self.caller, &request).unwrap()
    }

    fn parameters(
        &self,
        key: &KeyMetadata,
        algorithm: WrappingAlgorithm,
    ) -> Result<GetParametersForImportResponse, KmsError> {
        let request = GetParametersForImportRequest {
            key_id: key.key_id.to_string(),
            wrapping_algorithm: algorithm.name().to_owned(),
            wrapping_key_spec: "RSA_2048".to_owned(),
        };
        self.service().get_parameters_for_import(&self.caller, &request)
    }

    /// An import as it would be asked for: forever, unless it is changed.
    pub(super) fn request(&self, key: &KeyMetadata, material: &[u8]) -> ImportKeyMaterialRequest {
        let algorithm = WrappingAlgorithm::RsaAesKeyWrapSha256;
        let parameters = self.parameters(key, algorithm).unwrap();
        ImportKeyMaterialRequest {
            key_id: key.key_id.to_string(),
            import_token: parameters.import_token,
            encrypted_key_material: wrap_for_import(algorithm, &parameters.public_key, material).unwrap(),
            expiration_model: Some(ExpirationModel::DoesNotExpire),
            ..ImportKeyMaterialRequest::default()
        }
    }

    pub(super) fn import(&self, request: &ImportKeyMaterialRequest) -> Result<ImportResponse, KmsError> {
        self.service().import_key_material(&self.caller, request)
    }

    pub(super) fn delete_material(&self, key: &KeyMetadata) -> Result<ImportResponse, KmsError> {
        let request = DeleteImportedKeyMaterialRequest {
            key_id: key.key_id.to_string(),
            key_material_id: None,
            stop_if_unwritten: false,
        };
        self.service().delete_imported_key_material(&self.caller, &request)
    }
}

pub(super) fn until(request: &ImportKeyMaterialRequest, at: Timestamp) -> ImportKeyMaterialRequest {
    ImportKeyMaterialRequest { valid_to: Some(at), expiration_model: None, ..request.clone() }
}

#[test]
fn material_of_every_kind_comes_in_by_every_algorithm_that_takes_it() {
    let world = World::new();
    for spec in [
        KeySpec::SymmetricDefault,
        KeySpec::Hmac512,
        KeySpec::EccNistP256,
        KeySpec::MlDsa44,
        KeySpec::Rsa2048,
    ] {
        let material = crate::kms::material::generate(spec).unwrap();
        for &algorithm in WrappingAlgorithm::ALL {
            let key = world.external(spec);
            let parameters = world.parameters(&key, algorithm).unwrap();
            let Ok(wrapped) = wrap_for_import(algorithm, &parameters.public_key, &material) else {
                // Private keys of RSA are longer than RSA takes.
                assert!(spec == KeySpec::Rsa2048 && algorithm.name().starts_with("RSAES"));
                continue;
            };
            let request = ImportKeyMaterialRequest {
                key_id: key.arn.clone(),
                import_token: parameters.import_token,
                encrypted_key_material: wrapped,
                expiration_model: Some(ExpirationModel::DoesNotExpire),
                ..ImportKeyMaterialRequest::default()
            };
            let answer = world.import(&request).unwrap_or_else(|error| panic!("{spec} {algorithm}: {error}"));
            assert_eq!(answer.key_state, KeyState::Enabled);
            assert_eq!(answer.key_material_id.is_empty(), spec != KeySpec::SymmetricDefault);
            assert_eq!(world.state(&key), KeyState::Enabled);
        }
    }
}

#[test]
fn what_it_was_wrapped_with_comes_back_with_the_same_material_and_with_no_other() {
    let mut world = World::new();
    let key = world.external(KeySpec::SymmetricDefault);
    let material = [7; 32];
    let first = world.request(&key, &material);
    let id = world.import(&first).unwrap().key_material_id;
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    assert_eq!(world.delete_material(&key).unwrap().key_state, KeyState::PendingImport);
    let refused = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.key_state()),
        (ErrorKind::InvalidState, Some(KeyState::PendingImport))
    );
    world.reopen();
    assert_eq!(world.state(&key), KeyState::PendingImport);
    let other = world.request(&key, &[8; 32]);
    assert_eq!(world.import(&other).unwrap_err().kind(), ErrorKind::IncorrectKeyMaterial);
    assert_eq!(world.state(&key), KeyState::PendingImport);
    // The token of a time before the restart.
    assert_eq!(world.import(&first).unwrap().key_material_id, id);
    let got = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
    assert_eq!(got.plaintext, made.plaintext);
    // Nothing to delete is no error, and changes nothing.
    world.delete_material(&key).unwrap();
    assert_eq!(world.delete_material(&key).unwrap().key_state, KeyState::PendingImport);
}

#[test]
fn every_wrong_import_is_refused_for_what_is_wrong_with_it() {
    let world = World::new();
    let (key, other) = (world.external(KeySpec::SymmetricDefault), world.external(KeySpec::SymmetricDefault));
    let right = world.request(&key, &[7; 32]);
    let now = world.clock.now();
    let foreign = world.request(&other, &[7; 32]);
    let with = |change: &dyn Fn(&mut ImportKeyMaterialRequest)| {
        let mut request = right.clone();
        change(&mut request);
        world.import(&request).unwrap_err().kind()
    };
    assert_eq!(with(&|r| r.import_token[0] ^= 1), ErrorKind::InvalidImportToken);
    assert_eq!(with(&|r| r.import_token.clear()), ErrorKind::InvalidImportToken);
    assert_eq!(with(&|r| r.import_token.clone_from(&foreign.import_token)), ErrorKind::InvalidImportToken);
    assert_eq!(with(&|r| r.encrypted_key_material[3] ^= 1), ErrorKind::InvalidCiphertext);
    assert_eq!(
        with(&|r| r.encrypted_key_material.clone_from(&foreign.encrypted_key_material)),
        ErrorKind::InvalidCiphertext
    );
    assert_eq!(with(&|r| r.expiration_model = None), ErrorKind::Validation);
    assert_eq!(with(&|r| r.valid_to = Some(now + DAY)), ErrorKind::Validation);
    assert_eq!(with(&|r| *r = until(r, now)), ErrorKind::Validation);
    assert_eq!(with(&|r| *r = until(r, now + DAY * 365 + HOUR)), ErrorKind::Validation);
    assert_eq!(
        with(&|r| r.import_type = Some("EXISTING_KEY_MATERIAL".into())),
        ErrorKind::IncorrectKeyMaterial
    );
    assert_eq!(with(&|r| r.import_type = Some("SOME".into())), ErrorKind::Validation);
    assert_eq!(with(&|r| r.key_material_id = Some("0".repeat(64))), ErrorKind::IncorrectKeyMaterial);
    for wrong in
        [vec![7; 31], vec![7; 33], crate::kms::material::generate(KeySpec::EccNistP256).unwrap().to_vec()]
    {
        let request = world.request(&key, &wrong);
        assert_eq!(world.import(&request).unwrap_err().kind(), ErrorKind::IncorrectKeyMaterial);
    }
    assert_eq!(world.state(&key), KeyState::PendingImport);
    let late = world.request(&key, &[7; 32]);
    world.clock.advance(DAY);
    assert_eq!(world.import(&late).unwrap_err().kind(), ErrorKind::ExpiredImportToken);

    let own = world.key();
    let unsupported = world.parameters(&own, WrappingAlgorithm::RsaesOaepSha256).unwrap_err();
    assert_eq!(unsupported.kind(), ErrorKind::UnsupportedOperation);
    assert_eq!(world.delete_material(&own).unwrap_err().kind(), ErrorKind::UnsupportedOperation);
    for (algorithm, spec, expected) in [
        ("RSAES_PKCS1_V1_5", "RSA_2048", ErrorKind::UnsupportedOperation),
        ("SM2PKE", "SM2", ErrorKind::UnsupportedOperation),
        ("RSAES_OAEP_SHA_256", "SM2", ErrorKind::UnsupportedOperation),
        ("RSAES_OAEP_SHA_512", "RSA_2048", ErrorKind::Validation),
        ("RSAES_OAEP_SHA_256", "ECC_NIST_P256", ErrorKind::Validation),
    ] {
        let request = GetParametersForImportRequest {
            key_id: key.arn.clone(),
            wrapping_algorithm: algorithm.to_owned(),
            wrapping_key_spec: spec.to_owned(),
        };
        let refused = world.service().get_parameters_for_import(&world.caller, &request).unwrap_err();
        assert_eq!(refused.kind(), expected, "{algorithm} {spec}");
    }
}

#[test]
fn imported_material_goes_at_its_time_whether_or_not_anybody_looks() {
    let mut world = World::new();
    let key = world.external(KeySpec::SymmetricDefault);
    let request = world.request(&key, &[7; 32]);
    let end = world.clock.now() + HOUR;
    world.import(&until(&request, end)).unwrap();
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    let described = world.service().describe_key(&world.caller, &named(&key)).unwrap();
    assert_eq!((described.valid_to, described.expiration_model), (Some(end), Some(ExpirationModel::Expires)));
    let read = |world: &World| world.service().decrypt_data_key(&world.caller, &made.blob, &context());

    world.clock.advance(HOUR - SignedDuration::from_millis(1));
    read(&world).unwrap();
    world.clock.advance(SignedDuration::from_millis(1));
    // Nobody ticked: the use itself is refused.
    assert_eq!(read(&world).unwrap_err().key_state(), Some(KeyState::PendingImport));
    // Once more, over downtime.
    let again = world.request(&key, &[7; 32]);
    world.import(&until(&again, world.clock.now() + DAY * 365)).unwrap();
    read(&world).unwrap();
    world.service = None;
    world.clock.advance(DAY * 365);
    world.reopen();
    assert_eq!(world.state(&key), KeyState::PendingImport);
    assert!(world.service().entry(&key.key_id).unwrap().held(1).is_none());
    assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap().valid_to, None);
}

#[test]
fn a_deletion_that_is_cancelled_leaves_a_key_without_material_waiting_for_it() {
    let world = World::new();
    let key = world.external(KeySpec::SymmetricDefault);
    let request = world.request(&key, &[7; 32]);
    world.import(&until(&request, world.clock.now() + HOUR)).unwrap();
    let schedule = ScheduleKeyDeletionRequest {
        key_id: key.arn.clone(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    world.service().schedule_key_deletion(&world.caller, &schedule).unwrap();
    assert_eq!(world.import(&request).unwrap_err().kind(), ErrorKind::InvalidState);
    world.clock.advance(HOUR);
    assert_eq!(world.state(&key), KeyState::PendingDeletion);
    let answer = world.service().cancel_key_deletion(&world.caller, &named(&key)).unwrap();
    assert_eq!(answer.key_state, KeyState::PendingImport);
}

#[test]
fn imports_that_are_forgotten_leave_no_trace_and_go_with_their_key() {
    let mut world = World::new();
    let key = world.external(KeySpec::SymmetricDefault);
    let first = world.request(&key, &[7; 32]);
    for _ in 0..4 {
        world.clock.advance(HOUR);
        world.request(&key, &[7; 32]);
    }
    assert_eq!(world.service().book.read().imports.len(), 4);
    assert_eq!(world.import(&first).unwrap_err().kind(), ErrorKind::InvalidImportToken);
    let schedule = ScheduleKeyDeletionRequest {
        key_id: key.arn,
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    world.service().schedule_key_deletion(&world.caller, &schedule).unwrap();
    world.clock.advance(DAY * 7);
    world.service().tick();
    assert_eq!(world.service().book.read().imports.len(), 0);
    world.reopen();
    assert_eq!(world.service().book.read().imports.len(), 0);
}
