//! What the commands print and refuse, on a key store that is closed and through one that is served.

use std::fs;

use kmsfs::kms::KeyMetadata;
use kmsfs::kms::api::{
    GetParametersForImportResponse, GetPublicKeyResponse, ImportResponse, ListAliasesResponse,
    ListResourceTagsResponse, RotationEntry, RotationStatusResponse, StateResponse, Tag,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::common::World;
use super::serving::Serving;
use super::{KEY_STATE, state};

const USAGE: i32 = 2;
const NO_SUCH_KEY: i32 = 19;
const NAME_TAKEN: i32 = 27;

/// Reads an answer as a shape of the API; it has all members of that, and no others.
#[track_caller]
fn shape<T: DeserializeOwned + Serialize>(answer: &Value) -> T {
    let typed: T = serde_json::from_value(answer.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), *answer);
    typed
}

/// The columns and the first row of a table.
fn head(table: &str) -> (Vec<&str>, Vec<&str>) {
    let mut lines =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect());
    (lines.next().unwrap(), lines.next().unwrap_or_default())
}

/// The value of a line of names and values.
#[track_caller]
fn field<'a>(lines: &'a str, name: &str) -> &'a str {
    let value = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("  "));
    value.unwrap_or_else(|| panic!("no {name}: {lines}")).trim()
}

#[test]
fn every_command_works_on_a_closed_store() {
    every_command(&World::with_volume());
}

#[test]
fn every_command_works_through_a_running_service() {
    every_command(&Serving::start(World::bare(), &[]).world);
}

fn every_command(world: &World) {
    keys_are_created_and_described(world);
    keys_are_listed(world);
    descriptions_are_changed(world);
    states_are_changed(world);
    keys_rotate(world);
    material_is_imported(world);
    public_keys_are_written(world);
    aliases_are_managed(world);
    tags_are_managed(world);
}

fn keys_are_created_and_described(world: &World) {
    let id = world.run(&["key", "create", "--alias", "photos", "--tag", "team=red", "--tag", "empty="]);
    let id = id.trim();
    assert_eq!(id.len(), 36);
    fs::write(world.path("policy"), world.run(&["policy", "get", "alias/photos"])).unwrap();
    for (spec, usage, only) in [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", true),
        ("ECC_NIST_P256", "SIGN_VERIFY", true),
        ("HMAC_256", "GENERATE_VERIFY_MAC", true),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", true),
        ("RSA_2048", "SIGN_VERIFY", false),
    ] {
        let mut create = vec!["key", "create", "--spec", spec, "--policy", "policy", "--description", spec];
        create.extend(if only { vec![] } else { vec!["--usage", usage] });
        let key: KeyMetadata = shape(&world.json(&create));
        assert_eq!((key.key_spec.to_string().as_str(), key.key_usage.to_string().as_str()), (spec, usage));
        let described = world.run(&["key", "describe", &key.arn]);
        assert_eq!(field(&described, "spec"), format!("{spec} for {usage}"));
        assert_eq!(field(&described, "aliases"), "none");
        assert_eq!(field(&described, "description"), spec);
    }
    let refused = |arguments: &[&str], code, words: &[&str]| {
        world.try_run(&[&["key", "create"], arguments].concat()).fails(code, words);
    };
    refused(&["--spec", "RSA_2048"], USAGE, &["KeyUsage", "correct the request"]);
    refused(&["--spec", "SM2"], USAGE, &["SM2"]);
    refused(&["--spec", "HMAC_256", "--usage", "SIGN_VERIFY"], USAGE, &["KeyUsage"]);
    refused(&["--origin", "AWS_CLOUDHSM"], USAGE, &["AWS_CLOUDHSM"]);
    refused(&["--tag", "aws:x=y"], USAGE, &["aws:"]);
    refused(&["--policy", "nowhere"], 1, &["nowhere", "check the path"]);
    refused(&["--alias", "photos"], NAME_TAKEN, &["alias/photos exists already"]);

    let mut described = world.json(&["key", "describe", "alias/photos"]);
    let members = described.as_object_mut().unwrap();
    assert_eq!(members.remove("Aliases"), Some(json!(["alias/photos"])));
    let tags = json!([{"TagKey": "empty", "TagValue": ""}, {"TagKey": "team", "TagValue": "red"}]);
    assert_eq!(members.remove("Tags"), Some(tags));
    assert_eq!(members.remove("KeyLastUsage"), Some(json!({})));
    let rotation: RotationStatusResponse = shape(&members.remove("KeyRotationStatus").unwrap());
    assert!(!rotation.key_rotation_enabled);
    let key: KeyMetadata = shape(&described);
    assert_eq!(key.key_id.to_string(), id);
    let table = world.run(&["key", "describe", id]);
    assert_eq!(field(&table, "tags"), "empty= team=red");
    assert_eq!(field(&table, "last use"), "none");
    assert_eq!(field(&table, "rotation"), "no");
    for command in ["describe", "enable", "disable", "schedule-deletion", "cancel-deletion", "rotate"] {
        world.try_run(&["key", command, "alias/none"]).fails(NO_SUCH_KEY, &["alias/none", "list the keys"]);
    }
}

