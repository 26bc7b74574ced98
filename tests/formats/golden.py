"""Writes the golden files and the examples on the page anew: ``python -m tests.formats.golden``.

Look at the difference before committing it: it is what every destination will see.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from audit_middleware.formats import FORMATS, Format
from tests.formats.records import RECORDS

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "exports.md"
SHOWN = "denied"
_EXAMPLE = re.compile(r"(<!-- example: ([a-z0-9.-]+) -->\n).*?(<!-- end -->\n)", re.S)


def path_of(form: Format) -> Path:
    """Where a format's golden file is."""
    return GOLDEN / f"{form.name}.{'txt' if form.media_type.startswith('text/') else 'json'}"


def text_of(form: Format) -> str:
    """What the golden file of a format holds: JSON laid out for reading, by the name of the record; else the lines."""
    encode = form.encoder()
    made = {name: encode(record).decode() for name, record in RECORDS.items()}
    if form.media_type.startswith("text/"):
        return "".join(f"{line}\n" for line in made.values())
    return json.dumps({name: json.loads(text) for name, text in made.items()}, indent=1, ensure_ascii=True) + "\n"


def example(name: str) -> str:
    """One record in one format, for the page."""
    text = path_of(FORMATS[name]).read_text()
    if FORMATS[name].media_type.startswith("text/"):
        return f"```text\n{text.splitlines()[list(RECORDS).index(SHOWN)]}\n```\n"
    found = json.loads(text)[SHOWN]
    if "eventData" in found:
        found["eventData"] = "(the JSON below, as text)"
        inner = json.loads(json.loads(text)[SHOWN]["eventData"])
        return f"```json\n{laid_out(found)}\n```\n\n```json\n{laid_out(inner)}\n```\n"
    return f"```json\n{laid_out(found)}\n```\n"


def laid_out(value: Any, before: str = "", width: int = 116) -> str:
    """JSON in which what fits a line stands on one."""
    short = json.dumps(value)
    if len(before) + len(short) <= width or not isinstance(value, dict | list):
        return short
    inside = before + " "
    if isinstance(value, list):
        return "[\n" + ",\n".join(inside + laid_out(one, inside, width) for one in value) + f"\n{before}]"
    rows = (
        f"{inside}{json.dumps(name)}: {laid_out(one, inside, width - len(name) - 4)}" for name, one in value.items()
    )
    return "{\n" + ",\n".join(rows) + f"\n{before}}}"


def page() -> str:
    """The page with its examples as the golden files have them."""
    return _EXAMPLE.sub(lambda found: found[1] + example(found[2]) + found[3], PAGE.read_text())


def main() -> None:
    """Writes everything."""
    GOLDEN.mkdir(exist_ok=True)
    for form in FORMATS.values():
        path_of(form).write_text(text_of(form))
    if PAGE.exists():
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
