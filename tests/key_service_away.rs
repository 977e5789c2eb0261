//! A mount whose key service is stopped, slow or gone: what needs no key, and files whose keys are at
//! hand, are served as if nothing were; what needs the service fails or succeeds within a bound.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test; figures"
)]

#[path = "common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use common::{World, wait_until};

/// More than a mount has threads that answer the kernel.
const OPENS: usize = 24;
/// What a call that is not to wait for the key service may take, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(1500);
/// A call of the key service is given up after five seconds; one that then fails has had to wait its turn
/// at most.
const GIVEN_UP: Duration = Duration::from_secs(12);

/// `kmsfs serve`, ended when this is dropped, also if it stands still.
struct Serve(Child);

impl Serve {
    fn start(world: &World) -> Self {
        let mut command = world.command(&["serve", "--create"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let serve = Self(child);
        wait_until("the key service answers", || world.json(&["status"])["Service"].is_object());
        serve
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let _ = kill_process(pid, Signal::CONT);
        let _ = kill_process(pid, Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A mount that gets its keys elsewhere: files whose keys it does not have, in `cold`, and one that is in
/// use.
struct Scene {
    world: World,
    mount: PathBuf,
    serve: Option<Serve>,
}

fn scene(test: &str) -> Option<Scene> {
    let world = World::new(test)?;
    let serve = Serve::start(&world);
    let mount = world.volume("vol");
    fs::create_dir(mount.join("cold")).unwrap();
    fs::create_dir(mount.join("new")).unwrap();
    for i in 0..OPENS {
        fs::write(mount.join(format!("cold/{i}")), "contents").unwrap();
    }
    fs::write(mount.join("warm"), vec![1; 100_000]).unwrap();
    world.umount(&mount);
    let mount = world.mount("vol", &[]);
    Some(Scene { world, mount, serve: Some(serve) })
}

/// How long each of the calls took that need no key service, while the others wait.
fn serve_the_rest(mount: &Path, warm: &File, for_so_long: Duration) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut time = |call: &mut dyn FnMut()| {
        let begin = Instant::now();
        call();
        took.push(begin.elapsed());
    };
    let begin = Instant::now();
    let mut round = 0_u64;
    while begin.elapsed() < for_so_long || round < 3 {
        round += 1;
        let file = mount.join(format!("cold/{}", round as usize % OPENS));
        time(&mut || assert_eq!(fs::metadata(&file).unwrap().len(), 8));
        time(&mut || {
            let listed = fs::read_dir(mount.join("cold")).unwrap();
            assert_eq!(listed.filter(|entry| entry.as_ref().unwrap().metadata().is_ok()).count(), OPENS);
        });
        time(&mut || warm.write_all_at(&round.to_le_bytes(), 50_000).unwrap());
        time(&mut || warm.sync_data().unwrap());
        let mut read = [0; 8];
        time(&mut || warm.read_exact_at(&mut read, 50_000).unwrap());
        assert_eq!(read, round.to_le_bytes());
        time(&mut || drop(File::open(mount.join("warm")).unwrap()));
        let (link, renamed) = (mount.join("link"), mount.join("renamed"));
        time(&mut || std::os::unix::fs::symlink("target", &link).unwrap());
        time(&mut || fs::rename(&link, &renamed).unwrap());
        time(&mut || fs::remove_file(&renamed).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    took.sort();
    took
}

/// Opens every cold file and makes new ones, all at once, and serves the rest meanwhile. Answers what became
/// of the openings.
fn beside_waiting(scene: &Scene, warm: &File, what: &str) -> Vec<io::Result<()>> {
    let waited = Mutex::new(Vec::new());
    let results = std::thread::scope(|scope| {
        let open = |path: PathBuf, create: bool| {
            let waited = &waited;
            scope.spawn(move || {
                let begin = Instant::now();
                let opened = if create { File::create_new(&path) } else { File::open(&path) };
                waited.lock().unwrap().push(begin.elapsed());
                opened.map(drop)
            })
        };
        let mut opening: Vec<_> =
            (0..OPENS).map(|i| open(scene.mount.join(format!("cold/{i}")), false)).collect();
        opening.push(open(scene.mount.join("new/file"), true));
        std::thread::sleep(Duration::from_millis(300));
        let took = serve_the_rest(&scene.mount, warm, Duration::from_secs(2));
        let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{what}: {} calls, median {median:?}, longest {last:?}", took.len());
        assert!(last < AT_ONCE, "{what}: a call took {last:?}");
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let longest = waited.into_inner().unwrap().into_iter().max().unwrap();
    println!("{what}: the longest opening took {longest:?}");
    assert!(longest < GIVEN_UP, "{what}: an opening took {longest:?}");
    results
}

#[track_caller]
fn assert_no_key(results: &[io::Result<()>]) {
    for result in results {
        assert_eq!(result.as_ref().unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    }
}

#[test]
fn a_stopped_key_service_hangs_nothing_that_does_not_need_it() {
    let Some(scene) = scene("a_stopped_key_service_hangs_nothing") else { return };
    let warm = File::options().read(true).write(true).open(scene.mount.join("warm")).unwrap();
    let serve = scene.serve.as_ref().unwrap();
    serve.signal(Signal::STOP);
    assert_no_key(&beside_waiting(&scene, &warm, "stopped"));
    serve.signal(Signal::CONT);
    wait_until("keys are to be had again", || File::open(scene.mount.join("cold/0")).is_ok());
    fs::write(scene.mount.join("new/file"), "x").unwrap();
}

#[test]
fn a_key_service_that_is_gone_hangs_nothing_and_mounts_outlive_it() {
    let Some(mut scene) = scene("a_key_service_that_is_gone_hangs_nothing") else { return };
    let warm = File::options().read(true).write(true).open(scene.mount.join("warm")).unwrap();
    drop(scene.serve.take());
    assert_no_key(&beside_waiting(&scene, &warm, "gone"));
    scene.serve = Some(Serve::start(&scene.world));
    wait_until("keys are to be had again", || File::open(scene.mount.join("cold/0")).is_ok());
}

/// Stands before the key service's socket and passes on every answer late.
fn delay(listener: &UnixListener, service: &Path, by: Duration) {
    for client in listener.incoming() {
        let (Ok(mut client), Ok(mut server)) = (client, UnixStream::connect(service)) else { continue };
        let (mut client_in, mut server_in) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = io::copy(&mut client_in, &mut server);
            let _ = server.shutdown(std::net::Shutdown::Write);
        });
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(len @ 1..) = server_in.read(&mut buffer) {
                std::thread::sleep(by);
                if client.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
        });
    }
}

#[test]
fn a_slow_key_service_delays_only_who_needs_it() {
    let Some(scene) = scene("a_slow_key_service_delays_only_who_needs_it") else { return };
    let warm = File::options().read(true).write(true).open(scene.mount.join("warm")).unwrap();
    let (socket, behind) = (scene.world.path("keys/socket"), scene.world.path("keys/behind"));
    fs::rename(&socket, &behind).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || delay(&listener, &behind, Duration::from_millis(2500)));
    for opened in beside_waiting(&scene, &warm, "slow") {
        opened.unwrap();
    }
    fs::remove_file(&socket).unwrap();
    fs::rename(scene.world.path("keys/behind"), &socket).unwrap();
}
