//! What the service tells the audit log, and when.
//!
//! A call has a place in the log before it begins, else it is refused. A management call is
//! answered when its event is durable. If it has changed the store, the event was in the same
//! commit (see `kms::store::ledger`), so that it is durable even if the log fails after that.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Call, Caller, Service};
use crate::kms::audit::{
    AuditError, Category, Event, EventId, Identity, Mode, Origin, Parameter, Place, RECOVERED_CHANGE, Report,
    mentions,
};
use crate::kms::error::{ErrorKind, KmsError, Reason};
use crate::kms::policy;
use crate::kms::state::Operation;
use crate::kms::store::Accompanied;
use crate::kms::store_api::VerifyAuditRequest;

/// Members of the encryption contexts that mounts use.
const VOLUME: &str = "kmsfs:volume";
const FILE: &str = "kmsfs:file";
/// Parameters of operations on the store that are not secret.
const OPEN_PARAMETERS: [&str; 9] =
    ["Path", "Force", "Backup", "Number", "ReplaceCurrent", "Files", "Volume", "VolumeId", "Reason"];

impl Service {
    /// What happens to calls when the log cannot be written: refused, unless this says otherwise.
    pub fn set_audit_mode(&self, mode: Mode) {
        self.audit.set_mode(mode);
    }

    /// Waits until every call that was made is in the log.
    ///
    /// # Errors
    /// Internal, for the reason of the log.
    pub fn flush_audit(&self) -> Result<(), KmsError> {
        self.audit.flush().map_err(not_logged)
    }

    /// Logs a request that a front end refused before it became a call of this service.
    pub fn log_refusal(&self, who: Identity<'_>, operation: &str, error: &KmsError) {
        // Whoever can be refused a thousand times a second need not wait for the disk each time;
        // and what cannot be logged has been counted.
        if let Ok(place) = self.audit.place() {
            let (id, error) = (self.audit.setup().ids.next(), Some((error.kind().name(), error.message())));
            place.fill(self.general_event(id, Origin::Call(who), operation, true, &[], &[], error).to_json());
        }
    }

    /// As [`Service::log_refusal`], for a caller that is known.
    pub fn log_refused_caller(&self, caller: &Caller, operation: &str, error: &KmsError) {
        let names = Names::of(caller, self);
        self.log_refusal(names.identity(caller), operation, error);
    }

    /// An operation on the store itself: logged as calls are.
    pub(in crate::kms) fn look_after<T>(
        &self,
        caller: &Caller,
        operation: &str,
        request: &Value,
        changes: bool,
        body: impl FnOnce() -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let place = self.audit_place()?;
        let (id, names) = (self.audit.setup().ids.next(), Names::of(caller, self));
        let asked: Vec<_> = OPEN_PARAMETERS
            .iter()
            .filter_map(|name| Some((*name, request.get(name).filter(|v| !v.is_null())?)))
            .map(|(name, value)| (name, Parameter::Json(value)))
            .collect();
        let origin = Origin::Call(names.identity(caller));
        let event = |error| self.general_event(id, origin, operation, !changes, &asked, &[], error).to_json();
        let carried = changes.then(|| self.accompany(id, event(None)));
        let result = body();
        let error = result.as_ref().err().map(|error| (error.kind().name(), error.message()));
        self.enter(place, event(error), Category::Management, carried)?;
        result
    }

