//! The audit log: every call of the key service, refused ones too, as CloudTrail would have it.
//!
//! | module | |
//! |---|---|
//! | `event` | one call as JSON |
//! | `chain` | one line: the event, tied to the line before and authenticated |
//! | `segment` | the files in `DIR/audit` |
//! | `journal` | the writing end: groups of lines become durable; what a crash left |
//! | `log` | many callers, one writer |
//! | `read` | what it says, for people and programs |
//! | `verify` | what was done to it |

mod chain;
mod error;
mod event;
mod journal;
mod log;
mod read;
mod segment;
mod verify;

pub use chain::Head;
pub use error::AuditError;
pub use event::{
    Category, Event, EventId, EventIds, Identity, MAX_EVENT, Origin, Parameter, SERVICE_AGENT, resource_type,
};
pub use journal::{Journal, LOST, Limits, RECOVERED, Setup};
pub use log::{AuditLog, MAX_PLACES, MISSED, Mode, Place};
pub use read::Events;
pub use segment::{DIRECTORY, MAX_READ, Owner, file_name, first_line, list};
pub use verify::{Finding, Problem, Report, Verifier, mentions};

/// Member of `additionalEventData` of a change whose event a crash kept out of the log at first.
pub const RECOVERED_CHANGE: &str = "recoveredFromKeyStore";
