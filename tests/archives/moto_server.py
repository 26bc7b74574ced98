"""Started by `serving`: moto's S3, whose Object Lock does not hold, in the same way as `s3_server`.

With ``INITIAL_NO_AUTH_ACTION_COUNT`` in the environment it checks credentials after so many requests.
"""

from __future__ import annotations

import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(server.port, flush=True)
server.serve_forever()
