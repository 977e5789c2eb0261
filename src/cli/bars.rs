//! Bars beside figures, for a person at a terminal.

use std::io::IsTerminal;

/// Columns of the longest bar: with the table beside it, a line still fits in 80.
const WIDTH: usize = 20;
/// Eighths of a block, from none.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// How bars are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bars {
    /// For a terminal that knows Unicode.
    Blocks,
    /// For one that does not.
    Ascii,
}

impl Bars {
    /// How to draw them on standard output; `None` if that is no terminal.
    pub(super) fn wanted() -> Option<Self> {
        // The first that is set decides, as in setlocale(3).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let utf8 = locale.is_some_and(|locale| {
            let locale = locale.to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        std::io::stdout().is_terminal().then_some(if utf8 { Self::Blocks } else { Self::Ascii })
    }

    /// A bar for `value` where `longest` has the longest one. What is beyond that is cut off, and
    /// shows that it is.
    pub(super) fn bar(self, value: f64, longest: f64) -> String {
        if value > longest {
            let (block, end) = match self {
                Self::Blocks => ("█", "»"),
                Self::Ascii => ("#", ">"),
            };
            return format!("{}{end}", block.repeat(WIDTH));
        }
        let share = if longest > 0.0 { (value / longest).max(0.0) } else { 0.0 };
        match self {
            Self::Blocks => {
                let eighths = (share * (WIDTH * 8) as f64).round() as usize;
                format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
            }
            Self::Ascii => "#".repeat((share * WIDTH as f64).round() as usize),
        }
    }

    /// Appends a bar to each row of a table, for the value that goes with it. The longest is that of the
    /// largest value that counts.
    pub(super) fn append(rows: &mut [Vec<String>], values: &[(f64, Counts)]) {
        let Some(bars) = Self::wanted() else { return };
        let counting = values.iter().filter(|(_, counts)| *counts == Counts::Yes);
        let longest = counting.map(|(value, _)| *value).fold(0.0, f64::max);
        for (row, (value, _)) in rows.iter_mut().zip(values) {
            row.push(bars.bar(*value, longest));
        }
    }
}

/// Whether a value may make the other bars short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        assert_eq!(Bars::Ascii.bar(10.0, 10.0), "#".repeat(WIDTH));
        assert_eq!(Bars::Ascii.bar(5.0, 10.0), "#".repeat(WIDTH / 2));
        assert_eq!(Bars::Blocks.bar(1.0, 1.0), "█".repeat(WIDTH));
        assert_eq!(Bars::Blocks.bar(0.525, 1.0), format!("{}▌", "█".repeat(WIDTH / 2)));
        for bars in [Bars::Blocks, Bars::Ascii] {
            assert_eq!(bars.bar(0.0, 1.0), "");
            assert_eq!(bars.bar(0.0, 0.0), "");
        }
    }

    #[test]
    fn what_is_cut_off_shows_it() {
        assert_eq!(Bars::Ascii.bar(11.0, 10.0), format!("{}>", "#".repeat(WIDTH)));
        assert_eq!(Bars::Blocks.bar(11.0, 10.0), format!("{}»", "█".repeat(WIDTH)));
    }
}
