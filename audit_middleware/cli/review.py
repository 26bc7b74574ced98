"""``review``: the periodic review as a page to go through and sign."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evidence.keywatch import KeyWatch
from ..evidence.wellformed import check_record
from ..frameworks.inventory import list_routes
from ..ledger.note import parse_vkey
from ..ledger.report import Report
from ..ledger.verify import verify
from ..pipeline.inventory import examine
from ..policy.evaluate import Policy
from ..policy.suite import SuiteResult
from ..policy.suite import run as run_tests
from ..review.activity import Activity
from ..review.checklist import TOP, Basis, Item, to_dict
from ..review.items import review
from ..review.log import VERIFICATIONS
from ..stores.index import Filters
from ..stores.opening import Index, Place, Store, open_log
from .imports import PREDICATES, load_policy, load_predicates, load_router
from .log import LOG
from .output import out, print_json, progress
from .query import moment, read_record, search_index
from .review_page import Head, page


def review_command(
    log: LOG,
    policy: Annotated[Path, typer.Option(help="The policy under review.")],
    app: Annotated[str | None, typer.Option(help="The application, MODULE:APP, to list its routes.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339 time, a date, or how long ago: 90d.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since; exclusive.")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Most rows of a list of users, actions, records.")] = TOP,
    check: Annotated[bool, typer.Option("--verify", help="Verify the whole log for the review.")] = False,
    output: Annotated[Path | None, typer.Option("--out", help="The file to write. Default: standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of Markdown.")] = False,
    predicates: PREDICATES = None,
) -> None:
    """Write the periodic review: a checklist by controls with the log's numbers. Marks what needs attention."""
    rules = load_policy(policy, predicates)
    store = open_log(log)
    tests = run_tests(policy, predicates=load_predicates(predicates))
    head, basis = gather(log, store, rules, tests, (moment(since), moment(until)), app, top=top, check=check)
    items = review(basis)
    if as_json:
        _write_json(head, items, output)
        return
    text = page(head, items)
    if output is None:
        sys.stdout.write(text)
        return
    output.write_text(text)
    marked = sum(item.attention for item in items)
    out.print(f"{output}: {len(items)} items, {marked} with numbers that need attention")


def gather(
    log: Place,
    store: Store,
    rules: Policy,
    tests: SuiteResult,
    period: tuple[str | None, str | None],
    app: str | None,
    *,
    top: int = TOP,
    check: bool = False,
) -> tuple[Head, Basis]:
    """Reads what the review is made of. ``period`` is in the form of a record's times."""
    since, until = period
    index = search_index(store)
    size = index.catch_up()
    activity = Activity(since, until)
    _load_before(activity, index, since)
    start, stop = span(index, since, until, size)
    with progress("reading", stop - start) as advance:
        frames = store.frames(start, stop) if start < stop else ()
        activity.read(_told(frames, start, advance))
    now = datetime.now(UTC)
    verified = next(index.find(Filters(action=VERIFICATIONS), limit=1), None)
    basis = Basis(
        rules,
        activity,
        now.date(),
        size,
        str(read_record(index, 0)["timestamp"]) if size else None,
        sum(1 for _ in index.unfinished()),
        None if verified is None else str(read_record(index, verified)["timestamp"]),
        tests,
        examine(list_routes(load_router(app)), rules, now.date(), strict=True) if app else None,
        _verify(store) if check else None,
        top,
    )
    moment_text = now.strftime("%Y-%m-%d %H:%M UTC")
    return Head(store.origin, str(log), since, until, moment_text, size, rules.name, rules.digest), basis


def span(index: Index, since: str | None, until: str | None, size: int) -> tuple[int, int]:
    """The indexes between which all records of the period are."""
    start = next(index.find(Filters(since=since), newest_first=False, limit=1), size) if since else 0
    stop = next(index.find(Filters(until=until), limit=1), -1) + 1 if until else size
    return start, stop


def _told(frames: Any, start: int, advance: Any) -> Any:
    for frame in frames:
        yield frame
        advance(frame.head.size - start)


def _load_before(activity: Activity, index: Index, since: str | None) -> None:
    """Tells which policy was in force when the period began."""
    at = next(index.find(Filters(action="audit.policy_loaded", until=since), limit=1), None) if since else None
    if at is not None:
        record = read_record(index, at)
        activity.policy_loaded(at, record["timestamp"], record["service"]["name"], str(record["extra"].get("digest")))


def _verify(store: Store) -> Report:
    watch = KeyWatch()
    verifiers = [parse_vkey(text) for text in store.vkeys]
    with progress("verifying", store.head().size) as advance:
        frames = watch.over(store.raw_frames())
        report = verify(frames, store.origin, verifiers, check_entry=check_record, progress=advance)
    return watch.amend(report)


def _write_json(head: Head, items: list[Item], output: Path | None) -> None:
    value = {**head.to_dict(), "items": to_dict(items)}
    if output is None:
        print_json(value)
    else:
        output.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
