//! From text to statements. Whatever is not a policy is refused here, with what is wrong and
//! where; what is left can be decided without errors.

use thiserror::Error;

use super::action::ActionSet;
use super::condition::Condition;
use super::json::Json;
use super::key::ConditionKey;
use super::pattern::Pattern;
use super::principal::{Principals, is_service};
use super::{Facts, MAX_POLICY};

/// What a statement that applies comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request is allowed, unless another statement denies it.
    Allow,
    /// The request is denied.
    Deny,
}

/// Why a text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A policy, ready to decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    pub(super) principals: Principals,
    /// Whether the statement is about everyone but these.
    pub(super) other_principals: bool,
    pub(super) actions: ActionSet,
    pub(super) other_actions: bool,
    pub(super) resources: Resources,
    pub(super) conditions: Vec<Condition>,
}

/// The keys that a statement is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Resources {
    /// No `Resource`: AWS takes such a statement, and it applies to no key.
    None,
    These(Vec<Pattern>),
    AllBut(Vec<Pattern>),
}

impl Resources {
    pub(super) fn include(&self, arn: &str, facts: &dyn Facts) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(arn, facts));
        match self {
            Self::None => false,
            Self::These(patterns) => any(patterns),
            Self::AllBut(patterns) => !any(patterns),
        }
    }
}

type Members = [(String, Json)];

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// [`Malformed`], saying what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_POLICY {
            return Err(Malformed(format!("the policy is longer than {MAX_POLICY} bytes")));
        }
        let json = serde_json::from_str(text).map_err(|error| Malformed(format!("not JSON: {error}")))?;
        document(&json).map_err(Malformed)
    }

    /// What is strange about the policy, though AWS takes it: statements and names that have no
    /// effect here. For people.
    pub fn oddities(&self) -> Vec<String> {
        let mut odd = Vec::new();
        for (number, statement) in self.statements.iter().enumerate() {
            let mut note = |what: String| odd.push(format!("{}: {what}", place(number, statement)));
            if statement.resources == Resources::None {
                note("it has no Resource and so applies to no key; write \"Resource\": \"*\"".to_owned());
            }
            if statement.actions.is_empty() && !statement.other_actions {
                note("it names no action that there is".to_owned());
            }
            for condition in &statement.conditions {
                if let ConditionKey::Other(name) = condition.key() {
                    note(format!("no request of this service has the condition key {name}"));
                }
            }
        }
        odd
    }

    /// Number of statements.
    pub fn statements(&self) -> usize {
        self.statements.len()
    }
}

/// What to call a statement.
pub(super) fn place(number: usize, statement: &Statement) -> String {
    match &statement.sid {
        Some(sid) => format!("statement {number} ({sid:?})"),
        None => format!("statement {number}"),
    }
}

fn document(json: &Json) -> Result<Policy, String> {
    let members = object(json, "the policy")?;
    known(members, &["Version", "Id", "Statement"], "the policy")?;
    // Variables came with the newer version.
    let variables = match member(members, "Version") {
        None => false,
        Some(Json::Text(version)) if version == "2008-10-17" => false,
        Some(Json::Text(version)) if version == "2012-10-17" => true,
        Some(_) => return Err("Version must be \"2012-10-17\" or \"2008-10-17\"".to_owned()),
    };
    if !matches!(member(members, "Id"), None | Some(Json::Text(_))) {
        return Err("Id must be text".to_owned());
    }
    let statements = match member(members, "Statement") {
        Some(Json::List(list)) => list.as_slice(),
        Some(one @ Json::Object(_)) => std::slice::from_ref(one),
        Some(_) => return Err("Statement must be an object or a list of objects".to_owned()),
        None => return Err("the policy has no Statement".to_owned()),
    };
    if statements.is_empty() {
        return Err("the policy has no Statement".to_owned());
    }
    let numbered = statements.iter().enumerate();
    let statements: Vec<Statement> = numbered
        .map(|(number, json)| {
            statement(json, variables).map_err(|what| format!("statement {number}: {what}"))
        })
        .collect::<Result<_, _>>()?;
    let mut sids: Vec<&str> = statements.iter().filter_map(|statement| statement.sid.as_deref()).collect();
    sids.sort_unstable();
    match sids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("two statements have the Sid {:?}", pair[0])),
        None => Ok(Policy { statements }),
    }
}

