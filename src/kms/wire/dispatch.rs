//! Which operation a target names.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ATTACH_MOUNT, KMSFS, STATUS, TRENT};
use crate::kms::api::KeyResponse;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::service::{Caller, Service};

/// Carries out the operation that `target` names.
///
/// # Errors
/// UnsupportedOperation for an unknown target, Validation for a body that is not of its shape,
/// else what the operation answers.
pub fn dispatch(service: &Service, caller: &Caller, target: &str, body: &Value) -> Result<Value, KmsError> {
    if target == STATUS {
        service.demand_root(caller, STATUS)?;
        return answer(&service.status());
    }
    if target == ATTACH_MOUNT {
        return Err(KmsError::validation("a mount attaches on a Unix socket connection of its own"));
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
        "DisableKey" => call(body, |request| service.disable_key(caller, &request)),
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
        _ => Err(unknown(target)),
    }
}

/// Carries out an operation on the store itself.
fn look_after(service: &Service, caller: &Caller, operation: &str, body: &Value) -> Result<Value, KmsError> {
    // Whoever may read a key's policy may ask what it comes to.
    if operation == "SimulateKeyPolicy" {
        return call(body, |request| service.simulate_key_policy(caller, &request));
    }
    service.demand_root(caller, operation)?;
    match operation {
        "StoreInfo" => answer(&service.store_info()?),
        "CheckStore" => call(body, |request| service.check_store(&request)),
        "BackUpStore" => call(body, |request| service.back_up(caller, &request)),
        "KeepBackup" => call(body, |request| service.keep_backup(caller, &request)),
        "AddUnlockSlot" => call(body, |request| service.add_unlock_slot(caller, &request)),
        "CreateAccessKey" => call(body, |request| service.create_access_key(caller, &request)),
        "ListAccessKeys" => answer(&service.list_access_keys(caller)?),
        "UpdateAccessKey" => call(body, |request| service.update_access_key(caller, &request)),
        "DeleteAccessKey" => call(body, |request| service.delete_access_key(caller, &request)),
        "RemoveUnlockSlot" => call(body, |request| service.remove_unlock_slot(caller, &request)),
        _ => Err(unknown(operation)),
    }
}

fn call<Q: DeserializeOwned, A: Serialize>(
    body: &Value,
    operation: impl FnOnce(Q) -> Result<A, KmsError>,
) -> Result<Value, KmsError> {
    let empty = Value::Object(serde_json::Map::new());
    let body = if body.is_null() { &empty } else { body };
    let request = Q::deserialize(body).map_err(|error| KmsError::validation(error.to_string()))?;
    answer(&operation(request)?)
}

fn answer(response: &impl Serialize) -> Result<Value, KmsError> {
    serde_json::to_value(response).map_err(|error| KmsError::new(ErrorKind::Internal, error.to_string()))
}

fn unknown(target: &str) -> KmsError {
    KmsError::new(ErrorKind::UnsupportedOperation, format!("unknown operation {target}"))
}
