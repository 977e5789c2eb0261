//! Receipts from the command line.

use std::fs;

use crate::common::World;

const NO_SUCH_KEY: i32 = 19;
const KEY_STATE: i32 = 20;
const NAME_TAKEN: i32 = 27;
const NOT_VERIFIED: i32 = 41;
const USAGE: i32 = 2;

/// A receipt that some store signed, with a seed that this program knows.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/deletion-receipt.json");

#[test]
fn a_receipt_is_verified_without_a_key_store_and_a_changed_one_refused() {
    let world = World::bare();
    let shown = world.try_run(&["key", "verify-receipt", GOLDEN]).ok();
    assert!(shown.stdout.starts_with("the receipt is genuine\n"), "{}", shown.stdout);
    for said in ["alias/photos", "12 files, 3400 bytes that are known", "arn:aws:iam::000000000000:root"] {
        assert!(shown.stdout.contains(said), "{}", shown.stdout);
    }
    assert!(shown.stderr.contains("6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="), "{}", shown.stderr);
    let genuine = fs::read_to_string(GOLDEN).unwrap();
    fs::write(world.path("changed"), genuine.replace("\"Files\":12", "\"Files\":11")).unwrap();
    world.try_run(&["key", "verify-receipt", "changed"]).fails(NOT_VERIFIED, &["its signature is wrong"]);
    fs::write(world.path("pretty"), genuine.replace(',', ", ")).unwrap();
    world.try_run(&["key", "verify-receipt", "pretty"]).fails(NOT_VERIFIED, &["as a key store writes it"]);
    fs::write(world.path("none"), "{}").unwrap();
    world.try_run(&["key", "verify-receipt", "none"]).fails(NOT_VERIFIED, &["not a deletion receipt"]);
    world
        .try_run(&["key", "verify-receipt", GOLDEN, "--public-key", "none"])
        .fails(USAGE, &["no public key", "kmsfs store public-key"]);
}

#[test]
fn the_public_key_is_written_once_and_tells_stores_apart() {
    let world = World::bare();
    world.run(&["init", "volume"]);
    world.run(&["store", "public-key", "--output", "key.pem"]);
    let pem = fs::read_to_string(world.path("key.pem")).unwrap();
    assert_eq!(world.run(&["store", "public-key"]), pem);
    world.try_run(&["store", "public-key", "--output", "key.pem"]).fails(NAME_TAKEN, &["exists already"]);
    let shown = world.json(&["store", "public-key"]);
    assert_eq!(world.json(&["store", "info"])["ReceiptPublicKey"], shown["PublicKey"]);
    world
        .try_run(&["key", "verify-receipt", GOLDEN, "--public-key", "key.pem"])
        .fails(NOT_VERIFIED, &["another key store"]);
}

#[test]
fn there_is_no_receipt_before_the_end() {
    let world = World::bare();
    world.run(&["init", "volume"]);
    assert_eq!(world.run(&["key", "receipts"]).lines().count(), 1, "only the heading");
    world.try_run(&["key", "receipt", "alias/photos"]).fails(NO_SUCH_KEY, &["no receipt for alias/photos"]);
    let id = world.run(&["key", "create", "--alias", "photos"]);
    let id = id.trim();
    world.run(&["key", "schedule-deletion", id, "--pending-window-in-days", "7", "--yes"]);
    world.try_run(&["key", "receipt", id]).fails(KEY_STATE, &["is pending deletion"]);
    assert_eq!(world.run(&["key", "receipts"]).lines().count(), 1);
}
