"""A JSON body that a rule reads (``context.body.<name>``): read before the decision, then given to the application.

What is read is bounded, must be JSON and have one meaning only: UTF-8, no name twice in an object, no NaN, no infinity.
Otherwise a rule could be asked about another value than the one that the handler's parser picks. The application gets
the same messages, unchanged and in order, and after them what is still to come.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Never

from ..errors import AttributesError
from ..protocols import Message, Receive

__all__ = ["Replay", "is_json", "parse"]


class Replay:
    """A ``receive`` that has read ahead. Not used by two tasks at once, as no ASGI ``receive`` is."""

    __slots__ = ("_receive", "ahead")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ahead: list[Message] = []

    async def __call__(self) -> Message:
        return self.ahead.pop(0) if self.ahead else await self._receive()

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """The whole body.

        Raises:
            AttributesError: it is larger than ``limit`` bytes, does not come in time, or the client went away. What was
                read until then is replayed all the same.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self._receive()
                    self.ahead.append(message)
                    if message["type"] != "http.request":
                        raise AttributesError("body: the client went away")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise AttributesError("body: larger than a rule may read")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise AttributesError("body: not there in time") from None


def is_json(content_type: str) -> bool:
    """``application/json`` or a type that ends in ``+json``."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def parse(body: bytes, content_types: list[str]) -> Any:
    """The value of a JSON body; ``None``, which is a missing attribute, for an empty one.

    Raises:
        AttributesError: it is not JSON by its content type or its text, or has no single meaning.
    """
    if not body:
        return None
    if len(content_types) != 1 or not is_json(content_types[0]):
        raise AttributesError("body: its content type is not JSON")
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):  # also UnicodeDecodeError and JSONDecodeError
        raise AttributesError("body: not JSON with a single meaning") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _refuse(constant: str) -> Never:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number
