//! What a proxy's failure is called. The same failure has one message and, as in AWS, another exception
//! for each operation that it happens to.

use crate::kms::custom_store::ConnectionErrorCode;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::state::KeyState;
use crate::xks::ProxyError;

/// Of a cryptographic operation. A mount takes the key for unavailable, unless it is the ciphertext's
/// fault.
pub(super) fn in_use(error: ProxyError) -> KmsError {
    let refusal = KmsError::new(ErrorKind::InvalidState, message(error));
    if error == ProxyError::InvalidCiphertext { refusal } else { refusal.in_state(KeyState::Unavailable) }
}

/// Of CreateKey.
pub(super) fn of_key(error: ProxyError) -> KmsError {
    let kind = match error {
        ProxyError::KeyNotFound => ErrorKind::XksKeyNotFound,
        ProxyError::InvalidState | ProxyError::InvalidKeyUsage => ErrorKind::XksKeyInvalidConfiguration,
        ProxyError::AccessDenied => ErrorKind::InvalidState,
        _ => ErrorKind::CustomKeyStoreInvalidState,
    };
    KmsError::new(kind, message(error))
}

/// Of CreateCustomKeyStore and UpdateCustomKeyStore.
pub(super) fn of_store(error: ProxyError) -> KmsError {
    let kind = match error {
        ProxyError::AuthenticationFailed => ErrorKind::XksProxyIncorrectCredential,
        ProxyError::InvalidUriPath => ErrorKind::XksProxyInvalidConfiguration,
        ProxyError::Unreachable
        | ProxyError::Tls
        | ProxyError::TimedOut
        | ProxyError::Throttling
        | ProxyError::DependencyTimeout => ErrorKind::XksProxyUriUnreachable,
        _ => ErrorKind::XksProxyInvalidResponse,
    };
    KmsError::new(kind, message(error))
}

/// Of ConnectCustomKeyStore.
pub(super) fn of_connection(error: ProxyError) -> ConnectionErrorCode {
    match error {
        ProxyError::AuthenticationFailed => ConnectionErrorCode::InvalidCredentials,
        ProxyError::AccessDenied => ConnectionErrorCode::XksProxyAccessDenied,
        ProxyError::InvalidUriPath => ConnectionErrorCode::XksProxyInvalidConfiguration,
        ProxyError::Unreachable | ProxyError::Throttling => ConnectionErrorCode::XksProxyNotReachable,
        ProxyError::Tls => ConnectionErrorCode::XksProxyInvalidTlsConfiguration,
        ProxyError::TimedOut | ProxyError::DependencyTimeout => ConnectionErrorCode::XksProxyTimedOut,
        _ => ConnectionErrorCode::XksProxyInvalidResponse,
    }
}

fn message(error: ProxyError) -> &'static str {
    match error {
        ProxyError::InvalidState => {
            "The external key associated with this KMS key in an external key store is not enabled in the external \
             key manager. Enable the external key in the external key manager and retry the request."
        }
        ProxyError::InvalidCiphertext => {
            "The external key store proxy rejected the request because the specified ciphertext or encryption context \
             is corrupted, missing, or otherwise invalid."
        }
        ProxyError::InvalidKeyUsage => {
            "The external key associated with this KMS key in an external key store does not support the requested \
             operation. Enable the operation on the key in your external key manager, and try the request again."
        }
        ProxyError::AuthenticationFailed => {
            "The external key store proxy rejected the request because it could not authenticate the key service. \
             Verify the XKS proxy authentication credentials for your external key store and update if necessary."
        }
        ProxyError::AccessDenied => {
            "The external key store proxy denied access to the operation. Verify that the user and the external key \
             are both authorized for this operation, and try the request again."
        }
        ProxyError::KeyNotFound => {
            "The external key associated with this KMS key in an external key store was not found in its external key \
             manager. If the external key ID associated with this KMS key is incorrect, create a new KMS key with the \
             correct external key ID."
        }
        ProxyError::InvalidUriPath => {
            "The external key store proxy rejected the request because of an invalid URI path. Verify the URI path \
             for your external key store and update if necessary."
        }
        ProxyError::UnsupportedOperation => {
            "The external key store proxy rejected the request because it does not support the requested operation. \
             If you see this error repeatedly, report it to your external key store proxy administrator."
        }
        ProxyError::DependencyTimeout => {
            "The external key store proxy did not respond to the request in the time allotted. Retry the request. If \
             you see this error repeatedly, report it to your external key store proxy administrator."
        }
        ProxyError::Throttling => {
            "The external key store proxy rejected the request due to a very high request rate. Reduce the frequency \
             of your calls using KMS keys in this external key store."
        }
        ProxyError::Internal => {
            "The external key store proxy rejected the request because it cannot communicate with the external key \
             manager. Verify that the external key store proxy configuration is correct and that the external key \
             manager is available."
        }
        ProxyError::Unreachable => {
            "The key service cannot communicate with the external key store proxy. This might be a transient network \
             issue. If you see this error repeatedly, verify that your external key store proxy is active and is \
             connected to the network, and that its endpoint URI is correct in your external key store."
        }
        ProxyError::Tls => {
            "The key service cannot establish a TLS connection to the external key store proxy. Verify the TLS \
             configuration, including its certificate."
        }
        ProxyError::TimedOut => {
            "The key service rejected the request because the external key store proxy did not respond in time. Retry \
             the request. If you see this error repeatedly, report it to your external key store proxy administrator."
        }
        ProxyError::Malformed | ProxyError::Validation => {
            "The key service cannot interpret the response from the external key store proxy. If you see this error \
             repeatedly, report it to your external key store proxy administrator."
        }
    }
}
