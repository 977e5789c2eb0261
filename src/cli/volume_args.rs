//! What can be typed behind `kmsfs volume`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with volumes and what the key store knows of them.
#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    #[command(flatten)]
    Known(KnownCommand),
    /// Write a volume's keys to a bundle, to take the volume to another key store
    ///
    /// The bundle has the data key of every file, sealed by a passphrase or a key file of its own.
    /// Nothing in the volume is written; it is not to be mounted meanwhile.
    Export(Export),
    /// Bring the copy of a volume under this key store, with the bundle of its keys
    ///
    /// Wraps the volume's key and every file's by this key store. No data is read, and the key store
    /// that the volume comes from is not needed. The same command goes on where it was interrupted.
    Import(Import),
}

/// What to do with the volumes that the key store knows.
#[derive(Debug, Subcommand)]
pub(super) enum KnownCommand {
    /// List the volumes, where they are or were last, and how many files they have
    List,
    /// Forget a volume that is gone for good, or counts no more
    ///
    /// It is remembered again when it is mounted.
    Forget {
        /// Its id
        volume: String,
    },
}

/// What to export, and where to.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The volume, not mounted
    pub(super) volume: PathBuf,
    /// File to make
    pub(super) bundle: PathBuf,
    #[command(flatten)]
    pub(super) secret: BundleSecret,
}

/// What to import, and from where.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The copy of the volume, not mounted
    pub(super) volume: PathBuf,
    /// What 'kmsfs volume export' wrote
    pub(super) bundle: PathBuf,
    /// Master key of this key store for all its files: id, ARN or alias/NAME
    #[arg(long)]
    pub(super) key: String,
    #[command(flatten)]
    pub(super) secret: BundleSecret,
}

/// What seals a bundle; asked for on the terminal if neither is given.
#[derive(Debug, Args)]
pub(super) struct BundleSecret {
    /// Read the bundle's passphrase from the first line of a file
    #[arg(long, value_name = "FILE", conflicts_with = "bundle_key_file")]
    pub(super) bundle_passphrase_file: Option<PathBuf>,
    /// Use a file of at least 32 random bytes instead of a passphrase
    #[arg(long, value_name = "FILE")]
    pub(super) bundle_key_file: Option<PathBuf>,
}
