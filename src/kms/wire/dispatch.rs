//! Which operation a target names.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ATTACH_MOUNT, AUTHORIZE_OPEN, KMSFS, Request, STATUS, TRENT};
use crate::kms::api::KeyResponse;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::service::{Caller, Service};

/// Carries out the operation that `target` names.
///
/// # Errors
/// UnsupportedOperation for an unknown target, Serialization for a body that is not of its shape,
/// Validation for one that lacks a member, else what the operation answers.
pub fn dispatch(service: &Service, caller: &Caller, target: &str, body: &Value) -> Result<Value, KmsError> {
    carry_out(service, caller, target, body).map_err(|refused| match refused {
        Refused::ByService(error) => error,
        Refused::BeforeCall(error) => {
            service.log_refused_caller(caller, target.rsplit('.').next().unwrap_or(target), &error);
            error
        }
    })
}

/// Carries out a request, for the user on whose behalf it is made.
///
/// # Errors
/// As [`dispatch`]; AccessDenied to whoever may not speak for that user, Validation for an operation
/// that nobody needs to carry out for another.
pub fn dispatch_request(service: &Service, caller: &Caller, request: &Request) -> Result<Value, KmsError> {
    let (target, body) = (request.target.as_str(), &request.body);
    let Some(whom) = &request.on_behalf else { return dispatch(service, caller, target, body) };
    let operation = target.rsplit('.').next().unwrap_or(target);
    let is_for_files = target == AUTHORIZE_OPEN
        || target.starts_with(TRENT) && matches!(operation, "Decrypt" | "GenerateDataKey" | "ReEncrypt");
    let speaking = if is_for_files {
        service.on_behalf(caller, whom)
    } else {
        Err(KmsError::validation(format!("{target} is not called on behalf of others")))
    };
    match speaking {
        Ok(speaking) => dispatch(service, &speaking, target, body),
        Err(error) => {
            service.log_refused_caller(caller, operation, &error);
            Err(error)
        }
    }
}

/// Who refused a request, and so whether it has been logged.
enum Refused {
    BeforeCall(KmsError),
    ByService(KmsError),
}

impl From<KmsError> for Refused {
    fn from(error: KmsError) -> Self {
        Self::ByService(error)
    }
}

