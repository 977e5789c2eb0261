//! Ed25519 keys of the service's own, which are derived and never stored: from 32 secret bytes.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::failed;
use crate::kms::error::KmsError;
use crate::secret::Key;

/// Length in bytes of a public key.
pub(in crate::kms) const PUBLIC_LEN: usize = 32;

/// The public half of the key of a seed.
///
/// # Errors
/// Internal, where memory is short.
pub(in crate::kms) fn public_half(seed: &Key) -> Result<[u8; PUBLIC_LEN], KmsError> {
    let public = pair(seed)?.public_key().as_ref().try_into();
    public.map_err(|_| failed("derive a public key"))
}

/// The signature of `message` by the key of a seed: one and the same each time (RFC 8032).
///
/// # Errors
/// Internal, where memory is short.
pub(in crate::kms) fn sign(seed: &Key, message: &[u8]) -> Result<Vec<u8>, KmsError> {
    let signature = pair(seed)?.try_sign(message).map_err(|_| failed("sign"))?;
    Ok(signature.as_ref().to_vec())
}

/// Whether [`sign()`] with the other half of `public` made `signature`.
pub(in crate::kms) fn verifies(public: &[u8; PUBLIC_LEN], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

fn pair(seed: &Key) -> Result<Ed25519KeyPair, KmsError> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| failed("derive a signing key"))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        // Section 7.1, test 1: the empty message.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut seed: [u8; 32] = HEXLOWER.decode(seed.as_bytes()).unwrap().try_into().unwrap();
        let seed = Key::take_from(&mut seed);
        let public = public_half(&seed).unwrap();
        assert_eq!(
            HEXLOWER.encode(&public),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        let signature = sign(&seed, b"").unwrap();
        assert_eq!(
            HEXLOWER.encode(&signature),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        );
        assert!(verifies(&public, b"", &signature));
        assert!(!verifies(&public, b"x", &signature));
    }
}