fn keys_are_listed(world: &World) {
    let table = world.run(&["key", "list"]);
    assert_eq!(head(&table).0, ["KEY ID", "STATE", "SPEC", "ALIASES", "DESCRIPTION"]);
    let listed = world.json(&["key", "list"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), table.lines().count() - 1);
    let named = |alias: &str| listed.iter().find(|key| key["Aliases"] == json!([alias])).cloned().unwrap();
    for alias in ["alias/photos", "alias/default"] {
        let mut key = named(alias);
        key.as_object_mut().unwrap().remove("Aliases");
        shape::<KeyMetadata>(&key);
        assert!(table.contains(alias));
    }
}

fn descriptions_are_changed(world: &World) {
    world.run(&["key", "update-description", "alias/photos", "Family pictures"]);
    assert_eq!(field(&world.run(&["key", "describe", "alias/photos"]), "description"), "Family pictures");
    assert_eq!(world.json(&["key", "update-description", "alias/photos", ""]), json!({}));
    assert_eq!(world.json(&["key", "describe", "alias/photos"])["Description"], "");
    let long = "x".repeat(8193);
    world.try_run(&["key", "update-description", "alias/photos", &long]).fails(USAGE, &["8192"]);
}

fn states_are_changed(world: &World) {
    for (command, expected, options) in [
        ("disable", "Disabled", &["--yes"][..]),
        ("enable", "Enabled", &[]),
        ("schedule-deletion", "PendingDeletion", &["--yes"]),
        ("cancel-deletion", "Disabled", &[]),
        ("enable", "Enabled", &[]),
    ] {
        let mut answer = world.json(&[&["key", command, "alias/photos"], options].concat());
        answer.as_object_mut().unwrap().remove("Consequences");
        let answer: StateResponse = shape(&answer);
        assert_eq!(answer.key_state.to_string(), expected);
        assert_eq!(state(world, "alias/photos"), expected);
    }
    // Again, it is as it was.
    for command in [&["key", "enable", "alias/photos"][..], &["key", "disable", "alias/photos", "--yes"]] {
        world.run(command);
        world.run(command);
    }
    world.try_run(&["key", "rotate", "alias/photos"]).fails(KEY_STATE, &["is disabled; enable the key"]);
    world.run(&["key", "enable", "alias/photos"]);
}

fn keys_rotate(world: &World) {
    let id = world.json(&["key", "describe", "alias/photos"])["KeyId"].as_str().unwrap().to_owned();
    assert_eq!(
        world.run(&["key", "rotate", "alias/photos"]),
        format!("rotated {id}: new files use version 2\n")
    );
    assert_eq!(world.json(&["key", "rotate", "alias/photos"])["CurrentKeyMaterialVersion"], 3);
    let enabled = world.run(&["key", "rotation", "enable", "alias/photos", "--period", "180"]);
    assert_eq!((field(&enabled, "rotates by itself"), field(&enabled, "period")), ("yes", "180 days"));
    let status: RotationStatusResponse = shape(&world.json(&["key", "rotation", "status", "alias/photos"]));
    assert_eq!((status.key_rotation_enabled, status.rotation_period_in_days), (true, Some(180)));
    let described = world.run(&["key", "describe", "alias/photos"]);
    assert!(field(&described, "rotation").starts_with("every 180 days, next 20"), "{described}");
    for days in ["89", "2561"] {
        let enable = ["key", "rotation", "enable", "alias/photos", "--period", days];
        world.try_run(&enable).fails(USAGE, &["RotationPeriodInDays", "90"]);
    }
    let listed = world.run(&["key", "rotation", "list", "alias/photos"]);
    assert_eq!(head(&listed).0, ["VERSION", "SINCE", "CAUSE", "STATE", "MATERIAL ID"]);
    assert_eq!(listed.lines().count(), 4);
    let listed = world.json(&["key", "rotation", "list", "alias/photos"]);
    let versions: Vec<RotationEntry> = listed.as_array().unwrap().iter().map(shape).collect();
    let causes: Vec<_> = versions.iter().map(|version| version.rotation_type.as_deref()).collect();
    assert_eq!(causes, [None, Some("ON_DEMAND"), Some("ON_DEMAND")]);
    let status = world.json(&["key", "rotation", "disable", "alias/photos"]);
    assert!(!shape::<RotationStatusResponse>(&status).key_rotation_enabled);
    let signing = world.json(&["key", "create", "--spec", "ECC_NIST_P256"]);
    let signing = signing["KeyId"].as_str().unwrap();
    for command in [&["key", "rotate", signing][..], &["key", "rotation", "enable", signing]] {
        world.try_run(command).fails(USAGE, &["correct the request"]);
    }
}

