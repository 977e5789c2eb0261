//! What the audit log tells of openings.

use std::fs::File;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::user::{ADA, BOB};
use crate::common::wait_until;
use crate::{REFUSED, Shared, reads};

#[test]
fn the_log_tells_who_opened_what_with_which_key_from_which_program() {
    let Some(shared) = Shared::new("the_log_tells_who_opened_what") else { return };
    let file = shared.file("dir/file");
    shared.grant(ADA, "Decrypt,GenerateDataKey");
    let cat = |uid: u32| {
        let mut cat = Command::new("setpriv");
        cat.args(["--clear-groups", "--reuid", &uid.to_string(), "--regid", &uid.to_string(), "cat"]);
        cat.arg(&file).output().unwrap().status.success()
    };
    assert!(cat(ADA.uid) && !cat(BOB.uid));
    let made = shared.mount.join("dir/made");
    std::fs::set_permissions(shared.mount.join("dir"), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    ADA.run(|| File::create_new(&made)).unwrap();
    assert_eq!(reads(BOB, &made), REFUSED);

    let info = shared.world.json(&["file", "info", file.to_str().unwrap()]);
    let (info, mut opened) = (&info[0], Vec::new());
    let of_user = |name: &str, uid: u32| -> Vec<Value> {
        let events = shared.world.json(&["audit", "query", "--event", name]);
        let events = events.as_array().unwrap().iter();
        events.filter(|event| event["userIdentity"]["uid"] == uid).cloned().collect()
    };
    wait_until("the events are in the log", || {
        opened = of_user("AuthorizeOpen", ADA.uid);
        opened.len() == 1 && of_user("AuthorizeOpen", BOB.uid).len() == 2
    });
    let event = &opened[0];
    let identity = &event["userIdentity"];
    assert_eq!(identity["arn"], format!("arn:aws:iam::000000000000:user/{}", ADA.uid));
    assert_eq!(event["userAgent"], "cat");
    assert_eq!(event["eventCategory"], "Data");
    assert_eq!(event["resources"][0]["ARN"], info["key_arn"]);
    let mut about = event["additionalEventData"].clone();
    let daemon = shared.world.process(&shared.mount).as_raw_nonzero().get();
    let expected = json!({"volumeId": info["volume_id"], "fileId": info["file_id"], "path": "/dir/file",
        "access": "read", "keyMaterialVersion": 1, "mountUid": 0, "mountPid": daemon});
    assert_eq!(about.as_object_mut().map(|about| about.len()), Some(7));
    assert_eq!(about, expected);

    let refused = of_user("AuthorizeOpen", BOB.uid);
    assert!(refused.iter().all(|event| event["errorCode"] == "AccessDeniedException"), "{refused:?}");
    assert_eq!(refused[0]["userAgent"], "cat");
    let paths: Vec<_> = refused.iter().map(|event| &event["additionalEventData"]["path"]).collect();
    assert_eq!(paths, ["/dir/file", "/dir/made"]);
    let made = of_user("GenerateDataKey", ADA.uid);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["additionalEventData"]["path"], "/dir/made");
    assert_eq!(made[0]["additionalEventData"]["access"], "create");
    // The key itself went to nobody but the mount, which unwrapped none for Bob.
    assert!(of_user("Decrypt", BOB.uid).is_empty());
}
