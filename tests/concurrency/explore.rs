//! Running a body under many schedules.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use kmsfs::sync::atomic::{AtomicBool, Ordering};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

/// A thread of the program gets as much where it is in need of it.
const STACK: usize = 512 * 1024;
/// Preemptions that the second half of the schedules makes where they hurt most.
const DEPTH: usize = 3;

/// Runs `body` under so many schedules: half of them random at every step, half with few
/// preemptions, by priorities. Fails if the body does, or if all threads wait.
pub(crate) fn explore(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    let half = (schedules * variable("KMSFS_SCHEDULES", 1)).div_ceil(2);
    let seed = variable("KMSFS_SEED", 1);
    let body = Arc::new(body);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let body = Arc::clone(&body);
        let mut config = Config::new();
        config.stack_size = STACK;
        Runner::new(scheduler, config).run(move || body())
    };
    let random = run(Box::new(RandomScheduler::new_from_seed(seed, half)));
    let preempted = run(Box::new(PctScheduler::new_from_seed(seed, DEPTH, half)));
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    eprintln!("{test}: {} schedules", random + preempted);
}

/// Runs `body` once, for what needs the locks and no schedule.
pub(crate) fn once<T: Send + 'static>(body: impl Fn() -> T + Send + Sync + 'static) -> T {
    let (result, made) = std::sync::mpsc::channel();
    let mut config = Config::new();
    config.stack_size = STACK;
    Runner::new(RandomScheduler::new_from_seed(0, 1), config).run(move || result.send(body()).unwrap());
    made.recv().unwrap()
}

/// Lets others go first, or not.
pub(crate) fn pause() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

fn variable<T: FromStr<Err: Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}
