//! Real clients of AWS KMS against `kmsfs serve`: boto3, the AWS CLI and the AWS Encryption SDK. What
//! they do is in `tests/clients/*.py`; they are installed from PyPI once, under `target/`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "clients/installed.rs"]
mod installed;
#[path = "clients/serving.rs"]
mod serving;
mod xks_proxy;

use std::process::Command;

use common::{World, skipped};
use installed::Clients;
use serving::Serving;

/// A server and the clients, or nothing when these cannot be had; says so.
fn with_clients(test: &str, serve: &[&str]) -> Option<(Serving, Clients)> {
    match Clients::install() {
        Ok(clients) => Some((Serving::start(World::bare(), serve), clients)),
        Err(why) => {
            skipped(test, &why);
            None
        }
    }
}

/// Runs a script of `tests/clients`; it must succeed.
#[track_caller]
fn run(script: &str, serving: &Serving, clients: &Clients) -> String {
    let mut command = clients.script(script);
    serving.configure(&mut command);
    common::run_within(std::time::Duration::from_secs(300), command).ok().stdout
}

#[test]
fn boto3_can_do_everything_that_is_offered() {
    let Some((serving, clients)) = with_clients("boto3_can_do_everything_that_is_offered", &[]) else {
        return;
    };
    let said = run("operations.py", &serving, &clients);
    assert!(said.contains("ok decrypt") && said.contains("ok pages"), "{said}");
}

#[test]
fn boto3_manages_external_key_stores() {
    let Some((serving, clients)) = with_clients("boto3_manages_external_key_stores", &[]) else { return };
    let proxy = xks_proxy::Proxy::timeless();
    let mut command = clients.script("custom_key_stores.py");
    serving.configure(&mut command);
    command.env("XKS_ENDPOINT", &proxy.endpoint).env("XKS_PATH", xks_proxy::PATH);
    command.env("XKS_ACCESS_KEY_ID", xks_proxy::ACCESS_KEY_ID).env("XKS_SECRET", xks_proxy::SECRET);
    let said = common::run_within(std::time::Duration::from_secs(100), command).ok().stdout;
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 8, "{said}");
}

#[test]
fn boto3_is_believed_with_the_right_key_alone() {
    let Some((serving, clients)) = with_clients("boto3_is_believed_with_the_right_key_alone", &[]) else {
        return;
    };
    let said = run("authentication.py", &serving, &clients);
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[test]
fn the_aws_encryption_sdk_works_unchanged() {
    let Some((serving, clients)) = with_clients("the_aws_encryption_sdk_works_unchanged", &[]) else {
        return;
    };
    let said = run("encryption_sdk.py", &serving, &clients);
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 3, "{said}");
}

#[test]
fn the_aws_cli_works_unchanged() {
    let Some((serving, clients)) = with_clients("the_aws_cli_works_unchanged", &[]) else { return };
    let aws = |arguments: &[&str]| {
        let mut command = clients.program("aws");
        command.args(["--output", "text", "kms"]).args(arguments);
        serving.configure(&mut command);
        common::run(command)
    };
    let key = aws(&["create-key", "--query", "KeyMetadata.KeyId"]).ok().stdout.trim().to_owned();
    aws(&["create-alias", "--alias-name", "alias/cli", "--target-key-id", &key]).ok();
    let plain = serving.world.path("plain");
    std::fs::write(&plain, "hello").unwrap();
    let plaintext = format!("fileb://{}", plain.display());
    let sealed = aws(&[
        "encrypt",
        "--key-id",
        "alias/cli",
        "--plaintext",
        &plaintext,
        "--encryption-context",
        "a=b",
        "--query",
        "CiphertextBlob",
    ]);
    let blob = serving.world.path("blob");
    std::fs::write(&blob, data_encoding::BASE64.decode(sealed.ok().stdout.trim().as_bytes()).unwrap())
        .unwrap();
    let blob = format!("fileb://{}", blob.display());
    let decrypt = ["decrypt", "--ciphertext-blob", &blob, "--query", "Plaintext", "--encryption-context"];
    assert_eq!(aws(&[&decrypt[..], &["a=b"]].concat()).ok().stdout.trim(), "aGVsbG8=");
    let refused = aws(&[&decrypt[..], &["a=c"]].concat());
    assert!(refused.code != 0 && refused.stderr.contains("InvalidCiphertextException"), "{}", refused.stderr);
    aws(&["disable-key", "--key-id", &key]).ok();
    let refused = aws(&[&decrypt[..], &["a=b"]].concat());
    assert!(refused.stderr.contains("DisabledException"), "{}", refused.stderr);
    assert!(aws(&["list-aliases"]).ok().stdout.contains("alias/cli"));
    // What one client did, this machine's own sees.
    assert!(serving.world.run(&["key", "describe", "alias/cli"]).contains("Disabled"));
}

#[test]
fn through_tls_with_a_certificate_that_is_renewed() {
    const TEST: &str = "through_tls_with_a_certificate_that_is_renewed";
    let clients = match Clients::install() {
        Ok(clients) => clients,
        Err(why) => return skipped(TEST, &why),
    };
    let world = World::bare();
    let renew = |command: &mut Command| {
        assert!(command.arg(world.dir.path()).status().unwrap().success());
    };
    renew(&mut clients.script("certificate.py"));
    let paths = ["certificate.pem", "key.pem", "authority.pem"].map(|name| world.path(name));
    let [certificate, key, authority] = paths.each_ref().map(|path| path.to_str().unwrap().to_owned());
    renew(&mut clients.script("certificate.py"));
    let serving = Serving::start(world, &["--tls-cert", &certificate, "--tls-key", &key]);
    assert!(serving.endpoint.starts_with("https://"));
    let list = || {
        let mut command = clients.program("aws");
        command.args(["--ca-bundle", &authority, "kms", "list-keys"]);
        serving.configure(&mut command);
        common::run(command)
    };
    list().ok();
    // Another authority: the old certificate is not trusted any more, until the server reads the new one.
    let mut command = clients.script("certificate.py");
    assert!(command.arg(serving.world.dir.path()).status().unwrap().success());
    assert!(list().stderr.contains("SSL"), "the certificate is checked");
    serving.signal(rustix::process::Signal::HUP);
    common::wait_until("the new certificate is shown", || list().code == 0);
}
