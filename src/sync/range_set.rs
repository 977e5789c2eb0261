//! A set of numbers kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of `u64`, compact where members lie side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// End by start; neither overlapping nor touching.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds every number in `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        if let Some((&start, &end)) = self.ranges.range(..=merged.start).next_back()
            && end >= merged.start
        {
            if end >= merged.end {
                return;
            }
            merged.start = start;
            merged.end = merged.end.max(end);
        }
        while let Some((&start, &end)) = self.ranges.range(merged.start..=merged.end).next() {
            merged.end = merged.end.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(merged.start, merged.end);
    }

    /// Removes every number in `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &end)) = self.ranges.range(..range.start).next_back()
            && end > range.start
        {
            self.ranges.insert(start, range.start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
        while let Some((&start, &end)) = self.ranges.range(range.clone()).next() {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Removes every member.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            steps in proptest::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 1..60)
        ) {
            let mut ours = RangeSet::default();
            let mut plain = BTreeSet::new();
            for (add, start, len) in steps {
                let range = start..start + len;
                if add {
                    ours.insert(range.clone());
                    plain.extend(range);
                } else {
                    ours.remove(range.clone());
                    plain.retain(|x| !range.contains(x));
                }
                prop_assert_eq!(ours.iter().flatten().collect::<BTreeSet<_>>(), plain.clone());
                let ranges: Vec<_> = ours.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
            }
        }
    }
}
