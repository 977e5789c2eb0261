//! Taking a key away: what is shown first, who is asked, and what counts as an answer.

use std::fs;

use serde_json::{Value, json};

use super::common::terminal::Terminal;
use super::common::{Ran, World};
use super::{KEY_STATE, state};

const NOT_CONFIRMED: i32 = 35;

/// A world with a key `alias/photos`, and the key's id.
fn with_photos() -> (World, String) {
    let world = World::with_volume();
    let made = world.json(&["key", "create", "--alias", "photos", "--description", "Family pictures"]);
    (world, made["KeyId"].as_str().unwrap().to_owned())
}

/// Runs a command at a terminal that asks `question`, and does `answer`.
fn at_terminal(world: &World, args: &[&str], question: &str, answer: impl FnOnce(&mut Terminal)) -> Ran {
    let mut terminal = Terminal::start(world.command(args));
    terminal.shows(question);
    answer(&mut terminal);
    terminal.finish()
}

#[test]
fn without_a_terminal_nothing_is_taken_away_unless_yes_is_said() {
    let (world, id) = with_photos();
    world.run(&["grant", "create", "alias/photos", "--grantee", "ada", "--operations", "Decrypt"]);
    for command in ["disable", "schedule-deletion"] {
        let ran = world.try_run(&["key", command, "alias/photos"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (NOT_CONFIRMED, ""), "{ran:?}");
        let (shown, refusal) = ran.stderr.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(refusal, "kmsfs: it was not confirmed, so nothing was changed; add --yes to do it");
        for word in
            [&*id, "alias/photos", "Family pictures", "Enabled", "1, to user/ada", "mounts", "last use"]
        {
            assert!(shown.contains(word), "lacks {word}: {shown}");
        }
        assert_eq!(state(&world, "alias/photos"), "Enabled");
        // A program gets the same, on one line.
        let ran = world.try_run(&["--json", "key", command, "alias/photos"]);
        let refusal: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(refusal["exit_code"], NOT_CONFIRMED);
        let consequences = &refusal["consequences"];
        assert_eq!(consequences["KeyMetadata"]["KeyId"], id);
        assert_eq!(consequences["Aliases"], json!(["alias/photos"]));
        assert_eq!(consequences["Grants"][0]["Operations"], json!(["Decrypt"]));
        assert_eq!(consequences["Mounts"], json!([]));
        assert_eq!(consequences["Unknown"], json!([]));
        assert_eq!(consequences["KeyLastUsage"], json!({}));
    }
    let ran = world.try_run(&["key", "disable", "alias/photos", "--yes"]).ok();
    assert_eq!(ran.stdout, format!("disabled {id}\n"));
    assert!(ran.stderr.contains("Disabling this key"), "{ran:?}");
}

#[test]
fn a_person_is_asked_and_only_yes_counts() {
    let (world, _) = with_photos();
    let disable = ["key", "disable", "alias/photos"];
    let question = "Type yes to do it: ";
    let answers: [&dyn Fn(&mut Terminal); 5] = [
        &|terminal| terminal.types("no"),
        &|terminal| terminal.types(""),
        &|terminal| terminal.types("YES"),
        &|terminal| terminal.types("alias/photos"),
        &Terminal::ends_input,
    ];
    for answer in answers {
        let ran = at_terminal(&world, &disable, question, answer);
        assert_eq!((ran.code, ran.stdout.as_str()), (NOT_CONFIRMED, ""), "{ran:?}");
        assert!(ran.stderr.contains("nothing was changed; run it again"), "{ran:?}");
        assert_eq!(state(&world, "alias/photos"), "Enabled");
    }
    let ran = at_terminal(&world, &disable, question, |terminal| terminal.types("yes")).ok();
    assert!(ran.stdout.starts_with("disabled "), "{ran:?}");
    assert_eq!(state(&world, "alias/photos"), "Disabled");
    // Disabled already: nothing is lost by it, and nothing asked.
    world.run(&disable);
}

#[test]
fn a_key_is_deleted_by_its_name_and_can_be_kept() {
    let (world, id) = with_photos();
    let delete = ["key", "schedule-deletion", "alias/photos", "--pending-window-in-days", "7"];
    let question = "Type the key's id or alias to delete it: ";
    for answer in ["yes", "alias/default", "phot", ""] {
        let ran = at_terminal(&world, &delete, question, |terminal| terminal.types(answer));
        assert_eq!(ran.code, NOT_CONFIRMED, "{answer}: {ran:?}");
        assert_eq!(state(&world, "alias/photos"), "Enabled");
    }
    let arn = world.json(&["key", "describe", "alias/photos"])["Arn"].as_str().unwrap().to_owned();
    for answer in ["alias/photos", "photos", &id, &arn] {
        let ran = at_terminal(&world, &delete, question, |terminal| terminal.types(answer)).ok();
        assert!(
            ran.stdout.contains("will be deleted at") && ran.stdout.contains("cancel-deletion"),
            "{ran:?}"
        );
        let key = world.json(&["key", "describe", "alias/photos"]);
        assert_eq!(
            (&key["KeyState"], &key["PendingDeletionWindowInDays"]),
            (&json!("PendingDeletion"), &json!(7))
        );
        for command in [&["enable"][..], &["disable", "--yes"], &["schedule-deletion", "--yes"], &["rotate"]]
        {
            let refused = world.try_run(&[&["key", command[0], "alias/photos"], &command[1..]].concat());
            refused.fails(KEY_STATE, &["pending deletion", "cancel the deletion"]);
        }
        assert!(world.run(&["key", "cancel-deletion", "alias/photos"]).contains("is now Disabled"));
        world.run(&["key", "enable", "alias/photos"]);
    }
    world.try_run(&["key", "cancel-deletion", "alias/photos"]).fails(KEY_STATE, &["is enabled"]);
    for days in ["6", "31", "x"] {
        let ran =
            world.try_run(&["key", "schedule-deletion", &id, "--pending-window-in-days", days, "--yes"]);
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    let answer = world.json(&["key", "schedule-deletion", &id, "--yes"]);
    assert_eq!(answer["KeyState"], "PendingDeletion");
    assert_eq!(answer["PendingWindowInDays"], 30);
    assert!(answer["DeletionDate"].is_number());
    assert_eq!(answer["Consequences"]["PendingWindowInDays"], 30);
    assert_eq!(world.json(&["key", "cancel-deletion", &id])["KeyState"], "Disabled");
}

#[test]
fn others_use_the_key_store_while_a_person_thinks() {
    let (world, _) = with_photos();
    let mut terminal = Terminal::start(world.command(&["key", "disable", "alias/photos"]));
    terminal.shows("Type yes");
    world.run(&["key", "create", "--alias", "meanwhile"]);
    terminal.types("yes");
    terminal.finish().ok();
    assert_eq!(state(&world, "alias/photos"), "Disabled");
}

#[test]
fn the_deletion_of_material_is_asked_about() {
    let world = World::with_volume();
    world.run(&["key", "create", "--alias", "mine", "--origin", "EXTERNAL"]);
    fs::write(world.path("material"), [7; 32]).unwrap();
    world.run(&["key", "import", "file", "alias/mine", "material"]);
    let delete = ["key", "delete-material", "alias/mine"];
    let ran = world.try_run(&delete);
    assert_eq!(ran.code, NOT_CONFIRMED, "{ran:?}");
    let ran = at_terminal(&world, &delete, "Type yes", Terminal::ends_input);
    assert_eq!(ran.code, NOT_CONFIRMED, "{ran:?}");
    assert_eq!(state(&world, "alias/mine"), "Enabled");
    let answer = world.json(&[&delete[..], &["--yes"]].concat());
    assert_eq!(answer["KeyState"], "PendingImport");
    assert_eq!(answer["Consequences"]["KeyMetadata"]["KeyState"], "Enabled");
    world.run(&["key", "import", "file", "alias/mine", "material"]);
    assert_eq!(state(&world, "alias/mine"), "Enabled");
}

#[test]
fn a_mount_is_shown_with_its_open_files_and_follows() {
    let Some(world) = World::new("a_mount_is_shown_with_its_open_files_and_follows") else { return };
    let mount = world.volume("volume");
    world.run(&["key", "create", "--alias", "photos"]);
    fs::create_dir(mount.join("photos")).unwrap();
    world.run(&["key", "assign", "alias/photos", mount.join("photos").to_str().unwrap()]);
    let path = mount.join("photos/one");
    fs::write(&path, "a picture").unwrap();
    let open = fs::File::open(&path).unwrap();
    let place = mount.to_str().unwrap();
    let ran = at_terminal(&world, &["key", "disable", "alias/photos"], "Type yes", |terminal| {
        terminal.shows(&format!("{place}: 1 open file under it"));
        terminal.types("no");
    });
    assert_eq!(ran.code, NOT_CONFIRMED);
    assert_eq!(fs::read(&path).unwrap(), b"a picture");
    let answer = world.json(&["key", "disable", "alias/photos", "--yes"]);
    let uses = &answer["Consequences"]["Mounts"][0];
    assert_eq!((&uses["Mountpoint"], &uses["OpenFiles"]), (&json!(place), &json!(1)));
    assert_eq!((&answer["Mounts"][0]["Mount"], &answer["Mounts"][0]["Files"]), (&json!(place), &json!(1)));
    assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EKEYREVOKED));
    world.run(&["key", "enable", "alias/photos"]);
    assert_eq!(fs::read(&path).unwrap(), b"a picture");
    world.run(&["key", "schedule-deletion", "alias/photos", "--yes"]);
    assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EKEYREVOKED));
    world.run(&["key", "cancel-deletion", "alias/photos"]);
    assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EKEYREVOKED));
    world.run(&["key", "enable", "alias/photos"]);
    assert_eq!(fs::read(&path).unwrap(), b"a picture");
    drop(open);
    world.umount(&mount);
}
