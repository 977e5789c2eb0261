//! Using keys that stand for keys elsewhere: what is sealed here goes through the proxy.
//!
//! A plaintext is sealed under our material first, then by the proxy; both bind the encryption context.
//! The proxy is asked without any lock. Permission and state are looked at before, and again afterwards,
//! so that no result leaves for a key that was taken away meanwhile.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Link, refusals};
use crate::kms::blob::{Blob, BlobHead, Outer};
use crate::kms::context::EncryptionContext;
use crate::kms::error::KmsError;
use crate::kms::service::book::Entry;
use crate::kms::service::crypt::{Sealed, unauthentic};
use crate::kms::service::{Call, Service};
use crate::kms::state;
use crate::xks::Wrapping;

impl Service {
    /// Seals `plaintext` with a key of a custom key store that `call` was admitted to as `action`.
    pub(in crate::kms::service) fn seal_outside(
        &self,
        call: &Call<'_>,
        entry: &Arc<Entry>,
        action: &str,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Sealed, KmsError> {
        let head = entry.head(self.store.id());
        let material = entry.version(head.version).ok_or_else(|| entry.no_material())?;
        let inner = head.seal_inner(material, context, plaintext)?;
        call.uses(head.version);
        self.count_wrap(entry, head.version);
        let link = entry.link.as_ref().ok_or_else(unauthentic)?;
        let aad = head.outer_aad(context);
        let made = self.with_occasion(call, Some(&entry.arn), |occasion| {
            let Link { store, xks_key_id } = link;
            store.proxy.encrypt(xks_key_id, occasion, &aad, &inner, self.clock.now())
        })?;
        let Wrapping { ciphertext, metadata, iv, tag } = made.map_err(|error| noted(call, error))?;
        self.check_still_admitted(call, entry, action)?;
        let outer = Outer { metadata: &metadata, iv: &iv, tag };
        Ok(Sealed {
            blob: head.with_outer(outer, &ciphertext),
            arn: entry.arn.clone(),
            version: head.version,
            fingerprint: entry.fingerprint(head.version),
        })
    }

    /// What is sealed in `blob`, of a key of a custom key store that `call` was admitted to as `action`.
    pub(in crate::kms::service) fn open_outside(
        &self,
        call: &Call<'_>,
        entry: &Arc<Entry>,
        action: &str,
        blob: &Blob<'_>,
        context: &EncryptionContext,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let (Some(link), Some((outer, ciphertext))) = (&entry.link, blob.outer()) else {
            return Err(unauthentic());
        };
        let wrapping = Wrapping {
            ciphertext: ciphertext.to_vec(),
            metadata: outer.metadata.to_vec(),
            iv: outer.iv.to_vec(),
            tag: outer.tag,
        };
        let aad = BlobHead::outer_aad(&blob.head, context);
        let opened = self.with_occasion(call, Some(&entry.arn), |occasion| {
            let Link { store, xks_key_id } = link;
            store.proxy.decrypt(xks_key_id, occasion, &aad, &wrapping, self.clock.now())
        })?;
        let inner = opened.map_err(|error| noted(call, error))?;
        self.check_still_admitted(call, entry, action)?;
        Ok(inner)
    }

    fn check_still_admitted(&self, call: &Call<'_>, entry: &Entry, action: &str) -> Result<(), KmsError> {
        let book = self.book.read();
        let entry = book.by_id(&entry.record.id, self.realm())?;
        self.permit(call, Some(entry), action)?;
        state::check(call.operation, &entry.arn, entry.state_at(self.clock.now()))
    }
}

/// The refusal of a call that a proxy failed, which the audit log says more of.
fn noted(call: &Call<'_>, error: crate::xks::ProxyError) -> KmsError {
    call.note("xksProxyError", error.to_string());
    refusals::in_use(error)
}
