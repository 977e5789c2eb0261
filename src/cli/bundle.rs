//! `volume export` and `volume import`: taking a volume's keys to another key store.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::args::Global;
use super::exit::{CliError, CliResult, Code, words};
use super::fsck::{printable, stop_flag};
use super::handover;
use super::key_store::{KeyStore, dir};
use super::output::{Output, count};
use super::secret::{BundlePurpose, bundle_secret};
use super::volume_args::{Export, Import};
use crate::fs::{Fs, INFO_XATTR, Volume, VolumeError};
use crate::kms::Costs;
use crate::provider::Provider;
use crate::sys::process;
use crate::tools::bundle::{
    self, Adopting, AllMissing, Bundle, BundleError, Cause, Exported, Imported, Writer,
};
use crate::tools::rewrap::{Place, Unmounted};

pub(super) fn export(global: &Global, asked: &Export, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let provider = store.provider(&dir(global)?);
    let volume = open_volume(&asked.volume, &*provider, true)?;
    let id = volume.id;
    let secret = bundle_secret(&asked.secret, BundlePurpose::Seal)?;
    let stop = stop_flag().map_err(|e| CliError::io(&asked.volume, &e))?;
    let (tree, root) = tree_of(volume, provider, &asked.volume)?;
    let file =
        File::options().write(true).create_new(true).mode(0o600).open(&asked.bundle).map_err(|e| match e
            .kind()
        {
            std::io::ErrorKind::AlreadyExists => CliError::new(
                Code::NameTaken,
                format!("{} is there already; name a new file", asked.bundle.display()),
            ),
            _ => CliError::io(&asked.bundle, &e),
        })?;
    let written = (|| {
        let mut writer = Writer::begin(BufWriter::new(&file), id, &secret, Costs::default())?;
        let exported = bundle::export(&tree, &root, &mut writer, &stop)?;
        if !exported.cancelled {
            writer.finish()?;
            file.sync_all()?;
        }
        Ok(exported)
    })();
    // One that is not whole is of no use to anybody.
    if written.as_ref().map_or(true, |exported| exported.cancelled) {
        let _ = std::fs::remove_file(&asked.bundle);
    }
    let exported = written.map_err(|e| refused(&asked.bundle, e))?;
    tree.close().map_err(|e| CliError::io(&asked.volume, &e))?;
    let shown = ShownExport::new(id.to_string(), &asked.bundle, exported);
    output.print(&shown, ShownExport::lines)?;
    Ok(ExitCode::from(shown.exit_code))
}

pub(super) fn import(global: &Global, asked: &Import, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let key = store.describe(&asked.key)?.arn;
    let secret = bundle_secret(&asked.secret, BundlePurpose::Open)?;
    let file = File::open(&asked.bundle).map_err(|e| CliError::io(&asked.bundle, &e))?;
    let whole = Bundle::open(file, &secret).map_err(|e| refused(&asked.bundle, e))?;
    let from = whole.volume();
    let keys = Arc::new(Adopting::new(store.provider(&dir(global)?), whole));
    let volume = open_volume(&asked.volume, &*keys, false).map_err(|error| {
        if !error.is(Code::ForeignKey) {
            return error;
        }
        CliError::new(
            Code::ForeignKey,
            format!(
                "{} is another volume than {from}, whose keys are in the bundle; name the bundle that was \
                 exported from it",
                asked.volume.display()
            ),
        )
    })?;
    let id = volume.id;
    if keys.is_foreign(&volume.own_key())? {
        volume.move_to_own_key(&*keys)?;
    }
    let stop = stop_flag().map_err(|e| CliError::io(&asked.volume, &e))?;
    let (tree, root) = tree_of(volume, Arc::clone(&keys) as Arc<dyn Provider>, &asked.volume)?;
    let imported = bundle::import(&tree, &root, &keys, &key, &stop);
    tree.close().map_err(|e| CliError::io(&asked.volume, &e))?;
    let shown = ShownImport::new(id.to_string(), key, imported);
    output.print(&shown, ShownImport::lines)?;
    Ok(ExitCode::from(shown.exit_code))
}

fn open_volume(path: &Path, provider: &dyn Provider, read_only: bool) -> CliResult<Volume> {
    let in_use = |what: &str| {
        CliError::new(
            Code::VolumeInUse,
            format!("{}: {what}; unmount it first and name its directory of ciphertext", path.display()),
        )
    };
    if rustix::fs::lgetxattr(path, INFO_XATTR, &mut [0; 8192]).is_ok() {
        return Err(in_use("this is in a mount"));
    }
    handover::open(path, provider, read_only).map_err(|error| match error {
        VolumeError::InUse { .. } => in_use("the volume is mounted"),
        error => error.into(),
    })
}

fn tree_of(volume: Volume, provider: Arc<dyn Provider>, path: &Path) -> CliResult<(Unmounted, Place)> {
    let failed = |e: std::io::Error| CliError::io(path, &e);
    let path = &path.canonicalize().map_err(failed)?;
    let descriptors = process::raise_descriptor_limit().map_err(failed)?;
    Unmounted::new(Fs::new(volume, provider, path, descriptors)?, path).map_err(failed)
}

