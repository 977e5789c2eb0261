//! `audit`: the log of all calls.
#![allow(clippy::print_stdout)]

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::args::Global;
use super::audit_args::{AuditCommand, Filter, Query, Tail};
use super::exit::{CliError, CliResult, Code};
use super::key_store::{KeyStore, dir};
use super::output::{Output, count, fields, table};
use crate::kms::audit::{DIRECTORY, Events, Report};
use crate::kms::store_api::VerifyAuditRequest;

/// How often new lines are looked for.
const POLL: Duration = Duration::from_millis(100);

pub(super) fn run(global: &Global, command: &AuditCommand, output: &Output) -> CliResult<ExitCode> {
    match command {
        AuditCommand::Tail(arguments) => tail(global, arguments)?,
        AuditCommand::Query(arguments) => query(global, arguments, output)?,
        AuditCommand::Verify { files } => return verify(global, files, output),
        AuditCommand::Export(filter) => export(global, filter)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tail(global: &Global, arguments: &Tail) -> CliResult<()> {
    let mut log = Log::open(global, &arguments.filter)?;
    let mut last = VecDeque::new();
    while let Some(event) = log.next()? {
        last.push_back(event);
        if last.len() > arguments.lines {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|event| print(event, global.json))?;
    if !arguments.follow {
        return Ok(());
    }
    loop {
        match log.next()? {
            Some(event) => print(&event, global.json)?,
            None => std::thread::sleep(POLL),
        }
    }
}

fn query(global: &Global, arguments: &Query, output: &Output) -> CliResult<()> {
    let mut log = Log::open(global, &arguments.filter)?;
    let mut found = VecDeque::new();
    while let Some(event) = log.next()? {
        found.push_back(event);
        if arguments.limit.is_some_and(|limit| found.len() > limit) {
            found.pop_front();
        }
    }
    log.warn(output);
    output.print(&found, |found| {
        let rows: Vec<_> = found.iter().map(cells).map(Vec::from).collect();
        table(&HEADER, &rows)
    })
}

fn export(global: &Global, filter: &Filter) -> CliResult<()> {
    let mut log = Log::open(global, filter)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let failed = |error: std::io::Error| CliError::io(Path::new("standard output"), &error);
    let mut before = "{\"Records\":[\n";
    while let Some(event) = log.next()? {
        write!(out, "{before}{event}").map_err(failed)?;
        before = ",\n";
    }
    if before != ",\n" {
        out.write_all(before.as_bytes()).map_err(failed)?;
    }
    writeln!(out, "\n]}}").and_then(|()| out.flush()).map_err(failed)
}

fn verify(global: &Global, files: &[std::path::PathBuf], output: &Output) -> CliResult<ExitCode> {
    let absolute = |path: &std::path::PathBuf| std::path::absolute(path).map_err(|e| CliError::io(path, &e));
    let request = VerifyAuditRequest { files: files.iter().map(absolute).collect::<CliResult<_>>()? };
    let report: Report = KeyStore::open(global)?.look_after("VerifyAudit", &request)?;
    output.print(&report, |report| {
        let mut lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        let range = match report.lines {
            0 => "none".to_owned(),
            _ => format!("{} to {}", report.first, report.last),
        };
        let times = [&report.since, &report.until].map(|time| time.clone().unwrap_or_default());
        lines.extend(fields(&[
            ("segments", report.segments.len().to_string()),
            ("lines", range),
            ("from", times[0].clone()),
            ("to", times[1].clone()),
            ("wrong", report.wrong.to_string()),
        ]));
        lines
    })?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(Code::AuditLog as u8) })
}

/// The events that fit a filter.
struct Log<'f> {
    events: Events,
    dir: std::path::PathBuf,
    filter: &'f Filter,
}

impl<'f> Log<'f> {
    fn open(global: &Global, filter: &'f Filter) -> CliResult<Self> {
        let dir = dir(global)?.join(DIRECTORY);
        if !dir.is_dir() {
            let message = format!("there is no audit log in {}; check --keystore", dir.display());
            return Err(CliError::new(Code::NoKeyStore, message));
        }
        Ok(Self { events: Events::after(&dir, 0), dir, filter })
    }

    fn next(&mut self) -> CliResult<Option<Value>> {
        loop {
            let next = self.events.next_event().map_err(|error| CliError::io(&self.dir, &error))?;
            match next {
                Some(event) if !self.filter.fits(&event) => {}
                other => return Ok(other),
            }
        }
    }

    fn warn(&self, output: &Output) {
        let broken = self.events.broken();
        if broken > 0 {
            let lines = count(broken, "line");
            output.warn(&format!("{lines} of the log cannot be read; see 'kmsfs audit verify'"));
        }
    }
}

impl Filter {
    fn fits(&self, event: &Value) -> bool {
        let is = |wanted: &Option<String>, fits: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(fits);
        let time = || event["eventTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        is(&self.event, &|name| event["eventName"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            && is(&self.key, &|key| concerns(event, key))
            && is(&self.principal, &|who| is_by(&event["userIdentity"], who))
            && is(&self.file, &|file| event["additionalEventData"]["fileId"] == file)
            && is(&self.error, &|code| match event["errorCode"].as_str() {
                Some(own) => code.is_empty() || own == code || own.strip_suffix("Exception") == Some(code),
                None => false,
            })
            && self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| time().is_some_and(|time| time <= until))
    }
}

/// Whether an event is about the key or alias that a person named.
fn concerns(event: &Value, key: &str) -> bool {
    let named = |arn: &Value| {
        arn.as_str().is_some_and(|arn| {
            arn == key || arn.ends_with(&format!(":key/{key}")) || arn.ends_with(&format!(":{key}"))
        })
    };
    let resources = event["resources"].as_array();
    let asked = &event["requestParameters"];
    resources.is_some_and(|all| all.iter().any(|resource| named(&resource["ARN"])))
        || ["keyId", "aliasName", "targetKeyId", "destinationKeyId", "sourceKeyId"]
            .iter()
            .any(|name| asked[*name] == key)
}

fn is_by(identity: &Value, who: &str) -> bool {
    let arn = identity["arn"].as_str();
    arn.is_some_and(|arn| arn == who || arn.rsplit([':', '/']).next() == Some(who))
        || identity["userName"] == who
        || identity["accessKeyId"] == who
        || identity["uid"].as_u64().is_some_and(|uid| uid.to_string() == who)
}

const HEADER: [&str; 6] = ["TIME", "EVENT", "BY", "PROGRAM", "ABOUT", "RESULT"];

fn cells(event: &Value) -> [String; 6] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let identity = &event["userIdentity"];
    let by = identity["arn"].as_str().and_then(|arn| arn.rsplit([':', '/']).next());
    let about = event["resources"].as_array().and_then(|all| all.last());
    let about = about.and_then(|resource| resource["ARN"].as_str()?.splitn(6, ':').nth(5));
    let about = about.map(|name| name.strip_prefix("key/").unwrap_or(name));
    [
        text(&event["eventTime"]),
        text(&event["eventName"]),
        by.map_or_else(|| text(&identity["type"]), str::to_owned),
        text(&event["userAgent"]),
        about.unwrap_or_default().to_owned(),
        event["errorCode"].as_str().unwrap_or("ok").to_owned(),
    ]
}

/// Prints one event at once: a line for a person, or one of JSON.
fn print(event: &Value, json: bool) -> CliResult<()> {
    let line = if json { event.to_string() } else { cells(event).join("  ") };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| CliError::io(Path::new("standard output"), &error))
}