fn carry_out(service: &Service, caller: &Caller, target: &str, body: &Value) -> Result<Value, Refused> {
    if target == STATUS {
        return look_after(service, caller, "Status", body);
    }
    if target == ATTACH_MOUNT {
        let message = "a mount attaches on a Unix socket connection of its own";
        return Err(Refused::BeforeCall(KmsError::validation(message)));
    }
    if let Some(operation) = target.strip_prefix(KMSFS) {
        return look_after(service, caller, operation, body);
    }
    let operation = target.strip_prefix(TRENT).ok_or_else(|| unknown(target))?;
    let key = |metadata| KeyResponse { key_metadata: metadata };
    match operation {
        "CreateKey" => call(body, |request| service.create_key(caller, &request).map(key)),
        "DescribeKey" => call(body, |request| service.describe_key(caller, &request).map(key)),
        "ListKeys" => call(body, |request| service.list_keys(caller, &request)),
        "EnableKey" => call(body, |request| service.enable_key(caller, &request)),
        "DisableKey" => call(body, |request| service.disable_key_as(caller, &request)),
        "ScheduleKeyDeletion" => call(body, |request| service.schedule_key_deletion(caller, &request)),
        "CancelKeyDeletion" => call(body, |request| service.cancel_key_deletion(caller, &request)),
        "RotateKeyOnDemand" => call(body, |request| service.rotate_key_on_demand(caller, &request)),
        "ListKeyRotations" => call(body, |request| service.list_key_rotations(caller, &request)),
        "CreateAlias" => call(body, |request| service.create_alias(caller, &request)),
        "UpdateAlias" => call(body, |request| service.update_alias(caller, &request)),
        "DeleteAlias" => call(body, |request| service.delete_alias(caller, &request)),
        "ListAliases" => call(body, |request| service.list_aliases(caller, &request)),
        "GenerateDataKey" => call(body, |request| service.generate_data_key_bytes(caller, &request)),
        "GenerateDataKeyWithoutPlaintext" => {
            call(body, |request| service.generate_data_key_without_plaintext(caller, &request))
        }
        "Encrypt" => call(body, |request| service.encrypt(caller, &request)),
        "Decrypt" => call(body, |request| service.decrypt(caller, &request)),
        "ReEncrypt" => call(body, |request| service.re_encrypt(caller, &request)),
        "Sign" => call(body, |request| service.sign(caller, &request)),
        "Verify" => call(body, |request| service.verify(caller, &request)),
        "GetPublicKey" => call(body, |request| service.get_public_key(caller, &request)),
        "GenerateMac" => call(body, |request| service.generate_mac(caller, &request)),
        "VerifyMac" => call(body, |request| service.verify_mac(caller, &request)),
        "GenerateDataKeyPair" => call(body, |request| service.generate_data_key_pair(caller, &request)),
        "GenerateDataKeyPairWithoutPlaintext" => {
            call(body, |request| service.generate_data_key_pair_without_plaintext(caller, &request))
        }
        "EnableKeyRotation" => call(body, |request| service.enable_key_rotation(caller, &request)),
        "DisableKeyRotation" => call(body, |request| service.disable_key_rotation(caller, &request)),
        "GetKeyRotationStatus" => call(body, |request| service.get_key_rotation_status(caller, &request)),
        "GetKeyLastUsage" => call(body, |request| service.get_key_last_usage(caller, &request)),
        "UpdateKeyDescription" => call(body, |request| service.update_key_description(caller, &request)),
        "GetParametersForImport" => call(body, |request| service.get_parameters_for_import(caller, &request)),
        "ImportKeyMaterial" => call(body, |request| service.import_key_material(caller, &request)),
        "DeleteImportedKeyMaterial" => {
            call(body, |request| service.delete_imported_key_material(caller, &request))
        }
        "GenerateRandom" => call(body, |request| service.generate_random(caller, &request)),
        "PutKeyPolicy" => call(body, |request| service.put_key_policy(caller, &request)),
        "GetKeyPolicy" => call(body, |request| service.get_key_policy(caller, &request)),
        "ListKeyPolicies" => call(body, |request| service.list_key_policies(caller, &request)),
        "CreateGrant" => call(body, |request| service.create_grant(caller, &request)),
        "ListGrants" => call(body, |request| service.list_grants(caller, &request)),
        "ListRetirableGrants" => call(body, |request| service.list_retirable_grants(caller, &request)),
        "RetireGrant" => call(body, |request| service.retire_grant(caller, &request)),
        "RevokeGrant" => call(body, |request| service.revoke_grant(caller, &request)),
        "TagResource" => call(body, |request| service.tag_resource(caller, &request)),
        "UntagResource" => call(body, |request| service.untag_resource(caller, &request)),
        "ListResourceTags" => call(body, |request| service.list_resource_tags(caller, &request)),
        "CreateCustomKeyStore" => call(body, |request| service.create_custom_key_store(caller, &request)),
        "ConnectCustomKeyStore" => call(body, |request| service.connect_custom_key_store(caller, &request)),
        "DescribeCustomKeyStores" => {
            call(body, |request| service.describe_custom_key_stores(caller, &request))
        }
        "UpdateCustomKeyStore" => call(body, |request| service.update_custom_key_store(caller, &request)),
        "DisconnectCustomKeyStore" => {
            call(body, |request| service.disconnect_custom_key_store(caller, &request))
        }
        "DeleteCustomKeyStore" => call(body, |request| service.delete_custom_key_store(caller, &request)),
        _ => Err(unknown(target)),
    }
}

