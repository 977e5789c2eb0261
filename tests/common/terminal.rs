//! A person at a terminal: a program on a pseudo-terminal, what it shows there, and what is typed.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Ran, sys, wait_until};

/// What a terminal makes of Ctrl-D on an empty line: the end of the input.
const END_OF_INPUT: &[u8] = b"\x04";

pub(crate) struct Terminal {
    keyboard: File,
    /// What was shown, and what was typed, for a terminal repeats it.
    screen: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    /// Starts a program with a terminal for its input and for standard error; standard output is
    /// kept apart.
    pub(crate) fn start(mut command: Command) -> Self {
        let (near, far) = sys::pseudo_terminal().unwrap();
        command.stdin(far.try_clone().unwrap()).stderr(far).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        // With the last descriptor of the far end gone, reading from the near one ends.
        drop(command);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut source, shown) = (near.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = source.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]).replace('\r', ""));
            }
        });
        Self { keyboard: near, screen, child }
    }

    /// Waits until `text` is on the screen.
    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        wait_until(text, || self.screen.lock().unwrap().contains(text));
    }

    pub(crate) fn types(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").unwrap();
    }

    pub(crate) fn ends_input(&mut self) {
        self.keyboard.write_all(END_OF_INPUT).unwrap();
    }

    /// What came of it; standard error is the screen.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Ran {
        let mut ended = None;
        wait_until("the program ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        // The last of it may still be on its way to the screen.
        wait_until("the screen stands still", || Arc::strong_count(&self.screen) == 1);
        let stderr = self.screen.lock().unwrap().clone();
        Ran { code: ended.unwrap().code().unwrap_or(-1), stdout, stderr }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where a test failed, the program may still wait for an answer.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
