"""Charts as SVG, for pages that need nothing beside themselves."""

import html
import math
from collections.abc import Mapping, Sequence

LINES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")


def chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    marks: Mapping[str, Sequence[float]] | None = None,
    size: tuple[int, int] = (430, 240),
    log: bool | None = None,
) -> str:
    """An SVG chart of named series of (x, y), finite ones only; "" without any.

    marks: named places on the horizontal axis, drawn as lines. log: of the vertical axis; by default where all values are positive
    and the largest is ten times the smallest.
    """
    series = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs, ys = zip(*(point for points in series.values() for point in points), strict=True)
    log = min(ys) > 0 and max(ys) > 10 * min(ys) if log is None else log
    scale = math.log10 if log else float
    (left, right, top, bottom), (width, height) = (52, 8, 22, 26), size
    low, high = scale(min(ys)), scale(max(ys))
    spread_x, spread_y = max(max(xs) - min(xs), 1e-9), max(high - low, 1e-9)

    def across(x: float) -> float:
        return left + (x - min(xs)) / spread_x * (width - left - right)

    def down(y: float) -> float:
        return height - bottom - (scale(y) - low) / spread_y * (height - top - bottom)

    parts = [f'<text x="{left}" y="14">{html.escape(title)}</text>']
    for share in (0, 0.5, 1):
        y, x = low + share * (high - low), min(xs) + share * spread_x
        y_pixel = height - bottom - share * (height - top - bottom)
        parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y_pixel:.1f}" y2="{y_pixel:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y_pixel + 4:.1f}" text-anchor="end">{10**y if log else y:.3g}</text>')
        parts.append(f'<text x="{across(x):.1f}" y="{height - 8}" text-anchor="middle">{x:.4g}</text>')
    names = [*series, *(marks or {})]
    for number, name in enumerate(names):
        colour = LINES[number % len(LINES)]
        if name in series:
            line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in series[name])
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        else:
            places = [across(x) for x in marks[name] if min(xs) <= x <= max(xs)]
            middle = (top + height - bottom) / 2
            # Two kinds of marks share the height, so that both can be seen where they coincide.
            ends = (top, middle) if number % 2 else (middle, height - bottom)
            path = "".join(f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" for x in places)
            parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1" fill="none" opacity=".6"/>')
        place = f'x="{width - right}" y="{14 + 13 * number}" text-anchor="end"'
        parts.append(f'<text {place} style="fill:{colour}">{html.escape(name)}</text>')
    about = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title, quote=True)}"'
    return f"<svg {about}>{''.join(parts)}</svg>"
