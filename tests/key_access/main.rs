//! Whose permission on a key counts when a file is opened, on mounts for many users.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../mounting/namespace.rs"]
mod namespace;

mod elsewhere;
mod log;
mod permission;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::World;
use common::pair::outcome;
use common::user::User;
use serde_json::{Value, json};

const KEY: &str = "alias/default";
const REFUSED: Result<(), i32> = Err(libc::EACCES);

/// A volume on a mount for everybody, whose directories let everybody in.
struct Shared {
    mount: PathBuf,
    // Unmounts when it is dropped.
    world: World,
}

impl Shared {
    fn new(test: &str) -> Option<Self> {
        let world = World::new(test)?;
        fs::set_permissions(world.path(""), Permissions::from_mode(0o755)).unwrap();
        world.run(&["init", "vol"]);
        let mount = world.mount("vol", &["-o", "allow_other"]);
        fs::set_permissions(&mount, Permissions::from_mode(0o777)).unwrap();
        Some(Self { mount, world })
    }

    /// A file of root's that modes let everybody read and write.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.mount.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "contents").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        path
    }

    /// Gives somebody a grant on the volume's default key; answers its id.
    fn grant(&self, who: User, operations: &str) -> String {
        let (uid, operations) = (who.uid.to_string(), format!("--operations={operations}"));
        let made = self.world.json(&["grant", "create", KEY, "--grantee", &uid, &operations]);
        made["GrantId"].as_str().unwrap().to_owned()
    }

    fn revoke(&self, grant: &str) {
        self.world.run(&["grant", "revoke", KEY, grant]);
    }
}

/// A statement on the use of a key.
fn statement(effect: &str, principal: &str, condition: Value) -> Value {
    let principal = format!("arn:aws:iam::000000000000:{principal}");
    let actions = ["kms:Decrypt", "kms:GenerateDataKey"];
    json!({"Effect": effect, "Principal": {"AWS": principal}, "Action": actions, "Resource": "*",
        "Condition": condition})
}

fn allow(who: User, condition: Value) -> Value {
    statement("Allow", &format!("user/{}", who.uid), condition)
}

fn reads(who: User, path: &Path) -> Result<(), i32> {
    who.run(|| outcome(File::open(path)))
}

fn writes(who: User, path: &Path) -> Result<(), i32> {
    who.run(|| outcome(File::options().write(true).open(path)))
}

fn creates(who: User, path: &Path) -> Result<(), i32> {
    who.run(|| outcome(File::create_new(path)))
}

/// Truncates by name, without opening.
fn truncates(who: User, path: &Path) -> Result<(), i32> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    who.run(|| {
        // SAFETY: the path ends with a zero byte and outlives the call.
        let done = unsafe { libc::truncate(path.as_ptr(), 3) };
        outcome(if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) })
    })
}
