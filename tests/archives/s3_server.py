"""Started by `serving`, in an environment of its own: LocalStack's S3 provider alone, on a free port of loopback.

``python s3_server.py PORT FOLDER``; port 0 is any. Prints the port, keeps what it stores in memory and below FOLDER,
talks to nobody, and ends when its standard input is closed: with whoever started it, however that one ends.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading

port, folder = int(sys.argv[1]), sys.argv[2]
# Read when LocalStack is imported: no reports of use, no downloads, one service, nothing outside of the folder.
os.environ.update(
    DISABLE_EVENTS="1",
    SKIP_SSL_CERT_DOWNLOAD="1",
    SERVICES="s3",
    STRICT_SERVICE_LOADING="1",
    HOME=folder,
    TMPDIR=folder,
)
tempfile.tempdir = folder


def unknown(name: str) -> str:
    """No name server is asked for LocalStack's own name, which it wants to show in answers."""
    raise OSError(f"{name} is not looked up")


socket.gethostbyname = unknown
logging.basicConfig(level=logging.ERROR)

from localstack.aws.app import LocalstackAwsGateway  # noqa: E402
from rolo.gateway.wsgi import WsgiGateway  # noqa: E402
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler  # noqa: E402


class Quiet(WSGIRequestHandler):
    """Without a line for each request."""

    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        """Says nothing."""


server = ThreadedWSGIServer("127.0.0.1", port, WsgiGateway(LocalstackAwsGateway()), handler=Quiet)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(server.port, flush=True)
server.serve_forever()
