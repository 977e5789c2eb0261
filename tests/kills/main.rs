//! A mount's process is killed again and again, whatever it is doing: under load, while files are
//! settled, while it unmounts, while it recovers from the last time. All that was acknowledged is
//! there each time, every file can be read, and no check finds damage.
//!
//! `KMSFS_KILLS` sets how often, `KMSFS_KILLS_SEED` where the sequence begins: the plan and all that
//! is written follow from it, the very moment of a kill does not. `scripts/soak kills` does hundreds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "the harness shows it when the test fails")]

#[path = "../common/mod.rs"]
mod common;
mod fio;
mod fsx;
mod ledger;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::dice::Dice;
use common::{RaiseOnDrop, World, has_program, wait_for_release};
use fsx::Fsx;
use ledger::Ledger;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

/// Configurations of fsx and fio.
const CONFIGURATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kills");
/// How long a program may take to notice that the mount is gone.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Kills in the gate.
const KILLS: u64 = 8;
const SEED: u64 = 1;
/// Writers with a ledger, and runs of fsx at a time.
const WRITERS: u64 = 3;
const FSX_RUNS: u64 = 3;
/// How long the writers work where the kill comes after it.
const WORK: Duration = Duration::from_millis(200);
/// What a check may find where a mount was killed.
const INTERRUPTED: [&str; 7] = [
    "not-clean",
    "not-all-settled",
    "unsettled",
    "reencrypting",
    "leftover",
    "sidecar-orphaned",
    "target-orphaned",
];
/// And after a mount that recovered and was unmounted properly.
const RECOVERED: [&str; 2] = ["not-all-settled", "reencrypting"];

/// When the process is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// While everything writes.
    Busy,
    /// When the mount has just begun, and recovers from the kill before.
    Recovering,
    /// When nobody has written for about as long as it takes until files are settled.
    Settling,
    /// On the way to a proper end.
    Unmounting,
}

/// What runs beside the writers.
#[derive(Debug, Clone, Copy)]
enum Load {
    Fsx,
    Fio,
}

/// What one round does.
#[derive(Debug)]
struct Plan {
    seed: u64,
    moment: Moment,
    load: Load,
    delay: Duration,
    /// Whether the volume is repaired right after the kill, or checked after a proper unmount.
    repair_first: bool,
    check_last: bool,
}

impl Plan {
    fn new(round: u64, seed: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_add(round));
        let moment = match round % 8 {
            2 => Moment::Recovering,
            3 | 6 => Moment::Unmounting,
            5 if round % 16 == 5 => Moment::Settling,
            _ => Moment::Busy,
        };
        let (from, to) = match moment {
            Moment::Busy => (5, 700),
            Moment::Recovering => (0, 100),
            Moment::Settling => (2_700, 3_800),
            Moment::Unmounting => (0, 150),
        };
        let delay = Duration::from_millis(from + dice.next() % (to - from));
        let load = if round.is_multiple_of(2) { Load::Fsx } else { Load::Fio };
        let (repair_first, check_last) = (round % 5 == 3, round % 5 == 1);
        Self { seed: dice.next(), moment, load, delay, repair_first, check_last }
    }
}

