//! A key store with a hundred thousand keys and a million grants.

use serde_json::json;

use super::access::{arn, user};
use super::grants::{ALICE, BOB, call, grant, list, person};
use super::*;

/// Run it for figures: `cargo test --release --lib a_large_store -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes and a gigabyte"]
#[allow(clippy::print_stdout, reason = "figures are what it is for")]
fn a_large_store_stays_usable() {
    use std::time::Instant;

    use crate::kms::store::{Change, GrantRecord, KeyRecord, Record};

    const KEYS: usize = 100_000;
    const GRANTS: usize = 1_000_000;
    let mut world = World::new();
    let template = world.service().entry(&world.key().key_id).unwrap();
    let started = Instant::now();
    let mut keys = Vec::new();
    for _ in 0..KEYS / 1000 {
        let batch: Vec<(KeyRecord, crate::kms::store::Material)> = (0..1000)
            .map(|_| {
                let (id, material) = (KeyId::random().unwrap(), crate::secret::Key::random().unwrap());
                let material = crate::kms::store::Material::Key(material);
                let mut record = KeyRecord { id, ..template.record.clone() };
                record.versions[0].fingerprint = material.fingerprint(&id);
                (record, material)
            })
            .collect();
        let records: Vec<Record> = batch.iter().map(|(record, _)| Record::KeyV2(record.clone())).collect();
        let mut changes: Vec<Change<'_>> = records.iter().map(Change::Put).collect();
        changes.extend(batch.iter().map(|(record, material)| Change::PutMaterial {
            key: &record.id,
            version: 1,
            material,
        }));
        world.service().store.commit(&changes).unwrap();
        keys.extend(batch.iter().map(|(record, _)| record.id));
    }
    println!("{KEYS} keys written in {:?}", started.elapsed());
    let started = Instant::now();
    // As many on the first key as there may be, ten on each of the others.
    for batch in 0..GRANTS / 10_000 {
        let records: Vec<Record> = (0..10_000)
            .map(|number| {
                let number = batch * 10_000 + number;
                let mut id = [0; 32];
                getrandom::fill(&mut id).unwrap();
                Record::GrantV1(GrantRecord {
                    id,
                    key: if number < 49_999 { keys[0] } else { keys[number % KEYS] },
                    name: None,
                    issuer: arn("root"),
                    grantee: person(number as u32 % 1000 + 100_000),
                    retiring: Some(person(BOB)),
                    operations: vec![
                        "Decrypt".to_owned(),
                        "DescribeKey".to_owned(),
                        "GenerateDataKey".to_owned(),
                    ],
                    context_equals: Some(EncryptionContext::new().with("file", number.to_string())),
                    context_subset: None,
                    created: world.clock.now(),
                })
            })
            .collect();
        world.service().store.commit(&records.iter().map(Change::Put).collect::<Vec<_>>()).unwrap();
    }
    println!("{GRANTS} grants written in {:?}", started.elapsed());
    let started = Instant::now();
    world.reopen();
    println!("opened in {:?}", started.elapsed());
    let service = world.service();
    let time = |what: &str, count: u32, work: &mut dyn FnMut(u32)| {
        let started = Instant::now();
        (0..count).for_each(&mut *work);
        println!("{what}: {:?}", started.elapsed() / count);
    };
    // Grant 7 of the first key is of this user and this context.
    let holder = user(100_007);
    let held = EncryptionContext::new().with("file", "7");
    let first = keys[0].to_string();
    time("the owner generates a data key", 10_000, &mut |_| {
        service.generate_data_key(&world.caller, &first, &held).unwrap();
    });
    time("a grantee, one of 50,000 grants", 10_000, &mut |_| {
        service.generate_data_key(&holder, &first, &held).unwrap();
    });
    time("somebody without a grant is refused", 10_000, &mut |_| {
        service.generate_data_key(&user(ALICE), &first, &held).unwrap_err();
    });
    time("DescribeKey by a grantee", 10_000, &mut |_| {
        service.describe_key(&holder, &KeyRequest { key_id: first.clone() }).unwrap();
    });
    time("ListKeys, a page of 1000", 100, &mut |number| {
        let marker = Some(keys[number as usize].to_string());
        service.list_keys(&world.caller, &ListKeysRequest { limit: Some(1000), marker }).unwrap();
    });
    time("ListGrants, a page of 100 of 50,000", 100, &mut |_| {
        let request = ListGrantsRequest { key_id: first.clone(), limit: Some(100), ..Default::default() };
        service.list_grants(&world.caller, &request).unwrap();
    });
    time("ListRetirableGrants, a page of 100 of a million", 100, &mut |_| {
        let request = ListRetirableGrantsRequest {
            retiring_principal: Some(person(BOB)),
            limit: Some(100),
            ..Default::default()
        };
        service.list_retirable_grants(&world.caller, &request).unwrap();
    });
    let key = service.describe_key(&world.caller, &KeyRequest { key_id: keys[1].to_string() }).unwrap();
    time("CreateGrant", 20, &mut |_| drop(grant(&world, &key, &["Decrypt"], &json!({})).unwrap()));
    time("RevokeGrant", 20, &mut |_| {
        let id = list(&world, &key, &json!({"GranteePrincipal": person(ALICE)}))[0]["GrantId"].clone();
        call(&world, &world.caller, "RevokeGrant", &json!({"KeyId": key.key_id, "GrantId": id})).unwrap();
    });
    let request = ScheduleKeyDeletionRequest {
        key_id: keys[2].to_string(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    service.schedule_key_deletion(&world.caller, &request).unwrap();
    world.clock.advance(jiff::SignedDuration::from_hours(7 * 24));
    let mut slowest = std::time::Duration::ZERO;
    std::thread::scope(|scope| {
        let scrub = scope.spawn(|| {
            let started = Instant::now();
            service.tick();
            println!("a key destroyed and scrubbed in {:?}", started.elapsed());
        });
        while !scrub.is_finished() {
            let started = Instant::now();
            grant(&world, &key, &["Decrypt"], &json!({})).unwrap();
            slowest = slowest.max(started.elapsed());
        }
    });
    println!("slowest CreateGrant meanwhile: {slowest:?}");
    time("DisableKey and EnableKey", 5, &mut |_| {
        service.disable_key(&world.caller, &named(&key)).unwrap();
        service.enable_key(&world.caller, &named(&key)).unwrap();
    });
}
