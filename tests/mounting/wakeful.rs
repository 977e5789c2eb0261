//! Processors that stay awake while a mount is used.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::common::{World, skipped, wait_until};

const DEVICE: &str = "/dev/cpu_dma_latency";
/// What the kernel answers while nobody asks for anything: microseconds.
const ANY: i32 = 2_000_000_000;

/// The microseconds that waking a processor may take.
fn latency() -> i32 {
    i32::from_ne_bytes(fs::read(DEVICE).unwrap()[..4].try_into().unwrap())
}

/// Why a mount cannot be seen to ask.
fn hindrance() -> Option<&'static str> {
    let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
    if !Path::new(DEVICE).exists() {
        return Some("the kernel has no cpu_dma_latency");
    }
    if matches!(driver.trim(), "" | "none") {
        return Some("the kernel does not say how processors sleep");
    }
    (latency() != ANY).then_some("somebody else keeps processors awake")
}

#[test]
fn processors_stay_awake_while_the_mount_is_used_and_no_longer() {
    const TEST: &str = "processors_stay_awake_while_the_mount_is_used_and_no_longer";
    let Some(world) = World::new(TEST) else { return };
    if let Some(why) = hindrance() {
        return skipped(TEST, why);
    }
    let plain = world.volume("vol");
    let mut missed = 0;
    // A name that was not asked for before is asked of the mount.
    let mut use_mount = |mount: &Path| {
        missed += 1;
        assert!(!mount.join(missed.to_string()).exists());
    };
    for _ in 0..100 {
        use_mount(&plain);
        assert_eq!(latency(), ANY, "without the option");
    }
    world.umount(&plain);

    let mount = world.mount("vol", &["-o", "low_latency"]);
    for _ in 0..3 {
        wait_until("processors stay awake", || {
            use_mount(&mount);
            latency() <= 2
        });
        wait_until("the mount rests", || latency() == ANY);
    }
    // Looking at the mount point is no use.
    for _ in 0..20 {
        rustix::fs::statvfs(&mount).unwrap();
        assert_eq!(latency(), ANY, "df(1) kept processors awake");
        sleep(Duration::from_millis(1));
    }
    wait_until("processors stay awake", || {
        use_mount(&mount);
        latency() <= 2
    });
    world.kill(&mount);
    wait_until("what a process asked for ends with it", || latency() == ANY);
}
