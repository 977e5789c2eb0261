//! `grant`: permissions that are given and taken back one by one.

use serde_json::Value;

use super::access_args::{CreateGrant, GrantCommand};
use super::args::Global;
use super::exit::CliResult;
use super::key_store::KeyStore;
use super::output::{Output, fields, table};
use crate::kms::EncryptionContext;
use crate::kms::api::{
    CreateGrantRequest, CreateGrantResponse, GrantConstraints, GrantListEntry, ListGrantsRequest,
    ListGrantsResponse, ListRetirableGrantsRequest, RetireGrantRequest, RevokeGrantRequest,
};

pub(super) fn run(global: &Global, command: &GrantCommand, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    match command {
        GrantCommand::Create(grant) => create(&store, grant, output),
        GrantCommand::List { key: Some(key), grantee, .. } => list(&store, key, grantee.as_deref(), output),
        GrantCommand::List { retiring, .. } => retirable(&store, retiring.clone(), output),
        GrantCommand::Retire { key, grant, token } => {
            let key_id = key.as_deref().map(|key| store.key_id(key)).transpose()?;
            let request = RetireGrantRequest {
                grant_token: token.clone(),
                key_id,
                grant_id: grant.clone(),
                dry_run: false,
            };
            let response: Value = store.call("RetireGrant", &request)?;
            output.print(&response, |_| vec!["retired".to_owned()])
        }
        GrantCommand::Revoke { key, grant } => {
            let request =
                RevokeGrantRequest { key_id: store.key_id(key)?, grant_id: grant.clone(), dry_run: false };
            let response: Value = store.call("RevokeGrant", &request)?;
            output.print(&response, |_| vec!["revoked".to_owned()])
        }
    }
}

fn create(store: &KeyStore, grant: &CreateGrant, output: &Output) -> CliResult<()> {
    let some = |pairs: &[(String, String)]| {
        (!pairs.is_empty()).then(|| pairs.iter().cloned().collect::<EncryptionContext>())
    };
    let constraints = GrantConstraints {
        encryption_context_subset: some(&grant.context_subset),
        encryption_context_equals: some(&grant.context_equals),
        source_arn: None,
    };
    let retiring = grant.retiring.as_deref();
    let request = CreateGrantRequest {
        key_id: store.key_id(&grant.key)?,
        grantee_principal: Some(store.principal(&grant.key, &grant.grantee)?),
        retiring_principal: retiring.map(|who| store.principal(&grant.key, who)).transpose()?,
        operations: grant.operations.clone(),
        constraints: Some(constraints).filter(|constraints| *constraints != GrantConstraints::default()),
        name: grant.name.clone(),
        ..CreateGrantRequest::default()
    };
    let response: CreateGrantResponse = store.call("CreateGrant", &request)?;
    output.print(&response, |made| {
        fields(&[("grant id", made.grant_id.clone()), ("token", made.grant_token.clone())])
    })
}

fn list(store: &KeyStore, key: &str, grantee: Option<&str>, output: &Output) -> CliResult<()> {
    let mut request = ListGrantsRequest {
        key_id: store.key_id(key)?,
        grantee_principal: grantee.map(|who| store.principal(key, who)).transpose()?,
        limit: Some(100),
        ..ListGrantsRequest::default()
    };
    show(output, |marker| {
        request.marker = marker;
        store.call("ListGrants", &request)
    })
}

fn retirable(store: &KeyStore, retiring_principal: Option<String>, output: &Output) -> CliResult<()> {
    let mut request =
        ListRetirableGrantsRequest { retiring_principal, limit: Some(100), ..Default::default() };
    show(output, |marker| {
        request.marker = marker;
        store.call("ListRetirableGrants", &request)
    })
}

/// All pages of a listing.
fn show(
    output: &Output,
    mut page: impl FnMut(Option<String>) -> CliResult<ListGrantsResponse>,
) -> CliResult<()> {
    let mut all = ListGrantsResponse::default();
    let mut marker = None;
    loop {
        let mut next = page(marker)?;
        all.grants.append(&mut next.grants);
        if next.next_marker.is_none() {
            break;
        }
        marker = next.next_marker;
    }
    output.print(&all, |all| {
        let rows: Vec<Vec<String>> = all.grants.iter().map(row).collect();
        table(&["GRANT", "KEY", "GRANTEE", "OPERATIONS", "CONTEXT", "RETIRING", "NAME"], &rows)
    })
}

fn row(grant: &GrantListEntry) -> Vec<String> {
    // The account is the same everywhere.
    let short = |arn: &str| arn.rsplit(':').next().unwrap_or(arn).to_owned();
    let pairs = |sign: &str, context: &Option<EncryptionContext>| {
        let pairs = context.iter().flat_map(EncryptionContext::pairs);
        pairs.map(|(key, value)| format!("{key}{sign}{value}")).collect::<Vec<_>>()
    };
    let constraints = grant.constraints.clone().unwrap_or_default();
    let mut context = pairs("==", &constraints.encryption_context_equals);
    context.extend(pairs("=", &constraints.encryption_context_subset));
    vec![
        grant.grant_id.clone(),
        short(&grant.key_id),
        short(&grant.grantee_principal),
        grant.operations.join(","),
        context.join(","),
        grant.retiring_principal.as_deref().map(short).unwrap_or_default(),
        grant.name.clone().unwrap_or_default(),
    ]
}
