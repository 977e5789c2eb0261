//! `key import`, `key delete-material` and `key public-key`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::args::Global;
use super::consequences::{Taken, Taking, confirmed};
use super::exit::{CliError, CliResult, Code};
use super::key::report_cuts;
use super::key_args::{Confirmation, ImportCommand, KeyFormat, Life};
use super::key_store::KeyStore;
use super::output::Output;
use crate::kms::api::{
    DeleteImportedKeyMaterialRequest, ExpirationModel, GetParametersForImportRequest,
    GetParametersForImportResponse, GetPublicKeyRequest, GetPublicKeyResponse, ImportKeyMaterialRequest,
    ImportResponse,
};
use crate::kms::material::{WrappingAlgorithm, wrap_for_import};

/// Longest file that can be key material.
const MAX_MATERIAL: u64 = 16 * 1024;

pub(super) fn run(global: &Global, command: &ImportCommand, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    match command {
        ImportCommand::Parameters { key, algorithm, wrapping_spec, public_key, token } => {
            let answer = parameters(&store, key, algorithm, wrapping_spec)?;
            write(public_key, &answer.public_key)?;
            write(token, &answer.import_token)?;
            output.print(&answer, |answer| {
                vec![format!(
                    "wrap the material with {algorithm} under {}, and import it before {}",
                    public_key.display(),
                    answer.parameters_valid_to
                )]
            })
        }
        ImportCommand::Material { key, token, encrypted, life } => {
            let (token, encrypted) = (read(token)?, read(encrypted)?);
            import(&store, key, token.to_vec(), encrypted.to_vec(), life, output)
        }
        ImportCommand::File { key, file, life } => {
            let material = read(file)?;
            let algorithm = WrappingAlgorithm::RsaAesKeyWrapSha256;
            let answer = parameters(&store, key, algorithm.name(), "RSA_3072")?;
            let wrapped = wrap_for_import(algorithm, &answer.public_key, &material)
                .map_err(|error| CliError::new(Code::Usage, format!("{}: {error}", file.display())))?;
            import(&store, key, answer.import_token, wrapped, life, output)
        }
    }
}

pub(super) fn delete_material(
    global: &Global,
    key: &str,
    confirmation: &Confirmation,
    output: &Output,
) -> CliResult<()> {
    let (store, key, consequences) = confirmed(global, key, Taking::DeleteMaterial, confirmation, output)?;
    let id = key.key_id.to_string();
    let request = DeleteImportedKeyMaterialRequest {
        key_id: id.clone(),
        key_material_id: None,
        stop_if_unwritten: !confirmation.force,
    };
    let response: ImportResponse = store.call("DeleteImportedKeyMaterial", &request)?;
    let cut = report_cuts(&response.mounts, output);
    output.print(&Taken { response: &response, consequences }, |taken| {
        let mut lines =
            vec![format!("deleted the material of {id}, which is now {}", taken.response.key_state)];
        lines.extend(cut);
        lines
    })
}

pub(super) fn public_key(
    global: &Global,
    key: &str,
    format: KeyFormat,
    file: Option<&Path>,
    output: &Output,
) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let request = GetPublicKeyRequest { key_id: key.to_owned(), ..GetPublicKeyRequest::default() };
    let answer: GetPublicKeyResponse = store.call("GetPublicKey", &request)?;
    let pem = pem(&answer.public_key);
    if let Some(file) = file {
        write(file, if format == KeyFormat::Pem { pem.as_bytes() } else { &answer.public_key })?;
    } else if format == KeyFormat::Der {
        return Err(CliError::new(Code::Usage, "DER is not text; name a file with --output FILE"));
    }
    output.print(&answer, |_| match file {
        Some(_) => Vec::new(),
        None => pem.lines().map(str::to_owned).collect(),
    })
}

fn parameters(
    store: &KeyStore,
    key: &str,
    algorithm: &str,
    wrapping_spec: &str,
) -> CliResult<GetParametersForImportResponse> {
    let request = GetParametersForImportRequest {
        key_id: store.describe(key)?.key_id.to_string(),
        wrapping_algorithm: algorithm.to_owned(),
        wrapping_key_spec: wrapping_spec.to_owned(),
    };
    store.call("GetParametersForImport", &request)
}

fn import(
    store: &KeyStore,
    key: &str,
    import_token: Vec<u8>,
    encrypted_key_material: Vec<u8>,
    life: &Life,
    output: &Output,
) -> CliResult<()> {
    let id = store.describe(key)?.key_id.to_string();
    let model = match life.expires {
        Some(_) => ExpirationModel::Expires,
        None => ExpirationModel::DoesNotExpire,
    };
    let request = ImportKeyMaterialRequest {
        key_id: id.clone(),
        import_token,
        encrypted_key_material,
        valid_to: life.expires,
        expiration_model: Some(model),
        ..ImportKeyMaterialRequest::default()
    };
    let response: ImportResponse = store.call("ImportKeyMaterial", &request)?;
    output.print(&response, |response| {
        vec![format!("imported the material of {id}, which is now {}", response.key_state)]
    })
}

fn read(path: &Path) -> CliResult<Zeroizing<Vec<u8>>> {
    let io = |error: std::io::Error| CliError::io(path, &error);
    if fs::metadata(path).map_err(io)?.len() > MAX_MATERIAL {
        return Err(CliError::new(Code::Usage, format!("{} is too long for this", path.display())));
    }
    fs::read(path).map(Zeroizing::new).map_err(io)
}

/// Writes a file that is not there yet.
fn write(path: &Path, bytes: &[u8]) -> CliResult<()> {
    let open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(bytes)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::new(Code::NameTaken, format!("{} exists already; choose another name", path.display()))
        }
        _ => CliError::io(path, &error),
    })
}

/// SubjectPublicKeyInfo as text (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END PUBLIC KEY-----\n"
}
