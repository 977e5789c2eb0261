//! How a custom key store is connected. The names are those of the AWS KMS API; the order of the error
//! codes is part of the key store's format.

use super::named::named;

named! {
    /// Whether a custom key store can be used.
    ConnectionState, "connection state" {
        /// Its keys can be used, as far as its proxy answers.
        Connected = "CONNECTED",
        /// It is about to be connected.
        Connecting = "CONNECTING",
        /// It could not be connected.
        Failed = "FAILED",
        /// It was never connected, or it was disconnected.
        Disconnected = "DISCONNECTED",
        /// It is about to be disconnected.
        Disconnecting = "DISCONNECTING",
    }
}

named! {
    /// Why a custom key store could not be connected.
    ConnectionErrorCode, "connection error" {
        /// The proxy did not believe the signature.
        InvalidCredentials = "INVALID_CREDENTIALS",
        /// The proxy does not let the key service in.
        XksProxyAccessDenied = "XKS_PROXY_ACCESS_DENIED",
        /// There is no connection to the proxy, or no key manager behind it.
        XksProxyNotReachable = "XKS_PROXY_NOT_REACHABLE",
        /// The proxy's answer is not of its form.
        XksProxyInvalidResponse = "XKS_PROXY_INVALID_RESPONSE",
        /// The proxy does not know the path.
        XksProxyInvalidConfiguration = "XKS_PROXY_INVALID_CONFIGURATION",
        /// The proxy did not answer in time.
        XksProxyTimedOut = "XKS_PROXY_TIMED_OUT",
        /// There is no TLS with the proxy that was asked for.
        XksProxyInvalidTlsConfiguration = "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    }
}