fn material_is_imported(world: &World) {
    world.run(&["key", "create", "--alias", "mine", "--origin", "EXTERNAL"]);
    assert_eq!(state(world, "alias/mine"), "PendingImport");
    world.try_run(&["key", "enable", "alias/mine"]).fails(KEY_STATE, &["pending import", "import"]);
    fs::write(world.path("material"), [7; 32]).unwrap();
    let algorithms =
        ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"];
    for algorithm in algorithms {
        let (public, token) = (format!("{algorithm}.der"), format!("{algorithm}.token"));
        let parameters = [
            &["key", "import", "parameters", "alias/mine", "--algorithm", algorithm][..],
            &["--wrapping-spec", "RSA_2048", "--public-key", &public, "--token", &token],
        ];
        let answer: GetParametersForImportResponse = shape(&world.json(&parameters.concat()));
        assert_eq!(fs::read(world.path(&public)).unwrap(), answer.public_key);
        assert_eq!(fs::read(world.path(&token)).unwrap(), answer.import_token);
        world.try_run(&parameters.concat()).fails(NAME_TAKEN, &["exists already", "another name"]);
    }
    fs::write(world.path("wrapped"), [1; 256]).unwrap();
    let material = [
        "key",
        "import",
        "material",
        "alias/mine",
        "--token",
        "RSAES_OAEP_SHA_1.token",
        "--encrypted",
        "wrapped",
    ];
    world.try_run(&material).fails(USAGE, &[]);
    let answer: ImportResponse =
        shape(&world.json(&["key", "import", "file", "alias/mine", "material", "--expires", "90d"]));
    assert_eq!(answer.key_state.to_string(), "Enabled");
    let described = world.run(&["key", "describe", "alias/mine"]);
    assert_eq!(field(&described, "origin"), "EXTERNAL");
    assert!(field(&described, "material expires").starts_with("20"), "{described}");
    fs::write(world.path("other"), [8; 32]).unwrap();
    world.run(&["key", "delete-material", "alias/mine", "--yes"]);
    world.try_run(&["key", "import", "file", "alias/mine", "other"]).fails(USAGE, &["material"]);
    assert!(world.run(&["key", "import", "file", "alias/mine", "material"]).contains("is now Enabled"));
    world
        .try_run(&["key", "import", "file", "alias/photos", "material"])
        .fails(USAGE, &["origin is AWS_KMS"]);
    world.try_run(&["key", "delete-material", "alias/photos"]).fails(USAGE, &["origin is AWS_KMS"]);
    world.try_run(&["key", "import", "file", "alias/mine", "nowhere"]).fails(1, &["nowhere"]);
    let late = ["key", "import", "file", "alias/mine", "material", "--expires", "366d"];
    world.try_run(&late).fails(USAGE, &["365"]);
}

fn public_keys_are_written(world: &World) {
    let made = world.json(&["key", "create", "--spec", "ECC_NIST_P256", "--alias", "signing"]);
    let answer: GetPublicKeyResponse = shape(&world.json(&["key", "public-key", "alias/signing"]));
    assert_eq!(answer.key_id, made["Arn"].as_str().unwrap());
    let pem = world.run(&["key", "public-key", "alias/signing"]);
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n") && pem.ends_with("-----END PUBLIC KEY-----\n"));
    world.run(&["key", "public-key", "alias/signing", "--output", "signing.pem"]);
    assert_eq!(fs::read_to_string(world.path("signing.pem")).unwrap(), pem);
    world.run(&["key", "public-key", "alias/signing", "--format", "der", "--output", "signing.der"]);
    assert_eq!(fs::read(world.path("signing.der")).unwrap(), answer.public_key);
    world
        .try_run(&["key", "public-key", "alias/signing", "--format", "der"])
        .fails(USAGE, &["--output FILE"]);
    world.try_run(&["key", "public-key", "alias/photos"]).fails(USAGE, &["correct the request"]);
    let taken = ["key", "public-key", "alias/signing", "--output", "signing.pem"];
    world.try_run(&taken).fails(NAME_TAKEN, &["signing.pem"]);
}

