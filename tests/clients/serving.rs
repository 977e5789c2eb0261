//! A running `kmsfs serve`.
#![allow(dead_code, reason = "every test program includes it and uses a part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::World;

/// A server with a store of its own and an access key for it. Ends with it.
pub(crate) struct Serving {
    pub(crate) world: World,
    pub(crate) endpoint: String,
    access_key_id: String,
    secret_access_key: String,
    child: Child,
}

impl Serving {
    /// Serves a new key store on a free port.
    pub(crate) fn start(world: World, arguments: &[&str]) -> Self {
        let listen = ["--json", "serve", "--create", "--listen", "127.0.0.1:0"];
        let mut command = world.command(&[&listen[..], arguments].concat());
        let log = std::fs::File::create(world.path("serve.log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut printed = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A JSON object over several lines, the last of which is its brace.
        while !printed.ends_with("\n}") {
            let Some(line) = lines.next() else {
                panic!("no server: {}", std::fs::read_to_string(world.path("serve.log")).unwrap())
            };
            printed.push('\n');
            printed.push_str(&line.unwrap());
        }
        let serving: Value = serde_json::from_str(&printed).unwrap();
        let endpoint = serving["Endpoints"][0].as_str().unwrap().to_owned();
        let made = world.json(&["access-key", "create", "--user", "root"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            endpoint,
            access_key_id: text(&made["AccessKey"]["AccessKeyId"]),
            secret_access_key: text(&made["SecretAccessKey"]),
            child,
            world,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Points a client at this server, and at nothing else.
    pub(crate) fn configure(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_"))
        {
            command.env_remove(name);
        }
        let nowhere = self.world.path("no-such-file");
        command
            .env("AWS_ENDPOINT_URL_KMS", &self.endpoint)
            .env("AWS_REGION", "local")
            .env("AWS_DEFAULT_REGION", "local")
            .env("AWS_ACCESS_KEY_ID", &self.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_access_key)
            .env("AWS_CONFIG_FILE", &nowhere)
            .env("AWS_SHARED_CREDENTIALS_FILE", &nowhere)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .env("NO_PROXY", "127.0.0.1");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let ended = self.child.wait();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            assert_eq!(ended.unwrap().code(), Some(0));
        }
    }
}
