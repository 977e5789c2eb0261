//! Conditions: an operator, a key, and what the key's values are compared with.

use std::fmt;

use data_encoding::BASE64;
use jiff::Timestamp;

use super::Facts;
use super::document::Effect;
use super::key::ConditionKey;
use super::operand::{self, Network, Value};
use super::pattern::Pattern;

/// One key of a statement's `Condition`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    /// As it was written.
    operator: String,
    key: ConditionKey,
    quantity: Quantity,
    /// Whether a request without the key passes.
    if_exists: bool,
    test: Test,
}

/// How many of a key's values must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    /// Not said; see the module above.
    Unsaid,
    /// `ForAllValues`, which a request without the key passes.
    All,
    /// `ForAnyValue`, which a request without the key does not pass.
    Any,
}

/// What is asked of one value. An operand that the value is compared with in vain is no error:
/// text is never less than a number.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// Whether the key is absent.
    Null(Vec<bool>),
    /// Equal to an operand, or to none if negated.
    Equal {
        operands: Operands,
        negated: bool,
    },
    Number(Relation, Vec<f64>),
    Date(Relation, Vec<Timestamp>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operands {
    /// Texts, with wildcards or not.
    Texts(Vec<Pattern>),
    TextsIgnoringCase(Vec<Pattern>),
    /// Six parts each, compared one by one.
    Arns(Vec<[Pattern; ARN_PARTS]>),
    Numbers(Vec<f64>),
    Dates(Vec<Timestamp>),
    Bools(Vec<bool>),
    Bytes(Vec<Vec<u8>>),
    Networks(Vec<Network>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const ARN_PARTS: usize = 6;
const FOR_ALL: &str = "ForAllValues:";
const FOR_ANY: &str = "ForAnyValue:";
const IF_EXISTS: &str = "IfExists";

impl Condition {
    /// Reads `"operator": {"key": operands}`. Answers what is wrong.
    pub(super) fn parse(
        operator: &str,
        key: &str,
        operands: &[String],
        variables: bool,
    ) -> Result<Self, String> {
        let (quantity, rest) = if let Some(rest) = operator.strip_prefix(FOR_ALL) {
            (Quantity::All, rest)
        } else if let Some(rest) = operator.strip_prefix(FOR_ANY) {
            (Quantity::Any, rest)
        } else {
            (Quantity::Unsaid, operator)
        };
        let (name, if_exists) = match rest.strip_suffix(IF_EXISTS) {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let test = Test::parse(name, operands, variables)?;
        if matches!(test, Test::Null(_)) && (if_exists || quantity != Quantity::Unsaid) {
            return Err(format!("{operator} does not exist: Null asks for the key itself"));
        }
        let key = key.parse().map_err(|_| format!("{key:?} is not a condition key"))?;
        Ok(Self { operator: operator.to_owned(), key, quantity, if_exists, test })
    }

    /// Whether a request of these facts passes, for a statement of `effect`.
    pub(super) fn holds(&self, facts: &dyn Facts, effect: Effect) -> bool {
        let (mut found, mut passed) = (0_usize, 0_usize);
        facts.values(&self.key, &mut |value| {
            found += 1;
            passed += usize::from(self.test.passes(value, facts));
        });
        if let Test::Null(wanted) = &self.test {
            return wanted.contains(&(found == 0));
        }
        match self.quantity {
            Quantity::All => passed == found,
            _ if found == 0 && self.if_exists => true,
            Quantity::Any => passed > 0,
            Quantity::Unsaid if found == 0 => self.test.is_negated(),
            Quantity::Unsaid if effect == Effect::Deny => passed > 0,
            Quantity::Unsaid => passed == found,
        }
    }

    pub(super) fn key(&self) -> &ConditionKey {
        &self.key
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operator, self.key)
    }
}

impl Test {
    fn parse(name: &str, operands: &[String], variables: bool) -> Result<Self, String> {
        let wrong = |text: &str, what: &str| format!("{text:?} is not {what}, which {name} compares with");
        let texts = |wild: bool| -> Result<Vec<Pattern>, String> {
            operands.iter().map(|text| Pattern::parse(text, wild, variables)).collect()
        };
        let numbers = || each(operands, operand::number, |text| wrong(text, "a number"));
        let dates = || each(operands, operand::date, |text| wrong(text, "a date"));
        let bools = || each(operands, operand::boolean, |text| wrong(text, "true or false"));
        let networks = || each(operands, Network::parse, |text| wrong(text, "an address or a CIDR range"));
        let bytes = |text: &str| BASE64.decode(text.as_bytes()).ok();
        let arns = || -> Result<Operands, String> {
            let arns = operands.iter().map(|text| arn(text, variables));
            Ok(Operands::Arns(arns.collect::<Result<_, _>>()?))
        };
        let equal = |operands| Ok(Self::Equal { operands, negated: false });
        let unequal = |operands| Ok(Self::Equal { operands, negated: true });
        match name {
            "Null" => Ok(Self::Null(bools()?)),
            "StringEquals" => equal(Operands::Texts(texts(false)?)),
            "StringNotEquals" => unequal(Operands::Texts(texts(false)?)),
            "StringEqualsIgnoreCase" => equal(Operands::TextsIgnoringCase(texts(false)?)),
            "StringNotEqualsIgnoreCase" => unequal(Operands::TextsIgnoringCase(texts(false)?)),
            "StringLike" => equal(Operands::Texts(texts(true)?)),
            "StringNotLike" => unequal(Operands::Texts(texts(true)?)),
            "ArnEquals" | "ArnLike" => equal(arns()?),
            "ArnNotEquals" | "ArnNotLike" => unequal(arns()?),
            "NumericEquals" => equal(Operands::Numbers(numbers()?)),
            "NumericNotEquals" => unequal(Operands::Numbers(numbers()?)),
            "NumericLessThan" => Ok(Self::Number(Relation::Less, numbers()?)),
            "NumericLessThanEquals" => Ok(Self::Number(Relation::LessOrEqual, numbers()?)),
            "NumericGreaterThan" => Ok(Self::Number(Relation::Greater, numbers()?)),
            "NumericGreaterThanEquals" => Ok(Self::Number(Relation::GreaterOrEqual, numbers()?)),
            "DateEquals" => equal(Operands::Dates(dates()?)),
            "DateNotEquals" => unequal(Operands::Dates(dates()?)),
            "DateLessThan" => Ok(Self::Date(Relation::Less, dates()?)),
            "DateLessThanEquals" => Ok(Self::Date(Relation::LessOrEqual, dates()?)),
            "DateGreaterThan" => Ok(Self::Date(Relation::Greater, dates()?)),
            "DateGreaterThanEquals" => Ok(Self::Date(Relation::GreaterOrEqual, dates()?)),
            "Bool" => equal(Operands::Bools(bools()?)),
            "BinaryEquals" => equal(Operands::Bytes(each(operands, bytes, |text| wrong(text, "base64"))?)),
            "IpAddress" => equal(Operands::Networks(networks()?)),
            "NotIpAddress" => unequal(Operands::Networks(networks()?)),
            _ => Err(format!("{name:?} is not a condition operator")),
        }
    }

    fn is_negated(&self) -> bool {
        matches!(self, Self::Equal { negated: true, .. })
    }

    fn passes(&self, value: Value<'_>, facts: &dyn Facts) -> bool {
        match self {
            Self::Null(_) => true,
            Self::Equal { operands, negated } => operands.include(value, facts) != *negated,
            Self::Number(relation, operands) => value
                .number()
                .is_some_and(|value| operands.iter().any(|operand| relation.holds(&value, operand))),
            Self::Date(relation, operands) => value
                .date()
                .is_some_and(|value| operands.iter().any(|operand| relation.holds(&value, operand))),
        }
    }
}

impl Operands {
    /// Whether `value` is equal to one of them.
    fn include(&self, value: Value<'_>, facts: &dyn Facts) -> bool {
        match self {
            Self::Texts(patterns) => {
                let text = value.text();
                patterns.iter().any(|pattern| pattern.matches(&text, facts))
            }
            Self::TextsIgnoringCase(patterns) => {
                let text = value.text();
                patterns.iter().any(|pattern| pattern.equals_ignoring_case(&text, facts))
            }
            Self::Arns(arns) => {
                let text = value.text();
                let Some(parts) = arn_parts(&text) else { return false };
                let same = |arn: &[Pattern; ARN_PARTS]| {
                    arn.iter().zip(parts).all(|(pattern, part)| pattern.matches(part, facts))
                };
                arns.iter().any(same)
            }
            Self::Numbers(numbers) => value.number().is_some_and(|value| numbers.contains(&value)),
            Self::Dates(dates) => value.date().is_some_and(|value| dates.contains(&value)),
            Self::Bools(bools) => value.boolean().is_some_and(|value| bools.contains(&value)),
            Self::Bytes(all) => all.iter().any(|bytes| bytes[..] == *value.text().as_bytes()),
            Self::Networks(networks) => value
                .address()
                .is_some_and(|address| networks.iter().any(|network| network.contains(address))),
        }
    }
}

impl Relation {
    fn holds<T: PartialOrd>(self, value: &T, operand: &T) -> bool {
        match self {
            Self::Less => value < operand,
            Self::LessOrEqual => value <= operand,
            Self::Greater => value > operand,
            Self::GreaterOrEqual => value >= operand,
        }
    }
}

fn each<T>(
    operands: &[String],
    read: impl Fn(&str) -> Option<T>,
    wrong: impl Fn(&str) -> String,
) -> Result<Vec<T>, String> {
    operands.iter().map(|text| read(text).ok_or_else(|| wrong(text))).collect()
}

/// The six parts of an ARN; the last may have colons.
fn arn_parts(text: &str) -> Option<[&str; ARN_PARTS]> {
    let mut parts = [""; ARN_PARTS];
    let mut rest = text.splitn(ARN_PARTS, ':');
    for part in &mut parts {
        *part = rest.next()?;
    }
    Some(parts)
}

/// An ARN with wildcards in its parts. `*` alone is any ARN.
pub(super) fn arn(text: &str, variables: bool) -> Result<[Pattern; ARN_PARTS], String> {
    if text == "*" {
        return Ok([const { Pattern::Anything }; ARN_PARTS]);
    }
    // A variable's name has a colon of its own.
    let (mut parts, mut rest) = (Vec::new(), text);
    while parts.len() < ARN_PARTS - 1 {
        let end = colon(rest, variables).ok_or_else(|| format!("{text:?} is not an ARN"))?;
        parts.push(Pattern::parse(&rest[..end], true, variables)?);
        rest = &rest[end + 1..];
    }
    parts.push(Pattern::parse(rest, true, variables)?);
    parts.try_into().map_err(|_| format!("{text:?} is not an ARN"))
}

/// Where the first colon is that is in no variable.
fn colon(text: &str, variables: bool) -> Option<usize> {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '$' if variables && text[at..].starts_with("${") => inside = true,
            '}' => inside = false,
            ':' if !inside => return Some(at),
            _ => {}
        }
    }
    None
}
