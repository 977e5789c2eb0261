//! What a request says of itself: to the policies that decide on it and to the log.

use serde_json::{Value, json};
use zeroize::Zeroize;

use crate::kms::api::{
    AliasRequest, AuthorizeOpenRequest, CreateGrantRequest, CreateKeyRequest, DecryptRequest,
    DeleteAliasRequest, DeleteImportedKeyMaterialRequest, DisableKeyRequest, EnableKeyRotationRequest,
    EncryptRequest, GenerateDataKeyPairRequest, GenerateDataKeyRequest, GenerateMacRequest,
    GenerateRandomRequest, GetKeyPolicyRequest, GetParametersForImportRequest, GetPublicKeyRequest,
    ImportKeyMaterialRequest, KeyRequest, ListAliasesRequest, ListDeletionReceiptsRequest, ListGrantsRequest,
    ListKeyPoliciesRequest, ListKeyRotationsRequest, ListKeysRequest, ListResourceTagsRequest,
    ListRetirableGrantsRequest, PutKeyPolicyRequest, ReEncryptRequest, RetireGrantRequest,
    RetireKeyVersionRequest, RevokeGrantRequest, ScheduleKeyDeletionRequest, SignRequest,
    SimulateKeyPolicyRequest, TagResourceRequest, UntagResourceRequest, UpdateKeyDescriptionRequest,
    VerifyMacRequest, VerifyRequest,
};
use crate::kms::context::EncryptionContext;

/// A request before it is carried out. Never shows a secret.
pub(in crate::kms) trait Facts {
    /// What a ciphertext is for; where there are two, that of the source.
    fn encryption_context(&self) -> Option<&EncryptionContext> {
        None
    }

    /// What a ciphertext is to be for, where that is another.
    fn destination_context(&self) -> Option<&EncryptionContext> {
        None
    }

    /// Grants that may not have reached every corner yet.
    fn grant_tokens(&self) -> &[String] {
        &[]
    }

    /// The parameters in the API's own shape. What is secret, or as long as a message, is left out.
    fn parameters(&self) -> Value;
}

/// Members of requests that are not for the log.
const LEFT_OUT: [&str; 9] = [
    "Plaintext",
    "CiphertextBlob",
    "Message",
    "Mac",
    "Signature",
    "EncryptedKeyMaterial",
    "ImportToken",
    "GrantToken",
    "GrantTokens",
];

/// A request's members, but those that are left out and those that say nothing.
pub(in crate::kms) fn parameters_of(request: &impl serde::Serialize) -> Value {
    let Ok(Value::Object(mut members)) = serde_json::to_value(request) else { return Value::Null };
    for name in LEFT_OUT {
        if let Some(Value::String(mut text)) = members.remove(name) {
            text.zeroize();
        }
    }
    members.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
    Value::Object(members)
}

/// Implements [`Facts`] for requests, with the members that say more than their parameters.
macro_rules! facts {
    ($($request:ty $({ $($method:ident -> $returned:ty = $member:ident),+ })?;)+) => {
        $(impl Facts for $request {
            $($(fn $method(&self) -> $returned {
                facts!(@ $method self.$member)
            })+)?

            fn parameters(&self) -> Value {
                parameters_of(self)
            }
        })+
    };
    (@ encryption_context $self:ident.$member:ident) => { Some(&$self.$member) };
    (@ destination_context $self:ident.$member:ident) => { Some(&$self.$member) };
    (@ grant_tokens $self:ident.$member:ident) => { &$self.$member };
}

facts! {
    AliasRequest;
    AuthorizeOpenRequest { encryption_context -> Option<&EncryptionContext> = encryption_context };
    CreateKeyRequest;
    DecryptRequest {
        encryption_context -> Option<&EncryptionContext> = encryption_context,
        grant_tokens -> &[String] = grant_tokens
    };
    DeleteAliasRequest;
    EncryptRequest {
        encryption_context -> Option<&EncryptionContext> = encryption_context,
        grant_tokens -> &[String] = grant_tokens
    };
    GenerateDataKeyRequest {
        encryption_context -> Option<&EncryptionContext> = encryption_context,
        grant_tokens -> &[String] = grant_tokens
    };
    GenerateRandomRequest;
    DisableKeyRequest;
    KeyRequest;
    ListAliasesRequest;
    ListDeletionReceiptsRequest;
    ListKeyRotationsRequest;
    ListKeysRequest;
    ReEncryptRequest {
        encryption_context -> Option<&EncryptionContext> = source_encryption_context,
        destination_context -> Option<&EncryptionContext> = destination_encryption_context,
        grant_tokens -> &[String] = grant_tokens
    };
    ScheduleKeyDeletionRequest;
    DeleteImportedKeyMaterialRequest;
    EnableKeyRotationRequest;
    GenerateDataKeyPairRequest {
        encryption_context -> Option<&EncryptionContext> = encryption_context,
        grant_tokens -> &[String] = grant_tokens
    };
    GenerateMacRequest { grant_tokens -> &[String] = grant_tokens };
    GetParametersForImportRequest;
    GetPublicKeyRequest { grant_tokens -> &[String] = grant_tokens };
    ImportKeyMaterialRequest;
    SignRequest { grant_tokens -> &[String] = grant_tokens };
    UpdateKeyDescriptionRequest;
    VerifyMacRequest { grant_tokens -> &[String] = grant_tokens };
    VerifyRequest { grant_tokens -> &[String] = grant_tokens };
    CreateGrantRequest { grant_tokens -> &[String] = grant_tokens };
    GetKeyPolicyRequest;
    ListGrantsRequest;
    ListKeyPoliciesRequest;
    ListResourceTagsRequest;
    ListRetirableGrantsRequest;
    PutKeyPolicyRequest;
    RetireGrantRequest;
    RevokeGrantRequest;
    SimulateKeyPolicyRequest;
    TagResourceRequest;
    UntagResourceRequest;
    RetireKeyVersionRequest;
}

/// A data key that is wanted by, or of, a mount.
pub(super) struct DataKeyFacts<'a> {
    /// Of GenerateDataKey; Decrypt learns it from the blob.
    pub(super) key: Option<&'a str>,
    pub(super) context: &'a EncryptionContext,
}

impl Facts for DataKeyFacts<'_> {
    fn encryption_context(&self) -> Option<&EncryptionContext> {
        Some(self.context)
    }

    fn parameters(&self) -> Value {
        match self.key {
            Some(key) => json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": self.context }),
            None => json!({ "EncryptionContext": self.context }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::api::SecretBytes;

    #[test]
    fn parameters_hold_no_plaintext() {
        let request = EncryptRequest {
            key_id: "alias/a".to_owned(),
            plaintext: SecretBytes::new(b"hush".to_vec()),
            encryption_context: EncryptionContext::new().with("a", "b"),
            grant_tokens: vec!["token".to_owned()],
            ..EncryptRequest::default()
        };
        assert_eq!(request.parameters(), json!({ "KeyId": "alias/a", "EncryptionContext": { "a": "b" } }));
        assert_eq!(request.encryption_context(), Some(&request.encryption_context));
        assert_eq!(request.grant_tokens(), ["token"]);
    }
}
