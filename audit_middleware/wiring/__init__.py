"""From settings to parts: the only place that knows which driver a setting means, and when things start and stop.

`parts` makes what requests need, `starter` starts and stops it with the application, and `work` records what no request
asked for.
"""

from .parts import Parts, build_parts, load_signers, open_log
from .starter import Starter
from .work import background_state, record, running_log

__all__ = [
    "Parts",
    "Starter",
    "background_state",
    "build_parts",
    "load_signers",
    "open_log",
    "record",
    "running_log",
]
