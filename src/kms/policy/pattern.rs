//! Text with wildcards: `*` stands for any characters, `?` for one.

use super::Facts;
use super::key::ConditionKey;

/// A text to compare with: exactly, or with wildcards.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    /// `*` alone.
    Anything,
    /// Without wildcards.
    Exactly(String),
    /// With wildcards.
    Wild(Wild),
    /// With `${variables}` to fill in for every request.
    Template(Vec<Part>),
}

/// Runs of text between stars. `a*b?` is `["a", "b?"]`: the first is at the beginning, the last at
/// the end, the others follow each other anywhere between.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wild(Vec<Run>);

/// Text without stars, `None` being a question mark.
#[derive(Debug, Clone, PartialEq, Default)]
struct Run(Vec<Option<char>>);

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Char(char),
    Star,
    One,
    /// The value of a key, and what stands for it in a request without it.
    Variable(ConditionKey, Option<String>),
}

impl Pattern {
    /// Reads `text`; `*` and `?` are wildcards if `wild`, `${name}` a variable if `variables`.
    /// Answers what is wrong with a variable.
    pub(super) fn parse(text: &str, wild: bool, variables: bool) -> Result<Self, String> {
        let mut parts = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if variables && let Some(after) = rest.strip_prefix("${") {
                let (name, after) = after.split_once('}').ok_or("a variable without its '}'")?;
                parts.push(variable(name)?);
                rest = after;
                continue;
            }
            parts.push(match first {
                '*' if wild => Part::Star,
                '?' if wild => Part::One,
                other => Part::Char(other),
            });
            rest = &rest[first.len_utf8()..];
        }
        if parts.iter().any(|part| matches!(part, Part::Variable(..))) {
            return Ok(Self::Template(parts));
        }
        Ok(Self::of(&parts))
    }

    /// Whether `text` is what this pattern says. A variable that neither the request nor a
    /// default fills in matches nothing.
    pub(super) fn matches(&self, text: &str, facts: &dyn Facts) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(exact) => exact == text,
            Self::Wild(wild) => wild.matches(text),
            Self::Template(parts) => {
                filled_in(parts, facts).is_some_and(|parts| Self::of(&parts).matches(text, facts))
            }
        }
    }

    /// As [`Pattern::matches`], whatever the case of letters. For patterns without wildcards.
    pub(super) fn equals_ignoring_case(&self, text: &str, facts: &dyn Facts) -> bool {
        let same = |a: &str, b: &str| {
            a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
        };
        match self {
            Self::Exactly(exact) => same(exact, text),
            Self::Template(parts) => filled_in(parts, facts).is_some_and(|parts| match Self::of(&parts) {
                Self::Exactly(exact) => same(&exact, text),
                _ => false,
            }),
            Self::Anything | Self::Wild(_) => false,
        }
    }

    /// `parts` has no variables.
    fn of(parts: &[Part]) -> Self {
        if matches!(parts, [Part::Star, ..]) && parts.iter().all(|part| *part == Part::Star) {
            return Self::Anything;
        }
        let mut runs = vec![Run::default()];
        for part in parts {
            let c = match part {
                Part::Char(c) => Some(*c),
                Part::One => None,
                Part::Star => {
                    runs.push(Run::default());
                    continue;
                }
                Part::Variable(..) => continue,
            };
            if let Some(run) = runs.last_mut() {
                run.0.push(c);
            }
        }
        match &runs[..] {
            [only] if only.0.iter().all(Option::is_some) => Self::Exactly(only.0.iter().flatten().collect()),
            _ => Self::Wild(Wild(runs)),
        }
    }
}

impl Wild {
    fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.0.split_first() else { return false };
        let Some(mut rest) = first.at_start_of(text) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        // Each run as early as possible leaves the most for those that follow.
        for run in middle {
            match run.after_first_in(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        last.is_end_of(rest)
    }
}

impl Run {
    /// What follows this run in `text`, which begins with it.
    fn at_start_of<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut chars = text.chars();
        for wanted in &self.0 {
            let found = chars.next()?;
            if wanted.is_some_and(|wanted| wanted != found) {
                return None;
            }
        }
        Some(chars.as_str())
    }

    /// What follows the first place in `text` where this run is.
    fn after_first_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        starts.find_map(|at| self.at_start_of(&text[at..]))
    }

    fn is_end_of(&self, text: &str) -> bool {
        let mut chars = text.chars().rev();
        let same = |wanted: &Option<char>| {
            chars.next().is_some_and(|found| wanted.is_none_or(|wanted| wanted == found))
        };
        self.0.iter().rev().all(same)
    }
}

/// `name` is what stands between the braces.
fn variable(name: &str) -> Result<Part, String> {
    if let "*" | "?" | "$" = name {
        return Ok(name.chars().next().map_or(Part::Star, Part::Char));
    }
    let (name, default) = match name.split_once(',') {
        None => (name, None),
        Some((name, default)) => {
            let default = default.trim();
            let quoted = default.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let text =
                quoted.ok_or_else(|| format!("the default of ${{{name}}} must be in single quotes"))?;
            (name, Some(text.to_owned()))
        }
    };
    let key = name.trim().parse().map_err(|_| format!("${{{name}}} is not a variable"))?;
    Ok(Part::Variable(key, default))
}

/// The parts with the values of `facts` for variables; their characters are no wildcards.
fn filled_in(parts: &[Part], facts: &dyn Facts) -> Option<Vec<Part>> {
    let mut filled = Vec::with_capacity(parts.len());
    for part in parts {
        let Part::Variable(key, default) = part else {
            filled.push(part.clone());
            continue;
        };
        let mut values = Vec::new();
        facts.values(key, &mut |value| values.push(value.text().into_owned()));
        // Which of several values was meant, nobody can say.
        let value = match (values.len(), default) {
            (1, _) => values.pop()?,
            (0, Some(default)) => default.clone(),
            _ => return None,
        };
        filled.extend(value.chars().map(Part::Char));
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the definition: a star is nothing, or one character and a star.
    fn naively(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(('*', rest)), None) => naively(rest, text),
            (Some(('*', rest)), Some((_, tail))) => naively(rest, text) || naively(pattern, tail),
            (Some(_), None) => false,
            (Some((p, rest)), Some((t, tail))) => (*p == '?' || p == t) && naively(rest, tail),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn wildcards_match_as_by_their_definition(pattern in "[ab?*é]{0,9}", text in "[abé]{0,12}") {
            let parsed = Pattern::parse(&pattern, true, true).unwrap();
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(parsed.matches(&text, &()), naively(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn without_wildcards_a_pattern_matches_itself_alone(pattern in "[a*?]{0,4}", text in "[a*?]{0,4}") {
            let parsed = Pattern::parse(&pattern, false, false).unwrap();
            prop_assert_eq!(parsed.matches(&text, &()), pattern == text);
        }
    }

    #[test]
    fn a_hostile_pattern_is_matched_in_linear_passes() {
        let pattern = Pattern::parse(&"a*".repeat(2_000), true, false).unwrap();
        let started = std::time::Instant::now();
        assert!(!pattern.matches(&"a".repeat(1_999), &()));
        assert!(pattern.matches(&"a".repeat(8_000), &()));
        assert!(started.elapsed().as_millis() < 500);
    }
}
