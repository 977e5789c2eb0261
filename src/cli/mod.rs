//! The command line.

mod access_args;
mod access_key;
mod alias;
mod args;
mod audit;
mod audit_args;
mod bars;
mod bench;
mod bench_args;
mod bench_mount;
mod bundle;
mod consequences;
mod custom_key_store;
mod dead_mount;
mod exit;
mod file;
mod fsck;
mod grant;
mod handover;
mod impact;
mod key;
mod key_args;
mod key_import;
mod key_rotation;
mod key_show;
mod key_store;
mod lock;
mod log;
mod mount;
mod mount_helper;
mod output;
mod policy;
mod receipt;
mod recovery_kit;
mod reencrypt;
mod retire;
mod rewrap;
mod scrub;
mod secret;
mod serve;
mod settings;
mod signals;
mod status;
mod store;
mod store_args;
mod tag;
mod volume;
mod volume_args;
mod volumes;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command, FileCommand};
use exit::{CliError, CliResult, Code};
use key_args::KeyCommand;
use output::Output;
use volume_args::VolumeCommand;

use crate::crypto::aead;
use crate::sys::process;

/// What a build for measurements says, each time, when it is told not to encrypt.
const UNENCRYPTED: &str = "CONTENTS OF FILES ARE NOT ENCRYPTED: this is a build for measurements, and KMSFS_AEAD=copy is set; \
     unset it before you store anything";

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let given: Vec<_> = std::env::args_os().collect();
    let from_mount = mount_helper::arguments(&given);
    let is_from_mount = from_mount.is_some();
    let arguments = match from_mount.unwrap_or_else(|| Arguments::try_parse_from(&given)) {
        Ok(arguments) => arguments,
        Err(error) => return not_understood(&error, is_from_mount),
    };
    let output = Output::new(arguments.global.json);
    match run(arguments, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            if is_from_mount { mount_helper::exit_code(&error) } else { error.exit_code() }
        }
    }
}

/// Help and the version go out as they are, and so does an explained error, unless it is for a
/// program to read.
fn not_understood(error: &clap::Error, is_from_mount: bool) -> ExitCode {
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        // Nobody is there to tell when that fails.
        let _ = error.print();
        let code = if is_from_mount { mount_helper::WRONG_USAGE } else { usage_code() };
        return if error.use_stderr() { ExitCode::from(code) } else { ExitCode::SUCCESS };
    }
    let text = error.to_string();
    let what: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let what = what.join(" ");
    let message = format!("{}; see 'kmsfs --help'", what.trim_start_matches("error: "));
    let error = CliError::relayed(usage_code(), message);
    Output::new(true).error(&error);
    error.exit_code()
}

/// What wrong usage ends with: fsck(8)'s code for the commands that have its codes.
fn usage_code() -> u8 {
    let given = Arguments::command().ignore_errors(true).try_get_matches();
    match given.as_ref().ok().and_then(clap::ArgMatches::subcommand_name) {
        Some("fsck" | "scrub") => crate::check::report::exit::USAGE,
        _ => Code::Usage as u8,
    }
}

