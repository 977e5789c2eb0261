"""Medians, quartiles, and ratios of what was measured in the same round."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What some samples come to."""

    median: float
    q1: float
    q3: float
    count: int

    @property
    def spread(self):
        """Half the distance of the quartiles, as a part of the median."""
        return (self.q3 - self.q1) / 2 / self.median if self.median else 0.0


def quantile(values, part):
    """The value below which `part` (0 to 1) of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarize(samples):
    """The summary of the samples that there are; `None` if there are none. A round that failed has
    the sample `None`."""
    values = [sample for sample in samples if sample is not None]
    if not values:
        return None
    return Summary(quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), len(values))


def ratio(ours, theirs, higher_is_better):
    """How many times better ours is than theirs: the summary of the ratios of each round, so that
    what slows a whole round down does not count. Above 1, ours is better."""
    pairs = [(a, b) for a, b in zip(ours, theirs) if a and b]
    return summarize([a / b if higher_is_better else b / a for a, b in pairs])
