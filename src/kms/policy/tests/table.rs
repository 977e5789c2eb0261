//! The documented rules of evaluation, one row each.

use super::*;
use Verdict::{Allowed as ALLOW, ExplicitlyDenied as DENY, ImplicitlyDenied as NO};

/// A policy of these statements; each is written without its braces.
fn policy(statements: &[&str]) -> String {
    let statements: Vec<String> = statements.iter().map(|statement| format!("{{{statement}}}")).collect();
    format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(","))
}

const ALL: &str = r#""Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*""#;

#[test]
fn effects() {
    let deny = |action: &str| {
        format!(r#""Effect": "Deny", "Principal": "*", "Action": "{action}", "Resource": "*""#)
    };
    for (why, policy, action, verdict) in [
        ("what is allowed passes", policy(&[ALL]), "Decrypt", ALLOW),
        ("a deny wins, before", policy(&[&deny("kms:Decrypt"), ALL]), "Decrypt", DENY),
        ("a deny wins, behind", policy(&[ALL, &deny("kms:Decrypt")]), "Decrypt", DENY),
        ("a deny of something else does not", policy(&[ALL, &deny("kms:Encrypt")]), "Decrypt", ALLOW),
        ("nothing said is no", policy(&[&deny("kms:Encrypt")]), "Decrypt", NO),
        ("two allows are one", policy(&[ALL, ALL]), "Decrypt", ALLOW),
    ] {
        assert_eq!(decide(&policy, &alice(), action, &[]), verdict, "{why}");
    }
}

#[test]
fn principals() {
    let user = |name: &str| format!(r#"{{"AWS": "arn:aws:iam::{ACCOUNT}:{name}"}}"#);
    let several =
        format!(r#"{{"AWS": ["arn:aws:iam::{ACCOUNT}:user/carol", "arn:aws:iam::{ACCOUNT}:user/bob"]}}"#);
    let account = format!(r#"{{"AWS": "{ACCOUNT}"}}"#);
    let service = r#"{"Service": "backup.amazonaws.com"}"#.to_owned();
    let both = format!(r#"{{"Service": "backup.amazonaws.com", "AWS": "arn:aws:iam::{ACCOUNT}:user/bob"}}"#);
    for (member, principal, of_alice, of_bob, of_root) in [
        ("Principal", r#""*""#.to_owned(), ALLOW, ALLOW, ALLOW),
        ("Principal", r#"{"AWS": "*"}"#.to_owned(), ALLOW, ALLOW, ALLOW),
        ("Principal", user("user/alice"), ALLOW, NO, NO),
        ("Principal", user("user/Alice"), NO, NO, NO),
        ("Principal", user("group/staff"), ALLOW, NO, NO),
        ("Principal", user("group/guests"), NO, ALLOW, NO),
        ("Principal", user("role/alice"), NO, NO, NO),
        ("Principal", user("root"), NO, NO, ALLOW),
        ("Principal", account, NO, NO, ALLOW),
        ("Principal", r#"{"AWS": "999999999999"}"#.to_owned(), NO, NO, NO),
        ("Principal", several.clone(), NO, ALLOW, NO),
        ("Principal", service, NO, NO, NO),
        ("Principal", both, NO, ALLOW, NO),
        ("NotPrincipal", user("user/alice"), NO, ALLOW, ALLOW),
        ("NotPrincipal", user("group/staff"), NO, ALLOW, ALLOW),
        ("NotPrincipal", several, ALLOW, NO, ALLOW),
        ("NotPrincipal", r#""*""#.to_owned(), NO, NO, NO),
    ] {
        let statement =
            format!(r#""Effect": "Allow", "{member}": {principal}, "Action": "kms:*", "Resource": "*""#);
        let policy = policy(&[&statement]);
        for (identity, verdict) in [(alice(), of_alice), (bob(), of_bob), (root(), of_root)] {
            assert_eq!(
                decide(&policy, &identity, "Decrypt", &[]),
                verdict,
                "{member} {principal} {}",
                identity.arn()
            );
        }
    }
}

#[test]
fn actions() {
    for (member, actions, action, verdict) in [
        ("Action", r#""kms:Decrypt""#, "Decrypt", ALLOW),
        ("Action", r#""kms:Decrypt""#, "Encrypt", NO),
        ("Action", r#""KMS:DECRYPT""#, "Decrypt", ALLOW),
        ("Action", r#"["kms:Encrypt", "kms:Decrypt"]"#, "Decrypt", ALLOW),
        ("Action", r#""kms:*""#, "Decrypt", ALLOW),
        ("Action", r#""*""#, "Decrypt", ALLOW),
        ("Action", r#""kms:GenerateDataKey*""#, "GenerateDataKeyPairWithoutPlaintext", ALLOW),
        ("Action", r#""kms:GenerateDataKey""#, "GenerateDataKeyPair", NO),
        ("Action", r#""kms:ReEncrypt*""#, "ReEncryptFrom", ALLOW),
        ("Action", r#""kms:ReEncryptFrom""#, "ReEncryptTo", NO),
        ("Action", r#""kms:?ecrypt""#, "Decrypt", ALLOW),
        ("Action", r#""kms:Describe*""#, "DescribeKey", ALLOW),
        ("NotAction", r#""kms:Decrypt""#, "Decrypt", NO),
        ("NotAction", r#""kms:Decrypt""#, "Encrypt", ALLOW),
        ("NotAction", r#"["kms:Encrypt", "kms:De*"]"#, "Decrypt", NO),
        ("NotAction", r#""kms:NoSuchAction""#, "Decrypt", ALLOW),
    ] {
        let statement =
            format!(r#""Effect": "Allow", "Principal": "*", "{member}": {actions}, "Resource": "*""#);
        assert_eq!(
            decide(&policy(&[&statement]), &alice(), action, &[]),
            verdict,
            "{member} {actions} {action}"
        );
    }
}

#[test]
fn resources() {
    let mine = format!(r#""Resource": "{KEY}""#);
    for (resource, verdict) in [
        (r#""Resource": "*""#, ALLOW),
        (mine.as_str(), ALLOW),
        (r#""Resource": "arn:aws:kms:local:111122223333:key/*""#, ALLOW),
        (r#""Resource": ["arn:aws:kms:*:*:alias/x", "arn:aws:kms:*:111122223333:key/04*"]"#, ALLOW),
        (r#""Resource": "arn:aws:kms:local:111122223333:key/05*""#, NO),
        (r#""NotResource": "arn:aws:kms:local:111122223333:key/05*""#, ALLOW),
        (r#""NotResource": "*""#, NO),
        // AWS takes a statement without a resource, and it has no effect.
        (r#""Sid": "none""#, NO),
    ] {
        let statement = format!(r#""Effect": "Allow", "Principal": "*", "Action": "kms:*", {resource}"#);
        assert_eq!(decide(&policy(&[&statement]), &alice(), "Decrypt", &[]), verdict, "{resource}");
    }
}

/// Facts of a request, and whether the condition is met in an Allow.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);

fn check(rows: &[Row<'_>]) {
    for (condition, facts, met) in rows {
        let statement = |effect: &str| {
            format!(
                r#""Effect": "{effect}", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": {{{condition}}}"#
            )
        };
        let verdict = decide(&policy(&[&statement("Allow")]), &alice(), "Decrypt", facts);
        assert_eq!(verdict, if *met { ALLOW } else { NO }, "{condition} {facts:?}");
        let several = facts.len() > 1 && !condition.contains("For") && !condition.contains("Null");
        if !several {
            let verdict = decide(&policy(&[ALL, &statement("Deny")]), &alice(), "Decrypt", facts);
            assert_eq!(verdict, if *met { DENY } else { ALLOW }, "Deny {condition} {facts:?}");
        }
    }
}

#[test]
fn text_conditions() {
    let app = |value| [("kms:EncryptionContext:App", value)];
    let (pay, paypal, upper) = (app("pay"), app("paypal"), app("PAY"));
    check(&[
        (r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#, &pay, true),
        (r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#, &upper, false),
        (r#""StringEquals": {"kms:EncryptionContext:App": "pa*"}"#, &pay, false),
        (r#""StringEquals": {"kms:EncryptionContext:App": ["x", "pay"]}"#, &pay, true),
        (r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#, &[], false),
        (r#""StringNotEquals": {"kms:EncryptionContext:App": "pay"}"#, &pay, false),
        (r#""StringNotEquals": {"kms:EncryptionContext:App": "pay"}"#, &paypal, true),
        (r#""StringNotEquals": {"kms:EncryptionContext:App": ["x", "pay"]}"#, &pay, false),
        // A negated operator passes a request without the key.
        (r#""StringNotEquals": {"kms:EncryptionContext:App": "pay"}"#, &[], true),
        (r#""StringEqualsIgnoreCase": {"kms:EncryptionContext:App": "Pay"}"#, &upper, true),
        (r#""StringEqualsIgnoreCase": {"kms:EncryptionContext:App": "Pay"}"#, &paypal, false),
        (r#""StringNotEqualsIgnoreCase": {"kms:EncryptionContext:App": "Pay"}"#, &upper, false),
        (r#""StringLike": {"kms:EncryptionContext:App": "pay*"}"#, &paypal, true),
        (r#""StringLike": {"kms:EncryptionContext:App": "pa?"}"#, &pay, true),
        (r#""StringLike": {"kms:EncryptionContext:App": "pa?"}"#, &paypal, false),
        (r#""StringLike": {"kms:EncryptionContext:App": "PAY*"}"#, &paypal, false),
        (r#""StringNotLike": {"kms:EncryptionContext:App": "pay*"}"#, &paypal, false),
        (r#""StringNotLike": {"kms:EncryptionContext:App": "pay*"}"#, &[], true),
        (r#""StringEqualsIfExists": {"kms:EncryptionContext:App": "pay"}"#, &[], true),
        (r#""StringEqualsIfExists": {"kms:EncryptionContext:App": "pay"}"#, &paypal, false),
        (
            r#""StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT"}"#,
            &[("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT")],
            true,
        ),
    ]);
}

#[test]
fn numbers_dates_and_truths() {
    let days = |value| [("kms:ScheduleKeyDeletionPendingWindowInDays", value)];
    let (seven, thirty, words) = (days("7"), days("30"), days("seven"));
    let at = [("aws:CurrentTime", "2024-06-01T12:00:00Z")];
    let (yes, no) = ([("aws:SecureTransport", "true")], [("aws:SecureTransport", "false")]);
    check(&[
        (r#""NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}"#, &seven, true),
        (r#""NumericGreaterThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": 7}"#, &seven, false),
        (r#""NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": 8.5}"#, &seven, true),
        (r#""NumericLessThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "30"}"#, &thirty, true),
        (r#""NumericEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": ["14", "30"]}"#, &thirty, true),
        (
            r#""NumericNotEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": ["14", "30"]}"#,
            &thirty,
            false,
        ),
        (r#""NumericGreaterThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "1"}"#, &words, false),
        (r#""NumericGreaterThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "1"}"#, &[], false),
        (r#""DateGreaterThan": {"aws:CurrentTime": "2024-06-01"}"#, &at, true),
        (r#""DateLessThan": {"aws:CurrentTime": "2024-06-01T11:59:59Z"}"#, &at, false),
        (r#""DateEquals": {"aws:CurrentTime": "2024-06-01T14:00:00+02:00"}"#, &at, true),
        (r#""DateNotEquals": {"aws:CurrentTime": "2024-06-01T12:00:00Z"}"#, &at, false),
        (r#""DateLessThanEquals": {"aws:CurrentTime": "1717243200"}"#, &at, true),
        (
            r#""DateGreaterThanEquals": {"aws:EpochTime": "2024-06-01T12:00:00Z"}"#,
            &[("aws:EpochTime", "1717243200")],
            true,
        ),
        (r#""Bool": {"aws:SecureTransport": "true"}"#, &yes, true),
        (r#""Bool": {"aws:SecureTransport": true}"#, &no, false),
        (r#""Bool": {"aws:SecureTransport": "false"}"#, &no, true),
        (r#""Bool": {"aws:SecureTransport": "false"}"#, &[], false),
        (r#""BoolIfExists": {"aws:SecureTransport": "true"}"#, &[], true),
        (
            r#""BinaryEquals": {"kms:EncryptionContext:k": "cGF5"}"#,
            &[("kms:EncryptionContext:k", "pay")],
            true,
        ),
        (
            r#""BinaryEquals": {"kms:EncryptionContext:k": "cGF5"}"#,
            &[("kms:EncryptionContext:k", "cGF5")],
            false,
        ),
        (r#""Null": {"aws:SecureTransport": "true"}"#, &[], true),
        (r#""Null": {"aws:SecureTransport": "true"}"#, &yes, false),
        (r#""Null": {"aws:SecureTransport": "false"}"#, &yes, true),
        (r#""Null": {"aws:SecureTransport": false}"#, &[], false),
    ]);
}

#[test]
fn arns_and_addresses() {
    let user = [("aws:PrincipalArn", "arn:aws:iam::111122223333:user/div/alice")];
    let ip = [("aws:SourceIp", "203.0.113.9")];
    check(&[
        (r#""ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::111122223333:user/div/alice"}"#, &user, true),
        (r#""ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*/alice"}"#, &user, true),
        (r#""ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::1111????3333:user/*"}"#, &user, true),
        // A wildcard does not reach over a colon.
        (r#""ArnLike": {"aws:PrincipalArn": "arn:aws:*:user/div/alice:*:*"}"#, &user, false),
        (r#""ArnLike": {"aws:PrincipalArn": "*"}"#, &user, true),
        (r#""ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}"#, &user, false),
        (r#""ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::*:role/*"}"#, &user, true),
        (r#""ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:*"}"#, &[("aws:PrincipalArn", "alice")], false),
        (r#""IpAddress": {"aws:SourceIp": "203.0.113.0/24"}"#, &ip, true),
        (r#""IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "203.0.113.9"]}"#, &ip, true),
        (r#""NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8", "203.0.113.0/24"]}"#, &ip, false),
        (r#""NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}"#, &ip, true),
        // On the Unix socket there is no address.
        (r#""IpAddress": {"aws:SourceIp": "0.0.0.0/0"}"#, &[], false),
        (r#""NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}"#, &[], true),
        (r#""IpAddress": {"aws:SourceIp": "2001:db8::/32"}"#, &[("aws:SourceIp", "2001:db8::7")], true),
    ]);
}

#[test]
fn keys_with_several_values() {
    let ab = [("kms:EncryptionContextKeys", "a"), ("kms:EncryptionContextKeys", "b")];
    let a = [("kms:EncryptionContextKeys", "a")];
    check(&[
        (r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "b", "c"]}"#, &ab, true),
        (r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &ab, false),
        (r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &a, true),
        (r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &[], true),
        (r#""ForAllValues:StringNotEquals": {"kms:EncryptionContextKeys": ["c"]}"#, &ab, true),
        (r#""ForAllValues:StringNotEquals": {"kms:EncryptionContextKeys": ["b"]}"#, &ab, false),
        (r#""ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": ["b", "c"]}"#, &ab, true),
        (r#""ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": ["c"]}"#, &ab, false),
        (r#""ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &[], false),
        (r#""ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &ab, true),
        (r#""ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &a, false),
        (r#""ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &[], false),
        (r#""ForAnyValue:StringLikeIfExists": {"kms:ResourceAliases": "alias/x*"}"#, &[], true),
        // Not said how many: an Allow needs all of them.
        (r#""StringEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &ab, false),
        (r#""StringEquals": {"kms:EncryptionContextKeys": ["a", "b"]}"#, &ab, true),
        (r#""StringNotEquals": {"kms:EncryptionContextKeys": ["a"]}"#, &ab, false),
    ]);
    // And a Deny one of them.
    let deny = r#""Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*",
        "Condition": {"StringEquals": {"kms:EncryptionContextKeys": "a"}}"#;
    assert_eq!(decide(&policy(&[ALL, deny]), &alice(), "Decrypt", &ab), DENY);
}

#[test]
fn every_condition_must_be_met() {
    let both = r#""StringEquals": {"kms:EncryptionContext:a": "1", "kms:EncryptionContext:b": "2"}"#;
    let two = r#""StringEquals": {"kms:EncryptionContext:a": "1"}, "StringLike": {"kms:EncryptionContext:b": "2*"}"#;
    let a = [("kms:EncryptionContext:a", "1")];
    let ab = [a[0], ("kms:EncryptionContext:b", "2")];
    for condition in [both, two] {
        let statement = format!("{ALL}, \"Condition\": {{{condition}}}");
        assert_eq!(decide(&policy(&[&statement]), &alice(), "Decrypt", &a), NO);
        assert_eq!(decide(&policy(&[&statement]), &alice(), "Decrypt", &ab), ALLOW);
    }
    check(&[("", &[], true), (r#""StringEquals": {}"#, &[], true)]);
}

#[test]
fn variables_are_filled_in_by_the_newer_version_alone() {
    let condition = |version: &str, operator: &str, operand: &str| {
        format!(
            r#"{{"Version": "{version}", "Statement": {{{ALL}, "Condition": {{"{operator}": {{"kms:EncryptionContext:owner": "{operand}"}}}}}}}}"#
        )
    };
    let owned_by = |owner| [("kms:EncryptionContext:owner", owner), ("aws:username", "al*ce")];
    for (version, operator, operand, owner, verdict) in [
        ("2012-10-17", "StringEquals", "${aws:username}", "al*ce", ALLOW),
        ("2012-10-17", "StringEquals", "${aws:username}", "bob", NO),
        // What a variable says is no wildcard.
        ("2012-10-17", "StringLike", "${aws:username}/*", "al*ce/x", ALLOW),
        ("2012-10-17", "StringLike", "${aws:username}/*", "alxce/x", NO),
        ("2012-10-17", "StringEqualsIgnoreCase", "${AWS:UserName}", "AL*CE", ALLOW),
        ("2012-10-17", "StringEquals", "${aws:PrincipalArn}", "", NO),
        ("2012-10-17", "StringEquals", "${aws:PrincipalArn, 'nobody'}", "nobody", ALLOW),
        ("2012-10-17", "StringLike", "a${*}${?}${$}*", "a*?$b", ALLOW),
        ("2012-10-17", "StringLike", "a${*}b", "axb", NO),
        ("2008-10-17", "StringEquals", "${aws:username}", "al*ce", NO),
        ("2008-10-17", "StringEquals", "${aws:username}", "${aws:username}", ALLOW),
    ] {
        let policy = condition(version, operator, operand);
        assert_eq!(
            decide(&policy, &alice(), "Decrypt", &owned_by(owner)),
            verdict,
            "{operator} {operand} {owner}"
        );
    }
}

#[test]
fn the_default_policy_gives_root_everything_and_others_nothing() {
    let policy = default_policy(ACCOUNT);
    for action in Action::all() {
        assert_eq!(decide(&policy, &root(), action.name(), &[]), ALLOW);
        assert_eq!(decide(&policy, &alice(), action.name(), &[]), NO);
    }
    assert_eq!(Policy::parse(&policy).unwrap().oddities(), [""; 0]);
}

#[test]
fn the_statement_that_decided_is_named_and_the_others_explained() {
    let user = format!(r#"{{"AWS": "arn:aws:iam::{ACCOUNT}:user/bob"}}"#);
    let text = policy(&[
        &format!(
            r#""Sid": "ForBob", "Effect": "Allow", "Principal": {user}, "Action": "kms:*", "Resource": "*""#
        ),
        &format!(r#""Sid": "Open", {ALL}"#),
        r#""Sid": "OnlyPay", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
           "Condition": {"StringNotEquals": {"kms:EncryptionContext:App": "pay"}}"#,
    ]);
    let policy = Policy::parse(&text).unwrap();
    let (alice, facts) = (alice(), Known::new(&[("kms:EncryptionContext:App", "pay")]));
    let decrypt: Action = "Decrypt".parse().unwrap();
    let mut request = Request { identity: &alice, action: decrypt, resource: KEY, facts: &facts };
    assert_eq!(policy.decide(&request), Decision { verdict: ALLOW, statement: Some(1) });
    assert_eq!(policy.sid(1), Some("Open"));
    let why: Vec<Vec<Mismatch>> = policy.explain(&request).into_iter().map(|one| one.mismatches).collect();
    let unmet = Mismatch::Condition("StringNotEquals kms:EncryptionContext:App".to_owned());
    assert_eq!(why, [vec![Mismatch::Principal], vec![], vec![unmet]]);
    request.facts = &();
    assert_eq!(policy.decide(&request), Decision { verdict: DENY, statement: Some(2) });
}
