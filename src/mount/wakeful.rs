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

use thiserror::Error;

use super::gate;

/// Takes the microseconds that waking a processor may take, as an `s32`.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// The driver by which idle processors sleep.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// What processors can do.
const FEATURES: &str = "/proc/cpuinfo";
/// As long as it likes: what the kernel takes when nobody asks.
const ANY: i32 = 2_000_000_000;
/// The lightest sleep of bare processors is left, which takes next to nothing.
const LIGHT: i32 = 2;
/// None is left. In virtual machines even the lightest is a halt, out of which the host has to help.
const NONE: i32 = 0;
/// How long after the last use processors stay awake.
const REST: Duration = Duration::from_millis(20);

/// Nobody has used the mount for a while, and [`SLEEPER`] waits for a use.
static RESTS: AtomicBool = AtomicBool::new(false);
static SLEEPER: OnceLock<Thread> = OnceLock::new();

/// This process may not keep processors awake.
#[derive(Debug, Error)]
#[error("low_latency: {DEVICE}: {0}")]
pub struct MayNotKeepAwake(#[source] io::Error);

/// The right to keep processors awake.
pub(super) struct Wakeful {
    device: File,
    latency: i32,
}

impl Wakeful {
    /// Asks for nothing yet.
    ///
    /// # Errors
    /// [`MayNotKeepAwake`] where the kernel does not let this process ask: root may.
    pub(super) fn new() -> io::Result<Self> {
        let device = File::options().write(true).open(DEVICE);
        let device = device.map_err(|error| io::Error::other(MayNotKeepAwake(error)))?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Ok(Self { device, latency: suiting(read(DRIVER).trim(), &read(FEATURES)) })
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
                while let Some(left) = REST.checked_sub(gate::idle()).filter(|left| !left.is_zero()) {
                    thread::sleep(left);
                }
                self.ask(ANY);
            }
        })
    }

    /// Waits until the mount is used.
    fn rest(&self) {
        RESTS.store(true, Ordering::Release);
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

/// What to ask for, of processors that sleep by `driver` and have `features`.
fn suiting(driver: &str, features: &str) -> i32 {
    let is_virtual = driver == "haltpoll" || features.split_whitespace().any(|word| word == "hypervisor");
    match driver {
        "" | "none" => {
            tracing::warn!("low_latency changes nothing: this kernel cannot choose how processors sleep");
            ANY
        }
        _ if is_virtual => NONE,
        _ => LIGHT,
    }
}

/// Tells of a use of the mount.
pub(super) fn used() {
    if RESTS.load(Ordering::Relaxed)
        && RESTS.swap(false, Ordering::Acquire)
        && let Some(sleeper) = SLEEPER.get()
    {
        sleeper.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_processors_do_not_sleep_at_all_and_bare_ones_lightly() {
        assert_eq!(suiting("intel_idle", "flags\t\t: fpu vme aes"), LIGHT);
        assert_eq!(suiting("acpi_idle", "flags\t\t: fpu hypervisor aes"), NONE);
        assert_eq!(suiting("haltpoll", ""), NONE);
        assert_eq!(suiting("none", "flags\t\t: hypervisor"), ANY);
        assert_eq!(suiting("", ""), ANY);
    }
}
