//! Tags.

use serde_json::json;

use super::*;

fn tag(key: &str, value: &str) -> Tag {
    Tag { tag_key: key.to_owned(), tag_value: value.to_owned() }
}

fn add(world: &World, key: &KeyMetadata, tags: Vec<Tag>) -> Result<Empty, KmsError> {
    world.service().tag_resource(&world.caller, &TagResourceRequest { key_id: key.arn.clone(), tags })
}

fn list(world: &World, key: &KeyMetadata) -> Vec<(String, String)> {
    let mut request = ListResourceTagsRequest { key_id: key.arn.clone(), limit: Some(2), marker: None };
    let mut found = Vec::new();
    loop {
        let page = world.service().list_resource_tags(&world.caller, &request).unwrap();
        assert!(page.tags.len() <= 2);
        assert_eq!(page.truncated, page.next_marker.is_some());
        found.extend(page.tags.into_iter().map(|tag| (tag.tag_key, tag.tag_value)));
        match page.next_marker {
            Some(marker) => request.marker = Some(marker),
            None => return found,
        }
    }
}

#[test]
fn tags_are_added_replaced_removed_and_kept() {
    let mut world = World::new();
    let body = json!({"Tags": [{"TagKey": "team", "TagValue": "red"}, {"TagKey": "empty", "TagValue": ""}]});
    let request: CreateKeyRequest = serde_json::from_value(body).unwrap();
    let key = world.service().create_key(&world.caller, &request).unwrap();
    add(&world, &key, vec![tag("team", "blue"), tag("a/b", "ü 1"), tag("z", "z")]).unwrap();
    let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let all = pairs(&[("a/b", "ü 1"), ("empty", ""), ("team", "blue"), ("z", "z")]);
    assert_eq!(list(&world, &key), all);
    world.reopen();
    assert_eq!(list(&world, &key), all);
    let removal = UntagResourceRequest {
        key_id: key.arn.clone(),
        tag_keys: vec!["team".to_owned(), "a/b".to_owned(), "not there".to_owned()],
    };
    world.service().untag_resource(&world.caller, &removal).unwrap();
    assert_eq!(list(&world, &key), pairs(&[("empty", ""), ("z", "z")]));
}

#[test]
fn malformed_and_too_many_tags_change_nothing() {
    let world = World::new();
    let key = world.key();
    let long = "k".repeat(129);
    for wrong in [
        tag("", "v"),
        tag(&long, "v"),
        tag("k", &"v".repeat(257)),
        tag("aws:team", "v"),
        tag("AWS:team", "v"),
        tag("semi;colon", "v"),
        tag("k", "new\nline"),
    ] {
        let refused = add(&world, &key, vec![tag("fine", "1"), wrong.clone()]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tag, "{wrong:?}");
    }
    let twice = add(&world, &key, vec![tag("a", "1"), tag("a", "2")]).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Tag);
    assert_eq!(list(&world, &key), []);
    let many = |count: usize| (0..count).map(|number| tag(&format!("k{number}"), "v")).collect::<Vec<_>>();
    assert_eq!(add(&world, &key, many(51)).unwrap_err().kind(), ErrorKind::LimitExceeded);
    add(&world, &key, many(50)).unwrap();
    assert_eq!(add(&world, &key, vec![tag("one more", "")]).unwrap_err().kind(), ErrorKind::LimitExceeded);
    add(&world, &key, vec![tag("k7", "over another")]).unwrap();
    assert_eq!(list(&world, &key).len(), 50);
    let request = CreateKeyRequest { tags: many(51), ..CreateKeyRequest::default() };
    let refused = world.service().create_key(&world.caller, &request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
}

#[test]
fn tags_of_keys_that_nobody_manages_or_that_go_stay_as_they_are() {
    let world = World::new();
    let request = CreateKeyRequest { manager: KeyManager::Internal, ..CreateKeyRequest::default() };
    let internal = world.service().create_key(&world.caller, &request).unwrap();
    let refused = add(&world, &internal, vec![tag("a", "b")]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnsupportedOperation);
    let key = world.key();
    for (state, answer) in [
        (state::KeyState::Disabled, None),
        (state::KeyState::PendingImport, None),
        (state::KeyState::Unavailable, None),
        (state::KeyState::PendingDeletion, Some(ErrorKind::InvalidState)),
    ] {
        world.force(&key, state);
        let removal = UntagResourceRequest { key_id: key.arn.clone(), tag_keys: vec!["a".to_owned()] };
        let removed = world.service().untag_resource(&world.caller, &removal);
        assert_eq!(add(&world, &key, vec![tag("a", "b")]).err().map(|e| e.kind()), answer, "{state}");
        assert_eq!(removed.err().map(|e| e.kind()), answer, "{state}");
        list(&world, &key);
    }
}
