"""The seam to a channel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ...errors import FollowerError
from ..notify.message import Notification
from ..post import Poster, Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    Attributes:
        verdict: ``taken``; ``later``: to be tried again; ``never``: this message will not be taken; ``gone``: the
            channel is to be left alone until somebody acts.
        why: What is wrong, without a secret and without what the other side wrote.
        after: In how many seconds at the earliest, if the other side said so.
    """

    verdict: Literal["taken", "later", "never", "gone"]
    why: str | None = None
    after: float | None = None


class Line(Protocol):
    """An open way to a channel, used by one thread. ``pause`` is the least number of seconds between two messages."""

    pause: float

    def send(self, told: Notification) -> Answer:
        """One attempt, within a bounded time. Raises `FollowerError` and `OSError` for what may pass."""
        ...

    def close(self) -> None:
        """Releases connections."""
        ...


class Channel(Protocol):
    """What the settings say about a channel; nothing is opened yet. Its text form shows no secret."""

    def open(self) -> Line:
        """Opens it. Raises `FollowerError`."""
        ...


Encode = Callable[[Notification], tuple[bytes, Mapping[str, str]]]


class HttpLine:
    """One POST a message. 429, 5xx and what is about the channel (401, 403, 404, redirects) are tried again."""

    def __init__(
        self,
        poster: Poster,
        encode: Encode,
        *,
        never: Collection[int] = (400, 409, 413, 422),
        gone: Collection[int] = (410,),
        pause: float = 0.0,
    ) -> None:
        """``encode(notification)`` returns body and headers; ``never`` and ``gone`` are statuses."""
        self._poster, self._encode, self._never, self._gone = poster, encode, never, gone
        self.pause = pause

    def send(self, told: Notification) -> Answer:
        """See `Line`."""
        body, headers = self._encode(told)
        try:
            reply = self._poster.post(body, headers)
        except FollowerError as problem:
            return Answer("later", str(problem))
        return self._judged(reply)

    def _judged(self, reply: Reply) -> Answer:
        said = f"{self._poster.place}: answered {reply.status}"
        if 200 <= reply.status < 300:
            return Answer("taken")
        if reply.status in self._never:
            return Answer("never", said)
        if reply.status in self._gone:
            return Answer("gone", said)
        return Answer("later", f"{said}: a redirect" if 300 <= reply.status < 400 else said, reply.after)

    def close(self) -> None:
        """See `Line`."""
        self._poster.close()