fn refused(path: &Path, error: BundleError) -> CliError {
    let shown = path.display();
    let (code, next) = match &error {
        BundleError::NotABundle => (Code::BadBackup, "name what 'kmsfs volume export' wrote"),
        BundleError::UnknownVersion(_) => (Code::BadBackup, "use the release of kmsfs that wrote it"),
        BundleError::WrongSecret => (Code::WrongSecret, "give what it was exported with, or export it again"),
        BundleError::Damaged(_) => (Code::BadBackup, "copy it again, or export it again"),
        BundleError::Secret(_) => return CliError::new(Code::NoSecret, error.to_string()),
        BundleError::Io(source) => return CliError::io(path, source),
    };
    CliError::new(code, format!("{shown}: {error}; {next}"))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownExport {
    volume_id: String,
    bundle: String,
    /// Files whose data keys are in the bundle.
    files: u64,
    missing_count: u64,
    missing: Vec<ShownMissing>,
    cancelled: bool,
    exit_code: u8,
}

impl ShownExport {
    fn new(volume_id: String, bundle: &Path, exported: Exported) -> Self {
        let Exported { files, missing, cancelled } = exported;
        let exit_code = exit_code(cancelled, missing.count > 0);
        let (missing_count, missing) = ShownMissing::all(missing);
        let bundle = bundle.display().to_string();
        Self { volume_id, bundle, files, missing_count, missing, cancelled, exit_code }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = ShownMissing::lines(&self.missing, self.missing_count);
        lines.push(if self.cancelled {
            "ended by a signal; there is no bundle".to_owned()
        } else {
            format!("{} has the keys of {} and of the volume itself", self.bundle, count(self.files, "file"))
        });
        lines
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownImport {
    volume_id: String,
    key_arn: String,
    /// Files wrapped anew.
    imported: u64,
    /// Names of files that needed nothing.
    already: u64,
    directories_assigned: u64,
    missing_count: u64,
    missing: Vec<ShownMissing>,
    /// Keys in the bundle of files that the volume does not have.
    unused_count: u64,
    unused_ids: Vec<String>,
    durable: bool,
    cancelled: bool,
    exit_code: u8,
}

impl ShownImport {
    fn new(volume_id: String, key_arn: String, imported: Imported) -> Self {
        let durable = imported.not_durable.is_none();
        let is_whole = durable && imported.missing.count == 0 && imported.unused_count == 0;
        let (missing_count, missing) = ShownMissing::all(imported.missing);
        Self {
            volume_id,
            key_arn,
            imported: imported.files,
            already: imported.already,
            directories_assigned: imported.assigned,
            missing_count,
            missing,
            unused_count: imported.unused_count,
            unused_ids: imported.unused.iter().map(ToString::to_string).collect(),
            durable,
            cancelled: imported.cancelled,
            exit_code: exit_code(imported.cancelled, !is_whole),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = ShownMissing::lines(&self.missing, self.missing_count);
        lines.extend(self.unused_ids.iter().map(|id| format!("not in the volume: file {id}")));
        if self.unused_count > self.unused_ids.len() as u64 {
            lines.push(format!(
                "not in the volume: {} more",
                self.unused_count - self.unused_ids.len() as u64
            ));
        }
        if !self.durable {
            lines.push("what was imported may not be on disk yet; run the command again".to_owned());
        }
        let mut last = format!("{} under {}", count(self.imported, "file"), self.key_arn);
        if self.cancelled {
            last.push_str(" (ended by a signal; the same command goes on from here)");
        }
        lines.push(last);
        lines
    }
}

fn exit_code(cancelled: bool, something_is_missing: bool) -> u8 {
    match (cancelled, something_is_missing) {
        (true, _) => Code::Interrupted as u8,
        (false, true) => Code::KeysMissing as u8,
        (false, false) => 0,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownMissing {
    path: String,
    cause: String,
}

impl ShownMissing {
    fn all(missing: AllMissing) -> (u64, Vec<Self>) {
        let shown = missing.named.into_iter().map(|missing| Self {
            path: missing.path.to_string_lossy().into_owned(),
            cause: match missing.cause {
                Cause::NotInBundle => "the bundle does not have its key".to_owned(),
                Cause::Failed(errno) => words(&std::io::Error::from_raw_os_error(errno)),
            },
        });
        (missing.count, shown.collect())
    }

    fn lines(named: &[Self], count: u64) -> Vec<String> {
        let line =
            |missing: &Self| format!("missing: {}: {}", printable(missing.path.as_ref()), missing.cause);
        let mut lines: Vec<String> = named.iter().map(line).collect();
        if count > named.len() as u64 {
            lines.push(format!("missing: {} more", count - named.len() as u64));
        }
        lines
    }
}
