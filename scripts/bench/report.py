"""What was measured, as text, as Markdown and as JSON.

The JSON is all there is; the other forms are made of it, so that a result can be shown anew:

    {"schema": 1, "machine": {...}, "settings": {...},
     "subjects": [{"name", "title", "version", "options"}],
     "skipped": [{"name", "why"}], "failures": [{"backing", "subject", "round", "rows", "why"}],
     "results": {BACKING: {ROW: {SUBJECT: {"samples": [...], "median", "q1", "q3"}}}}}

A sample is one round's, in the row's unit; `null` where it failed.
"""

from .machine import QUIET, lines
from .rows import GOAL_OF_BRIDGE, ROWS
from .stats import ratio, summarize

OURS = "kmsfs"
BEGIN = "<!-- results: made by scripts/bench-peers --write-docs -->"
END = "<!-- end of results -->"


def with_summaries(results):
    """Samples by backing, row and subject, with what they come to."""
    return {
        backing: {
            row: {subject: _summarized(samples) for subject, samples in subjects.items()}
            for row, subjects in rows.items()
        }
        for backing, rows in results.items()
    }


def _summarized(samples):
    summary = summarize(samples)
    if summary is None:
        return {"samples": samples}
    return {"samples": samples, "median": summary.median, "q1": summary.q1, "q3": summary.q3}


def number(value):
    """Three digits that count, and thousands as such."""
    if value >= 9999.5:
        return f"{value / 1000:.3g}k" if value < 999_500 else f"{value / 1e6:.3g}M"
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.3g}"


def factor(value):
    """A ratio, with two digits that count."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def shown_rows(document, backing):
    """Rows that have results. Those about the whole machine only if it had nothing else to do."""
    quiet = document["machine"]["busy_before"] <= QUIET
    rows = document["results"][backing]
    return [row for row in ROWS if row.name in rows and (quiet or not row.name.endswith("-all"))]


def cells(document, backing):
    """For each row the texts of its medians with spread, by subject, and of its ratios."""
    for row in shown_rows(document, backing):
        found = document["results"][backing][row.name]
        medians, ratios = [], []
        for subject in document["subjects"]:
            samples = found.get(subject["name"], {}).get("samples", [])
            summary = summarize(samples)
            medians.append(f"{number(summary.median)} ±{summary.spread:.0%}" if summary else "-")
            times = _ratio(found, row, subject["name"])
            ratios.append(factor(times.median) if times else "-")
        yield row, medians, ratios


def _ratio(found, row, other, ours=OURS):
    samples = [found.get(name, {}).get("samples", []) for name in (ours, other)]
    return ratio(*samples, row.higher_is_better)


def goals(document, backing):
    """What is asked of kmsfs in each row, and whether it is so: (row, what, ratio, wanted)."""
    others = [s["name"] for s in document["subjects"] if s["name"] in PEERS]
    for row in shown_rows(document, backing):
        found = document["results"][backing][row.name]
        for other in others:
            times = _ratio(found, row, other)
            if times:
                yield row, other, times.median, row.goal if other == "gocryptfs" else 1.0
        times = _ratio(found, row, "bridge")
        if times:
            yield row, "bridge", times.median, GOAL_OF_BRIDGE


PEERS = ("gocryptfs", "securefs", "encfs", "cryfs")


def verdict(document, backing):
    """One line, and a line for each goal that is missed."""
    asked = list(goals(document, backing))
    missed = [goal for goal in asked if goal[2] < goal[3]]
    yield f"goals: {len(asked) - len(missed)} of {len(asked)} reached" + (":" if missed else "")
    for row, other, times, wanted in sorted(missed, key=lambda goal: goal[2] / goal[3]):
        yield f"  {row.name}: {factor(times)} times {other}, wanted {wanted:g}"


def text(document):
    """All of it, for a terminal."""
    yield from lines(document["machine"])
    for subject in document["subjects"]:
        yield f"{subject['title']}: {subject['version']}, {subject['options']}"
    if document["note"]:
        yield document["note"]
    yield from _left_out(document)
    names = [subject["title"] for subject in document["subjects"]]
    for backing in document["results"]:
        rows = list(cells(document, backing))
        yield ""
        yield f"== {backing}: medians of {document['settings']['rounds']} rounds, ± half the distance of the quartiles"
        yield from _aligned(["", "", *names], [[r.name, r.unit, *medians] for r, medians, _ in rows])
        yield ""
        yield f"== {backing}: how many times better {OURS} is (medians of each round's ratio)"
        yield from _aligned(["", *names], [[r.name, *ratios] for r, _, ratios in rows])
        yield ""
        yield from verdict(document, backing)


def _left_out(document):
    for skipped in document["skipped"]:
        yield f"skipped: {skipped['name']}: {skipped['why']}"
    for failure in document["failures"]:
        yield "failed: {subject} on {backing}, round {round}, {rows}: {why}".format(**failure)


def _aligned(head, body):
    table = [head, *body]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
        yield "  ".join([first, *rest]).rstrip()


def markdown(document):
    """The section of docs/PERFORMANCE.md, without its marks."""
    yield f"Measured on {document['date']}. {document['note']}".rstrip()
    yield ""
    yield from (f"* {line}" for line in lines(document["machine"]))
    settings = document["settings"]
    yield (
        f"* {settings['rounds']} rounds; streams of {settings['stream'] >> 20} MiB, {settings['random_ops']} random "
        f"accesses, {settings['files']} small files, a tree of {settings['tree_files']} files"
    )
    yield from (f"* {line}" for line in _left_out(document))
    yield ""
    yield f"![Results over {next(iter(document['results']))}](performance.svg)"
    yield ""
    yield "| | version | options |"
    yield "|---|---|---|"
    for subject in document["subjects"]:
        yield f"| {subject['title']} | {subject['version']} | {subject['options']} |"
    names = [subject["title"] for subject in document["subjects"]]
    for backing in document["results"]:
        rows = list(cells(document, backing))
        yield ""
        yield f"### Over {backing}"
        yield ""
        yield "Medians, ± half the distance of the quartiles."
        yield ""
        yield f"| | | {' | '.join(names)} |"
        yield "|---|---|" + "--:|" * len(names)
        for row, medians, _ in rows:
            yield f"| {row.title} | {row.unit} | {' | '.join(medians)} |"
        yield ""
        yield f"How many times better `{OURS}` is: medians of each round's ratio."
        yield ""
        yield f"| | {' | '.join(names)} | goal |"
        yield "|---|" + "--:|" * (len(names) + 1)
        for row, _, ratios in rows:
            yield f"| {row.title} | {' | '.join(ratios)} | {row.goal:g} |"
        yield ""
        yield from _as_list(verdict(document, backing))


def _as_list(found):
    first, *rest = found
    yield first[0].upper() + first[1:] + ("" if rest else ".")
    if rest:
        yield ""
    for line in rest:
        yield "* " + line.strip().replace(line.strip().split(":")[0], f"`{line.strip().split(':')[0]}`", 1)


def put_into(page, document):
    """The page with its results replaced by these."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the lines '{BEGIN}' and '{END}'; put them where the results are to be")
    return "\n".join([before + begin, "", *markdown(document), "", end + after])