    /// Room in the log for a call that is about to be carried out.
    pub(super) fn audit_place(&self) -> Result<Place<'_>, KmsError> {
        self.audit.place().map_err(not_logged)
    }

    /// The event of a call that may change the store goes with its commits.
    pub(super) fn carried(&self, call: &Call<'_>) -> Option<Accompanied<'_>> {
        call.operation.writes_store().then(|| self.accompany(call.id, self.event_of(call, None)))
    }

    /// Logs a call that is done.
    pub(super) fn log_call(
        &self,
        call: &Call<'_>,
        place: Place<'_>,
        carried: Option<Accompanied<'_>>,
        error: Option<&KmsError>,
    ) -> Result<(), KmsError> {
        let error = error.map(|error| (error.kind().name(), error.message()));
        self.enter(place, self.event_of(call, error), category(call.operation), carried)
    }

    /// Carries out something that the service does by itself, as the event of the log whose id the body
    /// is given.
    pub(super) fn by_itself<T>(
        &self,
        operation: &str,
        arn: &str,
        body: impl FnOnce(EventId) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let place = self.audit_place()?;
        let id = self.audit.setup().ids.next();
        let event =
            |error| self.general_event(id, Origin::Service, operation, false, &[], &[arn], error).to_json();
        let carried = self.accompany(id, event(None));
        let result = body(id);
        let error = result.as_ref().err().map(|error| (error.kind().name(), error.message()));
        self.enter(place, event(error), Category::Management, Some(carried))?;
        result
    }

    /// Logs something that the service has done by itself, and that was not to wait for the log.
    pub(super) fn log_own_deed(&self, operation: &str, asked: &[(&str, Parameter<'_>)]) {
        let id = self.audit.setup().ids.next();
        let event = self.general_event(id, Origin::Service, operation, false, asked, &[], None).to_json();
        let logged =
            self.audit_place().and_then(|place| self.enter(place, event, Category::Management, None));
        if let Err(error) = logged {
            tracing::error!(operation, %error, "not in the audit log");
        }
    }

    /// Brings the events of changes into the log that a crash kept out of it.
    pub(super) fn log_what_was_left(&self) {
        let left = self.store.pending_events();
        if left.is_empty() {
            return;
        }
        let logged = left.iter().try_for_each(|pending| {
            let anchor = self.store.audit_anchor();
            if mentions(self.audit.setup(), &pending.id, anchor).map_err(not_logged)? {
                return Ok(());
            }
            tracing::info!(event = pending.id, "the event of a change was not in the audit log yet");
            let event = left_event(&pending.event, &pending.resources);
            self.audit_place()?.fill_durably(event).map_err(not_logged)
        });
        match logged {
            Ok(()) => self.store.events_are_logged(&left),
            // They stay in the store.
            Err(error) => tracing::info!(%error, "events of changes could not be logged yet"),
        }
    }

    /// Ends the log, and has the store remember where.
    pub(super) fn close_audit(&self) {
        let ended = self.audit.end();
        let kept = match ended {
            Ok(head) => self.store.close_log(head),
            Err(_) => return,
        };
        if let Err(error) = kept {
            tracing::info!(%error, "the key store could not remember the end of the audit log");
        }
    }

    /// Looks for what was done to the log: to all of it, or to the files of an archive.
    ///
    /// # Errors
    /// Internal, when a file cannot be read; Validation for a relative path.
    pub fn verify_audit(&self, request: &VerifyAuditRequest) -> Result<Report, KmsError> {
        self.audit.verify(&request.files).map_err(not_logged)
    }

    fn accompany(&self, id: EventId, event: Vec<u8>) -> Accompanied<'_> {
        self.store.log_reached(self.audit.head());
        self.store.accompany(id, event)
    }

    fn enter(
        &self,
        place: Place<'_>,
        event: Vec<u8>,
        category: Category,
        carried: Option<Accompanied<'_>>,
    ) -> Result<(), KmsError> {
        if category == Category::Data {
            place.fill(event);
            return Ok(());
        }
        match (place.fill_durably(event), carried) {
            (Ok(()), carried) => carried.map(Accompanied::logged),
            // It is durable in the store.
            (Err(error), Some(carried)) if carried.is_committed() => {
                tracing::warn!(%error, "a change is not in the audit log yet");
                None
            }
            (Err(error), _) => return Err(not_logged(error)),
        };
        Ok(())
    }

    fn event_of(&self, call: &Call<'_>, error: Option<(&str, &str)>) -> Vec<u8> {
        let asked = call.facts.parameters();
        let none = Map::new();
        let members = asked.as_object().unwrap_or(&none);
        let parameters: Vec<_> =
            members.iter().map(|(name, value)| (name.as_str(), Parameter::Json(value))).collect();
        let keys = call.keys.borrow();
        let alias = members.get("AliasName").and_then(Value::as_str);
        let alias = alias
            .map(|alias| format!("arn:aws:kms:{}:{}:{alias}", self.realm().region, self.realm().account));
        let mut resources: Vec<&str> = alias.as_deref().into_iter().collect();
        for used in keys.iter() {
            if !resources.contains(&&*used.entry.arn) {
                resources.push(&used.entry.arn);
            }
        }
        let mut additional = Vec::new();
        if let Some(version) = keys.iter().rev().find_map(|used| used.version) {
            additional.push(("keyMaterialVersion", Parameter::Number(version.into())));
        }
        if let Some(context) = call.facts.encryption_context() {
            let found = [("volumeId", VOLUME), ("fileId", FILE)];
            let found = found.into_iter().filter_map(|(name, key)| Some((name, context.value(key)?)));
            additional.extend(found.map(|(name, id)| (name, Parameter::Text(id))));
        }
        if let Some(link) = keys.iter().find_map(|used| used.entry.link.as_ref()) {
            additional.extend(link.facts().map(|(name, text)| (name, Parameter::Text(text))));
        }
        let notes = call.notes.borrow();
        additional.extend(notes.iter().map(|(name, text)| (*name, Parameter::Text(text))));
        if let Some(behalf) = &call.caller.behalf {
            additional.push(("path", Parameter::Text(&behalf.path)));
            additional.push(("access", Parameter::Text(behalf.access.name())));
            additional.push(("mountUid", Parameter::Number(behalf.mount.0.into())));
            additional.push(("mountPid", Parameter::Number(behalf.mount.1.into())));
        }
        let noted = call.answered.borrow();
        let mut answered = Vec::new();
        if error.is_none() && !call.operation.is_read_only() {
            answered.extend(keys.last().map(|used| ("keyId", Parameter::Text(&used.entry.arn))));
            answered.extend(noted.iter().map(|(member, value)| (*member, Parameter::Text(value))));
        }
        let names = Names::from(call.identity.as_ref().ok(), call.caller, self);
        let event = Event {
            time: call.now,
            name: call.operation.name(),
            origin: Origin::Call(names.identity(call.caller)),
            category: category(call.operation),
            read_only: call.operation.is_read_only(),
            realm: self.realm(),
            parameters: &parameters,
            response: &answered,
            resources: &resources,
            error,
            additional: &additional,
            id: call.id,
        };
        event.to_json()
    }

    #[allow(clippy::too_many_arguments, reason = "each is a member of the event")]
    fn general_event<'a>(
        &'a self,
        id: EventId,
        origin: Origin<'a>,
        name: &'a str,
        read_only: bool,
        parameters: &'a [(&'a str, Parameter<'a>)],
        resources: &'a [&'a str],
        error: Option<(&'a str, &'a str)>,
    ) -> Event<'a> {
        Event {
            time: self.clock.now(),
            name,
            origin,
            category: Category::Management,
            read_only,
            realm: self.realm(),
            parameters,
            response: &[],
            resources,
            error,
            additional: &[],
            id,
        }
    }
}

