"""Tokens per day as an SVG of bars: the same numbers give the same bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from xml.sax.saxutils import escape

from lmctl.record import record
from lmctl.usage.sums import Sums

_WIDTH, _HEIGHT = 900, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 70, 50
_LABELS = 8  # dates below the axis, at most
_STYLE = """
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; } .line { stroke: #d1d9e0; }
.in { fill: #0a66c2; } .out { fill: #bc4c00; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #f0f6fc; } .faint { fill: #9198a1; } .line { stroke: #3d444d; }
.in { fill: #4493f8; } .out { fill: #f0883e; }
}
"""


@record
class _Frame:
    """Where the bars stand: `step` pixels for one day, `most` tokens up to the top."""

    step: float
    most: int

    def height(self, tokens: int) -> float:
        return tokens / self.most * (_HEIGHT - _TOP - _BOTTOM)

    def x(self, number: int) -> float:
        return _LEFT + number * self.step


def days(sums: Mapping[tuple[str, ...], Sums]) -> list[tuple[str, int, int]]:
    """Return day, tokens read and tokens written from the first day to the last, those without any included."""
    known = {key[0]: one for key, one in sums.items()}
    if not known:
        return []
    first, last = date.fromisoformat(min(known)), date.fromisoformat(max(known))
    every = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    found = ((day, known.get(day, Sums())) for day in every)
    return [(day, one.tokens_in or 0, one.tokens_out or 0) for day, one in found]


def svg(name: str, found: Sequence[tuple[str, int, int]]) -> str:
    """Return the picture of what `days` returns."""
    most = _round_up(max((max(read, wrote) for _, read, wrote in found), default=1) or 1)
    frame = _Frame((_WIDTH - _LEFT - _RIGHT) / max(1, len(found)), most)
    title = f"Tokens per day of {name}"
    total = f"read {sum(one[1] for one in found):,}, written {sum(one[2] for one in found):,}"
    span = f"{found[0][0]} to {found[-1][0]}" if found else "nothing is counted"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}: {escape(total)}, {escape(span)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text x="{_LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text class="faint" x="{_LEFT}" y="44">{escape(span)}; in all {escape(total)}</text>',
        *_legend(),
    ]
    return "\n".join([*head, *_scale(frame), *_bars(frame, found), *_dates(frame, found), "</svg>"]) + "\n"


def _legend() -> list[str]:
    at = _WIDTH - _RIGHT - 190
    return [
        f'<rect class="in" x="{at}" y="34" width="10" height="10"/><text x="{at + 16}" y="44">tokens read</text>',
        f'<rect class="out" x="{at + 100}" y="34" width="10" height="10"/>'
        f'<text x="{at + 116}" y="44">tokens written</text>',
    ]


def _scale(frame: _Frame) -> list[str]:
    lines = [f'<text class="faint" transform="translate(16 {_HEIGHT / 2:.0f}) rotate(-90)">tokens</text>']
    for part in range(5):
        tokens = frame.most * part // 4
        y = _HEIGHT - _BOTTOM - frame.height(tokens)
        lines.append(f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="faint" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(tokens)}</text>')
    return lines


def _bars(frame: _Frame, found: Sequence[tuple[str, int, int]]) -> list[str]:
    width = frame.step * 0.4
    lines = []
    for number, (day, read, wrote) in enumerate(found):
        for place, (kind, tokens) in enumerate((("in", read), ("out", wrote))):
            height = max(1.0, frame.height(tokens))  # what is little can be seen as well
            if tokens:
                x, y = frame.x(number) + frame.step * 0.1 + place * width, _HEIGHT - _BOTTOM - height
                box = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
                verb = "read" if kind == "in" else "written"
                lines.append(f'<rect class="{kind}" {box}><title>{escape(day)}: {tokens:,} {verb}</title></rect>')
    return lines


def _dates(frame: _Frame, found: Sequence[tuple[str, int, int]]) -> list[str]:
    every = max(1, -(-len(found) // _LABELS))
    lines = [f'<text class="faint" x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">day</text>']
    for number in range(0, len(found), every):
        x = frame.x(number) + frame.step / 2
        place = f'x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle"'
        lines.append(f'<text class="faint" {place}>{escape(found[number][0])}</text>')
    return lines


def _round_up(count: int) -> int:
    """Return the next number above that four lines divide well: 4, 8, 12, 20, 40, 80 and so on by ten."""
    size = 1
    while True:
        for step in (4, 8, 12, 20):
            if count <= step * size:
                return step * size
        size *= 10


def _short(tokens: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens / size:g}{unit}"
    return str(tokens)
