//! Users other than the owner of the key store, and the commands that say what they may do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use kmsfs::clock::SystemClock;
use kmsfs::kms::{Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::secret::Passphrase;
use kmsfs::server::Server;
use serde_json::{Value, json};

/// Users without a name, who go by number.
const ALICE: u32 = 61_000;
const BOB: u32 = 61_001;

/// A key store whose owner, this process, answers on its socket.
struct World {
    /// Ended before its directory goes.
    _server: Server,
    root: tempfile::TempDir,
}

impl World {
    /// `mode` is that of the store's directory.
    fn new(mode: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = root.path().join("store");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let service = Service::create(&dir, &secret, &options, Arc::new(SystemClock)).unwrap();
        Self { _server: Server::start(service).unwrap(), root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // A copy that every user may run, wherever this is built.
        let program = self.path("kmsfs");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_kmsfs"), &program).unwrap();
        }
        let mut command = Command::new(program);
        command.env_clear().env("KMSFS_KEYSTORE", self.path("store")).current_dir("/").args(arguments);
        command
    }

    fn owner(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    fn user(&self, uid: u32, arguments: &[&str]) -> Ran {
        run(self.command(arguments).uid(uid).gid(uid))
    }

    fn key(&self) -> String {
        self.owner(&["key", "create"]).ok().trim().to_owned()
    }
}

/// Runs it. A child of another test may for a moment still hold the copy open for writing.
fn run(command: &mut Command) -> Ran {
    loop {
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            ran => return Ran(ran.unwrap()),
        }
    }
}

struct Ran(Output);

impl Ran {
    fn ok(&self) -> String {
        assert!(self.0.status.success(), "{:?}", self.0);
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    fn fails(&self, code: i32, message: &str) {
        let error = String::from_utf8_lossy(&self.0.stderr);
        assert_eq!(self.0.status.code(), Some(code), "{error}");
        assert!(error.contains(message), "{error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    }
}

/// Only root can be somebody else.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

#[test]
fn another_user_gets_a_key_by_one_grant_and_loses_it_by_revoking() {
    if !is_root("another_user_gets_a_key_by_one_grant_and_loses_it_by_revoking") {
        return;
    }
    let world = World::new(0o711);
    let key = world.key();
    let describe = ["key", "describe", &key];
    world.user(ALICE, &describe).fails(28, "is not authorized to perform: kms:DescribeKey on resource");
    let operations = "--operations=DescribeKey,ListAliases";
    let create = ["grant", "create", &key, "--grantee", "61000", operations];
    world.owner(&create).fails(2, "\"ListAliases\" is no operation that a grant can permit");
    let create =
        ["--json", "grant", "create", &key, "--grantee", "61000", "--operations=DescribeKey,Decrypt"];
    let made = world.owner(&create).json();
    // What else there is to know of a key is the owner's to see.
    let described = world.user(ALICE, &describe).ok();
    assert!(described.starts_with(&format!("key id       {key}\n")), "{described}");
    for what in ["aliases", "tags", "rotation", "last use"] {
        assert!(described.contains(&format!("unknown      {what}: not permitted\n")), "{described}");
    }
    let described = world.user(ALICE, &["--json", "key", "describe", &key]).json();
    assert_eq!((&described["KeyId"], &described["KeyState"]), (&json!(key), &json!("Enabled")));
    assert_eq!(described.get("Aliases"), None);
    assert_eq!(described["Unknown"].as_array().unwrap().len(), 4);
    let simulated = ["--json", "policy", "simulate", &key, "--principal", "61000", "--action", "DescribeKey"];
    assert_eq!(world.owner(&simulated).json()["GrantId"], made["GrantId"]);
    world.user(BOB, &describe).fails(28, "kms:DescribeKey");
    let id = made["GrantId"].as_str().unwrap();
    world.user(BOB, &["grant", "retire", &key, id]).fails(28, "kms:RetireGrant");
    world.owner(&["grant", "revoke", &key, id]).ok();
    world.user(ALICE, &describe).fails(28, "kms:DescribeKey");
    world.owner(&["grant", "revoke", &key, id]).fails(19, "is not found");
}

#[test]
fn whom_the_directory_keeps_out_is_not_answered() {
    if !is_root("whom_the_directory_keeps_out_is_not_answered") {
        return;
    }
    let world = World::new(0o700);
    let key = world.key();
    let ran = world.user(ALICE, &["key", "describe", &key]);
    assert!(!ran.0.status.success());
    let error = String::from_utf8_lossy(&ran.0.stderr);
    assert!(!error.contains("is not authorized"), "{error}");
}

#[test]
fn the_store_itself_is_the_owners() {
    if !is_root("the_store_itself_is_the_owners") {
        return;
    }
    let world = World::new(0o711);
    for arguments in [&["store", "info"][..], &["store", "check"], &["key", "list"], &["key", "create"]] {
        world.user(ALICE, arguments).fails(28, "is not authorized to perform");
        world.owner(arguments).ok();
    }
}

#[test]
fn policies_are_put_read_checked_and_simulated() {
    let world = World::new(0o700);
    let key = world.key();
    let default = world.owner(&["policy", "get", &key]).ok();
    assert!(default.contains("Enable IAM User Permissions"), "{default}");
    let policy = world.path("policy.json");
    let text = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Pay", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:user/61000"},
         "Action": "kms:Decrypt", "Resource": "*",
         "Condition": {"StringEquals": {"kms:EncryptionContext:App": "pay"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
    ]});
    fs::write(&policy, text.to_string()).unwrap();
    let file = policy.to_str().unwrap();
    assert_eq!(world.owner(&["policy", "check", file]).ok(), "a policy of 2 statements\n");
    world.owner(&["policy", "put", &key, file]).ok();
    let read = world.owner(&["--json", "policy", "get", &key]).json();
    assert_eq!(read["PolicyName"], "default");
    assert_eq!(serde_json::from_str::<Value>(read["Policy"].as_str().unwrap()).unwrap(), text);

    let asked = ["policy", "simulate", &key, "--principal", "61000", "--action", "Decrypt"];
    let denied = world.owner(&asked).ok();
    assert!(denied.contains("denied: neither a statement nor a grant allows it"), "{denied}");
    assert!(denied.contains("its condition StringEquals kms:EncryptionContext:App is not met"), "{denied}");
    let met = [&asked[..], &["--context", "App=pay", "--condition", "aws:SourceIp=10.1.1.1"]].concat();
    let allowed = world.owner(&met).ok();
    assert!(allowed.contains("allowed: statement 1 (\"Pay\") allows it"), "{allowed}");
    assert!(allowed.contains("statement 1 (\"Pay\"), Allow: applies"), "{allowed}");

    fs::write(&policy, r#"{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:Decript"}}"#)
        .unwrap();
    let odd = world.owner(&["policy", "check", file]).ok();
    assert!(odd.contains("it names no action that there is") && odd.contains("no Resource"), "{odd}");
    world.owner(&["policy", "put", &key, file]).fails(2, "will not allow you to update the key policy");
    fs::write(&policy, r#"{"Statement": {"Effect": "Alow"}}"#).unwrap();
    world.owner(&["policy", "check", file]).fails(2, "statement 0: Effect must be");
    world.owner(&["policy", "put", &key, file]).fails(2, "statement 0: Effect must be");
    world.owner(&["policy", "put", &key, "/nowhere"]).fails(1, "/nowhere");
    // A policy can keep the owner out, if that is wanted.
    fs::write(
        &policy,
        r#"{"Statement": {"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}}"#,
    )
    .unwrap();
    world.owner(&["policy", "put", &key, file, "--bypass-lockout-check"]).ok();
    world.owner(&["policy", "get", &key]).fails(28, "with an explicit deny");
    // It is listed even so, as far as that goes, and so are the others.
    let other = world.key();
    let listed = world.owner(&["key", "list"]).ok();
    let row = listed.lines().find(|line| line.starts_with(&key)).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some("?"), "{row}");
    assert!(listed.lines().any(|line| line.starts_with(&format!("{other}  Enabled"))), "{listed}");
    let listed = world.owner(&["--json", "key", "list"]).json();
    let entry = listed.as_array().unwrap().iter().find(|entry| entry["KeyId"] == key).unwrap();
    assert_eq!(entry["KeyArn"], format!("arn:aws:kms:local:000000000000:key/{key}"));
    assert_eq!(entry.get("KeyState"), None);
}

#[test]
fn whoever_may_disable_a_key_is_told_what_may_not_be_seen() {
    if !is_root("whoever_may_disable_a_key_is_told_what_may_not_be_seen") {
        return;
    }
    let world = World::new(0o711);
    let key = world.key();
    let statement = |who: &str, actions: &[&str]| {
        let principal = json!({"AWS": format!("arn:aws:iam::000000000000:{who}")});
        json!({"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*"})
    };
    let alices = statement("user/61000", &["kms:DescribeKey", "kms:DisableKey"]);
    let policy = json!({"Version": "2012-10-17", "Statement": [statement("root", &["kms:*"]), alices]});
    fs::write(world.path("policy.json"), policy.to_string()).unwrap();
    world.owner(&["policy", "put", &key, world.path("policy.json").to_str().unwrap()]).ok();
    world.user(BOB, &["key", "disable", &key, "--yes"]).fails(28, "kms:DescribeKey");
    let done = world.user(ALICE, &["--json", "key", "disable", &key, "--yes"]).json();
    assert_eq!(done["KeyState"], "Disabled");
    let unknown = ["aliases", "mounts", "grants", "last use"].map(|what| format!("{what}: not permitted"));
    assert_eq!(done["Consequences"]["Unknown"], json!(unknown));
    assert_eq!(done["Consequences"].get("Mounts"), None, "what is unknown is not said to be none");
    world.user(ALICE, &["key", "enable", &key]).fails(28, "kms:EnableKey");
}

#[test]
fn grants_are_created_listed_and_retired() {
    let world = World::new(0o700);
    world.owner(&["key", "create", "--alias", "shared"]).ok();
    let create = [
        "grant",
        "create",
        "alias/shared",
        "--grantee",
        "group/staff",
        "--operations",
        "Encrypt,Decrypt",
        "--retiring",
        "carol",
        "--name",
        "n",
        "--context-subset",
        "a=b",
        "--context-subset",
        "c=d=e",
    ];
    let made = world.owner(&create).ok();
    assert!(made.starts_with("grant id  "), "{made}");
    assert_eq!(world.owner(&create).ok().lines().next(), made.lines().next());
    let listed = world.owner(&["grant", "list", "alias/shared"]).ok();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    for part in ["group/staff", "Decrypt,Encrypt", "a=b,c=d=e", "user/carol"] {
        assert!(listed.contains(part), "{listed}");
    }
    let retirable = ["--json", "grant", "list", "--retiring", "arn:aws:iam::000000000000:user/carol"];
    let grants = world.owner(&retirable).json();
    assert_eq!(grants["Grants"].as_array().unwrap().len(), 1);
    assert_eq!(
        world.owner(&["--json", "grant", "list", "alias/shared", "--grantee", "root"]).json()["Grants"],
        json!([])
    );
    let token = made.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap();
    world.owner(&["grant", "retire", "--token", token]).ok();
    world.owner(&["grant", "retire", "--token", token]).fails(2, "not a grant token, or its grant is gone");
}

#[test]
fn tags_are_added_listed_and_removed() {
    let world = World::new(0o700);
    let key = world.key();
    world.owner(&["tag", "add", &key, "team=red", "note=a = b"]).ok();
    assert_eq!(world.owner(&["tag", "list", &key]).ok(), "TAG   VALUE\nnote  a = b\nteam  red\n");
    world.owner(&["tag", "remove", &key, "note", "nothing"]).ok();
    assert_eq!(
        world.owner(&["--json", "tag", "list", &key]).json()["Tags"],
        json!([{"TagKey": "team", "TagValue": "red"}])
    );
    world.owner(&["tag", "add", &key, "aws:x=y"]).fails(2, "reserved");
}
