"""Measurements as text and as an SVG chart: one panel an axis and backing, one line a row."""

import html
import math

# How much dearer a call may be at one point than at another and still count as flat. The machine's own
# noise is some tens of per cent.
FLAT = 2.0
COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#8e5aa8", "#b8860b", "#40798c"]
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 460, 300, 2
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 92


def growth(points, row):
    """The first decile at the dearest point over that at the first one."""
    costs = [point["rows"][row]["p10"] for point in points]
    return max(costs) / costs[0]


def amount(number, unit):
    if unit == "bytes":
        power = min(int(math.log2(number)) // 10, 3)
        return f"{number >> 10 * power} {['B', 'KiB', 'MiB', 'GiB'][power]}"
    return f"{number:,}"


def rows_of(series):
    return list(series["points"][0]["rows"])


def as_text(result):
    lines = [f"{result['machine']}; {result['when']}", ""]
    for series in result["series"]:
        points = series["points"]
        heads = [amount(point["at"], series["unit"]) for point in points]
        width = max(14, *(len(head) + 2 for head in heads))
        lines.append(f"{series['title']}, on {series['backing']}; µs a call: median; first decile, quartiles")
        lines.append(" " * 26 + "".join(head.rjust(width) for head in heads) + "   dearest/first")
        for row in rows_of(series):
            cells = [point["rows"][row] for point in points]
            factor = growth(points, row)
            lines.append(
                f"  {row:24}" + "".join(f"{cell['median']:{width}.0f}" for cell in cells) + f"{factor:13.2f}"
                + ("" if factor <= FLAT else "  NOT FLAT")
            )
            spread = (f"{cell['p10']:.0f} {cell['q1']:.0f}-{cell['q3']:.0f}".rjust(width) for cell in cells)
            lines.append(" " * 26 + "".join(spread))
        lines.append(
            f"  {'VmHWM of the mount, MiB':24}"
            + "".join(f"{point['memory']['VmHWM'] / 1024:{width}.0f}" for point in points)
        )
        if "mount_ms" in points[0]:
            cells = "".join(f"{point['mount_ms']:{width}.0f}" for point in points)
            lines.append(f"  {'mounting, ms':24}" + cells)
        lines += [f"  load when it began: {series['load']:.1f}", ""]
    return "\n".join(lines)


def as_svg(result):
    series = result["series"]
    rows = math.ceil(len(series) / COLUMNS)
    width, height = PANEL_WIDTH * COLUMNS, PANEL_HEIGHT * rows + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, one in enumerate(series):
        x, y = index % COLUMNS * PANEL_WIDTH, index // COLUMNS * PANEL_HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{panel(one)}</g>')
    about = f"Median of each call in microseconds. {result['machine']}; {result['when']}"
    parts += [text(8, height - 10, about), "</svg>\n"]
    return "\n".join(parts)


def text(x, y, words, **attributes):
    written = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{written}>{html.escape(words)}</text>'


def panel(series):
    points = series["points"]
    right, bottom = PANEL_WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM
    low, high = (math.log10(edge) for edge in (points[0]["at"], max(points[-1]["at"], points[0]["at"] * 2)))
    medians = [cell["median"] for point in points for cell in point["rows"].values()]
    floor, ceiling = math.floor(math.log10(min(medians))), math.ceil(math.log10(max(medians)))
    ceiling = max(ceiling, floor + 1)

    def across(at):
        return LEFT + (math.log10(at) - low) / (high - low) * (right - LEFT)

    def up(cost):
        return bottom - (math.log10(cost) - floor) / (ceiling - floor) * (bottom - TOP)

    parts = [text(LEFT, 18, f"{series['title']}, {series['backing']}", font_weight="bold")]
    for power in range(floor, ceiling + 1):
        y = up(10.0**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, f"{10.0**power:g} µs", text_anchor="end"))
    for point in points:
        label = amount(point["at"], series["unit"])
        parts.append(text(across(point["at"]), bottom + 15, label, text_anchor="middle", font_size=9))
    for number, row in enumerate(rows_of(series)):
        colour = COLOURS[number % len(COLOURS)]
        at = [(across(point["at"]), up(point["rows"][row]["median"])) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in at]
        legend = (LEFT + number % 3 * 130, bottom + 34 + number // 3 * 16)
        parts.append(f'<rect x="{legend[0]}" y="{legend[1] - 8}" width="9" height="9" fill="{colour}"/>')
        parts.append(text(legend[0] + 13, legend[1], row))
    return "".join(parts)
