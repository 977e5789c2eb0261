//! Getting at the secret that unlocks a key store, never from an argument.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::volume_args::BundleSecret;
use crate::kms::{UnlockSecret, parse_recovery_key};
use crate::secret::Passphrase;

/// Largest secret in bytes.
const MAX_LEN: u64 = 64 * 1024;
const PASSPHRASE_VARIABLE: &str = "KMSFS_PASSPHRASE";
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
const PASSPHRASE_CREDENTIAL: &str = "kmsfs.passphrase";
const KEY_FILE_CREDENTIAL: &str = "kmsfs.key-file";

/// Whether a secret opens an existing key store, is to protect a new one, or is to take another's
/// place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Unlock,
    Create,
    Change,
}

/// The secret, from the first of its sources that is there.
pub(super) fn secret(global: &Global, purpose: Purpose) -> CliResult<UnlockSecret> {
    if let Some(path) = &global.passphrase_file {
        return passphrase(read_file(path)?);
    }
    if let Some(path) = &global.key_file {
        return Ok(UnlockSecret::KeyFile(Passphrase::new(read_file(path)?)));
    }
    if let Some(path) = &global.recovery_key_file {
        return recovery_key(Passphrase::new(read_file(path)?));
    }
    if let Some(command) = &global.passphrase_command {
        return passphrase(run(command)?);
    }
    if let Some(value) = std::env::var_os(PASSPHRASE_VARIABLE) {
        return passphrase(value.into_encoded_bytes());
    }
    if let Some(dir) = std::env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from) {
        if dir.join(PASSPHRASE_CREDENTIAL).exists() {
            return passphrase(read_file(&dir.join(PASSPHRASE_CREDENTIAL))?);
        }
        if dir.join(KEY_FILE_CREDENTIAL).exists() {
            let key = read_file(&dir.join(KEY_FILE_CREDENTIAL))?;
            return Ok(UnlockSecret::KeyFile(Passphrase::new(key)));
        }
    }
    ask(purpose)
}

/// The secret that is to open the key store from now on: from one of these files, or asked for.
pub(super) fn new_secret(passphrase_file: Option<&Path>, key_file: Option<&Path>) -> CliResult<UnlockSecret> {
    match (passphrase_file, key_file) {
        (Some(path), _) => passphrase(read_file(path)?),
        (None, Some(path)) => Ok(UnlockSecret::KeyFile(Passphrase::new(read_file(path)?))),
        (None, None) => ask(Purpose::Change),
    }
}

/// Whether a bundle is being sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BundlePurpose {
    Seal,
    Open,
}

/// The secret of a bundle of data keys: from one of its files, or asked for. It is no key store's.
pub(super) fn bundle_secret(given: &BundleSecret, purpose: BundlePurpose) -> CliResult<UnlockSecret> {
    if let Some(path) = &given.bundle_passphrase_file {
        return passphrase(read_file(path)?);
    }
    if let Some(path) = &given.bundle_key_file {
        return Ok(UnlockSecret::KeyFile(Passphrase::new(read_file(path)?)));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Code::NoSecret,
            "no passphrase was given for the bundle and there is no terminal to ask at; use \
             --bundle-passphrase-file or --bundle-key-file",
        ));
    }
    match purpose {
        BundlePurpose::Open => check(prompt("Passphrase of the bundle: ")?),
        BundlePurpose::Seal => check(repeated(prompt("Passphrase for the bundle: ")?)?),
    }
}

fn recovery_key(text: Passphrase) -> CliResult<UnlockSecret> {
    let key = parse_recovery_key(&text).map_err(|e| CliError::new(Code::WrongSecret, e.to_string()))?;
    Ok(UnlockSecret::RecoveryKey(key))
}

fn ask(purpose: Purpose) -> CliResult<UnlockSecret> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Code::NoSecret,
            "no passphrase was given and there is no terminal to ask at; use --passphrase-file, --key-file, \
             --recovery-key-file, --passphrase-command or KMSFS_PASSPHRASE",
        ));
    }
    let first = match purpose {
        Purpose::Unlock => prompt("Passphrase of the key store: ")?,
        Purpose::Create => prompt("Passphrase for the new key store: ")?,
        Purpose::Change => prompt("New passphrase of the key store: ")?,
    };
    // Nobody has a passphrase that happens to have a recovery key's checksums.
    if purpose == Purpose::Unlock && parse_recovery_key(&first).is_ok() {
        return recovery_key(first);
    }
    check(if purpose == Purpose::Unlock { first } else { repeated(first)? })
}

fn prompt(text: &str) -> CliResult<Passphrase> {
    let line = rpassword::prompt_password(text).map_err(|e| {
        CliError::new(Code::NoSecret, format!("the passphrase could not be read: {e}; give it in a file"))
    })?;
    Ok(Passphrase::new(line.into_bytes()))
}

/// A new passphrase, if it is typed again alike.
fn repeated(first: Passphrase) -> CliResult<Passphrase> {
    if first != prompt("The same again: ")? {
        return Err(CliError::new(Code::NoSecret, "the two passphrases differ; start again"));
    }
    Ok(first)
}

fn passphrase(mut bytes: Vec<u8>) -> CliResult<UnlockSecret> {
    let line = bytes.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(bytes.len());
    // What is cut off is zeroized with the rest of the buffer, which is not reallocated.
    zeroize::Zeroize::zeroize(&mut bytes[line..]);
    bytes.truncate(line);
    check(Passphrase::new(bytes))
}

fn check(passphrase: Passphrase) -> CliResult<UnlockSecret> {
    if passphrase.is_empty() {
        return Err(CliError::new(Code::NoSecret, "the passphrase is empty; give one that is not"));
    }
    Ok(UnlockSecret::Passphrase(passphrase))
}

/// The contents of a file that holds a secret.
pub(super) fn read_file(path: &Path) -> CliResult<Vec<u8>> {
    let read = |path: &Path| {
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::with_capacity(4096);
        file.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read(path).map_err(|e| CliError::new(Code::NoSecret, CliError::io(path, &e).to_string()))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(CliError::new(
            Code::NoSecret,
            format!("{}: too long for a secret; use a file of at most 64 KiB", path.display()),
        ));
    }
    Ok(bytes)
}

/// The first line of a file, for a secret that is text.
pub(super) fn first_line(path: &Path) -> CliResult<Zeroizing<String>> {
    let bytes = Zeroizing::new(read_file(path)?);
    let line = bytes.split(|&b| b == b'\n' || b == b'\r').next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| {
        CliError::new(Code::Usage, format!("{}: not text; put the secret on its first line", path.display()))
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn run(command: &str) -> CliResult<Vec<u8>> {
    let failed = |why: String| {
        CliError::new(Code::NoSecret, format!("the passphrase command failed: {why}; try it in a shell"))
    };
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    Ok(output.stdout)
}
