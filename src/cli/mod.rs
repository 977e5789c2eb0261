//! The command line.

mod args;
mod bench;
mod exit;
mod file;
mod key;
mod key_store;
mod log;
mod mount;
mod output;
mod secret;
mod status;
mod volume;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, FileCommand, KeyCommand};
use exit::CliResult;
use output::Output;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.global.json);
    match run(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> CliResult<()> {
    let global = &arguments.global;
    if !matches!(arguments.command, Command::Mount(_)) {
        log::to_stderr(global.verbose);
    }
    match arguments.command {
        Command::Init(init) => volume::init(global, &init, output),
        Command::Mount(mount) => mount::mount(global, &mount),
        Command::Umount(umount) => volume::umount(&umount),
        Command::Key(command) => match command {
            KeyCommand::Create(create) => key::create(global, &create, output),
            KeyCommand::List => key::list(global, output),
            KeyCommand::Describe { key } => key::describe(global, &key, output),
            KeyCommand::Enable { key } => key::enable(global, &key, output),
            KeyCommand::Disable { key } => key::disable(global, &key, output),
            KeyCommand::Rotate { key } => key::rotate(global, &key, output),
            KeyCommand::Assign { key, directory } => file::assign(&key, &directory, output),
        },
        Command::File(FileCommand::Info { paths }) => file::info(global, &paths, output),
        Command::Status => status::status(global, output),
        Command::Bench(bench) => bench::bench(&bench, output),
    }
}
