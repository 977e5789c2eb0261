//! `init` and `umount`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::args::{Global, Init, Umount};
use super::exit::{CliError, CliResult, Code};
use super::key_store::{DEFAULT_ALIAS, KeyStore, dir, is_served};
use super::output::{Output, fields};
use super::secret::{Purpose, secret};
use crate::format::VOLUME_NAME;
use crate::fs::Volume;
use crate::kms::api::NoteVolumeRequest;
use crate::kms::{VolumeFiles, store_exists};
use crate::mount;
use crate::sys;

/// How long to wait before looking whether the mount lives on elsewhere, and between looks.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon an unmount looks whether the mount's process is done; each time it waits twice as long, up
/// to [`POLL`].
const FIRST_POLL: Duration = Duration::from_millis(1);
const POLL: Duration = Duration::from_millis(20);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    volume_id: String,
    directory: PathBuf,
    key_store: PathBuf,
    key_arn: String,
}

pub(super) fn init(global: &Global, init: &Init, output: &Output) -> CliResult<()> {
    let made_dir = make_directory(&init.dir)?;
    let result = init_in(global, init, output);
    if result.is_err() && made_dir {
        // Only if it is still empty.
        let _ = std::fs::remove_dir(&init.dir);
    }
    result
}

fn init_in(global: &Global, init: &Init, output: &Output) -> CliResult<()> {
    Volume::check_creatable(&init.dir)?;
    let store_dir = dir(global)?;
    let store = if store_exists(&store_dir) || is_served(&store_dir) {
        KeyStore::open(global)?
    } else {
        // Refused before there is a key store that was made in vain.
        if init.key != DEFAULT_ALIAS {
            return Err(CliError::new(
                Code::NoSuchKey,
                format!(
                    "there is no key {} yet, as there is no key store in {}; leave out --key",
                    init.key,
                    store_dir.display()
                ),
            ));
        }
        output.note(&format!("creating a key store in {}", store_dir.display()));
        KeyStore::create(&store_dir, &secret(global, Purpose::Create)?, global.audit.into())?
    };
    let key = store.describe(&init.key)?;
    let provider = store.provider(&store_dir);
    let directory = std::path::absolute(&init.dir).map_err(|e| CliError::io(&init.dir, &e))?;
    let id = Volume::create(&init.dir, &*provider, &key.arn)?;
    // Nothing is in it yet, and that is certain.
    let note = NoteVolumeRequest {
        volume_id: id.to_string(),
        path: directory.display().to_string(),
        open: false,
        files: VolumeFiles { certain: true, ..VolumeFiles::default() },
    };
    if let Err(error) = provider.note_volume(&note) {
        output.warn(&format!("the key store does not know yet where the volume is: {error}"));
    }
    let made = Made { volume_id: id.to_string(), directory, key_store: store_dir, key_arn: key.arn };
    output.print(&made, |made| {
        fields(&[
            ("volume", made.volume_id.clone()),
            ("directory", made.directory.display().to_string()),
            ("key store", made.key_store.display().to_string()),
            ("default key", made.key_arn.clone()),
        ])
    })
}

/// Creates the directory for a volume if it is not there; answers whether it did.
fn make_directory(dir: &Path) -> CliResult<bool> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(CliError::io(dir, &e)),
    }
}

pub(super) fn umount(umount: &Umount) -> CliResult<()> {
    let mountpoint = resolve(&umount.mountpoint)?;
    let found = mount::find_mount(&mountpoint).map_err(|e| CliError::io(&mountpoint, &e))?;
    let Some(entry) = found else {
        return Err(CliError::new(
            Code::NotAMount,
            format!("no kmsfs is mounted at {}; 'kmsfs status' lists the mounts", mountpoint.display()),
        ));
    };
    let device = rustix::fs::stat(&mountpoint).map(|stat| stat.st_dev);
    // Opened first: its lock is free again when the mount's process is done with the volume.
    let volume = File::open(entry.source.join(VOLUME_NAME));
    let holders = volume.as_ref().map(sys::lock_holders).unwrap_or_default();
    mount::unmount(&mountpoint).map_err(|e| {
        let busy = e.raw_os_error() == Some(libc::EBUSY) || e.to_string().contains("busy");
        if busy {
            let next = "close what uses it ('fuser -m' names it), then retry";
            CliError::new(Code::MountBusy, format!("{} is busy; {next}", mountpoint.display()))
        } else {
            CliError::io(&mountpoint, &e)
        }
    })?;
    let Ok(volume) = volume else { return Ok(()) };
    let (mut next_look, mut poll) = (Instant::now() + PATIENCE, FIRST_POLL);
    while rustix::fs::flock(&volume, FlockOperation::NonBlockingLockShared).is_err() {
        // Whoever mounts the volume right after this has it for himself.
        let now = sys::lock_holders(&volume);
        if !now.is_empty() && !now.iter().any(|holder| holders.contains(holder)) {
            break;
        }
        if Instant::now() > next_look {
            if let Some((process, place)) = device.ok().and_then(mount::elsewhere) {
                return Err(served_on(&mountpoint, process, &place));
            }
            next_look = Instant::now() + PATIENCE;
        }
        std::thread::sleep(poll);
        poll = (poll * 2).min(POLL);
    }
    Ok(())
}

fn served_on(mountpoint: &Path, process: u32, place: &Path) -> CliError {
    CliError::new(
        Code::MountBusy,
        format!(
            "{} is unmounted, but process {process} has the same mount at {}, which goes on; unmount it there, \
             or end that process",
            mountpoint.display(),
            place.display()
        ),
    )
}

/// The absolute path of a mount point, also of one whose filesystem does not answer.
fn resolve(path: &Path) -> CliResult<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| CliError::io(path, &e))?;
    let resolved = absolute
        .parent()
        .zip(absolute.file_name())
        .and_then(|(parent, name)| Some(parent.canonicalize().ok()?.join(name)));
    Ok(resolved.unwrap_or(absolute))
}
