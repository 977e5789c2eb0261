//! Tags of keys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::book::{Entry, Spelling};
use super::keys::{page, page_limit};
use super::{Call, Caller, Service};
use crate::kms::api::{
    Empty, ListResourceTagsRequest, ListResourceTagsResponse, Tag, TagResourceRequest, UntagResourceRequest,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::state::{KeyManager, Operation};
use crate::kms::store::{Change, KeyRecord, Record};

const MAX_TAGS: usize = 50;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;
const RESERVED: &str = "aws:";

impl Service {
    /// TagResource.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidState while PendingDeletion, UnsupportedOperation for keys
    /// that no user manages, Tag for malformed tags, LimitExceeded beyond 50, Internal.
    pub fn tag_resource(&self, caller: &Caller, request: &TagResourceRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::TagResource, request, |call| {
            self.change_tags(call, &request.key_id, |tags| {
                tags.extend(checked(&request.tags)?);
                check_count(tags)
            })
        })
    }

    /// UntagResource.
    ///
    /// # Errors
    /// As [`Service::tag_resource`].
    pub fn untag_resource(&self, caller: &Caller, request: &UntagResourceRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::UntagResource, request, |call| {
            self.change_tags(call, &request.key_id, |tags| {
                request.tag_keys.iter().try_for_each(|key| check_key(key))?;
                request.tag_keys.iter().for_each(|key| drop(tags.remove(key)));
                Ok(())
            })
        })
    }

    /// ListResourceTags, in order of their keys.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Validation.
    pub fn list_resource_tags(
        &self,
        caller: &Caller,
        request: &ListResourceTagsRequest,
    ) -> Result<ListResourceTagsResponse, KmsError> {
        self.run(caller, Operation::ListResourceTags, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit(call, entry)?;
            let limit = page_limit(request.limit, 50, 50)?;
            let from = request.marker.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let tags = entry.record.tags.range((from, Bound::Unbounded));
            let tags = tags.map(|(key, value)| Tag { tag_key: key.clone(), tag_value: value.clone() });
            let (tags, truncated) = page(tags, limit);
            let next_marker = tags.last().filter(|_| truncated).map(|last| last.tag_key.clone());
            Ok(ListResourceTagsResponse { tags, next_marker, truncated })
        })
    }

    fn change_tags(
        &self,
        call: &Call<'_>,
        key: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), KmsError>,
    ) -> Result<Empty, KmsError> {
        let _writing = self.writes.lock();
        let old = self.book.read().resolve(key, Spelling::IdOrArn, self.realm())?.clone();
        self.admit(call, &old)?;
        check_managed(&old, "it takes no tags")?;
        let mut record = old.record.clone();
        change(&mut record.tags)?;
        self.publish_record(&old, record)
    }

    /// Makes a key's new record durable, then visible. The caller holds `writes`.
    pub(super) fn publish_record(&self, old: &Entry, record: KeyRecord) -> Result<Empty, KmsError> {
        if record != old.record {
            self.store.commit(&[Change::Put(&Record::KeyV2(record.clone()))])?;
            let new = Arc::new(old.successor(record, old.material.clone(), self.realm()));
            self.book.write().keys.insert(old.record.id, new);
        }
        Ok(Empty {})
    }
}

/// Only keys that users manage are theirs to change.
pub(super) fn check_managed(entry: &Entry, what: &str) -> Result<(), KmsError> {
    if entry.record.manager == KeyManager::Customer {
        return Ok(());
    }
    let message = format!("{} is not a customer managed key; {what}", entry.arn);
    Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
}

/// The tags of a request, by their keys.
pub(super) fn checked(tags: &[Tag]) -> Result<BTreeMap<String, String>, KmsError> {
    let mut checked = BTreeMap::new();
    for tag in tags {
        check_key(&tag.tag_key)?;
        if tag.tag_value.chars().count() > MAX_VALUE || !tag.tag_value.chars().all(is_allowed) {
            let message = format!(
                "the value of tag {} must be up to 256 letters, digits, spaces and _ . / = + - : @",
                tag.tag_key
            );
            return Err(KmsError::new(ErrorKind::Tag, message));
        }
        if checked.insert(tag.tag_key.clone(), tag.tag_value.clone()).is_some() {
            return Err(KmsError::new(ErrorKind::Tag, format!("Duplicate tag key: {}", tag.tag_key)));
        }
    }
    check_count(&checked)?;
    Ok(checked)
}

fn check_count(tags: &BTreeMap<String, String>) -> Result<(), KmsError> {
    if tags.len() > MAX_TAGS {
        return Err(KmsError::new(ErrorKind::LimitExceeded, "a key has at most 50 tags"));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), KmsError> {
    let wrong = |message: String| Err(KmsError::new(ErrorKind::Tag, message));
    if key.get(..RESERVED.len()).is_some_and(|head| head.eq_ignore_ascii_case(RESERVED)) {
        return wrong(format!("{key}: tag keys that begin with aws: are reserved"));
    }
    if !(1..=MAX_KEY).contains(&key.chars().count()) || !key.chars().all(is_allowed) {
        return wrong("a tag key must be 1 to 128 letters, digits, spaces and _ . / = + - : @".to_owned());
    }
    Ok(())
}

fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || "_./=+-:@".contains(c)
}
