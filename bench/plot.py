"""Bars as SVG, without any library: readable on light and on dark pages, range and number at each bar."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bench import OURS
from bench.measure import shown

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 250, 90, 24, 46
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.faint { fill: #59636e }
.ours { fill: #0969da } .other { fill: #818b98 } .last { fill: #cf222e }
.limit { fill: none; stroke: #818b98; stroke-dasharray: 3 2 }
.range { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .faint { fill: #9198a1 }
  .ours { fill: #4493f8 } .other { fill: #656c76 } .last { fill: #f85149 }
  .limit { stroke: #9198a1 } .range { stroke: #f0f6fc }
}
"""


def bars(case: Mapping[str, Any]) -> str:
    """One case as horizontal bars from zero, ranked; what is not ranked stands first, as outlines.

    Where nothing is ranked, the sides are parts of one thing, or steps of a growth, and keep their order.
    """
    ranked = case["ranking"]
    sides = [*(side for side in case["sides"] if side in case["unranked"]), *ranked]
    legend = "; blue: audit_middleware, red: last, outline: not ranked" if ranked else ""
    most = max(case["sides"][side]["median"] for side in sides) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TOP + ROW * len(sides) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(case["name"])}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="18">{escape(case["name"])}</text>',
        f'<text class="faint" x="8" y="35">{escape(case["unit"])}, {case["better"]} is better; median, line: range'
        f"{legend}</text>",
    ]
    for number, side in enumerate(sides):
        if not ranked:
            kind = "ours"
        elif side in case["unranked"]:
            kind = "limit"
        elif len(ranked) > 1 and side == ranked[-1]:
            kind = "last"
        else:
            kind = "ours" if side.startswith(OURS) else "other"
        lines += _bar(case, side, TOP + ROW * number, scale, kind)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bar(case: Mapping[str, Any], side: str, top: int, scale: float, kind: str) -> list[str]:
    found = case["sides"][side]
    width = max(1.0, found["median"] * scale)
    low, high = (min(LEFT + found[end] * scale, WIDTH - 4) for end in ("min", "max"))
    middle = top + 9
    after = max(LEFT + width, min(high, WIDTH - RIGHT)) + 6
    weight = ' font-weight="600"' if side.startswith(OURS) else ""
    name = side if len(side) < 40 else side[:38] + "…"
    return [
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end"{weight}>{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{top + 2}" width="{width:.1f}" height="14" rx="2"/>',
        f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{min(high, WIDTH - RIGHT):.1f}" y2="{middle}"/>',
        f'<text x="{after:.1f}" y="{middle + 4}"{weight}>{shown(found["median"])}</text>',
    ]
