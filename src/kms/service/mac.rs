//! GenerateMac and VerifyMac.

use super::crypt::check_dry_run;
use super::{Caller, Service};
use crate::kms::api::{GenerateMacRequest, GenerateMacResponse, VerifyMacRequest, VerifyMacResponse};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material::MAX_MESSAGE;
use crate::kms::spec::KeyUsage;
use crate::kms::state::Operation;

impl Service {
    /// GenerateMac.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState; InvalidKeyUsage for a key or an algorithm
    /// that is not for this; Validation for a message that is not of 1 to 4096 bytes; DryRun.
    pub fn generate_mac(
        &self,
        caller: &Caller,
        request: &GenerateMacRequest,
    ) -> Result<GenerateMacResponse, KmsError> {
        self.run(caller, Operation::GenerateMac, request, |call| {
            let book = self.book.read();
            let entry = self.usable(call, &book, &request.key_id, KeyUsage::GenerateVerifyMac)?;
            check_message(&request.message)?;
            let mac = entry.parsed()?.mac(request.mac_algorithm, &request.message)?;
            call.uses(entry.newest());
            check_dry_run(request.dry_run)?;
            Ok(GenerateMacResponse { mac, mac_algorithm: request.mac_algorithm, key_id: entry.arn.clone() })
        })
    }

    /// VerifyMac. A MAC that is not the key's is an error, never an answer.
    ///
    /// # Errors
    /// As [`Service::generate_mac`], and InvalidMac.
    pub fn verify_mac(
        &self,
        caller: &Caller,
        request: &VerifyMacRequest,
    ) -> Result<VerifyMacResponse, KmsError> {
        self.run(caller, Operation::VerifyMac, request, |call| {
            let book = self.book.read();
            let entry = self.usable(call, &book, &request.key_id, KeyUsage::GenerateVerifyMac)?;
            check_message(&request.message)?;
            let algorithm = request.mac_algorithm;
            if !entry.parsed()?.verifies_mac(algorithm, &request.message, &request.mac)? {
                let message = "the MAC is not of this message under this key";
                return Err(KmsError::new(ErrorKind::InvalidMac, message));
            }
            call.uses(entry.newest());
            check_dry_run(request.dry_run)?;
            Ok(VerifyMacResponse { key_id: entry.arn.clone(), mac_valid: true, mac_algorithm: algorithm })
        })
    }
}

fn check_message(message: &[u8]) -> Result<(), KmsError> {
    if (1..=MAX_MESSAGE).contains(&message.len()) {
        return Ok(());
    }
    Err(KmsError::validation("Message must be 1 to 4096 bytes long"))
}
