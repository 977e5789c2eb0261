//! The grants, in memory: found by key and id, by grantee and encryption context, and by retiring
//! principal, each without a scan.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::Arc;

use crate::kms::context::EncryptionContext;
use crate::kms::id::KeyId;
use crate::kms::policy::{Action, ActionSet, Identity};
use crate::kms::store::GrantRecord;

/// A grant's id.
pub(super) type GrantId = [u8; 32];

/// A grant and what it comes to.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) record: GrantRecord,
    pub(super) actions: ActionSet,
}

impl Grant {
    pub(super) fn new(record: GrantRecord) -> Self {
        let mut actions = ActionSet::default();
        for action in record.operations.iter().filter_map(|name| Action::exact(name)) {
            actions.insert(action);
        }
        Self { record, actions }
    }

    /// Whether its constraints let this context pass.
    fn admits(&self, context: &EncryptionContext) -> bool {
        let record = &self.record;
        record.context_equals.as_ref().is_none_or(|wanted| wanted == context)
            && record.context_subset.as_ref().is_none_or(|wanted| is_within(wanted, context))
    }

    /// Whether a holder of this grant may give `other` away: it allows no more.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let equals = match (&self.record.context_equals, &other.record.context_equals) {
            (None, _) => true,
            (Some(own), Some(others)) => own == others,
            (Some(_), None) => false,
        };
        let others = [&other.record.context_equals, &other.record.context_subset];
        let subset = self
            .record
            .context_subset
            .as_ref()
            .is_none_or(|own| others.into_iter().flatten().any(|wanted| is_within(own, wanted)));
        equals && subset && self.actions.includes(other.actions)
    }

    /// Whether CreateGrant of the same name would make this one.
    pub(super) fn says_the_same_as(&self, other: &GrantRecord) -> bool {
        let own = &self.record;
        let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        own.grantee == other.grantee
            && own.retiring == other.retiring
            && own.context_equals == other.context_equals
            && own.context_subset == other.context_subset
            && sorted(&own.operations) == sorted(&other.operations)
    }

    /// Under what it is found, other than by its id.
    fn anchors(&self, hashes: &RandomState) -> Vec<u64> {
        let record = &self.record;
        let grantee = record.grantee.as_str();
        let mut anchors = Vec::new();
        if self.actions.iter().any(|action| !action.has_context()) {
            anchors.push(hashes.hash_one(Anchor::Holder(grantee)));
        }
        if self.actions.iter().any(Action::has_context) {
            let first = record.context_subset.as_ref().and_then(|context| context.pairs().next());
            anchors.push(hashes.hash_one(match (&record.context_equals, first) {
                (Some(context), _) => Anchor::Equals(grantee, context),
                // Whoever has all pairs has the first.
                (None, Some((key, value))) => Anchor::Pair(grantee, key, value),
                (None, None) => Anchor::Free(grantee),
            }));
        }
        anchors.extend(record.name.as_deref().map(|name| hashes.hash_one(Anchor::Name(name))));
        anchors
    }
}

