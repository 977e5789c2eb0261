//! `policy`: who may do what with a key.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::access_args::{PolicyCommand, Simulate};
use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::key_store::KeyStore;
use super::output::{Output, count, fields};
use crate::kms::api::{
    AssumedCondition, GetKeyPolicyRequest, GetKeyPolicyResponse, PutKeyPolicyRequest,
    SimulateKeyPolicyRequest, SimulateKeyPolicyResponse,
};
use crate::kms::policy::{MAX_POLICY, Policy};

pub(super) fn run(global: &Global, command: &PolicyCommand, output: &Output) -> CliResult<()> {
    match command {
        PolicyCommand::Get { key } => get(global, key, output),
        PolicyCommand::Put { key, file, bypass_lockout_check } => {
            put(global, key, file, *bypass_lockout_check, output)
        }
        PolicyCommand::Check { file } => check(file, output),
        PolicyCommand::Simulate(simulate) => self::simulate(global, simulate, output),
    }
}

fn get(global: &Global, key: &str, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let request = GetKeyPolicyRequest { key_id: store.key_id(key)?, policy_name: None };
    let response: GetKeyPolicyResponse = store.call("GetKeyPolicy", &request)?;
    output.print(&response, |response| vec![response.policy.clone()])
}

fn put(global: &Global, key: &str, file: &Path, bypass: bool, output: &Output) -> CliResult<()> {
    let policy = read(file)?;
    let store = KeyStore::open(global)?;
    let request = PutKeyPolicyRequest {
        key_id: store.key_id(key)?,
        policy_name: None,
        policy,
        bypass_policy_lockout_safety_check: bypass,
    };
    let response: Value = store.call("PutKeyPolicy", &request)?;
    output.print(&response, |_| vec![format!("{key} has a new policy")])
}

/// What is to be said about a policy.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    statements: usize,
    oddities: Vec<String>,
}

fn check(file: &Path, output: &Output) -> CliResult<()> {
    let policy = Policy::parse(&read(file)?).map_err(|error| {
        CliError::new(Code::Usage, format!("{}: {error}; correct the policy", file.display()))
    })?;
    let checked = Checked { statements: policy.statements(), oddities: policy.oddities() };
    output.print(&checked, |checked| {
        let mut lines = vec![format!("a policy of {}", count(checked.statements as u64, "statement"))];
        lines.extend(checked.oddities.iter().cloned());
        lines
    })
}

fn simulate(global: &Global, simulate: &Simulate, output: &Output) -> CliResult<()> {
    let policy = simulate.policy.as_deref().map(read).transpose()?;
    let store = KeyStore::open(global)?;
    let conditions = simulate.condition.iter().cloned();
    let request = SimulateKeyPolicyRequest {
        key_id: simulate.key.clone(),
        principal: simulate.principal.clone(),
        action: simulate.action.clone(),
        encryption_context: simulate.context.iter().cloned().collect(),
        conditions: conditions.map(|(key, value)| AssumedCondition { key, value }).collect(),
        policy,
    };
    let response: SimulateKeyPolicyResponse = store.look_after("SimulateKeyPolicy", &request)?;
    output.print(&response, lines)
}

fn lines(response: &SimulateKeyPolicyResponse) -> Vec<String> {
    let verdict = if response.allowed { "allowed" } else { "denied" };
    let mut lines = fields(&[
        ("principal", response.principal.clone()),
        ("action", response.action.clone()),
        ("key", response.resource.clone()),
        ("verdict", format!("{verdict}: {}", response.reason)),
    ]);
    for statement in &response.statements {
        let sid = statement.sid.as_ref().map(|sid| format!(" ({sid:?})")).unwrap_or_default();
        let what = if statement.applies { "applies".to_owned() } else { statement.because.join("; ") };
        lines.push(format!("statement {}{sid}, {}: {what}", statement.statement, statement.effect));
    }
    lines
}

/// The text of a policy, which is bounded.
fn read(file: &Path) -> CliResult<String> {
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| CliError::io(file, &error))?)
    };
    let mut text = String::new();
    // One more than allowed, so that too much is seen as such.
    let mut bounded = source.take(MAX_POLICY as u64 + 1);
    bounded.read_to_string(&mut text).map_err(|error| CliError::io(file, &error))?;
    Ok(text)
}
