//! What is not a policy is refused, and the refusal says why.

use super::*;

fn refused(text: &str) -> String {
    match Policy::parse(text) {
        Ok(_) => panic!("taken: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn documents_that_are_no_policies() {
    for (text, why) in [
        ("", "not JSON"),
        ("[]", "the policy must be an object"),
        ("{}", "has no Statement"),
        (r#"{"Statement": []}"#, "has no Statement"),
        (r#"{"Statement": "x"}"#, "Statement must be"),
        (r#"{"Statement": ["x"]}"#, "statement 0: a statement must be an object"),
        (r#"{"Version": "2020-01-01", "Statement": [{}]}"#, "Version must be"),
        (r#"{"Id": 1, "Statement": [{}]}"#, "Id must be text"),
        (r#"{"Statements": []}"#, "has no member \"Statements\""),
        (r#"{"statement": []}"#, "has no member \"statement\""),
        (r#"{"Id": "a", "Id": "b", "Statement": []}"#, "appears twice"),
    ] {
        let message = refused(text);
        assert!(message.contains(why), "{text}: {message}");
    }
}

#[test]
fn statements_that_are_none() {
    let whole =
        [("Effect", r#""Allow""#), ("Principal", r#""*""#), ("Action", r#""kms:*""#), ("Resource", r#""*""#)];
    let with = |name: &str, json: &str| {
        let kept = whole.iter().filter(|(member, _)| *member != name).map(|(member, json)| (*member, *json));
        let members: Vec<String> = kept
            .chain([(name, json)].into_iter().filter(|(_, json)| !json.is_empty()))
            .map(|(member, json)| format!("{member:?}: {json}"))
            .collect();
        format!(r#"{{"Statement": {{{}}}}}"#, members.join(","))
    };
    assert!(Policy::parse(&with("Sid", r#""fine""#)).is_ok());
    for (name, json, why) in [
        ("Sid", "1", "Sid must be text"),
        ("Effect", "", "Effect must be"),
        ("Effect", r#""allow""#, "Effect must be"),
        ("Principal", "", "neither Principal nor NotPrincipal"),
        ("NotPrincipal", r#""*""#, "both Principal and NotPrincipal"),
        ("Principal", r#""alice""#, "Principal must be"),
        ("Principal", "{}", "Principal must be"),
        ("Principal", r#"{"AWS": []}"#, "empty list"),
        ("Principal", r#"{"AWS": "arn:aws:iam::111122223333:user/*"}"#, "no wildcards"),
        ("Principal", r#"{"AWS": "AIDACKCEVSQ6C2EXAMPLE"}"#, "not a principal"),
        ("Principal", r#"{"Service": "x"}"#, "not a service's name"),
        ("Principal", r#"{"Federated": "x"}"#, "not a kind of principal"),
        ("Action", "", "neither Action nor NotAction"),
        ("Action", "[]", "empty list"),
        ("Action", "1", "must be text"),
        ("Action", r#""s3:GetObject""#, "not an action of kms"),
        ("NotAction", r#""kms:*""#, "both Action and NotAction"),
        ("Resource", r#""key""#, "neither"),
        ("NotResource", r#""*""#, "both Resource and NotResource"),
        ("Conditions", "{}", "no member \"Conditions\""),
        ("Condition", "[]", "Condition must be an object"),
        ("Condition", r#"{"StringEqual": {"kms:KeySpec": "x"}}"#, "not a condition operator"),
        ("Condition", r#"{"stringequals": {"kms:KeySpec": "x"}}"#, "not a condition operator"),
        ("Condition", r#"{"ForSomeValues:StringEquals": {"kms:KeySpec": "x"}}"#, "not a condition operator"),
        ("Condition", r#"{"NullIfExists": {"kms:KeySpec": "true"}}"#, "does not exist"),
        ("Condition", r#"{"StringEquals": ["x"]}"#, "must be an object"),
        ("Condition", r#"{"StringEquals": {"KeySpec": "x"}}"#, "not a condition key"),
        ("Condition", r#"{"StringEquals": {"kms:KeySpec": []}}"#, "empty list"),
        ("Condition", r#"{"StringEquals": {"kms:KeySpec": {}}}"#, "must be compared with"),
        ("Condition", r#"{"StringEquals": {"kms:KeySpec": null}}"#, "must be compared with"),
        ("Condition", r#"{"NumericEquals": {"kms:KeySpec": "x"}}"#, "not a number"),
        ("Condition", r#"{"DateEquals": {"aws:CurrentTime": "noon"}}"#, "not a date"),
        ("Condition", r#"{"Bool": {"kms:MultiRegion": "yes"}}"#, "not true or false"),
        ("Condition", r#"{"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}}"#, "not an address"),
        ("Condition", r#"{"ArnLike": {"aws:PrincipalArn": "alice"}}"#, "not an ARN"),
        ("Condition", r#"{"BinaryEquals": {"kms:KeySpec": "?"}}"#, "not base64"),
    ] {
        let message = refused(&with(name, json));
        assert!(message.contains(why), "{name}: {json}: {message}");
    }
    let variable = r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*",
        "Resource": "*", "Condition": {"StringEquals": {"kms:KeySpec": "${nothing}"}}}}"#;
    assert!(refused(variable).contains("not a variable"));
    assert!(refused(&variable.replace("${nothing}", "${aws:username")).contains("without its '}'"));
}

#[test]
fn two_statements_of_one_sid() {
    let one = r#"{"Sid": "a", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}"#;
    assert!(refused(&format!(r#"{{"Statement": [{one}, {one}]}}"#)).contains("the Sid \"a\""));
}

#[test]
fn length_and_depth_are_bounded() {
    let policy = default_policy(ACCOUNT);
    let padded = |len: usize| format!("{policy}{}", " ".repeat(len - policy.len()));
    assert!(Policy::parse(&padded(MAX_POLICY)).is_ok());
    assert!(refused(&padded(MAX_POLICY + 1)).contains("longer than 32768 bytes"));
    assert!(refused(&"[".repeat(30_000)).contains("not JSON"));
}

#[test]
fn what_has_no_effect_is_pointed_out() {
    let policy = Policy::parse(
        r#"{"Statement": {"Sid": "odd", "Effect": "Allow", "Principal": "*", "Action": "kms:Dcrypt",
            "Condition": {"StringEquals": {"kms:ViaService": "x"}}}}"#,
    );
    let oddities = policy.unwrap().oddities();
    assert_eq!(oddities.len(), 3, "{oddities:?}");
    assert!(oddities.iter().all(|odd| odd.starts_with("statement 0 (\"odd\"): ")), "{oddities:?}");
}
