//! Keeps the machine's processors awake while the mount is used. A request wakes a loop, and its answer
//! the program; where these processors sleep meanwhile, that is most of what a small operation takes.
//!
//! It is asked of the kernel by [PM QoS](https://docs.kernel.org/power/pm_qos_interface.html): what was
//! written to [`DEVICE`] holds until it is written anew or this process ends, however it ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::gate;

/// Takes the microseconds that waking a processor may take, as an `s32`.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// The driver by which idle processors sleep.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// As long as it likes: what the kernel takes when nobody asks.
const ANY: i32 = 2_000_000_000;
/// The lightest sleep of bare processors, which costs next to nothing.
const LIGHT: i32 = 2;
/// None. In virtual machines even the lightest sleep is one of the host's.
const NONE: i32 = 0;
/// How long after the last use processors stay awake.
const REST: Duration = Duration::from_millis(20);

/// Nobody has used the mount for a while, and [`SLEEPER`] waits for a use.
static RESTS: AtomicBool = AtomicBool::new(false);
static SLEEPER: OnceLock<Thread> = OnceLock::new();

/// The right to keep processors awake.
pub(super) struct Wakeful {
    device: File,
    latency: i32,
}

impl Wakeful {
    /// Asks for nothing yet.
    ///
    /// # Errors
    /// Where the kernel does not let this process ask: root may.
    pub(super) fn new() -> io::Result<Self> {
        let device = File::options().write(true).open(DEVICE).map_err(|error| {
            io::Error::new(error.kind(), format!("low_latency needs {DEVICE}, which root may open: {error}"))
        })?;
        let driver = fs::read_to_string(DRIVER).unwrap_or_default();
        let latency = match driver.trim() {
            "" | "none" => {
                tracing::warn!(
                    "low_latency changes nothing here: this kernel does not say how processors sleep"
                );
                ANY
            }
            "haltpoll" => NONE,
            _ => LIGHT,
        };
        Ok(Self { device, latency })
    }

    /// Begins. The thread ends with the process, of whose one mount it is.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(mut self) -> io::Result<JoinHandle<()>> {
        super::spawn("kmsfs-wakeful", move || {
            SLEEPER.get_or_init(thread::current);
            loop {
                self.rest();
                self.ask(self.latency);
                while gate::idle() < REST {
                    thread::sleep(REST);
                }
                self.ask(ANY);
            }
        })
    }

    /// Waits until the mount is used.
    fn rest(&self) {
        RESTS.store(true, Ordering::Relaxed);
        // A use that came between is seen here, or the next one tells.
        while RESTS.load(Ordering::Relaxed) && gate::idle() >= REST {
            thread::park();
        }
        RESTS.store(false, Ordering::Relaxed);
    }

    fn ask(&mut self, latency: i32) {
        if let Err(error) = self.device.write_all(&latency.to_ne_bytes()) {
            tracing::debug!("{DEVICE}: {error}");
        }
    }
}

/// Tells of a use of the mount.
pub(super) fn used() {
    if RESTS.load(Ordering::Relaxed)
        && RESTS.swap(false, Ordering::Relaxed)
        && let Some(sleeper) = SLEEPER.get()
    {
        sleeper.unpark();
    }
}
