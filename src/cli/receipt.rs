//! `key receipt`, `key receipts`, `key verify-receipt` and `store public-key`: what a key store says of
//! keys that it has deleted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_store::KeyStore;
use super::output::{Output, count, fields, table};
use crate::kms::api::{KeyRequest, ListDeletionReceiptsRequest, ListDeletionReceiptsResponse};
use crate::kms::store_api::StoreInfo;
use crate::kms::{Loss, MAX_RECEIPT, Receipt, ReceiptKey, SignedReceipt};

pub(super) fn show(global: &Global, key: &str, file: Option<&Path>, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let request = KeyRequest { key_id: key.to_owned() };
    let signed: SignedReceipt = store.look_after("GetDeletionReceipt", &request)?;
    let Some(file) = file else { return output.print(&signed, |signed| lines(&signed.receipt)) };
    write(file, format!("{}\n", signed.to_text()?).as_bytes())?;
    output.print(&json!({ "File": file }), |_| vec![format!("wrote {}", file.display())])
}

pub(super) fn list(global: &Global, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let mut request = ListDeletionReceiptsRequest { limit: Some(1000), marker: None };
    let mut all = ListDeletionReceiptsResponse::default();
    loop {
        let page: ListDeletionReceiptsResponse = store.look_after("ListDeletionReceipts", &request)?;
        all.receipts.extend(page.receipts);
        if page.next_marker.is_none() {
            break;
        }
        request.marker = page.next_marker;
    }
    output.print(&all, |all| {
        let rows = all.receipts.iter().map(|entry| {
            vec![
                entry.key_arn.rsplit('/').next().unwrap_or_default().to_owned(),
                entry.destroyed.to_string(),
                entry.scrubbed.map_or_else(|| "-".to_owned(), |at| at.to_string()),
                format!("{}{}", entry.files, if entry.certain { "" } else { "?" }),
                entry.aliases.join(" "),
            ]
        });
        table(&["KEY", "DELETED", "SCRUBBED", "FILES", "ALIASES"], &rows.collect::<Vec<_>>())
    })
}

pub(super) fn verify(file: &Path, public_key: Option<&Path>, output: &Output) -> CliResult<()> {
    let key = public_key.map(read_key).transpose()?;
    let signed = SignedReceipt::verify(&read(file)?, key).map_err(|error| {
        let message = format!(
            "{}: {error}; get the receipt anew with 'kmsfs key receipt KEY --output FILE'",
            file.display()
        );
        CliError::new(Code::NotVerified, message)
    })?;
    if key.is_none() {
        output.note(&format!(
            "It was signed with the key that it names, {}. Compare that with what 'kmsfs store public-key' \
             printed, or name a file that has it with --public-key.",
            signed.receipt.public_key
        ));
    }
    output.print(&signed, |signed| {
        let mut all = vec!["the receipt is genuine".to_owned()];
        all.extend(lines(&signed.receipt));
        all
    })
}

pub(super) fn public_key(global: &Global, file: Option<&Path>, output: &Output) -> CliResult<()> {
    let info: StoreInfo = KeyStore::open(global)?.look_after("StoreInfo", &json!({}))?;
    let key = ReceiptKey::parse(&info.receipt_public_key)
        .ok_or_else(|| CliError::new(Code::Unexpected, "the key store does not show a public key"))?;
    let Some(file) = file else {
        return output
            .print(&json!({ "PublicKey": key.to_base64() }), |_| vec![key.to_pem().trim().to_owned()]);
    };
    write(file, key.to_pem().as_bytes())?;
    output.print(&json!({ "File": file }), |_| vec![format!("wrote {}", file.display())])
}

/// A receipt for a person.
fn lines(receipt: &Receipt) -> Vec<String> {
    let versions = receipt.versions.iter().map(|version| {
        let fate = if version.present { "" } else { ", gone before" };
        format!("{} of {}{fate}", version.key_version, version.created)
    });
    let destroyed = &receipt.destroyed;
    let mut pairs = vec![
        ("key", receipt.key_arn.clone()),
        ("aliases", receipt.aliases.join(" ")),
        ("description", receipt.description.clone()),
        ("kind", format!("{}, {}, {}", receipt.key_spec, receipt.key_usage, receipt.origin)),
        ("versions", versions.collect::<Vec<_>>().join("; ")),
    ];
    if let Some(scheduled) = &receipt.scheduled {
        let days = count(scheduled.pending_window_in_days.into(), "day");
        pairs.push(("scheduled", format!("{} by {}, {days} ahead", scheduled.at, scheduled.by)));
        pairs.push(("files then", files(&scheduled.loss)));
    }
    pairs.push(("destroyed", format!("{}, event {}", destroyed.at, destroyed.event_id)));
    pairs.push(("files lost", files(&destroyed.loss)));
    pairs.extend(receipt.scrubbed.iter().map(|scrubbed| {
        ("scrubbed", format!("{}, audit log at line {}", scrubbed.at, scrubbed.audit_sequence))
    }));
    pairs.extend(receipt.copies.kept_backup.iter().map(|path| ("kept backup", path.clone())));
    pairs.extend(receipt.copies.stores_put_aside.iter().map(|name| ("put aside", name.clone())));
    pairs.push(("key store", receipt.store_id.clone()));
    pairs.retain(|(_, value)| !value.is_empty());
    fields(&pairs)
}

fn files(loss: &Loss) -> String {
    let how = if loss.certain { "" } else { " that are known; there may be more" };
    format!("{}, {}{how}", count(loss.files, "file"), count(loss.bytes, "byte"))
}

fn read_key(file: &Path) -> CliResult<ReceiptKey> {
    let text = read(file)?;
    let key = std::str::from_utf8(&text).ok().and_then(ReceiptKey::parse);
    key.ok_or_else(|| {
        let message = format!("{} is no public key; 'kmsfs store public-key' writes one", file.display());
        CliError::new(Code::Usage, message)
    })
}

fn read(file: &Path) -> CliResult<Vec<u8>> {
    let io = |error: std::io::Error| CliError::io(file, &error);
    if fs::metadata(file).map_err(io)?.len() > MAX_RECEIPT as u64 + 1 {
        return Err(CliError::new(
            Code::NotVerified,
            format!("{} is too long for a receipt", file.display()),
        ));
    }
    fs::read(file).map_err(io)
}

/// Writes a file that is not there yet.
fn write(file: &Path, bytes: &[u8]) -> CliResult<()> {
    let open = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(file);
    open.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(
        |error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                let message = format!("{} exists already; choose another name", file.display());
                CliError::new(Code::NameTaken, message)
            }
            _ => CliError::io(file, &error),
        },
    )
}
