//! Mounting through FUSE. The only place that knows `fuser`; everything that a request asks for is
//! done by [`crate::fs`].

mod adapter;
mod convert;
mod options;
mod privileged;
mod reply;
mod table;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};

use crate::fs::{Fs, FsResult, KernelCache};
use adapter::Adapter;

pub use options::{MountOptions, UnknownOption};
pub use table::{MountEntry, find_mount, mounts, unmount};

/// Filesystem subtype: mounts are of type `fuse.kmsfs`.
pub const SUBTYPE: &str = "kmsfs";
/// How long the kernel may go on using a mount that was unmounted on a signal.
const LAST_REQUESTS: Duration = Duration::from_secs(10);
/// Read-ahead in KiB: as much as the kernel asks for at a time.
const READ_AHEAD_KIB: u32 = 1024;

/// Why a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was unmounted.
    Unmounted,
    /// This process was asked to end.
    Signalled,
}

/// Unmounts what this process has mounted.
type Unmounter = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A mounted filesystem.
pub struct Mounted {
    fs: Arc<Fs>,
    unmounter: Unmounter,
    events: Receiver<Ended>,
    sender: Sender<Ended>,
    session: JoinHandle<io::Result<()>>,
    settler: JoinHandle<()>,
    recovery: JoinHandle<()>,
    stop_recovery: Arc<AtomicBool>,
}

impl Mounted {
    /// Mounts and begins to serve.
    ///
    /// # Errors
    /// As mount(2); `ENODEV` or `ENOENT` where there is no FUSE.
    pub fn new(fs: Arc<Fs>, source: &Path, mountpoint: &Path, options: &MountOptions) -> io::Result<Self> {
        // Files get the modes that they are created with.
        rustix::process::umask(rustix::fs::Mode::empty());
        let (session, unmounter) = start(&fs, source, mountpoint, options)?;
        fs.set_kernel(Arc::new(Kernel(session.notifier())));
        let (sender, events) = mpsc::channel();
        let ended = sender.clone();
        let session = spawn("kmsfs-session", move || {
            let result = session.run();
            let _ = ended.send(Ended::Unmounted);
            result
        })?;
        let settling = Arc::clone(&fs);
        let settler = spawn("kmsfs-settler", move || settling.run_settler())?;
        let stop_recovery = Arc::new(AtomicBool::new(false));
        let (recovering, stop) = (Arc::clone(&fs), Arc::clone(&stop_recovery));
        let recovery = spawn("kmsfs-recovery", move || recovering.recover(&stop))?;
        raise_read_ahead(mountpoint);
        Ok(Self { fs, unmounter, events, sender, session, settler, recovery, stop_recovery })
    }

    /// Something that asks the mount to end, for a signal handler's thread.
    pub fn ender(&self) -> impl Fn() + Send + 'static {
        let sender = self.sender.clone();
        move || {
            let _ = sender.send(Ended::Signalled);
        }
    }

    /// Serves until the filesystem is unmounted or asked to end, unmounts it in the latter case,
    /// and makes everything durable.
    ///
    /// # Errors
    /// When something could not be made durable.
    pub fn wait(mut self) -> FsResult<Ended> {
        let why = self.events.recv().unwrap_or(Ended::Unmounted);
        if why == Ended::Signalled {
            if let Err(error) = (self.unmounter)() {
                tracing::warn!("unmounting: {error}");
            }
            // A busy mount is detached; programs that still use it get what they ask for a while
            // longer.
            let _ = self.events.recv_timeout(LAST_REQUESTS);
        }
        self.stop_recovery.store(true, Ordering::Relaxed);
        self.fs.stop_settler();
        let _ = self.recovery.join();
        let _ = self.settler.join();
        if self.session.is_finished()
            && let Ok(Err(error)) = self.session.join()
        {
            tracing::warn!("the FUSE session ended with an error: {error}");
        }
        self.fs.shut_down()?;
        Ok(why)
    }
}

/// The kernel's page cache, reached through FUSE notifications.
struct Kernel(Notifier);

impl KernelCache for Kernel {
    fn invalidate(&self, ino: u64) -> io::Result<()> {
        self.0.inval_inode(INodeNo(ino), 0, 0)
    }
}

/// Mounts: as root by ourselves, else through `fusermount3`.
fn start(
    fs: &Arc<Fs>,
    source: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> io::Result<(Session<Adapter>, Unmounter)> {
    let adapter = Adapter::new(Arc::clone(fs), options.writeback);
    let config = config(source, options);
    if !rustix::process::geteuid().is_root() {
        let mut session = Session::new(adapter, mountpoint, &config)?;
        let mut unmounter = session.unmount_callable();
        return Ok((session, Box::new(move || unmounter.unmount())));
    }
    let device = privileged::mount(source, mountpoint, options)?;
    let mountpoint = mountpoint.to_owned();
    let session = Session::from_fd(adapter, device, config.acl, config);
    let unmount = move || privileged::detach(&mountpoint);
    if session.is_err() {
        unmount()?;
    }
    Ok((session?, Box::new(unmount)))
}

fn config(source: &Path, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source.display().to_string()),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
    ];
    config.mount_options.extend(options.kernel_options());
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads());
    config.clone_fd = true;
    config
}

/// Lets the kernel read as far ahead as one request can carry. Only root may; otherwise reading
/// stays as it is.
fn raise_read_ahead(mountpoint: &Path) {
    let raised = rustix::fs::stat(mountpoint).map_err(io::Error::from).and_then(|stat| {
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB.to_string())
    });
    if let Err(error) = raised {
        tracing::debug!("read-ahead stays at the kernel's default: {error}");
    }
}

fn spawn<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(f)
}