fn statement(json: &Json, variables: bool) -> Result<Statement, String> {
    const MEMBERS: [&str; 9] = [
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    ];
    let members = object(json, "a statement")?;
    known(members, &MEMBERS, "a statement")?;
    let sid = match member(members, "Sid") {
        None => None,
        // As good as none, and several statements may have it.
        Some(Json::Text(sid)) => Some(sid.clone()).filter(|sid| !sid.is_empty()),
        Some(_) => return Err("Sid must be text".to_owned()),
    };
    let effect = match member(members, "Effect") {
        Some(Json::Text(effect)) if effect == "Allow" => Effect::Allow,
        Some(Json::Text(effect)) if effect == "Deny" => Effect::Deny,
        _ => return Err("Effect must be \"Allow\" or \"Deny\"".to_owned()),
    };
    let (principal, other_principals) =
        either(members, "Principal", "NotPrincipal")?.ok_or("it has neither Principal nor NotPrincipal")?;
    let (action, other_actions) =
        either(members, "Action", "NotAction")?.ok_or("it has neither Action nor NotAction")?;
    let resources = match either(members, "Resource", "NotResource")? {
        None => Resources::None,
        Some((json, false)) => Resources::These(patterns(json, "Resource", variables)?),
        Some((json, true)) => Resources::AllBut(patterns(json, "NotResource", variables)?),
    };
    let mut actions = ActionSet::default();
    for pattern in texts(action, "Action")? {
        actions.add(&pattern)?;
    }
    let conditions = match member(members, "Condition") {
        None => Vec::new(),
        Some(json) => conditions(json, variables)?,
    };
    let principals = principals(principal)?;
    Ok(Statement { sid, effect, principals, other_principals, actions, other_actions, resources, conditions })
}

fn principals(json: &Json) -> Result<Principals, String> {
    let kinds = match json {
        Json::Text(text) if text == "*" => return Ok(Principals::everyone()),
        Json::Object(kinds) if !kinds.is_empty() => kinds,
        _ => return Err("Principal must be \"*\" or an object such as {\"AWS\": [...]}".to_owned()),
    };
    let mut principals = Principals::default();
    for (kind, json) in kinds {
        let named = texts(json, kind)?;
        match kind.as_str() {
            "AWS" => named.iter().try_for_each(|text| principals.add(text))?,
            // No service calls this one, so these match nobody.
            "Service" => {
                if let Some(name) = named.iter().find(|name| !is_service(name)) {
                    return Err(format!("{name:?} is not a service's name"));
                }
            }
            _ => return Err(format!("{kind:?} is not a kind of principal; AWS and Service are")),
        }
    }
    Ok(principals)
}

fn patterns(json: &Json, what: &str, variables: bool) -> Result<Vec<Pattern>, String> {
    let pattern = |text: String| {
        if text == "*" || text.starts_with("arn:") {
            Pattern::parse(&text, true, variables)
        } else {
            Err(format!("{what} {text:?} is neither \"*\" nor an ARN"))
        }
    };
    texts(json, what)?.into_iter().map(pattern).collect()
}

fn conditions(json: &Json, variables: bool) -> Result<Vec<Condition>, String> {
    let mut conditions = Vec::new();
    for (operator, keys) in object(json, "Condition")? {
        for (key, operands) in object(keys, operator)? {
            conditions.push(Condition::parse(operator, key, &scalars(operands, key)?, variables)?);
        }
    }
    Ok(conditions)
}

fn object<'j>(json: &'j Json, what: &str) -> Result<&'j Members, String> {
    match json {
        Json::Object(members) => Ok(members),
        _ => Err(format!("{what} must be an object")),
    }
}

fn member<'j>(members: &'j Members, name: &str) -> Option<&'j Json> {
    members.iter().find(|(member, _)| member == name).map(|(_, json)| json)
}

fn known(members: &Members, names: &[&str], what: &str) -> Result<(), String> {
    match members.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("{what} has no member {name:?}")),
        None => Ok(()),
    }
}

/// The one of two members that is there, and whether it is the second.
fn either<'j>(members: &'j Members, one: &str, other: &str) -> Result<Option<(&'j Json, bool)>, String> {
    match (member(members, one), member(members, other)) {
        (Some(_), Some(_)) => Err(format!("it has both {one} and {other}")),
        (Some(json), None) => Ok(Some((json, false))),
        (None, Some(json)) => Ok(Some((json, true))),
        (None, None) => Ok(None),
    }
}

/// A text, or a list of at least one.
fn texts(json: &Json, what: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{what} must be text or a list of texts");
    let one = |json: &Json| match json {
        Json::Text(text) => Ok(text.clone()),
        _ => Err(wrong()),
    };
    match json {
        Json::List(list) if list.is_empty() => Err(format!("{what} is an empty list")),
        Json::List(list) => list.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

/// As [`texts`], of numbers and truth values too.
fn scalars(json: &Json, what: &str) -> Result<Vec<String>, String> {
    let one = |json: &Json| match json {
        Json::Text(text) | Json::Number(text) => Ok(text.clone()),
        Json::Bool(value) => Ok(value.to_string()),
        _ => Err(format!("{what} must be compared with text, a number, true or false, or a list of these")),
    };
    match json {
        Json::List(list) if list.is_empty() => Err(format!("{what} is compared with an empty list")),
        Json::List(list) => list.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}
