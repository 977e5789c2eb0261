//! `mount`: checks everything that can be checked, goes to the background, and serves.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::UNENCRYPTED;
use super::args::{Global, Mount};
use super::dead_mount::clear_dead_mount;
use super::exit::{CliError, CliResult, Code, words};
use super::handover;
use super::key_store::{KeyStore, dir, is_served};
use super::lock::LockWhen;
use super::log;
use super::secret::{Purpose, secret};
use super::settings::Settings;
use super::signals::Signalled;
use crate::crypto::aead;
use crate::fs::{Fs, Volume, VolumeError, Watcher};
use crate::kms::audit::Mode;
use crate::kms::{UnlockSecret, store_exists};
use crate::mount::{self, MayNotKeepAwake, MountOptions, Mounted, Stops};
use crate::provider::Provider;
use crate::server::{Server, Vigil, Vigilance, asleep};
use crate::sys::process::{self, Forked};

/// How often an owner of the key store that outlived its mount looks whether it is still needed.
const LINGER_POLL: Duration = Duration::from_millis(250);

/// What mounts are served through.
const FUSE: &str = "/dev/fuse";

/// What the process in the background reports to the one that was started.
#[derive(Serialize, Deserialize)]
struct Outcome {
    /// Exit code, 0 when the mount is ready.
    code: u8,
    message: String,
}

/// What is to be mounted, with absolute paths.
struct Plan {
    volume: PathBuf,
    mountpoint: PathBuf,
    options: MountOptions,
    idle_timeout: Option<Duration>,
    lock_when: LockWhen,
    key_ttl: Option<Duration>,
    store: PathBuf,
    /// The key store's secret; absent when another process has the store open.
    secret: Option<UnlockSecret>,
    log: Option<PathBuf>,
    audit: Mode,
    verbose: u8,
    /// A terminal or a service manager waits for the process, and hears of its state.
    foreground: bool,
}

pub(super) fn mount(global: &Global, mount: &Mount) -> CliResult<()> {
    let settings = Settings::new(global, mount)?;
    let plan = plan(&settings, mount)?;
    if mount.from_mount.is_some_and(|from| from.fake) {
        return Ok(());
    }
    let secret = find_secret(&settings.global, &plan)?;
    let plan = Plan { secret, ..plan };
    if mount.foreground {
        log::to_stderr(global.verbose.max(1));
        return serve(plan, || Ok(()));
    }
    let failed = |e: std::io::Error| CliError::new(Code::Unexpected, format!("going to the background: {e}"));
    match process::fork_daemon().map_err(failed)? {
        Forked::Parent(pipe) => wait_until_ready(File::from(pipe)),
        Forked::Child(pipe) => {
            in_background(plan, File::from(pipe));
            Ok(())
        }
    }
}

/// Everything that can be refused before anything is done or asked for.
fn plan(settings: &Settings, mount: &Mount) -> CliResult<Plan> {
    let global = &settings.global;
    let options = settings.options.clone();
    let volume = mount.dir.canonicalize().map_err(|e| match e.kind() {
        ErrorKind::NotFound => VolumeError::NotAVolume(mount.dir.display().to_string()).into(),
        _ => CliError::io(&mount.dir, &e),
    })?;
    if !Volume::exists(&volume) {
        return Err(VolumeError::NotAVolume(volume.display().to_string()).into());
    }
    let mountpoint = check_mountpoint(&mount.mountpoint, &volume, &options)?;
    check_fuse()?;
    Ok(Plan {
        volume,
        mountpoint,
        options,
        idle_timeout: settings.idle_timeout,
        lock_when: settings.lock_when,
        key_ttl: settings.key_ttl,
        store: dir(global)?,
        secret: None,
        log: None,
        verbose: global.verbose,
        audit: global.audit.into(),
        foreground: mount.foreground,
    })
}

/// What unlocks the key store; `None` if another process has it open.
fn find_secret(global: &Global, plan: &Plan) -> CliResult<Option<UnlockSecret>> {
    // A process that is still ending may have the key store open as well, and takes it along.
    handover::wait(&plan.volume);
    if is_served(&plan.store) {
        return Ok(None);
    }
    if store_exists(&plan.store) {
        return Ok(Some(secret(global, Purpose::Unlock)?));
    }
    Err(KeyStore::open(global)
        .err()
        .unwrap_or_else(|| CliError::new(Code::NoKeyStore, "the key store appeared just now; retry")))
}

