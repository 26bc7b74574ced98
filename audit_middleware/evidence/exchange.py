"""One bounded HTTP exchange with another party: a witness or a time stamp authority.

The other side is not trusted. An answer is read raw and up to a limit, so that a small one cannot unpack to gigabytes;
no redirect is followed, because the URL is what was configured; time is bounded as a whole, which
also ends a server that sends its headers one byte a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..errors import AnchorUnavailable, ConfigError

if TYPE_CHECKING:
    import ssl

LARGEST = 2**17
"""Bytes of an answer; a witness's with two dozen post-quantum lines is half of that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the other side answered."""

    status: int
    content_type: str | None
    body: bytes


def check_url(url: str) -> str:
    """Returns the URL without slashes at its end. Raises `ConfigError` unless it is http or https with a host."""
    import httpx

    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f"{url[:200]!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise ConfigError(f"{url[:200]!r} is no http or https URL with a host and without a query")
    return url.rstrip("/")


@cache
def _tls() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()  # reads the system's certificates, about 20 ms: once


async def exchange(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, *, patience: float
) -> Reply:
    """Returns the answer to one request, whatever its status.

    Raises:
        AnchorUnavailable: There was none within ``patience`` seconds, or it was too large.
    """
    import httpx

    try:
        async with (
            asyncio.timeout(patience),
            httpx.AsyncClient(verify=_tls(), timeout=patience, follow_redirects=False) as client,
            client.stream(
                method, url, content=body, headers={"Accept-Encoding": "identity", **(headers or {})}
            ) as response,
        ):
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST:
                    raise AnchorUnavailable(f"{url}: the answer has more than {LARGEST} bytes")
            return Reply(response.status_code, response.headers.get("Content-Type"), bytes(content))
    except TimeoutError as error:
        raise AnchorUnavailable(f"{url}: no whole answer within {patience:g} seconds") from error
    except (httpx.HTTPError, OSError) as error:
        raise AnchorUnavailable(f"{url}: {type(error).__name__}: {error}") from error
