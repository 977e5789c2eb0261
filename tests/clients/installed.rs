//! The clients, in a Python environment of their own under `target/`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Clients(PathBuf);

impl Clients {
    /// Installs them, unless these very versions are there.
    pub(crate) fn install() -> Result<Self, String> {
        static INSTALLED: OnceLock<Result<Clients, String>> = OnceLock::new();
        INSTALLED.get_or_init(install).clone()
    }

    /// A script of `tests/clients`.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = self.program("python");
        // Nothing is written beside the sources.
        command.arg("-B").arg(Path::new(ROOT).join("tests/clients").join(name));
        command
    }

    /// A program that was installed.
    pub(crate) fn program(&self, name: &str) -> Command {
        Command::new(self.0.join("bin").join(name))
    }
}

fn install() -> Result<Clients, String> {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_kmsfs"));
    let target = target.ancestors().nth(2).ok_or("no directory for them")?.to_owned();
    let place = target.join("clients");
    let requirements = std::fs::read(Path::new(ROOT).join(REQUIREMENTS)).map_err(|e| e.to_string())?;
    // Several test programs may want them at once.
    let lock = File::create(target.join("clients.lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let done = place.join("installed");
    if std::fs::read(&done).is_ok_and(|installed| installed == requirements) {
        return Ok(Clients(place));
    }
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let clients = Clients(place);
    let mut pip = clients.program("pip");
    pip.args(["--disable-pip-version-check", "--no-input", "install", "--quiet", "--timeout", "20"]);
    succeed(pip.arg("-r").arg(Path::new(ROOT).join(REQUIREMENTS)))?;
    std::fs::write(done, requirements).map_err(|e| e.to_string())?;
    Ok(clients)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    Err(format!("the clients could not be installed: {last}"))
}
