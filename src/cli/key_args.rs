//! What can be typed behind `kmsfs key`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create a master key and print its id
    Create(CreateKey),
    /// List all master keys
    List,
    /// Show everything about a master key
    Describe {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Say anew what a master key is for
    UpdateDescription {
        /// Id, ARN or alias/NAME
        key: String,
        /// Up to 8192 characters
        description: String,
    },
    /// Make a disabled master key usable again; its files are readable at once
    Enable {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Make a master key unusable; its files are unreadable at once, open ones included
    ///
    /// Data that programs have written is brought to disk first. Files can still be listed, renamed
    /// and removed.
    ///
    /// Shows first who uses the key, and asks.
    Disable {
        /// Id, ARN or alias/NAME
        key: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Delete a master key after a number of days; its files are unreadable at once, and then for ever
    ///
    /// Until the day comes, 'kmsfs key cancel-deletion' brings it back. Its aliases and grants go with it.
    ///
    /// Shows first who uses the key, and asks.
    ScheduleDeletion {
        /// Id, ARN or alias/NAME
        key: String,
        /// 7 to 30
        #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(7..=30))]
        pending_window_in_days: u32,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Keep a master key that is to be deleted; it is disabled then
    CancelDeletion {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Give a master key new material for files that are created from now on
    ///
    /// Existing files stay readable: older versions of the material are kept.
    Rotate {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Rotate a master key by the clock
    #[command(subcommand)]
    Rotation(RotationCommand),
    /// Import the material of a master key of origin EXTERNAL
    #[command(subcommand)]
    Import(ImportCommand),
    /// Delete a key's imported material; its files are unreadable at once, until it is imported again
    ///
    /// Shows first who uses the key, and asks.
    DeleteMaterial {
        /// Id, ARN or alias/NAME
        key: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Show what depends on a master key: files, bytes, open handles and users, in all known volumes
    ///
    /// Answers at once, also for volumes that are away: from what they had when they were last unmounted.
    Impact {
        /// Id, ARN or alias/NAME
        key: String,
        /// The names of the files too; looks at every file of the volumes
        #[arg(long)]
        paths: bool,
    },
    /// Destroy an old version of a master key's material, for ever
    ///
    /// Refused while a known volume has files under it, or may have: 'kmsfs rewrap' brings files to the
    /// newest version. What copies, snapshots and backups of volumes still hold under the version, what
    /// 'kmsfs fsck' has put aside, and what Encrypt made with it is not counted and becomes unreadable.
    RetireVersion(RetireVersion),
    /// Show the signed receipt of a key that was deleted
    ///
    /// It says which key it was, with its versions and times, who had it deleted, how many files are
    /// lost, and when the last of its bytes in the key store's files were overwritten. It does not speak
    /// of backups that were made. For the account's root.
    ///
    /// Exit codes: 19 no such key was deleted, 20 it is not deleted yet.
    #[command(verbatim_doc_comment)]
    Receipt {
        /// Id or ARN, or an alias that it had
        key: String,
        /// Write it to FILE, as 'kmsfs key verify-receipt' reads it
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the keys that were deleted
    Receipts,
    /// Find out whether a receipt is one that a key store signed; needs no key store
    ///
    /// Exit codes: 40 it is not, or is one of another key store than that of --public-key.
    #[command(verbatim_doc_comment)]
    VerifyReceipt {
        /// The receipt
        file: PathBuf,
        /// What 'kmsfs store public-key' wrote; without it, the key that the receipt names is believed
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
    /// Print the public half of an asymmetric key
    PublicKey {
        /// Id, ARN or alias/NAME
        key: String,
        /// How to write it
        #[arg(long, value_enum, default_value = "pem")]
        format: KeyFormat,
        /// Write it to FILE
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Choose the master key for new files below a directory of a mount
    ///
    /// Existing files keep their key. Subdirectories follow, unless they were assigned a key of their
    /// own. On the mount point itself it chooses the volume's default.
    Assign {
        /// Id, ARN or alias/NAME
        key: String,
        /// A directory in a mount
        directory: PathBuf,
    },
}

/// What stands for an answer where a key is taken away.
#[derive(Debug, Clone, Args)]
pub(super) struct Confirmation {
    /// Do it without asking; needed where there is no terminal to ask at
    #[arg(long)]
    pub(super) yes: bool,
    /// Do it only if exactly so many files depend on the key, and that is certain
    #[arg(long, value_name = "N", requires = "yes")]
    pub(super) expect_files: Option<u64>,
    /// Do it even if changes to files cannot be written before; they are named, and lost
    #[arg(long)]
    pub(super) force: bool,
}

/// Arguments of `key retire-version`.
#[derive(Debug, Args)]
pub(super) struct RetireVersion {
    /// Id, ARN or alias/NAME
    pub(super) key: String,
    /// The version
    #[arg(value_name = "VERSION")]
    pub(super) key_version: u32,
    /// Do it without asking; needed where there is no terminal to ask at
    #[arg(long)]
    pub(super) yes: bool,
    /// Do not ask for a volume that is not mounted: whatever it has under the version is lost
    #[arg(long, value_name = "VOLUME-ID")]
    pub(super) leave_out: Vec<String>,
}

/// Arguments of `key create`.
#[derive(Debug, Args)]
pub(super) struct CreateKey {
    /// A name for it: alias/NAME, or just NAME
    #[arg(long)]
    pub(super) alias: Option<String>,
    /// What it is for
    #[arg(long, default_value = "")]
    pub(super) description: String,
    /// The cryptography, such as SYMMETRIC_DEFAULT, RSA_3072, ECC_NIST_P256 or HMAC_256
    ///
    /// Only symmetric keys can be assigned to directories.
    #[arg(long, default_value = "SYMMETRIC_DEFAULT")]
    pub(super) spec: String,
    /// ENCRYPT_DECRYPT, SIGN_VERIFY or GENERATE_VERIFY_MAC; only RSA keys leave a choice
    #[arg(long)]
    pub(super) usage: Option<String>,
    /// AWS_KMS to make the key's material here, EXTERNAL to import it later, EXTERNAL_KEY_STORE to
    /// have a key manager elsewhere keep the other half
    #[arg(long, default_value = "AWS_KMS")]
    pub(super) origin: String,
    /// With origin EXTERNAL_KEY_STORE: id or name of the external key store
    #[arg(long, value_name = "STORE", requires = "xks_key_id")]
    pub(super) custom_key_store: Option<String>,
    /// With origin EXTERNAL_KEY_STORE: the key manager's id of the key that this one stands for
    #[arg(long, value_name = "ID", requires = "custom_key_store")]
    pub(super) xks_key_id: Option<String>,
    /// Take the key policy from FILE, JSON
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Take it even if it locks you out
    #[arg(long, requires = "policy")]
    pub(super) bypass_lockout_check: bool,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(super) tags: Vec<(String, String)>,
}

/// What to do with a key's rotation.
#[derive(Debug, Subcommand)]
pub(super) enum RotationCommand {
    /// Rotate a key by the clock, the first time a whole period from now
    Enable {
        /// Id, ARN or alias/NAME
        key: String,
        /// 90 to 2560 days; 365 unless the key has a period already
        #[arg(long, value_name = "DAYS")]
        period: Option<u32>,
    },
    /// Rotate a key no more by the clock
    Disable {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Show whether, how often and when next a key rotates
    Status {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// List a key's versions
    List {
        /// Id, ARN or alias/NAME
        key: String,
    },
}

/// How to import key material.
#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Get what material is to be wrapped with elsewhere; valid for 24 hours
    Parameters {
        /// Id, ARN or alias/NAME
        key: String,
        /// RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_1 or RSA_AES_KEY_WRAP_SHA_256
        #[arg(long, default_value = "RSA_AES_KEY_WRAP_SHA_256")]
        algorithm: String,
        /// RSA_2048, RSA_3072 or RSA_4096
        #[arg(long, default_value = "RSA_4096")]
        wrapping_spec: String,
        /// Write the public key to FILE, in DER
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Write the import token to FILE
        #[arg(long, value_name = "FILE")]
        token: PathBuf,
    },
    /// Import material that was wrapped elsewhere
    Material {
        /// Id, ARN or alias/NAME
        key: String,
        /// The import token
        #[arg(long, value_name = "FILE")]
        token: PathBuf,
        /// The wrapped material
        #[arg(long, value_name = "FILE")]
        encrypted: PathBuf,
        #[command(flatten)]
        life: Life,
    },
    /// Import the material that a file has, unwrapped
    ///
    /// 32 bytes for a symmetric key, as many as the hash has for HMAC, PKCS #8 in DER for the others.
    /// It is wrapped on its way to the key service. Remove the file afterwards: whoever has it can do
    /// whatever the key can.
    File {
        /// Id, ARN or alias/NAME
        key: String,
        /// The material
        file: PathBuf,
        #[command(flatten)]
        life: Life,
    },
}

/// How long imported material lasts.
#[derive(Debug, Clone, Args)]
pub(super) struct Life {
    /// Delete the material at a time, such as 2030-01-31T12:00Z, or after a number of days, such as
    /// 30d; at most 365 days from now
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(super) expires: Option<Timestamp>,
}

/// How to write a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KeyFormat {
    /// Text.
    Pem,
    /// Bytes.
    Der,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn expiry(text: &str) -> Result<Timestamp, String> {
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok()) {
        let life = SignedDuration::from_hours(24 * i64::from(days));
        return Timestamp::now().checked_add(life).map_err(|error| error.to_string());
    }
    text.parse().map_err(|_| "a time is 2030-01-31T12:00Z, a number of days 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_days_are_understood() {
        assert_eq!(expiry("2030-01-31T12:00Z").unwrap().to_string(), "2030-01-31T12:00:00Z");
        let month = expiry("30d").unwrap().duration_since(Timestamp::now());
        assert!((29..=30).contains(&month.as_hours().div_euclid(24)), "{month:?}");
        assert!(expiry("soon").is_err());
        assert_eq!(tag("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(tag("a").is_err());
    }
}
