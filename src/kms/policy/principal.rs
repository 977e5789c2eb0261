//! Principals: who calls, and whom a statement names.

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    arn: String,
    account: String,
    name: Option<String>,
    id: String,
    groups: Vec<String>,
}

impl Identity {
    /// The root of `account`: the store's owner.
    pub fn root(account: &str) -> Self {
        Self {
            arn: format!("arn:aws:iam::{account}:root"),
            account: account.to_owned(),
            name: None,
            id: account.to_owned(),
            groups: Vec::new(),
        }
    }

    /// A user of `account`, in the groups of these names.
    pub fn user(account: &str, name: &str, id: &str, groups: &[String]) -> Self {
        Self {
            arn: format!("arn:aws:iam::{account}:user/{name}"),
            account: account.to_owned(),
            name: Some(name.to_owned()),
            id: id.to_owned(),
            groups: groups.iter().map(|group| format!("arn:aws:iam::{account}:group/{group}")).collect(),
        }
    }

    /// The caller's full name.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The caller's account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The user's name; root has none.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The user's number; root's is the account.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this is the account's root.
    pub fn is_root(&self) -> bool {
        self.name.is_none()
    }

    /// Every name that a policy or a grant can mean this caller by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.arn.as_str()).chain(self.groups.iter().map(String::as_str))
    }

    /// Whether `arn` names this caller or a group that it is in.
    pub fn is_named(&self, arn: &str) -> bool {
        self.names().any(|name| name == arn)
    }
}

/// The principals of one statement.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Principals {
    everyone: bool,
    arns: Vec<String>,
}

impl Principals {
    pub(super) fn everyone() -> Self {
        Self { everyone: true, arns: Vec::new() }
    }

    /// Adds one of the texts under `"AWS"`.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        match text {
            "*" => self.everyone = true,
            account if is_account(account) => self.arns.push(format!("arn:aws:iam::{account}:root")),
            arn if is_principal_arn(arn) => self.arns.push(arn.to_owned()),
            _ => {
                return Err(format!(
                    "{text:?} is not a principal: an account, or arn:aws:iam::<account>:user/<name>, \
                     group/<name> or root; names have no wildcards"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn include(&self, identity: &Identity) -> bool {
        self.everyone || self.arns.iter().any(|arn| identity.is_named(arn))
    }
}

/// Whether `text` is an account's number.
pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether `text` is the full name of a user, group, role or root.
pub fn is_principal_arn(text: &str) -> bool {
    let mut parts = text.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (arn, partition, service, region) = (next(), next(), next(), next());
    let (account, resource) = (next(), next());
    let kinds: &[&str] = match service {
        "iam" => &["user", "group", "role"],
        "sts" => &["assumed-role", "federated-user"],
        _ => return false,
    };
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_+=,.@/-".contains(c);
    let is_named = resource.split_once('/').is_some_and(|(kind, name)| {
        kinds.contains(&kind) && !name.is_empty() && name.chars().all(is_of_name)
    });
    arn == "arn"
        && partition
            .strip_prefix("aws")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        && region.is_empty()
        && is_account(account)
        && (is_named || service == "iam" && resource == "root")
}

/// Whether `text` is the form of a service's name, such as `backup.amazonaws.com`.
pub(super) fn is_service(text: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    text.split('.').count() >= 2 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_have_one_form() {
        for text in [
            "arn:aws:iam::000000000000:root",
            "arn:aws:iam::123456789012:user/alice",
            "arn:aws:iam::123456789012:user/div/alice@corp.example",
            "arn:aws:iam::123456789012:group/staff",
            "arn:aws-cn:iam::123456789012:role/x",
            "arn:aws:sts::123456789012:assumed-role/x/y",
        ] {
            assert!(is_principal_arn(text), "{text}");
        }
        for text in [
            "",
            "*",
            "alice",
            "123456789012",
            "arn:aws:iam::12345678901:root",
            "arn:aws:iam::123456789012:",
            "arn:aws:iam::123456789012:user/",
            "arn:aws:iam::123456789012:user/*",
            "arn:aws:iam::123456789012:users/a",
            "arn:aws:iam:local:123456789012:root",
            "arn:aws:s3::123456789012:root",
            "arn:aws:sts::123456789012:root",
            "arn:aws:iam::123456789012:root:x",
            "arn:gcp:iam::123456789012:root",
        ] {
            assert!(!is_principal_arn(text), "{text}");
        }
    }

    #[test]
    fn an_account_means_its_root_and_a_group_its_members() {
        let alice = Identity::user("123456789012", "alice", "1000", &["staff".to_owned()]);
        let root = Identity::root("123456789012");
        let named = |text: &str| {
            let mut principals = Principals::default();
            principals.add(text).unwrap();
            (principals.include(&alice), principals.include(&root))
        };
        assert_eq!(named("123456789012"), (false, true));
        assert_eq!(named("arn:aws:iam::123456789012:root"), (false, true));
        assert_eq!(named("arn:aws:iam::123456789012:user/alice"), (true, false));
        assert_eq!(named("arn:aws:iam::123456789012:group/staff"), (true, false));
        assert_eq!(named("arn:aws:iam::999999999999:user/alice"), (false, false));
        assert_eq!(named("*"), (true, true));
    }
}
