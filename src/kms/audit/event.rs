//! An event in the shape of AWS CloudTrail's records, and what we add to it.
//!
//! Added are `uid`, `gid` and `pid` in `userIdentity`, what only we know in `additionalEventData`,
//! and `integrity` at the end of the line. Parameters come from the caller by name, one by one:
//! what is not named is not in the log, so a plaintext cannot get there by being forgotten.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::kms::context::EncryptionContext;
use crate::kms::id::Realm;

/// Longest event in bytes; longer parameters are left out and the event says so.
pub const MAX_EVENT: usize = 128 * 1024;
/// Bytes that are kept of what a caller may make as long as it likes.
const MAX_MESSAGE: usize = 2048;
const MAX_AGENT: usize = 1024;
const MAX_NAME: usize = 128;
const EVENT_VERSION: &str = "1.11";
const SOURCE: &str = "kms.amazonaws.com";
/// What makes the events that nobody called for.
pub const SERVICE_AGENT: &str = "kmsfs";

/// What became of a call, or what the service did by itself.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// When the call came.
    pub time: Timestamp,
    /// The operation's name.
    pub name: &'a str,
    /// Whether somebody called for it.
    pub origin: Origin<'a>,
    /// Whether it uses keys or manages them.
    pub category: Category,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// The store's region and account.
    pub realm: &'a Realm,
    /// What was asked for, without secrets.
    pub parameters: &'a [(&'a str, Parameter<'a>)],
    /// What was answered, where CloudTrail has that too.
    pub response: &'a [(&'a str, Parameter<'a>)],
    /// The ARNs of the keys and aliases that it was about.
    pub resources: &'a [&'a str],
    /// The exception and its message, for a call that was refused.
    pub error: Option<(&'a str, &'a str)>,
    /// What CloudTrail has no place for.
    pub additional: &'a [(&'a str, Parameter<'a>)],
    /// Never the same twice.
    pub id: EventId,
}

/// Who is behind an event.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A caller.
    Call(Identity<'a>),
    /// The service itself.
    Service,
}

/// Who calls, from where and with what.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `Root`, `IAMUser` or, before a caller is known, `Unknown`.
    pub kind: &'a str,
    /// The principal; absent before it is known.
    pub arn: Option<&'a str>,
    /// Name of the user.
    pub user: Option<&'a str>,
    /// The access key that signed the request.
    pub access_key: Option<&'a str>,
    /// User, group and process of a local caller.
    pub process: Option<(u32, u32, u32)>,
    /// Address of the caller; `None` for one of this machine.
    pub address: Option<&'a str>,
    /// The program.
    pub agent: &'a str,
}

/// Which of CloudTrail's two kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Category {
    /// Durable before its call is answered.
    Management,
    /// Durable soon after.
    Data,
}

/// The value of a parameter.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)] // The variants are what JSON has.
pub enum Parameter<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
    Texts(&'a [String]),
    Context(&'a EncryptionContext),
    Json(&'a serde_json::Value),
}

/// The id of an event, a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId(uuid::Uuid);

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes ids: a random start, then counted. Asking the kernel for every one would take longer than
/// the rest of an event.
#[derive(Debug)]
pub struct EventIds {
    start: u128,
    count: AtomicU64,
}

impl EventIds {
    /// A fresh range of ids.
    ///
    /// # Errors
    /// When the operating system's random number generator fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut start = [0; 16];
        getrandom::fill(&mut start)?;
        Ok(Self { start: u128::from_le_bytes(start), count: AtomicU64::new(0) })
    }

    /// One that was not given before.
    pub fn next(&self) -> EventId {
        let count = u128::from(self.count.fetch_add(1, Ordering::Relaxed));
        let bytes = self.start.wrapping_add(count).to_le_bytes();
        EventId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl Event<'_> {
    /// The event as one JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let full = self.written(false);
        if full.len() <= MAX_EVENT { full } else { self.written(true) }
    }

    fn written(&self, shortened: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(1280);
        // Writing text to memory does not fail.
        let _ = serde_json::to_writer(&mut out, &Shape { event: self, shortened });
        out
    }
}

struct Shape<'a> {
    event: &'a Event<'a>,
    shortened: bool,
}