fn run(arguments: Arguments, output: &Output) -> CliResult<ExitCode> {
    let global = &arguments.global;
    // Before there is a secret to protect.
    process::harden().map_err(|e| {
        CliError::new(Code::Unexpected, format!("the process's memory cannot be protected: {e}"))
    })?;
    let ciphers = aead::choose().map_err(|e| CliError::relayed(usage_code(), e.to_string()))?;
    if !ciphers.encrypts_contents() {
        output.warn(UNENCRYPTED);
    }
    // A check reports itself what the log would repeat.
    let is_quiet = matches!(arguments.command, Command::Fsck(_)) && global.verbose == 0;
    if !matches!(arguments.command, Command::Mount(_) | Command::Serve(_)) && !is_quiet {
        log::to_stderr(global.verbose);
    }
    let done = match arguments.command {
        Command::Fsck(fsck) => return fsck::fsck(global, &fsck, output),
        Command::Rewrap(asked) => return rewrap::rewrap(global, &asked, output),
        Command::File(FileCommand::SetKey(asked)) if asked.new_data_key => {
            return reencrypt::set_key(global, &asked, output);
        }
        Command::File(FileCommand::SetKey(asked)) => return rewrap::set_key(global, &asked, output),
        Command::Scrub(scrub) => return scrub::scrub(global, &scrub, output),
        Command::Reindex { path } => return volumes::reindex(global, &path, output),
        Command::Volume(VolumeCommand::Export(asked)) => return bundle::export(global, &asked, output),
        Command::Volume(VolumeCommand::Import(asked)) => return bundle::import(global, &asked, output),
        Command::Volume(VolumeCommand::Known(command)) => volumes::run(global, &command, output),
        Command::Init(init) => volume::init(global, &init, output),
        Command::Mount(mount) => mount::mount(global, &mount),
        Command::Umount(umount) => volume::umount(&umount),
        Command::Key(command) => match command {
            KeyCommand::Create(create) => key::create(global, &create, output),
            KeyCommand::List => key_show::list(global, output),
            KeyCommand::Describe { key } => key_show::describe(global, &key, output),
            KeyCommand::UpdateDescription { key, description } => {
                key::update_description(global, &key, &description, output)
            }
            KeyCommand::Enable { key } => key::enable(global, &key, output),
            KeyCommand::Disable { key, confirmation } => key::disable(global, &key, &confirmation, output),
            KeyCommand::ScheduleDeletion { key, pending_window_in_days, confirmation } => {
                key::schedule_deletion(global, &key, pending_window_in_days, &confirmation, output)
            }
            KeyCommand::CancelDeletion { key } => key::cancel_deletion(global, &key, output),
            KeyCommand::Impact { key, paths } => impact::impact(global, &key, paths, output),
            KeyCommand::RetireVersion(asked) => retire::retire(global, &asked, output),
            KeyCommand::Rotate { key } => key::rotate(global, &key, output),
            KeyCommand::Rotation(command) => key_rotation::run(global, &command, output),
            KeyCommand::Import(command) => key_import::run(global, &command, output),
            KeyCommand::DeleteMaterial { key, confirmation } => {
                key_import::delete_material(global, &key, &confirmation, output)
            }
            KeyCommand::Receipt { key, output: file } => receipt::show(global, &key, file.as_deref(), output),
            KeyCommand::Receipts => receipt::list(global, output),
            KeyCommand::VerifyReceipt { file, public_key } => {
                receipt::verify(&file, public_key.as_deref(), output)
            }
            KeyCommand::PublicKey { key, format, output: file } => {
                key_import::public_key(global, &key, format, file.as_deref(), output)
            }
            KeyCommand::Assign { key, directory } => file::assign(&key, &directory, output),
        },
        Command::Alias(command) => alias::run(global, &command, output),
        Command::Policy(command) => policy::run(global, &command, output),
        Command::Grant(command) => grant::run(global, &command, output),
        Command::Tag(command) => tag::run(global, &command, output),
        Command::AccessKey(command) => access_key::run(global, &command, output),
        Command::CustomKeyStore(command) => custom_key_store::run(global, &command, output),
        Command::Serve(arguments) => serve::serve(global, &arguments, output),
        Command::Audit(command) => return audit::run(global, &command, output),
        Command::Store(command) => store::run(global, &command, output),
        Command::File(FileCommand::List { path, key, stale }) => {
            rewrap::list(global, &path, key.as_deref(), stale, output)
        }
        Command::File(FileCommand::Info { paths }) => file::info(global, &paths, output),
        Command::Lock => lock::lock(global, output),
        Command::Unlock => lock::unlock(global, output),
        Command::Status => status::status(global, output),
        Command::Bench(bench) => bench::bench(&bench, output),
    };
    done.map(|()| ExitCode::SUCCESS)
}
