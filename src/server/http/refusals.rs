//! Requests that were not believed, in the audit log: so many a second and no more, for anybody can
//! send them, and a log that is full stops the key service. The metrics count them all.

use jiff::Timestamp;
use parking_lot::Mutex;

use super::request::Peer;
use crate::kms::audit::Identity;
use crate::kms::{ErrorKind, KmsError, Service};
use crate::sigv4::AuthError;

/// Most of them that are logged in a second.
const MOST: u32 = 20;
/// Longest part of an id that is logged: nobody has proved that there is such a one.
const MAX_ID: usize = 128;

/// How many were logged of late. May be used from any thread.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Second>);

#[derive(Default)]
struct Second {
    second: i64,
    logged: u32,
}

/// What was not believed.
pub(super) struct Disbelieved {
    pub(super) peer: Peer,
    pub(super) operation: &'static str,
    /// As the request has it.
    pub(super) access_key_id: Option<String>,
    pub(super) agent: String,
    pub(super) error: AuthError,
}

impl Refusals {
    /// Whether one more may be logged; counts it then.
    pub(super) fn may_log(&self, now: Timestamp) -> bool {
        let mut last = self.0.lock();
        if last.second != now.as_second() {
            *last = Second { second: now.as_second(), logged: 0 };
        }
        last.logged += u32::from(last.logged <= MOST);
        last.logged <= MOST
    }
}

impl Disbelieved {
    /// Logs it. May wait for the log.
    pub(super) fn log(&self, service: &Service) {
        let id: Option<String> = self.access_key_id.as_ref().map(|id| id.chars().take(MAX_ID).collect());
        let address = self.peer.address.to_string();
        let who = Identity {
            kind: "Unknown",
            arn: None,
            user: None,
            access_key: id.as_deref(),
            process: None,
            address: Some(&address),
            agent: &self.agent,
        };
        // AWS's name for it is no exception of the key service itself.
        let error = KmsError::new(ErrorKind::AccessDenied, self.error.to_string());
        service.log_refusal(who, self.operation, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_more() {
        let refusals = Refusals::default();
        for second in [100, 101] {
            let now = Timestamp::from_second(second).unwrap();
            let logged = (0..1000).filter(|_| refusals.may_log(now)).count();
            assert_eq!(logged, MOST as usize);
        }
    }
}
