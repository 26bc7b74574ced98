"""Asking witnesses: submitting a checkpoint, and reading which one a witness holds.

Witnesses are found at the URLs of a trust file. Lines with one URL are one witness with several keys (Ed25519 and
ML-DSA-44, or an old key and a new one): it is asked once, and each of its lines counts as the trust file says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import AnchorUnavailable, FormatError
from ..ledger.checkpoint import parse_checkpoint
from ..ledger.note import Verifier, open_note, read_note
from ..ledger.submission import Submission, format_submission, origin_hash
from ..ledger.trust import Policy, Witness
from .exchange import Reply, check_url, exchange


@dataclass(frozen=True, slots=True)
class Target:
    """One place to ask, and the witnesses of the trust file whose keys may answer there."""

    url: str
    witnesses: tuple[Witness, ...]

    @property
    def name(self) -> str:
        """The trust file's names for it."""
        return ", ".join(witness.name for witness in self.witnesses)


@dataclass(frozen=True, slots=True)
class WitnessHead:
    """What a witness shows as its newest checkpoint of a log.

    Attributes:
        name: The trust file's name, or names, for the witness.
        size: Of the tree; ``None`` if the witness shows none or could not be asked.
        root: 32 bytes; ``None`` unless `verified`.
        verified: A key that the trust file lists for the log signed it: then it is evidence, whoever shows it.
        cosigned: A key of this witness cosigned it.
        problem: Why there is no size, or why it is not verified.
    """

    name: str
    size: int | None
    root: bytes | None
    verified: bool
    cosigned: bool = False
    problem: str | None = None


def targets(trust: Policy) -> tuple[Target, ...]:
    """Returns the places to ask, in the order of the trust file; witnesses without a URL are not asked.

    Raises `ConfigError` for what is no URL.
    """
    found: dict[str, list[Witness]] = {}
    for witness in trust.witnesses:
        if witness.url is not None:
            found.setdefault(check_url(witness.url), []).append(witness)
    return tuple(Target(url, tuple(witnesses)) for url, witnesses in found.items())


async def submit(target: Target, submission: Submission, patience: float) -> Reply:
    """Sends a checkpoint; returns the answer, whatever its status. Raises `AnchorUnavailable`."""
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return await exchange(
        "POST", f"{target.url}/add-checkpoint", format_submission(submission), headers, patience=patience
    )


def witness_heads(trust: Policy, origin: str, timeout: float = 5.0) -> list[WitnessHead]:
    """Returns what each witness with a URL shows of a log, in the order of the trust file. Takes about ``timeout``
    seconds at most; never raises for what a witness does. May be called where an event loop is running.

    Raises:
        ConfigError: The trust file holds what is no URL.
    """
    asked = targets(trust)

    async def ask() -> list[WitnessHead]:
        return list(await asyncio.gather(*(read_head(trust, one, origin, timeout) for one in asked)))

    with ThreadPoolExecutor(1) as pool:  # a loop of its own, whatever runs in this thread
        return pool.submit(asyncio.run, ask()).result()


async def read_head(trust: Policy, target: Target, origin: str, patience: float) -> WitnessHead:
    """Returns what one witness shows of a log. Never raises for what it does."""
    try:
        reply = await exchange("GET", f"{target.url}/{origin_hash(origin)}/checkpoint", patience=patience)
    except AnchorUnavailable as problem:
        return WitnessHead(target.name, None, None, False, problem=str(problem))
    if reply.status != 200:
        shows = "shows no checkpoint of this log" if reply.status == 404 else "gave no checkpoint"
        return WitnessHead(target.name, None, None, False, problem=f"{target.url}: {shows} (status {reply.status})")
    try:
        return _judge(trust, target, origin, reply.body)
    except FormatError as problem:
        return WitnessHead(target.name, None, None, False, problem=f"{target.url}: {problem}")


def _judge(trust: Policy, target: Target, origin: str, note: bytes) -> WitnessHead:
    found = parse_checkpoint(read_note(note)[0])
    if found.origin != origin:
        raise FormatError(f"shows a checkpoint of {found.origin!r}")
    cosigned = _opens(note, [witness.verifier for witness in target.witnesses]) is None
    problem = _opens(note, trust.log_keys(origin))
    if problem is not None:
        return WitnessHead(target.name, found.size, None, False, cosigned, f"{target.url}: {problem}")
    return WitnessHead(target.name, found.size, found.root, True, cosigned)


def _opens(note: bytes, verifiers: Sequence[Verifier]) -> str | None:
    """Why the note does not open under these keys; ``None`` if it does."""
    try:
        open_note(note, verifiers)
    except FormatError as problem:
        return str(problem)
    return None