fn check_mountpoint(path: &Path, volume: &Path, options: &MountOptions) -> CliResult<PathBuf> {
    let refuse = |why: &str| Err(CliError::new(Code::MountPoint, format!("{} {why}", path.display())));
    let mountpoint = match path.canonicalize() {
        Ok(mountpoint) => mountpoint,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return refuse("does not exist; create the directory first");
        }
        Err(e) => {
            return Err(CliError::new(
                Code::MountPoint,
                format!("{}: {}; choose another mount point", path.display(), words(&e)),
            ));
        }
    };
    clear_dead_mount(&mountpoint)?;
    if !mountpoint.is_dir() {
        return refuse("is not a directory; choose one");
    }
    if mountpoint.starts_with(volume) || volume.starts_with(&mountpoint) {
        return refuse("and the volume lie one within the other; choose another mount point");
    }
    if mount::is_awaited(&mountpoint) {
        return Ok(mountpoint);
    }
    let mut entries = std::fs::read_dir(&mountpoint).map_err(|e| CliError::io(&mountpoint, &e))?;
    if !options.nonempty && entries.next().is_some() {
        return refuse("is not empty; choose an empty directory, or hide its contents with '-o nonempty'");
    }
    Ok(mountpoint)
}

/// The started process: passes on what the one in the background reports.
fn wait_until_ready(mut pipe: File) -> CliResult<()> {
    let mut report = Vec::new();
    let read = pipe.read_to_end(&mut report);
    let outcome: Option<Outcome> = read.ok().and_then(|_| serde_json::from_slice(&report).ok());
    match outcome {
        Some(Outcome { code: 0, .. }) => Ok(()),
        Some(Outcome { code, message }) => Err(CliError::relayed(code, message)),
        None => Err(CliError::new(Code::Unexpected, "the mount ended unexpectedly; try it with -f")),
    }
}

/// The process in the background. Its report ends the pipe, which is what the started process
/// waits for.
fn in_background(mut plan: Plan, pipe: File) {
    plan.log = Some(log_dir(&plan.store));
    let pipe = Cell::new(Some(pipe));
    let report = |outcome: &Outcome| {
        if let (Some(mut pipe), Ok(text)) = (pipe.take(), serde_json::to_vec(outcome)) {
            let _ = pipe.write_all(&text);
        }
    };
    let served = serve(plan, || {
        let _ = std::env::set_current_dir("/");
        let detached = process::detach_streams();
        detached.map_err(|e| CliError::new(Code::Unexpected, format!("detaching from the terminal: {e}")))?;
        report(&Outcome { code: 0, message: String::new() });
        Ok(())
    });
    if let Err(error) = served {
        tracing::error!("{error}");
        report(&Outcome { code: error.code(), message: error.to_string() });
    }
}