/// Carries out an operation on the store itself.
fn look_after(
    service: &Service,
    caller: &Caller,
    operation: &str,
    request: &Value,
) -> Result<Value, Refused> {
    let changes = !matches!(operation, "Status" | "StoreInfo" | "CheckStore" | "VerifyAudit" | "ListVolumes");
    match operation {
        // Whoever may read a key's policy may ask what it comes to.
        "SimulateKeyPolicy" => return call(request, |request| service.simulate_key_policy(caller, &request)),
        "AuthorizeOpen" => return call(request, |request| service.authorize_open(caller, &request)),
        // These are operations like others, and decide and log by themselves.
        "CreateAccessKey" => return call(request, |request| service.create_access_key(caller, &request)),
        "ListAccessKeys" => return Ok(answer(&service.list_access_keys(caller)?)?),
        "UpdateAccessKey" => return call(request, |request| service.update_access_key(caller, &request)),
        "DeleteAccessKey" => return call(request, |request| service.delete_access_key(caller, &request)),
        "NoteVolume" => return call(request, |request| service.note_volume(caller, &request)),
        "GetKeyImpact" => return call(request, |request| service.key_impact(caller, &request)),
        "GetDeletionReceipt" => return call(request, |request| service.deletion_receipt(caller, &request)),
        "ListDeletionReceipts" => {
            return call(request, |request| service.list_deletion_receipts(caller, &request));
        }
        "RetireKeyVersion" => return call(request, |request| service.retire_key_version(caller, &request)),
        "LockStore" => return Ok(answer(&service.lock_store(caller)?)?),
        _ => {}
    }
    let works_locked =
        matches!(operation, "Status" | "StoreInfo" | "VerifyAudit" | "ListVolumes" | "UnlockStore");
    let carried_out = || match operation {
        _ if !works_locked && service.is_locked() => Err(Refused::ByService(KmsError::locked())),
        "Status" => Ok(answer(&service.status())?),
        "StoreInfo" => Ok(answer(&service.store_info()?)?),
        "CheckStore" => call(request, |request| service.check_store(&request)),
        "BackUpStore" => call(request, |request| service.back_up(caller, &request)),
        "KeepBackup" => call(request, |request| service.keep_backup(caller, &request)),
        "AddUnlockSlot" => call(request, |request| service.add_unlock_slot(caller, &request)),
        "RemoveUnlockSlot" => call(request, |request| service.remove_unlock_slot(caller, &request)),
        "UnlockStore" => call(request, |request| service.unlock_store(&request)),
        "ListVolumes" => Ok(answer(&service.list_volumes()?)?),
        "ForgetVolume" => call(request, |request| service.forget_volume(&request)),
        "VerifyAudit" => call(request, |request| service.verify_audit(&request)),
        _ => Err(unknown(operation)),
    };
    let logged =
        || match service.demand_root(caller, operation).map_err(Refused::from).and_then(|()| carried_out()) {
            Ok(value) => Ok(value),
            // All of it is inside, so it is logged once.
            Err(Refused::BeforeCall(error) | Refused::ByService(error)) => Err(error),
        };
    Ok(service.look_after(caller, operation, request, changes, logged)?)
}

fn call<Q: DeserializeOwned, A: Serialize>(
    body: &Value,
    operation: impl FnOnce(Q) -> Result<A, KmsError>,
) -> Result<Value, Refused> {
    let empty = Value::Object(serde_json::Map::new());
    let body = if body.is_null() { &empty } else { body };
    let request = Q::deserialize(body).map_err(|error| Refused::BeforeCall(malformed(&error)))?;
    Ok(answer(&operation(request)?)?)
}

/// What is wrong with the shape of a request. It goes to the log, so it must not repeat what was
/// at the wrong place: that may be a secret.
fn malformed(error: &serde_json::Error) -> KmsError {
    let text = error.to_string();
    if text.starts_with("missing field") {
        return KmsError::validation(text);
    }
    if text.starts_with("invalid value: integer") {
        return KmsError::validation("a number of the request is out of its bounds");
    }
    let expected = text.rfind(", expected ").map_or("", |at| &text[at..]);
    let message = format!("a member of the request is not of its type{expected}");
    KmsError::new(ErrorKind::Serialization, message)
}

fn answer(response: &impl Serialize) -> Result<Value, KmsError> {
    serde_json::to_value(response).map_err(|error| KmsError::new(ErrorKind::Internal, error.to_string()))
}

fn unknown(target: &str) -> Refused {
    Refused::BeforeCall(KmsError::new(ErrorKind::UnsupportedOperation, format!("unknown operation {target}")))
}
