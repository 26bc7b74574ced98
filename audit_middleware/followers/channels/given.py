"""A channel's settings as its type reads them: with defaults, and with the secrets that its references name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from ...policy.channels import Channel, is_reference, url_problem
from ..post import Poster
from ..secrets import fetch


class Given:
    """The settings of one channel; what is wrong goes to ``finding(key, text)``, and a stand-in is returned."""

    def __init__(self, channel: Channel, finding: Callable[[str, str], None], *, secrets: bool = True) -> None:
        """Without ``secrets`` nothing is fetched, and every secret is empty."""
        self._options, self.finding, self._secrets = channel.options, finding, secrets

    def secret(self, key: str) -> SecretStr:
        """What a reference names; empty if there is none."""
        text = str(self._options.get(key, ""))
        if not text or not self._secrets:
            return SecretStr("")
        try:
            return SecretStr(fetch(text))
        except ValueError as problem:
            self.finding(key, str(problem))
            return SecretStr("")

    def url(self, key: str = "url", otherwise: str = "") -> SecretStr:
        """A URL, written out or named by a reference."""
        text = str(self._options.get(key, otherwise))
        url = self.secret(key) if is_reference(text) else SecretStr(text)
        if url.get_secret_value() and (problem := url_problem(url.get_secret_value())):
            self.finding(key, problem)
        return url

    def text(self, key: str, otherwise: str = "") -> str:
        """One line of text."""
        return str(self._options.get(key, otherwise))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._options.get(key, ())
        return found if isinstance(found, tuple) else ()

    def number(self, key: str, otherwise: int) -> int:
        """A whole number."""
        return int(str(self._options.get(key, otherwise)))

    def flag(self, key: str) -> bool:
        """True or false; false by default."""
        return self._options.get(key) is True

    def path(self, key: str) -> Path | None:
        """The path of a file."""
        return Path(str(self._options[key])) if key in self._options else None

    def http(self, url: SecretStr) -> Http:
        """What channels over HTTP have in common."""
        return Http(url, float(self.number("timeout", 20)), self.path("ca"), self.flag("allow_private"))


class Http:
    """How a URL is reached."""

    def __init__(self, url: SecretStr, timeout: float, ca: Path | None, allow_private: bool) -> None:
        """``timeout`` is in seconds."""
        self._url, self._timeout, self._ca, self._allow_private = url, timeout, ca, allow_private

    def open(self) -> Poster:
        """Raises `FollowerError` for a ``ca`` that cannot be used."""
        url = self._url.get_secret_value()
        return Poster(url, patience=self._timeout, ca=self._ca, guarded=not self._allow_private)
