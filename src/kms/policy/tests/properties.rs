//! What holds of every policy.

use proptest::prelude::*;

use super::*;

const EFFECTS: [&str; 2] = ["Allow", "Deny"];
const PRINCIPALS: [&str; 5] = [
    r#""Principal": "*""#,
    r#""Principal": {"AWS": "arn:aws:iam::111122223333:user/alice"}"#,
    r#""Principal": {"AWS": "111122223333"}"#,
    r#""Principal": {"AWS": "arn:aws:iam::111122223333:group/guests"}"#,
    r#""NotPrincipal": {"AWS": "arn:aws:iam::111122223333:user/alice"}"#,
];
const ACTIONS: [&str; 4] = [
    r#""Action": "kms:*""#,
    r#""Action": "kms:De*""#,
    r#""Action": "kms:Encrypt""#,
    r#""NotAction": "kms:Decrypt""#,
];
const CONDITIONS: [&str; 5] = [
    "{}",
    r#"{"StringEquals": {"kms:EncryptionContext:App": "pay"}}"#,
    r#"{"StringNotLike": {"kms:EncryptionContext:App": "p*"}}"#,
    r#"{"Null": {"kms:EncryptionContext:App": "true"}}"#,
    r#"{"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["App"]}}"#,
];

fn statement() -> impl Strategy<Value = String> {
    (0..EFFECTS.len(), 0..PRINCIPALS.len(), 0..ACTIONS.len(), 0..CONDITIONS.len()).prop_map(|(e, p, a, c)| {
        format!(
            r#"{{"Effect": "{}", {}, {}, "Resource": "*", "Condition": {}}}"#,
            EFFECTS[e], PRINCIPALS[p], ACTIONS[a], CONDITIONS[c]
        )
    })
}

fn verdict(statements: &[String], who: usize, action: usize, context: Option<&str>) -> Verdict {
    let text = format!(r#"{{"Statement": [{}]}}"#, statements.join(","));
    let identity = [alice(), bob(), root()][who].clone();
    let facts: Vec<_> = context
        .iter()
        .flat_map(|value| [("kms:EncryptionContext:App", *value), ("kms:EncryptionContextKeys", "App")])
        .collect();
    decide(&text, &identity, ["Decrypt", "Encrypt", "DescribeKey"][action], &facts)
}

proptest! {
    #[test]
    fn a_policy_is_what_its_statements_say_one_by_one(
        statements in prop::collection::vec(statement(), 1..6),
        who in 0..3_usize,
        action in 0..3_usize,
        context in prop::option::of(prop::sample::select(vec!["pay", "play", "x"])),
    ) {
        let alone: Vec<Verdict> =
            statements.iter().map(|one| verdict(std::slice::from_ref(one), who, action, context)).collect();
        let wanted = [Verdict::ExplicitlyDenied, Verdict::Allowed];
        let wanted = wanted.into_iter().find(|verdict| alone.contains(verdict));
        let together = verdict(&statements, who, action, context);
        prop_assert_eq!(together, wanted.unwrap_or(Verdict::ImplicitlyDenied));
        // Order does not matter, nor does saying it twice.
        let mut reversed = statements.clone();
        reversed.reverse();
        reversed.extend(statements.iter().cloned());
        prop_assert_eq!(verdict(&reversed, who, action, context), together);
    }

    #[test]
    fn a_deny_of_everything_wins_wherever_it_stands(
        mut statements in prop::collection::vec(statement(), 0..6),
        at in 0..7_usize,
        who in 0..3_usize,
        action in 0..3_usize,
    ) {
        let deny = r#"{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}"#;
        statements.insert(at.min(statements.len()), deny.to_owned());
        prop_assert_eq!(verdict(&statements, who, action, Some("pay")), Verdict::ExplicitlyDenied);
    }

    #[test]
    fn any_text_is_read_without_panic(text in ".{0,200}") {
        let _ = Policy::parse(&text);
    }
}

/// What explains must decide.
#[test]
fn explaining_agrees_with_deciding() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (prop::collection::vec(statement(), 1..6), 0..3_usize);
    let run = runner.run(&strategy, |(statements, who)| {
        let text = format!(r#"{{"Statement": [{}]}}"#, statements.join(","));
        let policy = Policy::parse(&text).unwrap();
        let identity = [alice(), bob(), root()][who].clone();
        let action = "Decrypt".parse().unwrap();
        let request = Request { identity: &identity, action, resource: KEY, facts: &() };
        let applying: Vec<Effect> = policy
            .explain(&request)
            .into_iter()
            .filter(|one| one.mismatches.is_empty())
            .map(|one| one.effect)
            .collect();
        let wanted = match () {
            () if applying.contains(&Effect::Deny) => Verdict::ExplicitlyDenied,
            () if applying.contains(&Effect::Allow) => Verdict::Allowed,
            () => Verdict::ImplicitlyDenied,
        };
        prop_assert_eq!(policy.decide(&request).verdict, wanted);
        Ok(())
    });
    run.unwrap();
}

/// Run it for figures: `cargo test --release --lib policy -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout, reason = "figures are what it is for")]
fn how_long_a_decision_takes() {
    let policies = [("default", default_policy(ACCOUNT)), ("fifty statements", fifty())];
    let (root, alice) = (root(), alice());
    let facts = Known::new(&[("kms:EncryptionContext:App", "pay")]);
    for (name, text) in policies {
        let policy = Policy::parse(&text).unwrap();
        for identity in [&root, &alice] {
            let action = "Decrypt".parse().unwrap();
            let request = Request { identity, action, resource: KEY, facts: &facts };
            let started = std::time::Instant::now();
            for _ in 0..1_000_000 {
                std::hint::black_box(policy.decide(std::hint::black_box(&request)));
            }
            println!("{name}, {}: {:?} a decision", identity.arn(), started.elapsed() / 1_000_000);
        }
    }
}

fn fifty() -> String {
    let one = |number: usize| {
        format!(
            r#"{{"Effect": "Allow", "Principal": {{"AWS": "arn:aws:iam::{ACCOUNT}:user/u{number}"}},
                "Action": ["kms:Decrypt", "kms:Encrypt"], "Resource": "*",
                "Condition": {{"StringLike": {{"kms:EncryptionContext:App": "p*y"}}}}}}"#
        )
    };
    let statements: Vec<String> = (0..50).map(one).collect();
    format!(r#"{{"Statement": [{}]}}"#, statements.join(","))
}
