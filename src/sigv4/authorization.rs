//! The `Authorization` header:
//! `AWS4-HMAC-SHA256 Credential=ID/DAY/REGION/SERVICE/aws4_request, SignedHeaders=a;b, Signature=HEX`.

use super::{ALGORITHM, AuthError, Sha256Digest, TERMINATOR};

/// Most headers that a request may sign.
const MAX_SIGNED_HEADERS: usize = 64;

/// What the header says.
#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) access_key_id: String,
    pub(super) day: String,
    pub(super) region: String,
    pub(super) service: String,
    /// In strictly ascending order, in lower case.
    pub(super) signed_headers: Vec<String>,
    pub(super) signature: Sha256Digest,
}

impl Authorization {
    pub(super) fn parse(header: &[u8]) -> Result<Self, AuthError> {
        let text = std::str::from_utf8(header).unwrap_or_default().trim();
        let parameters = text.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with([' ', '\t']));
        let Some(parameters) = parameters else {
            let message = format!("Authorization header requires the algorithm '{ALGORITHM}'.");
            return Err(AuthError::incomplete(message));
        };
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for parameter in parameters.split(',') {
            let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(AuthError::incomplete("Authorization header has an unknown parameter.")),
            };
            if place.replace(value).is_some() {
                return Err(AuthError::incomplete(format!("Authorization header has '{name}' twice.")));
            }
        }
        let present = |value: Option<&str>, name: &str| match value {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(AuthError::incomplete(format!("Authorization header requires '{name}' parameter."))),
        };
        let credential = present(credential, "Credential")?;
        let signed_headers = header_names(&present(signed_headers, "SignedHeaders")?)?;
        let signature = parse_signature(&present(signature, "Signature")?)?;
        let parts: Vec<&str> = credential.split('/').collect();
        let [id, day, region, service, TERMINATOR] = parts[..] else {
            return Err(AuthError::incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/aws4_request.",
            ));
        };
        let [access_key_id, day, region, service] = [id, day, region, service].map(str::to_owned);
        Ok(Self { access_key_id, day, region, service, signed_headers, signature })
    }
}

fn header_names(list: &str) -> Result<Vec<String>, AuthError> {
    let names: Vec<String> = list.split(';').map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase());
    if names.len() > MAX_SIGNED_HEADERS || !names.iter().all(is_name) || !names.is_sorted_by(|a, b| a < b) {
        return Err(AuthError::incomplete(
            "SignedHeaders must be the names of at most 64 headers in lower case, sorted, each once.",
        ));
    }
    Ok(names)
}

fn parse_signature(text: &str) -> Result<Sha256Digest, AuthError> {
    let mut signature = [0; 32];
    let fits = text.len() == 64;
    if !fits || data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut signature).is_err() {
        return Err(AuthError::incomplete("Signature must be 64 hexadecimal digits in lower case."));
    }
    Ok(signature)
}
