//! What can be typed behind `kmsfs policy`, `kmsfs grant` and `kmsfs tag`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// A name and what it is to be: `NAME=VALUE`.
pub(super) type Pair = (String, String);

/// What to do with key policies.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the policy of a key
    Get {
        /// Id, ARN or alias/NAME
        key: String,
    },
    /// Replace the policy of a key
    ///
    /// Refused if you could not replace it again afterwards.
    Put {
        /// Id, ARN or alias/NAME
        key: String,
        /// The policy; - for standard input
        file: PathBuf,
        /// Put it even if it locks you out
        #[arg(long)]
        bypass_lockout_check: bool,
    },
    /// Read a policy and say what is wrong or strange about it
    ///
    /// Needs no key store.
    Check {
        /// The policy; - for standard input
        file: PathBuf,
    },
    /// Say whether a request would be allowed, and what each statement makes of it
    ///
    /// For whoever may read the key's policy. Grants count too.
    Simulate(Simulate),
}

/// Arguments of `policy simulate`.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Id, ARN or alias/NAME
    pub(super) key: String,
    /// Who would ask: a user's name or number, root, or an ARN
    #[arg(long, value_name = "WHO")]
    pub(super) principal: String,
    /// What for, such as Decrypt
    #[arg(long)]
    pub(super) action: String,
    /// A pair of the request's encryption context; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) context: Vec<Pair>,
    /// A condition key that the request has, such as aws:SourceIp=10.0.0.1; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) condition: Vec<Pair>,
    /// Try this policy in place of the key's own
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
}

/// What to do with grants.
#[derive(Debug, Subcommand)]
pub(super) enum GrantCommand {
    /// Give somebody permission to use a key, and print the grant's id
    Create(CreateGrant),
    /// List the grants of a key, or those that somebody may retire
    List {
        /// Id, ARN or alias/NAME
        #[arg(required_unless_present = "retiring")]
        key: Option<String>,
        /// Those to this grantee alone
        #[arg(long, value_name = "WHO", requires = "key")]
        grantee: Option<String>,
        /// Those that this principal may retire, of all keys
        #[arg(long, value_name = "ARN", conflicts_with = "key")]
        retiring: Option<String>,
    },
    /// End a grant that was given to you, or that you were named to end
    Retire {
        /// Id, ARN or alias/NAME
        #[arg(required_unless_present = "token")]
        key: Option<String>,
        /// The grant's id
        #[arg(required_unless_present = "token")]
        grant: Option<String>,
        /// The grant's token, in place of key and id
        #[arg(long, conflicts_with_all = ["key", "grant"])]
        token: Option<String>,
    },
    /// Take a grant back
    Revoke {
        /// Id, ARN or alias/NAME
        key: String,
        /// The grant's id
        grant: String,
    },
}

/// Arguments of `grant create`.
#[derive(Debug, Args)]
pub(super) struct CreateGrant {
    /// Id, ARN or alias/NAME
    pub(super) key: String,
    /// To whom: a user's name, group/NAME, root, or an ARN
    #[arg(long, value_name = "WHO")]
    pub(super) grantee: String,
    /// What for: Decrypt,GenerateDataKey,...
    #[arg(long, value_name = "OPERATION,...", value_delimiter = ',', required = true)]
    pub(super) operations: Vec<String>,
    /// Who may end it
    #[arg(long, value_name = "WHO")]
    pub(super) retiring: Option<String>,
    /// A command that is repeated with its name makes no second grant
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Only for encryption contexts with this pair; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) context_subset: Vec<Pair>,
    /// Only for the encryption context of just these pairs; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) context_equals: Vec<Pair>,
}

/// What to do with tags.
#[derive(Debug, Subcommand)]
pub(super) enum TagCommand {
    /// Put tags on a key, over those of the same names
    Add {
        /// Id, ARN or alias/NAME
        key: String,
        /// Up to 50 for a key
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
        tags: Vec<Pair>,
    },
    /// Take tags off a key
    Remove {
        /// Id, ARN or alias/NAME
        key: String,
        /// Names that the key does not have are passed over
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List the tags of a key
    List {
        /// Id, ARN or alias/NAME
        key: String,
    },
}

fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".to_owned()),
    }
}
