"""A chart of seconds against quality as a plain SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

COLOURS = (
    "#d97706", "#2563eb", "#059669", "#7c3aed", "#db2777", "#0891b2", "#65a30d", "#92400e", "#1e293b", "#e11d48",
    "#a78bfa", "#38bdf8", "#84cc16", "#f9a8d4", "#facc15", "#5eead4",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 60, 40, 200, 50

Point = tuple[float, float]


def chart(series: Mapping[str, Sequence[Point]], path: Path, *, title: str, x: str, y: str) -> None:
    """Draw one line a series through its points, left to right, with a legend; grey and dashed is the control.

    Args:
        series: name -> (x, y) points; a name that begins with "plain" is the control.
        path: where the SVG goes.
        title: what stands above the chart.
        x: what the axis across means.
        y: what the axis up means.
    """
    points = [point for line in series.values() for point in line]
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    low_y, high_y = min(p[1] for p in points), max(p[1] for p in points)

    def place(point: Point) -> Point:
        across = (point[0] - low_x) / ((high_x - low_x) or 1)
        up = (point[1] - low_y) / ((high_y - low_y) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>",
    ]
    for part in range(6):
        value_x, value_y = low_x + (high_x - low_x) * part / 5, low_y + (high_y - low_y) * part / 5
        at_x, at_y = place((value_x, value_y))
        rows.append(f'<path d="M{LEFT} {at_y:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        rows.append(f'<text x="{LEFT - 8}" y="{at_y + 4:.1f}" text-anchor="end">{value_y:.3g}</text>')
        rows.append(f'<text x="{at_x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value_x:.3g}</text>')
    for nth, (name, line) in enumerate(series.items()):
        control = name.startswith("plain")
        colour = "#6b7280" if control else COLOURS[nth % len(COLOURS)]
        placed = [place(point) for point in sorted(line)]
        way = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
        rows.append(
            f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"'
            + (' stroke-dasharray="5 4"/>' if control else "/>")
        )
        rows += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>' for a, b in placed]
        rows.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{TOP + nth * 20}" width="12" height="12" fill="{colour}"/>')
        rows.append(f'<text x="{WIDTH - RIGHT + 34}" y="{TOP + 10 + nth * 20}">{escape(name)}</text>')
    path.write_text("\n".join([*rows, "</svg>"]) + "\n", encoding="utf-8")
