//! Other processes: the test program itself, run again to play one role. A test file that uses them
//! has a test `child` that calls [`play`].

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};

const ROLE: &str = "KMSFS_TEST_ROLE";
const ARGUMENT: &str = "KMSFS_TEST_ARGUMENT";
/// What lines that a child says to its parent begin with.
const MARK: &str = "child: ";

/// What a child does, by name.
pub(crate) type Role = (&'static str, fn(&Path));

/// In the child: plays the role that it was started for, given its argument. Does nothing in a
/// normal run of the tests.
pub(crate) fn play(roles: &[Role]) {
    let Ok(wanted) = std::env::var(ROLE) else { return };
    let argument = std::env::var_os(ARGUMENT).unwrap();
    let (_, role) = roles.iter().find(|(name, _)| *name == wanted).unwrap();
    role(Path::new(&argument));
}

/// Has a command that runs the test program play a role.
pub(crate) fn as_role(command: &mut Command, role: &str, argument: &Path) {
    let only_the_child = ["--exact", "child", "--nocapture", "--test-threads=1"];
    command.args(only_the_child).env(ROLE, role).env(ARGUMENT, argument);
}

/// In the child: tells the parent something.
pub(crate) fn say(what: &str) {
    // Past the test harness, which would capture `eprintln!`.
    let mut parent = io::stderr();
    writeln!(parent, "{MARK}{what}").unwrap();
}

/// In the child: waits for what the parent says next. Empty when it let go of the child.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// A running child. It is killed when it is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    said: BufReader<ChildStderr>,
}

impl Child {
    pub(crate) fn start(role: &str, argument: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        as_role(&mut command, role, argument);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        Self { process, said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for what the child says next; empty at its end.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return String::new();
            }
            if let Some(said) = line.trim_end().strip_prefix(MARK) {
                return said.to_owned();
            }
        }
    }

    pub(crate) fn tell(&mut self, what: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{what}").unwrap();
    }

    /// Tells the child something and waits for its answer.
    pub(crate) fn ask(&mut self, what: &str) -> String {
        self.tell(what);
        self.hear()
    }

    /// Lets go of the child and waits for its end.
    pub(crate) fn end(mut self) -> ExitStatus {
        drop(self.process.stdin.take());
        self.process.wait().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
