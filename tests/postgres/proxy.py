"""A TCP proxy between a client and a real server that does harm at the one moment that matters: around a COMMIT."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

Harm = Literal["cut before", "cut after", "swallow", "hold", "delay", "cut at once", "cut in the answer"]

COMMIT = b"COMMIT\0"


class Proxy:
    """Passes everything on until `harm` is set; then the next COMMIT (or connection) suffers it, once.

    * cut before: the connection is cut when a COMMIT comes; the server never sees it.
    * cut after: the server gets the COMMIT and answers; the connection is cut instead of the answer.
    * cut in the answer: as before, but the first bytes of the answer are passed on.
    * swallow: as before, but nothing is cut: the client waits.
    * hold: the COMMIT is kept, and nothing is cut: the client waits, and so does the server, with its locks.
    * delay: the client is cut off at once, and the server gets the COMMIT a second later.
    * cut at once: the connection is cut when anything is sent.

    Attributes:
        harmed: How often it happened.
    """

    def __init__(self, port: int) -> None:
        self.harm: Harm | None = None
        self.harmed = 0
        self.refusing = False
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Cuts everything."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._open:
            _cut(one)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.refusing:
                _cut(client)
                continue
            server = socket.create_connection(self._target)
            self._open += (client, server)
            pair = _Pair(self, client, server)
            for work in (pair.upwards, pair.downwards):
                self._threads.append(threading.Thread(target=work, daemon=True))
                self._threads[-1].start()

    def take(self, *kinds: Harm) -> Harm | None:
        """The harm to do now, if it is one of these; it is done only once."""
        if self.harm is None or self.harm not in kinds:
            return None
        harm, self.harm = self.harm, None
        self.harmed += 1
        return harm


class _Pair:
    """One connection."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._answer: Harm | None = None

    def upwards(self) -> None:
        """From the client to the server."""
        with contextlib.suppress(OSError):
            while data := self._client.recv(65_536):
                if self._proxy.take("cut at once"):
                    break
                if COMMIT in data:
                    harm = self._proxy.take("cut before", "hold", "delay", "cut after", "swallow", "cut in the answer")
                    if harm == "cut before":
                        break
                    if harm == "hold":
                        return
                    if harm == "delay":
                        _cut(self._client)
                        time.sleep(1)
                    self._answer = harm
                self._server.sendall(data)
                if self._answer == "delay":
                    self._server.recv(65_536)
        _cut(self._server)
        _cut(self._client)

    def downwards(self) -> None:
        """From the server to the client."""
        with contextlib.suppress(OSError):
            while data := self._server.recv(65_536):
                if self._answer is not None and COMMIT in data:
                    if self._answer == "swallow":
                        return
                    if self._answer == "cut in the answer":
                        self._client.sendall(data[: data.index(COMMIT) + 3])
                    break
                self._client.sendall(data)
        _cut(self._client)
        if self._answer != "delay":
            _cut(self._server)


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