/// What a grant may be looked for by.
#[derive(Hash)]
enum Anchor<'a> {
    /// A grantee, for operations that no constraint concerns.
    Holder(&'a str),
    /// A grantee, for operations with any context.
    Free(&'a str),
    /// A grantee and the whole context.
    Equals(&'a str, &'a EncryptionContext),
    /// A grantee and one pair of the context.
    Pair(&'a str, &'a str, &'a str),
    Name(&'a str),
}

#[derive(Default)]
struct OfKey {
    grants: BTreeMap<GrantId, Arc<Grant>>,
    /// By the hash of an anchor. Whoever finds a grant here looks whether it is the one meant.
    anchored: HashMap<u64, Vec<Arc<Grant>>>,
}

/// All grants.
#[derive(Default)]
pub(super) struct GrantBook {
    hashes: RandomState,
    keys: HashMap<KeyId, OfKey>,
    retirable: BTreeSet<(Box<str>, KeyId, GrantId)>,
}

impl GrantBook {
    pub(super) fn insert(&mut self, grant: Grant) {
        let grant = Arc::new(grant);
        let of_key = self.keys.entry(grant.record.key).or_default();
        for anchor in grant.anchors(&self.hashes) {
            of_key.anchored.entry(anchor).or_default().push(Arc::clone(&grant));
        }
        if let Some(retiring) = &grant.record.retiring {
            self.retirable.insert((retiring.as_str().into(), grant.record.key, grant.record.id));
        }
        of_key.grants.insert(grant.record.id, grant);
    }

    pub(super) fn remove(&mut self, key: &KeyId, id: &GrantId) {
        let Some(of_key) = self.keys.get_mut(key) else { return };
        let Some(grant) = of_key.grants.remove(id) else { return };
        for anchor in grant.anchors(&self.hashes) {
            if let Some(grants) = of_key.anchored.get_mut(&anchor) {
                grants.retain(|other| other.record.id != *id);
                if grants.is_empty() {
                    of_key.anchored.remove(&anchor);
                }
            }
        }
        if of_key.grants.is_empty() {
            self.keys.remove(key);
        }
        if let Some(retiring) = &grant.record.retiring {
            self.retirable.remove(&(retiring.as_str().into(), *key, *id));
        }
    }

    pub(super) fn get(&self, key: &KeyId, id: &GrantId) -> Option<&Arc<Grant>> {
        self.keys.get(key)?.grants.get(id)
    }

    /// Number of grants of `key`.
    pub(super) fn count(&self, key: &KeyId) -> usize {
        self.keys.get(key).map_or(0, |of_key| of_key.grants.len())
    }

    /// The grants of `key` in order of their ids, those behind `after` alone.
    pub(super) fn of_key(&self, key: &KeyId, after: Option<GrantId>) -> impl Iterator<Item = &Arc<Grant>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let of_key = self.keys.get(key).map(|of_key| &of_key.grants);
        of_key.into_iter().flat_map(move |grants| grants.range((from, Bound::Unbounded)).map(|(_, g)| g))
    }

    /// The grants that `principal` may retire, in order of their keys and ids.
    pub(super) fn retirable_by(
        &self,
        principal: &str,
        after: Option<(KeyId, GrantId)>,
    ) -> impl Iterator<Item = &Arc<Grant>> {
        let principal: Box<str> = principal.into();
        let from = match after {
            Some((key, id)) => Bound::Excluded((principal.clone(), key, id)),
            None => Bound::Included((principal.clone(), KeyId::from_bytes([0; 16]), [0; 32])),
        };
        self.retirable
            .range((from, Bound::Unbounded))
            .take_while(move |(retiring, ..)| *retiring == principal)
            .filter_map(|(_, key, id)| self.get(key, id))
    }

    /// A grant that lets `identity` do this.
    pub(super) fn allowing(
        &self,
        key: &KeyId,
        identity: &Identity,
        action: Action,
        context: &EncryptionContext,
    ) -> Option<&Arc<Grant>> {
        let of_key = self.keys.get(key)?;
        let has_context = action.has_context();
        identity.names().find_map(|grantee| {
            let find = |anchor: Anchor<'_>| {
                let found = of_key.anchored.get(&self.hashes.hash_one(anchor))?;
                found.iter().find(|grant| {
                    grant.actions.contains(action)
                        && grant.record.grantee == grantee
                        && (!has_context || grant.admits(context))
                })
            };
            if !has_context {
                return find(Anchor::Holder(grantee));
            }
            find(Anchor::Free(grantee))
                .or_else(|| find(Anchor::Equals(grantee, context)))
                .or_else(|| context.pairs().find_map(|(key, value)| find(Anchor::Pair(grantee, key, value))))
        })
    }

    /// A grant that lets `identity` give `other` away.
    pub(super) fn covering(&self, identity: &Identity, other: &Grant) -> Option<&Arc<Grant>> {
        let create: Action = Action::exact("CreateGrant")?;
        let of_key = self.keys.get(&other.record.key)?;
        identity.names().find_map(|grantee| {
            let found = of_key.anchored.get(&self.hashes.hash_one(Anchor::Holder(grantee)))?;
            found.iter().find(|grant| {
                grant.record.grantee == grantee && grant.actions.contains(create) && grant.covers(other)
            })
        })
    }

    /// The grant of `key` that has this name and says the same.
    pub(super) fn same_as(&self, record: &GrantRecord) -> Option<&Arc<Grant>> {
        let name = record.name.as_deref()?;
        let found = self.keys.get(&record.key)?.anchored.get(&self.hashes.hash_one(Anchor::Name(name)))?;
        found
            .iter()
            .find(|grant| grant.record.name.as_deref() == Some(name) && grant.says_the_same_as(record))
    }
}

/// Whether `context` has all pairs of `wanted`.
fn is_within(wanted: &EncryptionContext, context: &EncryptionContext) -> bool {
    wanted.pairs().all(|(key, value)| context.value(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPERATIONS: [&str; 4] = ["Decrypt", "Encrypt", "DescribeKey", "CreateGrant"];
    const PEOPLE: [&str; 2] = ["alice", "bob"];

    fn arn(name: &str) -> String {
        format!("arn:aws:iam::111122223333:user/{name}")
    }

    fn context() -> impl Strategy<Value = EncryptionContext> {
        prop::collection::btree_map("[ab]", "[12]", 0..3).prop_map(|pairs| pairs.into_iter().collect())
    }

    fn record(number: u8) -> impl Strategy<Value = GrantRecord> {
        (
            (0..2_u8, 0..2_usize, prop::option::of(0..2_usize), 1..16_u8),
            (prop::option::of(context()), prop::option::of(context()), prop::option::of("[xy]")),
        )
            .prop_map(move |((key, grantee, retiring, operations), (equals, subset, name))| {
                GrantRecord {
                    id: [number; 32],
                    key: KeyId::from_bytes([key; 16]),
                    name,
                    issuer: "root".to_owned(),
                    grantee: arn(PEOPLE[grantee]),
                    retiring: retiring.map(|who| arn(PEOPLE[who])),
                    operations: (0..4)
                        .filter(|bit| operations >> bit & 1 == 1)
                        .map(|bit| OPERATIONS[bit].to_owned())
                        .collect(),
                    context_equals: equals,
                    context_subset: subset,
                    created: jiff::Timestamp::UNIX_EPOCH,
                }
            })
    }

    fn records() -> impl Strategy<Value = Vec<GrantRecord>> {
        let records: Vec<_> = (0..12).map(record).collect();
        records
    }

    proptest! {
        /// The index against a look at every grant.
        #[test]
        fn grants_are_found_as_by_looking_at_all_of_them(
            records in records(),
            gone in prop::collection::btree_set(0..12_u8, 0..6),
            asked in context(),
        ) {
            let mut book = GrantBook::default();
            for record in records.iter().cloned() {
                book.insert(Grant::new(record));
            }
            for number in &gone {
                let record = &records[usize::from(*number)];
                book.remove(&record.key, &record.id);
            }
            let left: Vec<Grant> = records
                .into_iter()
                .filter(|record| !gone.contains(&record.id[0]))
                .map(Grant::new)
                .collect();
            for key in [0, 1].map(|key| KeyId::from_bytes([key; 16])) {
                let of_key = |grant: &&Grant| grant.record.key == key;
                prop_assert_eq!(book.count(&key), left.iter().filter(of_key).count());
                prop_assert_eq!(book.of_key(&key, None).count(), book.count(&key));
                for person in PEOPLE {
                    let identity = Identity::user("111122223333", person, "1", &[]);
                    for action in OPERATIONS.map(|name| Action::exact(name).unwrap()) {
                        let wanted = left.iter().filter(of_key).any(|grant| {
                            grant.record.grantee == arn(person)
                                && grant.actions.contains(action)
                                && (!action.has_context() || grant.admits(&asked))
                        });
                        let found = book.allowing(&key, &identity, action, &asked);
                        prop_assert_eq!(found.is_some(), wanted, "{} {}", person, action);
                    }
                }
            }
            for person in PEOPLE {
                let wanted = left.iter().filter(|grant| grant.record.retiring == Some(arn(person))).count();
                prop_assert_eq!(book.retirable_by(&arn(person), None).count(), wanted);
            }
            for grant in &left {
                let same = book.same_as(&grant.record);
                prop_assert_eq!(same.is_some(), grant.record.name.is_some());
            }
        }

        /// What a grant that is covered lets pass, the covering one does too.
        #[test]
        fn what_is_given_away_is_no_more_than_what_was_held(
            own in record(0),
            other in record(1),
            asked in context(),
        ) {
            let (own, other) = (Grant::new(own), Grant::new(other));
            if own.covers(&other) && other.admits(&asked) {
                prop_assert!(own.admits(&asked));
                prop_assert!(other.actions.iter().all(|action| own.actions.contains(action)));
            }
        }
    }
}
