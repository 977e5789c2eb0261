//! Policies against requests: what AWS documents, row by row, and what must hold of all policies.

mod malformed;
mod properties;
mod table;

use super::*;

const ACCOUNT: &str = "111122223333";
const KEY: &str = "arn:aws:kms:local:111122223333:key/04eb2118-6bc5-4196-b96d-fb7f8999317b";

/// Keys and their values, as they are written in policies; a key with several values stands
/// there several times.
struct Known(Vec<(ConditionKey, String)>);

impl Known {
    fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(key, value)| (key.parse().unwrap(), (*value).to_owned())).collect())
    }
}

impl Facts for Known {
    fn values(&self, key: &ConditionKey, found: &mut dyn FnMut(Value<'_>)) {
        for (_, value) in self.0.iter().filter(|(known, _)| known == key) {
            found(Value::Text(value));
        }
    }
}

fn alice() -> Identity {
    Identity::user(ACCOUNT, "alice", "1000", &["staff".to_owned(), "backup".to_owned()])
}

fn bob() -> Identity {
    Identity::user(ACCOUNT, "bob", "1001", &["guests".to_owned()])
}

fn root() -> Identity {
    Identity::root(ACCOUNT)
}

/// What `policy` comes to.
fn decide(policy: &str, identity: &Identity, action: &str, facts: &[(&str, &str)]) -> Verdict {
    let policy = Policy::parse(policy).unwrap_or_else(|error| panic!("{error}: {policy}"));
    let facts = Known::new(facts);
    let request = Request { identity, action: action.parse().unwrap(), resource: KEY, facts: &facts };
    policy.decide(&request).verdict
}