fn category(operation: Operation) -> Category {
    let uses_keys = operation.is_cryptographic() || operation == Operation::GenerateRandom;
    if uses_keys { Category::Data } else { Category::Management }
}

/// The names of a caller, as the log has them.
struct Names {
    kind: &'static str,
    arn: String,
    user: Option<String>,
    address: Option<String>,
}

impl Names {
    fn of(caller: &Caller, service: &Service) -> Self {
        Self::from(service.directory.identity(caller, service.clock.now()).ok().as_ref(), caller, service)
    }

    fn from(known: Option<&Arc<policy::Identity>>, caller: &Caller, service: &Service) -> Self {
        let (kind, arn, user) = match known {
            Some(known) if known.is_root() => ("Root", known.arn().to_owned(), None),
            Some(known) => ("IAMUser", known.arn().to_owned(), known.name().map(str::to_owned)),
            // Whom nobody can name is called by number.
            None => {
                let user = caller.uid.to_string();
                let arn = format!("arn:aws:iam::{}:user/{user}", service.realm().account);
                ("IAMUser", arn, Some(user))
            }
        };
        Self { kind, arn, user, address: caller.remote.as_ref().map(|remote| remote.address.to_string()) }
    }

    fn identity<'a>(&'a self, caller: &'a Caller) -> Identity<'a> {
        let local = caller.remote.is_none();
        Identity {
            kind: self.kind,
            arn: Some(&self.arn),
            user: self.user.as_deref(),
            access_key: caller.remote.as_ref().map(|remote| remote.access_key_id.as_str()),
            process: local.then_some((caller.uid, caller.gid, caller.pid)),
            address: self.address.as_deref(),
            agent: &caller.program,
        }
    }
}

/// The event of a change that a crash kept out of the log, with what is known of it now.
fn left_event(event: &str, resources: &[String]) -> Vec<u8> {
    let Ok(Value::Object(mut event)) = serde_json::from_str(event) else { return b"{}".to_vec() };
    let account = event.get("recipientAccountId").cloned().unwrap_or_default();
    let named = resources.iter().map(|arn| {
        serde_json::json!({ "accountId": account, "type": crate::kms::audit::resource_type(arn), "ARN": arn })
    });
    let named = named.collect();
    event.insert("resources".to_owned(), Value::Array(named));
    event.insert("additionalEventData".to_owned(), serde_json::json!({ RECOVERED_CHANGE: true }));
    // Text in memory.
    serde_json::to_vec(&event).unwrap_or_default()
}

fn not_logged(error: AuditError) -> KmsError {
    let reason = match &error {
        AuditError::NoSpace => Reason::NoSpace,
        AuditError::ReadOnly => Reason::ReadOnly,
        AuditError::Io { source, .. } if source.kind == std::io::ErrorKind::PermissionDenied => {
            Reason::Permission
        }
        AuditError::Behind | AuditError::Io { .. } => Reason::Audit,
    };
    let message = format!("the call cannot be logged: {error}");
    KmsError::new(ErrorKind::Internal, message).because(reason)
}
