"""A chart of seconds against quality as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = (
    "#d97706", "#2563eb", "#059669", "#7c3aed", "#db2777", "#0891b2", "#65a30d", "#92400e", "#1e293b", "#e11d48",
    "#a78bfa", "#38bdf8", "#84cc16", "#f9a8d4", "#facc15", "#5eead4",
)  # fmt: skip
LEFT, EDGE, TOP, BOTTOM = 60, 660, 40, 50  # the plot lies between LEFT and EDGE; the legend is right of it
LEAST_HEIGHT, LINE = 480, 20


@dataclass(frozen=True)
class Spot:
    """A point of a chart.

    Attributes:
        x, y: where it is; an infinite y stands on the upper edge.
        xs, ys: ends of the bars through it, along and across.
        said: what it shows when pointed at.
    """

    x: float
    y: float
    xs: tuple[float, float] | None = None
    ys: tuple[float, float] | None = None
    said: str = ""


class _Frame:
    """Where values lie on the page."""

    def __init__(self, spots: Sequence[Spot], height: int, less: bool) -> None:
        xs = [x for spot in spots for x in (spot.x, *(spot.xs or ()))]
        ys = [y for spot in spots for y in (spot.y, *(spot.ys or ())) if math.isfinite(y)] or [0.0]
        (self.low_x, self.high_x), (self.low_y, self.high_y) = _ends(xs), _ends(ys)
        self.height, self.less = height, less

    def x(self, value: float) -> float:
        return LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (EDGE - LEFT)

    def y(self, value: float) -> float:
        if math.isinf(value):
            return TOP - 8 if value > 0 else self.height - BOTTOM
        part = (value - self.low_y) / (self.high_y - self.low_y)
        up = 1 - part if self.less else part
        return self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def axes(self) -> list[str]:
        rows = []
        for part in range(6):
            x = self.low_x + (self.high_x - self.low_x) * part / 5
            y = self.low_y + (self.high_y - self.low_y) * part / 5
            rows.append(f'<path d="M{LEFT} {self.y(y):.1f}H{EDGE}" stroke="#e5e7eb"/>')
            rows.append(f'<text x="{LEFT - 8}" y="{self.y(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
            rows.append(
                f'<text x="{self.x(x):.1f}" y="{self.height - BOTTOM + 18}" text-anchor="middle">{x:.3g}</text>'
            )
        return rows

    def spot(self, spot: Spot, colour: str, turn: int) -> list[str]:
        x, y = self.x(spot.x), self.y(spot.y)
        ways = [f"M{self.x(spot.xs[0]):.1f} {y:.1f}H{self.x(spot.xs[1]):.1f}"] if spot.xs else []
        ways += [f"M{x:.1f} {self.y(spot.ys[0]):.1f}V{self.y(spot.ys[1]):.1f}"] if spot.ys else []
        rows = [f'<path d="{way}" stroke="{colour}" opacity=".4"/>' for way in ways]
        said = f"<title>{escape(spot.said)}</title>" if spot.said else ""
        return [*rows, _mark(x, y, colour, turn, said)]


def _mark(x: float, y: float, colour: str, turn: int, said: str = "") -> str:
    """Return a mark whose shape tells how often the colours have been gone through before."""
    if turn == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{said}</circle>'
    shape = "h8v8h-8z" if turn == 1 else "l4 8h-8z"
    left = x - 4 if turn == 1 else x
    return f'<path d="M{left:.1f} {y - 4:.1f}{shape}" fill="{colour}">{said}</path>'


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Return where an axis begins and ends; equal values lie in its middle."""
    low, high = min(values), max(values)
    around = 0 if low < high else abs(low) / 10 or 1
    return low - around, high + around


def chart(series: Mapping[str, Sequence[Spot]], *, title: str, x: str, y: str, less: bool = False) -> str:
    """Draw one line a series through its points, left to right, with a legend; grey and dashed is the control.

    Args:
        series: name -> points; a name that begins with "plain" is the control. There is at least one point.
        title: what stands above the chart.
        x: what the axis across means.
        y: what the axis up means.
        less: whether less of it is better, and so is up.
    """
    height = max(LEAST_HEIGHT, TOP + LINE * len(series) + BOTTOM)
    width = EDGE + max(200, 46 + 7 * max(map(len, series)))
    frame = _Frame([spot for line in series.values() for spot in line], height, less)
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(LEFT + EDGE) / 2}" y="{height - 12}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(16 {(TOP + height - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}{', less is better' if less else ''}</text>",
        *frame.axes(),
    ]
    for nth, (name, line) in enumerate(series.items()):
        control = name.startswith("plain")
        colour = "#6b7280" if control else COLOURS[nth % len(COLOURS)]
        turn = 0 if control else nth // len(COLOURS)
        placed = sorted(line, key=lambda spot: spot.x)
        way = " ".join(f"{frame.x(spot.x):.1f},{frame.y(spot.y):.1f}" for spot in placed)
        dashed = ' stroke-dasharray="5 4"' if control else ""
        rows.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        rows += [part for spot in placed for part in frame.spot(spot, colour, turn)]
        at = TOP + nth * LINE
        rows.append(_mark(EDGE + 22, at + 6, colour, turn))
        rows.append(f'<text x="{EDGE + 34}" y="{at + 10}">{escape(name)}</text>')
    return "\n".join([*rows, "</svg>"]) + "\n"
