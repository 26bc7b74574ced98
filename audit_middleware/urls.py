"""URLs of databases as messages may show them: without the password, however the URL was mistyped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qs, unquote, urlsplit

UNREADABLE = (
    "the URL is not of the form postgresql://user@host:5432/database; in a user or password write every sign but "
    "letters and digits as % and two hexadecimal digits, or better use a password file"
)
"""What is said of a URL that cannot be read: nothing of it is repeated."""

_HOST = r"(?:[A-Za-z0-9._%-]*|\[[0-9A-Fa-f:.%]+\])(?::[0-9]*)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")
_URL = re.compile(r"(postgres\w*(?:\+\w+)?:/+[^\s:@]*:)\S*@", re.IGNORECASE)
_WHOLE = re.compile(r".*?postgres\w*(?:\+\w+)?:/+(.*)@", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r"((?:^|[?&\s])(?:ssl)?password=)[^\s&'\"]+", re.IGNORECASE)
_HIDDEN = "***"
_SHORTEST = 3  # characters; a shorter password is hidden where it stands in a URL


def is_plain(url: str) -> bool:
    """Whether it is read as it was meant: a password with ``/``, ``?`` or ``#`` in it ends up in other parts."""
    try:
        parts = urlsplit(url)
        parse_qs(parts.query)
    except ValueError:
        return False
    user, at, hosts = parts.netloc.rpartition("@")
    elsewhere = parts.path + parts.fragment + ("" if at else parts.query)
    return _HOSTS.fullmatch(hosts) is not None and "@" not in elsewhere and "@" not in user and not parts.fragment


def shown_url(url: str) -> str:
    """Without user, password and parameters, but with the log's name."""
    if not is_plain(url):
        return "postgresql://"
    parts = urlsplit(url)
    origin = parse_qs(parts.query).get("origin", [""])[0]
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?origin={origin}" if origin else "")


def secrets_in(texts: Iterable[str]) -> frozenset[str]:
    """The passwords of URLs that stand in texts such as a command's arguments, as written and as meant."""
    found = set[str]()
    for text in texts:
        if (whole := _WHOLE.match(text)) is not None:
            secret = whole[1].partition(":")[2]
            found |= {secret, unquote(secret)}
        for name in ("password", "sslpassword"):
            for piece in re.findall(rf"[?&]{name}=([^&]*)", text):
                found |= {piece, unquote(piece)}
    return frozenset(one for one in found if len(one) >= _SHORTEST)


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the passwords of the URLs in it, and without these secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", _URL.sub(rf"\1{_HIDDEN}@", text))
