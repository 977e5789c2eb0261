//! Mounting through FUSE. The only place that knows `fuser`; everything that a request asks for is
//! done by [`crate::fs`].

mod adapter;
mod agreement;
mod convert;
mod ending;
mod gate;
mod options;
mod privileged;
mod reply;
mod table;
mod waiting;
mod wakeful;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};

use crate::fs::{Fs, FsError, FsResult, KernelCache};
use crate::sync::atomic::{AtomicBool, Ordering};
use adapter::Adapter;
use agreement::Terms;
use ending::Ending;
use wakeful::Wakeful;

pub use ending::{Ended, Stopper, Stops};
pub use options::{MountOptions, OptionError};
pub use table::{MountEntry, elsewhere, find_mount, is_awaited, is_mounted_for, mounts, unmount};
pub use wakeful::MayNotKeepAwake;

/// Filesystem subtype: mounts are of type `fuse.kmsfs`.
pub const SUBTYPE: &str = "kmsfs";
/// How long requests under way may take when the mount has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(30);
/// Read-ahead in KiB: as much as the kernel asks for at a time.
const READ_AHEAD_KIB: u32 = 1024;

/// A mounted filesystem.
pub struct Mounted {
    fs: Arc<Fs>,
    ending: Ending,
    session: JoinHandle<io::Result<()>>,
    settler: JoinHandle<()>,
    recovery: JoinHandle<()>,
    stop_recovery: Arc<AtomicBool>,
}

impl Mounted {
    /// Mounts and begins to serve, until `stops` says otherwise.
    ///
    /// # Errors
    /// As mount(2); `ENODEV` or `ENOENT` where there is no FUSE. [`MayNotKeepAwake`] where processors are
    /// to stay awake.
    pub fn new(
        fs: Arc<Fs>,
        source: &Path,
        mountpoint: &Path,
        options: &MountOptions,
        stops: Stops,
    ) -> io::Result<Self> {
        let wakeful = options.low_latency.then(Wakeful::new).transpose()?;
        // Files get the modes that they are created with.
        rustix::process::umask(rustix::fs::Mode::empty());
        let session = start(&fs, source, mountpoint, options)?;
        let kernel = Kernel { notifier: session.notifier(), gathers_writes: options.writeback };
        fs.set_kernel(Arc::new(kernel));
        let stopper = stops.stopper();
        let session = spawn("kmsfs-session", move || {
            let result = session.run();
            stopper.unmounted();
            result
        })?;
        let settling = Arc::clone(&fs);
        let settler = spawn("kmsfs-settler", move || settling.run_settler())?;
        let stop_recovery = Arc::new(AtomicBool::new(false));
        let (recovering, stop) = (Arc::clone(&fs), Arc::clone(&stop_recovery));
        let recovery =
            spawn("kmsfs-recovery", move || recovering.run_recounts(&|| stop.load(Ordering::Relaxed)))?;
        let device = rustix::fs::stat(mountpoint)?.st_dev;
        raise_read_ahead(device);
        gate::touch();
        wakeful.map(Wakeful::start).transpose()?;
        Ok(Self { fs, ending: Ending::new(device, stops), session, settler, recovery, stop_recovery })
    }

    /// Serves until the filesystem is unmounted, this process is asked to end, or nothing has used
    /// the mount for `idle`.
    pub fn serve(&self, idle: Option<Duration>) -> Ended {
        self.ending.wait(idle)
    }

    /// Ends the mount, unless it is unmounted already, and makes everything durable.
    ///
    /// # Errors
    /// When something could not be made durable.
    pub fn finish(self, why: Ended) -> FsResult<()> {
        if why == Ended::Stopped {
            self.ending.unmount();
        }
        // Else a request could change a file that was settled already.
        let closed = gate::close(LAST_REQUESTS);
        self.stop_recovery.store(true, Ordering::Relaxed);
        self.fs.stop_recounts();
        self.fs.stop_settler();
        let _ = self.recovery.join();
        let _ = self.settler.join();
        if self.session.is_finished()
            && let Ok(Err(error)) = self.session.join()
        {
            tracing::warn!("the FUSE session ended with an error: {error}");
        }
        if !closed {
            tracing::error!("requests are still under way; the next mount will look after them");
            return Err(FsError::new(libc::ETIMEDOUT));
        }
        self.fs.shut_down()
    }
}

/// The kernel's page cache, reached through FUSE notifications.
struct Kernel {
    notifier: Notifier,
    gathers_writes: bool,
}

impl KernelCache for Kernel {
    fn invalidate(&self, ino: u64, from: u64, len: Option<u64>) -> io::Result<()> {
        // A length of zero is all the rest.
        let (from, len) = (from.cast_signed(), len.unwrap_or(0).cast_signed());
        self.notifier.inval_inode(INodeNo(ino), from, len)
    }

    fn forget_attributes(&self, ino: u64) -> io::Result<()> {
        // Before the first byte there is nothing but attributes.
        self.notifier.inval_inode(INodeNo(ino), -1, 0)
    }

    fn gathers_writes(&self) -> bool {
        self.gathers_writes
    }
}

/// Mounts: as root by ourselves, else through `fusermount3`.
fn start(
    fs: &Arc<Fs>,
    source: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> io::Result<Session<Adapter>> {
    let by_root = rustix::process::geteuid().is_root();
    let by_true_root = by_root && privileged::is_initial_namespace();
    let terms = Terms { writeback: options.writeback, permissions: options.checks_permissions(by_true_root) };
    let adapter = Adapter::new(Arc::clone(fs), terms);
    let config = config(source, options);
    if !by_root {
        return Session::new(adapter, mountpoint, &config);
    }
    let device = privileged::mount(source, mountpoint, options, terms.permissions)?;
    let session = Session::from_fd(adapter, device, config.acl, config);
    if session.is_err() {
        table::detach(mountpoint)?;
    }
    session
}

fn config(source: &Path, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source.display().to_string()),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
    ];
    config.mount_options.extend(options.kernel_options());
    // Who has the owner's ids and reaches files as another user is let in by the kernel, and refused by this.
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads());
    config.clone_fd = true;
    config
}

/// Lets the kernel read as far ahead as one request can carry. Only root may; otherwise reading
/// stays as it is.
fn raise_read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!("read-ahead stays at the kernel's default: {error}");
    }
}

fn spawn<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(f)
}