impl Serialize for Shape<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("eventVersion", EVENT_VERSION)?;
        map.serialize_entry("userIdentity", &Who(event))?;
        map.serialize_entry("eventTime", Stamp::of(event.time).as_str())?;
        map.serialize_entry("eventSource", SOURCE)?;
        map.serialize_entry("eventName", start_of(event.name, MAX_NAME))?;
        map.serialize_entry("awsRegion", &event.realm.region)?;
        let (address, agent) = match &event.origin {
            Origin::Call(identity) => (identity.address.unwrap_or("local"), identity.agent),
            Origin::Service => ("local", SERVICE_AGENT),
        };
        map.serialize_entry("sourceIPAddress", address)?;
        map.serialize_entry("userAgent", start_of(agent, MAX_AGENT))?;
        if let Some((code, message)) = event.error {
            map.serialize_entry("errorCode", code)?;
            map.serialize_entry("errorMessage", start_of(message, MAX_MESSAGE))?;
        }
        self.members(&mut map, "requestParameters", event.parameters)?;
        self.members(&mut map, "responseElements", event.response)?;
        if !event.additional.is_empty() {
            map.serialize_entry("additionalEventData", &Members(event.additional))?;
        }
        map.serialize_entry("eventID", &event.id.0)?;
        map.serialize_entry("readOnly", &event.read_only)?;
        map.serialize_entry("resources", &Resources(event))?;
        let by_caller = matches!(event.origin, Origin::Call(_));
        map.serialize_entry("eventType", if by_caller { "AwsApiCall" } else { "AwsServiceEvent" })?;
        map.serialize_entry("managementEvent", &(event.category == Category::Management))?;
        map.serialize_entry("recipientAccountId", &event.realm.account)?;
        map.serialize_entry("eventCategory", &event.category)?;
        map.end()
    }
}

impl Shape<'_> {
    fn members<M: SerializeMap>(
        &self,
        map: &mut M,
        name: &str,
        members: &[(&str, Parameter<'_>)],
    ) -> Result<(), M::Error> {
        match (members.is_empty(), self.shortened) {
            (true, _) => map.serialize_entry(name, &()),
            (false, false) => map.serialize_entry(name, &Members(members)),
            (false, true) => {
                let omitted = [
                    ("omitted", Parameter::Flag(true)),
                    ("reason", Parameter::Text("they were longer than an event may be")),
                ];
                map.serialize_entry(name, &Members(&omitted))
            }
        }
    }
}

struct Members<'a>(&'a [(&'a str, Parameter<'a>)]);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (Camel(name), value)))
    }
}

/// The name of a parameter: the API's begin with a capital, CloudTrail's do not.
struct Camel<'a>(&'a str);

impl Serialize for Camel<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut short = arrayvec::ArrayString::<64>::new();
        match self.0.as_bytes().first() {
            Some(first) if first.is_ascii_uppercase() && short.try_push_str(self.0).is_ok() => {
                let start = first.to_ascii_lowercase();
                short.clear();
                short.push(char::from(start));
                short.push_str(&self.0[1..]);
                serializer.serialize_str(&short)
            }
            _ => serializer.serialize_str(self.0),
        }
    }
}

struct Who<'a>(&'a Event<'a>);

impl Serialize for Who<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let Origin::Call(identity) = &self.0.origin else {
            map.serialize_entry("type", "AWSService")?;
            map.serialize_entry("invokedBy", SERVICE_AGENT)?;
            return map.end();
        };
        map.serialize_entry("type", identity.kind)?;
        if let Some(arn) = identity.arn {
            map.serialize_entry("arn", arn)?;
        }
        map.serialize_entry("accountId", &self.0.realm.account)?;
        if let Some(user) = identity.user {
            map.serialize_entry("userName", user)?;
        }
        if let Some(access_key) = identity.access_key {
            map.serialize_entry("accessKeyId", access_key)?;
        }
        if let Some((uid, gid, pid)) = identity.process {
            map.serialize_entry("uid", &uid)?;
            map.serialize_entry("gid", &gid)?;
            map.serialize_entry("pid", &pid)?;
        }
        map.end()
    }
}

