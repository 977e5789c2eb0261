//! What a mount can be told by options of the command or, in the words of mount(8) and fstab(5), by
//! `-o` options. A path in a list of options cannot have a comma in it.

use std::path::PathBuf;
use std::time::Duration;

use super::args::{Global, Mount};
use super::exit::{CliError, CliResult, Code};
use super::lock::LockWhen;
use crate::mount::{MountOptions, OptionError};

/// Everything that a mount was told.
pub(super) struct Settings {
    /// The options of every command, with those among the `-o` options, which win.
    pub(super) global: Global,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) lock_when: LockWhen,
    /// How long data keys are used without hearing of the key service.
    pub(super) key_ttl: Option<Duration>,
    pub(super) options: MountOptions,
}

impl Settings {
    /// Reads the options of a mount. Unknown ones are passed over if mount(8) said so.
    pub(super) fn new(global: &Global, mount: &Mount) -> CliResult<Self> {
        let options = MountOptions::default();
        let (idle_timeout, lock_when) = (mount.idle_timeout, mount.lock_when);
        let mut settings = Self { global: global.clone(), idle_timeout, lock_when, key_ttl: None, options };
        let sloppy = mount.from_mount.is_some_and(|from| from.sloppy);
        let mut rest = Vec::new();
        for option in mount.options.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
            if settings.take(option)? {
                continue;
            }
            match MountOptions::parse(&[option.to_owned()]) {
                Err(OptionError::Unknown(_)) if sloppy => tracing::debug!("passed over: {option}"),
                _ => rest.push(option.to_owned()),
            }
        }
        settings.options = MountOptions::parse(&rest).map_err(|e| match e {
            OptionError::Unknown(_) => usage(format!("{e}; 'kmsfs mount --help' lists the options")),
            OptionError::Remount => usage(e.to_string()),
        })?;
        Ok(settings)
    }

    /// Whether an option is one of those that only the program knows, not the mount.
    fn take(&mut self, option: &str) -> CliResult<bool> {
        if option == "lock_on_suspend" {
            self.lock_when.lock_on_suspend = true;
            return Ok(true);
        }
        let Some((name, value)) = option.split_once('=') else { return Ok(false) };
        let path = || Some(PathBuf::from(value));
        match name {
            "keystore" => self.global.keystore = path(),
            "key_file" | "passphrase_file" if self.given_secret() => {
                return Err(usage(format!("{option}: the secret is given twice; give it once")));
            }
            "key_file" => self.global.key_file = path(),
            "passphrase_file" => self.global.passphrase_file = path(),
            "passphrase_command" => {
                return Err(usage(
                    "a command is no mount option; give --passphrase-command, or key_file=FILE as option",
                ));
            }
            "idle_timeout" | "lock_after" | "key_ttl" => {
                let duration = idle_timeout(value);
                let duration = Some(duration.map_err(|e| usage(format!("{option}: {e}; give 10m, say")))?);
                match name {
                    "lock_after" => self.lock_when.lock_after = duration,
                    "key_ttl" => self.key_ttl = duration,
                    _ => self.idle_timeout = duration,
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn given_secret(&self) -> bool {
        let global = &self.global;
        global.key_file.is_some()
            || global.passphrase_file.is_some()
            || global.recovery_key_file.is_some()
            || global.passphrase_command.is_some()
    }
}

/// A duration as a person writes it, of a second or more.
pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "not a duration, which is a number and a unit such as s, m or h".to_owned())?;
    if duration < Duration::from_secs(1) { Err("less than a second".to_owned()) } else { Ok(duration) }
}

fn usage(message: impl Into<String>) -> CliError {
    CliError::new(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(idle_timeout("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(idle_timeout("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "90", "0s", "999ms", "-1s", "soon"] {
            assert!(idle_timeout(bad).is_err(), "{bad}");
        }
    }
}