/// Where the logs of mounts are: beside the key store, or where a user keeps his own if that is
/// another's.
fn log_dir(store: &Path) -> PathBuf {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let beside = store.join("log");
    let writable = |dir: &Path| accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    if writable(&beside) || !beside.exists() && writable(store) {
        return beside;
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    own.map_or(beside, |own| own.join("kmsfs/log"))
}

/// Mounts, says that it is ready, and serves until the end.
fn serve(mut plan: Plan, ready: impl FnOnce() -> CliResult<()>) -> CliResult<()> {
    let unexpected =
        |what: &str, e: &dyn std::fmt::Display| CliError::new(Code::Unexpected, format!("{what}: {e}"));
    let descriptors = process::raise_descriptor_limit();
    let descriptors = descriptors.map_err(|e| unexpected("raising the limit of open files", &e))?;
    // Not kept: a locked key store must not be opened with what is left in memory.
    let store = match plan.secret.take() {
        Some(secret) => KeyStore::unlock(&plan.store, &secret, plan.audit)?,
        None => KeyStore::Served(crate::provider::SocketClient::new(&plan.store)),
    };
    let provider = store.provider(&plan.store);
    let stops = Stops::new();
    let signalled =
        Signalled::watch(&stops, plan.foreground).map_err(|e| unexpected("handling signals", &e))?;
    let fs = open_volume(&plan, Arc::clone(&provider), descriptors)?;
    if let Some(logs) = &plan.log {
        log::to_file(&logs.join(format!("{}.log", fs.volume().id)), plan.verbose)?;
    }
    if aead::choose().is_ok_and(|ciphers| !ciphers.encrypts_contents()) {
        tracing::error!("{UNENCRYPTED}");
    }
    if !crate::secret::all_locked() {
        tracing::warn!("keys could not be locked into memory (see 'ulimit -l'); they may reach swap");
    }
    let server = match &store {
        KeyStore::Own(service) => {
            Some(Server::start(Arc::clone(service)).map_err(|e| unexpected("the key service's socket", &e))?)
        }
        KeyStore::Served(_) => None,
    };
    let vigil = watch_over(&store, plan.lock_when)?;
    if let Err(error) = fs.announce(&plan.volume) {
        // Else the next mount would take the volume for one that crashed.
        let _ = fs.shut_down();
        return Err(error.into());
    }
    let let_go = || {
        // Else the next mount would take the volume for one that crashed, and the key service for one
        // that is lost.
        if fs.shut_down().is_ok() {
            fs.take_leave(&plan.volume);
        }
    };
    let watching = provider.attach(Arc::new(Watcher(Arc::clone(&fs)))).inspect_err(|_| let_go())?;
    let mounted = Mounted::new(Arc::clone(&fs), &plan.volume, &plan.mountpoint, &plan.options, stops);
    let mounted = mounted.map_err(|e| {
        let_go();
        no_mount(&plan.mountpoint, &e)
    })?;
    let status = format!("{} is mounted at {}", plan.volume.display(), plan.mountpoint.display());
    tracing::info!("{status}");
    notify(&plan, &[NotifyState::Status(&status), NotifyState::Ready]);
    ready()?;
    let why = mounted.serve(plan.idle_timeout);
    notify(&plan, &[NotifyState::Status("making everything durable"), NotifyState::Stopping]);
    let ended = mounted.finish(why);
    if ended.is_ok() {
        fs.take_leave(&plan.volume);
    }
    drop(watching);
    let server = server.filter(|server| server.attached_mounts() > 0 && !signalled.came());
    tracing::info!("{} is unmounted", plan.mountpoint.display());
    // Lets go of the volume's lock, which an unmount waits for. By then nobody must take this
    // process for the owner of the key store any more, unless it stays on as that.
    drop(fs);
    if let Some(server) = server {
        notify(&plan, &[NotifyState::Status("unmounted; serving keys to other mounts")]);
        linger(&server, &signalled);
    }
    drop(vigil);
    ended?;
    Ok(())
}

/// Has the key store locked when that is wanted, if it is this process that has it open.
fn watch_over(store: &KeyStore, when: LockWhen) -> CliResult<Option<Vigil>> {
    let (KeyStore::Own(service), when) = (store, Vigilance::from(when)) else {
        if Vigilance::from(when) != Vigilance::default() {
            tracing::warn!("another process has the key store open: when it is locked is that one's to know");
        }
        return Ok(None);
    };
    let vigil = Vigil::start(Arc::clone(service), when, asleep);
    vigil.map(Some).map_err(|e| CliError::new(Code::Unexpected, format!("watching over the key store: {e}")))
}

/// Tells the service manager, if there is one that waits for this process.
fn notify(plan: &Plan, states: &[NotifyState<'_>]) {
    if plan.foreground
        && let Err(error) = sd_notify::notify(states)
    {
        tracing::warn!("the service manager could not be told: {error}");
    }
}

fn open_volume(plan: &Plan, provider: Arc<dyn Provider>, descriptors: u64) -> CliResult<Arc<Fs>> {
    let volume = handover::open(&plan.volume, &*provider, plan.options.read_only)?;
    let fs = Fs::new(volume, provider, &plan.mountpoint, descriptors)?;
    let fs = fs.with_key_access(plan.options.key_access());
    Ok(Arc::new(match plan.key_ttl {
        Some(ttl) => fs.with_key_ttl(ttl),
        None => fs,
    }))
}

fn no_mount(mountpoint: &Path, error: &std::io::Error) -> CliError {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENOENT) => {
            CliError::new(Code::NoFuse, format!("FUSE is not available: {}; install fuse3", words(error)))
        }
        Some(libc::EPERM | libc::EACCES) => CliError::new(
            Code::NoFuse,
            format!(
                "FUSE may not be used: {}; install fuse3, whose fusermount3 lets users mount",
                words(error)
            ),
        ),
        // As fusermount3 says it.
        None if error.to_string().contains("user_allow_other") => CliError::new(
            Code::MountPoint,
            "users may not give a mount to others; leave out allow_other, or add user_allow_other to \
             /etc/fuse.conf",
        ),
        None if error.get_ref().is_some_and(|error| error.is::<MayNotKeepAwake>()) => {
            let remedy = if rustix::process::geteuid().is_root() { "" } else { ", or mount as root" };
            CliError::new(Code::MountPoint, format!("{}; leave it out{remedy}", words(error)))
        }
        None => CliError::new(
            Code::MountPoint,
            format!("{}: {}; see fusermount3(1)", mountpoint.display(), words(error).trim()),
        ),
        _ => CliError::new(
            Code::MountPoint,
            format!("{}: {}; see the kernel's log", mountpoint.display(), words(error)),
        ),
    }
}

/// Found out before the volume is touched: a mount that fails has to note that it ended.
fn check_fuse() -> CliResult<()> {
    let Err(error) = File::options().read(true).write(true).open(FUSE) else { return Ok(()) };
    let next = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!("let root 'chmod 666 {FUSE}', as udev does"),
        _ => "load the kernel module with 'modprobe fuse'".to_owned(),
    };
    Err(CliError::new(Code::NoFuse, format!("{FUSE}: {}; {next}", words(&error))))
}

/// Other mounts get their keys from this process: it stays for them, without its own mount.
fn linger(server: &Server, signalled: &Signalled) {
    tracing::info!("serving keys to {} other mounts", server.attached_mounts());
    while server.attached_mounts() > 0 && !signalled.came() {
        std::thread::sleep(LINGER_POLL);
    }
}