#[test]
fn what_was_acknowledged_outlives_every_kill() {
    let test = "what_was_acknowledged_outlives_every_kill";
    let Some(world) = World::new(test) else { return };
    let count = variable("KMSFS_KILLS").unwrap_or(KILLS);
    let seed = variable("KMSFS_KILLS_SEED").unwrap_or(SEED);
    let mut scene = Scene::new(test, world, seed);
    for round in 0..count {
        let plan = Plan::new(round, seed);
        println!("KMSFS_KILLS_SEED={seed}, round {round}: {plan:?}");
        scene.round(&plan).unwrap_or_else(|what| panic!("round {round} of seed {seed}, {plan:?}: {what}"));
    }
    let calls: u64 = scene.ledgers.iter().map(Ledger::calls).sum();
    println!("{count} kills survived; acknowledged: {calls} calls of writers, {} of fsx", scene.fsx_steps);
    // There was something to lose.
    assert!(calls > 10 * count);
    assert!(scene.fsx_steps > count || !scene.fsx);
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// A volume through all rounds, and what must be in it.
struct Scene {
    mount: PathBuf,
    /// Where programs put what is not of the volume.
    scratch: PathBuf,
    ledgers: Vec<Ledger>,
    /// Whether they are installed.
    fsx: bool,
    fio: bool,
    /// Operations that fsx began.
    fsx_steps: u64,
    world: World,
}

impl Scene {
    fn new(test: &str, world: World, seed: u64) -> Self {
        let mount = world.volume("volume");
        let scratch = world.path("scratch");
        fs::create_dir(&scratch).unwrap();
        let ledger = |n| Ledger::new(&mount.join(format!("writer-{n}")), seed ^ (n + 1) << 32);
        let ledgers = (0..WRITERS).map(ledger).collect();
        let [fsx, fio] = ["fsx", "fio"].map(|program| has_program(test, program));
        if fio {
            fio::lay(&mount.join("fio"), &scratch);
        }
        Self { mount, scratch, ledgers, fsx, fio, fsx_steps: 0, world }
    }

    /// One kill, and a look at what is left. The volume is mounted before and after it.
    fn round(&mut self, plan: &Plan) -> Result<(), String> {
        let ended = self.work_until_killed(plan);
        if plan.repair_first {
            self.repair(&INTERRUPTED)?;
        }
        self.world.mount("volume", &[]);
        read_all(&self.mount)?;
        for (fsx, last) in ended {
            self.fsx_steps += last;
            fsx.difference(last, &self.scratch).map_or(Ok(()), Err)?;
        }
        if self.fio && matches!(plan.load, Load::Fio) {
            fio::difference(&self.mount.join("fio"), &self.scratch).map_or(Ok(()), Err)?;
        }
        self.ledgers.iter_mut().try_for_each(Ledger::settle)?;
        if plan.check_last {
            self.world.umount(&self.mount);
            self.repair(&RECOVERED)?;
            self.world.mount("volume", &[]);
            self.ledgers.iter_mut().try_for_each(Ledger::settle)?;
        }
        Ok(())
    }

    /// Lets everything work, and kills the mount's process. Tells how far fsx came.
    fn work_until_killed(&mut self, plan: &Plan) -> Vec<(Fsx, u64)> {
        let Self { mount, scratch, ledgers, world, .. } = self;
        let (mount, scratch, world) = (&*mount, &*scratch, &*world);
        let victim = world.process(mount);
        // Not by its number, which may be another's when it has ended by itself.
        let handle = pidfd_open(victim, PidfdFlags::empty()).unwrap();
        let (stop, killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let busy = matches!(plan.moment, Moment::Busy);
        let ended = thread::scope(|scope| {
            let _stop = RaiseOnDrop(&stop);
            let mut writers = Vec::new();
            if !matches!(plan.moment, Moment::Recovering) {
                let work = |ledger: &mut Ledger| ledger.work(&stop, &killed);
                writers.extend(ledgers.iter_mut().map(|ledger| scope.spawn(move || work(ledger))));
            }
            let mut fsx = Vec::new();
            match plan.load {
                Load::Fsx if busy && self.fsx => {
                    fsx.extend((0..FSX_RUNS).map(|n| {
                        let run =
                            Fsx { file: mount.join(format!("fsx-{n}")), seed: plan.seed.wrapping_add(n) };
                        scope.spawn(move || {
                            let last = run.run(scratch);
                            (run, last)
                        })
                    }));
                }
                Load::Fio if busy && self.fio => {
                    let dir = mount.join("fio");
                    scope.spawn(move || fio::overwrite(&dir, scratch, plan.seed));
                }
                _ => {}
            }
            if busy {
                // Everything gets new data keys meanwhile, again and again.
                scope.spawn(|| {
                    let renew = ["file", "set-key", "--new-data-key", "-r", "alias/default"];
                    while !killed.load(Ordering::SeqCst) {
                        world.try_run(&[&renew[..], &[mount.to_str().unwrap()]].concat());
                    }
                });
            } else {
                thread::sleep(WORK);
                stop.store(true, Ordering::SeqCst);
                writers.drain(..).for_each(|writer| writer.join().unwrap());
            }
            if matches!(plan.moment, Moment::Unmounting) {
                scope.spawn(|| world.try_run(&["umount", mount.to_str().unwrap()]));
            }
            thread::sleep(plan.delay);
            killed.store(true, Ordering::SeqCst);
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) => {}
                // It was faster.
                Err(Errno::SRCH) if matches!(plan.moment, Moment::Unmounting) => {}
                Err(error) => panic!("{error}"),
            }
            wait_for_release(victim);
            fsx.into_iter().map(|run| run.join().unwrap()).collect()
        });
        // Only now that nobody is in it: what is under the mount point has none of these files.
        let gone = unmount(mount, UnmountFlags::DETACH);
        assert!(gone.is_ok() || matches!(plan.moment, Moment::Unmounting), "{gone:?}");
        ended
    }

    /// Repairs the volume, which is not mounted. Nothing but these may be found, and after it nothing.
    fn repair(&self, expected: &[&str]) -> Result<(), String> {
        let ran = self.world.try_run(&["--json", "fsck", "--repair", "volume"]);
        let said: Value = serde_json::from_str(&ran.stdout).map_err(|e| format!("{e}: {ran:?}"))?;
        let findings = said["Findings"].as_array().unwrap();
        let is_expected = |finding: &Value| expected.contains(&finding["Kind"].as_str().unwrap());
        if !matches!(ran.code, 0 | 1) || !findings.iter().all(is_expected) {
            return Err(format!("fsck --repair: {}", ran.stdout));
        }
        match self.world.try_run(&["fsck", "volume"]) {
            ran if ran.code == 0 => Ok(()),
            ran => Err(format!("fsck after a repair: {ran:?}")),
        }
    }
}

/// Reads every file below a directory.
fn read_all(dir: &Path) -> Result<(), String> {
    let wrong = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(dir).map_err(|e| wrong(dir, e))? {
        let path = entry.map_err(|e| wrong(dir, e))?.path();
        if path.is_dir() {
            read_all(&path)?;
        } else {
            fs::read(&path).map_err(|e| wrong(&path, e))?;
        }
    }
    Ok(())
}