fn aliases_are_managed(world: &World) {
    let [first, second] = ["first", "second"].map(|name| {
        let made = world.json(&["key", "create", "--description", name]);
        made["KeyId"].as_str().unwrap().to_owned()
    });
    assert_eq!(
        world.run(&["alias", "create", "pictures", &first]),
        format!("alias/pictures names {first}\n")
    );
    assert_eq!(world.json(&["alias", "create", "alias/other", "alias/pictures"]), json!({}));
    world
        .try_run(&["alias", "create", "pictures", &second])
        .fails(NAME_TAKEN, &["alias/pictures", "choose another"]);
    world.try_run(&["alias", "create", "aws/mine", &second]).fails(USAGE, &["reserved"]);
    world.try_run(&["alias", "create", "two words", &second]).fails(USAGE, &["alias"]);
    world.try_run(&["alias", "create", "none", "alias/none"]).fails(NO_SUCH_KEY, &["alias/none"]);

    let table = world.run(&["alias", "list"]);
    assert_eq!(head(&table).0, ["ALIAS", "KEY ID", "SINCE"]);
    let all: ListAliasesResponse = shape(&world.json(&["alias", "list"]));
    assert_eq!(all.aliases.len(), table.lines().count() - 1);
    let of_key: ListAliasesResponse = shape(&world.json(&["alias", "list", "alias/other"]));
    let names: Vec<_> = of_key.aliases.iter().map(|alias| alias.alias_name.as_str()).collect();
    assert_eq!(names, ["alias/other", "alias/pictures"]);

    assert_eq!(
        world.run(&["alias", "update", "pictures", &second]),
        format!("alias/pictures names {second}\n")
    );
    assert_eq!(world.json(&["key", "describe", "alias/pictures"])["KeyId"], second);
    world.try_run(&["alias", "update", "none", &second]).fails(NO_SUCH_KEY, &["alias/none"]);
    world
        .try_run(&["alias", "update", "pictures", "alias/signing"])
        .fails(USAGE, &["cannot be given to a ECC_NIST_P256 key"]);
    assert_eq!(world.run(&["alias", "delete", "pictures"]), "deleted alias/pictures\n");
    world.try_run(&["alias", "delete", "pictures"]).fails(NO_SUCH_KEY, &["alias/pictures"]);
    assert_eq!(world.json(&["alias", "delete", "alias/other"]), json!({}));
    assert_eq!(world.json(&["alias", "list", &first])["Aliases"], json!([]));
}

fn tags_are_managed(world: &World) {
    assert_eq!(world.run(&["tag", "add", "alias/photos", "team=blue", "note=a = b"]), "tagged\n");
    let table = world.run(&["tag", "list", "alias/photos"]);
    assert_eq!(head(&table), (vec!["TAG", "VALUE"], vec!["empty"]));
    let listed: ListResourceTagsResponse = shape(&world.json(&["tag", "list", "alias/photos"]));
    let tag = |key: &str, value: &str| Tag { tag_key: key.to_owned(), tag_value: value.to_owned() };
    assert_eq!(listed.tags, [tag("empty", ""), tag("note", "a = b"), tag("team", "blue")]);
    assert_eq!(world.json(&["tag", "remove", "alias/photos", "note", "empty", "nothing"]), json!({}));
    assert_eq!(world.run(&["tag", "remove", "alias/photos", "team"]), "untagged\n");
    assert_eq!(world.json(&["tag", "list", "alias/photos"])["Tags"], json!([]));
    world.try_run(&["tag", "add", "alias/photos", "aws:x=y"]).fails(USAGE, &["aws:"]);
    let many: Vec<String> = (0..51).map(|n| format!("t{n}=")).collect();
    let mut add = vec!["tag", "add", "alias/photos"];
    add.extend(many.iter().map(String::as_str));
    world.try_run(&add).fails(USAGE, &["50"]);
    world.try_run(&["tag", "list", "alias/none"]).fails(NO_SUCH_KEY, &["alias/none"]);
    world.run(&["key", "schedule-deletion", "alias/photos", "--yes"]);
    for refused in [
        &["tag", "add", "alias/photos", "a=b"][..],
        &["alias", "create", "late", "alias/photos"],
        &["key", "update-description", "alias/photos", "late"],
        &["key", "rotation", "enable", "alias/photos"],
    ] {
        world.try_run(refused).fails(KEY_STATE, &["pending deletion", "cancel the deletion"]);
    }
    world.run(&["key", "cancel-deletion", "alias/photos"]);
}