struct Resources<'a>(&'a Event<'a>);

impl Serialize for Resources<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            #[serde(rename = "accountId")]
            account: &'a str,
            #[serde(rename = "type")]
            kind: &'a str,
            #[serde(rename = "ARN")]
            arn: &'a str,
        }
        let account = &*self.0.realm.account;
        serializer.collect_seq(self.0.resources.iter().map(|arn| Named {
            account,
            kind: resource_type(arn),
            arn,
        }))
    }
}

fn start_of(text: &str, most: usize) -> &str {
    let boundary = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..boundary.unwrap_or(0)]
}

/// What CloudTrail calls the kind of thing that has this ARN.
pub fn resource_type(arn: &str) -> &'static str {
    if arn.contains(":alias/") { "AWS::KMS::Alias" } else { "AWS::KMS::Key" }
}

/// A time as CloudTrail writes it: to the second, in UTC.
struct Stamp(arrayvec::ArrayString<40>);

impl Stamp {
    fn of(time: Timestamp) -> Self {
        let mut text = arrayvec::ArrayString::new();
        let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
        // The longest time has 27 characters.
        let _ = write!(text, "{whole}");
        Self(text)
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event<'a>(realm: &'a Realm, parameters: &'a [(&'a str, Parameter<'a>)]) -> Event<'a> {
        Event {
            time: "2026-03-04T05:06:07.891Z".parse().unwrap(),
            name: "Decrypt",
            origin: Origin::Call(Identity {
                kind: "IAMUser",
                arn: Some("arn:aws:iam::000000000000:user/ada"),
                user: Some("ada"),
                access_key: None,
                process: Some((1000, 100, 42)),
                address: None,
                agent: "cat",
            }),
            category: Category::Data,
            read_only: true,
            realm,
            parameters,
            response: &[],
            resources: &["arn:aws:kms:local:000000000000:key/k"],
            error: Some(("DisabledException", "it is\nset \"off\"")),
            additional: &[("keyMaterialVersion", Parameter::Number(3))],
            id: EventIds::random().unwrap().next(),
        }
    }

    #[test]
    fn an_event_has_the_shape_of_a_cloudtrail_record() {
        let realm = Realm::default();
        let context = EncryptionContext::new().with("a", "b");
        let parameters = [("EncryptionContext", Parameter::Context(&context))];
        let event = event(&realm, &parameters);
        let text = event.to_json();
        assert!(!text.contains(&b'\n'));
        let expected = json!({
            "eventVersion": "1.11",
            "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::000000000000:user/ada",
                "accountId": "000000000000", "userName": "ada", "uid": 1000, "gid": 100, "pid": 42},
            "eventTime": "2026-03-04T05:06:07Z",
            "eventSource": "kms.amazonaws.com",
            "eventName": "Decrypt",
            "awsRegion": "local",
            "sourceIPAddress": "local",
            "userAgent": "cat",
            "errorCode": "DisabledException",
            "errorMessage": "it is\nset \"off\"",
            "requestParameters": {"encryptionContext": {"a": "b"}},
            "responseElements": null,
            "additionalEventData": {"keyMaterialVersion": 3},
            "eventID": event.id.to_string(),
            "readOnly": true,
            "resources": [{"accountId": "000000000000", "type": "AWS::KMS::Key",
                "ARN": "arn:aws:kms:local:000000000000:key/k"}],
            "eventType": "AwsApiCall",
            "managementEvent": false,
            "recipientAccountId": "000000000000",
            "eventCategory": "Data",
        });
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn parameters_that_are_too_long_are_left_out_and_it_says_so() {
        let (realm, long) = (Realm::default(), "x".repeat(MAX_EVENT));
        let parameters = [("policy", Parameter::Text(&long))];
        let text = event(&realm, &parameters).to_json();
        assert!(text.len() < 2048);
        let parsed: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(parsed["requestParameters"]["omitted"], true);
        assert_eq!(parsed["responseElements"], Value::Null);
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids = EventIds::random().unwrap();
        let made: std::collections::BTreeSet<_> = (0..1000).map(|_| ids.next().to_string()).collect();
        assert_eq!(made.len(), 1000);
    }
}
