"""The chart: for each row a panel with a bar for each subject, as long as its median, with a line
from quartile to quartile. Panels are as wide as the fastest mount's bar; that of the backing alone
may be many times longer, and is then cut off."""

from html import escape

from .report import number, shown_rows
from .stats import summarize

COLUMNS = 4
PANEL = 250
GAP = 24
MARGIN = 24
BAR = 11
PITCH = 15
TITLE = 34
HEAD = 64
WHAT = "medians, and lines from quartile to quartile; bars with a gap are longer than their panel"

#: By subject, told apart also without colours as bars have their order.
COLOURS = {
    "kmsfs": "#0b6e99",
    "kmsfs-writeback": "#5aa9c7",
    "kmsfs-low-latency": "#2f4b7c",
    "bridge": "#b7d7e3",
    "plain": "#bbbbbb",
    "gocryptfs": "#d1495b",
    "securefs": "#edae49",
    "encfs": "#7a9e54",
    "cryfs": "#8d6a9f",
}


def chart(document, backing):
    """An SVG picture of the results over one backing."""
    subjects = document["subjects"]
    rows = shown_rows(document, backing)
    height = TITLE + PITCH * len(subjects) + GAP
    lines = -(-len(rows) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    total = HEAD + lines * height + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        'font-family="sans-serif" font-size="10" fill="#222222">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        _text(MARGIN, 22, f"Over {backing}: {WHAT}", size=14),
        *_legend(subjects),
    ]
    for place, row in enumerate(rows):
        x = MARGIN + place % COLUMNS * (PANEL + GAP)
        y = HEAD + place // COLUMNS * height
        parts += _panel(x, y, row, document["results"][backing][row.name], subjects)
    return "\n".join([*parts, "</svg>", ""])


def _legend(subjects):
    x = MARGIN
    for subject in subjects:
        yield f'<rect x="{x}" y="34" width="10" height="10" fill="{_colour(subject)}"/>'
        yield _text(x + 14, 43, subject["title"])
        x += 30 + 6 * len(subject["title"])


def _panel(x, y, row, found, subjects):
    better = "" if row.higher_is_better else " (less is better)"
    yield _text(x, y + 12, row.title, weight="bold")
    yield _text(x, y + 25, row.unit + better)
    summaries = [summarize(found.get(subject["name"], {}).get("samples", [])) for subject in subjects]
    room = PANEL - 44
    mounts = [summary.q3 for one, summary in zip(subjects, summaries) if summary and one["name"] != "plain"]
    most = max(mounts, default=0) or max((summary.q3 for summary in summaries if summary), default=0) or 1
    scale = room / most
    for place, (subject, summary) in enumerate(zip(subjects, summaries)):
        top = y + TITLE + place * PITCH
        if summary is None:
            yield _text(x + 2, top + 9, "-", subject["title"])
            continue
        length = min(summary.median * scale, room)
        yield f'<rect x="{x}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{_colour(subject)}">'
        yield f"<title>{escape(subject['title'])}: {number(summary.median)} {escape(row.unit)}</title></rect>"
        if summary.q3 * scale > room + 0.5:
            yield f'<rect x="{x + room - 16}" y="{top}" width="5" height="{BAR}" fill="#ffffff"/>'
            yield _text(x + room + 4, top + 9, number(summary.median))
            continue
        middle = top + BAR / 2
        yield (
            f'<line x1="{x + summary.q1 * scale:.1f}" x2="{x + summary.q3 * scale:.1f}" y1="{middle}" y2="{middle}" '
            'stroke="#222222"/>'
        )
        yield _text(x + summary.q3 * scale + 4, top + 9, number(summary.median))


def _colour(subject):
    return COLOURS.get(subject["name"], "#666666")


def _text(x, y, text, hint=None, *, size=None, weight=None):
    attributes = (f' font-size="{size}"' if size else "") + (f' font-weight="{weight}"' if weight else "")
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<text x="{x:.1f}" y="{y}"{attributes}>{title}{escape(text)}</text>'
